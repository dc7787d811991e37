# SPDX-License-Identifier: Apache-2.0
"""Hosts that leave with their capacity block, under load: the watch evacuates them, and all is accounted for.

Two hosts of three leave, the first one stays. What routers and silent hosts do meanwhile is in tests/playbooks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.lab_plays import changes
from tests.roll.conftest import LabFleet, nothing_lost, own_fleet
from tests.stand_in import Lab

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("evacuation")]

LEAVING = ("lab-2", "lab-3")
STAYING = {"lab-1:tiny-llama-0", "lab-1:tiny-llama-1"}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, LabFleet]]:
    with own_fleet("evacuation", 3, tmp_path_factory.mktemp("rolls"), {}) as made:
        yield made


def ends_in(lab: Lab, minutes: float, deadline_s: float) -> None:
    """Have the two hosts' block end so soon."""
    end = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat(timespec="seconds")
    said: dict[str, dict[str, Any]] = {name: {"trainyard_capacity_block_end": end} for name in LEAVING}
    settings = {"trainyard_redeploy": {"drain_deadline_s": deadline_s}}
    (lab.folder / "beside.json").write_text(json.dumps({"all": {"hosts": said, "vars": settings}}))


def look(lab: Lab) -> str:
    return lab.trainyard("block-watch", "-i", str(lab.folder / "beside.json"), "-i", "inventory/lab")


def test_the_watch_evacuates_45_minutes_before_the_end_and_no_request_fails(
    lab: Lab, fleet: LabFleet, url: str
) -> None:
    assert len(fleet.in_rotation()) == 6
    ends_in(lab, 50, 60)
    with fleet.load(url, closed=6, longest_s=8.0) as account:
        assert ": replicas leave in " in look(lab)
        assert len(fleet.in_rotation()) == 6
        ends_in(lab, 44.5, 60)
        said = look(lab)
        assert fleet.in_rotation() == STAYING
        time.sleep(5)
    nothing_lost(account)
    for words in (
        "lab-2, lab-3 out of rotation after",
        "router lab-1: sends nothing to 4 servers; the last request has ended",
        "saved: artifacts and results of lab-2, lab-3",
        "lab-2, lab-3: evacuated",
    ):
        assert words in said
    assert "trainyard-evacuate" not in look(lab)
    again = lab.play("playbooks/evacuate.yml")
    assert changes(again) == 0
    status = lab.output("playbooks/status.yml")
    assert "Capacity block of lab-2, lab-3" in status and "evacuated at" not in status
