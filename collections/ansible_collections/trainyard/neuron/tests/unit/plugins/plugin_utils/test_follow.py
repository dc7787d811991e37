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
