# SPDX-License-Identifier: Apache-2.0
"""Leaving a block in time: who leaves, until when, what becomes of each request, and the watch that does it."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible_collections.trainyard.neuron.plugins.action import evacuation as action
from ansible_collections.trainyard.neuron.plugins.action import roll_plan
from ansible_collections.trainyard.neuron.plugins.plugin_utils import block_times, block_watch, run_lock, run_plan
from ansible_collections.trainyard.neuron.plugins.plugin_utils.evacuation import (
    EvacuationError,
    evacuation_of,
    outcome,
    servers_of,
)

from trainyard import block_watch_command
from trainyard.plan_command import InventoryError

END = datetime(2026, 12, 2, 11, 30, tzinfo=UTC)
BLOCK = block_times.Block(END, ("a", "b"))


def test_hosts_leave_whose_block_leaves_no_time_and_their_requests_have_until_ec2_terminates() -> None:
    later = block_times.Block(END + timedelta(days=1), ("c",))
    found = evacuation_of([BLOCK, later], [], END - timedelta(minutes=45), 900)
    assert (list(found.hosts), found.deadline_s) == (["a", "b"], 780.0)
    assert evacuation_of([BLOCK], [], END - timedelta(minutes=45), 600).deadline_s == 600
    assert evacuation_of([BLOCK], [], END - timedelta(minutes=31), 900).deadline_s == 0.0
    assert evacuation_of([BLOCK, later], ["c"], END - timedelta(minutes=45), 900).deadline_s == 900


def test_nobody_leaves_before_the_time_unless_named() -> None:
    with pytest.raises(EvacuationError, match=r"no host is about to leave: Capacity block of a, b.*trainyard_only"):
        evacuation_of([BLOCK], [], END - timedelta(minutes=46), 900)
    with pytest.raises(EvacuationError, match="no host says trainyard_capacity_block_end"):
        evacuation_of([], [], END, 900)
    assert evacuation_of([], ["x"], END, 900).to_dict()["end"] == ""


def test_a_router_drains_what_is_on_hosts_that_leave_once_each() -> None:
    models = [
        {"servers": [{"id": "a:x-0", "host": "a"}, {"id": "c:x-0", "host": "c"}]},
        {"servers": [{"id": "a:y-0", "host": "a"}, {"id": "a:x-0", "host": "a"}]},
    ]
    assert servers_of(models, ["a"]) == ["a:x-0", "a:y-0"]


def planned(now: datetime) -> dict[str, Any]:
    return evacuation_of([BLOCK], [], now, 900).to_dict()


def test_every_host_router_and_request_is_accounted_for() -> None:
    began = END - timedelta(minutes=45)
    drained = {
        "r1": {"servers": ["a:x-0"], "left": {}, "problem": ""},
        "r2": {"servers": ["a:x-0", "b:x-0"], "left": {"b:x-0": 3}, "problem": ""},
        "r3": {"problem": "/run/haproxy/admin.sock: refused", "servers": ["a:x-0"], "left": {}},
        "r4": {"unreachable": True},
        "r5": None,
    }
    saved = {"a": "", "b": None, "c": "it took too long"}
    found = outcome(planned(began), drained, saved, began + timedelta(minutes=5), ["a"])
    text = "\n".join(found.lines)
    assert found.failed
    assert found.lines[0] == "a, b out of rotation after 300 s, 10 min before EC2 begins to terminate."
    for said in (
        "router r1: sends nothing to 1 servers; the last request has ended",
        "router r2: sends nothing to 2 servers; requests longer than 780 s go on until EC2 ends them: b:x-0 has 3",
        "router r3: /run/haproxy/admin.sock: refused. It may still send requests",
        "router r4: it does not answer. It may still send requests",
        "host b: does not answer; nothing was saved there",
        "host c: not saved: it took too long",
        "saved: artifacts and results of a",
        "router a is on a host that leaves",
    ):
        assert said in text
    assert "r5" not in text
    well = outcome(planned(began), {"r1": drained["r1"]}, {"a": "", "b": None}, began + timedelta(minutes=14))
    assert not well.failed
    late = outcome(planned(began), {"r1": drained["r1"]}, {}, END - timedelta(minutes=29))
    assert late.failed and "too late: EC2 has begun to terminate" in late.lines[0]


class Router(action.ActionModule):
    """The action with a router of a test's."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers
        self.asked: list[dict[str, Any]] = []

    def _execute_module(self, module_name: str = "", module_args: Any = None, **_more: Any) -> dict[str, Any]:  # type: ignore[override]
        assert module_name == "trainyard.neuron.router_server"
        self.asked.append(module_args)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)


DONE = {"changed": True, "arrived": True, "left": {}}
GONE = {"failed": True, "arrived": False, "left": {}, "msg": "admin.sock: connection refused"}
LONG = {"failed": True, "arrived": False, "left": {"a:x-0": 2}, "msg": "a:x-0 still has 2 requests"}


def drain(
    monkeypatch: pytest.MonkeyPatch, answers: list[Any], deadline_s: float = 100
) -> tuple[dict[str, Any], Router]:
    router = Router(answers)
    models = {"models": [{"servers": [{"id": "a:x-0", "host": "a"}]}]}
    monkeypatch.setattr(run_plan, "current", lambda: type("Plan", (), {"router": lambda *_: models})())
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    given = {"hosts": ["a"], "began_at": time.time(), "deadline_s": deadline_s}
    variables = {"inventory_hostname": "r1"}
    return router._leave({"evacuation": given}, variables, waits=True), router


def test_a_router_that_restarts_is_asked_again_and_a_long_request_is_named_and_not_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, router = drain(monkeypatch, [GONE, AnsibleConnectionFailure("no way"), DONE])
    assert found["problem"] == "" and found["changed"] and len(router.asked) == 3
    assert {row["state"] for row in router.asked} == {"drain"} and 90 < router.asked[0]["timeout_s"] <= 100
    found, router = drain(monkeypatch, [LONG])
    assert found["left"] == {"a:x-0": 2} and found["problem"] == "" and len(router.asked) == 1
    found, router = drain(monkeypatch, [GONE, GONE], deadline_s=-1)
    assert found["problem"] == "admin.sock: connection refused" and len(router.asked) == 2
    found, router = drain(monkeypatch, [{**GONE, "lock_lost": True, "msg": "held by another"}])
    assert found["problem"] == "held by another" and len(router.asked) == 1


HOLDER = {
    "run": "other",
    "owner": "somebody@elsewhere",
    "pid": 1,
    "verb": "redeploy",
    "process": "",
    "lease_s": 60.0,
    "number": 1,
    "boot": "",
    "since_s": 0.0,
    "ends_s": 60.0,
}


class Taker(run_lock.Locking):
    """Takes a lock that another run holds until it is taken over."""

    class _Task:
        check_mode = True

    _task = _Task()
    _templar = None

    def __init__(self) -> None:
        self.claims: list[list[str]] = []

    def run(self, *_: Any, **_more: Any) -> dict[str, Any]:
        raise AssertionError("it is not run")

    def _execute_module(self, module_name: str = "", module_args: Any = None, **_more: Any) -> dict[str, Any]:  # type: ignore[override]
        assert module_name == "trainyard.neuron.topology_info"
        self.claims.append(list(module_args["claim"]["take_over"]))
        refused = "" if "other" in self.claims[-1] else "held by other"
        return {"lock": {"refused": refused, "holder": HOLDER}}


@pytest.mark.parametrize(("verb", "claims"), [("evacuate", [[], ["other"]]), ("redeploy", [[]])])
def test_an_evacuation_takes_the_lock_of_any_other_run_and_no_other_verb_does(
    verb: str, claims: list[list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(run_lock, "current", lambda: run_lock.RunLock(tmp_path / "lock"))
    taker = Taker()
    taker.take("trainyard.neuron.topology_info", {}, verb, {"inventory_hostname": "a"})
    assert taker.claims == claims


# The watch


def hosts(end: datetime = END) -> dict[str, Any]:
    return {"hosts": {name: {"trainyard_capacity_block_end": end.isoformat()} for name in ("a", "b")}}


class Watch:
    """A watch whose clock a test sets."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[str] = []
        self.evacuated: list[tuple[str, ...]] = []
        self.ends_well = True

    def look(self, before: timedelta, fleet: Any = None) -> block_watch.Memory:
        def read() -> Any:
            if isinstance(fleet, Exception):
                raise fleet
            return hosts() if fleet is None else fleet

        def evacuate(block: block_times.Block) -> bool:
            self.evacuated.append(tuple(block.hosts))
            return self.ends_well

        return block_watch_command.look(self.path, read, evacuate, self.said.append, lambda: END - before)


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch(tmp_path / block_watch.NAME)


def test_the_last_chance_to_extend_is_told_once_and_hosts_leave_once_at_45_minutes(watch: Watch) -> None:
    for minutes in (120, 91, 90, 75, 61, 60, 46):
        watch.look(timedelta(minutes=minutes))
    assert len(watch.said) == 1 and "can be extended until 10:30 UTC" in watch.said[0]
    assert watch.evacuated == []
    for minutes in (45, 44, 31, 30, 5):
        watch.look(timedelta(minutes=minutes))
    assert watch.evacuated == [("a", "b")]


def test_an_evacuation_that_fails_is_tried_until_ec2_terminates(watch: Watch) -> None:
    watch.ends_well = False
    for minutes in (45, 44, 30):
        watch.look(timedelta(minutes=minutes))
    assert len(watch.evacuated) == 2
    memory = block_watch.read(watch.path)
    assert memory and next(iter(memory.left.values()))["tries"] == 2


def test_an_extension_moves_everything_and_a_watch_that_cannot_ask_goes_by_what_it_knew(watch: Watch) -> None:
    watch.look(timedelta(minutes=61))
    watch.look(timedelta(minutes=45), hosts(END + timedelta(days=1)))
    assert watch.evacuated == []
    watch.look(timedelta(minutes=50))
    memory = watch.look(timedelta(minutes=44), InventoryError("EC2 cannot be asked"))
    assert watch.evacuated == [("a", "b")] and memory.problem == "EC2 cannot be asked"


def test_what_the_watch_remembers_is_whole_or_the_watch_goes_on_without_it(watch: Watch) -> None:
    watch.path.write_text('{"version": 1, "looked_at"')
    watch.look(timedelta(minutes=45))
    assert watch.evacuated == [("a", "b")] and "is not what the watch wrote" in watch.said[0]


def test_the_watch_is_itself_watched(watch: Watch) -> None:
    now = END - timedelta(minutes=46)
    assert block_watch.lines(watch.path, [], now) == []
    assert block_watch.lines(watch.path, [BLOCK], now)[0].startswith("Nobody watches the capacity block")
    watch.look(timedelta(minutes=46))
    assert block_watch.lines(watch.path, [BLOCK], now + timedelta(seconds=180)) == []
    (late,) = block_watch.lines(watch.path, [BLOCK], now + timedelta(seconds=181))
    assert "is late: it looked last at 2026-12-02T10:44:00Z, 3 min ago" in late
    watch.look(timedelta(minutes=45), InventoryError("no way"))
    said = block_watch.lines(watch.path, [BLOCK], END - timedelta(minutes=45))
    assert said == [
        "The watch over the capacity block goes by what it knew: no way.",
        "a, b: evacuated at 2026-12-02T10:45:00Z, 1 tries.",
    ]
    watch.path.write_text("[]")
    assert "Nobody may be watching" in block_watch.lines(watch.path, [BLOCK], now)[0]
    assert block_watch.lines(watch.path, [BLOCK], END) == []


def test_status_says_what_is_with_the_watch(watch: Watch) -> None:
    now = END - timedelta(hours=3)
    told = roll_plan.with_blocks({"msg": []}, [BLOCK], now, watch.path)
    assert told["msg"][-1].startswith("Nobody watches the capacity block")


def test_the_countdown_is_a_metric(watch: Watch) -> None:
    memory = watch.look(timedelta(minutes=45))
    block = block_times.Block(END, ("a", "b"), END - timedelta(hours=1), 72.0)
    text = block_watch.metrics(memory, [block], END - timedelta(minutes=45))
    labels = '{end="2026-12-02T11:30:00Z",hosts="a,b"}'
    assert f"trainyard_capacity_block_left_seconds{labels} 2700.000\n" in text
    assert f"trainyard_capacity_block_evacuated{labels} 1.000\n" in text
    assert f"trainyard_capacity_block_cost_usd{labels} 18.000\n" in text
    assert f"trainyard_block_watch_looked_timestamp_seconds {memory.looked_at:.3f}\n" in text
    assert all(line.startswith("#") or float(line.rsplit(" ", 1)[1]) >= 0 for line in text.splitlines())


def test_the_command_looks_once_remembers_beside_the_inventory_and_writes_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from trainyard.cli import app

    folder = tmp_path / "inventory"
    folder.mkdir()
    end = datetime.now(UTC) + timedelta(minutes=40)
    ran: list[list[str]] = []
    monkeypatch.setattr(block_watch_command, "read_fleet", lambda *_: hosts(end))
    done = type("Done", (), {"returncode": 0})
    monkeypatch.setattr(block_watch_command.subprocess, "run", lambda argv, **_: ran.append(argv) or done)
    result = CliRunner().invoke(app, ["block-watch", "-i", str(folder), "--metrics", str(tmp_path / "blocks.prom")])
    assert result.exit_code == 0, result.output
    assert ran[0][1].endswith("playbooks/evacuate.yml") and json.loads(ran[0][-1]) == {"trainyard_only": "a,b"}
    assert json.loads((folder / block_watch.NAME).read_text())["looked_at"] > 0
    assert "trainyard_capacity_block_left_seconds" in (tmp_path / "blocks.prom").read_text()
