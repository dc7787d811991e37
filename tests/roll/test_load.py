# SPDX-License-Identifier: Apache-2.0
"""The load client against a server that misbehaves in known ways: it must see each of them, and count all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator

import pytest

from tests.roll.load import Load, Sent, Shape, Tally

PER_TOKEN_S = 0.01


class Misbehaving:
    """A tiny streaming server. ``plan`` maps the number of a request to what it does wrong; others are served well."""

    def __init__(self, plan: dict[int, str]) -> None:
        self.plan = plan
        self.seen = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(row.split(b":")[1]) for row in head.split(b"\r\n") if row.lower().startswith(b"content-l")
            )
            body = json.loads(await reader.readexactly(length))
            number = int(body["prompt"].split()[1].rstrip(":"))
            self.seen += 1
            await self.answer(writer, body["max_tokens"], self.plan.get(number, ""))
        writer.close()

    async def answer(self, writer: asyncio.StreamWriter, tokens: int, wrong: str) -> None:
        if wrong == "refuse":
            writer.write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbusy")
            await writer.drain()
            return
        if wrong == "hang up":
            return
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for number in range(tokens):
            if wrong == "cut" and number == tokens // 2:
                await writer.drain()
                return
            if wrong == "stall" and number == 1:
                await asyncio.sleep(0.4)
            reason = "length" if number == tokens - 1 and wrong != "abort" else None
            self.event(writer, {"choices": [{"text": "x", "finish_reason": reason}]})
            await writer.drain()
            await asyncio.sleep(PER_TOKEN_S)
        self.event(writer, {"choices": [], "usage": {"completion_tokens": tokens - (wrong == "short")}})
        if wrong != "no end":
            self.chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    def event(self, writer: asyncio.StreamWriter, content: dict[str, object]) -> None:
        self.chunk(writer, b"data: " + json.dumps(content).encode() + b"\n\n")

    @staticmethod
    def chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


@contextlib.asynccontextmanager
async def served(plan: dict[int, str]) -> AsyncIterator[tuple[Misbehaving, str]]:
    server = Misbehaving(plan)
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    async with listener:
        yield server, f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"


def drive(plan: dict[int, str], seconds: float = 1.5, closed: int = 4, rate: float = 10.0) -> tuple[Tally, int]:
    async def run() -> tuple[Tally, int]:
        async with served(plan) as (server, url):
            shape = Shape(url, "m", 0.05, 0.2, PER_TOKEN_S, gap_limit_s=0.3, first_limit_s=2.0)
            load = Load(shape)
            asyncio.get_running_loop().call_later(seconds, load.stop)
            tally = await load.run(closed, rate)
            return tally, server.seen

    return asyncio.run(run())


def test_every_request_to_a_good_server_is_ok_and_counted_on_both_sides() -> None:
    tally, seen = drive({})
    summary = tally.summary()
    assert summary["sent"] == summary["ok"] == seen
    assert set(summary["by_loop"]) == {"closed", "open"}
    assert summary["by_loop"]["open"] >= 5
    assert summary["errors"] == {}


@pytest.mark.parametrize(
    ("wrong", "kind", "error"),
    [
        ("refuse", "failed", "HTTP 503"),
        ("hang up", "failed", "RemoteProtocolError"),
        ("cut", "truncated", "RemoteProtocolError"),
        ("no end", "truncated", "without [DONE]"),
        ("short", "truncated", "usage counts"),
        ("abort", "truncated", "ended for no reason"),
        ("stall", "gap", "between two tokens"),
    ],
)
def test_each_misbehaviour_is_seen_for_what_it_is(wrong: str, kind: str, error: str) -> None:
    tally, seen = drive({2: wrong}, seconds=0.6, rate=0.0)
    assert tally.sent[2].kind == kind
    assert error in tally.sent[2].error
    assert [item.kind for item in tally.sent if item.number != 2] == ["ok"] * (len(tally.sent) - 1)
    assert seen == len(tally.sent)


def test_a_pause_of_the_client_itself_is_measured_and_blamed_on_nobody() -> None:
    """The stream of ten tokens goes on while the client stands still for longer than a gap may last."""

    async def run() -> tuple[Load, Tally]:
        async with served({}) as (_, url):
            load = Load(Shape(url, "m", 0.1, 0.1, PER_TOKEN_S, gap_limit_s=0.3, first_limit_s=2.0))
            loop = asyncio.get_running_loop()
            loop.call_later(0.15, time.sleep, 0.6)
            loop.call_later(1.2, load.stop)
            return load, await load.run(3, 0.0)

    load, tally = asyncio.run(run())
    assert [item.kind for item in tally.sent] == ["ok"] * len(tally.sent)
    assert 0.5 < tally.summary()["client_paused_s"] < 0.9
    assert load.pauses.within(0.0, float("inf")) == pytest.approx(tally.paused_s, abs=0.01)


def test_a_server_that_is_not_there_fails_every_request() -> None:
    async def run() -> Tally:
        load = Load(Shape("http://127.0.0.1:9", "m"))
        asyncio.get_running_loop().call_later(0.5, load.stop)
        return await load.run(2, 5.0)

    summary = asyncio.run(run()).summary()
    assert summary["sent"] == summary["failed"] > 0


def test_the_open_loop_does_not_wait_for_slow_answers() -> None:
    """Every request stalls for 0.4 s: two waiting clients send four or five a second, the open loop its 20."""
    plan = dict.fromkeys(range(1000), "stall")
    tally, _ = drive(plan, seconds=1.5, closed=0, rate=20.0)
    assert len(tally.sent) >= 15


def test_what_has_no_outcome_is_not_passed_over() -> None:
    tally = Tally([Sent(0, "closed", 0.0, 5, kind="ok"), Sent(1, "closed", 0.0, 5)])
    with pytest.raises(AssertionError, match="1 requests have no outcome"):
        tally.check()


def test_durations_span_the_range() -> None:
    shape = Shape("http://x", "m", 0.5, 20.0, 0.1)
    chance = random.Random(3)  # noqa: S311  (a load, no secret)
    tokens = [shape.tokens(chance) for _ in range(4000)]
    assert min(tokens) == 5
    assert max(tokens) in range(195, 201)
    assert 25 < sorted(tokens)[2000] < 40, "the middle of a logarithmic scale"
