# SPDX-License-Identifier: Apache-2.0
"""Constants that were changed in secret come back from six runs of the stand-in's engine (simulated)."""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast import fitting
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.calibration import published, read_calibration
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.runs import point_of
from typer.testing import CliRunner

from tests.bench.seeded_truths import TWELVE, run_of, six
from tests.simulated_runs import changed, write_run
from trainyard.cli import app


@pytest.mark.parametrize(("seed", "noise"), [(1, 0.0), (2, 0.0), (3, 0.0), (4, 0.05), (5, 0.05), (6, 0.05)])
def test_six_runs_give_the_constants_back_and_twelve_others_are_as_forecast(seed: int, noise: float) -> None:
    """Within 5 % and 10 %; where each request's times scatter by 5 %, within twice that."""
    points = [point_of(report, published().values, {}) for report, _rows in six(seed, noise)]
    found, errors = fitting.fit(points, published().values)
    wider = 2 if noise else 1
    for name, truth in asdict(changed(seed)).items():
        assert getattr(found, name) == pytest.approx(truth, rel=0.05 * wider), name
    assert all(error < 0.1 for error in errors.values())
    others = [run_of(seed, 50 + index, given, sent, noise)[0] for index, (given, sent) in enumerate(TWELVE)]
    off = fitting.misses([point_of(report, found, {}) for report in others], found)
    assert len(off) == 24
    assert [str(one) for one in off if abs(one.factor - 1) > 0.1 * wider] == []


def test_what_no_run_tells_about_stays_as_it_was() -> None:
    report, _rows = six(1, 0.0)[0]
    point = point_of(report, published().values, {})
    made, validated, _fitted = fitting.calibrate([point], published(), "simulated")
    # One core has no collective.
    for name in ("decode_collective_s", "prefill_collective_s", "collective_floor", "guess_right"):
        assert made.constants[name] == published().constants[name]
    assert (validated, made.errors.prefill_factor) == ([], published().errors.prefill_factor)


def test_a_run_that_is_off_is_named_by_leaving_out_each() -> None:
    points = [point_of(report, published().values, {}) for report, _rows in six(1, 0.0)]
    points.append(replace(points[2], name="odd one", ttft_ms=points[2].ttft_ms * 2))
    made, validated, _fitted = fitting.calibrate(points, published(), "simulated")
    worst = max(validated, key=lambda one: abs(one.factor - 1))
    assert "odd one" in made.errors.worst_point or "run-2" in made.errors.worst_point, worst
    assert made.errors.prefill_factor > 1.3


def calibrate(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["calibrate", *arguments], env={"COLUMNS": "160"})
    return done.exit_code, " ".join(done.output.split())


def test_the_command_writes_what_a_forecast_reads(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / report.run.id, report, rows) for report, rows in six(7, 0.0)]
    file = tmp_path / "calibration.json"
    code, text = calibrate(*map(str, runs), "-o", str(file), "--start-factor", "2")
    assert code == 0, text
    assert "left out one by one: off by at most" in text and "fitted to runs: simulated" in text
    made = read_calibration(file)
    assert made.values.step_s == pytest.approx(changed(7).step_s, rel=0.05)
    assert made.times.start_s.value == 2 * published().times.start_s.value
    assert made.times.load_bytes_per_s.value == published().times.load_bytes_per_s.value / 2
    # In a process of its own: an inventory that is opened changes for good how the collection is imported.
    argv = ["trainyard", "forecast", "-i", "inventory/trn2", "--calibration", str(file), "--json"]
    done = subprocess.run(argv, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["provenance"] == "fitted to runs: simulated"


def test_runs_that_cannot_be_fitted_are_refused_all_at_once(tmp_path: Path) -> None:
    (report, rows), (other, others) = six(1, 0.0)[:2]
    sound = write_run(tmp_path / "sound", report, rows)
    broken = report.model_copy(update={"sound": False})
    unknown = report.model_copy(update={"scenario": report.scenario.model_copy(update={"model": "a/b"})})
    nowhere = report.model_copy(update={"scenario": report.scenario.model_copy(update={"instance_type": None})})
    elsewhere = other.model_copy(update={"provenance": "cpu"})
    made = [
        write_run(tmp_path / name, one, rows)
        for name, one in (("broken", broken), ("unknown", unknown), ("nowhere", nowhere))
    ]
    made.append(write_run(tmp_path / "elsewhere", elsewhere, others))
    code, text = calibrate(str(sound), *map(str, made), str(tmp_path), "-o", str(tmp_path / "c.json"))
    assert code == 2 and not (tmp_path / "c.json").exists()
    for said in (
        "that is not sound", "m-1 has no size that is known here", "does not say instance type", "cpu and simulated",
        f"{tmp_path}/report.json is no benchmark report", "run-0 is there twice",
    ):  # fmt: skip
        assert said in text, said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--as-model", "meta-llama/Llama-3.2-1B-Instrukt"), "did you mean 'meta-llama/Llama-3.2-1B-Instruct'?"),
        (("--start-factor", "nan"), "must be a finite number"),
        (("--compile-factor", "0"), "must be 0.01 to 100"),
        (("--from", "/nowhere.json"), "/nowhere.json is no calibration"),
    ],
)
def test_strange_options_are_refused_in_words(arguments: tuple[str, ...], said: str) -> None:
    code, text = calibrate("/nowhere", *arguments)
    assert (code, said in text) == (2, True), text
