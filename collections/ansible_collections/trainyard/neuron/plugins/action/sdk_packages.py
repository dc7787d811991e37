# SPDX-License-Identifier: Apache-2.0
"""System packages of the SDK by Ansible's own modules: what is to be done was found before, by ``sdk_release``."""

from __future__ import annotations

from typing import Any

from ansible_collections.trainyard.neuron.plugins.module_utils.host_packages import MANAGERS, Source, Step
from ansible_collections.trainyard.neuron.plugins.plugin_utils.run_lock import Locking

SPEC: dict[str, dict[str, Any]] = {
    "manager": {"type": "str", "choices": [*MANAGERS], "required": True},
    "repository": {
        "type": "dict",
        "options": {
            "address": {"type": "str", "required": True},
            "key": {"type": "str", "default": "", "no_log": False},
            "suite": {"type": "str", "default": ""},
        },
    },
    "install": {"type": "dict", "default": {}},
    "hold": {"type": "list", "elements": "str", "default": []},
    "free": {"type": "list", "elements": "str", "default": []},
    "forget": {"type": "bool", "default": False},
}


class ActionModule(Locking):
    """Runs the modules of the host's package manager, one after the other, up to the first that fails."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what was done, or what failed."""
        variables = dict(task_vars or {})
        super().run(tmp, variables)
        _, wanted = self.validate_argument_spec(argument_spec=SPEC)
        done = {"changed": bool(lines_of(wanted)), "diff": {"before": "", "after": "".join(lines_of(wanted))}}
        if self._task.check_mode:
            return done
        kept = self.keep(variables)
        if kept.get("failed"):
            return kept
        for name, arguments in steps_of(wanted):
            step: dict[str, Any] = self._execute_module(module_name=name, module_args=arguments, task_vars=task_vars)
            if step.get("failed"):
                words = filter(None, [step.get("msg"), (step.get("stderr") or "").strip()[-500:]])
                return {**step, "msg": ": ".join(words)}
        return done


def steps_of(wanted: dict[str, Any]) -> list[Step]:
    """The modules that do what is wanted, in order."""
    manager = MANAGERS[wanted["manager"]]
    steps: list[Step] = manager.repository_steps(Source(**wanted["repository"])) if wanted["repository"] else []
    steps += manager.install_steps(wanted["install"]) if wanted["install"] else []
    steps += manager.hold_steps(wanted["hold"], wanted["free"])
    return steps + (manager.forget_steps() if wanted["forget"] else [])


def lines_of(wanted: dict[str, Any]) -> list[str]:
    """What is wanted, a line for each."""
    lines = [f"repository {wanted['repository']['address']}\n"] if wanted["repository"] else []
    lines += [f"{name} {version}\n" for name, version in wanted["install"].items()]
    lines += [f"{word} {name}\n" for word in ("hold", "free") for name in wanted[word]]
    return lines + (["forget the repository\n"] if wanted["forget"] else [])
