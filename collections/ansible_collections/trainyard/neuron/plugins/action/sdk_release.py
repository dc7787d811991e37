# SPDX-License-Identifier: Apache-2.0
"""Controller side of ``trainyard.neuron.sdk_release``: installs and holds what its module asks for."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

KEYRING_NAME = "trainyard-neuron"


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """One module run on a host that is as its release wants it; else packages, and a second look."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Compare, install where told to, compare again; returns the module's result."""
        super().run(tmp, dict(task_vars or {}))
        result = self._sdk(task_vars)
        if result.get("failed") or not result.get("install"):
            return result
        for name, arguments in self._steps(result["install"], result["hold"]):
            step: dict[str, Any] = self._execute_module(module_name=name, module_args=arguments, task_vars=task_vars)
            if step.get("failed"):
                return step
        return {**self._sdk(task_vars), "changed": True, "diff": result["diff"]}

    def _steps(self, install: list[str], hold: list[str]) -> list[tuple[str, dict[str, Any]]]:
        arguments = self._task.args
        repository = {
            "name": KEYRING_NAME,
            "types": ["deb"],
            "uris": [arguments["apt_source"]],
            "suites": [arguments["apt_suite"]],
            "components": ["main"],
            "signed_by": arguments.get("apt_key"),
        }
        # What the repository's module imports. It can install that itself only from ansible-core 2.21 on.
        tools = {"name": ["python3-debian"], "state": "present", "update_cache": True, "cache_valid_time": 3600}
        # Exact versions, up or down: driver and runtime of different releases do not work together.
        apt = {
            "name": install,
            "state": "present",
            "update_cache": True,
            "allow_downgrade": True,
            "allow_change_held_packages": True,
        }
        return [
            ("ansible.builtin.apt", {**tools, "install_recommends": False}),
            ("ansible.builtin.deb822_repository", repository),
            ("ansible.builtin.apt", apt),
            *(("ansible.builtin.dpkg_selections", {"name": name, "selection": "hold"}) for name in hold),
        ]

    def _sdk(self, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(module_name="trainyard.neuron.sdk_release", task_vars=task_vars)
        return result
