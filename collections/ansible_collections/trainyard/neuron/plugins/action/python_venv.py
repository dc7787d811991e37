# SPDX-License-Identifier: Apache-2.0
"""Controller side of ``trainyard.neuron.python_venv``: brings the system package that it needs."""

from __future__ import annotations

from typing import Any

from ansible_collections.trainyard.neuron.plugins.plugin_utils.trees import RendersTrees, without_arguments
from ansible_collections.trainyard.neuron.plugins.plugin_utils.with_packages import WithPackages


class ActionModule(WithPackages, RendersTrees):
    """One module run where nothing is to be done; a package and a second run where Python lacks `venv`."""

    def _module(self, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        def call(arguments: dict[str, Any]) -> dict[str, Any]:
            result: dict[str, Any] = self._execute_module(
                module_name=self._task.resolved_action, module_args=arguments, task_vars=task_vars
            )
            return without_arguments(result)

        return self.with_files(call, dict(self._task.args), task_vars)
