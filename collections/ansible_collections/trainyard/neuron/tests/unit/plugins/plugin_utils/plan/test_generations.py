# SPDX-License-Identifier: Apache-2.0
"""A deployment in each generation: the exact commands, what is refused, what is warned of.

The golden files hold what the two recipes become in every generation. After a wanted change, run this file
(`python test_generations.py` with the collection's parent on PYTHONPATH) and read the difference.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import Deployment, parse_deployment
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.generation_tables import DEMO_FLAGS, GENERATIONS
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.generations import (
    Placement,
    RenderError,
    argument_problems,
    argument_warnings,
    model_type_of,
    render_compile,
    render_serve,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import SdkRelease, find_release, sdk_table
from hypothesis import example, given, settings
from hypothesis import strategies as st

GOLDEN = Path(__file__).parent / "golden"
WHERE = "trainyard_deployment_x"

#: As published, with the settings that a correct deployment adds: sampling by each request's parameters.
LLAMA: dict[str, Any] = {
    "name": "llama-3-3-70b",
    "model": {
        "repo": "meta-llama/Llama-3.3-70B-Instruct",
        "revision": "6f6073b423013f6a7d4d9f39144961bfbfbc386b",
    },
    "sdk_release": "2.23.0",
    "tensor_parallel_size": 32,
    "data_parallel_size": 2,
    "max_num_seqs": 4,
    "max_model_len": 8192,
    "port": 8000,
    "neuron_config": {
        "on_device_sampling_config": {"top_k": 1, "do_sample": True, "dynamic": True, "global_topk": 64},
        "fused_qkv": True,
        "qkv_kernel_enabled": True,
        "attn_kernel_enabled": True,
        "mlp_kernel_enabled": True,
        "pad_token_id": 2,
    },
}
QWEN: dict[str, Any] = {
    "name": "qwen3-32b",
    "model": {"repo": "Qwen/Qwen3-32B", "revision": "9216db5781bf21249d130ec9da846c4624c16137"},
    "sdk_release": "2.27.0",
    "runtime": "container",
    "tensor_parallel_size": 16,
    "max_num_seqs": 32,
    "max_model_len": 4096,
    "block_size": 32,
    "port": 8000,
}
RECIPES = {"llama-3-3-70b": LLAMA, "qwen3-32b": QWEN}

#: For each generation, a release in which both recipes can be compiled or, for Llama, the recipe's own.
GOLDEN_CASES = [
    ("llama-3-3-70b", "nxdi_v0", "2.23.0"),
    ("llama-3-3-70b", "nxdi_v1", "2.27.1"),
    ("llama-3-3-70b", "native", "2.32.0"),
    ("qwen3-32b", "nxdi_v0", "2.26.1"),
    ("qwen3-32b", "nxdi_v1", "2.27.0"),
    ("qwen3-32b", "native", "2.32.0"),
]


def deployment_of(raw: dict[str, Any], **changes: Any) -> Deployment:
    found, problems = parse_deployment({**raw, **changes}, "trainyard_deployment_" + raw["name"].replace("-", "_"))
    assert problems == []
    assert found is not None
    return found


def place(deployment: Deployment, **changes: Any) -> Placement:
    width = deployment.tensor_parallel_size
    values = {"cores": f"0-{width - 1}", "core_count": width, "port": deployment.port, "address": "10.0.0.7", **changes}
    return Placement(**values)


def serve(deployment: Deployment, row: SdkRelease, **changes: Any):
    return render_serve(
        deployment,
        row,
        placement=place(deployment, **changes),
        weights_path="/data/weights/org/model/abc",
        artifact_path="/data/artifacts/0123",
        replica_name=deployment.name + "-0",
    )


def compile_(deployment: Deployment, row: SdkRelease, logical_nc_config: int = 2):
    return render_compile(
        deployment,
        row,
        weights_path="/data/weights/org/model/abc",
        artifact_path="/data/artifacts/0123",
        work_dir="/data/compile/0123",
        logical_nc_config=logical_nc_config,
    )


def golden_of(recipe: str, generation: str, release: str) -> dict[str, Any]:
    row = find_release(release, generation)
    deployment = deployment_of(RECIPES[recipe])
    rendered = {"serve": serve(deployment, row), "compile": compile_(deployment, row)}
    return {
        "sdk_release": release,
        **{
            name: {"argv": list(part.argv), "environment": dict(part.environment), "mode": part.mode}
            for name, part in rendered.items()
        },
        "problems": [str(problem) for problem in argument_problems(deployment, row, WHERE)],
        "warnings": [str(problem) for problem in argument_warnings(deployment, row, WHERE)],
    }


def value_of(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


@pytest.mark.parametrize(("recipe", "generation", "release"), GOLDEN_CASES)
def test_a_recipe_becomes_exactly_its_commands(recipe, generation, release):
    golden = json.loads((GOLDEN / f"{recipe}-{generation}.json").read_text())
    assert golden_of(recipe, generation, release) == golden


def test_the_llama_recipe_is_compiled_with_every_flag_that_its_source_gives_and_what_that_lacks():
    argv = compile_(deployment_of(LLAMA), find_release("2.23.0")).argv
    source = """
        --model-type llama --task-type causal-lm run --model-path /data/weights/org/model/abc
        --compiled-model-path /data/artifacts/0123 --torch-dtype bfloat16 --start_rank_id 0 --local_ranks_size 32
        --tp-degree 32 --batch-size 4 --max-context-length 8192 --seq-len 8192 --on-device-sampling --top-k 1
        --do-sample --fused-qkv --qkv-kernel-enabled --attn-kernel-enabled --mlp-kernel-enabled --pad-token-id 2
        --compile-only"""
    corrections = "--ctx-batch-size 1 --is-continuous-batching --dynamic --global-topk 64"
    assert argv[0] == "/opt/aws_neuronx_venv_pytorch_2_6_nxd_inference/bin/inference_demo"
    assert argv[-2] == "--prompt"
    assert sorted(argv[1:-2]) == sorted(shlex.split(source + " " + corrections))
    assert argv[1:6] == ("--model-type", "llama", "--task-type", "causal-lm", "run")


def test_the_llama_recipe_is_served_with_every_flag_and_variable_that_its_source_gives():
    rendered = serve(deployment_of(LLAMA), find_release("2.23.0"), cores="32-63", port=8001)
    assert rendered.argv[:5] == (
        "/opt/aws_neuronx_venv_pytorch_2_6_nxd_inference/bin/python",
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        "/data/weights/org/model/abc",
    )
    for flag, value in (
        ("--max-num-seqs", "4"),
        ("--max-model-len", "8192"),
        ("--tensor-parallel-size", "32"),
        ("--device", "neuron"),
        ("--port", "8001"),
        ("--host", "10.0.0.7"),
        ("--served-model-name", "meta-llama/Llama-3.3-70B-Instruct"),
    ):
        assert value_of(rendered.argv, flag) == value
    assert "--use-v2-block-manager" in rendered.argv
    override = json.loads(value_of(rendered.argv, "--override-neuron-config"))
    assert override["on_device_sampling_config"].items() >= {"do_sample": True, "global_topk": 64}.items()
    assert (
        rendered.environment.items()
        >= {
            "NEURON_RT_INSPECT_ENABLE": "0",
            "NEURON_RT_VIRTUAL_CORE_SIZE": "2",
            "NEURON_LOGICAL_NC_CONFIG": "2",
            "VLLM_NEURON_FRAMEWORK": "neuronx-distributed-inference",
            "NEURON_COMPILED_ARTIFACTS": "/data/artifacts/0123",
            "NEURON_RT_VISIBLE_CORES": "32-63",
            "VLLM_RPC_TIMEOUT": "100000",
            "NEURON_PROCESS_TAG": "llama-3-3-70b-0",
            "PROMETHEUS_MULTIPROC_DIR": "/run/vllm/llama-3-3-70b-0/metrics",
            "HF_HUB_OFFLINE": "1",
        }.items()
    )


def test_what_is_sampled_with_is_what_was_compiled_in():
    for row in (find_release("2.23.0"), find_release("2.27.1", "nxdi_v1")):
        deployment = deployment_of(LLAMA)
        argv = compile_(deployment, row).argv
        served = serve(deployment, row).argv
        flag = "--override-neuron-config" if row.generation == "nxdi_v0" else "--additional-config"
        config = json.loads(value_of(served, flag))
        sampling = config.get("override_neuron_config", config)["on_device_sampling_config"]
        assert sampling == {
            "top_k": int(value_of(argv, "--top-k")),
            "global_topk": int(value_of(argv, "--global-topk")),
            "do_sample": "--do-sample" in argv,
            "dynamic": "--dynamic" in argv,
        }


def test_the_qwen_recipe_is_served_with_what_its_source_gives_and_leaves_to_chance():
    rendered = serve(deployment_of(QWEN), find_release("2.27.0"))
    assert rendered.argv[:3] == ("vllm", "serve", "/data/weights/org/model/abc")
    for flag, value in (
        ("--tensor-parallel-size", "16"),
        ("--max-num-seqs", "32"),
        ("--max-model-len", "4096"),
        ("--block-size", "32"),
        ("--num-gpu-blocks-override", "4096"),
    ):
        assert value_of(rendered.argv, flag) == value
    assert "--enable-prefix-caching" in rendered.argv
    assert "--model" not in rendered.argv
    assert "VLLM_USE_V1" not in rendered.environment
    # The plugin adds a block, and the artifact must have been made with it.
    assert value_of(compile_(deployment_of(QWEN), find_release("2.27.0")).argv, "--pa-num-blocks") == "4097"


@pytest.mark.parametrize("row", sdk_table(), ids=lambda row: f"{row.release}-{row.generation}")
@pytest.mark.parametrize("runtime", ["venv", "container"])
def test_every_row_of_the_sdk_table_renders(row, runtime):
    deployment = deployment_of(LLAMA, runtime=runtime, sdk_release=row.release, generation=row.generation)
    if runtime == "venv" and row.venv is None:
        with pytest.raises(RenderError, match="is not known"):
            serve(deployment, row)
        return
    served, compiled = serve(deployment, row), compile_(deployment, row)
    prefix = f"{row.venv}/bin/" if runtime == "venv" else ""
    assert served.argv[0] in (prefix + "vllm", prefix + "python")
    assert compiled.mode == ("warm_up" if row.generation == "native" else "run")
    variable = GENERATIONS[row.generation].cores_variable
    assert served.environment[variable] == "0-31"
    for part in (*served.argv, *compiled.argv, *served.environment.values(), *compiled.environment.values()):
        assert "{" not in part or json.loads(part)
    assert not argument_problems(deployment, row, WHERE)


def test_the_one_word_for_two_generations_never_leaks_into_the_third():
    native = serve(deployment_of(LLAMA), find_release("2.32.0"))
    assert not {"VLLM_NEURON_FRAMEWORK", "NEURON_COMPILED_ARTIFACTS", "NEURON_RT_VISIBLE_CORES"} & set(
        native.environment
    )
    assert native.environment["VLLM_CACHE_ROOT"] == "/data/artifacts/0123"
    config = json.loads(value_of(native.argv, "--additional-config"))
    assert not set(config["neuron_config"]) & set(DEMO_FLAGS)
    # top_k 1 is only NxDI's default beside dynamic sampling; here it would compile greedy decoding in.
    assert config["neuron_config"]["on_device_sampling_config"] == {}


def test_a_native_server_stops_at_a_cache_miss_and_its_warm_up_does_not():
    row = find_release("2.32.0")
    assert serve(deployment_of(LLAMA), row).environment["VLLM_NEURON_DISABLE_WARMUP_COMPILE"] == "1"
    warm_up = compile_(deployment_of(LLAMA), row)
    assert "VLLM_NEURON_DISABLE_WARMUP_COMPILE" not in warm_up.environment
    assert value_of(warm_up.argv, "--host") == "127.0.0.1"
    assert value_of(warm_up.argv, "--port") != "8000"


def test_native_prefill_is_said_aloud():
    row = find_release("2.32.0")
    whole = serve(deployment_of(LLAMA, neuron_config={}), row).argv
    assert "--no-enable-prefix-caching" in whole
    assert value_of(whole, "--max-num-batched-tokens") == "8192"
    buckets = {"kv_segment_size_buckets": [2048], "num_batched_tokens_buckets": [2048]}
    segmented = serve(deployment_of(LLAMA, neuron_config=buckets), row).argv
    assert "--enable-prefix-caching" in segmented
    assert value_of(segmented, "--max-num-batched-tokens") == "2048"


def test_nxdi_buckets_are_renamed_for_the_native_plugin():
    argv = serve(
        deployment_of(LLAMA, neuron_config={"context_encoding_buckets": [2048, 8192]}), find_release("2.32.0")
    ).argv
    assert json.loads(value_of(argv, "--additional-config")) == {
        "neuron_config": {"num_batched_tokens_buckets": [2048, 8192], "on_device_sampling_config": {}}
    }


def test_what_stands_beside_neuron_config_is_not_nested_in_it():
    config = {"vision_neuron_config": {"tp_size": 1}, "num_seqs_buckets": [4]}
    argv = serve(deployment_of(LLAMA, neuron_config=config), find_release("2.32.0")).argv
    assert json.loads(value_of(argv, "--additional-config")) == {
        "neuron_config": {"num_seqs_buckets": [4], "on_device_sampling_config": {}},
        "vision_neuron_config": {"tp_size": 1},
    }


def test_the_first_native_line_with_a_cache_of_traces_names_its_route():
    deployment = deployment_of(LLAMA, runtime="container")
    assert serve(deployment, find_release("2.33.0")).environment["VLLM_NEURON_BACKEND"] == "neuron_native"
    assert "VLLM_NEURON_BACKEND" not in serve(deployment, find_release("2.32.0")).environment


def test_engine_args_replace_add_and_remove_flags():
    arguments = {
        "use-v2-block-manager": None,
        "max-log-len": 64,
        "enable-auto-tool-choice": True,
        "disable-log-requests": False,
        "no-enable-prefix-caching": True,
        "lora-modules": ["a=/x", "b=/y"],
        "override-generation-config": {"top_p": 0.9, "a": 1},
    }
    argv = serve(deployment_of(LLAMA, engine_args=arguments), find_release("2.23.0")).argv
    assert "--use-v2-block-manager" not in argv
    assert value_of(argv, "--max-log-len") == "64"
    assert "--enable-auto-tool-choice" in argv
    # A switch that can only be put on is off where it is left out; `--no-` of it would end the server.
    assert not [part for part in argv if "disable-log-requests" in part]
    assert "--no-enable-prefix-caching" in argv
    at = argv.index("--lora-modules")
    assert argv[at + 1 : at + 3] == ("a=/x", "b=/y")
    assert value_of(argv, "--override-generation-config") == '{"a": 1, "top_p": 0.9}'


def test_the_deployments_environment_reaches_the_server_and_the_compiler():
    deployment = deployment_of(LLAMA, environment={"XLA_HANDLE_SPECIAL_SCALAR": "1", "VLLM_RPC_TIMEOUT": "5"})
    row = find_release("2.23.0")
    assert serve(deployment, row).environment["VLLM_RPC_TIMEOUT"] == "5"
    assert serve(deployment, row).environment["XLA_HANDLE_SPECIAL_SCALAR"] == "1"
    assert compile_(deployment, row).environment["XLA_HANDLE_SPECIAL_SCALAR"] == "1"


def test_proxy_cpus_are_named_only_where_some_are_set_aside():
    row = find_release("2.23.0")
    name = "NEURON_RT_LOW_LATENCY_TASKS_CPU_AFFINITY"
    assert name not in serve(deployment_of(LLAMA), row).environment
    assert serve(deployment_of(LLAMA), row, proxy_cpus="40-47").environment[name] == "40-47"


def test_a_placement_may_be_a_mapping():
    deployment, row = deployment_of(LLAMA), find_release("2.23.0")
    mapping = {"cores": "0-31", "core_count": 32, "port": 8000, "address": "10.0.0.7"}
    rendered = render_serve(
        deployment,
        row,
        placement=mapping,
        weights_path="/data/weights/org/model/abc",
        artifact_path="/data/artifacts/0123",
        replica_name="llama-3-3-70b-0",
    )
    assert rendered == serve(deployment, row)


def test_lnc_1_is_said_in_both_spellings():
    rendered = serve(deployment_of(LLAMA), find_release("2.23.0"), logical_nc_config=1)
    assert rendered.environment["NEURON_LOGICAL_NC_CONFIG"] == "1"
    assert rendered.environment["NEURON_RT_VIRTUAL_CORE_SIZE"] == "1"


def test_a_single_sequence_has_no_continuous_batching_where_the_engine_has_none():
    for release, generation, wanted in (("2.23.0", None, True), ("2.24.1", None, False), ("2.27.0", None, False)):
        argv = compile_(deployment_of(LLAMA, max_num_seqs=1), find_release(release, generation)).argv
        assert ("--is-continuous-batching" in argv) is wanted


@pytest.mark.parametrize("off", [False, None])
@pytest.mark.parametrize("release", ["2.23.0", "2.27.0"])
def test_sampling_on_the_cpu_is_compiled_without_sampling_and_served_so(off, release):
    deployment, row = deployment_of(LLAMA, neuron_config={"on_device_sampling_config": off}), find_release(release)
    assert "--on-device-sampling" not in compile_(deployment, row).argv
    served = serve(deployment, row)
    assert served.environment["NEURON_ON_DEVICE_SAMPLING_DISABLED"] == "1"
    assert "--override-neuron-config" not in served.argv
    assert "NEURON_ON_DEVICE_SAMPLING_DISABLED" not in serve(deployment_of(LLAMA), row).environment


@pytest.mark.parametrize("sampling", [{}, {"dynamic": True}, True])
def test_the_fork_is_always_told_the_top_k_that_it_reads_without_a_default(sampling):
    deployment = deployment_of(LLAMA, neuron_config={"on_device_sampling_config": sampling})
    override = json.loads(value_of(serve(deployment, find_release("2.23.0")).argv, "--override-neuron-config"))
    assert override["on_device_sampling_config"]["global_topk"] == 256


def test_a_server_that_can_refuse_long_prompts_is_told_to():
    deployment = deployment_of(LLAMA, neuron_config={"max_context_length": 4096})
    row = find_release("2.31.1", "nxdi_v1")
    config = json.loads(value_of(serve(deployment, row).argv, "--additional-config"))
    assert config == {"override_neuron_config": {"max_context_length": 4096, "max_prompt_length": 4096}}
    assert argument_warnings(deployment, row, WHERE) == []
    assert "max-prompt-length" not in " ".join(compile_(deployment, row).argv)
    whole = serve(deployment_of(LLAMA, neuron_config={"max_context_length": 8192}), row).argv
    assert "max_prompt_length" not in value_of(whole, "--additional-config")


@pytest.mark.parametrize(
    ("repo", "model_type"),
    [
        ("meta-llama/Llama-3.3-70B-Instruct", "llama"),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "llama"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "qwen2"),
        ("Qwen/Qwen3-32B", "qwen3"),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", "qwen3_moe"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral"),
        ("openai/gpt-oss-20b", "gpt_oss"),
        ("google/gemma-3-27b-it", "gemma3"),
        ("google/gemma-3-1b-it", "gemma3"),
        ("Qwen/Qwen2.5-VL-72B-Instruct", "qwen2_5_vl"),
        ("meta-llama/Llama-3.2-11B-Vision-Instruct", "mllama"),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "llama4"),
        # A name proves nothing, however much it resembles one that is known.
        ("trainyard/tiny-llama", None),
        ("acme/Llama-3.3-70B-Instruct", None),
        ("acme/assistant", None),
        *((f"acme/Qwen3-32B-{word}", None) for word in ("VL", "Omni", "Next", "GGUF", "AWQ", "GPTQ", "Guard")),
        ("Qwen/Qwen3-Embedding-8B", None),
    ],
)
def test_the_architecture_is_that_of_an_exact_repository_or_of_config_json(repo, model_type):
    model = {"repo": repo, "revision": "0" * 40}
    deployment = deployment_of(LLAMA, model=model)
    assert model_type_of(deployment) == model_type
    for said, compiled in (("qwen2", "qwen2"), ("gemma3_text", "gemma3"), ("qwen2_5_vl", "qwen2_5_vl")):
        assert model_type_of(replace(deployment, model_config={"model_type": said})) == compiled


def test_what_is_said_against_config_json_is_refused():
    row = find_release("2.27.0")
    acme = deployment_of(LLAMA, model={"repo": "acme/x", "revision": "0" * 40}, neuron_config={"model_type": "llama"})
    assert argument_problems(acme, row, WHERE) == []
    assert argument_problems(replace(acme, model_config={"model_type": "llama"}), row, WHERE) == []
    # Mistral's program is Llama's.
    assert argument_problems(replace(acme, model_config={"model_type": "mistral"}), row, WHERE) == []
    (problem,) = argument_problems(replace(acme, model_config={"model_type": "qwen2"}), row, WHERE)
    assert (problem.variable, problem.rule) == (
        WHERE + ".neuron_config.model_type",
        "config.json of acme/x says model_type qwen2",
    )


def test_a_plan_without_an_architecture_says_which_file_would_settle_it():
    awq = deployment_of(LLAMA, model={"repo": "Qwen/Qwen3-32B-AWQ", "revision": "0" * 40})
    (problem,) = argument_problems(awq, find_release("2.27.0"), WHERE)
    assert "awq in it speaks against a plain model" in problem.rule
    assert f"give Qwen/Qwen3-32B-AWQ/{'0' * 40}/config.json" in problem.fix


@pytest.mark.parametrize(
    ("quantization", "native", "nxdi", "nxdi_quantized"),
    [
        ({"quant_method": "awq", "bits": 4}, False, False, False),
        ({"quant_method": "gptq"}, False, False, False),
        ({"quant_method": "bitsandbytes"}, False, False, False),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {}}}, False, False, False),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, False, False, False),
        ({"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8}}, True, False, False),
        ({"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}, False, False, False),
        ({"quant_method": "fp8", "activation_scheme": "static"}, True, False, True),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, True, False, False),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, False, False, False),
        ({}, True, True, True),
    ],
)
def test_a_checkpoint_that_the_engine_cannot_read_is_refused(quantization, native, nxdi, nxdi_quantized):
    config = {"model_type": "llama", "quantization_config": quantization}
    deployment = replace(deployment_of(LLAMA, neuron_config={}), model_config=config)

    def reads(deployment, release):
        return argument_problems(deployment, find_release(release), WHERE) == []

    assert reads(deployment, "2.32.0") == native
    assert reads(replace(deployment, engine_args={"hf-overrides": {"quantization_config": {}}}), "2.32.0")
    assert reads(deployment, "2.27.0") == nxdi
    asked = replace(deployment, neuron_config={"quantized": True, "quantized_checkpoints_path": "/data/q"})
    assert reads(asked, "2.27.0") == nxdi_quantized


def test_an_architecture_may_be_said_and_is_not_passed_to_the_engine():
    model = {"repo": "acme/assistant", "revision": "0" * 40}
    deployment = deployment_of(LLAMA, model=model, neuron_config={"model_type": "llama"})
    row = find_release("2.27.1", "nxdi_v1")
    assert value_of(compile_(deployment, row).argv, "--model-type") == "llama"
    assert "--additional-config" not in serve(deployment, row).argv


NCONF = ".neuron_config."
BAD = [
    # name, release, generation, changes, variable, rule, fix
    ("unknown architecture", "2.23.0", None, {"model": {"repo": "a/b", "revision": "0" * 40}}, ".model.repo",
     "the compiler needs the architecture", "set neuron_config.model_type to one of dbrx, llama, mixtral"),
    ("architecture that comes later", "2.23.0", None, {"model": {"repo": "Qwen/Qwen3-8B", "revision": "0" * 40}},
     ".model.repo", "inference_demo of NxDI 0.3.5591 does not compile qwen3", "with NxDI 0.5 or later"),
    ("misspelt architecture", "2.23.0", None, {"neuron_config": {"model_type": "lama"}}, NCONF + "model_type",
     "does not compile lama", "did you mean 'llama'?"),
    ("setting that nobody knows", "2.23.0", None, {"neuron_config": {"fused_qvk": True}}, NCONF + "fused_qvk",
     "has no flag for it, so it would be served and not compiled", "did you mean 'fused_qkv'?"),
    ("setting that comes later", "2.23.0", None, {"neuron_config": {"cp_degree": 2}}, NCONF + "cp_degree",
     "has no flag for it yet", "with NxDI 0.4 or later"),
    ("setting that is gone", "2.31.1", "nxdi_v1", {"neuron_config": {"attn_tkg_nki_kernel_enabled": True}},
     NCONF + "attn_tkg_nki_kernel_enabled", "no longer has a flag for it", "remove it"),
    ("switch with a value", "2.23.0", None, {"neuron_config": {"fused_qkv": 1}}, NCONF + "fused_qkv",
     "must be true or false for --fused-qkv", "change it"),
    ("number as text", "2.23.0", None, {"neuron_config": {"max_context_length": "8192"}},
     NCONF + "max_context_length", "must be a whole number for --max-context-length", "change it"),
    ("list that is none", "2.23.0", None, {"neuron_config": {"context_encoding_buckets": 8192}},
     NCONF + "context_encoding_buckets", "must be a list of whole numbers", "change it"),
    ("sampling key that nobody knows", "2.23.0", None,
     {"neuron_config": {"on_device_sampling_config": {"dynamic": True, "global_top_k": 64}}},
     NCONF + "on_device_sampling_config.global_top_k", "has no flag for it", "did you mean 'global_topk'?"),
    ("sampling kernel that comes later", "2.23.0", None,
     {"neuron_config": {"on_device_sampling_config": {"dynamic": True, "top_k_kernel_enabled": True}}},
     NCONF + "on_device_sampling_config.top_k_kernel_enabled", "has no flag for it yet", "NxDI 0.5 or later"),
    ("sampling that is no mapping", "2.23.0", None, {"neuron_config": {"on_device_sampling_config": "greedy"}},
     NCONF + "on_device_sampling_config", "must be a mapping, or false", "write key: value"),
    ("degree said twice", "2.23.0", None, {"neuron_config": {"tp_degree": 16}}, NCONF + "tp_degree",
     "follows from another variable", "set tensor_parallel_size"),
    ("length said twice", "2.27.0", None, {"neuron_config": {"seq_len": 4096}}, NCONF + "seq_len",
     "follows from another variable", "set max_model_len"),
    ("LNC in the deployment", "2.23.0", None, {"neuron_config": {"logical_nc_config": 1}},
     NCONF + "logical_nc_config", "follows from another variable", "trainyard_logical_nc_config on the host"),
    ("prompt longer than the sequence", "2.23.0", None, {"neuron_config": {"max_context_length": 12800}},
     NCONF + "max_context_length", "must not be over max_model_len (8192)", "lower it"),
    ("bucket longer than the prompt", "2.23.0", None,
     {"neuron_config": {"max_context_length": 4096, "context_encoding_buckets": [2048, 8192]}},
     NCONF + "context_encoding_buckets", "must not be over the longest prompt (4096)", "lower it"),
    ("bucket longer than the sequence", "2.23.0", None, {"neuron_config": {"token_generation_buckets": [16384]}},
     NCONF + "token_generation_buckets", "must not be over max_model_len (8192)", "lower it"),
    ("fork with another number of blocks", "2.23.0", None, {"engine_args": {"num-gpu-blocks-override": 4}},
     ".engine_args.num-gpu-blocks-override", "the fork's worker takes exactly 5 here", "remove it"),
    ("older fork with another number of blocks", "2.24.1", None, {"engine_args": {"num-gpu-blocks-override": 5}},
     ".engine_args.num-gpu-blocks-override", "the fork's worker takes exactly 4 here", "remove it"),
    ("contiguous cache with many blocks", "2.27.0", None, {"engine_args": {"num-gpu-blocks-override": 64}},
     ".engine_args.num-gpu-blocks-override", "must be max_num_seqs (4) where the cache is contiguous", "remove it"),
    ("too few blocks", "2.27.0", None, {"block_size": 32, "engine_args": {"num-gpu-blocks-override": 512}},
     ".engine_args.num-gpu-blocks-override", "4 sequences of 8192 tokens need 1024 blocks of 32", "1024 or more"),
    ("too few blocks, compiled in", "2.27.0", None, {"block_size": 32, "neuron_config": {"pa_num_blocks": 512}},
     NCONF + "pa_num_blocks", "need 1024 blocks of 32", "1024 or more"),
    ("prefix caching without blocks", "2.27.0", None, {"engine_args": {"enable-prefix-caching": True}},
     ".engine_args.enable-prefix-caching", "follows from block_size", "set block_size"),
    ("blocks without prefix caching", "2.27.0", None,
     {"block_size": 32, "engine_args": {"no-enable-prefix-caching": True}},
     ".engine_args.no-enable-prefix-caching", "follows from block_size", "set block_size"),
    ("layout said twice", "2.27.0", None, {"neuron_config": {"is_prefix_caching": True}},
     NCONF + "is_prefix_caching", "follows from block_size", "set block_size"),
    ("flag of the fork for the plugin", "2.27.0", None, {"engine_args": {"device": "neuron"}},
     ".engine_args.device", "is no flag of nxdi_v1", "remove it"),
    ("flag of the fork for the native plugin", "2.32.0", None, {"engine_args": {"use-v2-block-manager": True}},
     ".engine_args.use-v2-block-manager", "is no flag of native", "remove it"),
    ("V0 for the plugin", "2.27.0", None, {"environment": {"VLLM_USE_V1": "0"}}, ".environment.VLLM_USE_V1",
     "the plugin serves with V1 only", "remove it"),
    ("V1 for the fork", "2.23.0", None, {"environment": {"VLLM_USE_V1": "1"}}, ".environment.VLLM_USE_V1",
     "the fork serves with V0 only", "remove it"),
    ("NxDI for the native plugin", "2.32.0", None,
     {"environment": {"VLLM_NEURON_FRAMEWORK": "neuronx-distributed-inference"}},
     ".environment.VLLM_NEURON_FRAMEWORK", "has no other framework", "remove it"),
    ("quantization as vLLM says it", "2.27.0", None, {"engine_args": {"quantization": "neuron_quant"}},
     ".engine_args.quantization", "quantization is an engine setting", "set quantization.weights"),
    ("prefill bucket that is not the largest batch", "2.32.0", None,
     {"neuron_config": {"num_batched_tokens_buckets": [2048]}, "engine_args": {"max-num-batched-tokens": 4096}},
     NCONF + "num_batched_tokens_buckets", "must end with max-num-batched-tokens (4096)", "change the list"),
    ("decode bucket that is not the largest batch", "2.32.0", None, {"neuron_config": {"num_seqs_buckets": [1, 2]}},
     NCONF + "num_seqs_buckets", "must end with max_num_seqs (4)", "change the list"),
    ("buckets that do not ascend", "2.32.0", None, {"neuron_config": {"num_seqs_buckets": [4, 4]}},
     NCONF + "num_seqs_buckets", "must ascend", "change the list"),
    ("buckets that are no list", "2.32.0", None, {"neuron_config": {"num_seqs_buckets": "4"}},
     NCONF + "num_seqs_buckets", "must be a list of whole numbers", "change the list"),
    ("segment of another size", "2.32.0", None,
     {"neuron_config": {"kv_segment_size_buckets": [3072], "num_batched_tokens_buckets": [3072]}},
     NCONF + "kv_segment_size_buckets", "must be one of 512, 1024, 2048, 4096, 8192", "change the list"),
    ("segment that blocks do not divide", "2.32.0", None,
     {"block_size": 96, "neuron_config": {"kv_segment_size_buckets": [512], "num_batched_tokens_buckets": [512]}},
     NCONF + "kv_segment_size_buckets", "a multiple of the block size (96)", "change the list"),
    ("segment that prefill does not share", "2.32.0", None,
     {"neuron_config": {"kv_segment_size_buckets": [512], "num_batched_tokens_buckets": [1024]}},
     NCONF + "kv_segment_size_buckets", "must be the same list as num_batched_tokens_buckets", "change the list"),
    ("decode length over the sequence", "2.32.0", None,
     {"neuron_config": {"decode_context_length_buckets": [8192]}},
     NCONF + "decode_context_length_buckets", "multiples of 128 below max_model_len (8192)", "change the list"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("release", "generation", "changes", "variable", "rule", "fix"),
    [case[1:] for case in BAD],
    ids=[case[0] for case in BAD],
)
def test_what_a_generation_cannot_do_is_told_before_a_host_is_touched(
    release, generation, changes, variable, rule, fix
):
    found = argument_problems(
        deployment_of({**LLAMA, "neuron_config": {}}, **changes), find_release(release, generation), WHERE
    )
    (problem,) = found
    assert problem.variable == WHERE + variable
    assert rule in problem.rule
    assert fix in problem.fix


SURPRISES = [
    ("static sampling", "2.23.0", {"neuron_config": {"on_device_sampling_config": {"do_sample": True}}},
     NCONF + "on_device_sampling_config", "what a request asks for is not what it gets"),
    ("too deep a top-k", "2.23.0",
     {"neuron_config": {"on_device_sampling_config": {"dynamic": True, "global_topk": 512}}},
     NCONF + "on_device_sampling_config.global_topk", "256 candidates at most"),
    ("top-k that ends the fork's engine", "2.23.0",
     {"neuron_config": {"on_device_sampling_config": {"dynamic": True, "global_topk": 64}}},
     NCONF + "on_device_sampling_config.global_topk", "where a request names no top_k: NxDI then raises"),
    ("block size of the fork", "2.23.0", {"block_size": 32}, ".block_size", "has no effect in nxdi_v0"),
    ("one sequence with prefix caching", "2.27.0", {"block_size": 32, "max_num_seqs": 1}, ".max_num_seqs",
     "known to answer wrongly"),
    ("unusual block size", "2.27.0", {"block_size": 64}, ".block_size", "documented with blocks of 16 or 32"),
    ("compiled shorter than served", "2.23.0", {"neuron_config": {"max_context_length": 4096}},
     NCONF + "max_context_length", "is under max_model_len (8192)"),
    ("prompts without a bucket", "2.27.0", {"neuron_config": {"context_encoding_buckets": [2048]}},
     NCONF + "context_encoding_buckets", "ends below 8192 tokens"),
    ("setting without a native word", "2.32.0", {"neuron_config": {"fused_qkv": True}}, NCONF + "fused_qkv",
     "is a setting of NxDI that native has no word for"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("release", "changes", "variable", "rule"), [case[1:] for case in SURPRISES], ids=[case[0] for case in SURPRISES]
)
def test_what_will_surprise_is_warned_of(release, changes, variable, rule):
    deployment = deployment_of({**LLAMA, "neuron_config": {}}, **changes)
    assert argument_problems(deployment, find_release(release), WHERE) == []
    (warning,) = argument_warnings(deployment, find_release(release), WHERE)
    assert warning.variable == WHERE + variable
    assert rule in warning.rule


def test_what_cannot_be_compiled_is_not_rendered():
    row = find_release("2.23.0")
    with pytest.raises(RenderError, match="no flag for no_such_setting"):
        compile_(deployment_of(LLAMA, neuron_config={"no_such_setting": 1}), row)
    with pytest.raises(RenderError, match="architecture of acme/x is not known"):
        compile_(deployment_of(LLAMA, model={"repo": "acme/x", "revision": "0" * 40}), row)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 20000), st.floats(0, 2), st.sampled_from(["", "8192", "fp8"])),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)),
    max_leaves=4,
)
KEYS = st.sampled_from(
    [*sorted(DEMO_FLAGS), "model_type", "on_device_sampling_config", "num_batched_tokens_buckets", "num_seqs_buckets",
     "kv_segment_size_buckets", "decode_context_length_buckets", "vision_neuron_config", "max_prompt_length", "typo"]
)  # fmt: skip
FLAGS = st.sampled_from(
    ["num-gpu-blocks-override", "enable-prefix-caching", "no-enable-prefix-caching", "device", "quantization",
     "max-num-batched-tokens", "kv-cache-dtype"]
)  # fmt: skip


@given(
    st.dictionaries(KEYS, JSON, max_size=4),
    st.dictionaries(FLAGS, JSON, max_size=2),
    st.sampled_from([None, 16, 32]),
    st.sampled_from([row for row in sdk_table() if row.venv is not None]),
)
@example({"max_context_length": None}, {}, None, find_release("2.23.0"))
@settings(deadline=None)
def test_whatever_the_settings_hold_is_either_refused_or_rendered(neuron_config, engine_args, block_size, row):
    deployment = deployment_of(LLAMA, neuron_config=neuron_config, engine_args=engine_args, block_size=block_size)
    if argument_problems(deployment, row, WHERE):
        return
    argument_warnings(deployment, row, WHERE)
    assert all(isinstance(part, str) for part in (*serve(deployment, row).argv, *compile_(deployment, row).argv))


if __name__ == "__main__":
    for case in GOLDEN_CASES:
        path = GOLDEN / f"{case[0]}-{case[1]}.json"
        path.write_text(json.dumps(golden_of(*case), indent=2) + "\n")
