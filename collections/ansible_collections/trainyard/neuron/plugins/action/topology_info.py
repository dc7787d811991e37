# SPDX-License-Identifier: Apache-2.0
"""Controller side of ``trainyard.neuron.topology_info``: has the first module on a host take its lock too."""

from __future__ import annotations

from typing import Any

from ansible_collections.trainyard.neuron.plugins.plugin_utils.run_lock import Locking

MODULE = "trainyard.neuron.topology_info"


class ActionModule(Locking):
    """One module run; a second one where the lock of a run that is known to be dead is taken over."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        verb = str(arguments.pop("lock_for", "") or "")
        if verb and not self._task.check_mode:
            return self.take(MODULE, arguments, verb, dict(task_vars or {}))
        result: dict[str, Any] = self._execute_module(module_name=MODULE, module_args=arguments, task_vars=task_vars)
        return result
