# SPDX-License-Identifier: Apache-2.0
"""What a running engine tells neuron-monitor about itself.

An engine answers on a socket without a file (Linux's abstract names), so nothing is left behind when it is killed and a
unit that may write nowhere can still be monitored.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from .config import HostConfig

_PATIENCE_SECONDS = 0.3


@dataclass
class Statistics:
    """Counters since the engine's start."""

    started: float = field(default_factory=time.monotonic)
    steps: int = 0
    tokens: int = 0
    busy_seconds: float = 0.0
    last: float = 0.0
    weights_bytes: int = 0
    cache_bytes: int = 0

    def executed(self, tokens: int, now: float) -> None:
        """A step produced tokens. Time since the last step counts as work when it was short."""
        self.steps += 1
        self.tokens += tokens
        if self.last and now - self.last < 1.0:
            self.busy_seconds += now - self.last
        self.last = now


def _address(host: HostConfig, pid: int) -> str:
    key = hashlib.sha256(str(host.root.resolve()).encode()).hexdigest()[:12]
    return f"\0neuron-sim/{key}/{pid}"


def listen(host: HostConfig) -> socket.socket | None:
    """This process's socket for inquiries; None where even that is forbidden."""
    with contextlib.suppress(OSError):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(_address(host, os.getpid()))
        listener.listen(4)
        return listener
    return None


def answer(listener: socket.socket, statistics: Statistics) -> None:
    """Answer one inquiry."""
    with contextlib.suppress(OSError):
        connection, _ = listener.accept()
        with connection:
            connection.sendall(json.dumps(asdict(statistics)).encode())


def ask(host: HostConfig, pid: int) -> dict[str, Any] | None:
    """The counters of an engine; None when it does not answer (it hangs, or it is the real vLLM)."""
    with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_PATIENCE_SECONDS)
        connection.connect(_address(host, pid))
        data = b""
        while part := connection.recv(65536):
            data += part
        found: dict[str, Any] = json.loads(data)
        return found
    return None
