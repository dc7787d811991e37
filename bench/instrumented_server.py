# SPDX-License-Identifier: Apache-2.0
"""An OpenAI-compatible server with known delays that logs what really happened, to judge load generators by.

Every request waits `ttft_ms`, then yields one token every `itl_ms`, on deadlines counted from its arrival, so that a
late wake-up does not add up. One process can pose as several replicas, one a port; each keeps vLLM's counters and its
own log of arrivals, first tokens and departures. A client's figures are right when they agree with these.

    python bench/instrumented_server.py --ports 9101,9102 --ttft-ms 200 --itl-ms 20 --failure-ratio 0.1

`GET /log` returns and keeps the log of a port; `POST /reset` empties it. Failures are chosen by a seeded generator, so
that two runs fail alike. Nothing here models a device: for that there is the lab's engine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import hashlib
import json
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

WORDS = ["the ", "of ", "and ", "a ", "to ", "in ", "is ", "it ", "you ", "that "]


@dataclass
class Behaviour:
    """What the server does with a request; times in milliseconds, counts in tokens."""

    model: str = "tiny"
    adapters: str = ""  # further names that it answers to, comma-separated
    ttft_ms: float = 200.0
    itl_ms: float = 20.0
    output_tokens: int = 50  # when the request names no max_tokens
    failure_ratio: float = 0.0  # answered with HTTP 500
    cut_ratio: float = 0.0  # the stream breaks off in the middle
    hang_ratio: float = 0.0  # never answered
    usage_chunk: bool = True  # a last chunk with empty `choices`, as vLLM sends when asked for usage
    reasoning_tokens: int = 0  # the first tokens come as `reasoning_content`
    keep_alive_ms: float = 0.0  # so often a line that is no event, until the first token; 0 = never
    letters: bool = False  # a token is a letter, so that a tokenizer of bytes counts text as the server does
    seed: int = 7
    max_num_seqs: int = 0  # 0 = no limit; others wait


@dataclass
class Entry:
    """One request as the server saw it; times are seconds on the process's monotonic clock."""

    arrived_s: float
    first_token_s: float | None = None
    finished_s: float | None = None
    output_tokens: int = 0
    prompt_tokens: int = 0
    prompt_digest: str = ""
    model: str = ""  # as the request named it
    connection: int = 0  # requests of one connection have the same number
    conversation: str = ""  # as its header says
    key: str = ""  # SHA-256 of the key that came with it
    status: int = 200
    outcome: str = "running"  # succeeded | failed | cut | hung | aborted


@dataclass
class Replica:
    """One port: its behaviour, log and counters."""

    behaviour: Behaviour
    log: list[Entry] = field(default_factory=list)
    running: int = 0
    waiting: int = 0
    slots: asyncio.Semaphore | None = None
    random: random.Random = field(default_factory=random.Random)

    def reset(self) -> None:
        """Forget the log and start the failures' sequence anew."""
        self.log.clear()
        self.random = random.Random(self.behaviour.seed)  # noqa: S311 - repeatable failures, no secret

    def metrics(self) -> str:
        """The counters under vLLM's names, in the Prometheus text format."""
        done = [e for e in self.log if e.outcome == "succeeded"]
        label = f'model_name="{self.behaviour.model}"'
        lines = [
            "# TYPE vllm:num_requests_running gauge",
            f"vllm:num_requests_running{{{label}}} {float(self.running)}",
            "# TYPE vllm:num_requests_waiting gauge",
            f"vllm:num_requests_waiting{{{label}}} {float(self.waiting)}",
            "# TYPE vllm:request_success_total counter",
            f'vllm:request_success_total{{finished_reason="length",{label}}} {float(len(done))}',
            f'vllm:request_success_total{{finished_reason="stop",{label}}} 0.0',
            "# TYPE vllm:prompt_tokens_total counter",
            f"vllm:prompt_tokens_total{{{label}}} {float(sum(e.prompt_tokens for e in self.log))}",
            "# TYPE vllm:generation_tokens_total counter",
            f"vllm:generation_tokens_total{{{label}}} {float(sum(e.output_tokens for e in self.log))}",
        ]
        return "\n".join(lines) + "\n"


class Connection:
    """One HTTP/1.1 connection; requests follow one another on it."""

    def __init__(self, replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.replica = replica
        self.reader = reader
        self.writer = writer
        self.key = ""

    async def serve(self) -> None:
        """Answer requests until the peer leaves."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            while head := await self._head():
                method, path, headers = head
                self.key = headers.get("authorization", "").removeprefix("Bearer ")
                self.conversation = headers.get("x-conversation", "")
                body = await self.reader.readexactly(int(headers.get("content-length", "0")))
                if not await self._answer(method, path.split("?")[0], body):
                    break
        self.writer.close()

    async def _head(self) -> tuple[str, str, dict[str, str]] | None:
        try:
            raw = await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, *rest = raw.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in rest if line)}
        return method, path, headers

    async def _answer(self, method: str, path: str, body: bytes) -> bool:
        replica = self.replica
        if method == "POST" and path in {"/v1/chat/completions", "/v1/completions"}:
            return await self._generate(json.loads(body), chat=path.endswith("chat/completions"))
        answers: dict[str, Callable[[], tuple[str, str]]] = {
            "/health": lambda: ("text/plain", ""),
            "/metrics": lambda: ("text/plain; version=0.0.4", replica.metrics()),
            "/v1/models": lambda: ("application/json", json.dumps(models(replica.behaviour))),
            "/log": lambda: ("application/json", json.dumps([asdict(e) for e in replica.log])),
        }
        if path == "/reset":
            replica.reset()
            await self._send(200, "text/plain", "")
        elif path in answers:
            await self._send(200, *answers[path]())
        else:
            await self._send(404, "application/json", '{"error": {"message": "no such path", "code": 404}}')
        return True

    async def _send(self, status: int, content_type: str, text: str) -> None:
        payload = text.encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(payload)}\r\n\r\n"
        self.writer.write(head.encode() + payload)
        await self.writer.drain()

    async def _generate(self, request: dict[str, Any], *, chat: bool) -> bool:
        replica, behaviour = self.replica, self.replica.behaviour
        prompt = json.dumps(request.get("messages") or request.get("prompt") or "")
        entry = Entry(
            arrived_s=time.monotonic(),
            prompt_tokens=len(prompt.split()),
            model=str(request.get("model")),
            prompt_digest=hashlib.sha256(prompt.encode()).hexdigest()[:12],
            connection=self.writer.get_extra_info("peername")[1],
            conversation=self.conversation,
            key=hashlib.sha256(self.key.encode()).hexdigest(),
        )
        replica.log.append(entry)
        wanted = request.get("max_completion_tokens") or request.get("max_tokens") or behaviour.output_tokens
        draw = replica.random.random()
        replica.waiting += 1
        async with replica.slots or contextlib.nullcontext():
            replica.waiting -= 1
            replica.running += 1
            try:
                return await self._outcome(request, entry, int(wanted), draw, chat=chat)
            except ConnectionError:
                entry.outcome = "aborted"
                raise
            finally:
                entry.finished_s = time.monotonic()
                replica.running -= 1

    async def _outcome(self, request: dict[str, Any], entry: Entry, wanted: int, draw: float, *, chat: bool) -> bool:
        behaviour = self.replica.behaviour
        if draw < behaviour.failure_ratio:
            entry.status, entry.outcome = 500, "failed"
            await self._send(500, "application/json", '{"error": {"message": "injected failure", "code": 500}}')
            return True
        draw -= behaviour.failure_ratio
        if draw < behaviour.hang_ratio:
            entry.outcome = "hung"
            await self.reader.read(1)  # ends when the client gives up
            return False
        cut = draw - behaviour.hang_ratio < behaviour.cut_ratio
        if not request.get("stream"):
            await asyncio.sleep((behaviour.ttft_ms + (wanted - 1) * behaviour.itl_ms) / 1000)
            entry.output_tokens, entry.outcome = wanted, "succeeded"
            await self._send(200, "application/json", json.dumps(whole(behaviour.model, wanted, entry, chat=chat)))
            return True
        await self._stream(request, entry, wanted // 2 if cut else wanted, chat=chat, cut=cut)
        return not cut

    async def _stream(self, request: dict[str, Any], entry: Entry, tokens: int, *, chat: bool, cut: bool) -> None:
        behaviour = self.replica.behaviour
        self.writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        began = time.monotonic()
        await self._keep_alive(began + behaviour.ttft_ms / 1000)
        for index in range(tokens):
            due = began + (behaviour.ttft_ms + index * behaviour.itl_ms) / 1000
            # Tokens that are due already go out together: a server behind its deadlines must not be what limits.
            if (ahead_s := due - time.monotonic()) > 0:
                await self.writer.drain()
                await asyncio.sleep(ahead_s)
            if chat and index == 0:  # as vLLM does: the role comes with the first token, not before it
                self._event(rendered(behaviour.model, "content", "", chat=chat, role=True))
            key = "reasoning_content" if index < behaviour.reasoning_tokens else "content"
            last = index == tokens - 1 and not cut
            text = WORDS[index % len(WORDS)]
            self._event(rendered(behaviour.model, key, text[0] if behaviour.letters else text, chat=chat, last=last))
            if entry.first_token_s is None:
                entry.first_token_s = time.monotonic()
            entry.output_tokens += 1
        await self.writer.drain()
        if cut:
            entry.outcome = "cut"
            self.writer.transport.abort()
            return
        if behaviour.usage_chunk and (request.get("stream_options") or {}).get("include_usage"):
            self._event({"object": "chat.completion.chunk", "choices": [], "usage": usage(entry)})
        self._event("[DONE]")
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()
        entry.outcome = "succeeded"

    async def _keep_alive(self, until_s: float) -> None:
        """What vLLM's --sse-keep-alive-interval sends while nothing else is there to be sent."""
        every_s = self.replica.behaviour.keep_alive_ms / 1000
        while every_s and time.monotonic() + every_s < until_s:
            await asyncio.sleep(every_s)
            self.writer.write(b"e\r\n: keep-alive\n\n\r\n")
            await self.writer.drain()

    def _event(self, data: dict[str, Any] | str) -> None:
        text = data if isinstance(data, str) else json.dumps(data)
        payload = f"data: {text}\n\n".encode()
        self.writer.write(f"{len(payload):x}\r\n".encode() + payload + b"\r\n")


def models(behaviour: Behaviour) -> dict[str, Any]:
    """The body of /v1/models."""
    card = {"object": "model", "owned_by": "test", "max_model_len": 131072}
    names = [behaviour.model, *filter(None, behaviour.adapters.split(","))]
    return {"object": "list", "data": [{"id": name, **card} for name in names]}


def usage(entry: Entry) -> dict[str, int]:
    """The usage block of an answer."""
    return {
        "prompt_tokens": entry.prompt_tokens,
        "completion_tokens": entry.output_tokens,
        "total_tokens": entry.prompt_tokens + entry.output_tokens,
    }


def chunk(model: str, delta: dict[str, str], *, chat: bool, last: bool = False) -> dict[str, Any]:
    """One streamed chunk of a chat or text completion."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": "length" if last else None}
    if chat:
        choice["delta"] = delta
        return {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": model, "choices": [choice]}
    choice["text"] = next(iter(delta.values()))
    return {"id": "x", "object": "text_completion", "created": 0, "model": model, "choices": [choice]}


@functools.lru_cache(maxsize=256)
def rendered(model: str, key: str, text: str, *, chat: bool, role: bool = False, last: bool = False) -> str:
    """A chunk as JSON; streams say the same few over and over, and a client must cost more than this server."""
    first = {"role": "assistant"} if role else {}
    return json.dumps(chunk(model, {**first, key: text}, chat=chat, last=last))


def whole(model: str, tokens: int, entry: Entry, *, chat: bool) -> dict[str, Any]:
    """An answer that is not streamed."""
    text = "".join(WORDS[i % len(WORDS)] for i in range(tokens))
    choice: dict[str, Any] = {"index": 0, "finish_reason": "length"}
    choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    return {"id": "x", "object": "completion", "model": model, "choices": [choice], "usage": usage(entry)}


def mean_in_flight(log: list[dict[str, Any]]) -> float:
    """Requests in flight on average between the log's first arrival and its last departure."""
    if not log:
        return 0.0
    ends = [e["finished_s"] or e["arrived_s"] for e in log]
    span_s = max(ends) - min(e["arrived_s"] for e in log)
    return sum(end - e["arrived_s"] for end, e in zip(ends, log, strict=True)) / span_s if span_s > 0 else 0.0


async def start(ports: list[int], behaviour: Behaviour) -> list[asyncio.Server]:
    """Listen on every port of loopback; each is a replica of its own. Port 0 takes a free one."""
    servers = []
    for index, port in enumerate(ports):
        replica = Replica(behaviour=behaviour, random=random.Random(behaviour.seed + index))  # noqa: S311
        replica.slots = asyncio.Semaphore(behaviour.max_num_seqs) if behaviour.max_num_seqs else None

        async def connected(r: asyncio.StreamReader, w: asyncio.StreamWriter, replica: Replica = replica) -> None:
            await Connection(replica, r, w).serve()

        servers.append(await asyncio.start_server(connected, "127.0.0.1", port, limit=2**22, backlog=512))
    return servers


async def run(ports: list[int], behaviour: Behaviour) -> None:
    """Serve until SIGTERM or SIGINT; the first line of stdout names the ports as JSON."""
    servers = await start(ports, behaviour)
    print(json.dumps({"ports": [s.sockets[0].getsockname()[1] for s in servers]}), flush=True)
    stop = asyncio.Event()
    for sig in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sig, stop.set)
    await stop.wait()
    # Streams that are cut off by the end are no news.
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and serve."""
    parser = argparse.ArgumentParser(description="An OpenAI-compatible server with known delays.")
    parser.add_argument("--ports", default="0", help="comma-separated; 0 takes a free one")
    defaults = Behaviour()
    for name, value in asdict(defaults).items():
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            parser.add_argument(option, default=value, action=argparse.BooleanOptionalAction)
        else:
            parser.add_argument(option, default=value, type=type(value))
    given = vars(parser.parse_args(argv))
    ports = [int(p) for p in given.pop("ports").split(",")]
    asyncio.run(run(ports, Behaviour(**given)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
