# SPDX-License-Identifier: Apache-2.0
"""Judges what hosts were seen to do, on the controller; the documentation is the module's of the same name."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.trainyard.neuron.plugins.module_utils.acceptance import STAGES
from ansible_collections.trainyard.neuron.plugins.module_utils.acceptance_trials import TRIED
from ansible_collections.trainyard.neuron.plugins.plugin_utils import acceptance

ARGUMENTS: dict[str, Any] = {
    "hosts": {"type": "list", "elements": "str", "required": True},
    "stages": {"type": "list", "elements": "str", "choices": [*STAGES, *TRIED], "required": True},
    "seen": {"type": "str", "default": "trainyard_seen"},
    "tried": {"type": "str", "default": "trainyard_tried"},
    "hash_names": {"type": "bool", "default": False},
    "directory": {"type": "path", "required": True},
}


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Reads what tasks registered, and writes one report."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what differs; nothing is written in check mode."""
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(ARGUMENTS)
        variables = (task_vars or {})["hostvars"]
        answers: dict[str, dict[str, Any]] = {}
        types: dict[str, str] = {}
        for host in args["hosts"]:
            evidence = (variables[host].get(args["seen"]) or {}).get("evidence")
            trials = (variables[host].get(args["tried"]) or {}).get("trials")
            types[host] = str(variables[host].get("trainyard_instance_type") or "")
            if isinstance(evidence, dict):
                answers[host] = {"evidence": {**evidence, "trials": trials}}
        salt = secrets.token_hex(8) if args["hash_names"] else ""
        report = acceptance.report_of(answers, args["hosts"], args["stages"], types, salt)
        folder = Path(args["directory"])
        if not self._task.check_mode:
            try:
                acceptance.write(report, folder)
            except OSError as error:
                raise AnsibleActionFail(f"{folder} cannot be written: {error}") from error
        counts = {name: report[name] for name in ("passed", "differs", "not_judged")}
        return {
            "changed": False,
            **counts,
            "sound": acceptance.sound(report),
            "msg": acceptance.said(report, folder),
        }
