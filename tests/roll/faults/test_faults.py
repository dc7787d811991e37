# SPDX-License-Identifier: Apache-2.0
"""A roll in which something goes wrong, under load: what serves goes on serving, and what is out is named."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.roll.conftest import LabFleet, Run, nothing_lost

pytestmark = pytest.mark.lab

CANARY_HOST, CANARY = "lab-1", "tiny-llama-0"
CANARY_ID = f"{CANARY_HOST}:{CANARY}"
STATE = "/var/lib/trainyard/roll/state.json"


@pytest.fixture(autouse=True)
def faultless(fleet: LabFleet) -> Iterator[None]:
    yield
    for host in fleet.reports():
        fleet.fault(host, "clear")


def stays_as_it_was(fleet: LabFleet, before: dict[str, str], run: Run, account: dict[str, Any]) -> None:
    """The roll failed, the canary is back on its former release, and nobody else was touched."""
    assert run.code != 0
    assert f"{CANARY_ID}: back on {before[CANARY_ID]}" in run.text, run.text[-3000:]
    assert "untouched: " in run.text
    assert fleet.running() == before
    assert fleet.in_rotation() == set(before)
    nothing_lost(account)


def test_a_canary_that_is_twice_as_slow_is_rolled_back(fleet: LabFleet, router_url: str) -> None:
    before = fleet.running()
    fleet.fault(CANARY_HOST, "slow-tokens", "--replica", CANARY, "--factor", "2")
    # Long enough for twenty requests at the canary, which is one of sixteen.
    how = {**fleet.settings["trainyard_redeploy"], "canary_s": 45}
    with fleet.load(router_url, closed=24, longest_s=4.0) as account:
        run = fleet.redeploy({**fleet.renewed(), "trainyard_redeploy": how})
    assert f"{CANARY_ID} is worse than its peers: mean time per token" in run.text
    stays_as_it_was(fleet, before, run, account)


def test_a_canary_that_answers_nonsense_is_rolled_back(fleet: LabFleet, router_url: str) -> None:
    before = fleet.running()
    fleet.fault(CANARY_HOST, "wrong-tokens", "--replica", CANARY)
    with fleet.load(router_url) as account:
        run = fleet.redeploy(fleet.renewed())
    assert f"{CANARY_ID} is worse than its peers: golden completions agree for" in run.text
    stays_as_it_was(fleet, before, run, account)


@pytest.fixture(scope="module")
def revision(fleet: LabFleet) -> dict[str, Any]:
    """Another model revision, compiled and staged everywhere, and not rolled."""
    changes = fleet.shaped(model=fleet.retrained())
    run = fleet.run("redeploy", changes, "--tags=stage")
    assert run.code == 0, run.text[-3000:]
    return changes


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("truncate -s 10 model.pt", "died while starting (exit code 1)"),
        ("rm model.pt", "compile"),
    ],
    ids=["it does not load", "it would compile"],
)
def test_a_release_whose_artifact_broke_after_it_was_staged_is_taken_back(
    fleet: LabFleet, router_url: str, revision: dict[str, Any], damage: str, says: str
) -> None:
    before = fleet.running()
    artifact = fleet.entry(CANARY_HOST, CANARY)["artifact_path"]
    fleet.on(CANARY_HOST, f"cp -a {artifact} /data/sound && cd {artifact} && {damage}")
    try:
        with fleet.load(router_url) as account:
            run = fleet.run("redeploy", revision, "--tags=roll")
    finally:
        fleet.on(CANARY_HOST, f"rm -rf {artifact} && mv /data/sound {artifact}")
    assert says in run.text
    stays_as_it_was(fleet, before, run, account)


def test_cores_that_are_not_released_leave_one_replica_out_by_name_and_the_next_run_finishes(
    fleet: LabFleet, router_url: str
) -> None:
    before = fleet.running()
    how = {**fleet.settings["trainyard_redeploy"], "canary_s": 1, "stop_timeout_s": 15}
    changes = {**fleet.renewed(), "trainyard_redeploy": how}
    fleet.fault(CANARY_HOST, "cores-not-released", "--replica", CANARY)
    with fleet.load(router_url) as account:
        run = fleet.redeploy(changes)
        out = set(before) - fleet.in_rotation()
        fleet.fault(CANARY_HOST, "clear")
        again = fleet.redeploy(changes)
    assert run.code != 0
    assert out == {CANARY_ID}, run.text[-3000:]
    assert f"out of rotation: {CANARY_ID}" in run.text
    finished(fleet, before, again, account)


def finished(fleet: LabFleet, before: dict[str, str], run: Run, account: dict[str, Any]) -> None:
    """The roll came to its end: everybody is on another release and in rotation."""
    assert run.code == 0, run.text[-3000:]
    assert fleet.in_rotation() == set(before)
    assert all(release_now != before[name] for name, release_now in fleet.running().items())
    nothing_lost(account)


def test_a_host_that_reboots_while_it_is_drained_comes_back_and_the_next_run_finishes(
    fleet: LabFleet, router_url: str
) -> None:
    """The third wave is all of lab-2: when it is drained, a reboot cuts nobody off."""
    before = fleet.running()
    changes = {**fleet.renewed(), "trainyard_redeploy": {**fleet.settings["trainyard_redeploy"], "canary_s": 1}}
    with fleet.load(router_url) as account:
        process, log = fleet.started(changes, "drained: lab-2:")
        time.sleep(2.0)
        fleet.fault("lab-2", "reboot")
        assert process.wait() != 0
        again = fleet.redeploy(changes)
    assert "lab-2" in log.read_text().partition("Redeploy stopped")[2]
    finished(fleet, before, again, account)


def test_a_router_that_restarts_loses_what_it_carried_and_nothing_else(fleet: LabFleet, router_url: str) -> None:
    before = fleet.running()
    changes = {**fleet.renewed(), "trainyard_redeploy": {**fleet.settings["trainyard_redeploy"], "canary_s": 1}}
    with fleet.load(router_url) as account:
        process, log = fleet.started(changes, f"in rotation: {CANARY_ID}")
        drained = log.read_text().count("drained: ")
        while log.read_text().count("drained: ") == drained:
            time.sleep(0.05)
        began = time.time()
        fleet.on("lab-1", "systemctl restart haproxy")
        ended = time.time()
        code = process.wait()
    lost = [row for row in account["requests"] if row["kind"] != "ok"]
    outside = [
        row
        for row in lost
        if account["began"] + row["at"] > ended + 1 or account["began"] + row["at"] + row["took_s"] < began
    ]
    assert not outside, outside
    assert code == 0, log.read_text()[-3000:]
    assert fleet.in_rotation() == set(before)
    assert all(release_now != before[name] for name, release_now in fleet.running().items())


def test_an_old_replica_that_does_not_drain_goes_on_serving(fleet: LabFleet, router_url: str) -> None:
    before = fleet.running()
    how = {**fleet.settings["trainyard_redeploy"], "drain_deadline_s": 1, "drain_policy": "fail"}
    with fleet.load(router_url, closed=40, longest_s=20.0) as account:
        run = fleet.redeploy({**fleet.renewed(), "trainyard_redeploy": how})
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
    changes = {**fleet.renewed(), "trainyard_redeploy": {**fleet.settings["trainyard_redeploy"], "canary_s": 1}}
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


def died(fleet: LabFleet, changes: dict[str, Any], at: str) -> None:
    """Start a roll whose controller is killed when its output says ``at``."""
    process, _ = fleet.started(changes, at)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


KILLER = Path(__file__).with_name("kill_at_step.py")


def died_with_its_module(fleet: LabFleet, changes: dict[str, Any], step: str) -> None:
    """Start a roll whose controller is killed, and whose module on the canary's host is, at a step of the journal."""
    fleet.on(CANARY_HOST, f"echo {base64.b64encode(KILLER.read_bytes()).decode()} | base64 -d > /root/kill_at_step.py")
    process, log = fleet.started(changes, "TASK [rolling_redeploy : Take the lock]")
    command = ["trainyard", "lab", "ssh", CANARY_HOST, "sudo", "python3", "-u", "/root/kill_at_step.py", CANARY, step]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killer:
        assert killer.stdout is not None
        assert killer.stdout.readline().startswith("runs"), log.read_text()[-3000:]
        # First the controller: it must not see its module die, or it would bring the replica back.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert killer.stdout.readline().strip() == f"killed at {step}"


@pytest.mark.parametrize(
    "at",
    ["before the drain", "drained", "stop", "switch", "start", "gated"],
)
def test_a_controller_that_dies_is_followed_by_one_that_finishes(fleet: LabFleet, router_url: str, at: str) -> None:
    before = fleet.running()
    changes = {**fleet.renewed(), "trainyard_redeploy": {**fleet.settings["trainyard_redeploy"], "canary_s": 1}}
    said = {
        "before the drain": "TASK [rolling_redeploy : Drain at every router, until the last request has ended]",
        "drained": f"drained: {CANARY_ID}",
        "gated": f"{CANARY_ID}: gated on",
    }
    with fleet.load(router_url) as account:
        if at in said:
            died(fleet, changes, said[at])
        else:
            died_with_its_module(fleet, changes, at)
        run = fleet.redeploy(changes)
    finished(fleet, before, run, account)


def test_a_controller_that_dies_while_the_canary_has_its_share_is_followed_by_one_that_gives_it_all(
    fleet: LabFleet, router_url: str
) -> None:
    before = fleet.running()
    how = {**fleet.settings["trainyard_redeploy"], "canary_s": 20, "canary_share": "3%"}
    changes = {**fleet.renewed(), "trainyard_redeploy": how}
    with fleet.load(router_url) as account:
        died(fleet, changes, f"in rotation: {CANARY_ID}")
        # Beside 15 others of weight 100, 3% is a weight of 46.
        seats = next(report["servers"] for report in fleet.reports().values() if report["servers"])
        run = fleet.redeploy(changes)
    assert {name: seat["weight"] for name, seat in seats.items() if seat["weight"] != 100} == {CANARY_ID: 46}
    assert "an unfinished roll left it at 46% of its weight" in run.text
    finished(fleet, before, run, account)


def test_a_second_operator_is_refused_by_name(fleet: LabFleet) -> None:
    before = fleet.running()
    now = time.time()
    holder = (
        f'{{"run": "r-1", "owner": "ann@ops", "pid": 1, "verb": "redeploy", "since": {now}, "expires": {now + 600}}}'
    )
    fleet.on("lab-1", f"""printf '%s' '{{"holder": {holder}, "replicas": {{}}}}' > {STATE}""")
    try:
        run = fleet.redeploy(fleet.renewed())
    finally:
        fleet.on("lab-1", f"rm -f {STATE}")
    assert run.code != 0
    assert "lab-1: this host is held by ann@ops (redeploy, run r-1" in run.text
    assert fleet.running() == before
    assert fleet.in_rotation() == set(before)
