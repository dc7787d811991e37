# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.trainyard.neuron.plugins.module_utils import units as core
from ansible_collections.trainyard.neuron.plugins.modules import units

ROWS = {
    "a.service": "ActiveState=active\nSubState=running\nUnitFileState=enabled\nNeedDaemonReload=no\nMainPID=0\n",
    "b.service": "ActiveState=inactive\nSubState=dead\nUnitFileState=disabled\nNeedDaemonReload=no\nMainPID=0\n",
    "old@1.service": "ActiveState=active\nSubState=running\nUnitFileState=enabled\nNeedDaemonReload=no\nMainPID=0\n",
}


class FakeSystemd(core.Systemd):
    """A systemd whose units do as they are told at once."""

    def __init__(self) -> None:
        self.rows = dict(ROWS)
        self.calls: list[str] = []

    def call(self, *arguments: str) -> str:
        names = [word for word in arguments[1:] if not word.startswith("-")]
        if arguments[0] == "show":
            return "\n\n".join(self.rows[name].strip("\n") for name in names)
        if arguments[0] == "list-units":
            return "old@1.service loaded active running x\na.service loaded active running y\n"
        self.calls.append(" ".join([arguments[0], *names]))
        for name in names:
            state = {"start": ("inactive", "active"), "stop": ("active", "inactive")}.get(arguments[0], ("", ""))
            self.rows[name] = self.rows[name].replace(f"ActiveState={state[0]}", f"ActiveState={state[1]}")
        return ""


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> FakeSystemd:
    fake = FakeSystemd()
    monkeypatch.setattr(core, "Systemd", lambda: fake)
    return fake


def run(capsys: pytest.CaptureFixture[str], **params: Any) -> dict[str, Any]:
    with patch_module_args(params), pytest.raises(SystemExit):
        units.main()
    return dict(json.loads(capsys.readouterr().out))


def names(result: dict[str, Any], key: str = "did") -> Sequence[tuple[str, list[str]]]:
    return [(row["name"], row[key]) for row in result["units"]]


WANTED = [{"name": "a.service", "enabled": True}, {"name": "b.service", "enabled": True}]


def test_check_mode_says_what_a_run_does_and_touches_nothing(
    systemd: FakeSystemd, capsys: pytest.CaptureFixture[str]
) -> None:
    check = run(capsys, units=WANTED, prune=["old@*"], _ansible_check_mode=True, _ansible_diff=True)
    assert systemd.calls == []
    assert check["changed"]
    done = run(capsys, units=WANTED, prune=["old@*"], _ansible_diff=True)
    assert names(done) == names(check)
    assert names(done)[1:] == [("b.service", ["started", "enabled"]), ("old@1.service", ["stopped", "disabled"])]
    assert done["diff"] == check["diff"]
    assert done["diff"][0]["before"] == "active: inactive\nboot: disabled\n"
    assert done["diff"][0]["after"] == "active: active\nboot: enabled\n"
    assert [row["active"] for row in done["units"]] == ["active", "active", "inactive"]


def test_nothing_to_do_asks_systemd_once(systemd: FakeSystemd, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, units=WANTED[:1])
    assert not result["changed"]
    assert result["msg"] == "all 1 units are as wanted"
    assert systemd.calls == []


def test_changed_unit_files_reload_systemd_first(systemd: FakeSystemd, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(capsys, units=WANTED[:1], changed_paths=["/etc/systemd/system/a.service"])
    assert result["changed"]
    assert systemd.calls == ["daemon-reload"]
