# SPDX-License-Identifier: Apache-2.0
"""An artifact is known by everything that changes it and by nothing else, and an existing one is compared by name."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.artifact import (
    artifact_digest,
    artifact_inputs,
    disagreements,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import Deployment, ModelRef
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import find_release, sdk_table
from hypothesis import given
from hypothesis import strategies as st

WHERE = "trainyard_deployment_x"
ROWS = [row for row in sdk_table() if row.venv is not None]

BASE = Deployment(
    name="llama-3-3-70b",
    model=ModelRef("meta-llama/Llama-3.3-70B-Instruct", "huggingface", "6f6073b423013f6a7d4d9f39144961bfbfbc386b"),
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
    neuron_config={"on_device_sampling_config": {"dynamic": True, "global_topk": 64}, "fused_qkv": True},
)

#: Settings that each generation takes, for random deployments.
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "fused_qkv": st.booleans(),
        "async_mode": st.booleans(),
        "save_sharded_checkpoint": st.booleans(),
        "context_encoding_buckets": st.just([1024, 2048]),
        "on_device_sampling_config": st.fixed_dictionaries(
            {"dynamic": st.booleans()}, optional={"global_topk": st.integers(1, 256)}
        ),
    },
)
DEPLOYMENTS = st.builds(
    lambda **fields: replace(BASE, **fields),
    tensor_parallel_size=st.sampled_from([1, 2, 4, 8, 16, 32, 64]),
    max_num_seqs=st.integers(1, 64),
    max_model_len=st.sampled_from([2048, 4096, 8192, 16384]),
    block_size=st.sampled_from([None, 16, 32]),
    dtype=st.sampled_from(["bfloat16", "float16"]),
    neuron_config=SETTINGS,
)


def digest(deployment: Deployment, row: Any = None, lnc: int = 2, family: str = "trn2") -> str:
    return artifact_digest(artifact_inputs(deployment, row or find_release("2.23.0"), lnc, family))


def shuffled(value: Any) -> Any:
    """The same JSON with its keys the other way round."""
    if isinstance(value, dict):
        return {key: shuffled(value[key]) for key in reversed(list(value))}
    return value


@given(DEPLOYMENTS, st.sampled_from(ROWS))
def test_a_digest_is_64_hex_digits_of_json_that_survives_a_round_trip(deployment, row):
    inputs = artifact_inputs(deployment, row, 2, "trn2")
    name = artifact_digest(inputs)
    assert re.fullmatch(r"[0-9a-f]{64}", name)
    assert artifact_digest(json.loads(json.dumps(inputs))) == name
    assert artifact_digest(shuffled(inputs)) == name


@given(DEPLOYMENTS, st.sampled_from(ROWS))
def test_the_order_in_which_settings_are_written_means_nothing(deployment, row):
    other = replace(deployment, neuron_config=shuffled(dict(deployment.neuron_config)))
    assert digest(other, row) == digest(deployment, row)


@given(
    DEPLOYMENTS,
    st.sampled_from(ROWS),
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["a", "b-2"]),
            "served_name": st.sampled_from(["a", "org/b"]),
            "port": st.integers(1024, 60000),
            "data_parallel_size": st.one_of(st.integers(1, 16), st.just("fill")),
            "runtime": st.sampled_from(["venv", "container"]),
            "benchmark": st.just({"requests": 7}),
            "environment": st.just({"VLLM_RPC_TIMEOUT": "7", "NEURON_RT_LOG_LEVEL": "DEBUG", "OMP_NUM_THREADS": "1"}),
            "engine_args": st.just({"chat-template": "/x.jinja", "uvicorn-log-level": "warning", "max-log-len": None}),
        }
    ),
)
def test_who_serves_where_and_how_it_answers_changes_no_artifact(deployment, row, changes):
    assert digest(replace(deployment, **changes), row) == digest(deployment, row)


CHANGES = [
    {"model": ModelRef("meta-llama/Llama-3.3-70B-Instruct", "huggingface", "0" * 40)},
    {"model": ModelRef("org/llama-other", "huggingface", "6f6073b423013f6a7d4d9f39144961bfbfbc386b")},
    {"tensor_parallel_size": 64},
    {"max_num_seqs": 8},
    {"max_model_len": 4096},
    {"dtype": "float16"},
    {"neuron_config": {"on_device_sampling_config": {"dynamic": True, "global_topk": 128}, "fused_qkv": True}},
    {"neuron_config": {"on_device_sampling_config": False, "fused_qkv": True}},
    {"neuron_config": {**BASE.neuron_config, "fused_qkv": False}},
    {"neuron_config": {**BASE.neuron_config, "context_encoding_buckets": [2048, 8192]}},
    {"environment": {"XLA_HANDLE_SPECIAL_SCALAR": "1"}},
    {"environment": {"NEURON_CC_FLAGS": "-O1"}},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: next(iter(changes)))
def test_what_changes_the_binary_changes_the_digest(changes):
    assert digest(replace(BASE, **changes)) != digest(BASE)


def test_all_these_artifacts_are_different_from_one_another():
    names = [digest(replace(BASE, **changes)) for changes in CHANGES]
    assert len(set(names)) == len(CHANGES)


def test_every_sdk_row_family_and_lnc_has_its_own():
    names = {digest(BASE, row) for row in ROWS}
    assert len(names) == len(ROWS)
    assert digest(BASE, lnc=1) != digest(BASE)
    assert digest(BASE, family="trn1") != digest(BASE)


def test_a_block_size_counts_only_where_it_is_compiled_in():
    paged = replace(BASE, block_size=32)
    assert digest(paged, find_release("2.27.0")) != digest(BASE, find_release("2.27.0"))
    # The fork has no use for it.
    assert digest(paged) == digest(BASE)


@pytest.mark.parametrize("off", [False, None])
def test_a_setting_that_is_off_is_a_setting_that_is_not_given(off):
    said = replace(BASE, neuron_config={**BASE.neuron_config, "async_mode": off})
    assert digest(said) == digest(BASE)


def test_the_flags_of_a_server_that_compiles_itself_count():
    row = find_release("2.32.0")
    for arguments in ({"optimization-level": 2}, {"kv-cache-dtype": "fp8"}, {"max-num-batched-tokens": 2048}):
        assert digest(replace(BASE, engine_args=arguments), row) != digest(BASE, row)
        # inference_demo never sees them.
        assert digest(replace(BASE, engine_args=arguments)) == digest(BASE)


def test_a_digest_is_the_same_on_every_machine():
    assert digest(BASE) == "121935d0f1e00b19a02a618a4b63e98728f9caedbcdeb4fba76f649f763ec073"
    assert digest(BASE, find_release("2.27.0")) == "c1fccaeb7bd3cc4c6bc1ecedfaac9b5f5fdb53d8923d2a67e2c4e973c7afff0d"
    assert digest(BASE, find_release("2.32.0")) == "3fe7b200e6da667cdb87994990005b9ee76e8ed97b841e8b917351d1c88c2190"


#: The part of a neuron_config.json that NxDI writes for BASE, with values in NxDI's own spelling.
MADE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "neuron_config": {
        "async_mode": False,
        "batch_size": 4,
        "context_encoding_buckets": None,
        "ctx_batch_size": 1,
        "enable_bucketing": False,
        "fused_qkv": True,
        "is_block_kv_layout": False,
        "is_continuous_batching": True,
        "is_prefix_caching": False,
        "local_ranks_size": 32,
        "logical_nc_config": 2,
        "max_batch_size": 4,
        "max_context_length": 8192,
        "max_length": 8192,
        "on_device_sampling_config": {
            "deterministic": False,
            "do_sample": False,
            "dynamic": True,
            "global_topk": 64,
            "on_device_sampling_config": True,
            "temperature": 1.0,
            "top_k": 1,
            "top_p": 1.0,
        },
        "pa_block_size": 8192,
        "pa_num_blocks": 4,
        "quantized": False,
        "seq_len": 8192,
        "start_rank_id": 0,
        "tp_degree": 32,
        "torch_dtype": "bfloat16",
        "weights_to_skip_layout_optimization": [],
        "world_size": 32,
    },
}


def found(deployment: Deployment, made: dict[str, Any], row: Any = None, lnc: int = 2) -> dict[str, str]:
    problems = disagreements(made, deployment, row or find_release("2.23.0"), lnc, WHERE)
    return {problem.variable: problem.rule for problem in problems}


def test_an_artifact_agrees_with_the_deployment_that_it_was_made_for():
    assert found(BASE, MADE) == {}
    assert found(BASE, MADE["neuron_config"]) == {}


@pytest.mark.parametrize(
    ("changes", "variables"),
    [
        ({"tensor_parallel_size": 16}, [".tensor_parallel_size"]),
        ({"max_num_seqs": 8}, [".max_num_seqs"]),
        ({"max_model_len": 12800}, [".max_model_len", ".neuron_config.max_context_length"]),
        ({"dtype": "float16"}, [".dtype"]),
        ({"neuron_config": {**BASE.neuron_config, "fused_qkv": False}}, [".neuron_config.fused_qkv"]),
        ({"neuron_config": {**BASE.neuron_config, "async_mode": True}}, [".neuron_config.async_mode"]),
        (
            {"neuron_config": {**BASE.neuron_config, "context_encoding_buckets": [8192]}},
            [".neuron_config.context_encoding_buckets"],
        ),
        (
            {"neuron_config": {"fused_qkv": True, "on_device_sampling_config": {"dynamic": True, "global_topk": 8}}},
            [".neuron_config.on_device_sampling_config.global_topk"],
        ),
        (
            {"neuron_config": {"fused_qkv": True, "on_device_sampling_config": False}},
            [".neuron_config.on_device_sampling_config"],
        ),
    ],
)
def test_exactly_what_disagrees_is_named(changes, variables):
    assert sorted(found(replace(BASE, **changes), MADE)) == sorted(WHERE + variable for variable in variables)


def test_a_disagreement_says_both_values():
    (problem,) = disagreements(MADE, replace(BASE, max_num_seqs=8), find_release("2.23.0"), 2, WHERE)
    assert problem.value == 8
    assert problem.rule == "the artifact was compiled with batch_size 4"


def test_another_lnc_disagrees():
    assert found(BASE, MADE, lnc=1) == {
        "trainyard_logical_nc_config": "the artifact was compiled with logical_nc_config 2"
    }


def test_the_published_tutorial_is_caught():
    """It serves 12,800 tokens and per-request sampling over an artifact of 8,192 tokens and greedy sampling."""
    made = copy.deepcopy(MADE)
    made["neuron_config"]["on_device_sampling_config"] = {"do_sample": True, "top_k": 1, "dynamic": False}
    served = replace(
        BASE,
        max_model_len=12800,
        neuron_config={"fused_qkv": True, "on_device_sampling_config": {"do_sample": True, "global_topk": 64}},
    )
    assert sorted(found(served, made)) == [
        WHERE + ".max_model_len",
        WHERE + ".neuron_config.max_context_length",
        WHERE + ".neuron_config.on_device_sampling_config.global_topk",
    ]


def test_a_paged_cache_is_compared_with_the_block_that_the_plugin_adds():
    row = find_release("2.27.0")
    paged = replace(BASE, block_size=32)
    made = copy.deepcopy(MADE)
    made["neuron_config"].update(
        enable_bucketing=True, is_block_kv_layout=True, is_prefix_caching=True, pa_block_size=32, pa_num_blocks=1025
    )
    assert found(paged, made, row) == {}
    made["neuron_config"]["pa_num_blocks"] = 1024
    assert list(found(paged, made, row)) == [WHERE + ".neuron_config.pa_num_blocks"]
    assert set(found(replace(BASE, block_size=None), made, row)) == {WHERE + ".block_size"}


def test_what_the_file_does_not_say_is_not_judged():
    assert found(BASE, {"neuron_config": {"tp_degree": 32}}) == {}
    assert found(BASE, {}) == {}


def test_the_native_plugin_leaves_no_such_file():
    assert found(BASE, MADE, find_release("2.32.0"), lnc=1) == {}


@given(DEPLOYMENTS)
def test_what_is_compiled_for_a_deployment_agrees_with_it(deployment):
    """A file with exactly the compiled settings, as JSON, disagrees with nothing."""
    for release in ("2.23.0", "2.27.0"):
        row = find_release(release)
        settings = artifact_inputs(deployment, row, 2, "trn2")["settings"]
        made = json.loads(json.dumps({"neuron_config": {**settings, "logical_nc_config": 2}}))
        assert disagreements(made, deployment, row, 2) == []
