# SPDX-License-Identifier: Apache-2.0
"""A roll in which something goes wrong, under load: what serves goes on serving, and what is out is named."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import LabFleet

pytestmark = pytest.mark.lab

CANARY_HOST, CANARY = "lab-1", "tiny-llama-0"
CANARY_ID = f"{CANARY_HOST}:{CANARY}"
STATE = "/var/lib/trainyard/roll/state.json"
_serial = iter(range(int(time.time()), 2**40))


def release(fleet: LabFleet) -> dict[str, Any]:
    """Changes that make a new release of every replica, without another artifact: a variable that nothing reads."""
    return fleet.shaped(environment={"ROLL_TEST": str(next(_serial))})


def nothing_lost(account: dict[str, Any]) -> None:
    assert account["sent"] > 20, "the load proved nothing"
    assert account["sent"] == account["ok"], account


@pytest.fixture(autouse=True)
def faultless(fleet: LabFleet) -> Iterator[None]:
    yield
    for host in fleet.reports():
        fleet.fault(host, "clear")


def test_a_canary_that_is_slower_is_rolled_back_and_the_rest_is_untouched(fleet: LabFleet, router_url: str) -> None:
    before = fleet.running()
    fleet.fault(CANARY_HOST, "slow-tokens", "--replica", CANARY, "--factor", "3")
    with fleet.load(router_url) as account:
        run = fleet.redeploy(release(fleet))
    assert run.code != 0
    assert f"{CANARY_ID} is worse than its peers: mean time per token" in run.text
    assert f"{CANARY_ID}: back on {before[CANARY_ID]}" in run.text
    assert fleet.running() == before
    assert fleet.in_rotation() == set(before)
    nothing_lost(account)


def test_an_old_replica_that_does_not_drain_goes_on_serving(fleet: LabFleet, router_url: str) -> None:
    before = fleet.running()
    how = {**fleet.settings["trainyard_redeploy"], "drain_deadline_seconds": 1, "drain_policy": "fail"}
    with fleet.load(router_url, closed=40, longest_s=20.0) as account:
        run = fleet.redeploy({**release(fleet), "trainyard_redeploy": how})
    assert run.code != 0
    assert f"{CANARY_ID} still has" in run.text
    assert fleet.running() == before
    assert fleet.in_rotation() == set(before)
    nothing_lost(account)


def test_a_replica_that_starts_on_no_release_is_left_out_by_name_and_the_next_run_finishes(
    fleet: LabFleet, router_url: str
) -> None:
    """The failing replica is in batch 2: batch 3 is untouched, and its sibling comes back by its own gate."""
    broken = f"/etc/systemd/system/vllm@{CANARY}.service.d/zz-broken.conf"
    before = fleet.running()
    changes = {**release(fleet), "trainyard_redeploy": {**fleet.settings["trainyard_redeploy"], "canary_seconds": 1}}
    fleet.on("lab-2", f"printf '[Service]\\nExecStartPre=/bin/false\\n' > {broken}")
    with fleet.load(router_url) as account:
        run = fleet.redeploy(changes)
        after = fleet.running()
        out = set(before) - fleet.in_rotation()
        fleet.on("lab-2", f"rm {broken}")
        again = fleet.redeploy(changes)
    assert run.code != 0
    assert out == {f"lab-2:{CANARY}"}
    assert f"out of rotation: lab-2:{CANARY}" in run.text
    assert {name for name in before if after[name] == before[name]} >= {
        n for n in before if n[:5] in ("lab-3", "lab-4")
    }
    assert all(after[name] == before[name] for name in before if name.startswith("lab-2") and name not in out)
    assert all(after[name] != before[name] for name in before if name.startswith("lab-1"))
    assert again.code == 0, again.text[-3000:]
    assert fleet.in_rotation() == set(before)
    assert all(release_now != before[name] for name, release_now in fleet.running().items())
    nothing_lost(account)


@pytest.mark.parametrize(
    "at",
    [
        "TASK [Drain at every router, until the last request has ended]",
        "TASK [Stop, switch, start and gate]",
        "TASK [Let the routers send them requests again]",
        "TASK [Watch them and their peers]",
    ],
)
def test_a_controller_that_dies_is_followed_by_one_that_finishes(fleet: LabFleet, router_url: str, at: str) -> None:
    before = fleet.running()
    changes = {**release(fleet), "trainyard_redeploy": {**fleet.settings["trainyard_redeploy"], "canary_seconds": 1}}
    with fleet.load(router_url) as account:
        process, log = fleet.start("redeploy", changes, "--skip-tags=provision,compile")
        while at not in log.read_text():
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.1)
        time.sleep(1.0)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        run = fleet.redeploy(changes)
    assert run.code == 0, run.text[-3000:]
    assert fleet.in_rotation() == set(before)
    assert all(release_now != before[name] for name, release_now in fleet.running().items())
    nothing_lost(account)


def test_a_second_operator_is_refused_by_name(fleet: LabFleet) -> None:
    before = fleet.running()
    now = time.time()
    holder = (
        f'{{"run": "r-1", "owner": "ann@ops", "pid": 1, "verb": "redeploy", "since": {now}, "expires": {now + 600}}}'
    )
    fleet.on("lab-1", f"""printf '%s' '{{"holder": {holder}, "replicas": {{}}}}' > {STATE}""")
    try:
        run = fleet.redeploy(release(fleet))
    finally:
        fleet.on("lab-1", f"rm -f {STATE}")
    assert run.code != 0
    assert "a roll is under way here: ann@ops (redeploy, run r-1" in run.text
    assert fleet.running() == before
    assert fleet.in_rotation() == set(before)
