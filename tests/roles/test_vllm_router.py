# SPDX-License-Identifier: Apache-2.0
"""`load_balancer_backend: vllm_router`: HAProxy before and behind a program that chooses, played by a stand-in here."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.routing import cli

from tests.roles.render import render
from tests.roles.router_program import needs_haproxy
from tests.roles.test_load_balancer import Front, logged, one_model, routed, wait_for
from tests.roles.test_vllm_endpoint import analyze, needs_systemd
from tests.serving.stub import Stub, free_port, post, running

pytestmark = needs_haproxy

CHOOSER, FIRST, SECOND = "127.100.255.1", "127.100.0.1", "127.100.0.2"


class Chooser(ThreadingHTTPServer):
    """Sends every completion to one address; speaks vllm-router's calls about workers.

    Attributes:
        chosen: that address.
        refuses: status to answer by itself instead.
        workers: addresses that it was told of.
        seen: paths of the completions that came.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int) -> None:
        super().__init__((CHOOSER, port), Handler)
        self.port, self.chosen, self.refuses = port, FIRST, 0
        self.workers: list[str] = []
        self.seen: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Chooser

    def log_message(self, *_arguments: Any) -> None:
        pass

    def answer(self, status: int, body: bytes, headers: list[tuple[str, str]]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.answer(200, json.dumps({"urls": self.server.workers}).encode(), [])

    def do_POST(self) -> None:
        asked = urlsplit(self.path)
        if asked.path.endswith("_worker"):
            (url,) = parse_qs(asked.query)["url"]
            getattr(self.server.workers, "append" if asked.path == "/add_worker" else "remove")(url)
            self.answer(200, b"", [])
            return
        self.server.seen.append(self.path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.refuses:
            self.answer(self.server.refuses, b"Failed to deserialize", [("Content-Type", "text/plain")])
            return
        link = http.client.HTTPConnection(self.server.chosen, self.server.port, timeout=20)
        link.request("POST", self.path, body, {key: value for key, value in self.headers.items() if key != "Host"})
        got = link.getresponse()
        kept = [row for row in got.getheaders() if row[0].lower() != "transfer-encoding"]
        self.answer(got.status, got.read(), [*kept, ("Access-Control-Allow-Origin", "*")])


@contextmanager
def choosing(port: int) -> Iterator[Chooser]:
    with Chooser(port) as chooser:
        thread = threading.Thread(target=chooser.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield chooser
        finally:
            chooser.shutdown()
            thread.join()


@pytest.fixture
def stubs() -> Iterator[tuple[Stub, Stub]]:
    with running() as first, running() as second:
        yield first, second


@contextmanager
def chosen(directory: Path, models: list[dict[str, Any]], port: int) -> Iterator[Front]:
    given: dict[str, Any] = {"load_balancer_backend": "vllm_router", "load_balancer_vllm_router_port": port}
    with routed(directory, models, **given) as front:
        yield front


def ready(front: Front, chooser: Chooser) -> None:
    """Wait until both replicas are in rotation and completions go by way of the one that chooses."""
    wait_for(lambda: len(front.up()) == 2)
    wait_for(lambda: bool(post(front.port, {"max_tokens": 1}) and chooser.seen))


def names(stubs: tuple[Stub, ...]) -> list[str]:
    return [f"host:{stub.port}" for stub in stubs]


def test_a_completion_goes_where_it_was_chosen_to_and_the_log_says_so(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    port = free_port()
    with choosing(port) as chooser, chosen(tmp_path, one_model(stubs), port) as front:
        ready(front, chooser)
        came = len(chooser.seen)
        for address, stub in ((FIRST, stubs[0]), (SECOND, stubs[1])):
            chooser.chosen, before = address, len(stub.seen)
            answers = [post(front.port, {"max_tokens": 2}, x_request_id=f"to-{address}") for _ in range(3)]
            assert [status for status, *_ in answers] == [200] * 3
            assert len(stub.seen) == before + 3
            headers = answers[0][1]
            assert "access-control-allow-origin" not in headers
            assert "x-trainyard-replica" not in headers
        rows = logged(front, "id", f"to-{FIRST}", f"to-{SECOND}")
    assert [rows[f"to-{address}"]["replica"] for address in (FIRST, SECOND)] == names(stubs)
    assert len(chooser.seen) == came + 6


@pytest.mark.parametrize("state", ["drain", "maint"])
def test_a_chosen_replica_that_takes_nothing_is_passed_over(
    tmp_path: Path, stubs: tuple[Stub, Stub], state: str
) -> None:
    port = free_port()
    with choosing(port) as chooser, chosen(tmp_path, one_model(stubs), port) as front:
        ready(front, chooser)
        before = [len(stub.seen) for stub in stubs]
        assert cli.main(["--socket", str(front.socket), state, names(stubs)[0]]) == 0
        assert [row.name for row in front.router.servers()] == names(stubs)
        assert [post(front.port, {"max_tokens": 1})[0] for _ in range(4)] == [200] * 4
        assert [len(stub.seen) for stub in stubs] == [before[0], before[1] + 4]
        assert cli.main(["--socket", str(front.socket), "ready", names(stubs)[0]]) == 0
        wait_for(lambda: len(front.up()) == 2)
        post(front.port, {"max_tokens": 1})
        assert len(stubs[0].seen) == before[0] + 1


def test_a_replica_on_trial_keeps_to_its_share(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    for stub in stubs:
        stub.token_s = 0.1
    port = free_port()
    with choosing(port) as chooser, chosen(tmp_path, one_model(stubs), port) as front:
        ready(front, chooser)
        (server,) = front.router.find(names(stubs)[0])
        front.router.set_weight(server, 10)
        before = [len(stub.seen) for stub in stubs]
        asked = [threading.Thread(target=post, args=(front.port, {"max_tokens": 8})) for _ in range(8)]
        for thread in asked:
            thread.start()
        for thread in asked:
            thread.join()
        came = [len(stub.seen) - count for stub, count in zip(stubs, before, strict=True)]
    # Every one of them was chosen for it, and it has a place for each.
    assert sum(came) == 8
    assert came[0] <= 2


def test_what_has_no_place_at_the_chosen_replica_goes_to_another(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    for stub in stubs:
        stub.token_s = 0.1
    port = free_port()
    with choosing(port) as chooser, chosen(tmp_path, one_model(stubs, max_num_seqs=2), port) as front:
        ready(front, chooser)
        before = [len(stub.seen) for stub in stubs]
        asked = [threading.Thread(target=post, args=(front.port, {"max_tokens": 8})) for _ in range(6)]
        for thread in asked:
            thread.start()
        for thread in asked:
            thread.join()
    came = [len(stub.seen) - count for stub, count in zip(stubs, before, strict=True)]
    assert sum(came) == 6
    assert came[1], "everything went to the chosen one, which had no place left"
    assert stubs[0].peak <= 3


def test_without_the_one_that_chooses_no_request_fails_and_it_is_used_again(
    tmp_path: Path, stubs: tuple[Stub, Stub]
) -> None:
    port = free_port()
    with chosen(tmp_path, one_model(stubs), port) as front:
        wait_for(lambda: len(front.up()) == 2)
        assert [post(front.port, {"max_tokens": 1})[0] for _ in range(6)] == [200] * 6
        with choosing(port) as chooser:
            wait_for(lambda: bool(post(front.port, {"max_tokens": 1}) and chooser.seen))
        # Gone before any check could tell.
        assert [post(front.port, {"max_tokens": 1})[0] for _ in range(6)] == [200] * 6


def test_what_it_says_itself_is_told_as_the_routers_own(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    port = free_port()
    with choosing(port) as chooser, chosen(tmp_path, one_model(stubs), port) as front:
        ready(front, chooser)
        for said, status, code in ((422, 400, "bad_request"), (503, 503, "overloaded")):
            chooser.refuses = said
            answer = post(front.port, {"max_tokens": 1})
            assert (answer[0], json.loads(answer[2])["error"]["code"]) == (status, code)
        chooser.refuses = 0
        # What a replica refuses is the client's to read.
        stubs[0].errors, stubs[1].errors = [404], [404]
        answer = post(front.port, {"max_tokens": 1})
        assert (answer[0], json.loads(answer[2])["error"]["message"]) == (404, "as told")


def test_two_models_have_addresses_of_their_own(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    port = free_port()
    models = [*one_model(stubs[:1]), {**one_model(stubs[1:])[0], "name": "Qwen/tiny"}]
    with chosen(tmp_path, models, port) as front:
        wait_for(lambda: len(front.up()) == 2)
        for model, stub in (("tiny/llama", stubs[0]), ("Qwen/tiny", stubs[1])):
            before = len(stub.seen)
            assert post(front.port, {"model": model, "max_tokens": 1})[0] == 200
            assert len(stub.seen) == before + 1
    given = {"load_balancer_models": models, "load_balancer_backend": "vllm_router"}
    rows = [
        render("load_balancer", "vllm-router.env.j2", item={"slug": slug}, **given)
        for slug in ("tiny-llama", "Qwen-tiny")
    ]
    assert "ADDRESS=127.100.255.1\n" in rows[0]
    assert 'WORKERS="http://127.101.0.1:8600"' in rows[1]
    # A spare is there for what the chosen one cannot take, and is not chosen: most of the time it does not run.
    models[1]["servers"].append({**models[1]["servers"][0], "id": "host:spare", "spare": True})
    assert rows[1] == render("load_balancer", "vllm-router.env.j2", item={"slug": "Qwen-tiny"}, **given)


def test_replicas_that_come_and_go_are_told_and_the_rest_stays(tmp_path: Path) -> None:
    port = free_port()
    with choosing(port) as chooser:
        base = f"http://{CHOOSER}:{port}"
        chooser.workers = ["http://127.100.0.1:8600", "http://127.100.0.2:8600"]
        wanted = ["http://127.100.0.2:8600", "http://127.100.0.3:8600"]
        assert cli.main(["workers", base, *wanted]) == 0
        assert chooser.workers == wanted
    assert cli.main(["workers", base, *wanted]) == 1


BUDGET = 20


def router_unit(root: Path) -> str:
    """A root directory with the unit, its programs, and the targets it refers to; the name to ask about."""
    units = root / "etc/systemd/system"
    units.mkdir(parents=True)
    text = render("load_balancer", "trainyard-vllm-router@.service.j2", load_balancer_backend="vllm_router")
    (units / "trainyard-vllm-router@.service").write_text(text)
    for name in ("opt/trainyard/vllm-router/bin/vllm-router", "usr/local/lib/trainyard/router"):
        program = root / name
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    for name in ("sysinit", "basic", "shutdown", "network", "multi-user"):
        (units / f"{name}.target").write_text("[Unit]\nDescription=x\n")
    return "trainyard-vllm-router@tiny-llama.service"


@needs_systemd
def test_its_unit_is_understood_and_keeps_to_its_exposure_budget(tmp_path: Path) -> None:
    unit = router_unit(tmp_path)
    assert analyze("verify", tmp_path, unit, "--man=no").stderr == ""
    done = analyze("security", tmp_path, unit, "--offline=true", f"--threshold={BUDGET}", "--no-pager")
    assert done.returncode == 0, done.stdout[-400:]
