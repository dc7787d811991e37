# SPDX-License-Identifier: Apache-2.0
"""The latency model, the scheduler and the tables behind the command lines."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
from pathlib import Path

import pytest
import typer
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast import latency as forecasting
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast import queueing
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.calibration import as_text, published

from lab.neuron_sim import inference_demo_options, latency, vllm_options
from lab.neuron_sim.engine import Request, Scheduler
from lab.neuron_sim.metrics import Metrics
from lab.neuron_sim.tokenizer import Tokenizer
from trainyard.lab.commands import _read_latency


def replica(name: str, cores: int, batch: int, length: int) -> latency.Modelled:
    shape = latency.Shape.of(latency.SHAPES[name])
    return latency.Modelled(shape, "trn2", cores, 4, batch, (length,), (length,))


@pytest.mark.parametrize(
    ("name", "prompt", "context", "ttft_ms", "tpot_ms"),
    [
        ("llama-3.3-70b", 10_000, 11_000, 814.2, 19.6),
        ("llama-3.1-405b", 10_000, 11_000, 2442.0, 37.9),
        ("llama-3.3-70b", 1_000, 1_100, 123.08, None),
        ("qwen3-32b", 128, 400, 48.3, (6040 - 48.3) / 511),
    ],
)
def test_model_is_within_a_fifth_of_the_published_points(
    name: str, prompt: int, context: int, ttft_ms: float, tpot_ms: float | None
) -> None:
    """llama70b_perf_comparison.csv, llama405b_perf_comparison.csv, llama70b_apc_perf_comparison.csv, sd tutorial."""
    assert replica(name, 64, 1, prompt).prefill_seconds(prompt) * 1e3 == pytest.approx(ttft_ms, rel=0.2)
    if tpot_ms is not None:
        assert replica(name, 64, 1, context).step_seconds([context]) * 1e3 == pytest.approx(tpot_ms, rel=0.2)


@pytest.mark.parametrize("batch", [1, 4])
def test_sixteen_cores_four_times_give_about_twice_the_throughput_at_higher_ttft(batch: int) -> None:
    """Data parallel tutorial: TP 64 / DP 1 to TP 16 / DP 4 at batch 1 and 4, up to twice, TTFT rises."""
    prompt, output = 7936, 256

    def throughput(cores: int) -> float:
        speed = replica("llama-3.3-70b", cores, batch, 8192)
        seconds = batch * speed.prefill_seconds(prompt) + output * speed.step_seconds([8192])
        return 64 / cores * batch * output / seconds

    assert 1.7 < throughput(16) / throughput(64) < 2.4
    wide, narrow = (replica("llama-3.3-70b", cores, batch, 8192).prefill_seconds(prompt) for cores in (64, 16))
    assert 1.1 < narrow / wide < 3


def test_steps_grow_with_batch_and_context_and_shrink_with_cores() -> None:
    base = replica("llama-3.3-70b", 32, 4, 8192).step_seconds([8000])
    assert replica("llama-3.3-70b", 32, 8, 8192).step_seconds([8000]) > base
    assert replica("llama-3.3-70b", 32, 4, 16384).step_seconds([16000]) > base
    assert replica("llama-3.3-70b", 64, 4, 8192).step_seconds([8000]) < base


def test_prompts_are_padded_to_their_bucket() -> None:
    """Graphs are static: without buckets every prompt costs what the longest does."""
    shape = latency.Shape.of(latency.SHAPES["llama-3.3-70b"])
    bucketed = latency.Modelled(shape, "trn2", 32, 4, 4, (1024, 8192), (8192,))
    assert bucketed.prefill_seconds(100) == bucketed.prefill_seconds(1024) < bucketed.prefill_seconds(1025)


def finish_times(scheduler: Scheduler, requests: list[Request]) -> dict[str, list[float]]:
    """When each token of each request is there, with time moved by hand."""
    for request in requests:
        scheduler.add(request, 0.0)
    times: dict[str, list[float]] = {request.key: [] for request in requests}
    now = 0.0
    for _ in range(10_000):
        tokens, due = scheduler.advance(now)
        for request, _ in tokens:
            times[request.key].append(round(now, 6))
        if due is None:
            return times
        now = due
    raise AssertionError("never finished")


def test_fixed_times_are_kept_for_each_request_alone() -> None:
    scheduler = Scheduler(2, latency.Fixed(0.5, 0.1))
    times = finish_times(scheduler, [Request("a", 1, 3), Request("b", 1, 3)])
    assert times == {"a": [0.5, 0.6, 0.7], "b": [0.5, 0.6, 0.7]}


def test_a_request_without_a_slot_waits_for_one() -> None:
    scheduler = Scheduler(1, latency.Fixed(0.5, 0.1))
    times = finish_times(scheduler, [Request("a", 1, 3), Request("b", 1, 2)])
    assert times == {"a": [0.5, 0.6, 0.7], "b": [1.2, 1.3]}


def test_a_prefill_delays_every_decode_on_one_device() -> None:
    """The plugin's scheduler puts prefill before decode; NxDI prefills one prompt at a time."""
    scheduler = Scheduler(2, latency.Fixed(0.5, 0.1, serial=True))
    times = finish_times(scheduler, [Request("a", 1, 2), Request("b", 1, 2)])
    assert times == {"a": [0.5, 1.1], "b": [1.0, 1.1]}


def test_aborted_requests_give_their_slot_away() -> None:
    scheduler = Scheduler(1, latency.Fixed(0.5, 0.1))
    for key in "ab":
        scheduler.add(Request(key, 1, 2), 0.0)
    scheduler.advance(0.0)
    scheduler.abort("a", 0.2)
    assert scheduler.advance(0.2) == ([], pytest.approx(0.7))


@pytest.mark.parametrize(
    ("nxdi", "number", "has", "lacks"),
    [
        ("0.3.5591", 117, "--cp-max-num-seqs", "--benchmark-report-path"),
        ("0.7.14366", 147, "--attn-block-tkg-nki-kernel-cascaded-attention", "--cp-max-num-seqs"),
    ],
)
def test_options_of_inference_demo_are_upstreams(nxdi: str, number: int, has: str, lacks: str) -> None:
    """inference_demo.py at the tags v0.3.5591 and v0.7.14366: number of options of `run`, and what differs."""
    parser = inference_demo_options.build_parser(nxdi)
    run = parser._subparsers._group_actions[0].choices["run"]  # type: ignore[union-attr,index,call-overload]
    names = {name for action in run._actions for name in action.option_strings} - {"-h", "--help"}
    actions = [action for action in run._actions if action.dest != "help"]
    assert len(actions) == number
    assert has in names and lacks not in names


@pytest.mark.parametrize(
    ("vllm", "has", "lacks"),
    [
        ((0, 7, 2), {"--device", "--use-v2-block-manager", "--override-neuron-config"}, {"--additional-config"}),
        ((0, 8, 5), {"--device", "--override-neuron-config", "--additional-config"}, {"--async-scheduling"}),
        ((0, 11, 0), {"--additional-config", "--async-scheduling"}, {"--device", "--override-neuron-config"}),
        ((0, 16, 0), {"--additional-config"}, {"--shutdown-timeout", "--use-v2-block-manager"}),
        ((0, 24, 0), {"--shutdown-timeout", "--additional-config"}, {"--device", "--override-neuron-config"}),
    ],
)
def test_options_of_vllm_follow_its_version(vllm: tuple[int, ...], has: set[str], lacks: set[str]) -> None:
    """Argument definitions of the AWS fork's two branches and of vLLM 0.9.1 to 0.29.0."""
    actions = vllm_options.serve_parser(vllm)._actions
    names = {name for action in actions for name in action.option_strings}
    common = {"--tensor-parallel-size", "--max-num-seqs", "--max-model-len", "--block-size", "--served-model-name"}
    assert has | common <= names
    assert not lacks & names


@pytest.mark.parametrize("text", ["hello world", "naïve <|eot_id|> text\n", ""])
def test_a_token_for_each_character_is_counted_as_the_model_does(text: str) -> None:
    """The lab's own model: WordLevel over single characters."""
    vocabulary = {"<|eot_id|>": 0, **{character: index for index, character in enumerate("abc ", 1)}}
    special = [{"content": "<|eot_id|>", "special": True}]
    tokenizer = Tokenizer({"model": {"type": "WordLevel", "vocab": vocabulary}, "added_tokens": special})
    assert tokenizer.count(text) == len(text.replace("<|eot_id|>", "_"))


def test_byte_pair_encoding_merges_by_rank() -> None:
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġab": 4}, "merges": ["a b", "Ġ ab"]}
    tokenizer = Tokenizer({"model": model})
    assert [tokenizer.count(text) for text in ("ab", " ab", "ba", "ab ab")] == [1, 1, 2, 2]
    words = "".join(text for _, text in itertools.islice(tokenizer.generate("seed"), 9))
    assert tokenizer.count(words) == 9


def test_histograms_are_cumulative_and_name_their_engine() -> None:
    metrics = Metrics("m", (0, 11, 0), 100)
    metrics.ttft.observe(0.03)
    lines = metrics.render().splitlines()
    assert 'vllm:time_to_first_token_seconds_bucket{le="0.02",engine="0",model_name="m"} 0.0' in lines
    assert 'vllm:time_to_first_token_seconds_bucket{le="0.04",engine="0",model_name="m"} 1.0' in lines
    assert 'vllm:time_to_first_token_seconds_bucket{le="+Inf",engine="0",model_name="m"} 1.0' in lines


def test_the_default_constants_are_those_of_the_published_file() -> None:
    assert published().values.to_dict() == dataclasses.asdict(latency.Constants())


def secret(seed: int) -> latency.Constants:
    chance = random.Random(seed)  # noqa: S311 - seeded on purpose
    return latency.Constants(
        **{k: v * chance.uniform(0.7, 1.4) for k, v in dataclasses.asdict(latency.Constants()).items()}
    )


@pytest.mark.parametrize("seed", range(20))
def test_the_forecasts_model_has_the_times_of_the_stand_ins_engine(seed: int) -> None:
    chance, constants = random.Random(seed), secret(seed)  # noqa: S311 - seeded on purpose
    name, cores = chance.choice(list(latency.SHAPES)), chance.choice([1, 4, 16, 64])
    batch, family = chance.choice([1, 4, 32]), chance.choice(["trn2", "trn1"])
    here = latency.Modelled(
        latency.Shape.of(latency.SHAPES[name]), family, cores, 4, batch, (512, 8192), (1024, 9216), constants=constants
    )
    shape = here.shape
    work = forecasting.Work(shape.parameters, shape.hidden, shape.layers, shape.heads, shape.kv_heads, shape.head_dim)
    there = forecasting.Speed(
        work, forecasting.Constants(**dataclasses.asdict(constants)), forecasting.PEAKS[family],
        cores, 4, batch, (512, 8192), (1024, 9216),
    )  # fmt: skip
    for tokens in (1, 500, 513, 9000, 20_000):
        assert there.prefill_seconds(tokens) == pytest.approx(here.prefill_seconds(tokens), rel=1e-12)
        assert there.step_seconds(tokens) == pytest.approx(here.step_seconds([tokens]), rel=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_the_forecasts_queue_is_the_schedulers(seed: int) -> None:
    """The same requests at the same moments: first and last tokens come when the engine's scheduler has them."""
    chance = random.Random(seed)  # noqa: S311 - seeded on purpose
    here = replica("llama-3.3-70b", 16, 4, 8192)
    shape = here.shape
    work = forecasting.Work(shape.parameters, shape.hidden, shape.layers, shape.heads, shape.kv_heads, shape.head_dim)
    there = forecasting.Speed(work, published().values, forecasting.PEAKS["trn2"], 16, 4, 4, (8192,), (8192,))
    jobs, now = [], 0.0
    for _ in range(25):
        now += chance.expovariate(0.3)
        jobs.append(queueing.Job(chance.randint(1, 8000), chance.randint(1, 60), now))
    ours = queueing.Replica(there, 4)
    for job in jobs:
        ours.advance(job.arrived_s)
        ours.add(job)
    ours.advance(math.inf)
    scheduler, times = Scheduler(4, here), {str(index): [] for index in range(len(jobs))}  # type: ignore[var-annotated]
    waiting = [
        (job.arrived_s, Request(str(index), job.prompt_tokens, job.output_tokens)) for index, job in enumerate(jobs)
    ]
    clock = 0.0
    while waiting or scheduler.running or scheduler.waiting:
        due = scheduler.due()
        if waiting and (due is None or waiting[0][0] < due):
            clock, request = waiting.pop(0)
            scheduler.add(request, clock)
        elif due is not None:
            clock = due
        for request, _ in scheduler.advance(clock)[0]:
            times[request.key].append(clock)
    for index, job in enumerate(jobs):
        assert (job.first_s, job.ended_s) == pytest.approx((times[str(index)][0], times[str(index)][-1]), abs=1e-6)


def test_a_lab_can_have_other_constants_and_refuses_what_is_none() -> None:
    settings = {"kind": "model", "as_model": "llama-3.3-70b", "replica": {
        "family": "trn2", "cores": 32, "cores_per_device": 4, "batch": 4,
        "prefill_buckets": [128], "decode_buckets": [128],
    }}  # fmt: skip
    slow = latency.from_settings({**settings, "constants": {"step_s": 1.0}})
    assert slow.step_seconds([1]) > latency.from_settings(settings).step_seconds([1]) + 0.9
    for constants in ({"steps": 1.0}, {"step_s": float("nan")}, {"step_s": -1}, {"step_s": True}, {"step_s": "1"}):
        with pytest.raises(ValueError, match="latency constants"):
            latency.from_settings({**settings, "constants": constants})


def test_a_calibration_reaches_the_lab_and_one_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    data = json.loads(as_text(published()))
    data["constants"]["step_s"]["value"] = 0.1
    file.write_text(json.dumps(data))
    speed = _read_latency(None, file)
    assert speed is not None and (speed["kind"], speed["constants"]["step_s"]) == ("model", 0.1)
    assert latency.Constants.of(speed["constants"]).step_s == 0.1
    with_model = _read_latency('{"kind": "model", "scale": 0.1}', file)
    assert with_model is not None and (with_model["scale"], with_model["constants"]["step_s"]) == (0.1, 0.1)
    for text, wrong in (('{"kind": "fixed"}', file), (None, tmp_path)):
        with pytest.raises(typer.BadParameter):
            _read_latency(text, wrong)
