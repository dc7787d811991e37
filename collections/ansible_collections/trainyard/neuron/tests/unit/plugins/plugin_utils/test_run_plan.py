# SPDX-License-Identifier: Apache-2.0
"""The plan of a run in parts: what is read is what was planned, whatever the hosts are called."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.run_plan import Reports, RunPlan, RunPlanError, write
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.plan.fleets import deployment, host
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.plan.fleets import plan as planned_fleet

NAMES = ["trn2-a", "../../etc/passwd", "n" * 300]


def planned(names: list[str], routers: list[str], clients: list[str] = []) -> dict[str, Any]:  # noqa: B006
    # The planner lets no name pass that a path does not take; what keeps a plan does not count on it.
    safe = {name: name if len(name) < 20 and "/" not in name else f"odd-{index}" for index, name in enumerate(names)}
    hosts = {safe[name]: host(deployment(benchmark={"load_hosts": max(1, len(clients))})) for name in names}
    text = json.dumps(planned_fleet(hosts, routers=routers, clients=clients))
    for name, word in safe.items():
        text = text.replace(word, name)
    return dict(json.loads(text))


def kept(tmp_path: Path, plan: dict[str, Any]) -> RunPlan:
    write(plan, tmp_path / "plan")
    return RunPlan(tmp_path / "plan")


def test_the_parts_are_the_plan(tmp_path: Path) -> None:
    plan = planned(NAMES, ["gateway"], ["load-1", "load-2"])
    parts = kept(tmp_path, plan)
    assert parts.hosts() == plan["hosts"]
    assert {name: parts.host(name) for name in NAMES} == plan["hosts"]
    assert parts.router("gateway") == {
        "port": plan["router"]["port"],
        "models": plan["router"]["models"],
        "access": plan["router"]["access"]["gateway"],
    }
    assert parts.benchmarks("load-1") == parts.benchmarks("load-2") == plan["benchmarks"]
    assert parts.benchmarks("gateway") == []
    assert [replica["id"] for replica in parts.hook_replicas()] == [
        replica["id"] for row in plan["hosts"].values() for replica in row["replicas"]
    ]


def test_a_host_named_as_a_path_is_kept_where_the_others_are(tmp_path: Path) -> None:
    kept(tmp_path, planned(NAMES, []))
    assert [path.name for path in tmp_path.iterdir()] == ["plan"]
    assert len(list((tmp_path / "plan" / "hosts").iterdir())) == len(NAMES)


def test_routers_on_the_hosts_read_their_own_servers(tmp_path: Path) -> None:
    plan = planned(["a", "b"], ["a", "b"])
    plan["router"]["own"] = {
        "a": {"port": 8080, "models": [{"name": "a", "servers": []}]},
        "b": {"port": 8080, "models": [{"name": "b", "servers": []}]},
    }
    parts = kept(tmp_path, plan)
    assert parts.router("a") == {
        "port": 8080,
        "models": [{"name": "a", "servers": []}],
        "access": plan["router"]["access"]["a"],
    }
    with pytest.raises(RunPlanError, match="no router c"):
        parts.router("c")
    assert parts.fleet()["router"]["own"] == ["a", "b"]
    assert "models" not in parts.fleet()["router"]


def test_a_part_does_not_grow_with_the_fleet(tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    for folder, names in ((one, ["trn2-00"]), (many, [f"trn2-{number:02}" for number in range(20)])):
        write(planned(names, ["trn2-00"]), folder)
    assert len(json.dumps(RunPlan(one).host("trn2-00"))) == len(json.dumps(RunPlan(many).host("trn2-00")))


def test_a_later_plan_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    kept(tmp_path, planned(["a", "b"], []))
    parts = kept(tmp_path, planned(["a"], []))
    with pytest.raises(RunPlanError, match="no host b: it has a"):
        parts.host("b")
    assert [path.name for path in tmp_path.iterdir()] == ["plan"]


def test_reports_are_kept_for_the_planner_of_this_run_and_nobody_else(tmp_path: Path) -> None:
    reports = Reports(tmp_path / "reports")
    assert reports.read(["a"]) == {}
    reports.keep("a", {"devices": [0]})
    reports.keep("a", {"devices": [1]})
    reports.keep("../b", {"devices": [2]})
    assert reports.read(["a", "../b", "c"]) == {"a": {"devices": [1]}, "../b": {"devices": [2]}}
    assert [path.name for path in tmp_path.iterdir()] == ["reports"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in reports.folder.iterdir()} == {0o600}
    assert stat.S_IMODE(reports.folder.stat().st_mode) == 0o700
    assert reports.asked() == []
    reports.ask(["registry/name:tag"])
    assert reports.asked() == ["registry/name:tag"]
    reports.forget()
    assert (reports.read(["a"]), reports.asked()) == ({}, [])
