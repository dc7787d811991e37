# SPDX-License-Identifier: Apache-2.0
"""What hooks read of a replica is one row, the one that docs/redeploy.md promises, from the plan and from a roll."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.action.roll_plan import files, identity, ordered
from ansible_collections.trainyard.neuron.plugins.plugin_utils import run_plan
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.hooks import HookReplica
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.plan import plan_roll, read_fleet
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import Settings
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.plan import fleets
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.roll.fleets import report

from trainyard.paths import ROOT

ROW = {
    "id": "a:llama-0",
    "name": "llama-0",
    "host": "a",
    "address": "10.0.0.1",
    "port": 8000,
    "url": "http://10.0.0.1:8000",
    "served_name": "meta-llama/Llama-3.3-70B-Instruct",
}


@pytest.fixture
def plan() -> dict[str, Any]:
    """The plan of two hosts with two replicas each behind a router."""
    item = fleets.deployment()
    return fleets.plan({"a": fleets.host(item), "b": fleets.host(item)}, routers=["r"])


def test_is_drained_reads_the_row_of_every_replica_of_the_plan(plan: dict[str, Any], tmp_path: Path) -> None:
    run_plan.write(plan, tmp_path / "plan")
    rows = run_plan.RunPlan(tmp_path / "plan").hook_replicas()
    assert rows[0] == ROW
    assert [row["id"] for row in rows] == ["a:llama-0", "a:llama-1", "b:llama-0", "b:llama-1"]


def test_hooks_of_a_roll_read_the_same_rows(plan: dict[str, Any]) -> None:
    answer = report()["replicas"]
    reports = {name: {f"llama-{index}": answer[f"m-{index}"] for index in range(2)} for name in ("a", "b")}
    servers = {row["id"]: {"state": "ready"} for host in plan["hosts"].values() for row in host["replicas"]}
    fleet = read_fleet(plan, reports, {"r": servers})
    arguments = {"hosts": ["a", "b"], "thresholds": {}, "golden": [], "hooks": files({}), "lead": "a"}
    roll = plan_roll(fleet, Settings(), require_staged=False)
    waves = ordered(roll, fleet, Settings(), arguments, identity("redeploy")).to_dict()["waves"]
    assert waves[0]["hook_replicas"] == [ROW]
    assert sum(len(wave["hook_replicas"]) for wave in waves) == 4


def test_the_page_promises_what_the_row_has() -> None:
    promised = re.search(r"read `roll_hook_replicas`: (.*?) of each replica", (ROOT / "docs/redeploy.md").read_text())
    assert promised
    assert re.findall(r"`(\w+)`", promised[1]) == [field.name for field in dataclasses.fields(HookReplica)]


def test_the_hooks_of_ours_read_no_other_word() -> None:
    known = {field.name for field in dataclasses.fields(HookReplica)}
    for path in sorted((ROOT / "playbooks/hooks").rglob("*.yml")):
        read = set(re.findall(r"roll_hook_replica\.(\w+)", path.read_text()))
        assert read, path
        assert read <= known, path
