# SPDX-License-Identifier: Apache-2.0
"""Hands a service from hosts of one capacity block to those of the next; the documentation is the module's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible_collections.trainyard.neuron.plugins.action.roll_plan import elsewhere, files, named, reported, wanted
from ansible_collections.trainyard.neuron.plugins.action.roll_step import ADMIT_TIMEOUT_S
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.settings import GOLDEN
from ansible_collections.trainyard.neuron.plugins.module_utils.routing.haproxy import FULL_WEIGHT
from ansible_collections.trainyard.neuron.plugins.plugin_utils import block_times, run_lock, run_plan
from ansible_collections.trainyard.neuron.plugins.plugin_utils.hand_over import (
    HandOver,
    below_floor,
    hand_over_of,
    judged,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.canary import Thresholds
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.plan import read_fleet
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import Fleet, RollError, Settings

#: What the answers of the hosts to `watched` are registered as.
WATCHED = "trainyard_watched"


class ActionModule(run_lock.Fenced):
    """Plans and judges on the controller; admits, watches and withdraws on the hosts."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Do one part of a hand-over."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        parts: dict[str, Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]] = {
            "planned": self._planned,
            "admitted": self._admitted,
            "watched": self._watched,
            "judged": self._judged,
            "full": self._full,
            "withdrawn": self._withdrawn,
            "settled": self._settled,
        }
        _, arguments = self.validate_argument_spec(
            argument_spec={
                "state": {"type": "str", "choices": list(parts), "required": True},
                "hosts": {"type": "list", "elements": "str", "default": []},
                "routers": {"type": "list", "elements": "str", "default": []},
                "reports": {"type": "str", "default": "trainyard_replicas"},
                "only": {"type": "list", "elements": "str", "default": []},
                "settings": {"type": "dict", "default": {}},
                "thresholds": {"type": "dict", "default": {}},
                "golden": {"type": "list", "elements": "str", "default": list(GOLDEN)},
                "hooks": {"type": "dict", "default": {}},
                "drained_elsewhere": {"type": "raw", "default": []},
                "hand_over": {"type": "dict", "default": {}},
            }
        )
        try:
            return parts[arguments["state"]](arguments, variables)
        except (RollError, block_times.EndError, run_plan.RunPlanError) as error:
            return {"failed": True, "changed": False, "msg": str(error)}

    def _planned(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Say who leaves and who takes over, or why nobody can."""
        settings = Settings.from_dict(arguments["settings"])
        Thresholds.from_dict(arguments["thresholds"])
        blocks = block_times.blocks_of(variables["hostvars"], arguments["hosts"])
        order = hand_over_of(fleet_of(arguments, variables), blocks, arguments["only"], settings)
        now = block_times.now_utc()
        told = [block.line(now) for block in blocks]
        kept = ", ".join(f"{model} at {count} replicas" for model, count in order.floor.items())
        told.append(
            f"{block_times.named(order.leaving)} leave, {block_times.named(order.taking)} take over with "
            f"{len(order.new)} new replicas; {kept} throughout."
        )
        for line in told:
            self._display.display(line)
        return {"changed": False, "msg": told, "canary_s": settings.canary_s, **order.to_dict()}

    def _admitted(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Have this router send the new replicas their share as canaries."""
        return self._steer(arguments, variables, "ready", HandOver.from_dict(arguments["hand_over"]).weights)

    def _full(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Have this router send them as much as any other."""
        weights = dict.fromkeys(HandOver.from_dict(arguments["hand_over"]).new, FULL_WEIGHT)
        return self._steer(arguments, variables, "ready", weights)

    def _withdrawn(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Have this router send them nothing any more; the hosts that were to leave serve on."""
        return self._steer(arguments, variables, "drain", {})

    def _steer(self, arguments: dict[str, Any], variables: dict[str, Any], state: str, weights: Any) -> dict[str, Any]:
        new = set(HandOver.from_dict(arguments["hand_over"]).new)
        models = run_plan.current().router(variables["inventory_hostname"])["models"]
        rows = dict.fromkeys(server["id"] for model in models for server in model["servers"])
        servers = [name for name in rows if name in new]
        if not servers:
            return {"changed": False, "skipped": True}
        given = {"state": state, "servers": servers, "timeout_s": ADMIT_TIMEOUT_S}
        given["weights"] = {name: weights[name] for name in servers if name in weights}
        return self._ask("router_server", given, variables)

    def _watched(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Count for a while what this host's replicas and router do."""
        here, settings = variables["inventory_hostname"], Settings.from_dict(arguments["settings"])
        plan = run_plan.current()
        mine = plan.host(here)["replicas"] if here in plan.fleet()["hosts"] else []
        rows = [{name: row[name] for name in ("id", "url", "served_name")} for row in mine]
        given = {"replicas": rows, "seconds": settings.canary_s, "golden": arguments["golden"]}
        return self._ask("roll_watch", given, variables)

    def _ask(self, name: str, given: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self._execute_module(
                module_name=f"trainyard.neuron.{name}", module_args=given, task_vars=variables
            )
        except AnsibleConnectionFailure as error:
            return {"failed": True, "unreachable": True, "msg": str(error)}
        return found

    def _judged(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Say whether the new replicas are worse than those that served before."""
        order, hostvars = HandOver.from_dict(arguments["hand_over"]), variables["hostvars"]
        names = [*arguments["hosts"], *arguments["routers"]]
        answers = {name: hostvars[name].get(WATCHED) for name in names}
        thresholds = Thresholds.from_dict(arguments["thresholds"])
        found = judged(order, fleet_of(arguments, variables), answers, arguments["routers"], thresholds)
        for name, verdict in found.items():
            for line in (*verdict.seen, *verdict.notes):
                self._display.display(f"  {name}: {line}")
        worse = [f"{name} is worse than its peers: {why}" for name, verdict in found.items() for why in verdict.worse]
        if worse:
            stay = (
                f"They leave rotation again, and {block_times.named(order.leaving)} serve on (playbooks/evacuate.yml)."
            )
            raise RollError([*worse, stay])
        return {"changed": False, "msg": [f"{name}: no worse than its peers" for name in found]}

    def _settled(self, arguments: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        """Fail where the hosts that leave are needed still."""
        order = HandOver.from_dict(arguments["hand_over"])
        problems = [] if self._task.check_mode else below_floor(order, fleet_of(arguments, variables))
        if problems:
            raise RollError(problems)
        return {"changed": False}


def fleet_of(arguments: dict[str, Any], variables: dict[str, Any]) -> Fleet:
    """The plan's replicas, and what hosts and routers last said of them."""
    hostvars, register = variables["hostvars"], arguments["reports"]
    reports = {name: reported(hostvars, name, register) for name in arguments["hosts"]}
    routers = {name: reported(hostvars, name, register) for name in arguments["routers"]}
    return read_fleet(
        wanted({"hosts": run_plan.current().hosts(reports)}, reports, "redeploy"),
        {name: None if answer is None else answer["replicas"] for name, answer in reports.items()},
        {name: None if answer is None else answer["servers"] for name, answer in routers.items()},
        elsewhere(files(arguments["hooks"]), named(arguments["drained_elsewhere"]), reports),
    )
