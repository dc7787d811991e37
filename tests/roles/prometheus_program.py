# SPDX-License-Identifier: Apache-2.0
"""The Prometheus that tests run, with what role monitoring writes."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.trainyard.neuron.plugins.filter import watch_console, watch_rules

from tests.programs import program
from tests.roles.render import render, variables

PROMETHEUS = program("prometheus", "prometheus")
PROMTOOL = program("promtool", "prometheus")
needs_prometheus = pytest.mark.skipif(
    not (PROMETHEUS and PROMTOOL), reason="Prometheus is not installed, and its packages cannot be had"
)
SETTINGS = Path("/etc/trainyard/monitoring")


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def contents(**given: Any) -> dict[str, Any]:
    """What the role writes, by the file's name."""
    known = variables("monitoring", **given)
    templar = Templar(loader=DataLoader(), variables=known)
    for name, function in {**watch_rules.FilterModule().filters(), **watch_console.FilterModule().filters()}.items():
        templar._engine.environment.filters[f"trainyard.neuron.{name}"] = function
    items = templar.template(known["__monitoring_files"])
    return {str(Path(item["path"]).relative_to(SETTINGS)): item["content"] for item in items if "content" in item}


def written(folder: Path, **given: Any) -> dict[str, Any]:
    """The role's files in a directory that plays theirs."""
    found = contents(**given)
    for name, content in found.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text.replace(str(SETTINGS), str(folder)), encoding="utf-8")
    return found


def command(template: str, program_: str, folder: Path, **given: Any) -> list[str]:
    """A unit's command, with this test's program and directories in the place of the host's."""
    text = render("monitoring", template, **given)
    (line,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    state = folder / template.partition(".")[0]
    state.mkdir()
    line = line.replace("${CREDENTIALS_DIRECTORY}", str(folder)).replace("${STATE_DIRECTORY}", str(state))
    return [program_, *shlex.split(line.replace(str(SETTINGS), str(folder)))[1:]]


@contextlib.contextmanager
def running(argv: list[str], log: Path) -> Iterator[None]:
    """A program that runs for as long as the block."""
    with log.open("w") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


class Answers(BaseHTTPRequestHandler):
    """Answers with the server's own page, and says nothing of it."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(self.server.page.encode())  # type: ignore[attr-defined]

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(page: str = "", handler: type[Answers] = Answers) -> Iterator[int]:
    """A program that answers with a page; its port."""
    server = HTTPServer(("127.0.0.1", 0), handler)
    server.page = page  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
