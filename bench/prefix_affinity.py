# SPDX-License-Identifier: Apache-2.0
"""What the router's prefix affinity gains for conversations whose prompts grow, over least load, as ratios of one run.

Four replicas of the simulated engine, each with a prefix cache and the latency model's Llama 3.3 70B on 16 cores, stand
behind the HAProxy that the role configures: once with least load, once with each way to keep a beginning where it is
cached, and with vllm-router's cache_aware, alone and behind ours (it is fetched where it is not installed; ``--alone``
does without). A conversation's next turn is sent when its last one was answered, and holds all that was said before.
All figures are simulated: they are about routers, and say nothing about Trainium.

    python bench/prefix_affinity.py [--conversations 24] [--json FILE]

It fails where the best of our ways gains less than 1.3 in the p90 of the time to first token over least load for
conversations with beginnings of their own, or loses throughput there. The other loads say where it does not gain.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "collections"))

from bench.peers import from_pypi
from bench.serving_router import Program, free_port, haproxy, vllm_router
from tests.lab.sim_support import SimHost

REPLICAS, SLOTS, LENGTH, BLOCK = 4, 4, 8192, 32
#: A router's session header; what our clients send is theirs to say.
HEADER = "x-conversation"
LEAST_GAIN, MOST_LOST = 1.3, 0.02
WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state")
OURS = ("by prefix", "by header")
#: Where vllm-router finds each replica behind our router.
CHOSEN_PORT = 8100


@dataclass(frozen=True)
class Load:
    """Conversations.

    Attributes:
        turns: requests of each.
        shared_words: of a beginning that all of them have.
        own_words: of the first message of each.
        turn_words: of each later one.
        answer_tokens: of each answer.
        streams: conversations at the same time.
        think_s: mean time between an answer and the next turn, exponential. Without it least load keeps conversations
            together by itself: the replica with the least to do is the one that has just answered.
    """

    turns: int
    shared_words: int
    own_words: int
    turn_words: int = 120
    answer_tokens: int = 32
    streams: int = 24
    think_s: float = 2.0


#: The first is judged. A word is a token here.
LOADS = {
    "own beginnings": Load(turns=12, shared_words=0, own_words=2000),
    "one system prompt": Load(turns=12, shared_words=1500, own_words=500),
    "no thinking": Load(turns=12, shared_words=0, own_words=2000, streams=12, think_s=0.0),
    "single questions": Load(turns=1, shared_words=0, own_words=2000, streams=12, think_s=0.0),
}


@dataclass(frozen=True)
class Replica:
    """A simulated server, as the router's configuration names one."""

    port: int
    places: int = SLOTS


@contextlib.contextmanager
def replicas(scale: float) -> Iterator[list[Replica]]:
    """Four servers with cold caches."""
    latency = {"kind": "model", "as_model": "llama-3.3-70b", "scale": scale}
    size = ["--max-model-len", str(LENGTH), "--served-model-name", "m", "--enable-prefix-caching"]
    size += ["--block-size", str(BLOCK), "--num-gpu-blocks-override", str(SLOTS * LENGTH // BLOCK)]
    with (
        tempfile.TemporaryDirectory() as folder,
        SimHost(Path(folder), sdk_releases=["2.27.0"], latency=latency) as host,
    ):
        slices = [f"{16 * number}-{16 * number + 15}" for number in range(REPLICAS)]
        artifact = {"NEURON_COMPILED_ARTIFACTS": f"{folder}/artifact"}
        servers = [host.serve_v1(*size, cores=slices[0], env=artifact).wait_ready()]  # it compiles for all
        servers += [host.serve_v1(*size, cores=cores, env=artifact) for cores in slices[1:]]
        for server in servers:
            server.wait_ready()
        yield [Replica(server.port) for server in servers]


async def ask(port: int, conversation: int, messages: list[dict[str, str]], tokens: int) -> tuple[float, str]:
    """One streamed turn: the time to its first token in seconds, and its text."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    asked = {"model": "m", "messages": messages, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    body = json.dumps({**asked, "temperature": 0}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"{HEADER}: c{conversation}\r\n"
    began = time.perf_counter()
    writer.write(f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body)
    first, text, status = 0.0, "", await reader.readline()
    while line := await reader.readline():
        if not line.startswith(b"data: {"):
            continue
        for choice in json.loads(line[6:])["choices"]:
            if choice["delta"].get("content"):
                first = first or time.perf_counter() - began
                text += choice["delta"]["content"]
    writer.close()
    if b" 200 " not in status or not first:
        raise RuntimeError(f"no answer: {status!r}")
    return first, text


def said(chance: random.Random, words: int) -> str:
    """Made-up text."""
    return " ".join(chance.choices(WORDS, k=words))


async def measured(port: int, load: Load, conversations: int) -> dict[str, float]:
    """Hold the conversations, so many at a time."""
    shared = said(random.Random(0), load.shared_words)  # noqa: S311 - repeatable text, no secret
    waiting = list(range(conversations))
    firsts: list[float] = []
    tokens = 0

    async def talker() -> None:
        nonlocal tokens
        while waiting:
            number = waiting.pop()
            chance = random.Random(number + 1)  # noqa: S311 - repeatable text, no secret
            messages = [{"role": "system", "content": shared}] if shared else []
            await asyncio.sleep(chance.uniform(0, load.think_s))
            for turn in range(load.turns):
                words = load.turn_words if turn else load.own_words
                messages.append({"role": "user", "content": said(chance, words)})
                first, text = await ask(port, number, messages, load.answer_tokens)
                messages.append({"role": "assistant", "content": text})
                firsts.append(first)
                if load.think_s:
                    await asyncio.sleep(chance.expovariate(1 / load.think_s))
                tokens += load.answer_tokens

    began = time.perf_counter()
    await asyncio.gather(*(talker() for _ in range(load.streams)))
    took = time.perf_counter() - began
    ordered = sorted(firsts)
    return {
        "tokens_per_s": tokens / took,
        "ttft_p50_ms": statistics.median(firsts) * 1000,
        "ttft_p90_ms": ordered[int(len(ordered) * 0.9) - 1] * 1000,
    }


async def hits(servers: list[Replica]) -> float:
    """Share of the prompts' tokens that the caches had."""
    asked = found = 0.0
    for server in servers:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        page = (await reader.read()).decode()
        writer.close()
        for line in page.splitlines():
            asked += float(line.split()[-1]) if line.startswith("vllm:prefix_cache_queries_total") else 0.0
            found += float(line.split()[-1]) if line.startswith("vllm:prefix_cache_hits_total") else 0.0
    return found / asked if asked else 0.0


@contextlib.asynccontextmanager
async def routed(way: str, servers: list[Replica], folder: Path, chooser: str) -> AsyncIterator[int]:
    """A router before the replicas, by its name; its port, once it answers."""
    directory = Path(tempfile.mkdtemp(dir=folder))
    programs: list[Program] = []
    listed: list[Any] = list(servers)
    if way == "vllm-router alone":
        programs.append(vllm_router(chooser, listed, "cache_aware"))
    elif way == "vllm-router behind ours":
        given = {"load_balancer_backend": "vllm_router", "load_balancer_vllm_router_port": CHOSEN_PORT}
        programs.append(haproxy(listed, directory, **given))
        addresses = [f"http://127.100.0.{number + 1}:{CHOSEN_PORT}" for number in range(len(servers))]
        where = ["--host", "127.100.255.1", "--port", str(CHOSEN_PORT), "--prometheus-port", str(free_port())]
        programs.append(Program(CHOSEN_PORT, [chooser, *where, "--policy", "cache_aware", "--worker-urls", *addresses]))
    else:
        affinity = {
            "by prefix": {"load_balancer_affinity_prefix_bytes": 2048},
            "by header": {"load_balancer_affinity_header": HEADER},
        }
        programs.append(haproxy(listed, directory, **affinity.get(way, {})))
    try:
        await answering(programs[0].port)
        yield programs[0].port
    finally:
        for program in programs:
            program.stop()


async def answering(port: int) -> None:
    """Wait until completions come through."""
    for _ in range(400):
        try:
            await ask(port, 0, [{"role": "user", "content": "hello"}], 1)
        except (OSError, RuntimeError, ValueError):
            await asyncio.sleep(0.05)
        else:
            return
    raise RuntimeError("a router did not come up")


def judge(result: dict[str, Any]) -> None:
    """Add the ratios over least load, and what the router promises and did not keep."""
    for rows in result["loads"].values():
        least = rows["least load"]
        for row in rows.values():
            row["ttft_p90_gain"] = least["ttft_p90_ms"] / row["ttft_p90_ms"]
            row["throughput"] = row["tokens_per_s"] / least["tokens_per_s"]
    rows = next(iter(result["loads"].values()))
    best = max((rows[way] for way in OURS), key=lambda row: row["ttft_p90_gain"])
    result["misses"] = []
    if best["ttft_p90_gain"] < LEAST_GAIN:
        result["misses"].append(f"gain {best['ttft_p90_gain']:.2f}, at least {LEAST_GAIN}")
    if best["throughput"] < 1 - MOST_LOST:
        result["misses"].append(f"throughput {best['throughput']:.2f} of least load's")


def main() -> int:
    """Measure, print a table, and write the figures as JSON on request; 1 if a promise was not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=24, help="conversations of each load")
    parser.add_argument("--loads", nargs="+", choices=tuple(LOADS), default=list(LOADS))
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the engine's times")
    parser.add_argument("--alone", action="store_true", help="without vllm-router")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    loads: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chooser = "" if options.alone else from_pypi("vllm-router", "vllm-router", folder)
        others = ("vllm-router alone", "vllm-router behind ours") if chooser else ()
        for load in options.loads:
            loads[load] = {}
            for way in ("least load", *OURS, *others):
                with replicas(options.scale) as servers:
                    loads[load][way] = asyncio.run(once(way, servers, folder, chooser, load, options.conversations))
    result: dict[str, Any] = {"provenance": "simulated", "loads": loads}
    judge(result)
    print("simulated engine with prefix caches; over least load")
    for load, rows in loads.items():
        for way, row in rows.items():
            print(
                f"  {load}, {way}: TTFT p90 {row['ttft_p90_ms']:.0f} ms ({row['ttft_p90_gain']:.2f}), "
                f"{row['tokens_per_s']:.0f} tokens/s ({row['throughput']:.2f}), {row['hits']:.0%} of prompts cached"
            )
    for miss in result["misses"]:
        print(f"  MISSED {miss}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if result["misses"] else 0


async def once(
    way: str, servers: list[Replica], folder: Path, chooser: str, load: str, conversations: int
) -> dict[str, float]:
    """One way under one load."""
    async with routed(way, servers, folder, chooser) as port:
        row = await measured(port, LOADS[load], conversations)
        return {**row, "hits": await hits(servers)}


if __name__ == "__main__":
    sys.exit(main())
