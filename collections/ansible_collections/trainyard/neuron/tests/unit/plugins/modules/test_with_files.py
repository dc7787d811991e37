# SPDX-License-Identifier: Apache-2.0
"""Paths that a module lays out before its own work: one run, one answer, nothing lost of either."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.trainyard.neuron.plugins.module_utils import entries, job_units, prerequisites
from ansible_collections.trainyard.neuron.plugins.module_utils.entries import Entry
from ansible_collections.trainyard.neuron.plugins.modules import jobs

Look = Callable[..., dict[str, Any]]


@pytest.fixture
def look(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Look:
    """Look for a job whose result is missing, and lay out a file; returns the module's result."""
    job = {"kind": "weights", "id": "m-1", "path": str(tmp_path / "m"), "inputs": {}, "spec": {}}

    def run(*wanted: Entry, users: tuple[dict[str, str], ...] = (), **more: Any) -> dict[str, Any]:
        files = {"payload": entries.pack(wanted), "users": list(users)}
        given = {"state": "looked", "jobs": [job], "files": files, "_ansible_diff": True, **more}
        with patch_module_args(given), pytest.raises(SystemExit):
            jobs.main()
        return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))

    return run


def test_both_are_done_and_told_and_the_second_run_does_nothing(look: Look, tmp_path: Path) -> None:
    path = tmp_path / "unit"
    wanted = Entry(str(path), content=b"new\n")
    check = look(wanted, _ansible_check_mode=True)
    assert (check["changed"], check["missing"], path.exists()) == (True, ["m-1"], False)
    done = look(wanted)
    assert (done["changed"], done["missing"], done["files"]["changed_paths"]) == (True, ["m-1"], [str(path)])
    assert path.read_text() == "new\n"
    assert [row["after"] for row in done["diff"]] == [row["after"] for row in check["diff"]] == ["new\n"]
    path.chmod(0o600)
    assert look(wanted)["files"]["msg"] == f"1 of 1 paths changed: {path} (mode 0600 -> 0644)"
    again = look(wanted)
    assert (again["changed"], again["diff"], again["files"]["changed_paths"]) == (False, [], [])


def test_the_modules_own_change_and_difference_stay(
    look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Entry(str(tmp_path / "unit"), content=b"new\n")
    look(wanted)
    monkeypatch.setattr(job_units.JobUnits, "_active", lambda *_: False)
    monkeypatch.setattr(job_units.JobUnits, "start", lambda *_: None)
    started = look(wanted, state="started")
    assert (started["changed"], started["files"]["changed_paths"]) == (True, [])
    assert [row["before"] for row in started["diff"]] == [f"{tmp_path}/m: absent\n"]


def test_a_failure_of_either_tells_what_was_laid_out(look: Look, tmp_path: Path) -> None:
    path = tmp_path / "unit"
    refused = look(Entry(str(path), content=b"x", validate="false %s"))
    assert refused["failed"] is True
    assert not path.exists()
    failed = look(Entry(str(path), content=b"x"), jobs=[{"kind": "weights", "id": "a b", "path": "/x", "inputs": {}}])
    assert failed["failed"] is True
    assert "cannot be part of a unit name" in failed["msg"]
    assert failed["files"]["changed_paths"] == [str(path)]


def test_a_user_that_is_missing_is_told_before_anything_is_laid_out(
    look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = {"name": "trainyard-test", "home": "/nowhere", "shell": "/usr/sbin/nologin"}
    monkeypatch.setattr(prerequisites, "wrong_users", list)
    told = look(Entry(str(tmp_path / "unit"), content=b"x"), users=(user,))
    assert (told["changed"], told["lacking"]) == (True, {"packages": [], "users": [user]})
    assert not (tmp_path / "unit").exists()
