# SPDX-License-Identifier: Apache-2.0
"""Paths and the units that they are for, in one module run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.trainyard.neuron.plugins.module_utils import entries, units, untold
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


@pytest.mark.parametrize("check", [False, True])
def test_a_file_that_concerns_no_unit_is_a_change_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], check: bool
) -> None:
    """Prometheus looks for its targets by itself: no unit is told of them, and the file is another."""
    one = systemd(monkeypatch, path)
    done = run(capsys, path, services={"units": [{"name": "a.service"}]}, _ansible_check_mode=check)
    assert one.calls == []
    assert (done["changed"], done["changed_paths"]) == (True, [str(path)])


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


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "lib/untold"
    monkeypatch.setattr(untold, "NOTES", folder)
    return folder


def test_paths_that_are_laid_out_alone_restart_their_unit_when_it_is_run(
    path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = systemd(monkeypatch, path)
    assert run(capsys, path, note="demo", services=None)["changed"] is True
    assert one.calls == []
    assert json.loads((notes / "demo.json").read_text()) == [str(path)]
    # Laid out once more there is nothing to do, and still nobody has told the unit.
    assert run(capsys, path, note="demo", services=None)["changed"] is False
    assert run(capsys, path, note="demo", _ansible_check_mode=True)["units"][0]["did"] == ["restarted"]
    done = run(capsys, path, note="demo", payload=entries.pack([]))
    assert one.calls == [("daemon-reload", "new"), ("restart", "new")]
    assert (done["changed"], done["msg"]) == (True, f"a.service restarted because {path} changed")
    assert not (notes / "demo.json").exists()
    one.calls.clear()
    assert run(capsys, path, note="demo")["changed"] is False
    assert one.calls == []


def test_units_that_were_not_told_are_told_by_the_next_run(
    path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    systemd(monkeypatch, path)

    def cut_off(*_: Any) -> None:
        raise SystemExit(1)

    with monkeypatch.context() as killed, pytest.raises(SystemExit):
        killed.setattr(units, "converge", cut_off)
        with patch_module_args(
            {
                "payload": entries.pack([entries.Entry(str(path), content=b"new")]),
                "note": "demo",
                "services": {"units": []},
            }
        ):
            file_tree.main()
    one = systemd(monkeypatch, path)
    assert run(capsys, path, note="demo")["units"][0]["reasons"] == [f"{path} changed"]
    assert ("restart", "new") in one.calls
    assert not (notes / "demo.json").exists()


def test_what_is_put_back_is_not_noted_and_check_mode_notes_nothing(
    path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    systemd(monkeypatch, path)
    assert run(capsys, path, note="demo", _ansible_check_mode=True)["changed"] is True
    assert not notes.exists()
    wrong = [
        entries.Entry(str(path), content=b"new"),
        entries.Entry(str(path) + "2", content=b"x", validate="false %s"),
    ]
    assert run(capsys, path, note="demo", payload=entries.pack(wrong))["failed"] is True
    assert path.read_text() == "old"
    assert not (notes / "demo.json").exists()


@pytest.mark.parametrize("content", [b"\xff", b"{}", b"[1]", b"[" * 100_000, b"[" + b'"a",' * 300_000 + b'"a"]'])
def test_a_note_that_cannot_be_read_is_refused_with_what_to_do(
    path: Path, notes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    systemd(monkeypatch, path)
    notes.mkdir(parents=True)
    (notes / "demo.json").write_bytes(content)
    refused = run(capsys, path, note="demo")
    assert f"{notes}/demo.json says which files changed" in refused["msg"]
    assert "restart the units of demo" in refused["msg"]
    assert path.read_text() == "old"


def test_a_name_that_leads_elsewhere_is_no_notes_name(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    systemd(monkeypatch, path)
    assert "is no name of a note" in run(capsys, path, note="../x")["msg"]
