# SPDX-License-Identifier: Apache-2.0
"""The answers of all hosts: what ends a run, what is said of hosts beyond a limit, and the controller's own place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.preflight.hearing import PreflightError, heard

PROBLEM = {
    "host": "b",
    "variable": "ansible_host",
    "value": "b",
    "rule": "cannot be asked: no route",
    "fix": "start it",
}
REPORTS: dict[str, dict[str, Any]] = {
    "a": {"changed": False, "problems": []},
    "b": {"changed": False, "asked": False, "problems": [PROBLEM]},
    "c": {"changed": False, "problems": [{**PROBLEM, "host": "c", "rule": "is full"}]},
}


def test_every_problem_of_every_host_ends_the_run() -> None:
    found = heard(REPORTS, list("abcd"), list("abcd"), as_far_as_possible=False)
    assert [one.host for one in found.problems] == ["b", "c"]
    assert found.warnings == []
    text = str(PreflightError(found.problems))
    assert text.splitlines()[0] == "preflight found 2 problems; nothing was changed"
    assert str(PreflightError(found.problems[:1])).startswith("preflight found 1 problem;")


def test_the_way_to_a_host_that_is_silent_itself_is_not_told_beside_it() -> None:
    row = {"host": "a", "variable": "network", "value": "10.0.0.2:8000", "fix": "open it"}
    ways = [{**row, "rule": f"replica {name}:m-0 is not reached from here"} for name in "bcd"]
    found = heard({**REPORTS, "a": {"problems": ways}}, list("abcd"), list("abc"), as_far_as_possible=False)
    assert [one.rule[:11] for one in found.problems if one.variable == "network"] == ["replica c:m"]
    pages = [{**row, "rule": f"{name}: the page of its metrics is not reached from here"} for name in "bcd"]
    found = heard({**REPORTS, "a": {"problems": pages}}, list("abcd"), list("abc"), as_far_as_possible=False)
    assert [one.rule[:6] for one in found.problems if one.variable == "network"] == ["c: the"]


def test_as_far_as_possible_leaves_behind_who_does_not_answer_and_nobody_else() -> None:
    found = heard(REPORTS, list("abcd"), list("abcd"), as_far_as_possible=True)
    assert [one.host for one in found.problems] == ["c"]
    assert found.warnings == ["b is left behind: it cannot be asked: no route"]


def test_a_limit_is_said_with_those_beyond_it() -> None:
    found = heard(REPORTS, list("abcd"), ["a"], as_far_as_possible=False)
    assert found.problems == []
    (said,) = found.warnings
    assert said.startswith("--limit: 3 of 4 hosts were not asked")
    assert said.endswith(": b, c, d")
    many = [f"h{number}" for number in range(20)]
    (said,) = heard(REPORTS, many, ["h0"], as_far_as_possible=False).warnings
    assert said.endswith("h8 and 11 more")


def test_reports_have_a_place_on_the_controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert heard({}, [], [], False, str(tmp_path / "new" / "results")).problems == []
    (tmp_path / "file").write_text("")
    (wrong,) = heard({}, [], [], False, str(tmp_path / "file" / "results")).problems
    assert wrong.variable == "trainyard_results_dir"
    monkeypatch.setattr("os.access", lambda *_: False)
    assert len(heard({}, [], [], False, str(tmp_path)).problems) == 1
