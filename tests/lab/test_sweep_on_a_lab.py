# SPDX-License-Identifier: Apache-2.0
"""A sweep over a stand-in host whose engine has the speed of a model: what it finds is what the model says.

The engine is simulated with the shape of Llama 3.3 70B (`lab/neuron_sim/latency.py`). What is true of a configuration,
which objective is asked for and which configuration is the best is computed from the model's two durations alone
(`sweep_truth.py`), before anything runs; `test_sweep_truth.py` shows that it is what the scheduler does and that no
configuration is within a tenth of the objective.
"""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.lab.fleet_support import Lab, running_lab
from tests.lab.sweep_truth import BATCHES, CORES, DEGREES, INPUT, LENGTH, MODEL, OBJECTIVE, OUTPUT, TRUTH, optimum
from trainyard.paths import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("sweep-lab")]

LATENCY = {"kind": "model", "as_model": MODEL, "scale": 1.0}
SWEEP = {
    "deployment": "tiny-llama",
    "grid": {
        "tensor_parallel_size": list(DEGREES),
        "data_parallel_size": ["fill"],
        "max_num_seqs": list(BATCHES),
        "max_model_len": [LENGTH],
    },
    # And one that cannot be: the model's config.json, which the lab's hub has, knows no such position.
    "points": [{"tensor_parallel_size": 64, "data_parallel_size": 1, "max_num_seqs": 1, "max_model_len": 262144}],
    "load": {"rounds": 3, "mean_input_tokens": INPUT, "mean_output_tokens": OUTPUT, "timeout_s": 120},
    "objective": OBJECTIVE,
    "price_per_host_hour_usd": 40.0,
}


def sweep(lab: Lab, given: dict[str, Any], directory: Path, *more: str) -> subprocess.Popen[str]:
    directory.mkdir(exist_ok=True)
    file = directory.with_suffix(".yml")
    file.write_text(yaml.safe_dump(given))
    configs = ("--hub", lab.hub, "--model-configs", str(directory.with_suffix(".configs")))
    argv = [
        "trainyard",
        "sweep",
        str(file),
        "-i",
        "inventory/lab",
        "-o",
        str(directory),
        "--exhaustive",
        *configs,
        *more,
    ]
    with (directory / "log").open("a") as log:
        return subprocess.Popen(argv, cwd=ROOT, env=lab.environment, stdout=log, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with running_lab("sweep", "--engine", "simulated", "--time-scale", "0") as made:
        made.set_speed(LATENCY)
        yield made


def journal(directory: Path) -> list[dict[str, Any]]:
    file = directory / "journal.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_for(directory: Path, process: subprocess.Popen[str], text: str, after: int) -> None:
    """Until the sweep says `text` below what it had said at byte `after`."""
    deadline = time.monotonic() + 300
    while text not in (directory / "log").read_text()[after:]:
        assert process.poll() is None, (directory / "log").read_text()[-2000:]
        assert time.monotonic() < deadline, (directory / "log").read_text()[-2000:]
        time.sleep(0.2)


@pytest.fixture(scope="module")
def swept(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole sweep, killed while it serves, while it measures and right after a point was done."""
    directory = tmp_path_factory.mktemp("sweep") / "grid"
    kept = os.environ.get("TRAINYARD_SWEEP_KEEP")
    if kept:
        directory = Path(kept)
    for text, pause_s in ((": serve", 6.0), (": measure", 0.0), (": done", 0.0)):
        process = sweep(lab, SWEEP, directory)
        said = (directory / "log").stat().st_size
        wait_for(directory, process, text, said)
        if text == ": measure":  # the load itself is under way, on a host that does not hear of the kill
            deadline = time.monotonic() + 300
            while "repeat-0" not in lab.on("ls /var/lib/trainyard/benchmark/sweep-*/ 2>/dev/null || true"):
                assert time.monotonic() < deadline
        time.sleep(pause_s)
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = sweep(lab, SWEEP, directory)
    assert process.wait(timeout=1800) == 0, (directory / "log").read_text()[-4000:]
    return directory


def measured(directory: Path) -> dict[tuple[int, int], dict[str, Any]]:
    found = {}
    for entry in journal(directory):
        assert entry["run"], entry
        report = json.loads((directory / entry["run"] / "report.json").read_text())
        assert report["provenance"] == "simulated"
        found[entry["fields"]["tensor_parallel_size"], entry["fields"]["max_num_seqs"]] = report
    return found


def test_a_killed_sweep_goes_on_and_repeats_no_point(lab: Lab, swept: Path) -> None:
    keys = [entry["key"] for entry in journal(swept)]
    assert len(keys) == len(set(keys)) == len(DEGREES) * len(BATCHES)
    runs = lab.on("ls -d /var/lib/trainyard/benchmark/*/ | xargs -n1 basename").split()
    identity = (swept / "id").read_text().strip()
    # One load for each point, that which the kill cut off from its controller among them.
    assert sorted(runs) == sorted(f"sweep-{identity}-{key}" for key in keys)


def test_the_planner_takes_out_what_cannot_be(swept: Path) -> None:
    said = (swept / "log").read_text()
    assert "12 of 13 configurations are possible, with 12 artifacts to compile" in said
    assert "max_model_len = 262144: is over the model's 131072 positions" in said


def test_it_compiles_as_many_artifacts_as_there_are_digests(lab: Lab, swept: Path) -> None:
    report = measured(swept)
    digests = {replica["artifact"] for one in report.values() for replica in one["scenario"]["replicas"]}
    assert len(digests) == len(DEGREES) * len(BATCHES)
    compiled = lab.on("cat /var/log/trainyard/artifact-*.log | grep -c 'Compiling and saving model'")
    assert int(compiled) == len(digests)


def test_throughput_is_what_the_model_says(swept: Path) -> None:
    for name, report in measured(swept).items():
        got = report["results"]["throughput"]["output_tokens_per_s"]
        # A round begins when the answers of the one before have come to the client, the router's and its time later.
        assert got == pytest.approx(TRUTH[name].tokens_per_s, rel=0.15), name


@pytest.mark.parametrize("batch", [1, 4])
def test_the_tutorial_s_law_comes_out(swept: Path, batch: int) -> None:
    """Data parallel tutorial: TP 64 / DP 1 to TP 16 / DP 4 at batch 1 and 4, up to twice, TTFT rises."""
    found = measured(swept)
    wide, narrow = found[64, batch]["results"], found[16, batch]["results"]
    gain = narrow["throughput"]["output_tokens_per_s"] / wide["throughput"]["output_tokens_per_s"]
    assert 1.7 < gain < 2.4
    first = [one["latency"]["time_to_first_token_ms"]["p50"] for one in (wide, narrow)]
    assert first[1] > 1.3 * first[0]


def test_each_configuration_keeps_the_objective_or_not_as_the_model_says(swept: Path) -> None:
    found = {name: report["results"]["goodput"]["kept"] for name, report in measured(swept).items()}
    assert found == {name: truth.keeps(OBJECTIVE) for name, truth in TRUTH.items()}


def test_the_recommendation_is_the_model_s_optimum(lab: Lab, swept: Path) -> None:
    overrides = yaml.safe_load((swept / "recommended.yml").read_text())["trainyard_overrides"]["tiny-llama"]
    best = optimum()
    assert (overrides["tensor_parallel_size"], overrides["max_num_seqs"]) == best
    assert overrides["data_parallel_size"] == CORES // best[0]
    with (swept / "report.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(TRUTH)
    # It is a file that the site takes, and what it asks for is what is planned.
    lab.run("ansible-playbook", "playbooks/preflight.yml", "-i", "inventory/lab", "-e", f"@{swept}/recommended.yml")


def test_the_highest_rate_within_an_objective_is_found(lab: Lab, tmp_path: Path) -> None:
    """One replica at batch 4: the device is full at the rate that its two durations give, and queues above it."""
    given = {
        **SWEEP,
        "grid": {},
        "points": [{"tensor_parallel_size": 64, "data_parallel_size": 1, "max_num_seqs": 4, "max_model_len": LENGTH}],
        "loads": [],
        "load": {"requests": 30, "mean_input_tokens": INPUT, "mean_output_tokens": 40, "arrival": "constant"},
        "objective": {"time_to_first_token_ms": 1500, "percentile": 90},
        "search": {"low_per_s": 0.5, "high_per_s": 16, "tolerance": 0.3},
    }
    process = sweep(lab, given, tmp_path / "rate")
    assert process.wait(timeout=1200) == 0, (tmp_path / "rate/log").read_text()[-3000:]
    truth = TRUTH[64, 4]
    full_per_s = 1 / (truth.prefill_s + 39 * truth.step_s / 4)
    rates = {}
    for entry in journal(tmp_path / "rate"):
        report = json.loads((tmp_path / "rate" / entry["run"] / "report.json").read_text())
        rates[entry["load"]["request_rate_per_s"]] = report["results"]["goodput"]["kept"]
    good, bad = max(rate for rate in rates if rates[rate]), min(rate for rate in rates if not rates[rate])
    assert good < bad <= good * 1.3
    # Thirty requests a little above the limit build no queue of 1.5 s yet; below it none may fail.
    assert full_per_s * 0.7 < good < full_per_s * 1.6, (rates, full_per_s)
    assert len(rates) <= 8


def test_a_sweep_stops_before_its_time_its_money_or_its_capacity_block_runs_out(lab: Lab, tmp_path: Path) -> None:
    given = {**SWEEP, "grid": {**SWEEP["grid"], "tensor_parallel_size": [64, 32], "max_num_seqs": [1]}}
    directory = tmp_path / "budget"
    # An hour of 40 USD: a point of a minute is 70 cents; one fits into a dollar, two do not.
    for words, says, done in (
        (("--stop-at", "2020-01-01T00:00:00"), "before the time to stop", 0),
        (("--usd", "0.05"), "0.05 USD would be exceeded", 1),
        (("--hours", "0.005"), "time budget of 0.01 h would be exceeded", 1),
    ):
        said = (directory / "log").stat().st_size if directory.exists() else 0
        sweep(lab, given, directory, *words).wait(timeout=600)
        assert says in (directory / "log").read_text()[said:]
        assert len(journal(directory)) == done
