# SPDX-License-Identifier: Apache-2.0
"""Times that acceptances measured become those that forecasts and estimates of rolls count with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.action.roll_plan import forecast_loads
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.calibration import published, read_calibration
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.figures import start_range
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.seen_times import LEAST_ERROR
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.fit import ModelShape
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.known_models import known_config
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import RollError
from typer.testing import CliRunner

from trainyard.cli import app

MODEL = "meta-llama/Llama-3.3-70B-Instruct"
BYTES = 140 << 30
TIMES = published().times


def report(folder: Path, **hosts: dict[str, Any]) -> Path:
    folder.mkdir()
    found = {name: {"refused": "", "checks": [], "times": times} for name, times in hosts.items()}
    (folder / "accept.json").write_text(json.dumps({"version": 1, "called": "acceptance", "hosts": found}))
    return folder


def start(factor: float, size: int = BYTES, *, cut: bool = False) -> dict[str, Any]:
    """A host whose starts take so many times as long as was published."""
    seconds = start_range(size, published(), cut=cut).value * factor
    return {"generation": "nxdi_v1", "start_s": seconds, "load_bytes": size, "presharded": cut}


def calibrate(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["calibrate", *map(str, arguments)], env={"COLUMNS": "200"})
    return done.exit_code, " ".join(done.output.split())


def test_starts_and_compiles_are_counted_as_they_were_seen(tmp_path: Path) -> None:
    compiled = {"compile_s": TIMES.compile_s.value * 0.5, "presharded_at_compile": False}
    folder = report(tmp_path / "a", one={**start(1.5), **compiled}, two=start(1.5, 8 << 30, cut=True))
    code, text = calibrate(folder, "-o", tmp_path / "c.json")
    assert code == 0 and "starts: 1.5 to 1.5 times what was counted with" in text, text
    assert "trainyard_redeploy.calibration" in text
    made = read_calibration(tmp_path / "c.json")
    for size, cut in ((BYTES, False), (8 << 30, True), (30 << 30, True)):
        before = start_range(size, published(), cut=cut).value
        assert start_range(size, made, cut=cut).value == pytest.approx(1.5 * before)
    assert made.times.start_s.error_factor == LEAST_ERROR
    assert made.times.compile_s.value == pytest.approx(TIMES.compile_s.value / 2)
    assert made.times.compile_s.error_factor == TIMES.compile_s.error_factor, "a single one says nothing of its error"
    assert made.times.native_compile_s == TIMES.native_compile_s
    assert made.constants == published().constants and made.errors == published().errors


def test_times_that_scatter_have_the_error_by_which_they_do(tmp_path: Path) -> None:
    folder = report(tmp_path / "a", one=start(1.0), two=start(4.0))
    assert calibrate(folder / "accept.json", "-o", tmp_path / "c.json")[0] == 0
    made = read_calibration(tmp_path / "c.json").times.start_s
    assert made.value == pytest.approx(2 * TIMES.start_s.value) and made.error_factor == pytest.approx(2.0)


def test_native_compiles_are_their_own(tmp_path: Path) -> None:
    folder = report(tmp_path / "a", one={"generation": "native", "compile_s": TIMES.native_compile_s.value * 2})
    assert calibrate(folder, "-o", tmp_path / "c.json")[0] == 0
    made = read_calibration(tmp_path / "c.json").times
    assert made.native_compile_s.value == pytest.approx(2 * TIMES.native_compile_s.value)
    assert made.compile_s == TIMES.compile_s and made.start_s == TIMES.start_s


def test_a_compile_that_cuts_weights_is_held_against_one_that_does(tmp_path: Path) -> None:
    whole = TIMES.compile_s.value + BYTES / TIMES.presharding_bytes_per_s.value
    times = {**start(1.0), "compile_s": whole * 3, "presharded_at_compile": True}
    assert calibrate(report(tmp_path / "a", one=times), "-o", tmp_path / "c.json")[0] == 0
    made = read_calibration(tmp_path / "c.json").times
    assert made.compile_s.value + BYTES / made.presharding_bytes_per_s.value == pytest.approx(whole * 3)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ({}, "has no times: accept with the stages compile and serve"),
        ({"generation": "nxdi_v1", "start_s": "22", "compile_s": True}, "has no times"),
        ({"generation": "nxdi_v1", "start_s": 1e9}, "times what was counted with, which no host does"),
    ],
)
def test_a_report_without_times_or_with_impossible_ones_is_refused(tmp_path: Path, times: Any, said: str) -> None:
    code, text = calibrate(report(tmp_path / "a", one=times), "-o", tmp_path / "c.json")
    assert (code, said in text, (tmp_path / "c.json").exists()) == (2, True, False), text


@pytest.mark.parametrize("text", ["", "[]", '{"called": "acceptance", "hosts": 3}', '{"called": "benchmark"}', "nan"])
def test_what_is_no_report_is_refused_by_its_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "accept.json"
    file.write_text(text)
    code, said = calibrate(file, "-o", tmp_path / "c.json")
    assert (code, f"{file} is no report of an acceptance" in said) == (2, True), said


def part(repo: str, *, sharded: bool = False) -> dict[str, Any]:
    inputs = {"settings": {"save_sharded_checkpoint": sharded}, "weights": {"repo": repo, "revision": "main"}}
    replica = {"id": "h1:m-0", "artifact": "d", "generation": "nxdi_v1"}
    return {"artifacts": [{"digest": "d", "inputs": inputs}], "replicas": [replica]}


def test_a_roll_counts_with_the_file_for_a_load_that_it_never_saw(tmp_path: Path) -> None:
    assert calibrate(report(tmp_path / "a", one=start(3.0)), "-o", tmp_path / "c.json")[0] == 0
    file = str(tmp_path / "c.json")
    size = ModelShape.from_config(known_config(MODEL) or {}).checkpoint_bytes
    for sharded in (False, True):
        wanted = 3 * start_range(size, published(), cut=sharded).value
        assert forecast_loads(file, {"h1": part(MODEL, sharded=sharded)}) == {"h1:m-0": pytest.approx(wanted)}
    assert forecast_loads(file, {"h1": part("nobody/knows")}) == {}
    assert forecast_loads(None, {"h1": part(MODEL)}) == {}


def test_a_roll_refuses_a_file_that_is_no_calibration(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(RollError, match=r"trainyard_redeploy\.calibration: .* is no calibration: .*nothing was rolled"):
        forecast_loads(str(tmp_path / "c.json"), {})
