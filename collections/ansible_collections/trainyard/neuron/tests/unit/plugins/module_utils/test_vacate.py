# SPDX-License-Identifier: Apache-2.0
"""Taking a host out of service from the host itself: nothing is stopped before the last request has ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils import making_way, units, vacate
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.host import Host
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.releases import Releases
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import judge, settings, watch

UNIT = "vllm@a-0.service"


class Machine(units.Systemd):
    """One replica whose requests end at a given time; time passes only by sleeping."""

    def __init__(self, folder: Path, idle_at_s: float) -> None:
        self.now, self.idle_at_s, self.stopped_at_s = 0.0, idle_at_s, -1.0
        entry = folder / "etc" / "current" / "a-0.json"
        entry.parent.mkdir(parents=True)
        entry.write_text(json.dumps({"release": "r", "url": "http://h:8000"}))
        self.host = Host(
            systemd=self,
            releases=Releases(folder / "etc", folder / "run"),
            fetch=lambda _url: (
                f"vllm:num_requests_running {int(self.now < self.idle_at_s)}\nvllm:num_requests_waiting 0\n"
            ),
            sleep=self.sleep,
            clock=lambda: self.now,
        )

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def call(self, *arguments: str) -> str:
        if arguments[0] == "stop":
            self.stopped_at_s = self.now
        return ""

    def show(self, names: object) -> list[units.Status]:  # noqa: ARG002  (the interface)
        active = "active" if self.stopped_at_s < 0 else "inactive"
        return [units.Status(UNIT, "loaded", active, "", "enabled", False, 1, "success", "0", 0, "", "")]


@pytest.fixture
def leave(tmp_path: Path) -> Callable[[float], Machine]:
    def run(idle_at_s: float) -> Machine:
        machine = Machine(tmp_path, idle_at_s)
        vacate.vacate(machine.host, [UNIT], "new driver", 60.0, 30.0, tmp_path / "leaving")
        return machine

    return run


def test_units_are_stopped_when_the_last_request_has_ended(leave: Callable[[float], Machine], tmp_path: Path) -> None:
    machine = leave(25.0)
    assert machine.stopped_at_s == pytest.approx(25.0, abs=1.0)
    assert (tmp_path / "leaving").read_text() == "new driver\n"
    assert making_way.return_to_service(tmp_path / "leaving")
    assert not making_way.return_to_service(tmp_path / "leaving")


def test_idle_engine_waits_until_the_routers_have_noticed(leave: Callable[[float], Machine]) -> None:
    assert leave(0.0).stopped_at_s == pytest.approx(vacate.NOTICE_S, abs=1.0)


def test_requests_that_do_not_end_are_not_cut_off(leave: Callable[[float], Machine], tmp_path: Path) -> None:
    with pytest.raises(vacate.VacateError, match=r"a-0 still has 1 requests 60 s after .* are back in rotation"):
        leave(1e9)
    assert not (tmp_path / "leaving").exists()


def test_probe_tells_routers_that_the_host_is_leaving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "LEAVING", tmp_path / "leaving")
    watcher = watch.Watcher.__new__(watch.Watcher)
    watcher.verdict = judge.Verdict(True, "")
    assert watcher.agent_line() == b"up\n"
    (tmp_path / "leaving").write_text("new driver\n")
    assert watcher.agent_line() == b"down #new driver\n"
