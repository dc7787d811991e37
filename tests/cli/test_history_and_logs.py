# SPDX-License-Identifier: Apache-2.0
"""`trainyard events`, `logs` and `top`: what happened, what was logged, what is under way; for people and programs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils import history
from rich.console import Console
from typer.testing import CliRunner

from tests.cli.test_status import prometheus
from trainyard import events_command, logs_command, top_command
from trainyard.ansible_run import PlaybookRun, TaskResult
from trainyard.cli import app
from trainyard.status_command import Alert

__all__ = ["prometheus"]
EVENTS: list[dict[str, Any]] = [
    {"at_s": 1.8e9, "what": "redeploy", "state": "done", "who": "ann@desk", "hosts": ["h1", "h2"], "why": "2 of 2"},
    {
        "at_s": 1.8e9 + 60,
        "what": "heal",
        "state": "begun",
        "who": "bob@desk",
        "action": "restart_replica",
        "host": "h1",
        "replica": "d-0",
        "replicas": ["h1:d-0"],
        "deployments": ["d"],
        "device": None,
        "why": "it answers no completion",
    },
    {
        "at_s": 1.8e9 + 90,
        "what": "heal",
        "state": "told",
        "who": "bob@desk",
        "action": "nothing",
        "host": "h2",
        "replica": "",
        "replicas": [],
        "deployments": [],
        "device": 5,
        "why": "[bold]replace[/]",
    },
]


@pytest.fixture
def fleet(tmp_path: Path) -> str:
    (tmp_path / "hosts.yml").write_text("neuron: {hosts: {h1: {}}}\n")
    for event in EVENTS:
        history.add(tmp_path / history.NAME, event)
    return str(tmp_path)


def test_the_history_is_shown_as_a_table_and_as_json(fleet: str) -> None:
    shown = CliRunner().invoke(app, ["events", "-i", fleet], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert "redeploy" in lines[1] and "h1, h2" in lines[1] and "ann@desk" in lines[1]
    assert "restart replica" in lines[2] and "it answers no completion" in lines[2]
    assert "h2:device 5" in lines[3] and "[bold]replace[/]" in lines[3], "what others wrote is no markup"
    asked = CliRunner().invoke(app, ["events", "-i", fleet, "--of", "d-0", "--json"])
    assert json.loads(asked.output) == [EVENTS[1]]
    assert json.loads(CliRunner().invoke(app, ["events", "-i", fleet, "--last", "1", "--json"]).output) == [EVENTS[2]]


def test_a_fleet_without_a_history_says_so(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("neuron: {hosts: {h1: {}}}\n")
    assert "Nothing is written down" in CliRunner().invoke(app, ["events", "-i", str(tmp_path)]).output
    (tmp_path / history.NAME).mkdir()
    refused = CliRunner().invoke(app, ["events", "-i", str(tmp_path)])
    assert refused.exit_code == 2 and "cannot be read" in refused.output


def test_the_file_that_the_inventory_names_is_shown(tmp_path: Path) -> None:
    other = tmp_path / "elsewhere.jsonl"
    history.add(other, EVENTS[0])
    (tmp_path / "hosts.yml").write_text(f"neuron: {{hosts: {{h1: {{trainyard_history_file: {other}}}}}}}\n")
    assert events_command.history_of([str(tmp_path / "hosts.yml")]) == [EVENTS[0]]


def journal(*rows: tuple[int, str, str]) -> str:
    lines = [
        json.dumps({"__REALTIME_TIMESTAMP": str(at * 1000000), "_SYSTEMD_UNIT": unit, "MESSAGE": text})
        for at, unit, text in rows
    ]
    return "\n".join([*lines, "no JSON", json.dumps({"__REALTIME_TIMESTAMP": "1", "MESSAGE": [1, 2]})])


D0, D1 = "vllm@d-0.service", "vllm@d-1.service"
RUNTIME = "2026-Nov-30 10:00:00.1234 11:22 ERROR  TDRV:tdrv_init_wait_ncs_ready Failed to reset nd 3 nc_map 0xf timeout"


def test_logs_of_all_hosts_come_in_the_order_of_time_with_the_classifiers_marks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    results = (
        TaskResult("h1", "Read", "command", False, {"stdout": journal((30, D0, RUNTIME), (10, D0, "\x1b[31mhi"))}),
        TaskResult("h2", "Read", "command", False, {"stdout": journal((20, D1, "I was told: Failed to reset nd 3"))}),
    )

    def run(playbook: Path, inventory: list[str], variables: dict[str, Any]) -> PlaybookRun:
        asked.append((playbook.name, inventory, variables))
        return PlaybookRun("successful", 0, results, ())

    monkeypatch.setattr(logs_command, "run_playbook", run)
    shown = CliRunner().invoke(app, ["logs", "d", "-i", "inventory/trn2", "--json"])
    assert shown.exit_code == 0, shown.output
    lines = [json.loads(line) for line in shown.output.splitlines()]
    assert [(line["at_s"], line["host"], line["replica"]) for line in lines] == [
        (10, "h1", "d-0"),
        (20, "h2", "d-1"),
        (30, "h1", "d-0"),
    ]
    assert lines[0]["text"] == "?[31mhi", "a client's words change nobody's terminal"
    assert [line["kind"] for line in lines] == ["", "", "replace"], "and decide nothing"
    assert asked == [("logs.yml", ["inventory/trn2"], {"trainyard_logs": {"units": "vllm@d-*.service", "lines": 200}})]
    for_people = CliRunner().invoke(app, ["logs", "d/d-0", "-i", "inventory/trn2", "--marked"]).output
    assert "replace: a device does not come back from its reset" in for_people and "hi" not in for_people
    assert asked[1][2]["trainyard_logs"]["units"] == "vllm@d-0.service"


def test_what_is_no_replica_is_asked_of_no_host() -> None:
    refused = CliRunner().invoke(app, ["logs", "d; reboot", "-i", "inventory/trn2"])
    assert refused.exit_code == 2 and "is neither a deployment nor a replica" in refused.output


def test_top_shows_a_row_for_each_replica_a_sum_and_what_is_wrong() -> None:
    rows = [
        {"host": "h1", "replica": "d-0", "deployment": "d", "release": "r1", "state": "active"},
        {"host": "h2", "replica": "d-0", "deployment": "d", "release": "r1", "state": "failed"},
    ]
    figures = {("h1", "d-0"): {"running": 3.0, "waiting": 1.0, "tokens_per_s": 120.4, "ttft_s": 0.25}}
    assert top_command.total("d", rows, figures) == "d: 1 of 2 replicas are up; 3 requests run, 1 wait, 120 tokens/s"
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(
        top_command.screen(rows, figures, [Alert("ReplicaFailed", "page", "h2 d-0", "[b]it[/b]", "heal.yml")])
    )
    text = console.export_text()
    assert "h2    d-0      failed" in text and "0.25" in text
    assert "page ReplicaFailed (h2 d-0): [b]it[/b]" in text and "next: heal.yml" in text


def test_top_without_a_prometheus_says_how_to_reach_one() -> None:
    refused = CliRunner().invoke(app, ["top", "--once", "--prometheus", "http://127.0.0.1:9"])
    assert refused.exit_code == 2 and "Prometheus does not answer at http://127.0.0.1:9" in refused.output


def test_the_same_prometheus_answers_status_and_top(prometheus: str) -> None:
    shown = CliRunner().invoke(app, ["top", "--once", "--prometheus", prometheus], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "page ReplicaFailed (h2 d-0): [bold]it[/] is so" in shown.output and "Watching" not in shown.output
