# SPDX-License-Identifier: Apache-2.0
"""Fleets that tests roll: what the plan wants of them, and what their hosts and routers report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ansible_collections.trainyard.neuron.plugins.action.roll_plan import files, identity, ordered
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.orders import RollOrder
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.plan import plan_roll, read_fleet
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import Fleet, Settings


def fleet_plan(shape: Mapping[str, int]) -> dict[str, Any]:
    """The plan of hosts with so many replicas each, ``m-0`` and on, all to be of the release `new`."""

    def replica(host: str, index: int) -> dict[str, Any]:
        return {
            "id": f"{host}:m-{index}",
            "name": f"m-{index}",
            "unit": f"vllm@m-{index}.service",
            "served_name": "m",
            "deployment": "m",
            "release": "new",
            "cores": f"{index * 32}-{index * 32 + 31}",
            "url": f"http://{host}:{8000 + index}",
            "weights": "w",
        }

    return {
        "hosts": {host: {"replicas": [replica(host, index) for index in range(count)]} for host, count in shape.items()}
    }


def names(shape: Mapping[str, int]) -> list[str]:
    """Ids of the replicas."""
    return [f"{host}:m-{index}" for host, count in shape.items() for index in range(count)]


def report(count: int = 2, **more: Any) -> dict[str, Any]:
    """What a host says whose replicas all serve the release `old`, with `new` beside it."""
    row = {"active": "active", "running": "old", "current": "old", "previous": "", "staged": ["old", "new"], **more}
    return {"replicas": {f"m-{index}": dict(row) for index in range(count)}, "servers": None, "holder": None}


def planned(
    shape: Mapping[str, int],
    settings: Settings,
    routers: tuple[str, ...],
    hooks: Mapping[str, Any] | None = None,
    golden: tuple[str, ...] = (),
) -> tuple[RollOrder, Fleet]:
    """The roll of such a fleet from `old` to `new`, as the playbook has it, and the fleet that it was planned for."""
    reports = {host: report(count)["replicas"] for host, count in shape.items()}
    seats = {name: {"state": "ready"} for name in names(shape)}
    fleet = read_fleet(fleet_plan(shape), reports, dict.fromkeys(routers, seats))
    arguments = {"hosts": list(shape), "thresholds": {}, "golden": list(golden), "hooks": files(dict(hooks or {}))}
    arguments["lead"] = arguments["hosts"][0]
    run = identity("redeploy")
    order = ordered(plan_roll(fleet, settings), fleet, settings, arguments, run)
    # As a step has it: what was planned has travelled as JSON.
    return RollOrder.from_dict(json.loads(json.dumps(order.to_dict()))), fleet
