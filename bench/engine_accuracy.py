# SPDX-License-Identifier: Apache-2.0
"""How exactly the simulated engine keeps the delays it was asked for, seen by a plain asyncio client.

Sends the same streaming chat completion on 1, 8, 32 and 64 connections at once and compares time to first token and
inter-token latency with what the lab asks for. Simulated: these are the engine's own delays, not a device's. The client
notes when bytes come and reads them when all are there: 64 streams share one loop, and what it does to the token of one
would be time that the next one waits for.

    python bench/engine_accuracy.py [--json PATH]

Exits with 1 when a mean is further than 2 % from what was asked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.lab.sim_support import SimHost

TTFT_MS, ITL_MS = 200.0, 20.0
TOKENS, ROUNDS = 50, 3
STREAMS = (1, 8, 32, 64)
TOLERANCE = 0.02


@dataclass
class Stream:
    """Arrival times of one answer's tokens, in seconds after the request was sent."""

    arrivals: list[float]

    @property
    def ttft_ms(self) -> float:
        """Time to the first token."""
        return self.arrivals[0] * 1e3

    @property
    def itl_ms(self) -> float:
        """Mean time between tokens."""
        return (self.arrivals[-1] - self.arrivals[0]) / (TOKENS - 1) * 1e3


class Receiver(asyncio.Protocol):
    """Keeps what comes, each piece with its time, until the connection ends or the last event is there."""

    def __init__(self) -> None:
        self.pieces: list[tuple[float, bytes]] = []
        self.done = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        """Note a piece."""
        self.pieces.append((time.perf_counter(), data))
        if data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server went away."""
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the stream ended early"))

    def arrivals(self, started: float) -> list[float]:
        """When each event with text was there, in seconds after the start; two tokens may share an event."""
        return [at - started for at, data in self.pieces for _ in range(data.count(b'"content":" '))]


async def stream(port: int) -> Stream:
    """One request on a connection of its own; the clock starts when the connection is there."""
    body = json.dumps(
        {"messages": [{"role": "user", "content": "hello"}], "max_tokens": TOKENS, "stream": True},
        separators=(",", ":"),
    ).encode()
    transport, receiver = await asyncio.get_running_loop().create_connection(Receiver, "127.0.0.1", port)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}"
    request = head.encode() + b"\r\n\r\n" + body
    started = time.perf_counter()
    transport.write(request)
    await receiver.done
    transport.close()
    return Stream(receiver.arrivals(started))


async def measure(port: int, streams: int) -> list[Stream]:
    """Rounds of that many requests at a time, after one that does not count."""
    await asyncio.gather(*(stream(port) for _ in range(streams)))
    found: list[Stream] = []
    for _ in range(ROUNDS):
        found += await asyncio.gather(*(stream(port) for _ in range(streams)))
    return found


def point(streams: int, found: list[Stream]) -> dict[str, Any]:
    """Means, and how far they are from what was asked, as a share."""
    ttft = statistics.mean(entry.ttft_ms for entry in found)
    itl = statistics.mean(entry.itl_ms for entry in found)
    return {
        "streams": streams,
        "requests": len(found),
        "ttft_ms": round(ttft, 3),
        "ttft_error": round(ttft / TTFT_MS - 1, 4),
        "itl_ms": round(itl, 4),
        "itl_error": round(itl / ITL_MS - 1, 4),
    }


def main() -> int:
    """Measure and print; 0 when every mean is within the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the result here as well")
    options = parser.parse_args()
    latency = {"kind": "fixed", "ttft_ms": TTFT_MS, "itl_ms": ITL_MS}
    with tempfile.TemporaryDirectory() as directory, SimHost(Path(directory), latency=latency) as host:
        server = host.serve_v0("--max-num-seqs", "64").wait_ready(60)
        load = os.getloadavg()[0]
        points = [point(streams, asyncio.run(measure(server.port, streams))) for streams in STREAMS]
    result = {
        "provenance": "simulated",
        "asked": {"ttft_ms": TTFT_MS, "itl_ms": ITL_MS},
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "load_at_start": round(load, 2)},
        "points": points,
    }
    print(f"asked (simulated): TTFT {TTFT_MS} ms, inter-token {ITL_MS} ms; load average at the start {load:.1f}")
    print("streams  requests  TTFT ms  error    inter-token ms  error")
    for entry in points:
        print(
            f"{entry['streams']:7}  {entry['requests']:8}  {entry['ttft_ms']:7.2f}  {entry['ttft_error']:+6.2%}"
            f"  {entry['itl_ms']:14.3f}  {entry['itl_error']:+6.2%}"
        )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    worst = max(abs(entry[name]) for entry in points for name in ("ttft_error", "itl_error"))
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
