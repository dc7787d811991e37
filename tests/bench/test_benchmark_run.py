# SPDX-License-Identifier: Apache-2.0
"""The benchmark module with the real client against servers with known delays: what it reports is what happened."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils import venv
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.building import build
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.reading import records_of
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import BenchmarkReport
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.text import table
from markupsafe import escape

from bench import client_environments
from tests.bench import tiny_tokenizer
from tests.bench.conftest import ROOT, Server
from trainyard.report import analysis, render

MODULE = "ansible_collections.trainyard.neuron.plugins.modules.benchmark_run"


@pytest.fixture(scope="module")
def llmeter() -> str:
    try:
        return str(client_environments.home("llmeter"))
    except venv.VenvError as error:
        pytest.skip(f"the client cannot be installed here: {str(error)[:200]}")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_tokenizer.make(tmp_path_factory.mktemp("tokenizer") / "tiny"))


@pytest.fixture
def run_module(tmp_path: Path, llmeter: str, tokenizer: str) -> Callable[..., dict[str, Any]]:
    def run(server: Server, load: dict[str, Any], **given: Any) -> dict[str, Any]:
        replicas = [{"id": f"h:tiny-{i}", "url": url, "max_num_seqs": 2} for i, url in enumerate(server.urls)]
        arguments = {
            "label": "Tiny",
            "directory": str(tmp_path / "runs"),
            "client": "llmeter",
            "client_home": llmeter,
            "client_script": str(ROOT / "roles/benchmark/files/llmeter_load.py"),
            "url": server.urls[0],
            "model": "tiny",
            "tokenizer": tokenizer,
            "replicas": replicas[:1] if load.get("target") != "replicas" else replicas,
            "load": {"requests": 12, "mean_input_tokens": 60, "mean_output_tokens": 20, "timeout_s": 20, **load},
            "sample_period_s": 0.1,
            **given,
        }
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "collections")}
        done = subprocess.run(
            [sys.executable, "-m", MODULE],
            input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert "{" in done.stdout, done.stderr
        return json.loads(done.stdout[done.stdout.index("{") :])

    return run


def report_of(tmp_path: Path, result: dict[str, Any], **more: Any) -> BenchmarkReport:
    root = tmp_path / "runs" / result["run_id"]
    summary = json.loads((root / "run.json").read_text())
    replicas = [{"id": name, "url": url} for name, url in summary["fleet"]["replicas"].items()]
    rows = records_of(root)
    return build(summary, rows, provenance="simulated", replicas=replicas, **more)


def test_figures_counters_and_accounts_agree_with_the_server(
    instrumented: Any, run_module: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    server = instrumented(ttft_ms=100, itl_ms=20)
    result = run_module(server, {"concurrency": 3})
    assert result["changed"], result
    assert result["counts"] == {"sent": 12, "succeeded": 12, "failed": 0, "timed_out": 0}
    report = report_of(tmp_path, result)
    assert "unaccounted_requests" not in {flag.code for flag in report.flags}
    assert report.servers.agreement.agree
    assert report.servers.replicas[0].requests == 12  # the three of the warm-up are not among them
    assert len(server.log()) == 15
    assert report.results.latency.time_per_output_token_ms.p50 == pytest.approx(20, rel=0.1)
    assert report.results.latency.time_to_first_token_ms.p50 == pytest.approx(100, rel=0.5)
    assert report.results.latency.inter_token_latency_ms.count == 12 * 19
    assert 2 < report.servers.replicas[0].in_flight_max <= 3
    assert Path(result["archive"]).stat().st_size > 1000


def test_a_mix_of_names_is_asked_for_in_turn_and_reported_by_name(
    instrumented: Any, run_module: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    server = instrumented(ttft_ms=50, itl_ms=10, adapters="support,sql")
    result = run_module(server, {"concurrency": 3, "models": ["tiny", "sql", "sql"], "warmup_requests": 3})
    assert result["counts"] == {"sent": 12, "succeeded": 12, "failed": 0, "timed_out": 0}, result
    assert Counter(entry["model"] for entry in server.log()) == {"tiny": 5, "sql": 10}
    report = report_of(tmp_path, result)
    assert report.load.models == ["tiny", "sql", "sql"]
    assert [(one.name, one.sent, one.succeeded, one.output_tokens) for one in report.results.models] == [
        ("tiny", 4, 4, 80),
        ("sql", 8, 8, 160),
    ]
    assert report.results.models[1].time_to_first_token_ms.count == 8
    shown = table(report)
    assert "asking for 1 x tiny + 2 x sql" in shown and re.search(r"^sql +8 +160 ", shown, re.MULTILINE)
    run = analysis.Measured(report)
    assert run.offered == "3 streams, 1 x tiny + 2 x sql"
    assert "asked for sql" in render.html([run])


def test_a_conversation_goes_on_from_its_answers_and_says_which_it_is(
    instrumented: Any, run_module: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    server = instrumented(ttft_ms=20, itl_ms=2)
    talk = {"turns": 4, "mean_turn_tokens": 10, "think_s": 0.05, "concurrency": 2, "warmup_requests": 0}
    result = run_module(server, talk)
    assert result["counts"] == {"sent": 12, "succeeded": 12, "failed": 0, "timed_out": 0}, result
    by_talk: dict[str, list[dict[str, Any]]] = {}
    for entry in server.log():
        by_talk.setdefault(entry["conversation"], []).append(entry)
    assert sorted(map(len, by_talk.values())) == [4, 4, 4]
    for turns in by_talk.values():
        lengths = [entry["prompt_tokens"] for entry in turns]
        # Each has what was asked (10 tokens) and answered (20) before it; a word may be two of them.
        assert all(later - earlier >= 15 for earlier, later in itertools.pairwise(lengths)), lengths
        assert turns == sorted(turns, key=lambda entry: entry["arrived_s"])
    report = report_of(tmp_path, result)
    assert (report.load.turns, report.load.turn_tokens, report.load.think_s) == (4, 10, 0.05)


@pytest.mark.parametrize(
    ("load", "said"),
    [
        ({"turns": 4, "request_rate_per_s": 5.0}, "an open loop begins by the clock"),
        ({"turns": 4, "dataset": "/somewhere"}, "a dataset has prompts that stand alone"),
        ({"preset": "conversations", "request_rate_per_s": 5.0}, "an open loop begins by the clock"),
    ],
)
def test_a_conversation_that_cannot_be_held_is_refused(
    instrumented: Any, run_module: Callable[..., dict[str, Any]], load: dict[str, Any], said: str
) -> None:
    server = instrumented()
    result = run_module(server, load)
    assert result["failed"] and said in result["msg"], result
    assert server.log() == []


def test_a_name_that_nobody_serves_gets_no_load(instrumented: Any, run_module: Callable[..., dict[str, Any]]) -> None:
    server = instrumented(adapters="support")
    result = run_module(server, {"models": ["tiny", "sql", "chat"]})
    assert result["failed"]
    assert "serves tiny, support, not sql, chat" in result["msg"]
    assert server.log() == []


def test_lines_that_are_no_events_are_neither_tokens_nor_failures(
    instrumented: Any, run_module: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """vLLM's --sse-keep-alive-interval sends them while a prompt is worked on."""
    server = instrumented(ttft_ms=300, itl_ms=20, keep_alive_ms=40)
    result = run_module(server, {"concurrency": 2})
    assert result["counts"] == {"sent": 12, "succeeded": 12, "failed": 0, "timed_out": 0}
    report = report_of(tmp_path, result)
    assert report.servers.agreement.agree
    assert report.results.latency.time_to_first_token_ms.p50 >= 300


def test_failures_cut_streams_and_silence_are_all_recorded(
    instrumented: Any, run_module: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    server = instrumented(ttft_ms=20, itl_ms=5, failure_ratio=0.2, cut_ratio=0.2, hang_ratio=0.15)
    result = run_module(server, {"requests": 40, "concurrency": 8, "timeout_s": 2, "warmup_requests": 0})
    counts = result["counts"]
    outcomes = [entry["outcome"] for entry in server.log()]
    assert counts["sent"] == 40 == len(outcomes)
    assert counts["succeeded"] == outcomes.count("succeeded")
    assert counts["timed_out"] == outcomes.count("hung") > 0
    assert counts["failed"] == outcomes.count("failed") + outcomes.count("cut") > 0
    report = report_of(tmp_path, result)
    assert not report.sound
    assert sum(failure.count for failure in report.results.requests.failures) == 40 - counts["succeeded"]


def test_an_open_loop_sends_at_its_rate_whatever_the_server_does(
    instrumented: Any, run_module: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    server = instrumented(ttft_ms=250, itl_ms=5, max_num_seqs=1)  # a queue builds up
    result = run_module(server, {"requests": 14, "request_rate_per_s": 10, "arrival": "constant", "warmup_requests": 1})
    arrivals = [entry["arrived_s"] for entry in server.log()][1:]
    assert arrivals[-1] - arrivals[0] == pytest.approx(1.3, rel=0.15)
    report = report_of(tmp_path, result)
    assert report.load.loop == "open"
    assert report.servers.replicas[0].waiting_max > 3
    assert report.load_host.late_start_p99_ms < 200


def test_a_run_that_was_done_is_returned_and_not_repeated(
    instrumented: Any, run_module: Callable[..., dict[str, Any]]
) -> None:
    server = instrumented(ttft_ms=5, itl_ms=1)
    first = run_module(server, {})
    seen = len(server.log())
    again = run_module(server, {}, run_id=first["run_id"])
    assert (again["changed"], again["counts"]) == (False, first["counts"])
    assert len(server.log()) == seen


def test_a_run_under_way_is_waited_for_by_its_name_and_any_other_is_refused(
    instrumented: Any, run_module: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    server = instrumented(ttft_ms=800, itl_ms=20)
    results: list[dict[str, Any]] = []
    first = threading.Thread(target=lambda: results.append(run_module(server, {}, run_id="point-1")))
    first.start()
    while not (tmp_path / "runs/point-1").exists():
        assert first.is_alive(), results
        time.sleep(0.05)
    other = run_module(server, {}, run_id="point-2")
    assert "run point-1 is under way on this host" in other["msg"]
    assert not (tmp_path / "runs/point-2").exists()
    again = run_module(server, {}, run_id="point-1")
    first.join()
    assert (results[0]["changed"], again["changed"]) == (True, False)
    assert results[0]["counts"] == again["counts"]
    assert len(server.log()) == 14  # twelve and two of the warm-up: one load, not two


def test_what_a_cut_off_run_left_is_put_aside_and_the_run_made_again(
    instrumented: Any, run_module: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    server = instrumented(ttft_ms=5, itl_ms=1)
    left = tmp_path / "runs/point-1/repeat-0"
    left.mkdir(parents=True)
    (left / "requests.jsonl").write_text('{"index": 0, "outcome": "succeeded"}\n')
    result = run_module(server, {}, run_id="point-1")
    assert (result["changed"], result["counts"]["sent"]) == (True, 12)
    assert (tmp_path / "runs/point-1.cut-off-1/repeat-0/requests.jsonl").exists()


def test_a_fleet_that_is_not_ready_gets_no_load_and_every_cause_is_said(
    instrumented: Any, run_module: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    server = instrumented(ttft_ms=5, itl_ms=1)
    dead = [{"id": "h:a", "url": "http://127.0.0.1:9", "max_num_seqs": 1}]
    result = run_module(server, {}, model="another", replicas=dead)
    assert result["failed"]
    assert "serves tiny, not another" in result["msg"]
    assert "h:a: http://127.0.0.1:9/health does not answer" in result["msg"]
    assert not server.log()
    assert not list((tmp_path / "runs").glob("[!.]*"))


def test_a_fleet_that_somebody_else_uses_is_refused(
    instrumented: Any, run_module: Callable[..., dict[str, Any]]
) -> None:
    server = instrumented(ttft_ms=600_000)
    body = json.dumps({"model": "tiny", "messages": [], "max_tokens": 1, "stream": True}).encode()
    request = urllib.request.Request(f"{server.urls[0]}/v1/chat/completions", data=body)  # noqa: S310

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):  # the server ends first
            urllib.request.urlopen(request).read()  # noqa: S310

    threading.Thread(target=ask, daemon=True).start()
    deadline = time.monotonic() + 60
    while not server.log():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    result = run_module(server, {}, idle_timeout_s=1)
    assert "somebody else uses the fleet" in result["msg"]
    assert len(server.log()) == 1


def test_a_router_that_fails_one_request_in_a_hundred_makes_no_good_run(
    instrumented: Any, run_module: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    server = instrumented(ttft_ms=5, itl_ms=1, failure_ratio=0.01)
    result = run_module(server, {"requests": 400, "concurrency": 8, "mean_output_tokens": 3, "warmup_requests": 0})
    failed = [entry for entry in server.log() if entry["outcome"] == "failed"]
    assert 0 < len(failed) < 12
    assert (result["counts"]["sent"], result["counts"]["failed"]) == (400, len(failed))
    report = report_of(tmp_path, result)
    assert not report.sound
    assert any(flag.code == "failed_requests" and flag.severity == "error" for flag in report.flags)
    assert "not sound" in render.html([analysis.Measured(report)])


def test_a_client_that_cannot_drive_the_load_is_flagged_and_does_not_look_good(
    instrumented: Any, run_module: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Thirty-two streams of a token each millisecond: ten times what one interpreter can read."""
    server = instrumented(ttft_ms=5, itl_ms=1)
    result = run_module(server, {"requests": 192, "concurrency": 32, "mean_output_tokens": 150})
    report = report_of(tmp_path, result)
    limited = [flag for flag in report.flags if flag.code == "client_limited"]
    assert limited, (report.load_host, report.flags)
    page = render.html([analysis.Measured(report)])
    assert str(escape(limited[0].message)) in page
    assert '"tag good"' not in page


def test_the_key_reaches_the_server_and_no_archive(
    instrumented: Any, run_module: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    import tarfile

    server = instrumented(ttft_ms=5, itl_ms=1)
    result = run_module(server, {}, api_key="sesame-4711")
    with tarfile.open(result["archive"]) as tar:
        contents = b"".join(tar.extractfile(member).read() for member in tar.getmembers() if member.isfile())
    assert b"sesame-4711" not in contents
    assert oct((tmp_path / "runs" / result["run_id"]).stat().st_mode)[-3:] == "700"


def test_check_mode_looks_and_sends_nothing(instrumented: Any, run_module: Callable[..., dict[str, Any]]) -> None:
    server = instrumented()
    result = run_module(server, {}, _ansible_check_mode=True)
    assert result["changed"]
    assert result["load"]["concurrency"] == 2
    assert not server.log()
