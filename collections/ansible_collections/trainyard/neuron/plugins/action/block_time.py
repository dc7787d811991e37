# SPDX-License-Identifier: Apache-2.0
"""Refuses work that hosts' capacity blocks leave no time for; the documentation is the module's of the same name."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity import block_end
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.offers import iso
from ansible_collections.trainyard.neuron.plugins.plugin_utils import block_times


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Reads the hosts' variables and the clock; nothing runs on any host."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return how long work may take, or fail with the reason."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "what": {"type": "str", "required": True},
                "takes_s": {"type": "float", "default": 0.0},
                "hosts": {"type": "list", "elements": "str", "default": []},
            }
        )
        hosts = list(dict.fromkeys(arguments["hosts"])) or [variables["inventory_hostname"]]
        try:
            end = block_times.first_end(variables["hostvars"], hosts)
        except block_times.EndError as error:
            return {"failed": True, "changed": False, "msg": str(error)}
        if end is None:
            return {"changed": False, "left_s": None, "end": ""}
        now = block_times.now_utc()
        left_s = block_end.time_for_work_s(now, end)
        late = block_end.too_late(arguments["what"], max(arguments["takes_s"], 1.0), now, end)
        found = {"changed": False, "left_s": round(left_s, 1), "end": iso(end)}
        return {**found, "failed": True, "msg": late} if late else found
