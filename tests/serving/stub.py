# SPDX-License-Identifier: Apache-2.0
"""An OpenAI-compatible server for tests: streams tokens at a fixed pace, and misbehaves on demand."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

#: How long a server waits to be told that a client has a token, seconds.
STEP_LIMIT_S = 20.0


class Stub(ThreadingHTTPServer):
    """One server; its attributes say how it behaves.

    Attributes:
        model: id that /v1/models lists.
        token_s: pause before each token, in seconds.
        words: tokens of a completion, in order.
        key: bearer token to ask for.
        health: status of /health.
        comments: lines that are no events before the first token, each after a pause of its own.
        cut_after: close the connection after that many tokens.
        step: what a client releases for each token that it has; the next is sent then only (see `post_in_step`).
        errors: statuses for the next completions.
        more_headers: of the answers to completions, beside the usual ones.
        running: completions in flight; peak: the most there were; seen: request headers and paths; bodies: what was
            asked for.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, port: int = 0, **behaviour: Any) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.port: int = self.server_address[1]
        self.model = "tiny/llama"
        self.token_s = 0.0
        self.words = [" Paris", ",", " of", " course"]
        self.key = ""
        self.health = 200
        self.cut_after = -1
        self.comments = 0
        self.step: threading.Semaphore | None = None
        self.errors: list[int] = []
        self.more_headers: dict[str, str] = {}
        self.lock = threading.Lock()
        self.running = self.peak = 0
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.bodies: list[dict[str, Any]] = []
        for name, value in behaviour.items():
            setattr(self, name, value)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    server: Stub
    holds = 0
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_arguments: Any) -> None:
        pass

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path == "/health":
            self.answer(self.server.health, {})
        elif self.path == "/v1/models":
            self.answer(200, {"object": "list", "data": [{"id": self.server.model, "object": "model"}]})
        else:
            self.answer(404, {"error": {"message": "no"}})

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_POST(self) -> None:
        body = json.loads(self.body())
        stub = self.server
        with stub.lock:
            stub.seen.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
            stub.bodies.append(body)
            stub.running += 1
            self.holds = 1
            stub.peak = max(stub.peak, stub.running)
            error = stub.errors.pop(0) if stub.errors else 0
        try:
            if stub.key and self.headers.get("Authorization") != f"Bearer {stub.key}":
                self.answer(401, {"error": {"message": "no key"}})
            elif error:
                self.answer(error, {"error": {"message": "as told"}})
            else:
                self.stream(body)
        finally:
            self.leave()

    def leave(self) -> None:
        """Give the slot back, once a request."""
        with self.server.lock:
            self.server.running -= self.holds
            self.holds = 0

    def stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        for name, value in self.server.more_headers.items():
            self.send_header(name, value)
        if body.get("stream") is False:
            # Nothing at all, not even the headers, before the whole answer is there.
            time.sleep(self.server.token_s * (body.get("max_tokens") or 4))
        self.end_headers()
        words = (self.server.words * (body.get("max_tokens") or 4))[: body.get("max_tokens") or 4]
        for _ in range(self.server.comments):
            time.sleep(self.server.token_s)
            self.chunk(b": ping\n\n")
        for index, word in enumerate(words):
            time.sleep(self.server.token_s)
            stuck = index and self.server.step and not self.server.step.acquire(timeout=STEP_LIMIT_S)
            if stuck or index == self.server.cut_after:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.event({"choices": [{"index": 0, "text": word}]})
        self.event({"choices": [], "usage": {"completion_tokens": len(words)}})
        self.chunk(b"data: [DONE]\n\n")
        # A proxy may send the next request as soon as it has seen the end, so the slot is free before that.
        self.leave()
        self.wfile.write(b"0\r\n\r\n")

    def event(self, body: dict[str, Any]) -> None:
        self.chunk(b"data: " + json.dumps(body).encode() + b"\n\n")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()


@contextmanager
def running(port: int = 0, **behaviour: Any) -> Iterator[Stub]:
    """A stub that serves until the block ends."""
    stub = Stub(port, **behaviour)
    thread = threading.Thread(target=stub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        stub.shutdown()
        stub.server_close()


def free_port() -> int:
    """A port of the loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def post(port: int, body: dict[str, Any], **headers: str) -> tuple[int, dict[str, str], str, list[float]]:
    """POST a completion; returns status, headers, body, and when each piece came, in seconds after the start."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    began = time.monotonic()
    times, parts = [], []
    try:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json", **named})
        response = connection.getresponse()
        while piece := response.read1(65536):
            times.append(time.monotonic() - began)
            parts.append(piece)
        return response.status, dict(response.headers.items()), b"".join(parts).decode(), times
    finally:
        connection.close()


def post_in_step(port: int, stubs: Iterable[Stub], tokens: int, **headers: str) -> tuple[int, str, list[float]]:
    """POST a completion whose server sends a token only when the client has the one before; it stands still otherwise.

    Returns status, body, and the seconds between each token and the next.
    """
    step = threading.Semaphore(0)
    for stub in stubs:
        stub.step = step
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2 * STEP_LIMIT_S)
    body, times = b"", []
    try:
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        asked = json.dumps({"max_tokens": tokens})
        connection.request("POST", "/v1/completions", asked, {"Content-Type": "application/json", **named})
        response = connection.getresponse()
        with suppress(http.client.IncompleteRead):
            while piece := response.read1(65536):
                for _ in range((body + piece).count(b"\n\n") - body.count(b"\n\n")):
                    times.append(time.monotonic())
                    step.release()
                body += piece
        return response.status, body.decode(), [later - earlier for earlier, later in pairwise(times[:tokens])]
    finally:
        connection.close()
        for stub in stubs:
            stub.step = None


def get(port: int, path: str) -> tuple[int, str]:
    """GET a path; status 0 if nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except OSError:
        return 0, ""
    finally:
        connection.close()
