# SPDX-License-Identifier: Apache-2.0
"""Lock and journal: who may roll, and what an interrupted roll leaves for the next one."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.journal import (
    Book,
    Holder,
    LockHeldError,
    dead_runs,
    decide,
)

NOW = 1_000_000.0


def holder(run: str = "run-1", owner: str = "ann@ops-1", pid: int = 77, expires: float = NOW + 600) -> Holder:
    return Holder(run=run, owner=owner, pid=pid, verb="redeploy", since=NOW - 120, expires=expires)


def move(name: str = "m-0", admit: bool = True) -> dict[str, object]:
    return {"name": name, "was": "old", "release": "new", "admit": admit}


def test_a_free_or_expired_lock_is_taken_and_ones_own_is_renewed() -> None:
    mine = holder("run-2")
    assert decide(None, mine, NOW) == mine
    assert decide(holder(expires=NOW - 1), mine, NOW) == mine
    assert decide(holder("run-2", expires=NOW + 5), mine, NOW) == mine


def test_a_held_lock_is_refused_with_all_one_needs_to_know() -> None:
    with pytest.raises(LockHeldError) as refusal:
        decide(holder(), holder("run-2", "bob@ops-2"), NOW)
    text = str(refusal.value)
    assert "ann@ops-1 (redeploy, run run-1, pid 77) since 2 min, for 10 min more" in text
    assert "-e trainyard_take_over=run-1" in text


def test_a_run_known_to_be_dead_is_taken_over() -> None:
    mine = holder("run-2")
    assert decide(holder(), mine, NOW, take_over=["run-1"]) == mine


def test_only_processes_of_this_controller_are_judged() -> None:
    holders = [holder("a", pid=1), holder("b", pid=2), holder("c", owner="ann@ops-2", pid=3)]
    assert dead_runs(holders, "ann@ops-1", {1: False, 2: True, 3: False}) == ["a"]


def test_a_whole_roll_leaves_nothing(tmp_path: Path) -> None:
    book = Book(tmp_path / "roll")
    assert book.read() == {"holder": None, "replicas": {}}
    book.take(holder(), [move()], NOW)
    book.note("m-0", "stopped", run="run-1")
    assert book.read()["replicas"]["m-0"]["step"] == "stopped"
    assert book.read()["replicas"]["m-0"]["admitted"] is True
    assert book.free("run-1", finished=["m-0"])
    assert book.read() == {"holder": None, "replicas": {}}
    assert not book.free("run-1", finished=["m-0"]), "the second time there is nothing to do"


def test_an_interrupted_roll_stays_written_down_for_the_next_one(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.take(holder(), [move("m-0"), move("m-1")], NOW)
    book.note("m-0", "stopped")
    book.take(holder("run-2"), [move("m-1")], NOW, take_over=["run-1"])
    entries = book.read()["replicas"]
    assert entries["m-0"]["step"] == "stopped", "nobody finished it"
    assert entries["m-1"]["run"] == "run-2"


def test_freeing_keeps_the_replicas_that_are_still_out(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.take(holder(), [move("m-0"), move("m-1")], NOW)
    book.free("run-1", finished=["m-0"])
    assert list(book.read()["replicas"]) == ["m-1"]
    assert book.holder() is None


def test_another_run_cannot_free_the_lock(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.take(holder(), [], NOW)
    assert not book.free("run-2", finished=[])
    assert book.holder() == holder()


def test_a_refused_run_changes_nothing(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.take(holder(), [move()], NOW)
    before = book.path.read_bytes()
    with pytest.raises(LockHeldError):
        book.take(holder("run-2", "bob@ops-2"), [move("m-9")], NOW)
    assert book.path.read_bytes() == before


def test_notes_keep_the_lock_alive(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.take(holder(expires=1.0), [move()], 0.0)
    book.note("m-0", "stopped", run="run-1", renew_seconds=600)
    kept = book.holder()
    assert kept is not None
    assert kept.expires > 600


def test_notes_of_several_replicas_at_once_are_all_kept(tmp_path: Path) -> None:
    book = Book(tmp_path)
    book.take(holder(), [move(f"m-{index}") for index in range(8)], NOW)
    threads = [threading.Thread(target=book.note, args=(f"m-{index}", "gated")) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry["step"] for entry in book.read()["replicas"].values()} == {"gated"}
