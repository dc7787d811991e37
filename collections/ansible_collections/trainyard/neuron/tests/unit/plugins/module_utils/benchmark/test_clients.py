# SPDX-License-Identifier: Apache-2.0
"""What each client is told, and what becomes of what it writes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.benchmark import clients, runner


def load_of(**given: Any) -> dict[str, Any]:
    load = runner.resolve_load(given, slots=8)
    return {**load, "urls": ["http://router:8080"], "url": "http://router:8080", "model": "m", "tokenizer": "/tok"}


def options(argv: list[str]) -> dict[str, str]:
    return {name: value for name, value in itertools.pairwise(argv) if name.startswith("--")}


def test_llmperf_gets_the_recipe_as_its_authors_write_it(tmp_path: Path) -> None:
    (command,) = clients.Llmperf("/opt/llmperf").commands(load_of(preset="llama-3-3-70b"), tmp_path)
    given = options(command.argv)
    assert (given["--mean-input-tokens"], given["--stddev-input-tokens"]) == ("7936", "30")
    assert (given["--mean-output-tokens"], given["--stddev-output-tokens"]) == ("256", "30")
    assert (given["--max-num-completed-requests"], given["--num-concurrent-requests"]) == ("1000", "8")
    assert json.loads(given["--additional-sampling-params"]) == {"temperature": 0.7, "top_k": 50}
    assert command.environment["OPENAI_API_BASE"] == "http://router:8080/v1"


def test_llmperf_gets_every_replica_when_they_are_the_target(tmp_path: Path) -> None:
    load = {**load_of(), "urls": ["http://a:8000", "http://a:8001"]}
    (command,) = clients.Llmperf("/opt/llmperf").commands(load, tmp_path)
    assert command.environment["OPENAI_API_BASE"] == "http://a:8000/v1;http://a:8001/v1"


def test_llmperf_has_a_ray_of_its_own_that_nobody_else_may_join(tmp_path: Path) -> None:
    tokens = set()
    for _ in range(2):
        (command,) = clients.Llmperf("/opt/llmperf").commands(load_of(), tmp_path)
        assert command.environment["RAY_AUTH_MODE"] == "token"
        assert "RAY_ADDRESS" not in command.environment
        assert "--load-hosts" not in command.argv
        tokens.add(command.environment["RAY_AUTH_TOKEN"])
    assert {len(token) for token in tokens} == {64}
    assert len(tokens) == 2


def test_llmperf_sends_from_a_cluster_of_load_hosts(tmp_path: Path) -> None:
    cluster = {"address": "10.0.0.1:6379", "hosts": 3, "token_file": "/run/token"}
    (command,) = clients.Llmperf("/opt/llmperf").commands({**load_of(), "cluster": cluster}, tmp_path)
    assert options(command.argv)["--load-hosts"] == "3"
    assert command.environment["RAY_ADDRESS"] == "10.0.0.1:6379"
    assert command.environment["RAY_AUTH_TOKEN_PATH"] == "/run/token"
    assert "RAY_AUTH_TOKEN" not in command.environment


@pytest.mark.parametrize("client", [clients.Llmeter("/opt/llmeter"), clients.VllmBench("/opt/vllm")])
def test_other_clients_send_from_one_host(client: clients.Client) -> None:
    with pytest.raises(clients.ClientError, match="sends from one host: leave load_hosts at 1, or use llmperf"):
        client.check({**load_of(), "cluster": {"address": "10.0.0.1:6379", "hosts": 2, "token_file": "/run/token"}})


def test_each_request_asks_for_the_names_of_a_mix_in_turn(tmp_path: Path) -> None:
    load = load_of(models=["m", "sql", "sql"])
    assert [clients.model_of(load, index) for index in range(4)] == ["m", "sql", "sql", "m"]
    assert clients.model_of(load_of(), 3) == "m"
    (command,) = clients.Llmperf("/opt/llmperf").commands(load, tmp_path)
    assert json.loads(options(command.argv)["--models"]) == ["m", "sql", "sql"]
    (command,) = clients.Llmperf("/opt/llmperf").commands(load_of(), tmp_path)
    assert "--models" not in command.argv
    clients.Llmeter("/opt/llmeter", "/opt/load.py").commands(load, tmp_path)
    assert json.loads((tmp_path / "load.json").read_text())["models"] == ["m", "sql", "sql"]


def test_vllm_bench_asks_for_one_name() -> None:
    clients.VllmBench("/opt/vllm").check(load_of(models=["sql", "sql"]))
    with pytest.raises(clients.ClientError, match="asks for one name: give models one, or use llmeter or llmperf"):
        clients.VllmBench("/opt/vllm").check(load_of(models=["m", "sql"]))


def test_llmperf_refuses_an_open_loop() -> None:
    with pytest.raises(clients.ClientError, match="open loop"):
        clients.Llmperf("/opt/llmperf").check(load_of(request_rate_per_s=2.0))


@pytest.mark.parametrize(("concurrency", "processors", "processes"), [(1, 8, 1), (32, 8, 1), (33, 8, 2), (256, 2, 2)])
def test_llmeter_takes_a_process_for_each_32_streams(
    concurrency: int, processors: int, processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients.os, "cpu_count", lambda: processors)
    made = clients.Llmeter("/opt/llmeter", "/opt/load.py").commands(load_of(concurrency=concurrency), tmp_path)
    assert [command.argv[-1] for command in made] == [f"--shard={i}/{processes}" for i in range(processes)]


def test_llmeter_requests_without_an_answer_count_as_timed_out(tmp_path: Path) -> None:
    answered = {**clients.unanswered(0), "outcome": "succeeded"}
    lines = [{"index": 0, "sent": True}, answered, {"index": 1, "sent": True}]
    (tmp_path / "llmeter-0.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "llmeter-1.jsonl").write_text("")
    rows = clients.Llmeter("/opt/llmeter").records(tmp_path)
    assert [(row["index"], row["outcome"]) for row in rows] == [(0, "succeeded"), (1, "timed_out")]


def test_vllm_bench_gets_a_range_with_the_asked_deviation(tmp_path: Path) -> None:
    load = load_of(mean_input_tokens=100, stddev_input_tokens=10, mean_output_tokens=50, request_rate_per_s=3.0)
    (command,) = clients.VllmBench("/opt/vllm").commands(load, tmp_path)
    given = options(command.argv)
    assert given["--random-range-ratio"] == "0.1732"  # a uniform range of half-width 0.1732 m has deviation 0.1 m
    assert given["--request-rate"] == "3.0"
    assert "--ignore-eos" in command.argv


def test_vllm_bench_warms_up_in_a_run_of_its_own(tmp_path: Path) -> None:
    load = load_of(warmup_requests=3)
    (command,) = clients.VllmBench("/opt/vllm").warm_up(load, tmp_path)
    (measured,) = clients.VllmBench("/opt/vllm").commands(load, tmp_path)
    assert options(command.argv)["--num-prompts"] == "3"
    assert options(command.argv)["--seed"] != options(measured.argv)["--seed"]
    assert options(command.argv)["--result-dir"] != options(measured.argv)["--result-dir"]
    assert not clients.VllmBench("/opt/vllm").warm_up(load_of(warmup_requests=0), tmp_path)


def test_vllm_bench_results_become_records(tmp_path: Path) -> None:
    data = {
        "ttfts": [0.2, 0.0],
        "itls": [[0.02, 0.02], []],
        "errors": ["", "Traceback ... TimeoutError"],
        "output_lens": [3, 0],
        "input_lens": [10, 10],
        "start_times": [100.0, 100.5],
    }
    (tmp_path / "vllm-bench.json").write_text(json.dumps(data))
    good, bad = clients.VllmBench("/opt/vllm").records(tmp_path)
    assert (good["outcome"], good["e2e_s"], good["gaps_ms"]) == ("succeeded", pytest.approx(0.24), [20.0, 20.0])
    assert (bad["outcome"], bad["e2e_s"]) == ("timed_out", None)
