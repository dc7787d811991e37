# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.callback import critical_path


@pytest.fixture
def callback(monkeypatch: pytest.MonkeyPatch) -> critical_path.CallbackModule:
    made = critical_path.CallbackModule()
    made.said = []
    monkeypatch.setattr(made, "_display", SimpleNamespace(display=made.said.append))
    return made


def task(role: str, action: str = "ansible.builtin.file") -> Any:
    named = SimpleNamespace(get_name=lambda: role)
    return SimpleNamespace(_uuid=f"{role}-{action}", _role=named, resolved_action=action)


def run(callback: critical_path.CallbackModule, done: Any, **answer: Any) -> None:
    host = SimpleNamespace(get_name=lambda: "lab-1")
    callback.v2_runner_on_start(host, done)
    time.sleep(0.02)
    callback.v2_runner_on_ok(SimpleNamespace(host=host, task=done, result=answer))


def span(began: float, ended: float, kind: str = "weights", identifier: str = "m") -> dict[str, Any]:
    return {"kind": kind, "id": identifier, "began": began, "ended": ended, "weights": "", "sender": ""}


def test_units_and_roles_become_one_path(callback: critical_path.CallbackModule) -> None:
    run(callback, task("neuron_venv"))
    # The host's clock is an hour ahead.
    began_s = time.time()
    now = began_s + 3600
    run(callback, task("model_weights", critical_path.JOBS), spans=[span(now, now + 0.5)], now=now)
    over_s = time.time()
    callback.v2_playbook_on_stats(None)
    assert [line.split()[-1] for line in callback.said[1:-1]] == ["neuron_venv", "m"]
    (unit,) = (step for step in callback.steps() if step.name == "weights m")
    assert began_s + 0.4 < unit.ended < over_s + 0.6


def test_run_without_units_says_nothing(callback: critical_path.CallbackModule) -> None:
    run(callback, task("neuron_venv"))
    old = time.time() - 1000
    run(callback, task("model_weights", critical_path.JOBS), spans=[span(old, old + 5)], now=time.time())
    callback.v2_playbook_on_stats(None)
    assert callback.said == []
