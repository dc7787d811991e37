# SPDX-License-Identifier: Apache-2.0
"""`trainyard forecast` over the fleet that the repository carries, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.calibration import PUBLISHED
from typer.testing import CliRunner

from trainyard.cli import app
from trainyard.paths import ROOT

FLEET = str(ROOT / "inventory/trn2")


def trainyard(*arguments: str) -> tuple[int, str]:
    """A process of its own: an inventory that is opened in this one changes for good how the collection is imported."""
    argv = [str(Path(sys.executable).with_name("trainyard")), *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + ("" if "--json" in arguments and not done.returncode else done.stderr)


def forecast(*arguments: str) -> tuple[int, str]:
    return trainyard("forecast", "-i", FLEET, *arguments)


def found(*arguments: str) -> dict[str, Any]:
    code, text = forecast("--json", *arguments)
    assert code == 0, text
    return dict(json.loads(text))


def test_every_deployment_has_ranges_that_are_called_a_forecast() -> None:
    answer = found("--slo", "ttft_ms=5000,percentile=90", "--price", "35.76")
    assert (answer["called"], answer["provenance"]) == ("forecast", "fitted to published points")
    names = {one["deployment"] for one in answer["forecasts"]}
    assert names == {"llama-3-3-70b", "qwen3-32b"}
    for one in answer["forecasts"]:
        assert one["called"] == "forecast"
        for figure in (
            "time_to_first_token_p50_ms", "time_per_output_token_p50_ms", "output_tokens_per_s",
            "highest_rate_within_objective_per_s", "usd_per_million_output_tokens",
            "usd_per_million_output_tokens_within_objective", "start_s", "compile_s",
        ):  # fmt: skip
            assert 0 < one[figure]["low"] < one[figure]["value"] < one[figure]["high"], figure
        assert one["hbm_bytes_needed"] < one["hbm_bytes_available"]
    code, text = forecast()
    assert (code, "forecast, fitted to published points; nothing of it is measured" in text) == (0, True)


def test_alternatives_are_judged_by_the_planner_and_take_lengths_and_options() -> None:
    answer = found(
        "-d", "llama-3-3-70b", "--try", "tensor_parallel_size=3,16,64", "--try", "data_parallel_size=fill",
        "--input-tokens", "1000", "--input-tokens", "9100",
    )  # fmt: skip
    out = [one["refused"] for one in answer["forecasts"] if "refused" in one]
    assert any("tensor_parallel_size = 3" in text for text in out)
    assert sum("longer than the 9216" in text for text in out) == 3
    own, narrow, wide = (one for one in answer["forecasts"] if "refused" not in one)
    assert own["changes"] == {}
    assert (narrow["data_parallel_size"], wide["data_parallel_size"]) == (4, 1)
    assert narrow["output_tokens_per_s"]["value"] > wide["output_tokens_per_s"]["value"]


def test_the_tutorials_law_is_in_the_forecast_of_its_sweep() -> None:
    """AWS's tutorial on data parallelism: "up to 2x" from TP 64 / DP 1 to TP 16 / DP 4, and a higher TTFT."""
    grid = ("tensor_parallel_size=64,16", "data_parallel_size=fill", "max_num_seqs=1,4")
    rows = found("-d", "llama-3-3-70b", *(word for one in grid for word in ("--try", one)))["forecasts"][1:]
    by = {(one["tensor_parallel_size"], one["max_num_seqs"]): one for one in rows}
    for batch in (1, 4):
        one, four = by[64, batch], by[16, batch]
        assert 1.7 < four["output_tokens_per_s"]["value"] / one["output_tokens_per_s"]["value"] < 2.4
        assert four["time_to_first_token_p50_ms"]["value"] > 1.5 * one["time_to_first_token_p50_ms"]["value"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--slo", "tftt_ms=3"), "tftt_ms is no limit: did you mean 'ttft_ms'?"),
        (("--slo", "ttft_ms"), "must be ttft_ms=NUMBER"),
        (("--slo", "ttft_ms=x"), "must be ttft_ms=NUMBER"),
        (("--slo", "ttft_ms=1,ttft_ms=2"), "is there twice"),
        (("--slo", "ttft_ms=nan"), "must be a finite number"),
        (("--slo", "ttft_ms=-1"), "must be 0.001 to"),
        (("--slo", "percentile=90"), "needs a limit"),
        (("--slo", ""), "nothing is no limit"),
        (("--price", "nan"), "must be a finite number"),
        (("--price", "-1"), "must be 0 to"),
        (("--input-tokens", "0"), "must be 1 to"),
        (("--output-tokens", "inf"), "must be a finite number"),
        (("--streams", "0"), "must be 1 to"),
        (("--rate", "0"), "must be 1e-06 to"),
        (("--rate", "1", "--streams", "1"), "two kinds of load"),
        (("--try", "tensor_parallel=3"), "did you mean 'tensor_parallel_size'?"),
        (("--try", "tensor_parallel_size"), "must be tensor_parallel_size=VALUE"),
        (("--try", "tensor_parallel_size=[}"), "must be tensor_parallel_size=VALUE"),
        (("--try", "max_num_seqs=1", "--try", "max_num_seqs=2"), "is there twice"),
        (("--try", "port=1"), "changes nothing that is forecast"),
        (("--try", "max_num_seqs=1", "--what-if"), "tries its own fields"),
        (("-d", "qwen3"), "did you mean 'qwen3-32b'?"),
        (("-d", "x"), "the plan has llama-3-3-70b, qwen3-32b"),
        (("--calibration", "/nowhere.json"), "/nowhere.json is no calibration"),
        (("-i", "/nowhere"), "no inventory at /nowhere"),
    ],
)
def test_strange_input_is_refused_in_words(arguments: tuple[str, ...], said: str) -> None:
    if arguments[0] in ("-d", "-i"):
        code, text = trainyard("forecast", "-i", FLEET, *arguments)
    else:
        done = CliRunner().invoke(app, ["forecast", "-i", FLEET, *arguments])
        code, text = done.exit_code, done.output
    assert (code, said in " ".join(text.split())) == (2, True), text
    assert "Traceback" not in text


def test_every_problem_is_told_at_once() -> None:
    code, text = forecast("--slo", "tftt=1,tpot_ms=nan", "--price", "nan", "--try", "a=1", "--input-tokens", "0")
    assert code == 2
    for said in ("tftt is no limit", "--slo.time_per_output_token_ms", "--price", "--try a=1", "--input-tokens"):
        assert said in text


def test_other_constants_change_the_forecast_and_say_so(tmp_path: Path) -> None:
    data = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    data["provenance"] = "fitted to simulated runs"
    data["constants"]["prefill_s"]["value"] = 4.0
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps(data), encoding="utf-8")
    answer = found("--calibration", str(file))
    assert answer["provenance"] == "fitted to simulated runs"
    assert all(one["time_to_first_token_p50_ms"]["value"] > 4000 for one in answer["forecasts"])


def test_a_model_that_nobody_knows_has_no_forecast_and_the_others_have(tmp_path: Path) -> None:
    deployment = {
        "name": "mine", "model": {"repo": "a/b", "revision": "0" * 40}, "sdk_release": "2.28.1", "port": 8000,
        "tensor_parallel_size": 8, "max_num_seqs": 4, "max_model_len": 4096, "neuron_config": {"model_type": "llama"},
    }  # fmt: skip
    host = {
        "ansible_host": "10.0.0.1", "trainyard_instance_type": "trn2.48xlarge", "trainyard_deployment_mine": deployment,
    }  # fmt: skip
    file = tmp_path / "hosts.yml"
    group = {"hosts": {"h": host}}
    file.write_text(json.dumps({"all": {"children": {"neuron": group, "router": {"hosts": {"h": None}}}}}))
    code, text = trainyard("forecast", "-i", str(file))
    assert code == 0, text
    assert "no forecast: a/b has no size that is known here" in " ".join(text.split())


def test_a_sweeps_check_shows_the_forecast_of_the_tutorials_experiment() -> None:
    """ "Up to 2x" at a higher TTFT, by the tutorial's own sweep file."""
    file = str(ROOT / "sweeps/llama-3-3-70b.yml")
    code, text = trainyard("sweep", file, "-i", FLEET, "--check")
    assert code == 0, text
    rows = re.findall(r"size=(\d+) .*seqs=(\d) .*forecast: ([\d.,]+) \(.*first token ([\d.,]+) \(", text)
    found = {
        (int(cores), int(batch)): (float(tokens), float(first.replace(",", ""))) for cores, batch, tokens, first in rows
    }
    assert len(found) == 6
    for batch in (1, 4):
        (wide, early), (narrow, late) = found[64, batch], found[16, batch]
        assert 1.7 < narrow / wide < 2.4
        assert late > 1.5 * early
    code, text = trainyard("sweep", file, "-i", FLEET, "--check", "--exhaustive")
    assert (code, "forecast" in text) == (0, False)
