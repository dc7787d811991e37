# SPDX-License-Identifier: Apache-2.0
"""Two stand-in hosts with a router each, and a third that serves nothing and balances over those."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.lab_plays import changes
from tests.roll.conftest import LabFleet, nothing_lost, own_fleet
from tests.stand_in import Lab

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("fleet-router")]

REPLICAS = {f"lab-{host}:tiny-llama-{index}" for host in (1, 2) for index in (0, 1)}
HOW = {"canary_s": 5, "soak_s": 1, "drain_deadline_s": 60, "at_once": 2, "floor": "50%"}
SETTINGS: dict[str, Any] = {"trainyard_redeploy": HOW, "trainyard_overrides": {"tiny-llama": {"data_parallel_size": 2}}}
ABOVE = {"trainyard_router_over": "routers", "trainyard_deployment_tiny_llama": None}
GROUPS = {"router": {"hosts": {"lab-1": {}, "lab-2": {}, "lab-3": ABOVE}}}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, LabFleet]]:
    with own_fleet("tiers", 3, tmp_path_factory.mktemp("rolls"), SETTINGS, groups=GROUPS) as made:
        yield made


def servers(fleet: LabFleet) -> dict[str, set[str]]:
    """What each router knows."""
    return {host: set(report["servers"] or {}) for host, report in fleet.reports().items()}


def test_each_router_knows_its_own_and_requests_reach_all(lab: Lab, fleet: LabFleet) -> None:
    known = servers(fleet)
    assert known["lab-3"] == {"lab-1", "lab-2"}
    assert known["lab-1"] | known["lab-2"] == REPLICAS
    assert all(name.startswith("lab-1:") for name in known["lab-1"])
    # Nobody but the host's own router reaches a replica.
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{lab.address('lab-1')}:8000/health", timeout=5)
    again = lab.play("site.yml", "--skip-tags", "benchmark")
    assert changes(again) == 0


def test_a_roll_behind_the_fleet_router_fails_no_request(lab: Lab, fleet: LabFleet) -> None:
    before = fleet.running()
    with fleet.load(f"http://{lab.address('lab-3')}:8080", closed=8) as account:
        run = fleet.redeploy(fleet.renewed())
    assert run.code == 0, run.text[-4000:]
    nothing_lost(account)
    after = fleet.running()
    assert after.keys() == before.keys() == REPLICAS
    assert all(after[name] != before[name] for name in REPLICAS)
    status = lab.output("playbooks/status.yml")
    assert all(name in status for name in REPLICAS), status


def test_a_host_whose_replicas_are_gone_gets_nothing_and_comes_back(lab: Lab, fleet: LabFleet) -> None:
    with fleet.load(f"http://{lab.address('lab-3')}:8080", closed=4) as account:
        for index in (0, 1):
            lab.on("lab-1", f"/usr/local/lib/trainyard/router drain lab-1:tiny-llama-{index}")
        lab.on("lab-1", "systemctl stop 'vllm@*.service'")
        lab.on("lab-1", "systemctl start vllm@tiny-llama-0.service vllm@tiny-llama-1.service")
        for index in (0, 1):
            lab.on("lab-1", f"/usr/local/lib/trainyard/router ready lab-1:tiny-llama-{index}")
    nothing_lost(account)
    seen = fleet.reports()["lab-3"]["servers"]
    assert all(row["up"] for row in seen.values()), seen
