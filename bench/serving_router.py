# SPDX-License-Identifier: Apache-2.0
"""What the router costs a token stream, and what its balancing gains, as ratios of one run.

Stand-in servers (asyncio, one process) stream tokens at a fixed pace behind the HAProxy that the role configures. All
figures are simulated: they are about the router, and say nothing about Trainium.

    python bench/serving_router.py [--streams 1 8 32] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.roles.render import render

TOKEN_S = 0.020
SLOTS = 8
REPLICAS = 4
# Round robin as a list of addresses does it: each takes its turn however much it has. With the router's queue a full
# replica is passed over, whatever the order, which hides most of the difference.
WAYS: dict[str, dict[str, Any]] = {
    "leastconn": {"load_balancer_balance": "leastconn"},
    "round robin with the queue": {"load_balancer_balance": "roundrobin"},
    "plain round robin": {"load_balancer_balance": "roundrobin", "load_balancer_lookahead": 10_000},
}


class Server:
    """A stand-in engine: `SLOTS` sequences at a time, the rest waits, a token each 20 ms."""

    def __init__(self) -> None:
        self.slots = asyncio.Semaphore(SLOTS)
        self.port = 0

    async def start(self) -> asyncio.Server:
        """Listen on a free port."""
        server = await asyncio.start_server(self.handle, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            size = next(
                (int(row.split(":")[1]) for row in head.splitlines() if row.lower().startswith("content-length")), 0
            )
            body = json.loads(await reader.readexactly(size)) if size else {}
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
            if body:
                async with self.slots:
                    await self.stream(writer, int(body["max_tokens"]))
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def stream(self, writer: asyncio.StreamWriter, tokens: int) -> None:
        """Send the tokens, each when it is due."""
        due = asyncio.get_running_loop().time()
        for index in range(tokens):
            due += TOKEN_S
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            data = b'data: {"choices":[{"text":" t%d"}]}\n\n' % index
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await writer.drain()


async def request(port: int, tokens: int) -> tuple[float, list[float]]:
    """One streamed completion: time to first token and the gaps after it, in seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps({"model": "m", "prompt": "x", "max_tokens": tokens}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    )
    began = time.perf_counter()
    writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
    times = []
    while data := await reader.read(65536):
        times += [time.perf_counter()] * data.count(b"data:")
    writer.close()
    if len(times) != tokens:
        raise RuntimeError(f"{len(times)} of {tokens} tokens came")
    return times[0] - began, [later - times[index] for index, later in enumerate(times[1:])]


async def closed_loop(ports: list[int], streams: int, lengths: list[int]) -> dict[str, float]:
    """`streams` clients that take the next length as soon as they are free; milliseconds and requests/s."""
    queue = list(reversed(lengths))
    ttfts: list[float] = []
    gaps: list[float] = []

    async def client(number: int) -> None:
        while queue:
            first, rest = await request(ports[number % len(ports)], queue.pop())
            ttfts.append(first)
            gaps.extend(rest)

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(streams)))
    seconds = time.perf_counter() - began
    ordered = sorted(gaps)
    return {
        "requests_per_s": len(lengths) / seconds,
        "ttft_p50_ms": statistics.median(ttfts) * 1000,
        "ttft_p90_ms": sorted(ttfts)[int(len(ttfts) * 0.9) - 1] * 1000,
        "itl_p50_ms": statistics.median(gaps) * 1000,
        "itl_p99_ms": ordered[int(len(ordered) * 0.99) - 1] * 1000,
    }


class Haproxy:
    """The role's configuration, on the loopback."""

    def __init__(self, servers: list[Server], directory: Path, **variables: Any) -> None:
        self.port = free_port()
        rows = [
            {"id": f"s{index}", "address": "127.0.0.1", "port": server.port, "max_num_seqs": SLOTS}
            for index, server in enumerate(servers)
        ]
        text = render(
            "load_balancer",
            "haproxy.cfg.j2",
            load_balancer_models=[{"name": "m", "servers": rows}],
            load_balancer_address="127.0.0.1",
            load_balancer_port=self.port,
            load_balancer_metrics_address="127.0.0.1",
            load_balancer_metrics_port=free_port(),
            load_balancer_agent=False,
            __load_balancer_socket=str(directory / "socket"),
            __load_balancer_state_file=str(directory / "servers"),
            __load_balancer_files_dir=str(directory),
            **variables,
        )
        kept = [
            row for row in text.splitlines() if not row.strip().startswith(("chroot ", "user ", "group ", "log std"))
        ]
        path = directory / "haproxy.cfg"
        path.write_text("\n".join(kept).replace(" user haproxy group haproxy", "") + "\n")
        program = shutil.which("haproxy") or "/usr/sbin/haproxy"
        self.process = subprocess.Popen([program, "-db", "-f", str(path)], stderr=subprocess.DEVNULL)

    async def ready(self) -> int:
        """The port, once it answers."""
        for _ in range(200):
            try:
                await request(self.port, 1)
            except (OSError, RuntimeError):
                await asyncio.sleep(0.05)
            else:
                return self.port
        raise RuntimeError("haproxy did not come up")

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)


def free_port() -> int:
    """A free port of the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def measure(streams: list[int], rounds: int) -> dict[str, Any]:
    """Direct and routed by turns, so that what else the machine does hits both alike; then the two ways to balance."""
    servers = [Server() for _ in range(REPLICAS)]
    listening = [await server.start() for server in servers]
    result: dict[str, Any] = {"provenance": "simulated", "token_ms": TOKEN_S * 1000, "cost": {}, "balance": {}}
    chosen = random.Random(1)  # noqa: S311  (lengths, not secrets)
    # Exponential lengths of mean 40: the spread of chat, and what round robin suffers from.
    uneven = [max(1, min(400, round(chosen.expovariate(1 / 40)))) for _ in range(REPLICAS * SLOTS * 16)]
    with tempfile.TemporaryDirectory() as name:
        for way, variables in WAYS.items():
            directory = Path(name) / way.replace(" ", "-")
            directory.mkdir()
            router = Haproxy(servers, directory, **variables)
            try:
                port = await router.ready()
                if way == "leastconn":
                    for count in streams:
                        result["cost"][count] = await compare(servers, port, count, rounds)
                result["balance"][way] = await closed_loop([port], REPLICAS * SLOTS, uneven)
            finally:
                router.stop()
    for server in listening:
        server.close()
    rates = {name: row["requests_per_s"] for name, row in result["balance"].items()}
    result["leastconn_over_plain_round_robin"] = rates["leastconn"] / rates["plain round robin"]
    return result


async def compare(servers: list[Server], port: int, streams: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians over rounds of direct and routed, one after the other."""
    rows: dict[str, list[dict[str, float]]] = {"direct": [], "routed": []}
    lengths = [50] * max(streams * 2, 4)
    for _ in range(rounds):
        rows["direct"].append(await closed_loop([server.port for server in servers], streams, lengths))
        rows["routed"].append(await closed_loop([port], streams, lengths))
    return {way: {key: statistics.median(row[key] for row in found) for key in found[0]} for way, found in rows.items()}


def main() -> None:
    """Measure, print a table, and write the figures as JSON on request."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = asyncio.run(measure(options.streams, options.rounds))
    print("simulated engine, 20 ms a token; milliseconds, direct -> through the router")
    for streams, row in result["cost"].items():
        cells = [
            f"{key} {row['direct'][key]:.2f} -> {row['routed'][key]:.2f}" for key in row["direct"] if key.endswith("ms")
        ]
        print(f"  {streams:3d} streams: " + "  ".join(cells))
    for name, row in result["balance"].items():
        print(f"  {name}: {row['requests_per_s']:.1f} requests/s, TTFT p90 {row['ttft_p90_ms']:.0f} ms")
    print(f"  leastconn / plain round robin: {result['leastconn_over_plain_round_robin']:.2f}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
