# SPDX-License-Identifier: Apache-2.0
"""Replacing a replica on its host: every step, every way it stops, and what is left then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils import units
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.host import (
    Host,
    Order,
    describe,
    replace,
    restore,
    unfinished,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.journal import Book, Claim, Fence
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.releases import Releases

NAME, UNIT, URL = "a-0", "vllm@a-0.service", "http://h:8000"
IDLE = "vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n"
BUSY = "vllm:num_requests_running 2\nvllm:num_requests_waiting 1\n"


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeSystemd(units.Systemd):
    """One unit. A start loads the release that ``current`` points at; one that is known not to come up fails then."""

    def __init__(self, releases: Releases, running: str, bad: tuple[str, ...] = ()) -> None:
        self.loads_s = 0.0
        self.sub = "start-post"
        self.clock = Clock()
        self.ready_s: float | None = None
        self.releases = releases
        self.running = running
        self.bad = bad
        self.active = "active" if running else "inactive"
        self.calls: list[str] = []

    def call(self, *arguments: str) -> str:
        verb = arguments[0]
        if verb == "show":
            return (
                f"Id={UNIT}\nActiveState={self.active}\nExecMainStartTimestampMonotonic=1000000\n"
                "ActiveEnterTimestampMonotonic=4500000\n"
            )
        self.calls.append(verb)
        if verb == "stop":
            self.active, self.running, self.sub = "inactive", "", "start-post"
        if verb == "start" and self.active != "activating":
            self.active, self.running = "activating", str(self.releases.current(NAME)["release"])
            self.ready_s = self.clock() + self.loads_s
        return ""

    def show(self, names: Any) -> list[units.Status]:
        if self.active == "activating" and self.ready_s is not None and self.clock() >= self.ready_s:
            bad = self.running in self.bad
            self.active, self.running = ("failed", "") if bad else ("active", self.running)
        environment = {"TRAINYARD_RELEASE": self.running} if self.running else {}
        return [
            units.Status(
                name=name,
                load="loaded",
                active=self.active,
                sub=self.sub if self.active == "activating" else "",
                file_state="enabled",
                needs_reload=False,
                main_pid=1,
                result="exit-code",
                exit_status="1",
                restarts=0,
                since="",
                text="loading 3/8" if self.active == "activating" else "",
                environment=environment,
            )
            for name in names
        ]

    def journal(self, name: str, lines: int) -> list[str]:  # noqa: ARG002  (the interface)
        return ["RuntimeError: no cores"]


def host_of(tmp_path: Path, running: str = "old", bad: tuple[str, ...] = (), answers: list[str] | None = None) -> Host:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "python").write_text("")
    for release in ("old", "new"):
        place = tmp_path / "etc/releases" / release
        place.mkdir(parents=True)
        entry = {"release": release, "runtime": "venv", "argv": [str(tmp_path / "python")], "cores": "0-31"}
        (place / f"{NAME}.json").write_text(json.dumps({**entry, "weights": "w", "served_name": "m", "url": URL}))
        (place / f"{NAME}.env").write_text("")
    releases = Releases(tmp_path / "etc", tmp_path / "run")
    if running:
        releases.switch(NAME, running)
    systemd = FakeSystemd(releases, running, bad)
    clock = systemd.clock
    texts = list(answers or [])
    return Host(
        systemd=systemd,
        releases=releases,
        book=Book(tmp_path / "book"),
        fetch=lambda _url: texts.pop(0) if texts else IDLE,
        sleep=clock.sleep,
        clock=clock,
    )


def calls(host: Host) -> list[str]:
    assert isinstance(host.systemd, FakeSystemd)
    return host.systemd.calls


def test_a_replica_goes_through_every_step(tmp_path: Path) -> None:
    host = host_of(tmp_path)
    result = replace(host, Order(), NAME, URL, "new")
    assert (result.gated, result.step, result.error, result.changed) == (True, "gated", "", True)
    assert calls(host) == ["stop", "daemon-reload", "start"]
    assert list(result.seconds) == ["idle", "stop", "switch", "start"]
    assert host.book.read()["replicas"][NAME]["step"] == "gated"
    assert host.releases.previous(NAME)["release"] == "old"


def test_the_second_time_there_is_nothing_to_do(tmp_path: Path) -> None:
    host = host_of(tmp_path, running="new")
    result = replace(host, Order(), NAME, URL, "new")
    assert (result.gated, result.changed, calls(host)) == (True, False, [])


def loading(host: Host, loads_s: float) -> FakeSystemd:
    assert isinstance(host.systemd, FakeSystemd)
    host.systemd.loads_s = loads_s
    return host.systemd


@pytest.mark.parametrize("bad", [(), ("new",)])
def test_a_start_is_left_to_later_calls_and_comes_to_what_one_call_comes_to(
    tmp_path: Path, bad: tuple[str, ...]
) -> None:
    whole, pieces = (host_of(tmp_path / name, bad=bad) for name in ("whole", "pieces"))
    loading(whole, 100.0)
    systemd = loading(pieces, 100.0)
    expected = replace(whole, Order(), NAME, URL, "new")
    first = replace(pieces, Order(wait_s=5), NAME, URL, "new")
    assert (first.gated, first.step, first.error, first.progress) == (False, "start", "", "loading 3/8")
    assert (first.to_dict()["begun_s"], first.to_dict()["progress"]) == (first.begun_s, "loading 3/8")
    assert pieces.book.read()["replicas"][NAME]["step"] == "start", "an interruption here finds where it got to"
    told, later, calls_made = list(systemd.calls), first, 1
    while later.begun_s is not None:
        assert later.begun_s == first.begun_s
        later = replace(pieces, Order(wait_s=30), NAME, URL, "new", later.begun_s)
        calls_made += 1
    assert calls_made > 3
    assert systemd.calls[: len(told)] == told
    assert [verb for verb in systemd.calls[len(told) :] if verb != "show"] == [], "it is told to start once"
    assert (later.gated, later.step, later.error) == (expected.gated, expected.step, expected.error)
    assert later.gated == (not bad)
    assert abs(later.seconds["start"] - expected.seconds["start"]) <= 4
    assert not {"begun_s", "progress"} & set(later.to_dict())
    assert pieces.book.read()["replicas"][NAME]["step"] == whole.book.read()["replicas"][NAME]["step"]


def test_the_time_of_a_start_is_counted_over_all_calls(tmp_path: Path) -> None:
    host = host_of(tmp_path)
    loading(host, 1e9)
    order = Order(wait_s=30, start_timeout_s=100)
    result = replace(host, order, NAME, URL, "new")
    while result.begun_s is not None:
        result = replace(host, order, NAME, URL, "new", result.begun_s)
    assert f"{UNIT} is still activating/start-post after 10" in result.error


def test_a_start_that_an_interrupted_run_left_is_waited_for_and_not_begun_anew(tmp_path: Path) -> None:
    host = host_of(tmp_path)
    systemd = loading(host, 100.0)
    assert replace(host, Order(wait_s=5), NAME, URL, "new").begun_s is not None
    systemd.calls.clear()
    result = replace(host, Order(), NAME, URL, "new")
    assert (result.gated, list(result.seconds)) == (True, ["start"])
    assert "stop" not in systemd.calls


def test_a_start_of_another_release_is_no_start_of_this_one(tmp_path: Path) -> None:
    host = host_of(tmp_path)
    systemd = loading(host, 100.0)
    assert replace(host, Order(wait_s=5), NAME, URL, "new").begun_s is not None
    systemd.calls.clear()
    result = restore(host, Order(), NAME, URL, "old")
    assert (result.gated, systemd.running) == (True, "old")
    assert "stop" in systemd.calls


def test_it_waits_for_the_last_request(tmp_path: Path) -> None:
    host = host_of(tmp_path, answers=[BUSY] * 20)
    result = replace(host, Order(), NAME, URL, "new")
    assert result.gated
    assert result.cut_off == 0
    assert result.seconds["idle"] >= 5.0


def test_one_quiet_look_is_not_enough(tmp_path: Path) -> None:
    """A request that left the router and did not reach the engine yet is in neither count."""
    host = host_of(tmp_path, answers=[IDLE, BUSY, BUSY])
    assert replace(host, Order(), NAME, URL, "new").seconds["idle"] > 1.0


@pytest.mark.parametrize(("policy", "stopped"), [("fail", False), ("abort", True)])
def test_what_happens_at_the_deadline_is_the_operators_choice(tmp_path: Path, policy: str, stopped: bool) -> None:
    host = host_of(tmp_path, answers=[BUSY] * 1000)
    result = replace(host, Order(drain_deadline_s=10, drain_policy=policy), NAME, URL, "new")
    assert ("stop" in calls(host)) is stopped
    if stopped:
        assert result.gated
        assert result.cut_off == 3
    else:
        assert "a-0 still has 3 requests 10 s after it was drained. It was not stopped" in result.error
        assert "drain_policy: wait or abort" in result.error
        assert host.book.read()["replicas"][NAME]["step"] == "idle"


def test_waiting_means_waiting(tmp_path: Path) -> None:
    host = host_of(tmp_path, answers=[BUSY] * 1000)
    result = replace(host, Order(drain_deadline_s=10, drain_policy="wait"), NAME, URL, "new")
    assert result.gated
    assert result.cut_off == 0
    assert result.seconds["idle"] > 200


def test_an_engine_that_counts_nothing_leaves_it_to_the_routers(tmp_path: Path) -> None:
    host = host_of(tmp_path, answers=["# no metrics\n"] * 10)
    result = replace(host, Order(), NAME, URL, "new")
    assert result.gated
    assert [note.endswith("the routers' count alone was used") for note in result.notes] == [True]


def test_a_release_that_is_not_there_stops_nothing(tmp_path: Path) -> None:
    host = host_of(tmp_path)
    result = replace(host, Order(), NAME, URL, "lost")
    assert not result.gated
    assert "release lost of a-0 is not on this host" in result.error
    assert calls(host) == []


def test_a_release_that_does_not_come_up_is_left_out_and_put_back(tmp_path: Path) -> None:
    host = host_of(tmp_path, bad=("new",))
    result = replace(host, Order(), NAME, URL, "new")
    assert (result.gated, result.step) == (False, "start")
    assert "RuntimeError: no cores" in result.error
    assert unfinished([result.to_dict()])[0].startswith("a-0: vllm@a-0.service")
    assert host.book.read()["replicas"][NAME]["step"] == "start"

    back = restore(host, Order(), NAME, URL, "old")
    assert (back.gated, back.error) == (True, "")
    assert host.releases.current(NAME)["release"] == "old"
    assert host.releases.previous(NAME)["release"] == "old"


def test_when_both_fail_it_says_so_and_stays_out(tmp_path: Path) -> None:
    host = host_of(tmp_path, bad=("new", "old"))
    replace(host, Order(), NAME, URL, "new")
    back = restore(host, Order(), NAME, URL, "old")
    assert not back.gated
    assert back.error


def test_a_replica_that_was_never_stopped_is_restored_without_a_restart(tmp_path: Path) -> None:
    host = host_of(tmp_path, answers=[BUSY] * 1000)
    replace(host, Order(drain_deadline_s=1), NAME, URL, "new")
    back = restore(host, Order(), NAME, URL, "old")
    assert (back.gated, back.changed, calls(host)) == (True, False, [])


def test_restoring_does_not_fail_for_want_of_an_empty_engine(tmp_path: Path) -> None:
    host = host_of(tmp_path, running="new", answers=[BUSY] * 1000)
    back = restore(host, Order(drain_deadline_s=5, drain_policy="fail"), NAME, URL, "old")
    assert back.gated
    assert back.cut_off == 3


def test_a_new_replica_has_nothing_to_go_back_to_and_is_stopped(tmp_path: Path) -> None:
    host = host_of(tmp_path, running="")
    assert replace(host, Order(), NAME, URL, "new").gated
    back = restore(host, Order(), NAME, URL, "")
    assert (back.gated, back.error) == (False, "")
    assert calls(host)[-1] == "stop"


def test_a_spare_that_is_retired_is_waited_for_and_leaves_nothing_to_start(tmp_path: Path) -> None:
    host = host_of(tmp_path, running="new", answers=[BUSY, IDLE])
    for path in host.releases.root.glob("releases/*/*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "spare": True}))
    result = replace(host, Order(), NAME, URL, "")
    assert (result.error, result.gated, result.changed) == ("", False, True)
    assert host.releases.current(NAME) == {}
    assert replace(host, Order(), NAME, URL, "").error == "", "the second time as well"
    assert describe(host)[NAME]["current"] == ""


def test_what_the_host_reports(tmp_path: Path) -> None:
    host = host_of(tmp_path)
    (tmp_path / "run" / NAME).mkdir(parents=True)
    (tmp_path / "run" / NAME / "replica.json").write_text((tmp_path / "etc/releases/old/a-0.json").read_text())
    row = describe(host)[NAME]
    assert row["active"] == "active"
    assert (row["running"], row["current"], row["previous"]) == ("old", "old", "")
    assert row["staged"] == ["new", "old"]
    assert row["load_s"] == 3.5
    assert row["cores"] == (0, 31)
    assert row["weights"] == "w"


def test_a_run_whose_lock_another_took_stops_before_the_replica_is_touched(tmp_path: Path) -> None:
    host = host_of(tmp_path)
    lost = host.book.take(Claim("run-1", "ann@ops-1", 1, "redeploy"))
    host.book.take(Claim("run-2", "bob@ops-2", 2, "serve"), take_over=["run-1"])
    before = host.book.path.read_bytes()
    for act, release in ((replace, "new"), (replace, ""), (restore, "old")):
        result = act(host, Order(Fence("run-1", lost.number)), NAME, URL, release)
        if act is restore:
            assert not result.changed
            continue
        assert (result.gated, result.changed, result.lost) == (False, False, True)
        assert "it is held by bob@ops-2 (serve, run run-2" in result.error
    assert calls(host) == []
    assert host.book.path.read_bytes() == before


@pytest.mark.parametrize(("after", "left"), [("stop", ["stop"]), ("switch", ["stop"])])
def test_a_lock_that_is_lost_half_way_stops_the_next_step(tmp_path: Path, after: str, left: list[str]) -> None:
    host = host_of(tmp_path)
    mine = host.book.take(Claim("run-1"))

    class Stolen(Book):
        def note(self, name: str, step: str, fence: Fence | None = None, **more: object) -> None:
            super().note(name, step, fence, **more)
            if step == after:
                self.take(Claim("run-2", "bob@ops-2"), take_over=["run-1"])

    host.book = Stolen(tmp_path / "book")
    result = replace(host, Order(Fence("run-1", mine.number)), NAME, URL, "new")
    assert (result.gated, result.lost, calls(host)) == (False, True, left)
    assert "bob@ops-2" in result.error


def test_a_journal_that_cannot_be_read_takes_nobody_out_of_the_report(tmp_path: Path) -> None:
    host = host_of(tmp_path)
    whole = describe(host)[NAME]
    host.book.directory.mkdir(exist_ok=True)
    host.book.path.write_text('{"version": 2, "hol')
    assert describe(host)[NAME] == whole


def started_as(tmp_path: Path, text: str) -> Path:
    """A record of a start, as the server's user could write it."""
    path = tmp_path / "run" / NAME / "replica.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_start_is_told_by_the_release_on_disk_and_not_by_what_the_server_could_write(tmp_path: Path) -> None:
    host = host_of(tmp_path)
    record = json.loads((tmp_path / "etc/releases/old/a-0.json").read_text())
    forged = record | {"url": "file:///etc/shadow", "cores": "32-63", "weights": "x", "served_name": "x"}
    started_as(tmp_path, json.dumps(forged))
    row = describe(host)[NAME]
    assert (row["url"], row["cores"], row["weights"]) == (record.get("url", ""), (0, 31), "w")
    started_as(tmp_path, json.dumps(forged | {"release": "nobody has it"}))
    assert host.releases.started(NAME) == {}


@pytest.mark.parametrize("text", ["", "{", "\0", "[[1]]", "[" * 60_000, '{"version": 9}'])
def test_a_broken_file_is_named_with_what_is_lost_and_nothing_else_changes(tmp_path: Path, text: str) -> None:
    host = host_of(tmp_path)
    whole = describe(host)[NAME]
    assert whole["problems"] == []
    started_as(tmp_path, text)
    gate = tmp_path / "run" / NAME / "gate.json"
    gate.write_text(text)
    row = describe(host)[NAME]
    assert {**row, "problems": []} == whole, "a replica that serves is shown as it is"
    assert len(row["problems"]) == 1
    assert str(gate) in row["problems"][0] and f"systemctl restart {UNIT}" in row["problems"][0]
    link = tmp_path / "etc/current/a-0.json"
    link.unlink()
    link.write_text(text)
    row = describe(host)[NAME]
    assert (row["active"], row["running"]) == ("active", "old")
    if text != '{"version": 9}':
        assert str(link) in row["problems"][0] and "run the serve playbook" in row["problems"][0]


@pytest.mark.parametrize("secret", ["root-only", '{"release": "root-only", "text": "root-only"}'])
def test_a_link_is_not_followed(tmp_path: Path, secret: str) -> None:
    host = host_of(tmp_path)
    (tmp_path / "secret").write_text(secret)
    for name in ("gate.json", "replica.json"):
        (tmp_path / "run" / NAME).mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / NAME / name).symlink_to(tmp_path / "secret")
    assert "root-only" not in json.dumps(describe(host))


def test_a_process_of_the_release_is_not_enough_where_the_link_says_another(tmp_path: Path) -> None:
    """Its next start, after a crash, would be of the other one."""
    host = host_of(tmp_path)
    assert isinstance(host.systemd, FakeSystemd)
    host.systemd.running = "new"
    result = replace(host, Order(), NAME, URL, "new")
    assert (result.gated, list(result.seconds)) == (True, ["idle", "stop", "switch", "start"])
    assert host.releases.current(NAME)["release"] == "new"


def test_one_that_died_and_is_started_again_and_again_is_not_waited_for(tmp_path: Path) -> None:
    host = host_of(tmp_path, running="new")
    systemd = loading(host, 0.0)
    systemd.active, systemd.running, systemd.sub = "activating", "", "auto-restart"
    result = replace(host, Order(), NAME, URL, "new")
    assert (result.gated, "stop" in systemd.calls) == (True, True)


def test_one_that_comes_up_on_another_release_is_not_gated(tmp_path: Path) -> None:
    host = host_of(tmp_path)
    systemd = loading(host, 0.0)
    really = systemd.call

    def call(*arguments: str) -> str:
        said = really(*arguments)
        if arguments[0] == "start":
            systemd.running = "older"
        return said

    systemd.call = call  # type: ignore[method-assign]
    result = replace(host, Order(), NAME, URL, "new")
    assert (result.gated, result.step) == (False, "start")
    assert "came up on release older, not new" in result.error
