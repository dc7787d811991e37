# SPDX-License-Identifier: Apache-2.0
"""The API server's end of the engine process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from . import faults, ownership, rules
from .config import HostConfig
from .metrics import Metrics
from .ownership import Claim
from .settings import ServeSettings

SHUTDOWN_GRACE_SECONDS = 5.0  # vLLM's own: the engine is killed when it takes longer


def _began(pid: int) -> float:
    """When a process began, seconds of the clock that counts from boot."""
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return 0.0


class EngineDeadError(Exception):
    """The engine process is gone, and with it every sequence."""


class Submitted:
    """A request in the engine: ``next`` gives the number of tokens so far, each time there are more."""

    def __init__(self, client: EngineClient, key: str, limit: int) -> None:
        self._client = client
        self._key = key
        self._limit = limit
        self._produced = 0
        self._given = 0
        self._wake = asyncio.Event()
        self.submitted = time.monotonic()
        self.queue_seconds = 0.0

    def push(self, produced: int) -> None:
        """The engine said how many tokens there are now."""
        self._produced = produced
        self._wake.set()

    def wake(self) -> None:
        """Look again: something else changed."""
        self._wake.set()

    async def next(self) -> int:
        """Wait for more tokens.

        Raises:
            EngineDeadError: there will be none.
        """
        while self._produced <= self._given:
            if self._client.dead:
                raise EngineDeadError
            self._wake.clear()
            await self._wake.wait()
        self._given = self._produced
        return self._given

    def close(self) -> None:
        """Forget the request; the engine aborts it if it was still running."""
        self._client.forget(self._key, aborted=self._produced < self._limit)


class EngineClient:
    """Starts the engine process, submits requests to it, notices its death."""

    def __init__(self, host: HostConfig, settings: ServeSettings, metrics: Metrics) -> None:
        self._host = host
        self.settings = settings
        self._metrics = metrics
        self._requests: dict[str, Submitted] = {}
        self._counter = 0
        self._writer: asyncio.StreamWriter | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.dead = False
        self.noticed_dead = asyncio.Event()
        self.ready = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Requests that were submitted and are not finished."""
        return len(self._requests)

    @property
    def stopped(self) -> bool:
        """Whether the engine's process stands still."""
        with contextlib.suppress(OSError, AttributeError):
            return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"  # type: ignore[union-attr]
        return False

    @property
    def confused(self) -> bool:
        """Whether a fault has this replica answer with other words than its peers, as a broken artifact does."""
        return faults.find(self._host, "wrong-tokens", os.environ.get("NEURON_PROCESS_TAG", "")) is not None

    def check_neighbours(self, seconds: float) -> None:
        """Do nothing, unless starts of others disturb what runs here.

        Raises:
            ConnectionResetError: within the last seconds another process has begun to hold cores of the host.
        """
        if rules.holds(self._host, "neighbour-streams"):
            return
        own = self.process.pid if self.process else 0
        since = time.clock_gettime(time.CLOCK_BOOTTIME) - seconds
        others = [holder.pid for holder in ownership.holders(self._host) if holder.pid not in (own, os.getpid())]
        if any(_began(pid) > since for pid in others):
            raise ConnectionResetError("another server of the host has begun")

    async def start(self, claim: Claim) -> None:
        """Start the engine with the claimed cores and wait until it is ready."""
        ours, theirs = socket.socketpair()
        task = {
            "root": str(self._host.root),
            "release": self.settings.release,
            # The key is the server's business, and argv is everybody's to read.
            "serve": asdict(replace(self.settings, api_key="")),
            "cores": claim.cores,
        }
        self.process = subprocess.Popen(
            _engine_argv(self.settings, theirs.fileno(), json.dumps(task)),
            executable=sys.executable,
            pass_fds=(theirs.fileno(), *claim.descriptors),
            env={**os.environ, **claim.environment()},
        )
        theirs.close()
        claim.release()
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=1 << 24)
        self._reading = asyncio.ensure_future(self._read(reader))
        await asyncio.wait(
            {self._reading, asyncio.ensure_future(self.ready.wait())}, return_when=asyncio.FIRST_COMPLETED
        )
        if self.dead:
            raise EngineDeadError

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                self._message(json.loads(line))
        self.dead = True
        for request in self._requests.values():
            request.wake()

    def _message(self, message: dict[str, Any]) -> None:
        if message["op"] == "ready":
            self.ready.set()
            return
        for key, produced, _ in message["tokens"]:
            request = self._requests.get(key)
            if request is not None:
                if produced == 1:
                    request.queue_seconds = float(message["queued"].get(key, 0.0))
                    self._metrics.prefix_hits += int(message["cached"].get(key, 0))
                request.push(produced)
        metrics = self._metrics
        metrics.running = message["running"]
        stays = 0 if rules.holds(self._host, "drain-ends") else metrics.waiting
        metrics.waiting = max(message["waiting"], stays)
        capacity = self.settings.max_num_seqs * self.settings.max_model_len
        metrics.cache_usage = min(1.0, message["context"] / capacity)

    def _send(self, message: dict[str, Any]) -> None:
        if self._writer is not None and not self.dead:
            self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def keep(self, blocks: list[str]) -> None:
        """Have the engine remember an answer's blocks, as it does its prompt's."""
        self._send({"op": "keep", "blocks": blocks})

    def submit(self, prompt_tokens: int, limit: int, arrived: float, blocks: list[str] | None = None) -> Submitted:
        """Queue a request that came at that time of the monotonic clock, which the processes share.

        ``blocks`` are the digests of its prompt's whole blocks, of a server that finds beginnings again.

        Raises:
            EngineDeadError: there is no engine.
        """
        if self.dead:
            raise EngineDeadError
        self._counter += 1
        key = str(self._counter)
        request = self._requests[key] = Submitted(self, key, limit)
        asked = {"op": "add", "key": key, "prompt_tokens": prompt_tokens, "max_tokens": limit, "arrived": arrived}
        self._send({**asked, "blocks": blocks} if blocks else asked)
        return request

    def forget(self, key: str, *, aborted: bool) -> None:
        """Stop caring about a request."""
        if self._requests.pop(key, None) is not None and aborted and rules.holds(self._host, "left-client"):
            self._send({"op": "abort", "key": key})

    async def stop(self) -> None:
        """Ask the engine to end, and kill it when it does not within vLLM's grace."""
        process = self.process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        end = time.monotonic() + SHUTDOWN_GRACE_SECONDS
        while process.poll() is None:
            if time.monotonic() > end:
                process.kill()
            await asyncio.sleep(0.02)


def _engine_argv(settings: ServeSettings, descriptor: int, text: str) -> list[str]:
    """The engine's command line: V1 renames its process, V0's is what multiprocessing starts."""
    package = str(Path(__file__).resolve().parent.parent)
    code = (
        f"import sys; sys.pycache_prefix = {sys.pycache_prefix!r}; sys.path.insert(0, {package!r}); "
        "from neuron_sim.engine import main; sys.exit(main(sys.argv[1:]))"
    )
    name = sys.executable if settings.vllm_version < (0, 10) else "VLLM::EngineCore"
    return [name, "-IS", "-c", code, str(descriptor), text]
