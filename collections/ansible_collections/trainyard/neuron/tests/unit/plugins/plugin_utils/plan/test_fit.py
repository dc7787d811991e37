# SPDX-License-Identifier: Apache-2.0
"""Sizes of published checkpoints come out exactly; estimates follow their formulas and refuse what cannot fit."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.versions import version_number
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.fit import (
    GIB,
    HOST_SHARE,
    PROGRAM_BYTES,
    RESERVED_BYTES_PER_CORE,
    ConfigError,
    ModelShape,
    artifact_bytes,
    degrees_for,
    disk_bytes,
    dtype_bytes,
    estimate_fit,
    fit_problems,
    head_problems,
    host_bytes_per_load,
    length_problems,
    loads_at_once,
    reserved_bytes_per_core,
)
from hypothesis import given
from hypothesis import strategies as st

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
LLAMA_70B = {
    **LLAMA_8B,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
LLAMA_1B = {
    **LLAMA_8B,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "head_dim": 64,
    "tie_word_embeddings": True,
}
MISTRAL_7B = {
    **LLAMA_8B,
    "model_type": "mistral",
    "vocab_size": 32768,
}
QWEN25_7B = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
QWEN3_32B = {
    "model_type": "qwen3",
    "hidden_size": 5120,
    "intermediate_size": 25600,
    "num_hidden_layers": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
QWEN3_8B = {
    **QWEN3_32B,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
}
QWEN3_06B = {
    **QWEN3_32B,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "tie_word_embeddings": True,
}
QWEN3_30B_A3B = {
    **QWEN3_32B,
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
}
MIXTRAL_8X7B = {
    **LLAMA_8B,
    "model_type": "mixtral",
    "vocab_size": 32000,
    "num_local_experts": 8,
}
GPT_OSS_20B = {
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 24,
    "num_local_experts": 32,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 201088,
    "tie_word_embeddings": False,
    "quantization_config": {"quant_method": "mxfp4"},
}
GPT_OSS_120B = {**GPT_OSS_20B, "num_hidden_layers": 36, "num_local_experts": 128}

#: The hub's own counts of parameters (safetensors metadata; for tied models without the copy of the embedding).
PUBLISHED = {
    "Llama 3.1 8B": (LLAMA_8B, 8_030_261_248),
    "Llama 3.3 70B": (LLAMA_70B, 70_553_706_496),
    "Llama 3.2 1B": (LLAMA_1B, 1_235_814_400),
    "Mistral 7B v0.3": (MISTRAL_7B, 7_248_023_552),
    "Qwen2.5 7B": (QWEN25_7B, 7_615_616_512),
    "Qwen3 32B": (QWEN3_32B, 32_762_123_264),
    "Qwen3 8B": (QWEN3_8B, 8_190_735_360),
    "Qwen3 0.6B": (QWEN3_06B, 596_049_920),
    "Qwen3 30B A3B": (QWEN3_30B_A3B, 30_532_122_624),
    "Mixtral 8x7B": (MIXTRAL_8X7B, 46_702_792_704),
    "gpt-oss 20B": (GPT_OSS_20B, 20_914_757_184),
    "gpt-oss 120B": (GPT_OSS_120B, 116_829_156_672),
}

LLAMA = ModelShape.from_config(LLAMA_70B)
QWEN = ModelShape.from_config(QWEN3_32B)
CORE = 24 * GIB


@pytest.mark.parametrize(("config", "parameters"), PUBLISHED.values(), ids=PUBLISHED)
def test_parameters_are_those_of_the_published_checkpoint(config, parameters):
    assert ModelShape.from_config(config).parameters == parameters


def test_bytes_of_the_recipes_checkpoints():
    assert LLAMA.weights_bytes() == LLAMA.checkpoint_bytes == 141_107_412_992
    assert QWEN.checkpoint_bytes == 65_524_246_528
    assert LLAMA.weights_bytes("float32") == 2 * LLAMA.weights_bytes("torch.bfloat16")


@pytest.mark.parametrize(("config", "gib"), [(GPT_OSS_20B, 12.8), (GPT_OSS_120B, 60.8)])
def test_a_quantized_checkpoint_is_as_large_as_its_card_says(config, gib):
    shape = ModelShape.from_config(config)
    assert shape.checkpoint_bytes / GIB == pytest.approx(gib, rel=0.005)
    assert shape.weights_bytes() > 3 * shape.checkpoint_bytes


def test_an_fp8_checkpoint_is_about_half():
    config = {**LLAMA_70B, "quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}
    assert ModelShape.from_config(config).checkpoint_bytes == pytest.approx(0.5 * LLAMA.checkpoint_bytes, rel=0.04)


@pytest.mark.parametrize(
    ("config", "size"), [(QWEN3_32B, 262_144), (QWEN3_8B, 147_456), (LLAMA_70B, 327_680), (LLAMA_8B, 131_072)]
)
def test_kv_cache_of_a_token_without_replication(config, size):
    shape = ModelShape.from_config(config)
    assert shape.kv_bytes_per_token() == size
    assert shape.kv_bytes_per_token(dtype="fp8") == size // 2


@pytest.mark.parametrize(
    ("config", "cores", "query", "key_value", "strategy", "padding"),
    [
        (LLAMA_70B, 8, 64, 8, "divided", 0),
        (LLAMA_70B, 4, 64, 8, "divided", 0),
        (LLAMA_70B, 32, 64, 32, "replicated", 0),
        (QWEN3_32B, 16, 64, 16, "replicated", 0),
        (QWEN25_7B, 8, 32, 8, "replicated", 4),
        (LLAMA_8B, 24, 48, 24, "replicated", 16),
        ({**LLAMA_8B, "num_attention_heads": 24, "num_key_value_heads": 6}, 8, 24, 24, "converted", 0),
        ({**LLAMA_8B, "num_key_value_heads": 32}, 24, 48, 48, "divided", 16),
    ],
)
def test_heads_fall_on_cores_as_the_engine_lays_them(config, cores, query, key_value, strategy, padding):
    heads = ModelShape.from_config(config).heads(cores)
    assert (heads.query, heads.key_value, heads.strategy, heads.padding) == (query, key_value, strategy, padding)


@given(st.integers(1, 128), st.integers(1, 16), st.sampled_from([1, 2, 4, 8, 16, 24, 32, 64]))
def test_every_core_gets_the_same_number_of_heads(groups, kv_heads, cores):
    config = {**LLAMA_8B, "num_attention_heads": groups * kv_heads, "num_key_value_heads": kv_heads, "head_dim": 128}
    heads = ModelShape.from_config(config).heads(cores)
    assert heads.query % cores == 0
    assert heads.key_value % cores == 0
    assert heads.replication >= 1
    assert 0 <= heads.padding < cores


def fit(shape: ModelShape, cores: int, **changes: Any):
    values = {"max_num_seqs": 4, "max_model_len": 8192, "hbm_bytes_per_core": CORE, **changes}
    return estimate_fit(shape, tensor_parallel_size=cores, **values)


def test_the_llama_recipe_fits_its_cores_and_its_parts_follow_the_formula():
    found = fit(LLAMA, 32)
    replicated = 2 * 8192 * 128 * (32 - 8) * 80
    assert found.weights == (70_553_706_496 + replicated) * 2 // 32
    # 80 layers x 2 x 1 head a core x 128 x 2 bytes, for 4 x 8192 tokens.
    assert found.kv_cache == 80 * 2 * 128 * 2 * 4 * 8192
    assert found.reserved == RESERVED_BYTES_PER_CORE
    assert found.needed == found.weights + found.kv_cache + found.activations + found.reserved
    assert found.fits
    assert fit_problems(found, 32, "x") == []


def test_the_qwen_recipe_fits_its_cores():
    assert fit(QWEN, 16, max_num_seqs=32, max_model_len=4096).fits


def test_a_model_on_too_few_cores_is_refused_with_the_number_that_would_do():
    (problem,) = fit_problems(fit(LLAMA, 4), 4, "trainyard_deployment_x")
    assert problem.variable == "trainyard_deployment_x.tensor_parallel_size"
    assert problem.value == 4
    assert "of a core that has 24.0 GiB" in problem.rule
    assert "estimated" in problem.rule
    assert problem.fix == "raise tensor_parallel_size to 6 or more"


def test_too_large_a_cache_is_refused_with_what_would_make_it_smaller():
    found = fit(LLAMA, 32, max_num_seqs=256)
    (problem,) = fit_problems(found, 32, "x")
    assert problem.fix == "raise tensor_parallel_size to 33 or more, or lower max_num_seqs or max_model_len"
    (problem,) = fit_problems(found, 32, "x", [1, 2, 4, 8, 16, 32, 64])
    assert problem.fix == "raise tensor_parallel_size to 64, or lower max_num_seqs or max_model_len"
    (problem,) = fit_problems(found, 32, "x", [1, 2, 4, 8, 16, 32])
    assert problem.fix == "lower max_num_seqs or max_model_len"


def test_a_fix_names_only_degrees_that_the_host_runs_and_the_heads_allow():
    legal = [1, 2, 4, 8, 16, 32, 64]
    forty = ModelShape.from_config({**QWEN25_7B, "num_attention_heads": 40, "num_key_value_heads": 8})
    ((problem,), _warnings) = head_problems(forty, 16, "native", "x", legal)
    assert problem.fix == "use 1, 2, 4 or 8"
    (problem,) = fit_problems(fit(LLAMA, 4), 4, "x", degrees_for(LLAMA, legal, "native"))
    assert problem.fix == "raise tensor_parallel_size to 8, 16, 32 or 64"
    (problem,) = fit_problems(fit(LLAMA, 4), 4, "x", [1, 2, 4])
    assert problem.fix == "use a host with more cores, or quantized weights"
    assert degrees_for(forty, legal, "native") == [1, 2, 4, 8]
    assert degrees_for(forty, legal, "nxdi_v1") == legal


def test_a_cache_of_blocks_or_of_fp8_is_counted_as_such():
    assert fit(QWEN, 16, kv_tokens=4096 * 32).kv_cache == 4 * fit(QWEN, 16, max_num_seqs=4).kv_cache
    assert fit(QWEN, 16, kv_dtype="fp8").kv_cache * 2 == fit(QWEN, 16).kv_cache


@given(st.sampled_from([8, 16, 32]), st.integers(1, 64), st.sampled_from([1024, 4096, 8192]))
def test_more_of_anything_never_needs_less(cores, sequences, length):
    one = fit(QWEN, cores, max_num_seqs=sequences, max_model_len=length)
    assert fit(QWEN, cores, max_num_seqs=sequences + 1, max_model_len=length).needed > one.needed
    assert fit(QWEN, cores, max_num_seqs=sequences, max_model_len=2 * length).needed > one.needed
    assert fit(QWEN, 2 * cores, max_num_seqs=sequences, max_model_len=length).needed < one.needed


UNEVEN = {**LLAMA_8B, "num_key_value_heads": 6, "num_attention_heads": 30, "head_dim": 128}


def test_heads_that_do_not_divide_are_warned_of_where_the_engine_pads():
    problems, (padded, converted) = head_problems(ModelShape.from_config(UNEVEN), 8, "nxdi_v1", "x")
    assert problems == []
    assert "does not divide 30 query heads: 2 are added" in padded.rule
    assert "shares nothing with 6 KV heads: each is kept 5.33333 times" in converted.rule
    assert head_problems(LLAMA, 32, "nxdi_v1", "x") == ([], [])


@pytest.mark.parametrize("generation", ["nxdi_v0", "native"])
def test_heads_that_do_not_divide_are_refused_where_vllm_would_refuse_them(generation):
    ((problem,), warnings) = head_problems(ModelShape.from_config(UNEVEN), 8, generation, "x")
    assert str(problem) == (
        "x.tensor_parallel_size = 8: does not divide the model's 30 attention heads, and vLLM with "
        f"{generation} starts with a divisor only. Fix: use 1, 2, 3, 5, 6, 10, 15 or 30."
    )
    assert ["shares nothing" in warning.rule for warning in warnings] == [True]
    assert head_problems(ModelShape.from_config(UNEVEN), 6, generation, "x") == ([], [])


@given(
    st.integers(1, 128), st.sampled_from([1, 2, 4, 8, 16, 32, 64]), st.sampled_from(["nxdi_v0", "native", "nxdi_v1"])
)
def test_a_degree_is_refused_exactly_where_it_does_not_divide_and_nothing_pads(heads, cores, generation):
    shape = ModelShape.from_config(
        {**LLAMA_8B, "num_attention_heads": heads, "num_key_value_heads": 1, "head_dim": 128}
    )
    problems, _warnings = head_problems(shape, cores, generation, "x")
    assert bool(problems) == (heads % cores != 0 and generation != "nxdi_v1")
    assert all(heads % int(choice) == 0 for one in problems for choice in re.findall(r"\d+", one.fix))


def test_a_length_that_the_model_was_not_made_for_is_refused():
    ((problem,), []) = length_problems(QWEN, 65536, "x")
    assert problem.fix == "give 40960 or less"
    assert length_problems(QWEN, 40960, "x") == ([], [])
    assert length_problems(ModelShape.from_config(QWEN25_7B), 1 << 20, "x") == ([], [])


@pytest.mark.parametrize(
    ("rope", "native", "nxdi"),
    [
        # vLLM's rule: YaRN multiplies the length of the training, the others the one that the file names.
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072, 32768),
        ({"type": "yarn", "factor": 4.0}, 163840, 40960),
        ({"rope_type": "linear", "factor": 2.0}, 81920, 40960),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, 40960, 40960),
        ({"rope_type": "default", "rope_theta": 1e6}, 40960, 40960),
        ({"rope_type": "deepseek_yarn", "factor": 4.0, "original_max_position_embeddings": 10240}, 40960, 10240),
    ],
)
@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
def test_stretched_positions_are_those_of_the_engine(rope, native, nxdi, key):
    shape = ModelShape.from_config({**QWEN3_32B, key: rope})
    for generation, limit in (("native", native), ("nxdi_v1", nxdi), ("nxdi_v0", nxdi)):
        assert length_problems(shape, limit, "x", generation)[0] == []
        ((problem,), _warnings) = length_problems(shape, limit + 1, "x", generation)
        assert problem.fix == f"give {limit} or less"


def test_a_yarn_that_newer_vllm_reads_otherwise_is_warned_of():
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    shape = ModelShape.from_config({**QWEN3_32B, "rope_scaling": rope})
    ([], (warning,)) = length_problems(shape, 131072, "x", "native")
    assert "is over max_position_embeddings (40960)" in warning.rule
    assert length_problems(shape, 40960, "x", "native") == ([], [])


@pytest.mark.parametrize(("runtime", "more"), [("2.25.57.0", 0), ("2.34.10.0", 0), ("2.35.30.0", 64 << 20)])
def test_a_runtime_that_profiles_transfers_keeps_more_of_a_core(runtime, more):
    assert reserved_bytes_per_core(version_number(runtime)) == RESERVED_BYTES_PER_CORE + more


def test_how_many_replicas_may_load_at_once():
    checkpoint = LLAMA.checkpoint_bytes
    # trn2.48xlarge has room for all four; trn1.32xlarge must take turns; inf2.24xlarge as well.
    per_load = host_bytes_per_load(checkpoint, "nxdi_v1")
    assert per_load == 2 * checkpoint
    assert loads_at_once(2048 * GIB, per_load, replicas=4) == 4
    assert loads_at_once(512 * GIB, per_load, replicas=4) == 1
    assert loads_at_once(512 * GIB, host_bytes_per_load(checkpoint, "nxdi_v1", presharded=True), replicas=4) == 3
    assert loads_at_once(128 * GIB, per_load, replicas=4) == 0
    assert loads_at_once(512 * GIB, host_bytes_per_load(checkpoint, "native"), replicas=4) == 4


@given(st.integers(0, 1 << 44), st.integers(1, 1 << 40), st.integers(1, 64))
def test_loads_at_once_stay_within_the_hosts_memory(memory, per_load, replicas):
    count = loads_at_once(memory, per_load, replicas)
    assert 0 <= count <= replicas
    assert count * per_load <= memory * HOST_SHARE
    if count < replicas:
        assert (count + 1) * per_load > memory * HOST_SHARE


def test_disk_holds_the_weights_the_artifacts_and_the_one_that_is_being_made():
    weights = LLAMA.weights_bytes()
    assert artifact_bytes(weights) == PROGRAM_BYTES
    sharded = artifact_bytes(weights, presharded=True)
    assert sharded == PROGRAM_BYTES + weights
    assert disk_bytes([weights], [sharded, PROGRAM_BYTES]) == (
        2 * weights + 2 * PROGRAM_BYTES,
        3 * weights + 3 * PROGRAM_BYTES,
    )
    assert disk_bytes([], []) == (0, 0)


def test_a_vision_language_model_is_read_by_its_text_part():
    config = {"model_type": "qwen3_vl", "vision_config": {"hidden_size": 1}, "text_config": QWEN3_32B}
    assert ModelShape.from_config(config) == replace(QWEN, sees=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba2"}, "model_type 'mamba2' is none of gemma3, gpt_oss, llama"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"num_hidden_layers": "80"}, "num_hidden_layers is '80', and must be a whole number"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"num_attention_heads": True}, "num_attention_heads is True"),
        ({"quantization_config": {"quant_method": "awq"}}, "quant_method 'awq'"),
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}, "quant_algo 'NVFP4'"),
        ({"model_type": "mixtral"}, "num_experts is None"),
        ({"torch_dtype": "auto"}, "dtype 'auto' is none of"),
        ({"max_position_embeddings": "long"}, "max_position_embeddings is 'long'"),
    ],
)
def test_a_config_that_cannot_be_read_says_why(changes, message):
    with pytest.raises(ConfigError, match=message):
        ModelShape.from_config({**LLAMA_8B, **changes})


@pytest.mark.parametrize("config", [[], [LLAMA_8B], "x", None, 7])
def test_a_config_that_is_no_mapping_says_so(config):
    with pytest.raises(ConfigError, match="no mapping"):
        ModelShape.from_config(config)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ConfigError, match="dtype 'int3' is none of"):
        dtype_bytes("int3")
