# SPDX-License-Identifier: Apache-2.0
"""A second operator in the middle of a roll, under load: refused by name whatever he runs, and no request is lost.

One lab of two hosts, of which one routes, goes through its life in the order of the tests.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.conftest import fleet, lab, url
from tests.roll.conftest import LabFleet, nothing_lost, own_fleet
from tests.stand_in import Lab
from trainyard.paths import ROOT

__all__ = ["fleet", "lab", "url"]
pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("second-operator")]

HOW = {"canary_s": 1, "soak_s": 1, "drain_deadline_s": 120, "floor": "50%"}
SHAPE = {"tensor_parallel_size": 32, "data_parallel_size": 2}
SETTINGS: dict[str, Any] = {"trainyard_redeploy": HOW, "trainyard_overrides": {"tiny-llama": SHAPE}}
STATE = "/var/lib/trainyard/roll/state.json"
#: Long enough for another operator to try everything while the first one watches.
LONG = {**HOW, "canary_s": 240}
ENDS_NOW = f"""
import json, pathlib
file = pathlib.Path("{STATE}")
state = json.loads(file.read_text())
state["holder"]["ends_s"] = 0.0
file.write_text(json.dumps(state))
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, LabFleet]]:
    with own_fleet("second-operator", 2, tmp_path_factory.mktemp("rolls"), SETTINGS) as made:
        yield made


def as_user(name: str, argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end as an operator of that name."""
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "LOGNAME": name, "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run(
        argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def started(fleet: LabFleet, changes: dict[str, Any], at: str) -> tuple[subprocess.Popen[str], Path]:
    """Ann's roll, once its output says ``at``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOGNAME", "ann")
        return fleet.started(changes, at)


def holders(lab: Lab) -> dict[str, dict[str, Any]]:
    """What each host says of its lock."""
    return {host: json.loads(lab.on(host, f"cat {STATE}")) for host in ("lab-1", "lab-2")}


def test_whatever_a_second_operator_runs_is_refused_by_name_and_the_roll_ends_well(
    lab: Lab, fleet: LabFleet, url: str
) -> None:
    before = fleet.running()
    changes = {**fleet.renewed(), "trainyard_redeploy": LONG}
    other = fleet.renewed()
    with fleet.load(url, closed=4) as account:
        process, log = started(fleet, changes, "in rotation: lab-1:tiny-llama-0")
        taken = holders(lab)
        tried: dict[str, subprocess.CompletedProcess[str]] = {}
        for name in ("serve", "teardown", "redeploy", "rollback", "provision", "upgrade"):
            more = {"trainyard_only": "lab-2"} if name == "upgrade" else {}
            tried[name] = as_user("bob", fleet.command(name, {**other, **more}))
        site = fleet.command("serve", other)
        site[1] = str(ROOT / "site.yml")
        tried["site"] = as_user("bob", [*site, "--skip-tags=benchmark"])
        inventories = [word for word in fleet.command("serve", {}) if word.startswith("--inventory=")]
        tried["trainyard upgrade"] = as_user(
            "bob", ["trainyard", "upgrade", *inventories, "-e", json.dumps({**SETTINGS, **other})]
        )
        dry = as_user("bob", fleet.command("serve", other, "--check"))
        status = as_user("bob", fleet.command("status", {}))
        still = process.poll() is None
        after = holders(lab)
        code = process.wait()
    assert still, "the roll was over before everything was tried"
    for name, run in tried.items():
        assert run.returncode != 0, name
        assert re.search(r"lab-1, lab-2: this host is held by ann@\S+ \(redeploy, run \S+, pid \d+\)", run.stdout), name
        assert "-e trainyard_take_over=" + taken["lab-1"]["holder"]["run"] in run.stdout, name
        assert set(re.findall(r"changed=(\d+)", run.stdout)) == {"0"}, name
    assert (dry.returncode, status.returncode) == (0, 0), dry.stdout[-2000:] + status.stdout[-2000:]
    assert re.search(r"lab-1, lab-2: held by ann@\S+ \(redeploy, run \S+, pid \d+\)", status.stdout), status.stdout
    assert {host: row["number"] for host, row in after.items()} == {host: row["number"] for host, row in taken.items()}
    assert code == 0, log.read_text()[-4000:]
    assert all(running != before[name] for name, running in fleet.running().items())
    assert fleet.in_rotation() == set(before)
    assert [row["holder"] for row in holders(lab).values()] == [None, None]
    nothing_lost(account)


def test_a_run_whose_lock_ended_and_was_taken_stops_before_it_touches_another_replica(
    lab: Lab, fleet: LabFleet, url: str
) -> None:
    """Ann's controller seems dead for hours; Bob rolls; then it goes on."""
    changes, other = {**fleet.renewed(), "trainyard_redeploy": {**HOW, "canary_s": 60}}, fleet.renewed()
    end = f"echo {base64.b64encode(ENDS_NOW.encode()).decode()} | base64 -d | python3 -"
    with fleet.load(url, closed=4) as account:
        process, log = started(fleet, changes, "in rotation: lab-1:tiny-llama-0")
        begun = fleet.running()
        for host in ("lab-1", "lab-2"):
            lab.on(host, end)
        bob = as_user("bob", fleet.command("redeploy", other, "--skip-tags=provision,compile"))
        code = process.wait()
    text = log.read_text()
    assert bob.returncode == 0, bob.stdout[-4000:]
    assert code != 0
    assert "has lost the lock of this host" in text, text[-4000:]
    assert re.search(r"it is held by bob@\S+ \(redeploy, run ", text), text[-4000:]
    # What is out of rotation or rolled by now may be Bob's doing; Ann's run says itself what it did.
    did = re.findall(r"^ +(?:drained|in rotation): (\S+)$|^ +(\S+): gated on ", text, re.MULTILINE)
    assert {drained or gated for drained, gated in did} == {"lab-1:tiny-llama-0"}, text[-4000:]
    now = fleet.running()
    assert all(now[name] != begun[name] for name in now), "all of them are on what Bob rolled"
    assert fleet.in_rotation() == set(now)
    again = fleet.redeploy(other)
    assert "Nothing to roll" in again.text
    nothing_lost(account)


def test_a_controller_that_was_killed_blocks_nobody_who_says_that_it_is_dead(
    lab: Lab, fleet: LabFleet, url: str
) -> None:
    changes = {**fleet.renewed(), "trainyard_redeploy": LONG}
    with fleet.load(url, closed=4) as account:
        process, _ = started(fleet, changes, "in rotation: lab-1:tiny-llama-0")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        run = holders(lab)["lab-1"]["holder"]["run"]
        refused = as_user("bob", fleet.command("serve", {}))
        over = {"trainyard_take_over": run}
        taken = as_user("bob", fleet.command("redeploy", {**changes, "trainyard_redeploy": HOW, **over}))
    assert refused.returncode != 0
    assert f"-e trainyard_take_over={run}" in refused.stdout
    assert taken.returncode == 0, taken.stdout[-4000:]
    assert len(fleet.in_rotation()) == 4
    nothing_lost(account)


def test_a_state_that_is_cut_is_named_and_nobody_is_shown_as_out(lab: Lab, fleet: LabFleet) -> None:
    lab.on("lab-2", f"truncate -s 20 {STATE}")
    status = as_user("bob", fleet.command("status", {}))
    refused = as_user("bob", fleet.command("serve", {}))
    over = as_user("bob", fleet.command("serve", {"trainyard_take_over": "unreadable"}))
    assert status.returncode == 0, status.stdout[-3000:]
    assert f"lab-2: {STATE} is not whole" in status.stdout
    assert "4 of 4 replicas are in rotation" in status.stdout
    assert refused.returncode != 0
    assert f"lab-2: {STATE} is not whole" in refused.stdout
    assert "-e trainyard_take_over=unreadable" in refused.stdout
    assert over.returncode == 0, over.stdout[-3000:]
    assert lab.on("lab-2", f"ls {STATE}.broken") == f"{STATE}.broken"
    assert holders(lab)["lab-2"]["holder"] is None


def test_a_run_that_fails_gives_its_lock_back(lab: Lab, fleet: LabFleet) -> None:
    impossible = {**fleet.renewed(), "trainyard_redeploy": {**HOW, "floor": "99"}}
    run = as_user("bob", fleet.command("redeploy", impossible, "--skip-tags=provision,compile"))
    assert run.returncode != 0
    assert "The lock of lab-1, lab-2 is given back" in run.stdout, run.stdout[-3000:]
    assert [row["holder"] for row in holders(lab).values()] == [None, None]
    assert as_user("ann", fleet.command("serve", {})).returncode == 0
