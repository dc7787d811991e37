# SPDX-License-Identifier: Apache-2.0
"""Controller side of ``trainyard.neuron.topology_info``: has the first module on a host take its lock too."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible_collections.trainyard.neuron.plugins.plugin_utils import run_plan
from ansible_collections.trainyard.neuron.plugins.plugin_utils.run_lock import Locking

MODULE = "trainyard.neuron.topology_info"
KEPT = ("topology", "images")
"""What of an answer is for the planner alone."""
VERB = "trainyard_verb"
"""Variable that says what the run is going to do, where the task does not."""


class ActionModule(Locking):
    """One module run; a second one where the lock of a run that is known to be dead is taken over."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result; where the planner is to have the report, without it."""
        super().run(tmp, task_vars)
        variables, arguments = dict(task_vars or {}), dict(self._task.args)
        for_plan = boolean(arguments.pop("for_plan", False))
        # Not a template of the task's: at a thousand hosts each one is seconds of the controller's processor.
        if for_plan:
            arguments["images"] = run_plan.reports().asked()
        verb = str(arguments.pop("lock_for", variables.get(VERB)) or "")
        if not self._is_asked(variables, verb, arguments.pop("serving", None), arguments.pop("locked", None)):
            return {"changed": False, "skipped": True, "skip_reason": "nothing is asked of this host"}
        if verb and not self._task.check_mode:
            result = self.take(MODULE, arguments, verb, variables)
        else:
            result = self._execute_module(module_name=MODULE, module_args=arguments, task_vars=task_vars)
        if for_plan:
            found = {name: result.pop(name) for name in KEPT if name in result}
            if found:
                run_plan.reports().keep(
                    str(variables["inventory_hostname"]), {"changed": False, "failed": False, **found}
                )
        return result

    def _is_asked(self, variables: dict[str, Any], verb: str, serving: str | None, locked: str | None) -> bool:
        """Whether this host serves, or gives its lock alone; without groups every host is asked."""
        if serving is None:
            return True
        groups = variables.get("group_names") or []
        return serving in groups or (bool(verb) and locked in groups)
