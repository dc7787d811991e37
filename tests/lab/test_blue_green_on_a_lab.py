# SPDX-License-Identifier: Apache-2.0
"""Rolls of a stand-in host that has a spare slice, under load: one more replica serves meanwhile, and none is missed.

Two replicas of 16 cores leave room for a third. One lab goes through its life in the order of the tests.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab_plays import changes
from tests.roll.conftest import LabFleet, RotationWatch, nothing_lost, own_fleet
from tests.stand_in import Lab

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("blue-green")]

HOW = {"strategy": "blue_green", "canary_s": 20, "soak_s": 1, "drain_deadline_s": 60}
SHAPE = {"tensor_parallel_size": 16, "data_parallel_size": 2}
SETTINGS: dict[str, Any] = {"trainyard_redeploy": HOW, "trainyard_overrides": {"tiny-llama": SHAPE}}
REPLICAS = {"lab-1:tiny-llama-0", "lab-1:tiny-llama-1"}
SPARE = "lab-1:tiny-llama-spare"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, LabFleet]]:
    with own_fleet("blue-green", 1, tmp_path_factory.mktemp("rolls"), SETTINGS) as made:
        yield made


def serving(fleet: LabFleet) -> dict[str, str]:
    """Releases of what runs; the spare is not among it, holds no cores, and its router has it in maintenance."""
    (report,) = fleet.reports().values()
    assert report["servers"][SPARE]["state"] == "maint"
    spare = report["replicas"]["tiny-llama-spare"]
    assert (spare["active"], spare["running"], spare["current"]) == ("inactive", "", "")
    return {name: running for name, running in fleet.running().items() if name != SPARE}


def test_the_spare_stands_in_and_goes_and_no_replica_is_ever_missed(lab: Lab, fleet: LabFleet, url: str) -> None:
    before = serving(fleet)
    assert before.keys() == fleet.in_rotation() == REPLICAS
    change = fleet.renewed()
    dry = fleet.run("redeploy", change, "--check", "--skip-tags=provision,compile")
    assert f"{SPARE}  nothing -> " in dry.text, dry.text[-3000:]
    watch = RotationWatch(url.replace(":8080", ":8405/metrics"), len(before))
    with fleet.load(url, closed=6) as account:
        watch.start()
        run = fleet.redeploy(change)
        watch.over.set()
    watch.join()
    assert run.code == 0, run.text[-4000:]
    assert run.text.index(f"in rotation: {SPARE}") < run.text.index("drained: lab-1:tiny-llama-0")
    nothing_lost(account)
    assert watch.looks > 20
    assert watch.fewest == len(before)
    after = serving(fleet)
    assert fleet.in_rotation() == REPLICAS
    assert all(after[name] != before[name] for name in REPLICAS)
    again = fleet.redeploy(change)
    assert "Nothing to roll: 2 replicas" in again.text
    assert " changed=0 " in again.text, again.text[-3000:]
    everything = json.dumps({**SETTINGS, **change})
    assert changes(lab.play("site.yml", "--skip-tags", "benchmark", "--extra-vars", everything)) == 0


def test_a_release_that_is_no_good_takes_nobodys_place(fleet: LabFleet, url: str) -> None:
    before = serving(fleet)
    fleet.fault("lab-1", "wrong-tokens", "--replica", "tiny-llama-spare")
    try:
        with fleet.load(url) as account:
            run = fleet.redeploy(fleet.renewed())
    finally:
        fleet.fault("lab-1", "clear")
    assert run.code != 0
    assert f"{SPARE} is worse than its peers: golden completions agree for" in run.text, run.text[-4000:]
    nothing_lost(account)
    report = fleet.reports()["lab-1"]
    assert report["replicas"]["tiny-llama-spare"]["active"] == "inactive"
    assert {name: fleet.running()[name] for name in REPLICAS} == before
    assert fleet.in_rotation() == REPLICAS


@pytest.mark.parametrize("at", ["in rotation: lab-1:tiny-llama-spare", "drained: lab-1:tiny-llama-1"])
def test_a_controller_that_dies_is_followed_by_one_that_goes_on_with_the_spare(
    fleet: LabFleet, url: str, at: str
) -> None:
    before = {name: fleet.running()[name] for name in REPLICAS}
    change = fleet.renewed()
    with fleet.load(url) as account:
        process, _ = fleet.started(change, at)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        run = fleet.redeploy(change)
    assert run.code == 0, run.text[-4000:]
    nothing_lost(account)
    after = serving(fleet)
    assert all(after[name] != before[name] for name in REPLICAS)
    assert fleet.in_rotation() == REPLICAS


def test_the_way_back_goes_the_same_way(fleet: LabFleet, url: str) -> None:
    first = serving(fleet)
    change = fleet.renewed()
    assert fleet.redeploy(change).code == 0
    with fleet.load(url) as account:
        run = fleet.run("rollback", change)
    assert run.code == 0, run.text[-4000:]
    assert f"in rotation: {SPARE}" in run.text
    nothing_lost(account)
    assert serving(fleet) == first
    assert fleet.in_rotation() == REPLICAS


def test_a_single_replica_is_rolled_while_it_is_not_missed(lab: Lab, fleet: LabFleet, url: str) -> None:
    alone = {"trainyard_overrides": {"tiny-llama": {**SHAPE, "data_parallel_size": 1}}}
    lab.play("site.yml", "--skip-tags", "benchmark", "--extra-vars", json.dumps({**SETTINGS, **alone}))
    shape = {**alone["trainyard_overrides"]["tiny-llama"], "environment": {"ROLL_TEST": "alone"}}
    change = {"trainyard_overrides": {"tiny-llama": shape}}
    refused = fleet.redeploy({**change, "trainyard_redeploy": {**HOW, "strategy": "auto"}})
    assert refused.code != 0
    assert "nobody knows whether the memory of lab-1" in refused.text, refused.text[-3000:]
    with fleet.load(url, closed=3, rate=0.3) as account:
        run = fleet.redeploy(change)
    assert run.code == 0, run.text[-4000:]
    nothing_lost(account)
    assert fleet.in_rotation() == {"lab-1:tiny-llama-0"}
