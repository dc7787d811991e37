#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What it costs a host of sixteen replicas to be watched: `python bench/watching.py [--rounds N] [--json FILE]`.

Processor time, as a share of one core: of the host's own exporter, a look each 15 s, and of its replicas, which answer
a scrape each 15 s. Then time to first token and between tokens, of streams at every replica at once, in turns with and
without somebody who scrapes all of them and an exporter that looks. The engines are the lab's (simulated), with fixed
delays; the servers' pages are as long as those of a vLLM that has served. AWS's neuron-monitor is not among it: the
lab's is no measure of the real one.

Exits with 1 where watching takes more than 1 % of a core, or changes a mean by more than 1 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "collections")]

from ansible_collections.trainyard.neuron.plugins.module_utils.roll.journal import Book  # noqa: E402
from ansible_collections.trainyard.neuron.plugins.module_utils.watch import exporter, replicas  # noqa: E402

from bench import engine_accuracy  # noqa: E402
from lab.neuron_sim import config, sysfs  # noqa: E402
from tests.lab.sim_support import Server, SimHost  # noqa: E402

REPLICAS, PERIOD_S = 16, 15.0
LOOKS = SCRAPES = 20
LIMIT = 0.01


def tree_cpu_s(pid: int) -> float:
    """Processor time of a process and of all that it started and still runs."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return own + sum(tree_cpu_s(child) for child in children)


def exporter_of(folder: Path) -> exporter.Exporter:
    """The host's exporter, on sixteen replicas and as many devices."""
    sysfs.create(config.HostConfig(root=folder))
    root, runtime, probe = (folder / name for name in ("vllm", "vllm-run", "probe"))
    for made in (root / "current", runtime, probe, folder / "out"):
        made.mkdir(parents=True)
    entry = json.dumps({"deployment": "d", "release": "r", "argv": ["word"] * 60, "environment": {"A": "b" * 400}})
    for index in range(REPLICAS):
        (root / f"current/d-{index}.json").write_text(entry, encoding="utf-8")
        (runtime / f"d-{index}").mkdir()
        (runtime / f"d-{index}/replica.json").write_text(entry, encoding="utf-8")
        (probe / f"d-{index}.json").write_text("{}", encoding="utf-8")
    asked = folder / "bin/systemctl"
    asked.parent.mkdir()
    asked.write_text("#!/bin/sh\nfor n in $(seq 0 15); do printf 'Id=vllm@d-%s.service\\n\\n' $n; done\n")
    asked.chmod(0o755)
    os.environ["PATH"] = f"{asked.parent}:{os.environ['PATH']}"
    places = replicas.Places(root, runtime, probe, folder / "fence.json", folder / "fence.nft")
    told = exporter.Settings(sysfs=str(folder / "sys"), kernel_log=str(folder / "log"), mounts=("/",))
    return exporter.Exporter(told, folder / "out", replicas.Replicas(places, book=Book(folder / "roll")))


def cost_of_looks(made: exporter.Exporter) -> float:
    """Processor time of a look, of the programs that it runs too."""
    made.look(print)
    began = exporter._cpu_s()
    for _ in range(LOOKS):
        made.look(print)
    return (exporter._cpu_s() - began) / LOOKS


def cost_of_scrapes(servers: list[Server]) -> tuple[float, int]:
    """Processor time that one server spends on one scrape, and how long its page is."""
    count = SCRAPES * len(servers)
    began = sum(tree_cpu_s(server.process.pid) for server in servers)
    size = sum(len(server.request("/metrics")[1]) for _ in range(SCRAPES) for server in servers)
    spent = sum(tree_cpu_s(server.process.pid) for server in servers) - began
    return spent / count, size // count


@contextmanager
def watched(servers: list[Server], made: exporter.Exporter) -> Iterator[None]:
    """Scrape every server and look at the host, each 15 s, as long as the block lasts."""
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            made.look(print)
            for server in servers:
                # Prometheus spreads its targets over the interval.
                server.request("/metrics")
                if over.wait(PERIOD_S / len(servers)):
                    return

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


async def streams(servers: list[Server], seconds: float) -> list[engine_accuracy.Stream]:
    """A stream at every server at once, again and again for so long."""
    found: list[engine_accuracy.Stream] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found += await asyncio.gather(*(engine_accuracy.stream(server.port) for server in servers))
    return found


def compared(servers: list[Server], made: exporter.Exporter, rounds: int) -> dict[str, Any]:
    """Means with and without being watched, in turns."""
    asyncio.run(streams(servers, 3.0))
    kept: dict[bool, list[engine_accuracy.Stream]] = {False: [], True: []}
    for turn in range(2 * rounds):
        # Not always the same one first: what else the machine does may go on for a while.
        is_watched = turn % 4 in (1, 2)
        with ExitStack() as stack:
            if is_watched:
                stack.enter_context(watched(servers, made))
            kept[is_watched] += asyncio.run(streams(servers, PERIOD_S))
    row: dict[str, Any] = {"streams": {str(key): len(found) for key, found in kept.items()}}
    for name in ("ttft_ms", "itl_ms"):
        alone, seen = (statistics.mean(getattr(one, name) for one in kept[key]) for key in (False, True))
        row[name] = {"unwatched": round(alone, 3), "watched": round(seen, 3), "change": round(seen / alone - 1, 5)}
    return row


def main() -> int:
    """Measure and print; 0 where all of it is below the limits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6, help="turns of each kind, of 15 s")
    parser.add_argument("--json", type=Path, help="write the result here as well")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    latency = {"kind": "fixed", "ttft_ms": engine_accuracy.TTFT_MS, "itl_ms": engine_accuracy.ITL_MS}
    with tempfile.TemporaryDirectory() as directory, SimHost(Path(directory) / "host", latency=latency) as host:
        (Path(directory) / "watch").mkdir()
        made = exporter_of(Path(directory) / "watch")
        # One after the other: all at once, their starts would take each other's time.
        slices = (f"{4 * index}-{4 * index + 3}" for index in range(REPLICAS))
        servers = [host.serve_v0(cores=cores, tp=4).wait_ready(120) for cores in slices]
        asyncio.run(streams(servers, 1.0))
        look_s = cost_of_looks(made)
        scrape_s, size = cost_of_scrapes(servers)
        share = (look_s + REPLICAS * scrape_s) / PERIOD_S
        means = compared(servers, made, options.rounds)
    result = {
        "provenance": "simulated",
        "replicas": REPLICAS,
        "load_at_start": round(load, 2),
        "look_cpu_s": round(look_s, 5),
        "scrape_cpu_s": round(scrape_s, 6),
        "page_bytes": size,
        "share_of_a_core": round(share, 5),
        **means,
    }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return int(share > LIMIT or max(abs(means[name]["change"]) for name in ("ttft_ms", "itl_ms")) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
