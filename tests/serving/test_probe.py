# SPDX-License-Identifier: Apache-2.0
"""The client that asks servers for tokens and numbers, against servers that would keep it or fill its memory."""

from __future__ import annotations

import socketserver
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.benchmark import counters
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.host import fetch_metrics
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import probe

from tests.serving.stub import running


class Drip(socketserver.BaseRequestHandler):
    """Answers as slowly as it can without a silence: a byte now and then, for ever."""

    parts: ClassVar[list[bytes]] = []

    def handle(self) -> None:
        with suppress(OSError):
            self.request.recv(65536)
            self.request.sendall(self.parts[0])
            while True:
                self.request.sendall(self.parts[1])
                time.sleep(0.1)


HEAD = b"HTTP/1.1 200 OK\r\n"
SLOW = {
    "headers": [HEAD, b"X"],
    "body": [HEAD + b"Content-Length: 1000000\r\n\r\n", b"x"],
    "chunk sizes": [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"],
    # Cut off, it would look like a whole answer.
    "until it closes": [HEAD + b"Connection: close\r\n\r\n", b"x"],
    "lines": [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"],
}


@pytest.mark.parametrize("kind", SLOW)
def test_no_server_keeps_who_asks_it_past_the_deadline(kind: str) -> None:
    handler = type("Handler", (Drip,), {"parts": SLOW[kind]})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        client = probe.Client(f"http://127.0.0.1:{server.server_address[1]}", timeout_s=0.5)
        began = time.monotonic()
        assert client.text("/metrics") is None
        assert client.status("/health") == 0 or kind != "headers"
        with pytest.raises(probe.ProbeError, match=r"took more than 0\.5 s"):
            client.complete("m", "x", 4, 0.5)
        assert time.monotonic() - began < 20, "each of the three calls has half a second"
        server.shutdown()


def test_no_server_fills_the_memory_of_who_asks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "MAX_BODY", 1000)
    with running(words=["x" * 200]) as stub:
        stub.model = "m" * 1000
        client = probe.Client(stub.url)
        with pytest.raises(probe.ProbeError, match="more than 1000 bytes"):
            client.complete("m", "x", 100, 10)
        assert client.text("/v1/models") is None
        with pytest.raises(probe.ProbeError, match="did not answer a list of models"):
            client.models()


class Elsewhere(BaseHTTPRequestHandler):
    """An engine whose every answer is `body`, or points to `location`; it remembers what was asked."""

    body: ClassVar[bytes] = b""
    location: ClassVar[str] = ""
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(302 if self.location and self.path != "/secret" else 200)
        self.send_header("Location", self.location)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(self.body)

    def log_message(self, *_arguments: object) -> None:
        pass


def _counters(url: str) -> object:
    try:
        return counters.read(url)
    except counters.UnreachableError:
        return None


READERS = {"a roll": fetch_metrics, "a benchmark": _counters}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("trick", ["points elsewhere", "sends without an end", "answers"])
def test_an_engine_neither_sends_who_reads_its_numbers_elsewhere_nor_fills_its_memory(
    reader: str, trick: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "MAX_BODY", 1000)
    page = b"vllm:num_requests_running 1\n" * (100 if trick == "sends without an end" else 1)
    handler = type("Handler", (Elsewhere,), {"body": page, "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        handler.location = f"{url}/secret" if trick == "points elsewhere" else ""
        found = READERS[reader](url)
        server.shutdown()
    assert (found is not None) == (trick == "answers")
    assert handler.asked == ["/metrics"]
