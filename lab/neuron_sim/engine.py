# SPDX-License-Identifier: Apache-2.0
"""The engine process: owns the cores, schedules requests on ``max_num_seqs`` slots, says when each token is there.

It talks JSON lines over an inherited socket with the API server's process. It is a process of its own because it is one
on the real host: kill the server with SIGKILL and this one stays, with the cores.
"""

from __future__ import annotations

import heapq
import json
import select
import signal
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from . import latency

_IDLE_SECONDS = 1.0


@dataclass
class Request:
    """One sequence. ``produced`` counts tokens so far; times are of the monotonic clock, in seconds."""

    key: str
    prompt_tokens: int
    max_tokens: int
    produced: int = 0
    arrived: float = 0.0
    due: float = 0.0

    @property
    def context(self) -> int:
        """Tokens that attention looks at for the next one."""
        return self.prompt_tokens + self.produced


@dataclass
class Scheduler:
    """Slots, a queue in order of arrival, and the clock of the device.

    ``advance`` is pure in time: it is told what time it is and says which tokens are there and when to call again.
    """

    slots: int
    speed: latency.Latency
    waiting: deque[Request] = field(default_factory=deque)
    running: dict[str, Request] = field(default_factory=dict)
    _heap: list[tuple[float, str]] = field(default_factory=list)
    _device_free: float = 0.0
    _step: tuple[float, list[str]] | None = None
    slowdown: float = 1.0

    def add(self, request: Request, now: float) -> None:
        """Queue a request."""
        request.arrived = now
        self.waiting.append(request)

    def abort(self, key: str, now: float) -> None:
        """Forget a request wherever it is; its slot is free at once."""
        if self.running.pop(key, None) and not self.speed.serial:
            self._device_free = now
        self.waiting = deque(request for request in self.waiting if request.key != key)

    def advance(self, now: float) -> tuple[list[tuple[Request, str | None]], float | None]:
        """Tokens that are due by ``now`` (each with its finish reason or None), and when the next one will be."""
        return self._advance_serial(now) if self.speed.serial else self._advance_parallel(now)

    def _emit(self, request: Request) -> tuple[Request, str | None]:
        request.produced += 1
        finished = request.produced >= request.max_tokens
        if finished:
            self.running.pop(request.key, None)
        return request, "length" if finished else None

    def _advance_parallel(self, now: float) -> tuple[list[tuple[Request, str | None]], float | None]:
        done: list[tuple[Request, str | None]] = []
        while True:
            while self.waiting and len(self.running) < self.slots:
                request = self.waiting.popleft()
                # A slot that was given up at its due time starts the next prompt then, not when we noticed.
                started = max(request.arrived, self._device_free)
                request.due = started + self.speed.prefill_seconds(request.prompt_tokens) * self.slowdown
                self.running[request.key] = request
                heapq.heappush(self._heap, (request.due, request.key))
            if not self._heap or self._heap[0][0] > now:
                return done, self._heap[0][0] if self._heap else None
            due, key = heapq.heappop(self._heap)
            current = self.running.get(key)
            if current is None or current.due != due:
                continue
            done.append(self._emit(current))
            if key in self.running:
                current.due = due + self.speed.step_seconds([current.context]) * self.slowdown
                heapq.heappush(self._heap, (current.due, key))
            else:
                self._device_free = due

    def _advance_serial(self, now: float) -> tuple[list[tuple[Request, str | None]], float | None]:
        done: list[tuple[Request, str | None]] = []
        while True:
            if self._step is None:
                self._step = self._next_step(now)
            if self._step is None:
                return done, None
            ends, keys = self._step
            if ends > now:
                return done, ends
            self._device_free, self._step = ends, None
            done.extend(self._emit(self.running[key]) for key in keys if key in self.running)

    def _next_step(self, now: float) -> tuple[float, list[str]] | None:
        if self.waiting and len(self.running) < self.slots:
            request = self.waiting.popleft()
            self.running[request.key] = request
            starts = max(self._device_free, request.arrived)
            return starts + self.speed.prefill_seconds(request.prompt_tokens) * self.slowdown, [request.key]
        if not self.running:
            return None
        starts = max(self._device_free, now) if self._device_free < now - _IDLE_SECONDS else self._device_free
        contexts = [request.context for request in self.running.values()]
        return starts + self.speed.step_seconds(contexts) * self.slowdown, list(self.running)


class Engine:
    """The process's loop around the scheduler."""

    def __init__(self, channel: socket.socket, scheduler: Scheduler) -> None:
        self._channel = channel
        self._scheduler = scheduler
        self._inbox = b""
        self._stopping = False

    def send(self, message: dict[str, Any]) -> None:
        """One message to the API server; a server that is gone is no reason to stop, as on the real host."""
        try:
            self._channel.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            self._orphaned()

    def _orphaned(self) -> None:
        """The server died without a word: keep the cores, answer nobody, until somebody ends this process."""
        while not self._stopping:
            signal.pause()

    def stop(self, *_: object) -> None:
        """Leave the loop soon."""
        self._stopping = True

    def _receive(self) -> None:
        data = self._channel.recv(1 << 16)
        if not data:
            self._orphaned()
            return
        *lines, self._inbox = (self._inbox + data).split(b"\n")
        now = time.monotonic()
        for line in lines:
            message = json.loads(line)
            if message["op"] == "add":
                request = Request(message["key"], message["prompt_tokens"], message["max_tokens"])
                self._scheduler.add(request, now)
            elif message["op"] == "abort":
                self._scheduler.abort(message["key"], now)
            elif message["op"] == "stop":
                self._stopping = True

    def run(self) -> None:
        """Serve until told to stop."""
        scheduler = self._scheduler
        while not self._stopping:
            tokens, due = scheduler.advance(time.monotonic())
            if tokens:
                self.send(
                    {
                        "op": "tokens",
                        "tokens": [[request.key, request.produced, reason] for request, reason in tokens],
                        "running": len(scheduler.running),
                        "waiting": len(scheduler.waiting),
                        "context": sum(request.context for request in scheduler.running.values()),
                    }
                )
            timeout = _IDLE_SECONDS if due is None else max(0.0, due - time.monotonic())
            # select() keeps microseconds; epoll would round every wait up to a millisecond.
            ready, _, _ = select.select([self._channel], [], [], timeout)
            if ready:
                self._receive()


def main(arguments: list[str]) -> int:
    """Entry point of the engine process: the socket's descriptor and its settings as JSON."""
    settings = json.loads(arguments[1])
    channel = socket.socket(fileno=int(arguments[0]))
    engine = Engine(channel, Scheduler(settings["slots"], latency.from_settings(settings["latency"])))
    signal.signal(signal.SIGTERM, engine.stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    engine.send({"op": "ready"})
    engine.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
