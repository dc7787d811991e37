# SPDX-License-Identifier: Apache-2.0
"""Distribution packages, from the lists as they are where those have them."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.trainyard.neuron.plugins.plugin_utils.host_packages import have_packages


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Calls the package manager once where nothing is missing."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the package manager's result."""
        super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(
            argument_spec={"name": {"type": "list", "elements": "str", "required": True}}
        )
        return have_packages(self, arguments["name"], task_vars)
