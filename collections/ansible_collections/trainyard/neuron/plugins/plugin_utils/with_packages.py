# SPDX-License-Identifier: Apache-2.0
"""For action plugins whose module finds out on the host that a system package is missing.

So a run that has nothing to do costs one module run, and the package manager is only asked on the first.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.trainyard.neuron.plugins.plugin_utils.host_packages import have_packages
from ansible_collections.trainyard.neuron.plugins.plugin_utils.run_lock import Fenced


class WithPackages(Fenced):
    """Runs the module of the task; where it answers `needs_packages`, installs them and runs it again."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result, or the package manager's where that failed."""
        super().run(tmp, dict(task_vars or {}))
        result = self._module(task_vars)
        packages = result.get("needs_packages")
        if not packages:
            return result
        installed = have_packages(self, packages, task_vars)
        return installed if installed.get("failed") else self._module(task_vars)

    def _module(self, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(module_name=self._task.resolved_action, task_vars=task_vars)
        return result
