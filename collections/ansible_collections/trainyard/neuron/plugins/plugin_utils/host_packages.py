# SPDX-License-Identifier: Apache-2.0
"""Distribution packages for action plugins: present at the cost of one module run where nothing is missing."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

#: What the package manager's module says where its lists lack a name, or the version that was asked for.
LISTS_LACK_IT = ("No package matching", "no available installation candidate")

#: What policy-rc.d answers where no service may be started.
FORBIDDEN = 101


def have_packages(
    action: ActionBase, names: list[str], task_vars: dict[str, Any] | None, start: bool = True
) -> dict[str, Any]:
    """Install what is missing; return the package manager's result.

    Args:
        action: the plugin of the task.
        names: the packages, each with a version if there has to be one.
        task_vars: of the task.
        start: whether a package may start its services, as Debian's do.

    The lists are fetched only where they lack a package. Their age says nothing: an image may be an hour old and have
    none at all.
    """
    wanted = {"name": names, "state": "present", "install_recommends": False}
    if not start:
        wanted["policy_rc_d"] = FORBIDDEN

    def run(**more: Any) -> dict[str, Any]:
        result: dict[str, Any] = action._execute_module(
            module_name="ansible.builtin.apt", module_args={**wanted, **more}, task_vars=task_vars
        )
        return result

    result = run()
    if not result.get("failed") or not any(words in str(result.get("msg", "")) for words in LISTS_LACK_IT):
        return result
    if action._task.check_mode:
        return {
            "changed": True,
            "msg": f"would fetch the package lists, which lack {', '.join(names)}, and install them",
        }
    return run(update_cache=True)
