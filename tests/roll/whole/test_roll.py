# SPDX-License-Identifier: Apache-2.0
"""Whole rolls of a healthy fleet under load: new settings, then back, and every request accounted for."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.roll.conftest import LabFleet, RotationWatch

pytestmark = pytest.mark.lab

ONE_AT_A_TIME = {"at_once": 1, "floor": "auto", "canary_s": 20, "soak_s": 2, "drain_deadline_s": 120}


AT_LEAST = int(os.environ.get("TRAINYARD_ROLL_REQUESTS", "5000"))


def test_new_settings_a_new_revision_and_back_lose_nothing_and_keep_all_but_one_in_rotation(
    fleet: LabFleet, router_url: str
) -> None:
    before = fleet.running()
    settings = fleet.renewed()["trainyard_overrides"]["tiny-llama"]["environment"]
    changed = {**fleet.shaped(environment=settings), "trainyard_redeploy": ONE_AT_A_TIME}
    revised = {
        **fleet.shaped(environment=settings, model=fleet.retrained()),
        "trainyard_redeploy": ONE_AT_A_TIME,
    }
    watch = RotationWatch(router_url.replace(":8080", ":8405/metrics"), len(before))
    rolls, between = [], {}
    # Two thirds of the slots that all but one have: a queue would be the load's doing, not the roll's.
    with fleet.load(router_url, closed=len(before) * 7 // 4, rate=len(before) / 5, longest_s=20.0) as account:
        watch.start()
        began = time.time()
        rolls.append(fleet.redeploy(changed))
        between = fleet.running()
        rolls.append(fleet.run("redeploy", revised))
        rolls.append(fleet.run("rollback", revised))
        after = fleet.running()
        while watch.requests < AT_LEAST and not any(run.code for run in rolls):
            # Too few requests for what is claimed below: another roll, under the same load.
            rolls.append(fleet.redeploy({**fleet.renewed(), "trainyard_redeploy": ONE_AT_A_TIME}))
        watch.over.set()
    watch.join()
    account.pop("requests")
    record = {
        "provenance": "simulated",
        "replicas": len(before),
        "rolls": [round(run.seconds, 1) for run in rolls],
        "seconds": round(time.time() - began, 1),
        "fewest_in_rotation": watch.fewest,
        "looks": watch.looks,
        "load": account,
    }
    if os.environ.get("TRAINYARD_ROLL_RESULT"):
        Path(os.environ["TRAINYARD_ROLL_RESULT"]).write_text(json.dumps(record, indent=2) + "\n")
    assert not any(run.code for run in rolls), "\n".join(run.text[-3000:] for run in rolls if run.code)
    assert account["sent"] == account["ok"], account
    assert account["sent"] >= AT_LEAST
    # Half the streams are to last longer than 3 s: engines that lost their pace would prove less than is said.
    assert account["duration_s"]["p50"] > 2.0
    assert account["duration_s"]["max"] > 15.0
    assert watch.looks > 20, "nobody looked at the rotation"
    assert watch.fewest >= len(before) - 1
    assert all(between[name] != before[name] for name in before), "new settings"
    assert after == between, "back is back, from another revision"


def test_a_key_comes_and_goes_in_a_roll_and_is_exchanged_in_two(fleet: LabFleet, router_url: str) -> None:
    how = {"trainyard_redeploy": {**fleet.settings["trainyard_redeploy"], "canary_s": 5}}
    # Whatever was rolled before, what comes back in the end is this.
    assert fleet.redeploy(how).code == 0
    before = fleet.running()

    def keys(replicas: str, router: str) -> dict[str, Any]:
        return {**how, "vllm_endpoint_api_key": replicas, "load_balancer_upstream_key": router}

    asked = "curl -s -o /dev/null -w '%{http_code}' http://$(hostname -i | cut -d' ' -f1):8000/v1/models"
    with fleet.load(router_url) as account:
        added = fleet.redeploy(keys("sk-one", "sk-one"))
        with_a_key = fleet.on("lab-2", asked)
        exchanged = fleet.redeploy(keys("sk-two", "sk-two"))
        removed = fleet.redeploy(keys("", "sk-one"))
    assert added.code == 0, added.text[-3000:]
    assert with_a_key.rstrip().endswith("401")
    assert "golden completions agree for 100%" in added.text
    assert exchanged.code != 0
    assert "Take two rolls" in exchanged.text
    assert removed.code == 0, removed.text[-3000:]
    assert fleet.running() == before
    assert account["sent"] == account["ok"] > 20, account


def test_the_second_run_and_a_change_of_the_router_roll_nothing(fleet: LabFleet) -> None:
    changes = {**fleet.renewed()}
    assert fleet.redeploy(changes).code == 0
    before = fleet.reports()
    more: dict[str, Any] = {**changes, "load_balancer_token_timeout_s": 601}
    again = fleet.redeploy(more)
    assert again.code == 0
    assert "Nothing to roll" in again.text
    started = {name: row["load_s"] for name, row in before["lab-1"]["replicas"].items()}
    assert {name: row["load_s"] for name, row in fleet.reports()["lab-1"]["replicas"].items()} == started


def test_a_dry_run_prints_the_plan_and_its_time_and_touches_nothing(fleet: LabFleet) -> None:
    before = fleet.running()
    run = fleet.run("redeploy", fleet.renewed(), "--skip-tags=provision,compile", "--check")
    assert run.code == 0, run.text[-3000:]
    assert f"Roll of {len(before)} replicas" in run.text
    assert "wave 1 (canary)  lab-1:tiny-llama-0" in run.text
    assert "stay in rotation" in run.text
    assert fleet.running() == before
