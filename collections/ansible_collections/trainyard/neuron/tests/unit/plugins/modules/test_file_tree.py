# SPDX-License-Identifier: Apache-2.0
"""Paths and the units that they are for, in one module run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.trainyard.neuron.plugins.module_utils import entries, units
from ansible_collections.trainyard.neuron.plugins.modules import file_tree

ROW = "ActiveState={active}\nSubState=running\nUnitFileState=enabled\nNeedDaemonReload=no\nMainPID=0\nResult={result}\n"


class OneUnit(units.Systemd):
    """A systemd with one running unit, which sees what is on disk when it is told to do something."""

    def __init__(self, watched: Path, fails: bool = False) -> None:
        self.watched, self.fails = watched, fails
        self.calls: list[tuple[str, str]] = []

    def call(self, *arguments: str) -> str:
        if arguments[0] == "show" and "--property=InvocationID" in arguments:
            return ""
        if arguments[0] == "show":
            failed = self.fails and bool(self.calls)
            return ROW.format(active="failed" if failed else "active", result="exit-code" if failed else "success")
        self.calls.append((arguments[0], self.watched.read_text() if self.watched.is_file() else ""))
        return ""

    def journal(self, name: str, lines: int) -> list[str]:  # noqa: ARG002
        return ["its last words"]


def run(capsys: pytest.CaptureFixture[str], path: Path, **params: Any) -> dict[str, Any]:
    """Have `path` read "new" and its unit restarted for it; returns what the module prints."""
    services = {
        "units": [{"name": "a.service", "restart_on": [str(path)]}],
        "daemon_reload_on": [str(path)],
    }
    params = {"payload": entries.pack([entries.Entry(str(path), content=b"new")]), "services": services, **params}
    with patch_module_args(params), pytest.raises(SystemExit):
        file_tree.main()
    return dict(json.loads(capsys.readouterr().out))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.conf"
    path.write_text("old")
    path.chmod(0o644)
    return path


def systemd(monkeypatch: pytest.MonkeyPatch, path: Path, fails: bool = False) -> OneUnit:
    one = OneUnit(path, fails)
    monkeypatch.setattr(units, "Systemd", lambda: one)
    return one


def test_units_follow_what_changed_here_and_only_then(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = systemd(monkeypatch, path)
    done = run(capsys, path, _ansible_diff=True)
    assert one.calls == [("daemon-reload", "new"), ("restart", "new")]
    assert done["changed"] is True
    assert done["changed_paths"] == [str(path)]
    assert done["units"][0]["did"] == ["restarted"]
    assert done["units"][0]["reasons"] == [f"{path} changed"]
    assert [row["before_header"] for row in done["diff"]] == [str(path), "a.service"]
    one.calls.clear()
    again = run(capsys, path)
    assert one.calls == []
    assert again["changed"] is False
    assert again["msg"] == "all 1 paths are as wanted; all 1 units are as wanted"
    assert "diff" not in again


def test_check_mode_tells_the_restart_that_a_run_would_do(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = systemd(monkeypatch, path)
    check = run(capsys, path, _ansible_check_mode=True, _ansible_diff=True)
    assert one.calls == []
    assert path.read_text() == "old"
    done = run(capsys, path, _ansible_diff=True)
    assert {key: check[key] for key in ("changed", "changed_paths", "diff")} == {
        key: done[key] for key in ("changed", "changed_paths", "diff")
    }
    assert [row["did"] for row in check["units"]] == [row["did"] for row in done["units"]] == [["restarted"]]


def test_a_unit_that_fails_is_told_with_the_paths_that_stay(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    systemd(monkeypatch, path, fails=True)
    failed = run(capsys, path)
    assert failed["failed"] is True
    assert failed["changed"] is True
    assert "a.service is failed" in failed["msg"]
    assert "its last words" in failed["msg"]
    assert f"1 of 1 paths changed: {path} (content)" in failed["msg"]
    assert path.read_text() == "new"
