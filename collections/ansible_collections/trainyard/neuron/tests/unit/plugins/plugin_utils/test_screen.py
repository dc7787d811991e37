# SPDX-License-Identifier: Apache-2.0
"""The lines that a run prints for people."""

from __future__ import annotations

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils import screen


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (125, "2 min 5 s"), (3600, "1 h"), (4320, "1 h 12 min")],
)
def test_a_time_is_told_in_the_units_that_it_has(seconds: float, text: str) -> None:
    assert screen.duration(seconds) == text


def test_what_runs_is_named_before_the_files() -> None:
    result = {
        "installed": ["package haproxy"],
        "changed_paths": ["/a", "/b", "/c"],
        "units": [{"name": "haproxy.service", "did": ["reloaded"]}, {"name": "idle.service", "did": []}],
    }
    assert screen.changes(result) == "haproxy.service (reloaded), package haproxy, /a, and 2 more"
    assert screen.changes({"changed": True}) == ""
    assert screen.changes(result, room=60) == "haproxy.service (reloaded), package haproxy, /a, and 2 more"
    assert screen.changes(result, room=55) == "haproxy.service (reloaded), package haproxy, and 3 more"
    assert screen.changes(result, room=-3) == "haproxy.service (reloaded), and 4 more"
    assert screen.changes({"changed_paths": ["/a"]}, room=1) == "/a"


def test_a_failure_has_its_message_and_what_the_command_said() -> None:
    assert screen.message_of({"msg": "one\ntwo\n", "stderr": "noise"}) == ["one", "two"]
    assert screen.message_of({"msg": "non-zero return code", "stderr": "disk full"}) == [
        "non-zero return code",
        "disk full",
    ]
    assert screen.message_of({}) == ["(it gave no reason)"]


def test_a_hidden_result_shows_nothing_of_it() -> None:
    assert "hunter2" not in "".join(screen.message_of({"censored": "hidden", "msg": "hunter2"}))


def test_a_host_s_text_does_not_move_the_cursor() -> None:
    assert screen.lines_of("a\x1b[2Jb\rc\td") == ["a?[2Jb?c\td"]
    assert "\x1b" not in screen.changes({"changed_paths": ["/a\x1b[31m"]})


@pytest.mark.parametrize(
    ("changed", "failed", "check", "text"),
    [
        ({}, [], False, "nothing to change, 4 s"),
        ({"a": 2, "b": 1}, [], False, "3 changed on 2 hosts, 4 s"),
        ({"a": 1}, [], True, "1 to change on 1 host, 4 s"),
        ({"a": 0}, ["b", "b"], False, "nothing to change, failed on b, 4 s"),
        ({}, list("abcdefg"), False, "nothing to change, failed on a, b, c, d, e and 2 more, 4 s"),
    ],
)
def test_a_stage_is_summed_up(changed: dict[str, int], failed: list[str], check: bool, text: str) -> None:
    assert screen.summary(changed, failed, 4, check) == text


def test_a_warning_of_many_hosts_is_told_once() -> None:
    found = {"the clock is off": ["a", "b", "a"], "c: too little memory": ["c"]}
    assert screen.warnings(found) == ["Warnings (2)", "  ! the clock is off  (a, b)", "  ! c: too little memory"]
    assert screen.warnings({}) == []
