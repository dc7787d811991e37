# SPDX-License-Identifier: Apache-2.0
"""`trainyard show` asks the router before it says that it answers, and a narrow terminal gets whole cells."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from trainyard.cli import app
from trainyard.plan_command import host_tables, plan_or_exit, print_replicas
from trainyard.show_command import silence

RECIPE = "inventory/recipes/qwen3-8b.yml"


class Router(BaseHTTPRequestHandler):
    """Answers every question with the status of the server's own number."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def router() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Router)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("status", "why"), [(200, ""), (401, ""), (503, "HTTP 503"), (404, "HTTP 404")])
def test_a_router_that_answers_is_told_from_one_that_does_not(
    router: ThreadingHTTPServer, status: int, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # what a proxy says is not the router's word
    router.status = status  # type: ignore[attr-defined]
    assert silence(f"http://127.0.0.1:{router.server_port}") == why


def test_a_fleet_that_is_not_there_is_not_said_to_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainyard.show_command.ANSWER_S", 0.2)
    shown = CliRunner().invoke(app, ["show", "-i", RECIPE, "--results", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "The router answers" not in shown.output
    assert "asked just now, it does not" in " ".join(shown.output.split())
    assert "curl -N http://" in shown.output


@pytest.mark.parametrize("width", [30, 40, 60, 80, 200])
def test_no_cell_is_cut_on_a_terminal_of_any_width(width: int) -> None:
    plan = plan_or_exit([RECIPE])
    said = io.StringIO()
    for _heading, table in host_tables(plan):
        print_replicas(Console(file=said, width=width), table)
    text = " ".join(said.getvalue().split())
    for host in plan["hosts"].values():
        for replica in [*host["replicas"], *host["spares"]]:
            for word in (replica["name"], replica["cores"], str(replica["port"]), replica["artifact"][:12]):
                assert word in text
