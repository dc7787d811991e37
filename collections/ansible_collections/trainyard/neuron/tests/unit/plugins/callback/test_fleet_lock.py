# SPDX-License-Identifier: Apache-2.0
"""The end of a run that failed: its lock comes back by a run of the same arguments, or it is said how it goes on."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.callback import fleet_lock
from ansible_collections.trainyard.neuron.plugins.callback.fleet_lock import ASKING, given_back, lock_message, without

HOLDER = {"run": "17abc", "pid": 17, "verb": "serve", "lease_s": 7200.0}
HELD = [{"host": "h1", "holder": HOLDER}, {"host": "h2", "holder": HOLDER}]


def test_the_command_line_stays_as_it_is_but_for_its_playbooks() -> None:
    argv = ["-i", "site.yml", "--tags=x", "site.yml", "-e", "a=b", "more.yml"]
    assert without(argv, ("site.yml", "more.yml")) == ["-i", "site.yml", "--tags=x", "-e", "a=b"]
    assert without(argv, ("elsewhere.yml",)) == argv


def test_it_runs_as_the_last_part_of_the_run_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[list[str], dict[str, str]]] = []

    def run(argv: list[str], env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        ran.append((argv, env))
        return subprocess.CompletedProcess(argv, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("ANSIBLE_STDOUT_CALLBACK", "ansible.posix.json")
    assert given_back({"args": ("serve.yml",)}, ["serve.yml", "-i", "inv"], HOLDER)
    ((argv, environment),) = ran
    assert argv[1:6] == ["-m", "ansible", "playbook", "-i", "inv"]
    assert argv[6] == "trainyard.neuron.unlock"
    assert (environment["TRAINYARD_RUN"], environment["TRAINYARD_RUN_OVER"]) == ("17abc:17", "1")
    assert "ANSIBLE_STDOUT_CALLBACK" not in environment


@pytest.mark.parametrize("option", ASKING)
def test_where_somebody_is_asked_at_the_terminal_nothing_is_run(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_lock.subprocess, "run", lambda *_, **__: pytest.fail("it ran"))
    assert not given_back({"args": (), option: "yes"}, [], HOLDER)


def test_what_is_left_is_told_with_the_ways_on() -> None:
    text = lock_message(HELD, given=False)
    assert "run 17abc) has the lock of h1, h2 still" in text
    assert "run the same again from here" in text
    assert "-e trainyard_take_over=17abc" in text
    assert "ends in 2 h" in text
    assert json.dumps(lock_message(HELD, given=True)).startswith('"The lock of h1, h2 is given back')
