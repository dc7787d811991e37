# SPDX-License-Identifier: Apache-2.0
"""Controller side of ``trainyard.neuron.units``: repeats rows that have ``each``, then follows what starts."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.trainyard.neuron.plugins.plugin_utils import each
from ansible_collections.trainyard.neuron.plugins.plugin_utils.follow import FollowsUnits, wait_s


class ActionModule(FollowsUnits):
    """Expands the list of units; everything else is the module's."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Expand, call and follow; returns the module's result once all units have arrived."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        try:
            arguments["units"] = each.expand(arguments.get("units") or [])
        except ValueError as error:
            raise AnsibleActionFail(f"units: {error}") from error
        result: dict[str, Any] = self._execute_module(
            module_name="trainyard.neuron.units", module_args={**arguments, "wait_s": wait_s(0)}, task_vars=task_vars
        )
        return self.follow(result, arguments, task_vars)
