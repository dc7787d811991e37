# SPDX-License-Identifier: Apache-2.0
"""The latency model against what was published, and its constants as files."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.calibration import (
    PUBLISHED,
    CalibrationError,
    as_text,
    calibration_of,
    published,
    read_calibration,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.latency import PEAKS, Speed, Work
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.fit import ModelShape
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.known_models import known_config

LLAMA_70B, LLAMA_405B = "meta-llama/Llama-3.3-70B-Instruct", "meta-llama/Llama-3.1-405B-Instruct"


def speed(repo: str, length: int, batch: int = 1, cores: int = 64, family: str = "trn2", **more: Any) -> Speed:
    shape = ModelShape.from_config(known_config(repo))
    given = {"work": Work.of(shape), "constants": published().values, "peaks": PEAKS[family], **more}
    return Speed(
        cores=cores,
        cores_per_device=4,
        batch=batch,
        prefill_buckets=(length,),
        decode_buckets=(length,),
        **given,
    )


POINTS = (
    # llama70b_perf_comparison.csv, llama405b_perf_comparison.csv, llama70b_apc_perf_comparison.csv, the tutorial on
    # speculative decoding: prompt, longest sequence (tokens), TTFT and TPOT (ms).
    (LLAMA_70B, 10_000, 11_000, 814.2, 19.6),
    (LLAMA_405B, 10_000, 11_000, 2442.0, 37.9),
    (LLAMA_70B, 1_000, 1_100, 123.08, None),
    ("Qwen/Qwen3-32B", 128, 400, 48.3, (6040 - 48.3) / 511),
)


def test_the_published_constants_are_off_by_the_errors_that_their_file_says() -> None:
    firsts, tokens = [], []
    for repo, prompt, context, ttft_ms, tpot_ms in POINTS:
        firsts.append(speed(repo, prompt).prefill_seconds(prompt) * 1e3 / ttft_ms)
        if tpot_ms is not None:
            tokens.append(speed(repo, context).step_seconds(context) * 1e3 / tpot_ms)
    errors = published().errors
    assert math.exp(max(abs(math.log(one)) for one in firsts)) == pytest.approx(errors.prefill_factor, abs=0.002)
    assert math.exp(max(abs(math.log(one)) for one in tokens)) == pytest.approx(errors.decode_factor, abs=0.002)
    # The worst point that the file names is the first's token.
    assert abs(math.log(tokens[0])) == max(abs(math.log(one)) for one in [*firsts, *tokens])


def test_a_mixture_reads_more_experts_the_more_sequences_there_are_and_computes_those_that_a_token_passes() -> None:
    work = Work.of(ModelShape.from_config(known_config("Qwen/Qwen3-30B-A3B")))
    assert work.active == pytest.approx(3.3e9, rel=0.05)
    assert work.read(1) == pytest.approx(work.active)
    assert work.active < work.read(8) < work.read(64) < work.dense + work.experts
    assert work.read(1000) == pytest.approx(work.dense + work.experts)


def test_quantized_weights_are_read_faster_and_a_draft_shortens_tokens_alone() -> None:
    shape = ModelShape.from_config(known_config(LLAMA_70B))
    plain, small = speed(LLAMA_70B, 8192), speed(LLAMA_70B, 8192, work=Work.of(shape, "fp8"))
    assert small.step_seconds(1) < plain.step_seconds(1)
    assert small.prefill_seconds(1) == plain.prefill_seconds(1)
    guessing = speed("Qwen/Qwen3-32B", 512, draft_tokens=7)
    assert guessing.step_seconds(1) == pytest.approx(
        speed("Qwen/Qwen3-32B", 512).step_seconds(1) * 102.3 / 137.8, rel=0.01
    )


def test_what_is_written_is_read_back_and_the_default_is_such_a_file(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(as_text(published()), encoding="utf-8")
    assert read_calibration(file) == published()


def broken(change: Any) -> dict[str, Any]:
    data: dict[str, Any] = copy.deepcopy(json.loads(PUBLISHED.read_text(encoding="utf-8")))
    change(data)
    return data


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data["constants"]["step_s"].update(value=math.nan), "constants.step_s.value: Input should"),
        (lambda data: data["constants"]["step_s"].update(value=math.inf), "finite"),
        (lambda data: data["constants"]["step_s"].update(value=-1), "constants.step_s is -1, and must be 1e-06 to 0.2"),
        (lambda data: data["constants"]["step_s"].update(value="1"), "constants.step_s.value"),
        (lambda data: data["constants"]["step_s"].update(value=True), "constants.step_s.value"),
        (lambda data: data["constants"].pop("step_s"), "constants.step_s is missing"),
        (lambda data: data["constants"].update(steps_s=data["constants"]["step_s"]), "did you mean 'step_s'"),
        (lambda data: data.update(unknown=1), "unknown: Extra inputs are not permitted"),
        (lambda data: data.update(version=2), "version"),
        (lambda data: data["errors"].update(prefill_factor=0.5), "errors.prefill_factor"),
        (lambda data: data["times"]["start_s"].update(value=0), "times.start_s.value"),
        (lambda data: data.pop("times"), "times: Field required"),
    ],
)  # fmt: skip
def test_a_file_of_constants_that_is_none_is_refused_with_what_is_wrong(change: Any, said: str) -> None:
    with pytest.raises(CalibrationError, match=r"mine\.json is no calibration") as caught:
        calibration_of(broken(change), "mine.json")
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "nul", '{"version": 1}', "[" * 100_000])
def test_a_file_that_is_no_calibration_at_all_is_refused_in_words(tmp_path: Path, text: str) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(CalibrationError, match="is no calibration"):
        read_calibration(file)
