# SPDX-License-Identifier: Apache-2.0
"""Each patch of LLMPerf does what it is for, and without it the same check fails.

Runs where TRAINYARD_LLMPERF_SOURCE names LLMPerf's repository, an archive or a directory of it: its code is no part
of this repository. The servers have known delays: 200 ms to the first token, 20 ms for each further one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trainyard.neuron.plugins.module_utils import patched_source

from bench import client_environments, llmperf_digests
from bench.instrumented_server import mean_in_flight
from tests.bench import tiny_tokenizer
from tests.bench.conftest import ROOT, Server, running_server

SOURCE = os.environ.get("TRAINYARD_LLMPERF_SOURCE", "")
FILES = ROOT / "roles/llmperf_patched/files"
VARS = yaml.safe_load((ROOT / "roles/llmperf_patched/vars/main.yml").read_text())
PATCHES: list[dict[str, Any]] = yaml.safe_load((FILES / "patches.yml").read_text())

#: A cluster that others join asks for a token.
RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
KEY = f"sk-{secrets.token_hex(16)}"

pytestmark = pytest.mark.skipif(not SOURCE, reason="TRAINYARD_LLMPERF_SOURCE names no source of LLMPerf")


def run_command(argv: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("llmperf") / "upstream"
    patched_source.obtain(SOURCE, VARS["__llmperf_patched_commit"], tree, run_command)
    assert patched_source.digest(tree) == VARS["__llmperf_patched_upstream_digest"]
    return tree


@pytest.fixture(scope="module")
def python() -> str:
    return str(client_environments.home("llmperf") / "bin/python")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_tokenizer.make(tmp_path_factory.mktemp("tokenizer") / "tiny")


@dataclass
class Cluster:
    """A Ray that is up: where it is, and where it writes."""

    address: str
    directory: Path


@pytest.fixture(scope="module")
def cluster(python: str) -> Iterator[Cluster]:
    """One Ray for all runs, so that each need not start its own; it ends with its process."""
    directory = Path(tempfile.mkdtemp(prefix="ray"))  # a short path: it has sockets below it
    code = (
        "import ray, sys; ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, _temp_dir=sys.argv[1]);"
        "print('ADDRESS', ray.get_runtime_context().gcs_address, flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    argv = [python, "-c", code, str(directory)]
    environment = {**os.environ, **RAY}
    with subprocess.Popen(
        argv, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("ADDRESS"))
        yield Cluster(line.split()[1], directory)
        process.stdin.close()
        process.wait(timeout=60)
    shutil.rmtree(directory)


@contextlib.contextmanager
def second_host(bench: Bench) -> Iterator[str]:
    """Another host of the cluster, as far as Ray can see: a Ray of its own on this machine under another name."""
    name = "second-load-host"
    ray = f"exec {bench.python} -m ray.scripts.scripts start --block --address={bench.cluster.address} --num-cpus=8"
    argv = ["unshare", "--user", "--map-root-user", "--uts", "sh", "-c", f"hostname {name} && {ray}"]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        argv, stdout=quiet, stderr=quiet, env={**os.environ, **RAY}, start_new_session=True
    ) as process:
        try:
            yield name
        finally:
            process.terminate()
            process.wait(timeout=60)


@dataclass
class Outcome:
    """What a run left: its exit status (None: it hung), its records, its files, and what the servers saw."""

    status: int | None
    output: str
    records: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    logs: list[list[dict[str, Any]]] = field(default_factory=list)

    @property
    def seen(self) -> list[dict[str, Any]]:
        return [entry for log in self.logs for entry in log]


class Bench:
    """LLMPerf with some patches, against servers of its own."""

    def __init__(self, upstream: Path, python: str, tokenizer: Path, cluster: Cluster, scratch: Path) -> None:
        self.upstream, self.python, self.tokenizer, self.cluster = upstream, python, tokenizer, cluster
        self.scratch = scratch

    def tree(self, without: str = "") -> Path:
        target = self.scratch / f"without-{without or 'nothing'}"
        if not target.exists():
            shutil.copytree(self.upstream, target)
            patched_source.apply(target, patched_source.edits_of([p for p in PATCHES if p["name"] != without]))
            shutil.copy(FILES / "trainyard_llmperf.py", target / "src/llmperf/trainyard.py")
        return target

    def run(
        self, server: Server, without: str = "", limit_s: float = 90, into: Path | None = None, **options: Any
    ) -> Outcome:
        results = into or self.scratch / f"results-{len(list(self.scratch.iterdir()))}"
        given = {
            "model": "tiny",
            "mean_input_tokens": 300,
            "stddev_input_tokens": 0,
            "mean_output_tokens": 20,
            "stddev_output_tokens": 0,
            "max_num_completed_requests": 8,
            "num_concurrent_requests": 2,
            "timeout": 60,
            "results_dir": results,
            **options,
        }
        if without != "base":
            given = {"tokenizer": self.tokenizer, **given}
        argv = [self.python, str(self.tree(without) / "token_benchmark_ray.py")]
        argv += [part for name, value in given.items() for part in ("--" + name.replace("_", "-"), str(value))]
        environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "OPENAI_API_BASE": ";".join(f"{url}/v1" for url in server.urls),
            "OPENAI_API_KEY": KEY,
            "HF_HUB_OFFLINE": "1",
            "RAY_ADDRESS": self.cluster.address,
            **RAY,
        }
        server.reset()
        try:
            done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=limit_s, check=False)
            status, output = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired as expired:
            status, output = None, str(expired)
        outcome = Outcome(status, output, logs=[server.log(i) for i in range(len(server.urls))])
        for path in sorted(results.glob("*.json")):
            outcome.files.append(path.name)
            content = json.loads(path.read_text())
            if isinstance(content, list):
                outcome.records = content
            else:
                outcome.summary = content
        return outcome


@pytest.fixture(scope="module")
def bench(
    upstream: Path, python: str, tokenizer: Path, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Bench:
    return Bench(upstream, python, tokenizer, cluster, tmp_path_factory.mktemp("bench"))


def server_rate(log: list[dict[str, Any]]) -> float:
    """Output tokens a second as the servers saw them, from the first arrival to the last departure."""
    span_s = max(entry["finished_s"] for entry in log) - min(entry["arrived_s"] for entry in log)
    return sum(entry["output_tokens"] for entry in log) / span_s


def base(bench: Bench, without: str) -> None:
    with running_server() as server:
        outcome = bench.run(server, without, max_num_completed_requests=1, num_concurrent_requests=1)
    assert outcome.status == 0, outcome.output[-2000:]


def python_bound(bench: Bench, without: str) -> None:
    bound = tomllib.loads((bench.tree(without) / "pyproject.toml").read_text())["project"]["requires-python"]
    assert "<" not in bound or sys.version_info[:2] < (3, 11)


def imported(bench: Bench, without: str, code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(bench.tree(without) / "src"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([bench.python, "-c", code], capture_output=True, text=True, env=environment, check=False)


def lazy_clients(bench: Bench, without: str) -> None:
    done = imported(bench, without, "import llmperf.common, sys; assert 'boto3' not in sys.modules")
    assert done.returncode == 0, done.stderr


def tokenizer_is_given(bench: Bench, without: str) -> None:
    watch = (
        "import transformers as t; asked = [];"
        "t.PreTrainedTokenizerBase.from_pretrained = classmethod(lambda c, name, *a, **k: asked.append(name));"
        "import llmperf.utils; print(asked)"
    )
    assert imported(bench, without, watch).stdout.strip() == "[]"


def seed(bench: Bench, without: str) -> None:
    seen = []
    with running_server() as server:
        for number in (1, 2):
            outcome = bench.run(server, without, seed=number, max_num_completed_requests=2)
            assert outcome.status == 0, outcome.output[-2000:]
            seen.append({entry["prompt_digest"] for entry in outcome.seen})
    assert not seen[0] & seen[1]


def short_prompts(bench: Bench, without: str) -> None:
    with running_server() as server:
        outcome = bench.run(server, without, limit_s=45, mean_input_tokens=20)
    assert outcome.status == 1, outcome.output[-2000:]
    assert "ask for more input tokens; nothing was sent" in outcome.output
    assert not outcome.seen


def models(bench: Bench, without: str) -> None:
    with running_server() as server:
        asked = json.dumps(["tiny", "sql", "sql"])
        outcome = bench.run(server, without, models=asked, max_num_completed_requests=9, warm_up=3)
    assert outcome.status == 0, outcome.output[-2000:]
    # Three to warm up and nine that count, whichever stream sent them.
    assert Counter(entry["model"] for entry in outcome.seen) == {"tiny": 4, "sql": 8}


def environment(bench: Bench, without: str) -> None:
    with running_server() as server:
        outcome = bench.run(server, without, max_num_completed_requests=1, num_concurrent_requests=1)
    assert [entry["key"] for entry in outcome.seen] == [hashlib.sha256(KEY.encode()).hexdigest()]
    written = [path for path in bench.cluster.directory.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


def spread(bench: Bench, without: str) -> None:
    with second_host(bench) as name, running_server() as server:
        outcome = bench.run(
            server, without, load_hosts=2, num_concurrent_requests=4, max_num_completed_requests=8, limit_s=180
        )
    assert outcome.status == 0, outcome.output[-2000:]
    sent = Counter(record["client"]["host"] for record in outcome.records)
    assert sorted(sent) == sorted([name, platform.node()]), sent
    assert max(sent.values()) - min(sent.values()) <= 2, sent
    streams = {(record["client"]["host"], record["client"]["process"]) for record in outcome.records}
    assert Counter(host for host, _ in streams) == {name: 2, platform.node(): 2}


def endpoints(bench: Bench, without: str) -> None:
    with running_server(replicas=2) as server:
        outcome = bench.run(server, without, num_concurrent_requests=4, max_num_completed_requests=24)
    loads = [mean_in_flight(log) for log in outcome.logs]
    assert min(loads) > 0, loads
    assert max(loads) / min(loads) < 1.15, loads
    first = [sorted(entry["arrived_s"] for entry in log)[:2] for log in outcome.logs]
    # The first four requests, one of each stream, go to both: they do not march.
    assert all(len(times) == 2 for times in first)
    assert abs(first[0][1] - first[1][1]) < 0.15


def request_timeout(bench: Bench, without: str) -> None:
    with running_server(hang_ratio=1.0) as server:
        outcome = bench.run(server, without, limit_s=40, request_timeout=2, max_num_completed_requests=2)
    assert outcome.status == 0, outcome.output[-500:]
    assert [record["error_code"] for record in outcome.records] == ["timeout", "timeout"]


def session(bench: Bench, without: str) -> None:
    with running_server(replicas=2) as server:
        outcome = bench.run(server, without, max_num_completed_requests=12, num_concurrent_requests=2)
    connections = [{entry["connection"] for entry in log} for log in outcome.logs]
    assert [len(found) for found in connections] == [2, 2]  # of each stream one, however many requests
    # The servers' clock is this machine's, too: a request is stamped when it leaves, not when its making begins.
    ahead_s = time.time() - time.monotonic()
    sent = sorted(record["started_at"] - ahead_s for record in outcome.records)
    arrived = sorted(entry["arrived_s"] for entry in outcome.seen)
    assert abs(statistics.median(after - before for before, after in zip(sent, arrived, strict=True))) < 0.05


def inter_token(bench: Bench, without: str) -> None:
    with running_server() as server:
        outcome = bench.run(server, without)
        # An answer of one token has no time between tokens, and stops no stream.
        single = bench.run(server, without, mean_output_tokens=1)
    measured = statistics.fmean(record["inter_token_latency_s"] for record in outcome.records)
    assert measured == pytest.approx(0.020, rel=0.04)
    assert [record["inter_token_latency_s"] for record in single.records] == [None] * 8
    assert single.status == 0, single.output[-2000:]


def usage(bench: Bench, without: str) -> None:
    with running_server() as server:
        outcome = bench.run(server, without)
    assert [record["number_output_tokens"] for record in outcome.records] == [20] * 8


def reasoning(bench: Bench, without: str) -> None:
    with running_server(reasoning_tokens=10) as server:
        outcome = bench.run(server, without, max_num_completed_requests=4)
    # What the first token is late by is the machine's; that it is the first piece of reasoning, the servers can say.
    ahead_s = time.time() - time.monotonic()
    first = sorted(record["started_at"] + record["ttft_s"] - ahead_s for record in outcome.records)
    written = sorted(entry["first_token_s"] for entry in outcome.seen)
    assert abs(statistics.median(after - before for before, after in zip(written, first, strict=True))) < 0.05


def comments(bench: Bench, without: str) -> None:
    with running_server(ttft_ms=400, keep_alive_ms=50) as server:
        outcome = bench.run(server, without, max_num_completed_requests=4)
    assert [record["error_code"] for record in outcome.records] == [None] * 4, outcome.records
    assert [record["number_output_tokens"] for record in outcome.records] == [20] * 4
    assert min(record["ttft_s"] for record in outcome.records) >= 0.4, "a line that is no event is no first token"


def failures(bench: Bench, without: str) -> None:
    with running_server(failure_ratio=0.2, cut_ratio=0.2) as server:
        outcome = bench.run(server, without, max_num_completed_requests=20, num_concurrent_requests=4)
    wrong = sum(entry["outcome"] != "succeeded" for entry in outcome.seen)
    assert wrong > 2
    assert outcome.status == 0, outcome.output[-2000:]
    assert len(outcome.records) == 20
    assert sum(record["error_code"] is not None for record in outcome.records) == wrong
    assert outcome.summary["results_number_errors"] == wrong


def exact(bench: Bench, without: str) -> None:
    with running_server() as server:
        outcome = bench.run(server, without, max_num_completed_requests=10, num_concurrent_requests=4)
    assert len(outcome.seen) == len(outcome.records) == 10
    assert len({entry["prompt_digest"] for entry in outcome.seen}) == 10


def clock(bench: Bench, without: str) -> None:
    with running_server() as server:
        outcome = bench.run(server, without, max_num_completed_requests=16, num_concurrent_requests=4)
    reported = outcome.summary["results_mean_output_throughput_token_per_s"]
    assert reported == pytest.approx(server_rate(outcome.seen), rel=0.05)
    assert mean_in_flight(outcome.seen) > 3


def names(bench: Bench, without: str) -> None:
    into = bench.scratch / f"names-{without or 'nothing'}"
    with running_server() as server:
        for _ in range(2):
            outcome = bench.run(server, without, into=into, max_num_completed_requests=2)
    assert len(outcome.files) == 4, outcome.files


def accounts(bench: Bench, without: str) -> None:
    with running_server() as server:
        outcome = bench.run(server, without, timeout=2, max_num_completed_requests=500)
    assert outcome.status == 3, outcome.output[-2000:]
    assert 0 < len(outcome.records) < 500
    assert all(record["started_at"] > 1e9 for record in outcome.records)


CHECKS: dict[str, Callable[[Bench, str], None]] = {
    "base": base,
    "python-bound": python_bound,
    "lazy-clients": lazy_clients,
    "tokenizer": tokenizer_is_given,
    "seed": seed,
    "short-prompts": short_prompts,
    "models": models,
    "environment": environment,
    "spread": spread,
    "endpoints": endpoints,
    "request-timeout": request_timeout,
    "session": session,
    "inter-token": inter_token,
    "usage": usage,
    "reasoning": reasoning,
    "comments": comments,
    "failures": failures,
    "exact": exact,
    "clock": clock,
    "names": names,
    "accounts": accounts,
}


def test_every_patch_has_a_check() -> None:
    assert set(CHECKS) == {patch["name"] for patch in PATCHES}


@pytest.mark.parametrize("name", CHECKS)
def test_patch_does_what_it_is_for(name: str, bench: Bench) -> None:
    CHECKS[name](bench, "")


@pytest.mark.parametrize("name", CHECKS)
def test_check_fails_without_the_patch(name: str, bench: Bench) -> None:
    with pytest.raises((AssertionError, ValueError, KeyError, TypeError)), contextlib.redirect_stdout(None):
        CHECKS[name](bench, name)


def test_the_patched_tree_is_the_one_that_the_role_expects(bench: Bench) -> None:
    assert patched_source.digest(bench.tree()) == VARS["__llmperf_patched_patched_digest"]


def test_every_file_of_the_patched_tree_is_python(bench: Bench) -> None:
    assert list(llmperf_digests.unreadable(bench.tree())) == []
