# SPDX-License-Identifier: Apache-2.0
"""What the router costs a token stream, and what its balancing gains, as ratios of one run.

Stand-in servers (asyncio, one process) stream tokens at a fixed pace behind the HAProxy that the role configures, and
beside it behind nginx and vllm-router, which are fetched where they are not installed (``--alone`` does without). All
figures are simulated: they are about routers, and say nothing about Trainium.

    python bench/serving_router.py [--streams 1 8 32] [--rounds 3] [--alone] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "collections"))

from bench.peers import from_debian, from_pypi
from tests.roles.render import ROOT, render
from tests.roles.router_program import HAPROXY

TOKEN_S = 0.020
# As Llama 3.3 70B is served: four sequences a replica; eight of them are four hosts.
SLOTS = 4
REPLICAS = 8
#: What the router may add: a millisecond and 5 %.
ALLOWED_MS, ALLOWED_SHARE = 1.0, 0.05
LEASTCONN_GAIN = 1.15
NUMBERS = itertools.count(100)


class Server:
    """A stand-in engine: so many sequences at a time, the rest waits, a token each 20 ms."""

    def __init__(self, slots: int) -> None:
        self.places, self.slots = slots, asyncio.Semaphore(slots)
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
    # No two begin alike: what a router gains by prefixes is another question.
    prompt = f"{next(NUMBERS)} is the number of this request"
    body = json.dumps({"model": "m", "prompt": prompt, "max_tokens": tokens, "stream": True}).encode()
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

    ends: list[float] = []
    emptied: list[float] = []

    async def client(number: int) -> None:
        # Spread over a stream's time, as in a steady state. What starts in one instant waits for its turn in these
        # clients and servers, which are one thread, and that would be measured.
        await asyncio.sleep(TOKEN_S * statistics.mean(lengths) * number / streams)
        while queue:
            tokens = queue.pop()
            if not queue:
                emptied.append(time.perf_counter())
            first, rest = await request(ports[number % len(ports)], tokens)
            ends.append(time.perf_counter())
            ttfts.append(first)
            gaps.extend(rest)

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(streams)))
    # While every client had work: the end, where the last long ones run alone, is the same for every way to balance.
    ended = [at for at in ends if at <= emptied[0]]
    ordered = sorted(gaps)
    return {
        "requests_per_s": len(ended) / (emptied[0] - began),
        "ttft_p50_ms": statistics.median(ttfts) * 1000,
        "ttft_p90_ms": sorted(ttfts)[int(len(ttfts) * 0.9) - 1] * 1000,
        "itl_p50_ms": statistics.median(gaps) * 1000,
        "itl_p99_ms": ordered[int(len(ordered) * 0.99) - 1] * 1000,
    }


class Program:
    """A router that runs: its port, once it answers, and its end."""

    def __init__(self, port: int, command: list[str]) -> None:
        self.port = port
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    async def ready(self) -> int:
        """The port, once a completion came through it."""
        for _ in range(400):
            try:
                await request(self.port, 1)
            except (OSError, RuntimeError):
                await asyncio.sleep(0.05)
            else:
                return self.port
        raise RuntimeError(f"{self.process.args} did not come up")

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)


def haproxy(servers: list[Server], directory: Path, **variables: Any) -> Program:
    """The role's configuration, on the loopback."""
    port = free_port()
    rows = [
        {"id": f"s{index}", "address": "127.0.0.1", "port": server.port, "max_num_seqs": server.places}
        for index, server in enumerate(servers)
    ]
    text = render(
        "load_balancer",
        "haproxy.cfg.j2",
        load_balancer_models=[{"name": "m", "servers": rows}],
        load_balancer_address="127.0.0.1",
        load_balancer_port=port,
        load_balancer_metrics_address="127.0.0.1",
        load_balancer_metrics_port=free_port(),
        load_balancer_agent=False,
        __load_balancer_socket=str(directory / "socket"),
        __load_balancer_state_file=str(directory / "servers"),
        __load_balancer_files_dir=str(directory),
        **variables,
    )
    kept = [row for row in text.splitlines() if not row.strip().startswith(("chroot ", "user ", "group ", "log std"))]
    shutil.copy(ROOT / "roles/load_balancer/files/request.lua", directory)
    path = directory / "haproxy.cfg"
    path.write_text("\n".join(kept).replace(" user haproxy group haproxy", "") + "\n")
    return Program(port, [HAPROXY, "-db", "-f", str(path)])


def nginx(program: str, servers: list[Server], directory: Path, method: str) -> Program:
    """Set nginx up for streams as its own guides do: no buffering, HTTP/1.1."""
    port = free_port()
    rows = "".join(f"server 127.0.0.1:{server.port};" for server in servers)
    temporary = "".join(
        f"{kind}_temp_path {directory};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {directory}/pid; error_log /dev/null;"
        "events { worker_connections 1024; }"
        f"http {{ access_log off; {temporary} upstream m {{ {method} {rows} }} server {{ listen 127.0.0.1:{port};"
        "location / { proxy_pass http://m; proxy_buffering off; proxy_http_version 1.1; proxy_read_timeout 600s; } } }"
    )
    return Program(port, [program, "-p", str(directory), "-c", str(directory / "nginx.conf")])


def vllm_router(program: str, servers: list[Server], policy: str) -> Program:
    """vllm-router with one of its own policies."""
    port = free_port()
    urls = [f"http://127.0.0.1:{server.port}" for server in servers]
    where = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())]
    return Program(port, [program, *where, "--policy", policy, "--worker-urls", *urls])


def free_port() -> int:
    """A free port of the loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def routers(servers: list[Server], peers: dict[str, str]) -> dict[str, Callable[[Path], Program]]:
    """Every router and way to balance, by name.

    Round robin as a list of addresses does it: each takes its turn however much it has. With the router's queue a full
    replica is passed over, whatever the order, which hides most of the difference.
    """
    plain = {"load_balancer_balance": "roundrobin", "load_balancer_lookahead": 10_000}
    found: dict[str, Callable[[Path], Program]] = {
        "leastconn": lambda directory: haproxy(servers, directory),
        "plain round robin": lambda directory: haproxy(servers, directory, **plain),
    }
    if program := peers.get("nginx"):
        found["nginx least_conn"] = lambda directory: nginx(program, servers, directory, "least_conn;")
        found["nginx round robin"] = lambda directory: nginx(program, servers, directory, "")
    if other := peers.get("vllm-router"):
        for policy in ("round_robin", "power_of_two", "cache_aware"):
            found[f"vllm-router {policy}"] = lambda _, policy=policy: vllm_router(other, servers, policy)
    return found


def fetched(folder: Path) -> dict[str, str]:
    """The other routers' programs by name, where they are to be had."""
    found = {
        "nginx": from_debian("nginx", "usr/sbin/nginx", folder),
        "vllm-router": from_pypi("vllm-router", "vllm-router", folder),
    }
    return {name: program for name, program in found.items() if program}


#: One of each program is compared with no router at all.
COSTED = ("leastconn", "nginx least_conn", "vllm-router round_robin")


@asynccontextmanager
async def running(way: str, servers: list[Server], peers: dict[str, str], folder: Path) -> AsyncIterator[int]:
    """A router in front of the servers, by its name; its port."""
    directory = Path(tempfile.mkdtemp(dir=folder))
    router = routers(servers, peers)[way](directory)
    try:
        yield await router.ready()
    finally:
        router.stop()


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Direct and routed by turns, so that what else the machine does hits both alike; then the ways to balance."""
    servers = [Server(SLOTS) for _ in range(REPLICAS)]
    # What a router costs is asked where nobody waits for a place: at the limit, clients that keep to a server each, as
    # the direct ones do, are the best there is, and the difference would be that of the ways to balance.
    roomy = [Server(2 * SLOTS) for _ in range(REPLICAS)]
    listening = [await server.start() for server in servers + roomy]
    result: dict[str, Any] = {"provenance": "simulated", "token_ms": TOKEN_S * 1000, "cost": {}, "balance": {}}
    chosen = random.Random(1)  # noqa: S311  (lengths, not secrets)
    # Exponential lengths of mean 40: the spread of chat, and what round robin suffers from.
    uneven = [max(1, min(400, round(chosen.expovariate(1 / 40)))) for _ in range(options.requests)]
    with tempfile.TemporaryDirectory() as name:
        peers = {} if options.alone else fetched(Path(name))
        for way in routers(servers, peers):
            if way in COSTED:
                async with running(way, roomy, peers, Path(name)) as port:
                    result["cost"][way] = {
                        count: await compare(roomy, port, count, options.rounds) for count in options.streams
                    }
            async with running(way, servers, peers, Path(name)) as port:
                result["balance"][way] = await closed_loop([port], REPLICAS * SLOTS, uneven)
    for server in listening:
        server.close()
    rates = {way: row["requests_per_s"] for way, row in result["balance"].items()}
    result["over_plain_round_robin"] = {way: rate / rates["plain round robin"] for way, rate in rates.items()}
    result["misses"] = misses(result)
    return result


def misses(result: dict[str, Any]) -> list[str]:
    """What the role's router promises and did not keep in this run."""
    found = []
    for streams, row in result["cost"]["leastconn"].items():
        for key in ("ttft_p50_ms", "itl_p50_ms", "itl_p99_ms"):
            limit = row["direct"][key] * (1 + ALLOWED_SHARE) + ALLOWED_MS
            if row["routed"][key] > limit:
                found.append(f"{streams} streams: {key} {row['routed'][key]:.2f}, at most {limit:.2f}")
    gain = result["over_plain_round_robin"]["leastconn"]
    if gain < LEASTCONN_GAIN:
        found.append(f"leastconn over plain round robin {gain:.2f}, at least {LEASTCONN_GAIN}")
    return found


async def compare(servers: list[Server], port: int, streams: int, rounds: int) -> dict[str, dict[str, float]]:
    """Medians over rounds of direct and routed, one after the other."""
    rows: dict[str, list[dict[str, float]]] = {"direct": [], "routed": []}
    lengths = [50] * max(streams * 2, 8)
    for _ in range(rounds):
        rows["direct"].append(await closed_loop([server.port for server in servers], streams, lengths))
        rows["routed"].append(await closed_loop([port], streams, lengths))
    return {way: {key: statistics.median(row[key] for row in found) for key in found[0]} for way, found in rows.items()}


def main() -> int:
    """Measure, print tables, and write the figures as JSON on request; 1 if a promise was not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=640, help="requests of the comparison of ways to balance")
    parser.add_argument("--alone", action="store_true", help="without nginx and vllm-router")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = asyncio.run(measure(options))
    print("simulated engine, 20 ms a token; milliseconds, direct -> through the router")
    for way, rows in result["cost"].items():
        for streams, row in rows.items():
            cells = [
                f"{key[:-3]} {row['direct'][key]:.2f} -> {row['routed'][key]:.2f}"
                for key in row["direct"]
                if key.endswith("ms")
            ]
            print(f"  {way}, {streams} streams: " + "  ".join(cells))
    for way, row in result["balance"].items():
        ratio = result["over_plain_round_robin"][way]
        print(f"  {way}: {row['requests_per_s']:.1f} requests/s ({ratio:.2f}), TTFT p90 {row['ttft_p90_ms']:.0f} ms")
    for miss in result["misses"]:
        print(f"  MISSED {miss}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if result["misses"] else 0


if __name__ == "__main__":
    sys.exit(main())
