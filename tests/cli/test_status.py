# SPDX-License-Identifier: Apache-2.0
"""`trainyard status`: what hosts and Prometheus said, put together for people and for programs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner

from trainyard import status_command
from trainyard.ansible_run import PlaybookRun, TaskResult
from trainyard.cli import app


def seen(**more: Any) -> dict[str, Any]:
    return {"active": "active", "running": "r1", "current": "r1", "load_s": 61.0, **more}


def answered(host: str, held: str = "", **replicas: dict[str, Any]) -> TaskResult:
    result = {"replicas": {name.replace("_", "-"): row for name, row in replicas.items()}, "held": held}
    return TaskResult(host, "Read", "trainyard.neuron.replica_info", False, result)


def told(**more: Any) -> TaskResult:
    return TaskResult("h1", "Print", "trainyard.neuron.roll_plan", False, {"out": {}, "silent": [], **more})


FLEET = (
    answered("h1", "ann (redeploy)", d_0=seen(), d_spare=seen(running="", current="")),
    answered("h2", d_0=seen(active="failed", running="", current="r2")),
    told(out={"h2:d-0": "its unit is failed"}, silent=["h3"], blocks=[{"id": "cr-1"}]),
)
ALERTS = [
    ("Drift", "warn", {"host": "h1", "replica": "d-0"}, "firing"),
    ("ReplicaFailed", "page", {"host": "h2", "replica": "d-0"}, "firing"),
    ("KVFull", "warn", {"host": "h1", "replica": "d-0"}, "pending"),
    ("Watching", "none", {}, "firing"),
]


class Prometheus(BaseHTTPRequestHandler):
    """Two replicas' figures, and alerts of each kind."""

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        if path == "/api/v1/alerts":
            said = {"summary": "[bold]it[/] is so", "do": "playbooks/serve.yml"}
            rows = [
                {"labels": {"alertname": name, "severity": severity, **of}, "annotations": said, "state": state}
                for name, severity, of, state in ALERTS
            ]
            body: Any = {"data": {"alerts": rows}}
        else:
            value = {"trainyard:running": "3", "trainyard:ttft_s:p50 >= 0": "0.25"}.get(query["query"][0])
            row = {"metric": {"host": "h1", "replica": "d-0"}, "value": [0, value]}
            body = {"data": {"result": [row] if value else []}}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def prometheus() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Prometheus)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def invoke(monkeypatch: pytest.MonkeyPatch, results: tuple[TaskResult, ...], *words: str, **more: Any) -> Any:
    run = PlaybookRun(**{"status": "successful", "return_code": 0, "results": results, **more})
    monkeypatch.setattr(status_command, "run_playbook", lambda *_: run)
    return CliRunner().invoke(app, ["status", "-i", "inventory/trn2", *words], env={"COLUMNS": "200"})


def test_a_program_gets_everything(monkeypatch: pytest.MonkeyPatch, prometheus: str) -> None:
    done = invoke(monkeypatch, FLEET, "--json", "--prometheus", prometheus)
    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert found["calm"] is False
    assert [(row["host"], row["name"], row["out"]) for row in found["replicas"]] == [
        ("h1", "d-0", ""),
        ("h2", "d-0", "its unit is failed"),
    ]
    assert found["replicas"][0]["figures"] == {"running": 3.0, "ttft_s": 0.25}
    assert found["held"] == {"h1": "ann (redeploy)"}
    assert (found["silent"], found["blocks"]) == (["h3"], [{"id": "cr-1"}])
    assert [alert["name"] for alert in found["alerts"]] == ["ReplicaFailed", "Drift"], "what fires, the gravest first"
    assert [line.split()[0] for line in found["next"]] == ["ReplicaFailed", "h3", "h2:d-0:", "Drift"]


def test_a_person_gets_a_screen(monkeypatch: pytest.MonkeyPatch, prometheus: str) -> None:
    text = invoke(monkeypatch, FLEET, "--prometheus", prometheus).stdout
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "HOST REPLICA UNIT RELEASE ROTATION RUNNING TTFT_S"
    assert lines[1] == "h1 d-0 active r1 in 3 0.25"
    assert lines[2] == "h2 d-0 failed none out: its unit is failed - -"
    assert "1 of 2 replicas are in rotation." in lines
    assert "page ReplicaFailed: [bold]it[/] is so" in lines, "what an alert says is no markup of ours"


def test_a_fleet_that_is_well_is_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    done = invoke(monkeypatch, (answered("h1", d_0=seen()), told()))
    assert done.exit_code == 0
    assert "Next" not in done.stdout


def test_a_host_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    done = invoke(monkeypatch, (told(),), "--json", unreachable=("h9",))
    assert done.exit_code == 1
    assert json.loads(done.stdout)["silent"] == ["h9"]


def test_what_cannot_be_told_is_said_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = TaskResult("h1", "Plan", "trainyard.neuron.fleet_plan", True, {"msg": "no host to plan for"})
    done = invoke(monkeypatch, (failed,), status="failed", return_code=2)
    assert done.exit_code == 2
    assert "cannot be told: h1: Plan: no host to plan for" in done.stderr
    gone = invoke(monkeypatch, FLEET, "--prometheus", "http://127.0.0.1:1")
    assert gone.exit_code == 2
    assert "Prometheus does not answer at http://127.0.0.1:1" in gone.stderr
    assert "ssh -L 9090" in gone.stderr
