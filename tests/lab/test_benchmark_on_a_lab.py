# SPDX-License-Identifier: Apache-2.0
"""The benchmark playbook over stand-in hosts, one of which serves: presets, loops, several load hosts, bad runs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.fleet_support import Lab, assert_accounted, left_of_ray, running_lab
from trainyard.paths import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("benchmark-lab")]

#: The shape of the lab's deployment for prompts of the tutorial's length.
LONG: dict[str, Any] = {"trainyard_overrides": {"tiny-llama": {"max_model_len": 9216}}}
#: The same, loaded from two hosts.
TOGETHER = {"trainyard_overrides": {"tiny-llama": {"max_model_len": 9216, "benchmark": {"load_hosts": 2}}}}
SENDERS = ("lab-2", "lab-3")


def flags(report: dict[str, Any]) -> set[str]:
    return {flag["code"] for flag in report["flags"]}


def apart(lab: Lab, folder: Path) -> Path:
    """The lab's inventory with the first host serving and the others loading; beside it the lab's variables."""
    found = json.loads(lab.run("ansible-inventory", "-i", "inventory/lab", "--list", "--export"))
    hosts = found["_meta"]["hostvars"]
    groups = {"neuron": ["lab-1"], "router": ["lab-1"], "client": list(SENDERS)}
    children = {name: {"hosts": {host: hosts[host] for host in members}} for name, members in groups.items()}
    shared = found.get("all", {}).get("vars", {})
    (folder / "hosts.json").write_text(json.dumps({"all": {"vars": shared, "children": children}}))
    (folder / "group_vars").symlink_to(ROOT / "inventory/lab/group_vars")
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with running_lab("benchmark", "--hosts", "3", "--engine", "simulated", "--time-scale", "0") as made:
        made.set_speed({"kind": "fixed", "ttft_ms": 50, "itl_ms": 4})
        made.inventory = str(apart(made, tmp_path_factory.mktemp("inventory")))
        made.play("site.yml", LONG, "--skip-tags", "benchmark")
        yield made


@pytest.mark.parametrize(("preset", "streams", "requests"), [("llama-3-3-70b", 8, 1000), ("qwen3-32b", 1, 10)])
def test_the_recipes_loads_run_as_published(lab: Lab, tmp_path: Path, preset: str, streams: int, requests: int) -> None:
    report = lab.benchmark(tmp_path, {**LONG, "benchmark_load": {"preset": preset, "ignore_eos": True}})
    assert_accounted(report, requests)
    assert report["load_host"]["name"] == "lab-2"  # not where the replicas are
    assert {server["host"] for server in report["scenario"]["replicas"]} == {"lab-1"}
    load = report["load"]
    assert (load["concurrency"], load["loop"], load["requests"]) == (streams, "closed", requests)
    wanted = {"llama-3-3-70b": (7936, 256), "qwen3-32b": (128, 512)}[preset]
    got = [report["results"]["requests"][f"{kind}_tokens"]["mean"] for kind in ("input", "output")]
    # The chat template's own tokens are in what the server counts of a prompt.
    assert got == [pytest.approx(wanted[0], rel=0.01, abs=60), pytest.approx(wanted[1], rel=0.02)]


def test_an_open_loop_keeps_its_rate_and_takes_the_users_own_prompts(lab: Lab, tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {number}: what is a wharf?", "output_tokens": 20} for number in range(7)]
    text = "".join(json.dumps(row) + "\\n" for row in rows)
    lab.on(f"printf '%b' '{text}' > /root/prompts.jsonl", "lab-2")
    load = {"requests": 60, "request_rate_per_s": 6, "dataset": "/root/prompts.jsonl"}
    report = lab.benchmark(tmp_path, {**LONG, "benchmark_load": load})
    assert_accounted(report, 60)
    assert (report["load"]["loop"], report["load"]["arrival"]) == ("open", "poisson")
    assert report["load"]["source"] == "dataset"
    assert report["results"]["requests"]["output_tokens"]["mean"] == 20
    # Sixty arrivals of a Poisson process: their rate is known to an eighth.
    assert report["results"]["throughput"]["requests_per_s"] == pytest.approx(6, rel=0.4)


@pytest.fixture(scope="module")
def llmperf() -> dict[str, Any]:
    source = os.environ.get("TRAINYARD_LLMPERF_SOURCE")
    if not source:
        pytest.skip("TRAINYARD_LLMPERF_SOURCE names no source of LLMPerf: it was not tried")
    load = {"requests": 80, "concurrency": 8, "mean_input_tokens": 200, "mean_output_tokens": 200}
    return {**TOGETHER, "benchmark_llmperf_source": source, "benchmark_load": load}


def test_several_hosts_send_together_and_leave_nothing(lab: Lab, tmp_path: Path, llmperf: dict[str, Any]) -> None:
    key = {"benchmark_api_key": "sk-lab-0123456789abcdef"}
    report = lab.benchmark(tmp_path, {**llmperf, **key})
    assert_accounted(report, 80)
    shares = {share["name"]: share for share in report["load_host"]["shares"]}
    assert sorted(shares) == sorted(SENDERS)
    assert {share["client_processes"] for share in shares.values()} == {4}
    assert all(30 <= share["requests"] <= 50 for share in shares.values()), shares
    # One clock: what each host says of when it sent is no time before the load and no time after it.
    (records,) = tmp_path.glob("*/repeat-0/requests.jsonl")
    started = [json.loads(line)["started_at"] for line in records.read_text().splitlines()]
    (repeat,) = json.loads((records.parents[1] / "run.json").read_text())["repeats"]
    assert repeat["started_at"] - 0.1 <= min(started) <= max(started) <= repeat["ended_at"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and key["benchmark_api_key"] in path.read_text()]
    assert [left_of_ray(lab, host) for host in SENDERS] == ["", ""]


def test_check_mode_begins_no_cluster(lab: Lab, tmp_path: Path, llmperf: dict[str, Any]) -> None:
    said = lab.play("playbooks/benchmark.yml", {**llmperf, "trainyard_results_dir": str(tmp_path)}, "--check")
    assert "Load the fleet" in said
    assert not list(tmp_path.iterdir())
    assert [left_of_ray(lab, host) for host in SENDERS] == ["", ""]


def test_a_load_host_that_cannot_join_stops_the_run_before_it_begins(
    lab: Lab, tmp_path: Path, llmperf: dict[str, Any]
) -> None:
    lab.on("mkdir /etc/systemd/system/trainyard-ray.service", "lab-3")
    given = {**llmperf, "trainyard_results_dir": str(tmp_path)}
    done = lab.attempt("ansible-playbook", "playbooks/benchmark.yml", "-i", lab.inventory, "-e", json.dumps(given))
    lab.on("rm -rf /etc/systemd/system/trainyard-ray.service", "lab-3")
    assert done.returncode != 0
    assert "lab-3 cannot send, and the load was to come from 2 hosts: nothing was sent" in " ".join(done.stdout.split())
    assert not list(tmp_path.iterdir())
    assert [left_of_ray(lab, host) for host in SENDERS] == ["", ""]


def test_a_client_that_sends_from_one_host_is_refused_for_several(lab: Lab, tmp_path: Path) -> None:
    given = {**TOGETHER, "trainyard_results_dir": str(tmp_path)}
    done = lab.attempt("ansible-playbook", "playbooks/benchmark.yml", "-i", lab.inventory, "-e", json.dumps(given))
    assert done.returncode != 0
    assert "llmeter sends from one host, 2 were asked for" in " ".join(done.stdout.split())


def test_a_replica_that_dies_under_the_load_is_no_good_run(lab: Lab, tmp_path: Path) -> None:
    busy = "curl -s http://$(hostname -I | cut -d' ' -f1):8001/metrics | grep -q '^vllm:num_requests_running.* [1-9]'"
    kill = "/bin/systemctl kill --signal=KILL --kill-whom=all vllm@tiny-llama-1.service"
    # Some seconds after the first request, which is of the warm-up, so that it hits the load itself.
    lab.on(f'systemd-run bash -c "until {busy}; do sleep 0.2; done; sleep 6; {kill}"')
    load = {"requests": 900, "concurrency": 8, "mean_input_tokens": 64, "mean_output_tokens": 64}
    report = lab.benchmark(tmp_path, {**LONG, "benchmark_load": load})
    assert not report["sound"]
    assert flags(report) & {"replica_restarted", "counters_missing"}
    assert report["results"]["requests"]["sent"] == 900


def test_a_fleet_with_a_replica_down_gets_no_load(lab: Lab, tmp_path: Path) -> None:
    lab.on("systemctl stop vllm@tiny-llama-0.service")
    given = {**LONG, "trainyard_results_dir": str(tmp_path)}
    inventory = ("-i", lab.inventory, "-e", json.dumps(given))
    done = lab.attempt("ansible-playbook", "playbooks/benchmark.yml", *inventory)
    assert done.returncode != 0
    assert "the fleet is not ready for a benchmark, nothing was sent" in done.stdout
    assert "lab-1:tiny-llama-0" in done.stdout
    assert not list(tmp_path.iterdir())
