# SPDX-License-Identifier: Apache-2.0
"""A replica's counters, as vLLM prints them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.benchmark import counters

PAGE = """
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 2.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 1.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="tiny"} 3.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="a \\"quoted\\" {name}"} 4.0
vllm:prompt_tokens_total{engine="0",model_name="tiny"} 1.5e+03
vllm:generation_tokens_total{engine="0",model_name="tiny"} 700.0
vllm:time_to_first_token_seconds_bucket{le="+Inf",model_name="tiny"} 7.0
vllm:gpu_cache_usage_perc{model_name="tiny"} NaN
process_start_time_seconds 1.7e+09
"""


def test_counters_are_summed_over_their_labels() -> None:
    snap = counters.snapshot_of(PAGE)
    assert (snap.requests, snap.prompt_tokens, snap.generation_tokens) == (7, 1500, 700)
    assert (snap.running, snap.waiting, snap.process_started_at) == (2, 1, 1.7e9)


def test_a_fresh_server_without_any_answer_yet_counts_zero() -> None:
    assert counters.snapshot_of("vllm:num_requests_running 0.0\n").requests == 0


def test_a_page_of_another_program_is_refused() -> None:
    with pytest.raises(counters.UnreachableError, match="none of vLLM's counters"):
        counters.snapshot_of("node_cpu_seconds_total 5\n")


def test_a_server_that_does_not_listen_is_named() -> None:
    with pytest.raises(counters.UnreachableError, match=r"http://127\.0\.0\.1:9"):
        counters.read("http://127.0.0.1:9", timeout_s=1)


def looks(monkeypatch: pytest.MonkeyPatch, *snaps: counters.Snapshot) -> list[counters.Snapshot]:
    """Have a replica show these, one a look, and the last from then on; returns those that are still to be shown."""
    left = list(snaps)
    monkeypatch.setattr(counters, "read", lambda _url: left.pop(0) if len(left) > 1 else left[0])
    return left


def test_a_replica_is_settled_when_two_looks_agree_and_nothing_runs_or_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = counters.Snapshot(requests=1, waiting=1)
    left = looks(monkeypatch, waits, waits, counters.Snapshot(requests=1), counters.Snapshot(requests=2))
    assert counters.settled({"a": "http://a"}, 60, pause_s=0) == {"a": counters.Snapshot(requests=2)}
    assert len(left) == 1


def test_a_replica_that_only_waits_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    looks(monkeypatch, counters.Snapshot(waiting=3))
    with pytest.raises(counters.UnreachableError, match="a runs 0, 3 wait"):
        counters.settled({"a": "http://a"}, 0, pause_s=0)


def test_a_client_s_processes_are_found_when_their_parent_is_gone() -> None:
    burn = "import sys, time\nwhile time.process_time() < 0.2: pass\nsys.stdin.read()"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burn!r}], start_new_session=True)"
    environment = {**os.environ, counters.RUN_VARIABLE: "run-1"}
    mine = counters.Processes("run-1")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env=environment) as process:
        process.wait(timeout=30)  # the child reads the pipe on
        found: dict[int, float] = {}
        deadline = time.monotonic() + 60
        while max(found.values(), default=0.0) < 0.05:
            assert time.monotonic() < deadline, found
            found = mine.seconds()
        assert process.pid not in found
        assert len(found) == 1
        assert counters.Processes("run-2").seconds() == {}
    while mine.seconds() or mine._ours:
        assert time.monotonic() < deadline
    # Their numbers may go to others; what has ended is looked at again.


def test_what_a_client_waits_for_its_processor_is_wanted_too() -> None:
    """Two programs that compute, on one processor: each gets half of it, and wants all."""
    one = {min(os.sched_getaffinity(0))}
    code = f"import os; os.sched_setaffinity(0, {one}); print(flush=True)\nwhile True: pass"
    environment = {**os.environ, counters.RUN_VARIABLE: "crowded"}
    with ExitStack() as stack:
        for _ in "ab":
            process = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
        sampler = counters.Sampler({}, 1.0, counters.Processes("crowded"))
        time.sleep(1.0)
        row = sampler.sample()
    assert row["client_busiest"] < 0.8
    assert row["client_wanted"] > 0.85
    assert row["client_wanted"] <= max(1.0, row["client_busiest"])


def test_a_run_whose_name_begins_with_another_s_is_another_run() -> None:
    environment = {**os.environ, counters.RUN_VARIABLE: "load-10"}
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env=environment) as process:
        deadline = time.monotonic() + 60
        while process.pid not in counters.Processes("load-10").seconds():
            assert time.monotonic() < deadline
        assert counters.Processes("load-1").seconds() == {}
        process.communicate(b"\n")


def test_a_replica_that_is_never_idle_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(1000))
    monkeypatch.setattr(counters.time, "monotonic", lambda: float(next(times, 10**6)))
    looked = []

    def read(url: str) -> counters.Snapshot:
        looked.append(url)
        assert len(looked) < 100, "it looks on and on"
        return counters.Snapshot(requests=len(looked), running=2)

    monkeypatch.setattr(counters, "read", read)
    with pytest.raises(counters.UnreachableError, match="not idle after 9 s: a runs 2, 0 wait"):
        counters.settled({"a": "http://a"}, 9, pause_s=0)
    monkeypatch.setattr(counters, "read", lambda _url: counters.Snapshot(requests=next(times)))
    with pytest.raises(counters.UnreachableError, match="the counters still move"):
        counters.settled({"a": "http://a"}, 9, pause_s=0)


class Asked(BaseHTTPRequestHandler):
    """Answers as a server with one model, and notes what it was asked with."""

    headers_seen: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        self.headers_seen.append(self.headers.get("Authorization"))
        data = json.dumps({"data": [{"id": "tiny"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Asked.headers_seen.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Asked) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_key_goes_with_the_question_for_models_and_none_where_there_is_none(url: str) -> None:
    assert counters.models(url) == ["tiny"]
    assert counters.models(url, api_key="sk-a") == ["tiny"]
    assert Asked.headers_seen == [None, "Bearer sk-a"]


def test_a_proxy_of_the_environment_is_not_asked_for_replicas(url: str) -> None:
    code = f"from {counters.__name__} import models; print(models({url!r}))"
    nobody = dict.fromkeys(("http_proxy", "HTTP_PROXY", "all_proxy"), "http://127.0.0.1:9")
    environment = {key: value for key, value in os.environ.items() if key.lower() != "no_proxy"} | nobody
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("['tiny']\n", 0), done.stderr
