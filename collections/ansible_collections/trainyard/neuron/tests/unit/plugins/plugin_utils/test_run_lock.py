# SPDX-License-Identifier: Apache-2.0
"""A run's side of the lock: who is dead, what a module is given to prove, what a refusal says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.action.roll_lock import agreed
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.fence import lost
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.journal import Book, Claim, Fence, Holder, moment
from ansible_collections.trainyard.neuron.plugins.plugin_utils import run_lock
from ansible_collections.trainyard.neuron.plugins.plugin_utils.run_lock import FENCED, RunLock, dead, process_of

MODULES = Path(__file__).parents[4] / "plugins" / "modules"


@pytest.fixture
def lock(tmp_path: Path) -> RunLock:
    return RunLock(tmp_path / "lock")


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def holder(claim: Claim, number: int = 1) -> Holder:
    return Holder.of(claim, number, moment())


def mine() -> Claim:
    return Claim("run-9", "ann@ops-1", os.getpid(), "serve", process_of(os.getpid()))


def test_a_run_is_dead_when_its_process_is_gone_and_not_while_it_lives(child: subprocess.Popen[bytes]) -> None:
    left = holder(replace(mine(), run="run-1", pid=child.pid, process=process_of(child.pid)))
    assert not dead(left, mine())
    child.kill()
    child.wait()
    assert dead(left, mine())


def test_another_process_with_its_id_is_not_the_run() -> None:
    machine, boot, namespace, _ = process_of(os.getpid()).split("/")
    left = holder(replace(mine(), run="run-1", process=f"{machine}/{boot}/{namespace}/1"))
    assert dead(left, mine())


@pytest.mark.parametrize(
    ("place", "gone"),
    [
        ("M/other-boot/{n}/1", True),
        ("other/other-boot/{n}/1", False),
        ("M/{b}/other/1", False),
        ("/other-boot/{n}/1", False),
    ],
    ids=["before a boot", "another machine", "another container", "who knows"],
)
def test_what_is_elsewhere_is_not_judged(monkeypatch: pytest.MonkeyPatch, place: str, gone: bool) -> None:
    read = run_lock._text
    monkeypatch.setattr(run_lock, "_text", lambda path: "M" if path == "/etc/machine-id" else read(path))
    _, boot, namespace, _ = process_of(os.getpid()).split("/")
    left = holder(replace(mine(), run="run-1", process=place.format(b=boot, n=namespace)))
    assert dead(left, mine()) is gone
    assert not dead(replace(left, owner="bob@ops-1"), mine())


def test_a_run_of_a_longer_one_has_its_name_and_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(run_lock.OUTER, raising=False)
    alone = run_lock.claim_of("serve")
    assert (alone.pid, alone.verb) == (os.getppid(), "serve")
    monkeypatch.setenv(run_lock.OUTER, f"sweep-1:{os.getpid()}")
    part = run_lock.claim_of("site")
    assert (part.run, part.pid, part.process) == ("sweep-1", os.getpid(), process_of(os.getpid()))
    monkeypatch.setenv(run_lock.OUTER, "sweep 1; rm:x")
    assert run_lock.claim_of("site").run == alone.run, "what is no such name is none"


def test_a_module_is_given_proof_where_the_run_asked_for_the_lock_and_only_there(lock: RunLock) -> None:
    assert lock.fence("h1") is None
    lock.keep("h1", asdict(holder(mine(), 7)))
    lock.lack("h2")
    lock.refuse("h3", "held", None)
    assert lock.fence("h1") == Fence(run_lock.run_id(), 7)
    assert [getattr(lock.fence(name), "number", None) for name in ("h2", "h3", "h4")] == [0, 0, None]
    lock.forget("h1")
    assert lock.fence("h1") is None


def test_a_lock_is_due_for_renewal_long_before_it_ends(lock: RunLock) -> None:
    lock.keep("h1", {**asdict(holder(mine())), "lease_s": 0.0})
    assert lock.due("h1")
    lock.keep("h1", asdict(holder(mine())))
    assert not lock.due("h1")
    assert not lock.due("h2")


def test_all_hosts_that_refuse_are_named_and_one_holder_once(lock: RunLock) -> None:
    by_ann = asdict(holder(replace(mine(), run="run-1")))
    lock.keep("h1", asdict(holder(mine())))
    lock.refuse("h2", "held by ann for 9 min", by_ann)
    lock.refuse("h3", "held by ann for 8 min", by_ann)
    lock.refuse("h4", "state.json is not whole", None)
    told = agreed(lock, "h1", "h1")
    assert told["failed"]
    assert told["msg"].splitlines() == ["h2, h3: held by ann for 9 min", "h4: state.json is not whole"]
    assert agreed(lock, "h2", "h1") == {"changed": False, "failed": True, "msg": "see h1"}


def test_hosts_that_gave_their_lock_agree_and_one_that_did_not_answer_is_not_changed(lock: RunLock) -> None:
    lock.keep("h1", asdict(holder(mine())))
    assert [agreed(lock, name, "h1") for name in ("h1", "h2")] == [{"changed": False}] * 2
    fence = lock.fence("h2")
    assert fence is not None
    assert fence.number == 0


def test_what_was_lost_is_told_by_host(lock: RunLock) -> None:
    assert lock.lost() == []
    lock.lose("h2", "it is held by bob")
    assert lock.lost() == ["h2: it is held by bob"]


def test_a_module_acts_only_with_the_hosts_lock(tmp_path: Path) -> None:
    taken = Book(tmp_path).take(mine())
    good = {"fence": {"run": "run-9", "number": taken.number, "lease_s": 7200.0}}
    stale = {"fence": {"run": "run-9", "number": taken.number - 1, "lease_s": 7200.0}}
    assert lost(good, check_mode=False, directory=tmp_path) == ""
    assert "held by ann@ops-1" in lost(stale, check_mode=False, directory=tmp_path)
    assert lost(stale, check_mode=True, directory=tmp_path) == "", "a dry run needs no lock"
    assert lost({"fence": None}, check_mode=False, directory=tmp_path) == ""
    Book(tmp_path).path.write_text("{")
    assert "state.json" in lost(good, check_mode=False, directory=tmp_path)


@pytest.mark.parametrize("name", sorted(FENCED))
def test_every_module_that_changes_a_host_proves_its_lock_before_anything_else(name: str) -> None:
    """Run as Ansible runs it: with a number that no host gave out it fails, whatever else it is told."""
    bare = name.rpartition(".")[2]
    needed: dict[str, dict[str, Any]] = {
        "container_images": {"images": []},
        "device_quarantine": {"state": "out", "device": 0},
        "file_tree": {"payload": "x"},
        "instance_store": {"mount": "/nowhere"},
        "jobs": {"jobs": []},
        "python_venv": {"path": "/nowhere/venv", "state": "absent"},
        "replica_release": {"replicas": []},
        "router_server": {"servers": [], "state": "ready"},
        "sdk_release": {"releases": []},
        "serving_pause": {"state": "resumed"},
        "units": {"units": []},
    }
    arguments = {**needed[bare], "fence": {"run": "no-such-run", "number": 1, "lease_s": 1.0}}
    done = subprocess.run(
        [sys.executable, "-m", f"ansible_collections.trainyard.neuron.plugins.modules.{bare}"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        cwd=MODULES.parents[4],
        check=False,
    )
    told = json.loads(done.stdout)
    assert told.get("lock_lost") is True, told
    assert "no-such-run" in told["msg"]
