# SPDX-License-Identifier: Apache-2.0
"""Controller side of ``trainyard.neuron.jobs``: calls the module again while units run, and says how far they are."""

from __future__ import annotations

from typing import Any

from ansible.utils.display import Display
from ansible_collections.trainyard.neuron.plugins.plugin_utils.follow import wait_s
from ansible_collections.trainyard.neuron.plugins.plugin_utils.trees import RendersTrees, without_arguments

display = Display()


class ActionModule(RendersTrees):
    """Follows the jobs of one host until all have ended."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the last module result, once no unit of the task runs any more."""
        variables = dict(task_vars or {})
        super().run(tmp, variables)
        arguments = dict(self._task.args)
        host = variables.get("inventory_hostname", "host")
        if arguments.get("state", "present") != "present":
            return self._follow(arguments, host, task_vars)
        begun = self._follow({**arguments, "state": "started"}, host, task_vars)
        if begun.get("failed") or self._task.check_mode:
            return begun
        return {
            **begun,
            **self._follow({**arguments, "state": "finished", "files": None}, host, task_vars),
            "changed": begun["changed"],
        }

    def _follow(self, arguments: dict[str, Any], host: str, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Run the module, again and again while it says that units run."""

        def call(given: dict[str, Any]) -> dict[str, Any]:
            result: dict[str, Any] = self._execute_module(
                module_name="trainyard.neuron.jobs", module_args=given, task_vars=task_vars
            )
            return without_arguments(result)

        for turn in range(10**9):
            given = {**arguments, "wait_s": wait_s(turn)}
            result = call({**given, "files": None}) if turn else self.with_files(call, given, task_vars)
            running = result.get("running") or []
            if result.get("failed") or not running:
                return result
            for entry in running:
                display.display(f"  {host}: {entry['id'][:40]}: {entry['progress']}")
        raise AssertionError("unreachable")
