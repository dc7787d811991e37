# SPDX-License-Identifier: Apache-2.0
"""The loop that follows units which are still starting: what it asks, prints and returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils import follow

PENDING = {
    "waits": [{"name": "vllm@a-0.service", "verb": "start", "timeout_s": 9.0}],
    "began_s": 1.0,
    "problems": [],
}
FIRST = {
    "changed": True,
    "msg": "1 path; vllm@a-0.service started",
    "laid_out": "1 path",
    "paths": [{"path": "/etc/x"}],
    "units": [
        {
            "name": "vllm@a-0.service",
            "did": ["started"],
            "reasons": ["inactive"],
            "active": "activating",
            "main_pid": 7,
        },
        {"name": "probe.service", "did": [], "reasons": [], "active": "active", "main_pid": 8},
    ],
}


def running(progress: str) -> list[dict[str, str]]:
    return [{"name": "vllm@a-0.service", "progress": progress}]


class Host:
    """A module that answers what was written down, and remembers how it was asked."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Any, int]] = []
        self.said: list[str] = []

    def again(self, pending: Any, wait_s: int) -> dict[str, Any]:
        self.asked.append((pending, wait_s))
        return self.answers.pop(0)

    def say(self, rows: list[Mapping[str, Any]]) -> None:
        self.said += follow.lines("trn-1", rows)


def test_what_starts_nothing_is_one_module_run() -> None:
    host, first = Host(), {"changed": False, "units": [{"name": "a.service", "active": "active"}]}
    assert follow.followed(dict(first), host.again, host.say) == first
    assert (host.asked, host.said) == ([], [])


def test_it_asks_with_growing_waits_until_all_have_arrived_and_prints_how_far_they_are() -> None:
    phases = [f"loading weights {done}/9, {done} min of about 9 min ({done * 11} %)" for done in range(1, 6)]
    host = Host(
        *({"pending": {**PENDING, "began_s": float(n)}, "running": running(text)} for n, text in enumerate(phases[1:])),
        {"changed": False, "units": [{"name": "vllm@a-0.service", "active": "active", "main_pid": 9}]},
    )
    done = follow.followed({**FIRST, "pending": PENDING, "running": running(phases[0])}, host.again, host.say)
    assert [asked[1] for asked in host.asked] == [10, 15, 30, 30, 30]
    assert [asked[0]["began_s"] for asked in host.asked] == [1.0, 0.0, 1.0, 2.0, 3.0], (
        "what the host said last goes back"
    )
    assert host.said == [f"  trn-1: vllm@a-0: {text}" for text in phases]
    assert done["units"][0] == {**FIRST["units"][0], "active": "active", "main_pid": 9}  # type: ignore[index]
    assert done["units"][1] == FIRST["units"][1]  # type: ignore[index]
    assert {key: done[key] for key in ("changed", "msg", "paths")} == {
        key: FIRST[key] for key in ("changed", "msg", "paths")
    }
    assert not {"pending", "running", "laid_out"} & set(done)


def test_a_failure_of_file_tree_says_what_it_says_when_one_run_finds_it() -> None:
    host = Host({"failed": True, "changed": False, "msg": "vllm@a-0.service is failed (exit code 3)."})
    done = follow.followed({**FIRST, "pending": PENDING, "running": running("x")}, host.again, host.say)
    assert done["failed"]
    assert done["changed"]
    assert done["msg"] == "vllm@a-0.service is failed (exit code 3).\n(1 path)"
    assert done["paths"] == FIRST["paths"]
    assert "units" not in done


def test_a_failure_of_units_is_the_modules_own() -> None:
    first = {key: FIRST[key] for key in ("changed", "msg", "units")}
    host = Host({"failed": True, "changed": False, "msg": "vllm@a-0.service is failed."})
    done = follow.followed({**first, "pending": PENDING, "running": running("x")}, host.again, host.say)
    assert done == {"failed": True, "changed": False, "msg": "vllm@a-0.service is failed."}


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        ("waits for its turn to load: a-1 first", "  trn-1: vllm@a-0: waits for its turn to load: a-1 first"),
        ("\x1b[2Jloading\nok", "  trn-1: vllm@a-0: ?[2Jloading?ok"),
    ],
)
def test_lines_are_plain_whatever_a_host_says(progress: str, line: str) -> None:
    assert follow.lines("trn-1", running(progress)) == [line]


def test_units_that_are_equally_far_share_a_line() -> None:
    rows = [{"name": f"vllm@a-{n}.service", "progress": "warm-up, 4 s" if n != 1 else "queued"} for n in range(3)]
    assert follow.lines("trn-1", rows) == ["  trn-1: vllm@a-0, vllm@a-2: warm-up, 4 s", "  trn-1: vllm@a-1: queued"]


MOVES = [{"id": f"h1:a-{n}", "name": f"a-{n}", "url": "http://h1", "release": "new", "was": "old"} for n in range(3)]


def row(number: int, **given: Any) -> dict[str, Any]:
    """What the module says of a replica that has arrived, unless something else is given."""
    seconds = {"idle": 0.5, "stop": 3.0, "start": 9.0}
    done = {
        "id": f"h1:a-{number}",
        "name": f"a-{number}",
        "release": "new",
        "gated": True,
        "step": "gated",
        "error": "",
    }
    return {**done, "changed": True, "cut_off": 0, "notes": [], "seconds": seconds, **given}


def starting(number: int, **given: Any) -> dict[str, Any]:
    return row(number, gated=False, step="start", begun_s=100.0 + number, progress=f"loading {number}/8", **given)


class Module:
    """The module of a roll's step, with answers that were written down."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[list[tuple[str, float | None]], int]] = []
        self.said: list[str] = []

    def run(self, moves: list[dict[str, Any]], wait_s: int) -> dict[str, Any]:
        self.asked.append(([(move["id"], move.get("begun_s")) for move in moves], wait_s))
        return self.answers.pop(0)

    def say(self, rows: list[Mapping[str, Any]]) -> None:
        self.said += follow.lines("h1", rows)

    def moved(self) -> dict[str, Any]:
        return follow.moved(MOVES, self.run, self.say)


def test_replicas_that_arrive_at_once_are_one_module_run() -> None:
    answer = {"changed": True, "replicas": [row(0), row(1), row(2)]}
    module = Module(answer)
    assert module.moved() == answer
    assert module.asked == [([("h1:a-0", None), ("h1:a-1", None), ("h1:a-2", None)], 5)]
    assert module.said == []


def test_only_those_that_still_start_are_asked_for_again() -> None:
    cut = {"cut_off": 2, "notes": ["2 requests were cut off"], "seconds": {"idle": 900.0, "start": 5.0}}
    module = Module(
        {"changed": True, "replicas": [row(0), starting(1, **cut), starting(2)]},
        {"changed": True, "replicas": [starting(1, seconds={"start": 15.0}), row(2, seconds={"start": 12.0})]},
        {"changed": True, "replicas": [row(1, seconds={"start": 44.0})]},
    )
    done = module.moved()
    assert module.asked[1:] == [([("h1:a-1", 101.0), ("h1:a-2", 102.0)], 10), ([("h1:a-1", 101.0)], 15)]
    assert module.said == [
        "  h1: vllm@a-1: loading 1/8",
        "  h1: vllm@a-2: loading 2/8",
        "  h1: vllm@a-1: loading 1/8",
    ]
    assert "failed" not in done
    assert [found["id"] for found in done["replicas"]] == ["h1:a-0", "h1:a-1", "h1:a-2"]
    assert done["replicas"][1] == row(1, **{**cut, "seconds": {"idle": 900.0, "start": 44.0}})


def test_a_failure_waits_for_the_others_and_all_are_told_of() -> None:
    module = Module(
        {
            "failed": True,
            "msg": "a-0: no gate",
            "replicas": [row(0, gated=False, error="no gate"), starting(1), starting(2)],
        },
        {"failed": True, "msg": "a-1: died", "replicas": [row(1, gated=False, error="died"), starting(2)]},
        {"changed": True, "replicas": [row(2)]},
    )
    done = module.moved()
    assert (done["failed"], done["msg"]) == (True, "a-0: no gate\na-1: died")
    assert [found["gated"] for found in done["replicas"]] == [False, False, True]


def test_a_lock_that_is_lost_meanwhile_leaves_nothing_known_of_what_was_starting() -> None:
    lost = {"failed": True, "lock_lost": True, "msg": "it is held by bob@ops-2"}
    module = Module({"changed": True, "replicas": [row(0), starting(1), starting(2)]}, lost)
    done = module.moved()
    assert (done["failed"], done["lock_lost"], done["msg"]) == (True, True, lost["msg"])
    assert [found["id"] for found in done["replicas"]] == ["h1:a-0"]


def test_a_lock_that_one_of_them_lost_is_not_forgotten() -> None:
    module = Module(
        {
            "failed": True,
            "lock_lost": True,
            "replicas": [row(0, gated=False, error="it is held", lost=True), starting(1)],
        },
        {"changed": True, "replicas": [row(1)]},
    )
    done = module.moved()
    assert (done["failed"], done["lock_lost"], done["msg"]) == (True, True, "a-0: it is held")
