# SPDX-License-Identifier: Apache-2.0
"""What vllm-router is told and what of its answers is believed, by something that speaks as it does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.routing import vllm_router
from ansible_collections.trainyard.neuron.plugins.module_utils.routing.haproxy import RouterError


class Stand(ThreadingHTTPServer):
    """vllm-router's calls: `answer` is what it lists, `asked` what it was asked."""

    answer = b'{"urls": ["http://a", "http://b"]}'
    asked: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Stand

    def do_GET(self) -> None:
        if self.server.answer == b"220":
            self.wfile.write(b"220 a mail server\r\n")
            return
        self._say(self.server.answer)

    def do_POST(self) -> None:
        self.server.asked.append(self.path)
        self._say(b"{}")

    def _say(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_given: object) -> None:
        """Nothing is logged."""


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    # Nobody answers there: a host that goes out by a proxy asks itself by none.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    server = Stand(("127.0.0.1", 0), Handler)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def base(router: Stand) -> str:
    return f"http://127.0.0.1:{router.server_address[1]}"


def test_it_is_asked_by_no_proxy(router: Stand) -> None:
    try:
        vllm_router.set_workers(base(router), ["http://a", "http://b"])
    except RouterError as error:
        pytest.fail(str(error))


def test_the_new_come_before_the_old_go(router: Stand) -> None:
    assert vllm_router.set_workers(base(router), ["http://b", "http://c"]) == (["http://c"], ["http://a"])
    assert router.asked == ["/add_worker?url=http%3A%2F%2Fc", "/remove_worker?url=http%3A%2F%2Fa"]
    assert vllm_router.set_workers(base(router), ["http://a", "http://b"]) == ([], [])


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"null", b'{"urls": 7}', b"[" * 100_000, b"220", json.dumps({}).encode()]
)
def test_a_router_that_lists_nothing_is_told_as_such(router: Stand, answer: bytes) -> None:
    router.answer = answer
    with pytest.raises(RouterError, match=r"list_workers"):
        vllm_router.set_workers(base(router), ["http://c"])
    assert router.asked == []
