# SPDX-License-Identifier: Apache-2.0
"""A load that accounts for every request: streams of 0.5 to 20 s, closed loop and open loop, judged by what came back.

A request is ``ok`` only if the status was 200, the server's own usage counts every token that was asked for, the last
chunk gave the reason for the end, the stream ended with ``[DONE]``, and no wait between two chunks was over-long (a
chunk may hold several tokens, so their number says nothing). Nothing is retried and
nothing is left out: sent = ok + failed + truncated + gap, or `Tally.check` raises. While this program itself got no
processor it saw nothing: it measures such pauses, takes them off the waits that they lie in, and reports them.

It is a program of its own (``python -m tests.roll.load``) so that the load goes on whatever becomes of the test.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import signal
import sys
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

KINDS = ("ok", "failed", "truncated", "gap")


@dataclass(frozen=True)
class Shape:
    """What is asked for and what is too long.

    Attributes:
        url: the router.
        model: model id, or several with commas between, which are asked for in turn.
        shortest_s: duration of the shortest stream, in seconds.
        longest_s: duration of the longest one.
        per_token_s: the engine's time per token, by which durations become token counts.
        gap_limit_s: longest wait between two chunks.
        first_limit_s: longest wait for the first chunk, queueing included.
    """

    url: str
    model: str
    shortest_s: float = 0.5
    longest_s: float = 20.0
    per_token_s: float = 0.1
    gap_limit_s: float = 2.0
    first_limit_s: float = 15.0

    def asked(self, number: int) -> str:
        """Model id that a request of this number asks for."""
        ids = self.model.split(",")
        return ids[number % len(ids)]

    def tokens(self, chance: random.Random) -> int:
        """Tokens of one stream: durations are spread evenly on a logarithmic scale, many short and a few long."""
        low, high = math.log(self.shortest_s), math.log(self.longest_s)
        return max(1, round(math.exp(chance.uniform(low, high)) / self.per_token_s))


@dataclass
class Sent:
    """One request and what became of it.

    ``at`` and ``worst_gap_at`` (when its longest wait began) are seconds since the start of the load, ``sent_at`` is
    the clock.
    """

    number: int
    loop: str
    at: float
    tokens: int
    sent_at: float = field(default_factory=time.time)
    kind: str = ""
    error: str = ""
    status: int = 0
    got: int = 0
    first_s: float = 0.0
    worst_gap_s: float = 0.0
    worst_gap_at: float = 0.0
    took_s: float = 0.0
    request_id: str = ""


@dataclass
class Tally:
    """Every request of a load, when it began (seconds since the epoch), and how long this program stood still."""

    sent: list[Sent] = field(default_factory=list)
    began: float = field(default_factory=time.time)
    paused_s: float = 0.0

    def check(self) -> None:
        """Every request has an outcome, once.

        Raises:
            AssertionError: one is unaccounted for.
        """
        open_ones = [item.number for item in self.sent if item.kind not in KINDS]
        if open_ones:
            raise AssertionError(f"{len(open_ones)} requests have no outcome, e.g. {open_ones[:5]}")

    def summary(self) -> dict[str, Any]:
        """Counts and times for people and for results."""
        counts = Counter(item.kind for item in self.sent)
        good = sorted(item.took_s for item in self.sent if item.kind == "ok")
        firsts = sorted(item.first_s for item in self.sent if item.kind == "ok")
        return {
            "began": round(self.began, 3),
            "client_paused_s": self.paused_s,
            "sent": len(self.sent),
            **{kind: counts.get(kind, 0) for kind in KINDS},
            "by_loop": dict(Counter(item.loop for item in self.sent)),
            "duration_s": {"min": _at(good, 0.0), "p50": _at(good, 0.5), "max": _at(good, 1.0)},
            "first_token_s": {"p50": _at(firsts, 0.5), "p99": _at(firsts, 0.99), "max": _at(firsts, 1.0)},
            "worst_gap_s": max((item.worst_gap_s for item in self.sent), default=0.0),
            "errors": dict(Counter(item.error for item in self.sent if item.kind != "ok").most_common(10)),
        }


def _at(values: list[float], share: float) -> float:
    return round(values[min(len(values) - 1, int(share * len(values)))], 4) if values else 0.0


class Pauses:
    """Stretches in which this program was not running: a timer of its own that rang late."""

    TICK_S = 0.05
    LEAST_S = 0.25

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.found: list[tuple[float, float]] = []

    async def watch(self) -> None:
        """Measure until cancelled."""
        while True:
            due = self._clock() + self.TICK_S
            await asyncio.sleep(self.TICK_S)
            now = self._clock()
            if now - due > self.LEAST_S:
                self.found.append((due, now))

    def within(self, begin: float, end: float) -> float:
        """Seconds of pauses between two times of the clock."""
        return sum(max(0.0, min(end, last) - max(begin, first)) for first, last in self.found)


class Load:
    """Sends requests until told to stop, then waits for those under way."""

    def __init__(self, shape: Shape, seed: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self.shape = shape
        self.tally = Tally()
        self._chance = random.Random(seed)  # noqa: S311  (a load, no secret)
        self._clock = clock
        self._began = clock()
        self.pauses = Pauses(clock)
        self._run = f"load-{uuid.uuid4().hex[:12]}"
        self._stop = asyncio.Event()
        self._client = httpx.AsyncClient(
            base_url=shape.url,
            timeout=httpx.Timeout(None, connect=10.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=30.0),
        )

    def stop(self) -> None:
        """Send nothing new."""
        self._stop.set()

    async def run(self, closed: int, per_second: float) -> Tally:
        """Run ``closed`` clients that each wait for their answer, and an open loop of Poisson arrivals beside them."""
        watch = asyncio.create_task(self.pauses.watch())
        async with self._client:
            loops: list[Awaitable[None]] = [self._closed() for _ in range(closed)]
            if per_second > 0:
                loops.append(self._open(per_second))
            await asyncio.gather(*loops)
        watch.cancel()
        self.tally.check()
        self.tally.paused_s = round(sum(end - begin for begin, end in self.pauses.found), 3)
        return self.tally

    async def _closed(self) -> None:
        while not self._stop.is_set():
            await self._request("closed")

    async def _open(self, per_second: float) -> None:
        under_way: set[asyncio.Task[None]] = set()
        due = self._clock()
        while True:
            due += self._chance.expovariate(per_second)
            try:
                # Arrivals keep their own time: a late one is sent at once, so slowness never thins the load.
                await asyncio.wait_for(self._stop.wait(), max(0.0, due - self._clock()))
                break
            except TimeoutError:
                task = asyncio.create_task(self._request("open"))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
        await asyncio.gather(*under_way)

    async def _request(self, loop: str) -> None:
        item = Sent(len(self.tally.sent), loop, round(self._clock() - self._began, 3), self.shape.tokens(self._chance))
        self.tally.sent.append(item)
        try:
            await self._stream(item)
        except httpx.HTTPError as error:
            item.error = f"{type(error).__name__}: {error}"
            # Broken off after tokens had come, or never begun: the client sees half an answer, or none.
            item.kind = "truncated" if item.got else "failed"
        item.took_s = item.took_s or self._took(item)
        if item.kind == "failed":
            # A client that fails at once must not become a busy loop.
            await asyncio.sleep(0.2)

    def _took(self, item: Sent) -> float:
        return round(self._clock() - self._began - item.at, 3)

    async def _stream(self, item: Sent) -> None:
        body = {
            "model": self.shape.asked(item.number),
            "prompt": f"Request {item.number}: tell me about rolling updates.",
            "max_tokens": item.tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        # An id of our own: the router's log then tells where a request went that got no answer.
        item.request_id = f"{self._run}-{item.number}"
        last = self._clock()
        waits: list[tuple[float, float]] = []
        usage, done, reason = -1, False, ""
        headers = {"x-request-id": item.request_id}
        async with self._client.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
            item.status = answer.status_code
            if answer.status_code != 200:
                text = (await answer.aread()).decode("utf-8", "replace")
                item.kind, item.error = "failed", f"HTTP {answer.status_code}: {text[:200]}"
                return
            async for line in answer.aiter_lines():
                if not line.startswith("data:"):
                    continue
                now = self._clock()
                payload = line[5:].strip()
                if payload == "[DONE]":
                    done = True
                    continue
                event = json.loads(payload)
                usage = (event.get("usage") or {}).get("completion_tokens", usage)
                if event.get("choices"):
                    reason = event["choices"][0].get("finish_reason") or reason
                    waits.append((last, now))
                    item.got += 1
                    last = now
                if "error" in event:
                    item.error = str(event["error"])[:200]
        item.took_s = self._took(item)
        # The timer that notices a pause may ring after the chunk that came at its end.
        await asyncio.sleep(2 * Pauses.TICK_S)
        seen = [round(end - start - self.pauses.within(start, end), 4) for start, end in waits]
        item.first_s = seen[0] if seen else 0.0
        if len(seen) > 1:
            item.worst_gap_s = max(seen[1:])
            item.worst_gap_at = round(waits[1 + seen[1:].index(item.worst_gap_s)][0] - self._began, 3)
        item.kind, item.error = verdict(item, usage, done, reason, self.shape)


def verdict(item: Sent, usage: int, done: bool, reason: str, shape: Shape) -> tuple[str, str]:
    """Judge a stream that ended without a network error.

    Args:
        item: what was seen of it.
        usage: completion tokens by the server's count, -1 if it sent none.
        done: the stream ended with ``[DONE]``.
        reason: why the server ended the text.
        shape: the limits.
    """
    if item.error:
        return "truncated", item.error
    if not done:
        return "truncated", "the stream ended without [DONE]"
    if usage != item.tokens:
        return "truncated", f"usage counts {usage} tokens, asked for {item.tokens}"
    if reason != "length":
        return "truncated", f"the text ended for {reason or 'no reason'}"
    if item.first_s > shape.first_limit_s:
        return "gap", f"first token after {item.first_s:.1f} s"
    if item.worst_gap_s > shape.gap_limit_s:
        return "gap", f"{item.worst_gap_s:.1f} s between two tokens"
    return "ok", ""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        description="Stream from a router until SIGTERM or the time is over; account for all."
    )
    top.add_argument("--url", required=True)
    top.add_argument("--model", required=True, help="model id, or several with commas between")
    top.add_argument("--closed", type=int, default=16, help="clients that wait for their answer (%(default)s)")
    top.add_argument("--rate", type=float, default=2.0, help="arrivals per second beside them (%(default)s)")
    top.add_argument("--seconds", type=float, default=0.0, help="how long; 0 is until SIGTERM")
    top.add_argument("--shortest-s", type=float, default=0.5)
    top.add_argument("--longest-s", type=float, default=20.0)
    top.add_argument("--per-token-s", type=float, default=0.1)
    top.add_argument("--gap-limit-s", type=float, default=2.0)
    top.add_argument("--first-limit-s", type=float, default=15.0)
    top.add_argument("--seed", type=int, default=1)
    top.add_argument("--requests-out", type=Path, help="every request, one JSON object a line")
    top.add_argument("--summary-out", type=Path, help="the summary as JSON")
    return top


async def drive(arguments: argparse.Namespace) -> Tally:
    """Run the load that the command line asks for."""
    shape = Shape(
        arguments.url,
        arguments.model,
        arguments.shortest_s,
        arguments.longest_s,
        arguments.per_token_s,
        arguments.gap_limit_s,
        arguments.first_limit_s,
    )
    load = Load(shape, arguments.seed)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, load.stop)
    if arguments.seconds:
        loop.call_later(arguments.seconds, load.stop)
    return await load.run(arguments.closed, arguments.rate)


def main(argv: list[str] | None = None) -> int:
    """Entry point; 0 only if every request was ok."""
    arguments = parser().parse_args(argv)
    tally = asyncio.run(drive(arguments))
    summary = tally.summary()
    if arguments.requests_out:
        lines = "".join(json.dumps(asdict(item)) + "\n" for item in tally.sent)
        arguments.requests_out.write_text(lines, encoding="utf-8")
    text = json.dumps(summary, indent=2) + "\n"
    if arguments.summary_out:
        arguments.summary_out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)
    return 0 if summary["sent"] == summary["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
