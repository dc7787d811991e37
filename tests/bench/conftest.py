# SPDX-License-Identifier: Apache-2.0
"""Servers with known delays, each test's own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


class Server:
    """A running instrumented server: its URLs and the logs of its ports."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]

    def log(self, index: int = 0) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.urls[index]}/log", timeout=60) as answer:  # noqa: S310
            return json.load(answer)

    def reset(self) -> None:
        for url in self.urls:
            urllib.request.urlopen(urllib.request.Request(f"{url}/reset", method="POST"), timeout=60).close()  # noqa: S310


@contextlib.contextmanager
def running_server(replicas: int = 1, **behaviour: Any) -> Iterator[Server]:
    """Start bench/instrumented_server.py with `replicas` ports."""
    argv = [sys.executable, str(ROOT / "bench/instrumented_server.py"), "--ports", ",".join(["0"] * replicas)]
    for name, value in behaviour.items():
        option = "--" + name.replace("_", "-")
        argv += [option if value else "--no-" + option[2:]] if isinstance(value, bool) else [option, str(value)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Server(json.loads(process.stdout.readline())["ports"])
        finally:
            process.terminate()
            process.wait(timeout=60)


@pytest.fixture
def instrumented() -> Iterator[Callable[..., Server]]:
    with contextlib.ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(running_server(*args, **kwargs))
