# SPDX-License-Identifier: Apache-2.0
"""How true are the load generators' figures? Each against servers with known delays that log what really happened.

    python bench/clients_accuracy.py [--streams 1,8,32,64] [--clients llmperf,llmeter,...] [--json FILE]

One after the other, as the benchmark role runs them; then each once more at 8 streams with one request in ten failing.
Exits with 1 where patched LLMPerf is further off than `BOUNDS`, or any client of ours loses a failure.

LLMPerf takes part where TRAINYARD_LLMPERF_SOURCE names its source; `vllm bench serve` where TRAINYARD_VLLM_VENV names
an environment with vLLM. LLMPerf as published (llmperf_stock) and with Neuron's own patches (llmperf_neuron) need the
source, an environment with all that it imports (TRAINYARD_LLMPERF_STOCK_VENV), and the latter the directory of
neuron_perf.patch and llmperf_dp.patch (TRAINYARD_LLMPERF_NEURON_PATCHES).

The delays are made up (200 ms to the first token, 20 ms for each further one): nothing here says anything of a model.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "collections"))

from ansible_collections.trainyard.neuron.plugins.module_utils import patched_source
from ansible_collections.trainyard.neuron.plugins.module_utils.benchmark import clients, counters, runner
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.building import build
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.reading import records_of

from bench import client_environments
from bench.instrumented_server import mean_in_flight
from tests.bench import tiny_tokenizer
from tests.bench.conftest import Server, running_server
from trainyard.paths import ROOT

SPEED: dict[str, Any] = {"ttft_ms": 200.0, "itl_ms": 20.0, "letters": True}
TOKENS = 50


#: What patched LLMPerf may be off by, and up to how many streams that must hold.
BOUNDS = {"tokens_per_s": (0.03, 64), "tpot_ms": (0.02, 64), "ttft_ms": (0.10, 32)}
IMBALANCE = 0.15
#: The clients that the benchmark role installs.
OURS = ("llmperf", "llmeter", "vllm_bench")
#: How long LLMPerf as published may take for one run.
LIMIT_S = 100


@dataclass
class Row:
    """One run: the client's figures and the servers' (means, ms, tokens/s), and what the client used of processors."""

    client: str
    streams: int
    failure_ratio: float
    client_figures: dict[str, float]
    server_figures: dict[str, float]
    client_cores: float | None = None
    busiest_process_cores: float | None = None
    host_idle_ratio: float | None = None
    flags: list[str] = field(default_factory=list)
    #: What the client's time to the first token has beyond the servers': before they had the request, and after the
    #: token had left them.
    sent_late_ms: float | None = None
    read_late_ms: float | None = None

    @property
    def endpoints(self) -> int:
        """How many servers it loaded."""
        return int(self.server_figures["endpoints"])

    def difference(self, name: str) -> float:
        """How far the client's figure is from the servers', as a share of theirs."""
        return self.client_figures[name] / self.server_figures[name] - 1


def run_command(argv: list[str]) -> tuple[int, str, str]:
    """Exit status, output, errors."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def llmperf_home(scratch: Path) -> str:
    """LLMPerf with our patches and its environment, laid out as the role does."""
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
    wanted.install(os.environ["TRAINYARD_LLMPERF_SOURCE"], run_command)
    (home / "venv").symlink_to(client_environments.home("llmperf"))
    return str(home)


NEEDS = {
    "llmeter": (),
    "llmperf": ("TRAINYARD_LLMPERF_SOURCE",),
    "vllm_bench": ("TRAINYARD_VLLM_VENV",),
    "llmperf_stock": ("TRAINYARD_LLMPERF_SOURCE", "TRAINYARD_LLMPERF_STOCK_VENV"),
    "llmperf_neuron": (
        "TRAINYARD_LLMPERF_SOURCE",
        "TRAINYARD_LLMPERF_STOCK_VENV",
        "TRAINYARD_LLMPERF_NEURON_PATCHES",
    ),
}


def client_of(name: str, scratch: Path, tokenizer: Path) -> clients.Client | Published | None:
    """The client, ready to run, or None with the reason on stderr."""
    missing = [variable for variable in NEEDS[name] if not os.environ.get(variable)]
    if missing:
        print(f"{name}: left out, {' and '.join(missing)} not set", file=sys.stderr)
        return None
    if name == "llmeter":
        driver = str(ROOT / "roles/benchmark/files/llmeter_load.py")
        return clients.Llmeter(str(client_environments.home("llmeter")), driver)
    if name == "llmperf":
        return clients.Llmperf(llmperf_home(scratch))
    if name == "vllm_bench":
        return clients.VllmBench(os.environ["TRAINYARD_VLLM_VENV"])
    return Published(name, scratch, tokenizer)


def server_view(server: Server, warm_up: int) -> dict[str, float]:
    """What the servers saw of the measured requests: the first `warm_up` arrivals are left out."""
    logs = [server.log(i) for i in range(len(server.urls))]
    entries = sorted((entry for log in logs for entry in log), key=lambda entry: entry["arrived_s"])[warm_up:]
    started = entries[0]["arrived_s"]
    good = [entry for entry in entries if entry["outcome"] == "succeeded"]
    span_s = max(entry["finished_s"] for entry in entries) - started
    loads = [mean_in_flight([entry for entry in log if entry["arrived_s"] >= started]) for log in logs]
    return {
        "arrived_s": statistics.fmean(e["arrived_s"] for e in good),
        "requests": len(entries),
        "failed": len(entries) - len(good),
        "ttft_ms": statistics.fmean(e["first_token_s"] - e["arrived_s"] for e in good) * 1000,
        "tpot_ms": statistics.fmean((e["finished_s"] - e["first_token_s"]) / (e["output_tokens"] - 1) for e in good)
        * 1000,
        "tokens_per_s": sum(entry["output_tokens"] for entry in good) / span_s,
        "in_flight": mean_in_flight(entries),
        "endpoints": len(logs),
        # How much more the busier endpoint had in flight than the other, of their mean.
        "imbalance": (max(loads) - min(loads)) / (sum(loads) / len(loads)),
    }


def measure(client: clients.Client, streams: int, failure_ratio: float, tokenizer: Path, scratch: Path) -> Row:
    """One run of a client of ours: its figures, the servers', and how far they are apart."""
    both = client.name == "llmperf"  # it takes several endpoints and balances by itself
    with running_server(2 if both else 1, **SPEED, failure_ratio=failure_ratio) as server:
        replicas = {f"test:{i}": url for i, url in enumerate(server.urls)}
        given = {
            "requests": requests_of(streams),
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
        rows = records_of(root)
        plan = [{"id": name, "url": url} for name, url in replicas.items()]
        report = build(summary, rows, provenance="simulated", replicas=plan)
        seen = server_view(server, load["warmup_requests"])
    latency, host = report.results.latency, report.load_host
    found = {
        "requests": report.results.requests.sent,
        "failed": report.results.requests.failed + report.results.requests.timed_out,
        "ttft_ms": latency.time_to_first_token_ms.mean if latency.time_to_first_token_ms else 0.0,
        "tpot_ms": latency.time_per_output_token_ms.mean if latency.time_per_output_token_ms else 0.0,
        "tokens_per_s": report.results.throughput.output_tokens_per_s,
    }
    # One machine has one clock; a client that stamps with another one was moved, which is too coarse for this.
    started = (
        [row["started_at"] for row in rows if row["outcome"] == "succeeded"] if client.name != "vllm_bench" else []
    )
    sent_late_ms = None
    if started:
        began_s = statistics.fmean(started) - (time.time() - time.monotonic())
        sent_late_ms = (seen["arrived_s"] - began_s) * 1000
    return Row(
        client=f"{client.name} {report.load.tool_version}",
        streams=streams,
        failure_ratio=failure_ratio,
        client_figures=found,
        server_figures=seen,
        client_cores=host.client_cpu_cores,
        busiest_process_cores=host.busiest_process_cores,
        host_idle_ratio=host.idle_ratio_mean,
        flags=[flag.code for flag in report.flags],
        sent_late_ms=sent_late_ms,
        read_late_ms=None if sent_late_ms is None else found["ttft_ms"] - seen["ttft_ms"] - sent_late_ms,
    )


def requests_of(streams: int) -> int:
    """Six rounds, ten requests at least."""
    return max(10, streams * 6)


class Published:
    """LLMPerf as published, or with Neuron's patches: its own command line and its own figures."""

    def __init__(self, name: str, scratch: Path, tokenizer: Path) -> None:
        self.name = name
        self.tree = scratch / name
        self.scratch = scratch
        source = os.environ["TRAINYARD_LLMPERF_SOURCE"]
        names = yaml.safe_load((ROOT / "roles/llmperf_patched/vars/main.yml").read_text(encoding="utf-8"))
        patched_source.obtain(source, names["__llmperf_patched_commit"], self.tree, run_command)
        self.tokenizer = tokenizer
        if name == "llmperf_neuron":
            for patch in ("neuron_perf.patch", "llmperf_dp.patch"):
                file = Path(os.environ["TRAINYARD_LLMPERF_NEURON_PATCHES"]) / patch
                with file.open("rb") as text:
                    subprocess.run(["patch", "-s", "-p1"], cwd=self.tree, stdin=text, check=True)

    def environment(self, urls: Sequence[str]) -> dict[str, str]:
        """Its environment. The tokenizer that it would fetch by name is ours, in the place of the hub's cache."""
        hub = self.scratch / "hub"
        folder = hub / "models--hf-internal-testing--llama-tokenizer"
        if not folder.exists():
            (folder / "refs").mkdir(parents=True)
            (folder / "refs/main").write_text("0" * 40)
            shutil.copytree(self.tokenizer, folder / "snapshots" / ("0" * 40))
        return {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "PYTHONPATH": str(self.tree / "src"),
            "OPENAI_API_BASE": ";".join(f"{url}/v1" for url in urls),
            "OPENAI_API_KEY": "EMPTY",
            "HF_HUB_CACHE": str(hub),
            "HF_HUB_OFFLINE": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # its price list would be fetched by every process of the client
            counters.RUN_VARIABLE: str(self.tree),
        }

    def measure(self, streams: int, failure_ratio: float) -> Row:
        """One run. `ClientError` where it gives no result."""
        replicas = 2 if self.name == "llmperf_neuron" else 1
        results = self.scratch / f"{self.name}-{streams}-{failure_ratio}"
        options = {
            "model": "tiny",
            "mean-input-tokens": 300,
            "stddev-input-tokens": 0,
            "mean-output-tokens": TOKENS,
            "stddev-output-tokens": 0,
            "max-num-completed-requests": requests_of(streams),
            "num-concurrent-requests": streams,
            "timeout": LIMIT_S,
            "llm-api": "openai",
            "results-dir": results,
        }
        if self.name == "llmperf_neuron":
            options["tokenizer"] = self.tokenizer
        python = Path(os.environ["TRAINYARD_LLMPERF_STOCK_VENV"]) / "bin/python"
        argv = [str(python), str(self.tree / "token_benchmark_ray.py")]
        argv += [part for name, value in options.items() for part in (f"--{name}", str(value))]
        with running_server(replicas, **SPEED, failure_ratio=failure_ratio) as server:
            status, output = ended(argv, self.environment(server.urls), self.tree)
            seen = server_view(server, 0)
        summaries = sorted(results.glob("*_summary.json"))
        if status != 0 or not summaries:
            went = "no end" if status is None else f"exit status {status}"
            raise clients.ClientError(f"{went} within {LIMIT_S} s, {seen['requests']} requests sent: {output[-200:]}")
        figures = json.loads(summaries[0].read_text(encoding="utf-8"))
        found = {
            "requests": figures["results_num_completed_requests"],
            "failed": figures["results_number_errors"],
            "ttft_ms": (figures["results_ttft_s_mean"] or 0.0) * 1000,
            "tpot_ms": (figures["results_inter_token_latency_s_mean"] or 0.0) * 1000,
            "tokens_per_s": figures["results_mean_output_throughput_token_per_s"],
        }
        return Row(self.name, streams, failure_ratio, found, seen)


def ended(argv: list[str], environment: dict[str, str], directory: Path) -> tuple[int | None, str]:
    """Run to its end, or end it and all that it started after `LIMIT_S`: exit status (None: it did not end), output."""
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(
            argv,
            cwd=directory,
            env=environment,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=LIMIT_S)
        status = process.poll()
        for pid in counters.Processes(environment[counters.RUN_VARIABLE]).seconds():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        out.seek(0)
        return status, out.read().decode("utf-8", "replace")


def line(row: Row) -> str:
    """A row of the table."""
    mine, theirs = row.client_figures, row.server_figures
    cells = [row.client, f"{row.streams}{' *' if row.failure_ratio else ''}"]
    for name, digits in (("ttft_ms", 1), ("tpot_ms", 2), ("tokens_per_s", 0)):
        cells.append(f"{mine[name]:.{digits}f} ({row.difference(name):+.1%})")
    cells.append("-" if row.sent_late_ms is None else f"{row.sent_late_ms:.1f} + {row.read_late_ms:.1f}")
    cells += [f"{theirs['in_flight']:.1f}", "-" if row.endpoints < 2 else f"{theirs['imbalance']:.1%}"]
    cells.append(f"{mine['requests']} ({theirs['requests']})")
    cells.append(f"{mine['failed']} ({theirs['failed']})")
    cells.append("-" if row.busiest_process_cores is None else f"{row.busiest_process_cores:.2f}")
    return "| " + " | ".join([*cells, ", ".join(row.flags) or "-"]) + " |"


def beyond(row: Row) -> list[str]:
    """What is further off than it may be."""
    found = []
    name = row.client.split()[0]
    if name in OURS and row.client_figures["failed"] != row.server_figures["failed"]:
        found.append(f"{row.client_figures['failed']:g} failures reported of {row.server_figures['failed']:g}")
    if name != "llmperf":
        return found
    for figure, (limit, streams) in BOUNDS.items():
        if row.streams <= streams and abs(row.difference(figure)) > limit:
            found.append(f"{figure} {row.difference(figure):+.1%} at {row.streams} streams")
    if row.streams > 1 and row.server_figures["imbalance"] > IMBALANCE:
        found.append(f"the endpoints' mean in flight differ by {row.server_figures['imbalance']:.0%}")
    # Six rounds end one after the other; what is missing at the end is no stream that was not opened.
    reachable = row.streams * (1 - row.streams / requests_of(row.streams) / 2)
    short = row.server_figures["in_flight"] < 0.9 * reachable
    if not row.failure_ratio and short and not {"client_limited", "load_not_reached"} & set(row.flags):
        found.append(f"{row.server_figures['in_flight']:.1f} streams in flight of {row.streams}, and no flag says so")
    return found


def main(argv: list[str] | None = None) -> int:
    """Run every client at every number of streams and print the table as Markdown."""
    parser = argparse.ArgumentParser(description="Load generators against servers with known delays.")
    parser.add_argument("--streams", default="1,8,32,64")
    parser.add_argument("--clients", default="llmperf,llmeter,vllm_bench,llmperf_neuron,llmperf_stock")
    parser.add_argument("--no-failures", action="store_true", help="leave out the runs with failing requests")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    args = parser.parse_args(argv)
    scratch = Path(tempfile.mkdtemp(prefix="clients-accuracy-"))
    rows: list[Row] = []
    wrong: list[str] = []
    print(f"simulated: 200 ms, then 20 ms a token; client (difference from the servers); {os.cpu_count()} processors")
    print(f"load average before: {os.getloadavg()[0]:.2f}; * = one request in ten fails")
    print(
        "| client | streams | TTFT ms | per token ms | tokens/s | of TTFT: sending + reading ms | in flight "
        "| endpoints differ | requests | failed | busiest process | flags |"
    )
    print("|" + "---|" * 12)
    try:
        tokenizer = tiny_tokenizer.make(scratch / "tokenizer")
        for name in args.clients.split(","):
            client = client_of(name, scratch, tokenizer)
            points = [(streams, 0.0) for streams in map(int, args.streams.split(","))]
            points += [] if args.no_failures else [(8, 0.1)]
            for streams, failing in points if client else []:
                try:
                    row = (
                        client.measure(streams, failing)
                        if isinstance(client, Published)
                        else measure(client, streams, failing, tokenizer, scratch)
                    )
                except (runner.RunError, clients.ClientError, counters.UnreachableError) as error:
                    text = str(error)[-200:].replace("\n", " ")
                    print(f"| {name} | {streams}{' *' if failing else ''} | no result: {text} |", flush=True)
                    wrong += [f"{name}: no result at {streams} streams"] if name in OURS else []
                    continue
                rows.append(row)
                print(line(row), flush=True)
                wrong += [f"{row.client}: {text}" for text in beyond(row)]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    print("\n".join(wrong) if wrong else "every bound is kept")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
