# SPDX-License-Identifier: Apache-2.0
"""`evacuate.yml` as Ansible runs it: two hosts serve and one routes, all of them this machine, with a real HAProxy."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import urlopen

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.journal import Claim
from ansible_collections.trainyard.neuron.plugins.module_utils.routing.haproxy import Router, RouterError

from tests.playbooks.test_lock import Fleet, fleet
from tests.roles.router_program import HAPROXY, needs_haproxy

__all__ = ["fleet"]
pytestmark = needs_haproxy
SERVERS = tuple(f"{host}:tiny-{index}" for host in ("h1", "h2") for index in (0, 1))


class Slow(BaseHTTPRequestHandler):
    """Answers as slowly as a path asks: /SECONDS."""

    def do_GET(self) -> None:
        time.sleep(float(self.path.strip("/")))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: Any) -> None:
        pass


class Site:
    """The fleet of the lock's tests, with a router."""

    def __init__(self, fleet: Fleet, replica: int) -> None:
        self.fleet = fleet
        self.socket = fleet.folder / "admin.sock"
        with socket.create_server(("127.0.0.1", 0)) as door:
            self.port = door.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None
        servers = "\n".join(f"  server {name} 127.0.0.1:{replica}" for name in SERVERS)
        self.states = fleet.folder / "states"
        (fleet.folder / "haproxy.cfg").write_text(
            f"global\n  stats socket {self.socket} mode 600 level admin\n  server-state-file {self.states}\n"
            "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
            "  load-server-state-from-file global\n"
            f"frontend f\n  bind 127.0.0.1:{self.port}\n  default_backend model-tiny\nbackend model-tiny\n{servers}\n"
        )
        utils = (
            fleet.folder / "collections/ansible_collections/trainyard/neuron/plugins/module_utils/routing/haproxy.py"
        )
        text = utils.read_text()
        for mine, its in (
            ('"/run/haproxy/admin.sock"', repr(str(self.socket))),
            ('"/var/lib/trainyard-router/servers"', repr(str(self.states))),
        ):
            text = text.replace(mine, its)
        assert str(self.socket) in text
        utils.write_text(text)

    def start(self) -> None:
        self.process = subprocess.Popen([str(HAPROXY), "-q", "-f", str(self.fleet.folder / "haproxy.cfg")])
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                Router(str(self.socket)).servers()
            except RouterError:
                time.sleep(0.1)
            else:
                return
        raise AssertionError("the router did not start")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def said(self, minutes: float, deadline_s: float = 60) -> None:
        """Have the block of h1 end so soon."""
        inventory = json.loads((self.fleet.folder / "hosts").read_text())
        end = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat(timespec="seconds")
        inventory["all"]["children"]["neuron"]["hosts"]["h1"]["trainyard_capacity_block_end"] = end
        inventory["all"]["vars"] = {
            "trainyard_redeploy": {"drain_deadline_s": deadline_s},
            "benchmark_directory": str(self.fleet.folder / "runs"),
            "trainyard_results_dir": str(self.fleet.folder / "results"),
        }
        (self.fleet.folder / "hosts").write_text(json.dumps(inventory))

    def begin(self, *more: str) -> subprocess.Popen[str]:
        folder = self.fleet.folder
        (folder / "playbooks" / "serve.yml").write_text((folder / "playbooks" / "evacuate.yml").read_text())
        return self.fleet.start("ann", *more)

    def evacuate(self, *more: str) -> tuple[int, str]:
        with self.begin(*more) as process:
            text = process.communicate()[0]
        return process.returncode, text

    def drained(self) -> set[str]:
        return {server.name for server in Router(str(self.socket)).servers() if server.state != "ready"}

    def ask(self, seconds: float, answers: list[str]) -> threading.Thread:
        def work() -> None:
            try:
                with urlopen(f"http://127.0.0.1:{self.port}/{seconds}") as answer:
                    answers.append(answer.read().decode())
            except OSError as error:
                answers.append(repr(error))

        thread = threading.Thread(target=work)
        thread.start()
        return thread


@pytest.fixture
def site(fleet: Fleet) -> Iterator[Site]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    made = Site(fleet, server.server_port)
    made.start()
    try:
        yield made
    finally:
        made.stop()
        server.shutdown()
        thread.join()
        server.server_close()


def test_hosts_whose_block_ends_leave_the_router_and_no_request_is_cut(site: Site) -> None:
    site.said(60)
    code, text = site.evacuate()
    assert code != 0 and "no host is about to leave: Capacity block of h1" in text, text
    assert site.drained() == set() and site.fleet.holders() == ["", "", ""]

    site.said(44)
    site.fleet.book("h1").take(Claim("run-1", "bob@elsewhere", 7, "redeploy", "elsewhere/1/2/3"))
    results = site.fleet.folder / "runs"
    results.mkdir()
    (results / "r-1.tar.gz").write_text("a run that no controller fetched")
    answers: list[str] = []
    threads = [site.ask(12, answers) for _ in range(8)]
    code, text = site.evacuate()
    assert code == 0, text
    for said in (
        "h1 leave; requests have 60 s to end.",
        "h1 out of rotation after",
        "router r1: sends nothing to 2 servers; the last request has ended",
        "host h1: not saved: model_compile_store is not set",
    ):
        assert said in text, text
    assert site.drained() == {"h1:tiny-0", "h1:tiny-1"}
    assert (site.fleet.folder / "results" / "r-1.tar.gz").exists()
    assert site.fleet.holders() == ["", "", ""]
    for thread in threads:
        thread.join()
    assert answers == ["ok"] * 8

    code, text = site.evacuate()
    assert code == 0 and re.search(r"r1 .*changed=0 ", text), text


def test_a_request_longer_than_the_deadline_goes_on_and_a_router_that_restarts_is_asked_again(site: Site) -> None:
    site.said(44, deadline_s=3)
    answers: list[str] = []
    threads = [site.ask(45, answers) for _ in range(4)]
    time.sleep(1)
    code, text = site.evacuate()
    assert code == 0, text
    assert "requests longer than 3 s go on until EC2 ends them: h1:tiny-0 has 1, h1:tiny-1 has 1" in text
    for thread in threads:
        thread.join()
    assert answers == ["ok"] * 4

    site.said(44, deadline_s=40)
    site.stop()
    process = site.begin()
    time.sleep(12)
    site.start()
    text = process.communicate()[0]
    assert process.returncode == 0, text
    assert site.drained() == {"h1:tiny-0", "h1:tiny-1"}


def test_a_router_that_does_not_come_back_is_told_and_the_run_fails(site: Site) -> None:
    site.said(44, deadline_s=1)
    site.stop()
    code, text = site.evacuate()
    assert code != 0, text
    assert "router r1: " in text and "It may still send requests to hosts that leave" in text
    assert site.fleet.holders() == ["", "", ""]


def test_a_host_that_does_not_answer_is_drained_all_the_same_and_named(site: Site) -> None:
    site.said(44, deadline_s=20)
    inventory = json.loads((site.fleet.folder / "hosts").read_text())
    silent = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
    inventory["all"]["children"]["neuron"]["hosts"]["h1"].update(silent, trainyard_address="10.0.0.1")
    (site.fleet.folder / "hosts").write_text(json.dumps(inventory))
    code, text = site.evacuate()
    assert "host h1: does not answer; nothing was saved there" in text, text
    assert code == 0, text
    assert site.drained() == {"h1:tiny-0", "h1:tiny-1"}
