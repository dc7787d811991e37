# SPDX-License-Identifier: Apache-2.0
"""Controller side of ``trainyard.neuron.file_tree``: renders every item, then sends all of it in one module run."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.trainyard.neuron.plugins.module_utils import options
from ansible_collections.trainyard.neuron.plugins.plugin_utils import each
from ansible_collections.trainyard.neuron.plugins.plugin_utils.follow import wait_s
from ansible_collections.trainyard.neuron.plugins.plugin_utils.trees import (
    RendersTrees,
    with_installed,
    without_arguments,
)


class ActionModule(RendersTrees):
    """Renders templates, reads files, and calls the module once with the result."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Render and apply; returns the module's result."""
        variables = dict(task_vars or {})
        super().run(tmp, variables)
        _, arguments = self.validate_argument_spec(argument_spec=options.FILE_TREE_SPEC)
        payload = {"payload": self.packed(arguments, variables), **services_of(arguments)}
        payload |= {name: arguments[name] for name in ("note", "changed_paths") if arguments[name]}
        first = {"packages": arguments["packages"], "users": arguments["users"]}
        result = self._module({**payload, **first}, task_vars)
        if lacking := result.get("lacking"):
            # Units that another task is to run are not run by their packages.
            start = not arguments["note"] or bool(arguments["services"])
            refused = self._install(lacking, task_vars, start)
            if refused:
                return refused
            result = with_installed(self._module(payload, task_vars), lacking)
        result = self.follow(result, arguments["services"] or {}, task_vars)
        return without_arguments(result)

    def _module(self, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        result: dict[str, Any] = self._execute_module(
            module_name="trainyard.neuron.file_tree", module_args=arguments, task_vars=task_vars
        )
        return result


def services_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """The units of the task as an argument of the module: rows with ``each`` repeated, nothing if there are none."""
    services = arguments["services"]
    if services is None:
        return {}
    try:
        rows = each.expand(services["units"], arguments["lists"])
        return {"services": {**services, "units": rows, "wait_s": wait_s(0)}}
    except ValueError as error:
        raise AnsibleActionFail(f"services: {error}") from error
