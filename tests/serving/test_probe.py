# SPDX-License-Identifier: Apache-2.0
"""The client that asks servers for tokens, against servers that would keep it or fill its memory."""

from __future__ import annotations

import socketserver
import threading
import time
from contextlib import suppress
from typing import ClassVar

import pytest
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
