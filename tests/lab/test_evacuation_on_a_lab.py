# SPDX-License-Identifier: Apache-2.0
"""Hosts that leave with their capacity block, under load: the watch evacuates them, and all is accounted for.

One lab of three hosts goes through its life in the order of the tests: two hosts leave, the first one stays.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.lab_plays import changes
from tests.roll.conftest import MODEL, LabFleet, nothing_lost, own_fleet
from tests.stand_in import Lab

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("evacuation")]

LEAVING = ("lab-2", "lab-3")
STAYING = {"lab-1:tiny-llama-0", "lab-1:tiny-llama-1"}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, LabFleet]]:
    with own_fleet("evacuation", 3, tmp_path_factory.mktemp("rolls"), {}) as made:
        yield made


@pytest.fixture(scope="module")
def lab(both: tuple[Lab, LabFleet]) -> Lab:
    return both[0]


@pytest.fixture(scope="module")
def fleet(both: tuple[Lab, LabFleet]) -> LabFleet:
    return both[1]


@pytest.fixture(scope="module")
def url(lab: Lab) -> str:
    return f"http://{lab.router_address}:8080"


def ends_in(lab: Lab, minutes: float, deadline_s: float, **host: Any) -> None:
    """Have the two hosts' block end so soon; `host` is said of the last one alone."""
    end = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat(timespec="seconds")
    said: dict[str, dict[str, Any]] = {name: {"trainyard_capacity_block_end": end} for name in LEAVING}
    said[LEAVING[-1]].update(host)
    settings = {"trainyard_redeploy": {"drain_deadline_s": deadline_s}}
    (lab.folder / "beside.json").write_text(json.dumps({"all": {"hosts": said, "vars": settings}}))


def readmit(lab: Lab, fleet: LabFleet) -> None:
    """Have all of them in rotation again."""
    for name in sorted(fleet.running().keys() - STAYING):
        lab.on("lab-1", f"/usr/local/lib/trainyard/router ready {name}")
    assert fleet.in_rotation() == fleet.running().keys()


def look(lab: Lab) -> str:
    return lab.trainyard("block-watch", "-i", str(lab.folder / "beside.json"), "-i", "inventory/lab")


def test_the_watch_evacuates_45_minutes_before_the_end_and_no_request_fails(
    lab: Lab, fleet: LabFleet, url: str
) -> None:
    assert len(fleet.in_rotation()) == 6
    ends_in(lab, 46.5, 60)
    with fleet.load(url, closed=6, longest_s=8.0) as account:
        assert "replicas leave in 1 min" in look(lab)
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


def stream(url: str, tokens: int, answers: list[str]) -> None:
    """One long answer; what ends it is kept."""
    body = {"model": MODEL, "prompt": "On and on", "max_tokens": tokens, "stream": True, "ignore_eos": True}
    try:
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=300) as answer:
            answers.append(list(answer.iter_lines())[-2])
    except httpx.HTTPError as error:
        answers.append(repr(error))


def test_a_stream_longer_than_the_deadline_goes_on_and_a_host_that_does_not_answer_is_named(
    lab: Lab, fleet: LabFleet, url: str
) -> None:
    readmit(lab, fleet)
    ends_in(lab, 44, 5, ansible_connection="ssh", ansible_port=1)
    answers: list[str] = []
    threads = [threading.Thread(target=stream, args=(url, 450, answers)) for _ in range(12)]
    for thread in threads:
        thread.start()
    time.sleep(3)
    run = lab.start("playbooks/evacuate.yml")
    output, _ = run.communicate()
    assert run.returncode == 0, output[-6000:]
    assert "requests longer than 5 s go on until EC2 ends them: lab-2:tiny-llama-" in output
    assert "host lab-3: does not answer; nothing was saved there" in output
    ends_in(lab, 44, 5)
    assert fleet.in_rotation() == STAYING
    for thread in threads:
        thread.join()
    assert answers == ["data: [DONE]"] * 12


def test_a_router_that_restarts_during_an_evacuation_keeps_hosts_out(lab: Lab, fleet: LabFleet, url: str) -> None:
    readmit(lab, fleet)
    ends_in(lab, 44, 30)
    answers: list[str] = []
    threads = [threading.Thread(target=stream, args=(url, 450, answers)) for _ in range(12)]
    for thread in threads:
        thread.start()
    time.sleep(2)
    run = lab.start("playbooks/evacuate.yml")
    while "drain" not in lab.on("lab-1", "/usr/local/lib/trainyard/router status"):
        assert run.poll() is None
        time.sleep(0.5)
    lab.on("lab-1", "systemctl restart haproxy")
    output, _ = run.communicate()
    assert run.returncode == 0, output[-6000:]
    assert "router lab-1: sends nothing to 4 servers" in output
    assert fleet.in_rotation() <= STAYING
    for thread in threads:
        thread.join()
