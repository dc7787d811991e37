# SPDX-License-Identifier: Apache-2.0
"""How true are the load generators' figures? Each against a server with known delays that logs what really happened.

    python bench/clients_accuracy.py [--streams 1,8,32,64] [--clients llmeter,llmperf,vllm_bench] [--json FILE]

One after the other, the same way as the benchmark role runs them. LLMPerf takes part where TRAINYARD_LLMPERF_SOURCE
names its source, `vllm bench serve` where TRAINYARD_VLLM_VENV names an environment with vLLM. The delays are made up
(200 ms to the first token, 20 ms for each further one): nothing here says anything about a model.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "collections"))

from ansible_collections.trainyard.neuron.plugins.module_utils import patched_source
from ansible_collections.trainyard.neuron.plugins.module_utils.benchmark import clients, counters, runner

from bench import client_environments
from bench.instrumented_server import mean_in_flight
from tests.bench import tiny_tokenizer
from tests.bench.conftest import Server, running_server
from trainyard import benchmark_report
from trainyard.paths import ROOT

TTFT_MS, ITL_MS, TOKENS = 200.0, 20.0, 50


def llmperf_home(scratch: Path) -> str:
    """LLMPerf with our patches and its environment, laid out as the role does."""
    import yaml

    files = ROOT / "roles/llmperf_patched"
    names = yaml.safe_load((files / "vars/main.yml").read_text(encoding="utf-8"))
    home = scratch / "llmperf"
    wanted = patched_source.Wanted(
        path=home / "src",
        commit=names["__llmperf_patched_commit"],
        upstream_digest=names["__llmperf_patched_upstream_digest"],
        patched_digest=names["__llmperf_patched_patched_digest"],
        patches=yaml.safe_load((files / "files/patches.yml").read_text(encoding="utf-8")),
        files={"src/llmperf/trainyard.py": (files / "files/trainyard_llmperf.py").read_text(encoding="utf-8")},
    )

    def run(argv: list[str]) -> tuple[int, str, str]:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    wanted.install(os.environ["TRAINYARD_LLMPERF_SOURCE"], run)
    (home / "venv").symlink_to(client_environments.home("llmperf"))
    return str(home)


def client_of(name: str, scratch: Path) -> clients.Client | None:
    """The client, ready to run, or None with the reason on stderr."""
    if name == "llmeter":
        driver = str(ROOT / "roles/benchmark/files/llmeter_load.py")
        return clients.Llmeter(str(client_environments.home("llmeter")), driver)
    if name == "llmperf" and os.environ.get("TRAINYARD_LLMPERF_SOURCE"):
        return clients.Llmperf(llmperf_home(scratch))
    if name == "vllm_bench" and os.environ.get("TRAINYARD_VLLM_VENV"):
        return clients.VllmBench(os.environ["TRAINYARD_VLLM_VENV"])
    print(f"{name}: left out, its environment variable is not set", file=sys.stderr)
    return None


def server_view(server: Server, warm_up: int) -> dict[str, float]:
    """What the servers saw of the measured requests: the first `warm_up` arrivals are left out."""
    logs = [server.log(i) for i in range(len(server.urls))]
    entries = sorted((entry for log in logs for entry in log), key=lambda entry: entry["arrived_s"])[warm_up:]
    started = entries[0]["arrived_s"]
    good = [entry for entry in entries if entry["outcome"] == "succeeded"]
    span_s = max(entry["finished_s"] for entry in entries) - started
    loads = [mean_in_flight([entry for entry in log if entry["arrived_s"] >= started]) for log in logs]
    return {
        "requests": len(entries),
        "ttft_ms": statistics.fmean(e["first_token_s"] - e["arrived_s"] for e in good) * 1000,
        "tpot_ms": statistics.fmean((e["finished_s"] - e["first_token_s"]) / (e["output_tokens"] - 1) for e in good)
        * 1000,
        "tokens_per_s": sum(entry["output_tokens"] for entry in good) / span_s,
        "in_flight": mean_in_flight(entries),
        "imbalance": max(loads) / (sum(loads) / len(loads)),
    }


def between_ms(entry: dict[str, Any]) -> float:
    """Mean time between the tokens of one answer, as the server sent them."""
    return float((entry["finished_s"] - entry["first_token_s"]) * 1000 / (entry["output_tokens"] - 1))


def measure(client: clients.Client, streams: int, tokenizer: Path, scratch: Path) -> dict[str, Any]:
    """One run: the client's figures, the servers', and how far they are apart."""
    both = client.name == "llmperf"  # it takes several endpoints and balances by itself
    with running_server(replicas=2 if both else 1, ttft_ms=TTFT_MS, itl_ms=ITL_MS) as server:
        replicas = {f"test:{i}": url for i, url in enumerate(server.urls)}
        given = {
            "requests": max(8, streams * 4),
            "concurrency": streams,
            "mean_input_tokens": 300,
            "mean_output_tokens": TOKENS,
            "target": "replicas" if both else "router",
            "timeout_s": 60,
            "run_timeout_s": 300,
        }
        load = runner.resolve_load(given, 0)
        fleet = runner.Fleet(server.urls[0], "tiny", replicas)
        root = scratch / f"{client.name}-{streams}-{time.time_ns()}"
        summary = runner.Run(root, fleet, client, load, {"tokenizer": str(tokenizer)}).execute()
        rows = benchmark_report.records_of(root)
        plan = [{"id": name, "url": url} for name, url in replicas.items()]
        report = benchmark_report.build(summary, rows, provenance="simulated", replicas=plan)
        seen = server_view(server, load["warmup_requests"])
    latency, repeat = report.results.latency, report.results.repeats[0]
    found = {
        "requests": report.results.requests.succeeded,
        "ttft_ms": latency.time_to_first_token_ms.mean if latency.time_to_first_token_ms else 0.0,
        "tpot_ms": latency.time_per_output_token_ms.mean if latency.time_per_output_token_ms else 0.0,
        "tokens_per_s": report.results.throughput.output_tokens_per_s,
        "in_flight": repeat.mean_in_flight,
    }
    return {
        "client": f"{client.name} {report.load.tool_version}",
        "streams": streams,
        "client_figures": found,
        "server_figures": seen,
        "difference": {name: found[name] / seen[name] - 1 for name in ("ttft_ms", "tpot_ms", "tokens_per_s")},
        "client_cpu_cores": report.load_host.client_cpu_cores,
        "flags": [flag.code for flag in report.flags],
    }


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    mine, theirs, off = row["client_figures"], row["server_figures"], row["difference"]
    cells = [row["client"], str(row["streams"])]
    for name, digits in (("ttft_ms", 1), ("tpot_ms", 2), ("tokens_per_s", 0)):
        cells.append(f"{mine[name]:.{digits}f} ({theirs[name]:.{digits}f}, {off[name]:+.1%})")
    cells += [f"{theirs['in_flight']:.1f}", f"{theirs['imbalance']:.2f}", f"{row['client_cpu_cores']:.2f}"]
    return "| " + " | ".join([*cells, ", ".join(row["flags"]) or "-"]) + " |"


def main(argv: list[str] | None = None) -> int:
    """Run every client at every number of streams and print the table as Markdown."""
    parser = argparse.ArgumentParser(description="Load generators against a server with known delays.")
    parser.add_argument("--streams", default="1,8,32,64")
    parser.add_argument("--clients", default="llmeter,llmperf,vllm_bench")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    args = parser.parse_args(argv)
    scratch = Path(tempfile.mkdtemp(prefix="clients-accuracy-"))
    rows = []
    print(
        "client (server, difference); simulated delays 200 ms + 20 ms a token; load average before:", os.getloadavg()[0]
    )
    print("| client | streams | TTFT ms | per token ms | tokens/s | in flight | imbalance | client CPUs | flags |")
    print("|---|---|---|---|---|---|---|---|---|")
    try:
        tokenizer = tiny_tokenizer.make(scratch / "tokenizer")
        for client in filter(None, (client_of(name, scratch) for name in args.clients.split(","))):
            for streams in map(int, args.streams.split(",")):
                try:
                    rows.append(measure(client, streams, tokenizer, scratch))
                    print(line(rows[-1]), flush=True)
                except (runner.RunError, clients.ClientError, counters.UnreachableError) as error:
                    print(f"| {client.name} | {streams} | no result: {str(error)[-200:]} |", flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
