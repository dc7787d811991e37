# SPDX-License-Identifier: Apache-2.0
"""The planner as an action: reads the inventory's variables on the controller and keeps the plan for this run."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
from ansible_collections.trainyard.neuron.plugins.plugin_utils import block_times, run_plan
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan import pinned_images
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.inventory import default_model_configs, fleet_input
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.parts import plain_of
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import FleetPlan, plan_fleet
from ansible_collections.trainyard.neuron.plugins.plugin_utils.preflight.hearing import (
    AS_FAR,
    Heard,
    PreflightError,
    heard,
)


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Plan all hosts at once; nothing runs on any of them."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Write the plan for the readers of its parts, or return every problem of it."""
        super().run(tmp, task_vars)
        _result, arguments = self.validate_argument_spec(
            argument_spec={
                "hosts": {"type": "list", "elements": "str", "required": True},
                "routers": {"type": "list", "elements": "str", "default": []},
                "clients": {"type": "list", "elements": "str", "default": []},
                "monitors": {"type": "list", "elements": "str", "default": []},
                "model_configs": {"type": "path", "default": ""},
                "publish": {"type": "bool", "default": True},
                "keep_images": {"type": "bool", "default": False},
                "verb": {"type": "str", "default": ""},
                "working": {"type": "list", "elements": "str", "default": []},
                "asked": {"type": "list", "elements": "str"},
                "results_dir": {"type": "path", "default": ""},
            }
        )
        reports = run_plan.reports()
        if not arguments["publish"]:
            # A plan from the inventory alone; what hosts said before is asked again.
            reports.forget()
        variables = task_vars or {}
        groups = ("hosts", "routers", "clients", "monitors")
        everybody = list(dict.fromkeys(name for group in groups for name in arguments[group]))
        said = reports.read(everybody)
        answers = Heard([], [])
        if arguments["asked"] is not None:
            far = boolean(self._templar.template(variables.get(AS_FAR, False)))
            answers = heard(said, everybody, arguments["asked"], far, arguments["results_dir"])
        try:
            collected = fleet_input(
                variables["hostvars"],
                arguments["hosts"],
                arguments["routers"],
                arguments["model_configs"] or default_model_configs(),
                arguments["clients"],
                said,
                arguments["monitors"],
            )
            planned = plan_fleet(collected)
            self._look_at_the_clock(collected["hosts"], arguments)
            releases = {"hosts": {name: {"sdk": plain_of(part.sdk)} for name, part in planned.hosts.items()}}
            if answers.problems:
                raise PlanError([])
            if arguments["keep_images"] and not self._task.check_mode:
                for file, images in collected["new_images"].items():
                    pinned_images.add(file, pinned_images.used(releases, images))
        except PlanError as error:
            problems = [*answers.problems, *error.problems]
            told = PlanError(problems) if arguments["asked"] is None else PreflightError(problems)
            return {
                "failed": True,
                "changed": False,
                "msg": str(told),
                "problems": [problem.to_dict() for problem in problems],
                "warnings": answers.warnings,
            }
        unpinned = pinned_images.missing(releases)
        result = {
            "changed": False,
            "unpinned_images": unpinned,
            "warnings": [_sentence(warning.to_dict()) for warning in planned.warnings] + answers.warnings,
        }
        if not arguments["publish"]:
            reports.ask(unpinned)
        run_plan.write(planned.to_dict(), (run_plan.current() if arguments["publish"] else run_plan.before()).folder)
        return {**result, **_size(planned)}

    def _look_at_the_clock(self, hosts: dict[str, Any], arguments: dict[str, Any]) -> None:
        """Say once in a run how long the hosts stay, and refuse one that has no time; nothing of hosts of no block.

        Raises:
            PlanError: hosts that the run works on are about to leave.
        """
        if arguments["publish"]:
            return
        blocks, now = block_times.blocks_of(hosts, sorted(hosts)), block_times.now_utc()
        problems = block_times.too_late(blocks, arguments["verb"], arguments["working"], now)
        if problems:
            raise PlanError(problems)
        for block in blocks if arguments["verb"] else ():
            self._display.display(block.line(now))


def _size(plan: FleetPlan) -> dict[str, int]:
    """Return how much there is: what a result says is copied for every host of the play, so not the plan itself."""
    return {"hosts": len(plan.hosts), "replicas": sum(len(host.replicas) for host in plan.hosts.values())}


def _sentence(warning: dict[str, Any]) -> str:
    return "%(host)s: %(variable)s: %(rule)s. Fix: %(fix)s" % warning
