# SPDX-License-Identifier: Apache-2.0
"""Lock and journal: who may change a host, how a run proves that it still may, and what is left for the next one."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.journal import (
    LEASE_S,
    UNREADABLE,
    Book,
    Claim,
    Fence,
    Holder,
    LockHeldError,
    LockLostError,
    Moment,
    StateError,
    moment,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

WALL_S = 1_700_000_000.0


@dataclass
class Time:
    """A host's clock that a test moves."""

    now_s: float = 1000.0
    boot: str = "boot-1"

    def __call__(self) -> Moment:
        return Moment(self.boot, self.now_s)

    def reboot(self) -> None:
        self.boot, self.now_s = self.boot + "+", 10.0


def book_at(folder: Path, time: Callable[[], Moment]) -> Book:
    return Book(folder, time, lambda: WALL_S)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def book(tmp_path: Path, time: Time) -> Book:
    return book_at(tmp_path / "roll", time)


def ann(run: str = "run-1", **more: Any) -> Claim:
    return Claim(run, "ann@ops-1", 77, "redeploy", **more)


def bob(run: str = "run-2", **more: Any) -> Claim:
    return Claim(run, "bob@ops-2", 78, "serve", **more)


def fence_of(holder: Holder) -> Fence:
    return Fence(holder.run, holder.number, holder.lease_s)


def move(name: str = "m-0", admit: bool = True) -> dict[str, object]:
    return {"name": name, "was": "old", "release": "new", "admit": admit}


def test_a_free_or_ended_lock_is_taken_and_ones_own_is_renewed(book: Book, time: Time) -> None:
    first = book.take(ann())
    time.now_s += 100
    again = book.take(ann())
    assert (again.number, again.ends_s) == (first.number, first.ends_s + 100)
    time.now_s += LEASE_S + 1
    assert book.take(bob()).number == first.number + 1


def test_a_held_lock_is_refused_with_all_one_needs_to_know(book: Book, time: Time) -> None:
    book.take(ann())
    time.now_s += 120
    before = book.path.read_bytes()
    with pytest.raises(LockHeldError) as refusal:
        book.take(bob(), [move("m-9")])
    text = str(refusal.value)
    assert "ann@ops-1 (redeploy, run run-1, pid 77) since 2 min, for 118 min more" in text
    assert "-e trainyard_take_over=run-1" in text
    assert book.path.read_bytes() == before


def test_a_run_known_to_be_dead_is_taken_over_and_stopped_if_it_was_not(book: Book) -> None:
    first = book.take(ann())
    assert book.take(bob(), take_over=["run-1"]).number > first.number
    with pytest.raises(LockLostError) as stopped:
        book.prove(fence_of(first))
    assert "run run-1 has lost the lock of this host" in str(stopped.value)
    assert "it is held by bob@ops-2 (serve, run run-2" in str(stopped.value)


def test_a_lock_that_ended_and_that_nobody_took_is_still_the_runs_own(book: Book, time: Time) -> None:
    first = book.take(ann())
    time.now_s += 10 * LEASE_S
    book.prove(fence_of(first))
    with pytest.raises(LockHeldError):
        book.take(bob())


def test_one_that_another_run_had_and_gave_back_is_not(book: Book, time: Time) -> None:
    first = book.take(ann())
    time.now_s += LEASE_S + 1
    second = book.take(bob())
    assert book.free(fence_of(second))
    with pytest.raises(LockLostError, match="nobody holds it"):
        book.prove(fence_of(first))


def test_a_step_that_comes_late_does_not_pass_for_one_of_the_lock_that_its_run_took_anew(
    book: Book, time: Time
) -> None:
    first = book.take(ann())
    time.now_s += LEASE_S + 1
    book.free(fence_of(book.take(bob())))
    again = book.take(ann())
    book.prove(fence_of(again))
    with pytest.raises(LockLostError, match=f"number {first.number}"):
        book.prove(fence_of(first))


def test_a_run_that_was_refused_elsewhere_gives_an_ended_lock_back_to_whom_it_was(book: Book, time: Time) -> None:
    first = book.take(ann())
    time.now_s += LEASE_S + 1
    second = book.take(bob())
    assert book.free(fence_of(second), unused=True)
    book.prove(fence_of(first))
    third = book.take(bob("run-3"), take_over=["run-1"])
    assert third.number > second.number, "a number is given out once"


def test_a_host_without_a_lock_refuses_a_step_that_needs_one(book: Book) -> None:
    with pytest.raises(LockLostError, match="never had this host's lock"):
        book.prove(Fence("run-1", 0))


@pytest.mark.parametrize("jump_s", [-86400.0, 86400.0])
def test_the_wall_clock_decides_nothing(tmp_path: Path, time: Time, jump_s: float) -> None:
    wall = [WALL_S]
    book = Book(tmp_path, time, lambda: wall[0])
    first = book.take(ann())
    wall[0] += jump_s
    with pytest.raises(LockHeldError):
        book.take(bob())
    book.prove(fence_of(first))
    time.now_s += LEASE_S + 61
    book.take(bob())


def test_after_a_boot_a_lock_holds_for_its_whole_length_and_not_longer(book: Book, time: Time) -> None:
    first = book.take(ann())
    time.now_s += 0.9 * LEASE_S
    time.reboot()
    with pytest.raises(LockHeldError, match="since before its last boot"):
        book.take(bob())
    book.prove(fence_of(first))
    time.reboot()
    time.now_s = LEASE_S + 1
    assert book.take(bob()).run == "run-2"


def test_the_hosts_clock_is_one_that_nobody_sets() -> None:
    first, second = moment(), moment()
    assert first.boot == second.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    assert first.now_s <= second.now_s
    assert abs(uptime_s - second.now_s) < 60


def test_those_who_only_look_are_told_who_holds_the_lock_until_it_ends(book: Book, time: Time) -> None:
    assert book.read()["held"] == ""
    book.take(ann())
    time.now_s += 600
    told = book.read()["held"]
    assert told == "ann@ops-1 (redeploy, run run-1, pid 77) since 10 min, for 110 min more unless renewed"
    time.now_s += LEASE_S
    assert book.read()["held"] == ""
    assert book.read()["holder"]["run"] == "run-1"


def test_a_whole_roll_leaves_nothing_but_the_last_number(book: Book) -> None:
    holder = book.take(ann(), [move()])
    book.note("m-0", "stopped", fence_of(holder))
    assert book.read()["replicas"]["m-0"] == {
        **book.read()["replicas"]["m-0"],
        "step": "stopped",
        "admitted": True,
        "was": "old",
    }
    assert book.free(fence_of(holder), finished=["m-0"])
    assert book.read() == {"holder": None, "held": "", "replicas": {}, "problem": ""}
    assert book.state().number == holder.number
    assert not book.free(fence_of(holder), finished=["m-0"]), "the second time there is nothing to do"


def test_an_interrupted_roll_stays_written_down_for_the_next_one(book: Book) -> None:
    holder = book.take(ann(), [move("m-0"), move("m-1")])
    book.note("m-0", "stopped", fence_of(holder))
    book.take(bob(), [move("m-1")], take_over=["run-1"])
    entries = book.read()["replicas"]
    assert entries["m-0"]["step"] == "stopped", "nobody finished it"
    assert entries["m-1"]["run"] == "run-2"


def test_a_run_that_moves_nothing_leaves_the_journal_of_an_unfinished_roll_alone(book: Book) -> None:
    book.take(ann(), [move("m-0")])
    before = book.read()["replicas"]
    book.take(bob(), take_over=["run-1"])
    assert book.read()["replicas"] == before


def test_freeing_keeps_the_replicas_that_are_still_out(book: Book) -> None:
    holder = book.take(ann(), [move("m-0"), move("m-1")])
    book.free(fence_of(holder), finished=["m-0"])
    assert list(book.read()["replicas"]) == ["m-1"]
    assert book.holder() is None


def test_a_part_of_a_longer_run_closes_its_journal_and_keeps_the_lock(book: Book) -> None:
    holder = book.take(ann(), [move("m-0")])
    assert book.free(fence_of(holder), finished=["m-0"], keep=True)
    assert book.read()["replicas"] == {}
    assert book.holder() == holder


def test_a_run_that_lost_its_lock_frees_and_writes_nothing(book: Book) -> None:
    lost = book.take(ann(), [move()])
    book.take(bob(), [move()], take_over=["run-1"])
    before = book.path.read_bytes()
    assert not book.free(fence_of(lost), finished=["m-0"])
    with pytest.raises(LockLostError):
        book.note("m-0", "stop", fence_of(lost))
    assert book.path.read_bytes() == before


def test_steps_keep_the_lock_alive(book: Book, time: Time) -> None:
    holder = book.take(ann(), [move()])
    for _ in range(20):
        time.now_s += LEASE_S / 4
        book.note("m-0", "idle", fence_of(holder))
    with pytest.raises(LockHeldError):
        book.take(bob())


def test_notes_of_several_replicas_at_once_are_all_kept(book: Book) -> None:
    holder = book.take(ann(), [move(f"m-{index}") for index in range(8)])
    threads = [threading.Thread(target=book.note, args=(f"m-{index}", "gated", fence_of(holder))) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry["step"] for entry in book.read()["replicas"].values()} == {"gated"}


def test_of_many_who_come_for_an_ended_lock_one_gets_it(tmp_path: Path, time: Time) -> None:
    for turn in range(20):
        time.now_s += 2 * LEASE_S
        together, got = threading.Barrier(8), []

        def come(index: int, turn: int = turn, together: Any = together, got: Any = got) -> None:
            together.wait()
            with contextlib.suppress(LockHeldError):
                got.append(book_at(tmp_path, time).take(Claim(f"run-{turn}-{index}")).run)

        threads = [threading.Thread(target=come, args=(index,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1


BROKEN = {
    "cut": '{"version": 2, "number": 3, "holder": {"run": "r',
    "empty": "",
    "garbage": "\x00\x01\xff",
    "a list": "[1, 2]",
    "endlessly deep": "[" * 100_000,
    "of another version": '{"version": 3, "holder": null, "replicas": {}}',
    "a holder of words": '{"version": 2, "holder": "ann", "replicas": {}}',
    "a holder without an end": '{"version": 2, "number": 1, "holder": {"run": "r"}, "replicas": {}}',
    "a holder without end": json.dumps(
        {
            "version": 2,
            "number": 1,
            "replicas": {},
            "holder": {
                "run": "r",
                "owner": "o",
                "pid": 1,
                "verb": "v",
                "process": "",
                "number": 1,
                "boot": "b",
                "lease_s": float("inf"),
                "since_s": 0.0,
                "ends_s": float("nan"),
                "displaced": None,
            },
        }
    ),
    "entries of numbers": '{"version": 2, "number": 1, "holder": null, "replicas": {"m-0": 5}}',
    "an entry that belongs maybe": '{"version": 2, "holder": null, "replicas": {"m-0": {"admitted": "yes"}}}',
    "a number that is none": '{"version": 2, "number": "many", "holder": null, "replicas": {}}',
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named_with_what_is_lost_and_the_next_command(book: Book, text: str) -> None:
    book.directory.mkdir(parents=True)
    book.path.write_text(text)
    with pytest.raises(StateError) as refusal:
        book.take(bob())
    said = str(refusal.value)
    assert str(book.path) in said
    assert "who is changing this host, and which replicas an unfinished roll took out" in said
    assert f"-e trainyard_take_over={UNREADABLE}" in said
    seen = book.read()
    assert (seen["holder"], seen["replicas"]) == (None, {}), "nobody is shown as out because of it"
    assert str(book.path) in seen["problem"]
    with pytest.raises(StateError):
        book.prove(Fence("run-2", 1))
    assert book.take(bob(), take_over=[UNREADABLE]).run == "run-2"
    assert book.path.with_name("state.json.broken").read_text() == text
    assert book.read()["problem"] == ""


@settings(max_examples=300)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["version", "number", "holder", "replicas", "run", "admitted", "expires", "since", "m-0"]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_stands_in_the_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, found: Any) -> None:
    book = book_at(tmp_path_factory.mktemp("book"), Time())
    book.path.write_text(json.dumps(found))
    try:
        assert book.state().number >= 0
    except StateError as error:
        assert str(book.path) in str(error)
    book.read()


def test_a_lock_of_the_first_version_is_respected_for_as_long_as_it_had(book: Book, time: Time) -> None:
    old = {"run": "old", "owner": "ann@ops-1", "pid": 7, "verb": "redeploy", "since": WALL_S - 60}
    book.directory.mkdir(parents=True)
    book.path.write_text(
        json.dumps(
            {"holder": {**old, "expires": WALL_S + 600}, "replicas": {"m-0": {"admitted": True, "step": "stop"}}}
        )
    )
    with pytest.raises(LockHeldError, match="since 1 min, for 10 min more"):
        book.take(bob())
    holder = book.take(bob(), [], take_over=["old"])
    assert holder.number == 1
    assert book.read()["replicas"]["m-0"]["step"] == "stop"


class Runs(RuleBasedStateMachine):
    """Three runs that take, prove, give back, take over, in any order, on a host whose clock jumps and that reboots."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.time = Time()
        self.book = book_at(Path(self.folder.name), self.time)
        self.fences: dict[str, Fence] = {}
        self.acts: list[tuple[int, str]] = []

    def teardown(self) -> None:
        self.folder.cleanup()

    runs = st.sampled_from(["a", "b", "c"])

    @rule(run=runs, over=st.sampled_from([[], ["a"], ["b"], ["c"]]))
    def take(self, run: str, over: list[str]) -> None:
        holder = self.book.holder()
        may = holder is None or holder.run == run or holder.left_s(self.time()) <= 0 or holder.run in over
        try:
            self.fences[run] = fence_of(self.book.take(Claim(run), take_over=over))
        except LockHeldError:
            assert not may
        else:
            assert may

    @rule(run=runs)
    def act(self, run: str) -> None:
        if run not in self.fences:
            return
        try:
            self.book.prove(self.fences[run])
        except LockLostError:
            return
        self.acts.append((self.fences[run].number, run))

    @rule(run=runs)
    def free(self, run: str) -> None:
        if run in self.fences:
            unused = (self.fences[run].number, run) not in self.acts
            self.book.free(self.fences[run], unused=unused)

    @rule(by_s=st.floats(0, 2 * LEASE_S))
    def wait(self, by_s: float) -> None:
        self.time.now_s += by_s

    @rule()
    def reboot(self) -> None:
        self.time.reboot()

    @invariant()
    def nobody_acts_once_another_has_acted_after_him(self) -> None:
        numbers = [number for number, _ in self.acts]
        assert numbers == sorted(numbers)
        assert len({number for number, _ in self.acts}) == len(set(self.acts)), "a number is one run's"


TestRuns = Runs.TestCase
TestRuns.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
