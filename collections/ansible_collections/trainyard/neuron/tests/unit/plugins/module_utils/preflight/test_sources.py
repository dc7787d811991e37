# SPDX-License-Identifier: Apache-2.0
"""What is asked of the places that a fleet takes things from, and what of their answers is believed."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.preflight import sources

LIST = b"Package: aws-neuronx-tools\nVersion: 2.1\n"


@contextmanager
def saying(answer: bytes) -> Iterator[str]:
    """Something that answers every connection with the same bytes; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


def http(content: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(content) + content


@pytest.mark.parametrize(
    "answer", [b"220 a mail server\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"]
)
def test_what_is_no_http_is_nothing_that_answers(answer: bytes) -> None:
    with saying(answer) as url, pytest.raises(sources.Answer) as told:
        sources.fetch(url)
    assert told.value.problem == "unreachable"


def test_a_list_of_packages_is_read_and_what_is_not_there_is_named() -> None:
    with saying(http(gzip.compress(LIST))) as url:
        sources.packages({"url": url, "packages": {"aws-neuronx-tools": "2.1"}})
        with pytest.raises(sources.Answer, match="aws-neuronx-tools=3") as told:
            sources.packages({"url": url, "packages": {"aws-neuronx-tools": "3"}})
    assert told.value.problem == "version"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it was cut"),
        (LIST, "is no list of packages"),
        (gzip.compress(LIST)[:-9], "it was cut"),
        (gzip.compress(LIST)[:12] + b"\xff" * 40, "is no list of packages"),
        (gzip.compress(bytes(sources.MOST_UNPACKED_BYTES + 1), 1), "unpacked it has more than"),
    ],
    ids=["empty", "not packed", "cut", "broken", "a bomb"],
)
def test_a_list_that_is_none_is_told_as_such(content: bytes, said: str) -> None:
    with saying(http(content)) as url, pytest.raises(sources.Answer, match=said) as told:
        sources.packages({"url": url, "packages": {"aws-neuronx-tools": "2.1"}})
    assert told.value.problem == "unreachable"
