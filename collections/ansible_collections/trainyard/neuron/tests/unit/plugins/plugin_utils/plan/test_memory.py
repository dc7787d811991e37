# SPDX-License-Identifier: Apache-2.0
"""What a deployment's model takes of its cores, its host and its disk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import Deployment, ModelRef
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.fit import GIB, PROGRAM_BYTES
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.known_models import known_shape
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.memory import (
    deployment_fit,
    host_memory,
    memory_problems,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import find_release

TRN2_CORE, TRN1_CORE = 24 * GIB, 16 * GIB
ROW = find_release("2.23.0")

LLAMA = Deployment(
    name="llama-3-3-70b",
    model=ModelRef("meta-llama/Llama-3.3-70B-Instruct", "huggingface", "0" * 40),
    served_name="llama",
    sdk_release="2.23.0",
    generation=None,
    runtime="venv",
    tensor_parallel_size=32,
    data_parallel_size=2,
    max_num_seqs=4,
    max_model_len=8192,
    dtype="bfloat16",
    block_size=None,
    port=8000,
)
QWEN = replace(
    LLAMA,
    name="qwen3-32b",
    model=ModelRef("Qwen/Qwen3-32B", "huggingface", "1" * 40),
    tensor_parallel_size=16,
    max_num_seqs=32,
    max_model_len=4096,
    block_size=32,
)


def shape_of(deployment: Deployment) -> Any:
    shape = known_shape(deployment.model.repo)
    assert shape is not None
    return shape


def fit(deployment: Deployment, core: int = TRN2_CORE, release: str = "2.27.0") -> Any:
    return deployment_fit(deployment, find_release(release), shape_of(deployment), core)


@pytest.mark.parametrize(
    ("repo", "parameters"),
    [
        ("meta-llama/Llama-3.3-70B-Instruct", 70_553_706_496),
        ("meta-llama/Llama-3.1-70B", 70_553_706_496),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", 70_553_706_496),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
        ("meta-llama/Llama-3.2-1B", 1_235_814_400),
        ("mistralai/Mistral-7B-Instruct-v0.3", 7_248_023_552),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", 46_702_792_704),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("Qwen/Qwen3-32B", 32_762_123_264),
        ("Qwen/Qwen3-8B", 8_190_735_360),
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("Qwen/Qwen3-30B-A3B", 30_532_122_624),
        ("openai/gpt-oss-20b", 20_914_757_184),
        ("openai/gpt-oss-120b", 116_829_156_672),
        ("meta-llama/Llama-3.1-405B-Instruct", 405_853_388_800),
        ("meta-llama/Llama-3.2-3B-Instruct", 3_212_749_824),
        ("Qwen/Qwen3-14B", 14_768_307_200),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507", 235_093_634_560),
        ("Qwen/Qwen3-4B-Instruct-2507", 4_022_468_096),
        ("Qwen/Qwen2.5-72B-Instruct", 72_706_203_648),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", 14_770_033_664),
        ("mistralai/Mistral-Small-24B-Instruct-2501", 23_572_403_200),
        ("mistralai/Mixtral-8x22B-Instruct-v0.1", 140_630_071_296),
        ("google/gemma-3-1b-it", 999_885_952),
    ],
)
def test_published_models_are_known_by_name(repo, parameters):
    shape = known_shape(repo)
    assert shape is not None
    assert shape.parameters == parameters


@pytest.mark.parametrize(
    "repo",
    ["trainyard/tiny-llama", "acme/Qwen3-32B", "Qwen3-32B", "Qwen/qwen3-32b", "Qwen/Qwen3-32B-FP8", "x",
     "meta-llama/Llama-3.2-11B-Vision-Instruct"],
)  # fmt: skip
def test_another_model_is_not_taken_for_one_that_is_known(repo):
    assert known_shape(repo) is None


@pytest.mark.parametrize("deployment", [LLAMA, QWEN], ids=["llama", "qwen"])
def test_both_recipes_fit(deployment):
    assert memory_problems(deployment, ROW, shape_of(deployment), TRN2_CORE, "x") == ([], [])


def test_llama_does_not_fit_eight_cores_of_trn1():
    shape = shape_of(LLAMA)
    ((problem,), warnings) = memory_problems(
        replace(LLAMA, tensor_parallel_size=8), ROW, shape, TRN1_CORE, "trainyard_deployment_x"
    )
    assert problem.variable == "trainyard_deployment_x.tensor_parallel_size"
    assert "of a core that has 16.0 GiB" in problem.rule
    assert warnings == []


def test_heads_and_length_are_judged_with_it():
    deployment = replace(QWEN, tensor_parallel_size=24, max_model_len=50000)
    padded, unpadded = (
        memory_problems(deployment, find_release(release), shape_of(QWEN), TRN2_CORE, "x")
        for release in ("2.27.0", "2.23.0")
    )
    ((length, *_rest), (heads,)) = padded
    assert length.variable == "x.max_model_len"
    assert "does not divide 64 query heads: 8 are added" in heads.rule
    ((heads, length, *_rest), warnings) = unpadded
    assert heads.variable == "x.tensor_parallel_size"
    assert "does not divide the model's 64 attention heads" in heads.rule
    assert (length.variable, warnings) == ("x.max_model_len", [])


def test_what_halves_the_cache_and_the_weights():
    plain = fit(LLAMA)
    assert fit(replace(LLAMA, neuron_config={"kv_cache_quant": True})).kv_cache * 2 == plain.kv_cache
    # The flag is the native server's; inference_demo never sees it, so what it compiles stays as large.
    flag = replace(LLAMA, engine_args={"kv-cache-dtype": "fp8"})
    assert fit(flag) == plain
    assert fit(flag, release="2.32.0").kv_cache * 2 == fit(LLAMA, release="2.32.0").kv_cache
    assert fit(replace(LLAMA, engine_args={"kv-cache-dtype": "auto"}), release="2.32.0").kv_cache == plain.kv_cache
    quantized = fit(replace(LLAMA, neuron_config={"quantized": True, "quantization_dtype": "f8e4m3"}))
    assert quantized.weights * 2 == pytest.approx(plain.weights, abs=2)
    fp8 = replace(shape_of(LLAMA), quantization="fp8")
    assert deployment_fit(LLAMA, find_release("2.32.0"), fp8, TRN2_CORE).weights == quantized.weights
    # NxDI reads such a checkpoint only where it is told to quantize.
    assert deployment_fit(LLAMA, ROW, fp8, TRN2_CORE).weights == plain.weights


def test_shorter_prompts_need_less_room_to_work_in():
    assert fit(replace(LLAMA, neuron_config={"max_context_length": 4096})).activations * 2 == fit(LLAMA).activations
    native = {"kv_segment_size_buckets": [2048], "num_batched_tokens_buckets": [2048]}
    assert fit(replace(LLAMA, neuron_config=native), release="2.32.0").activations * 4 == fit(LLAMA).activations


def test_a_cache_of_given_blocks_is_counted_by_its_blocks():
    assert fit(replace(QWEN, neuron_config={"pa_num_blocks": 8192})).kv_cache == 2 * fit(QWEN).kv_cache


def test_an_unknown_dtype_of_the_cache_is_a_problem_and_no_crash():
    deployment = replace(LLAMA, engine_args={"kv-cache-dtype": "int3"})
    ((problem,), _warnings) = memory_problems(deployment, find_release("2.32.0"), shape_of(LLAMA), TRN2_CORE, "x")
    assert "dtype 'int3' is none of" in problem.rule


def test_a_host_counts_a_checkpoint_once_and_each_load_by_itself():
    shape = shape_of(LLAMA)
    replicas = [(LLAMA, ROW, shape)] * 4
    trn2 = host_memory(replicas, [(LLAMA, shape)], 2048 * GIB)
    assert trn2.loads_at_once == 4
    assert trn2.bytes_per_load == 2 * shape.checkpoint_bytes
    assert trn2.disk_bytes == shape.checkpoint_bytes + PROGRAM_BYTES
    assert trn2.disk_peak_bytes == trn2.disk_bytes + PROGRAM_BYTES
    assert host_memory(replicas, [(LLAMA, shape)], 512 * GIB).loads_at_once == 1
    sharded = replace(LLAMA, neuron_config={"save_sharded_checkpoint": True})
    both = host_memory([(sharded, ROW, shape)] * 4, [(sharded, shape)], 512 * GIB)
    assert both.loads_at_once == 3
    assert both.disk_bytes == 2 * shape.checkpoint_bytes + PROGRAM_BYTES


def test_a_host_without_replicas_needs_nothing():
    empty = host_memory([], [], 512 * GIB)
    assert (empty.loads_at_once, empty.disk_bytes, empty.disk_peak_bytes) == (0, 0, 0)
