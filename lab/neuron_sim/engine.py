# SPDX-License-Identifier: Apache-2.0
"""The engine process: owns the cores, schedules requests on ``max_num_seqs`` slots, says when each token is there.

It talks JSON lines over an inherited socket with the API server's process. It is a process of its own because it is one
on the real host: kill the server with SIGKILL and this one stays, with the cores.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
import select
import signal
import socket
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from . import compiler, faults, latency, rules, runtime_stats, sdk, sysfs
from .bringup import BringUpError, Loaded, bring_up, memory_error_text, say
from .config import HostConfig, logical_nc_config
from .config import load as load_config
from .hardware import instance_type
from .settings import ServeSettings

_IDLE_SECONDS = 0.2


class PrefixCache:
    """Which blocks of prompts and answers a replica still has, the least recently used gone first.

    As vLLM's: a block is known by all that comes before it, so only a beginning can be found.

    Args:
        capacity: blocks that fit.
        size: tokens of a block.
    """

    def __init__(self, capacity: int, size: int) -> None:
        self._capacity, self._size = capacity, size
        self._known: OrderedDict[str, None] = OrderedDict()

    def found(self, blocks: Sequence[str]) -> int:
        """Tokens at the beginning of a prompt that need not be computed again."""
        there = list(itertools.takewhile(self._known.__contains__, blocks))
        for block in reversed(there):
            self._known.move_to_end(block)
        return len(there) * self._size

    def keep(self, blocks: Sequence[str]) -> None:
        """Remember blocks. The later ones go first: without what comes before them they are of no use."""
        for block in reversed(blocks):
            self._known[block] = None
            self._known.move_to_end(block)
        while len(self._known) > self._capacity:
            self._known.popitem(last=False)


@dataclass
class Request:
    """One sequence. ``produced`` counts tokens so far; times are of the monotonic clock, in seconds."""

    key: str
    prompt_tokens: int
    max_tokens: int
    produced: int = 0
    arrived: float = 0.0
    due: float = 0.0
    started: float = 0.0
    blocks: tuple[str, ...] = ()
    cached_tokens: int = 0

    @property
    def queued(self) -> float:
        """Seconds between arrival and a slot."""
        return max(0.0, self.started - self.arrived)

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
    cache: PrefixCache | None = None

    def _prefill_seconds(self, request: Request) -> float:
        """How long a prompt takes without what the cache has of its beginning; its last token is always computed."""
        if self.cache is not None:
            request.cached_tokens = min(self.cache.found(request.blocks), request.prompt_tokens - 1)
        return self.speed.prefill_seconds(request.prompt_tokens - request.cached_tokens) * self.slowdown

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

    def due(self) -> float | None:
        """When the next token is due, as ``advance`` said it last."""
        if self.speed.serial:
            return self._step[0] if self._step else None
        return self._heap[0][0] if self._heap else None

    def _emit(self, request: Request) -> tuple[Request, str | None]:
        request.produced += 1
        if request.produced == 1 and self.cache is not None:
            self.cache.keep(request.blocks)
        finished = request.produced >= request.max_tokens
        if finished:
            self.running.pop(request.key, None)
        return request, "length" if finished else None

    def _is_current(self, due: float, key: str) -> bool:
        """Whether that is still when the request's next token is due (it may have been aborted)."""
        request = self.running.get(key)
        return request is not None and request.due == due

    def _advance_parallel(self, now: float) -> tuple[list[tuple[Request, str | None]], float | None]:
        done: list[tuple[Request, str | None]] = []
        while True:
            while self.waiting and len(self.running) < self.slots:
                request = self.waiting.popleft()
                # A slot that was given up at its due time starts the next prompt then, not when we noticed.
                started = max(request.arrived, self._device_free)
                request.started = started
                request.due = started + self._prefill_seconds(request)
                self.running[request.key] = request
                heapq.heappush(self._heap, (request.due, request.key))
            while self._heap and not self._is_current(*self._heap[0]):
                heapq.heappop(self._heap)
            if not self._heap or self._heap[0][0] > now:
                return done, self._heap[0][0] if self._heap else None
            due, key = heapq.heappop(self._heap)
            current = self.running[key]
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
            starts = request.started = max(self._device_free, request.arrived)
            return starts + self._prefill_seconds(request), [request.key]
        if not self.running:
            return None
        # Steps follow each other without a gap; after a long stop (a hang that ended) they start over from now.
        starts = now if self._device_free < now - 1.0 else self._device_free
        contexts = [request.context for request in self.running.values()]
        return starts + self.speed.step_seconds(contexts) * self.slowdown, list(self.running)


class EngineFailureError(Exception):
    """The engine dies of this; the message is its last words."""


class Engine:
    """The process's loop around the scheduler."""

    def __init__(self, channel: socket.socket, host: HostConfig, loaded: Loaded, scheduler: Scheduler) -> None:
        self._channel = channel
        self._host = host
        self._loaded = loaded
        self._scheduler = scheduler
        self._inbox = b""
        self._stopping = False
        self._next_look = 0.0
        self._replica = os.environ.get("NEURON_PROCESS_TAG", "")
        self.devices: set[int] = set()
        self.statistics = runtime_stats.Statistics()
        self._inquiries: socket.socket | None = None

    def send(self, message: dict[str, Any]) -> None:
        """One message to the API server; a server that is gone is no reason to stop, as on the real host."""
        try:
            self._channel.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            self._orphaned()

    def _orphaned(self) -> None:
        """The server died without a word: keep the cores, answer nobody, until somebody ends this process."""
        while not self._stopping and rules.holds(self._host, "killed-server"):
            signal.pause()
        self._stopping = True

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
                request.blocks = tuple(message.get("blocks") or ())
                # From its arrival on: what the server does before it asks us is part of the delay that was asked for.
                self._add(request, min(now, message["arrived"]))
            elif message["op"] == "keep" and self._scheduler.cache is not None:
                self._scheduler.cache.keep(message["blocks"])
            elif message["op"] == "abort":
                self._scheduler.abort(message["key"], now)
                self._emit([])  # so that the gauges follow where nothing else runs

    def _add(self, request: Request, now: float) -> None:
        """Queue a request that the compiled graphs can take.

        Raises:
            EngineFailureError: they cannot: NxDI raises inside the engine's step, which ends the engine.
        """
        loaded = self._loaded
        if loaded.broken:
            raise EngineFailureError(loaded.broken)
        if request.prompt_tokens > loaded.longest_prompt and rules.holds(self._host, "long-request"):
            raise EngineFailureError(
                f"ValueError: Inputs supplied ({request.prompt_tokens} tokens) are longer than max_context_length "
                f"({loaded.longest_prompt} tokens). To truncate inputs, set allow_input_truncation=True."
            )
        self._scheduler.add(request, now)

    def _look_for_faults(self, now: float) -> None:
        """Five times a second: is there a fault that hits this engine?

        Raises:
            EngineFailureError: memory of one of its devices failed.
        """
        if now < self._next_look:
            return
        self._next_look = now + _IDLE_SECONDS
        slow = faults.find(self._host, "slow-tokens", self._replica)
        self._scheduler.slowdown = slow.factor if slow else 1.0
        for kind in ("hbm-error", "repairable-hbm-error", "sram-error"):
            fault = faults.find(self._host, kind, devices=self.devices)
            if fault:
                raise EngineFailureError(memory_error_text(kind, fault.device))

    def _emit(self, tokens: list[tuple[Request, str | None]]) -> None:
        scheduler = self._scheduler
        for request, _ in tokens:
            if request.context > self._loaded.longest_sequence and rules.holds(self._host, "long-request"):
                raise EngineFailureError(
                    f"ValueError: Attention mask supplied (length={request.context}) is longer than max_length "
                    f"({self._loaded.longest_sequence} tokens). To truncate attention mask, set "
                    "allow_input_truncation=True."
                )
        if tokens:
            self.statistics.executed(len(tokens), time.monotonic())
        self.send(
            {
                "op": "tokens",
                "tokens": [[request.key, request.produced, reason] for request, reason in tokens],
                "queued": {request.key: request.queued for request, _ in tokens if request.produced == 1},
                "cached": {request.key: request.cached_tokens for request, _ in tokens if request.produced == 1},
                "running": len(scheduler.running),
                "waiting": len(scheduler.waiting),
                "context": sum(request.context for request in scheduler.running.values()),
            }
        )

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            EngineFailureError: the device or a request ends it.
        """
        self._inquiries = runtime_stats.listen(self._host)
        while not self._stopping:
            now = time.monotonic()
            self._look_for_faults(now)
            tokens, due = self._scheduler.advance(now)
            if tokens:
                self._emit(tokens)
                due = self._scheduler.due()
            timeout = _IDLE_SECONDS if due is None else min(_IDLE_SECONDS, max(0.0, due - time.monotonic()))
            # select() keeps microseconds; epoll would round every wait up to a millisecond.
            watched = [self._channel, *([self._inquiries] if self._inquiries else [])]
            ready, _, _ = select.select(watched, [], [], timeout)
            if self._channel in ready:
                self._receive()
            if self._inquiries is not None and self._inquiries in ready:
                runtime_stats.answer(self._inquiries, self.statistics)


def _replica_settings(host: HostConfig, serve: ServeSettings, loaded: Loaded) -> dict[str, Any]:
    kind = instance_type(host.instance_type)
    return {
        "family": kind.family,
        "cores": serve.tensor_parallel_size,
        "cores_per_device": kind.cores_per_device(logical_nc_config(host)),
        "batch": loaded.batch,
        "prefill_buckets": loaded.prefill_buckets,
        "decode_buckets": loaded.decode_buckets,
    }


def _prefix_cache(serve: ServeSettings, loaded: Loaded) -> PrefixCache | None:
    """The cache of a server that has one: as many blocks as its KV cache."""
    if not serve.caches_prefixes:
        return None
    whole = loaded.batch * -(-loaded.longest_sequence // serve.block_size)
    return PrefixCache(int(loaded.config.get("pa_num_blocks") or whole), serve.block_size)


def _start(channel: socket.socket, task: dict[str, Any]) -> Engine:
    host = load_config(task["root"])
    row = sdk.release(task["release"])
    serve = ServeSettings(**task["serve"])
    cores = tuple(task["cores"])
    loaded = bring_up(host, row, serve, cores)
    model = compiler.load_model_config(serve.model)
    speed = latency.from_settings({**serve.latency, "replica": _replica_settings(host, serve, loaded)}, model)
    if serve.draft:
        constants = latency.Constants.of(serve.latency.get("constants") or {})
        speed = latency.Guessed(speed, latency.speculation_factor(serve.draft_tokens, constants))
    scheduler = Scheduler(min(serve.max_num_seqs, loaded.batch), speed, cache=_prefix_cache(serve, loaded))
    engine = Engine(channel, host, loaded, scheduler)
    per_device = instance_type(host.instance_type).cores_per_device(logical_nc_config(host))
    engine.devices = {core // per_device for core in cores}
    shape = latency.Shape.of(model)
    engine.statistics.weights_bytes = compiler.checkpoint_bytes(serve.model, model)
    engine.statistics.cache_bytes = int(
        loaded.batch * loaded.longest_sequence * shape.kv_bytes_per_token_and_core(len(cores)) * len(cores)
    )
    for device in engine.devices:
        for core in range(per_device):
            counted = f"neuron_core{core}/stats/other_info"
            sysfs.increase(host, device, f"{counted}/model_load_count/total")
            if not rules.holds(host, "reset-failures"):
                sysfs.increase(host, device, f"{counted}/reset_fail_count/total")
    return engine


def main(arguments: list[str]) -> int:
    """Entry point of the engine process: the socket's descriptor and its task as JSON."""
    channel = socket.socket(fileno=int(arguments[0]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        engine = _start(channel, json.loads(arguments[1]))
        signal.signal(signal.SIGTERM, engine.stop)
        engine.send({"op": "ready"})
        engine.run()
    except (EngineFailureError, BringUpError, compiler.ModelError, compiler.CompileError, OSError, ValueError) as error:
        say(f"Engine died: {error}", "ERROR")
        return 1
    except AssertionError as error:
        say(f"Engine died: AssertionError: {error}", "ERROR")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
