# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import agreement
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.artifact import expected
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import parse_deployment
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import find_release

ARGV = ["python", "-m", "api_server", "--tensor-parallel-size", "32", "--max-num-seqs=4", "--max-model-len", "8192"]
ARGV += ["--dtype", "bfloat16", "--use-v2-block-manager", "--port", "8000"]
MADE = {"tp_degree": 32, "batch_size": 4, "seq_len": 8192, "torch_dtype": "torch.bfloat16", "logical_nc_config": 2}


def artifact(root: Path, **settings: Any) -> Path:
    (root / "neuron_config.json").write_text(json.dumps({"neuron_config": {**MADE, **settings}}))
    (root / "model.pt").write_text("")
    return root


def problems(root: Path, generation: str = "nxdi_v0", lnc: str = "2") -> list[str]:
    return agreement.problems(generation, str(root), ARGV, {"NEURON_LOGICAL_NC_CONFIG": lnc})


def test_what_agrees_passes(tmp_path: Path) -> None:
    assert problems(artifact(tmp_path)) == []
    assert problems(artifact(tmp_path, seq_len=16384)) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seq_len": 4096}, "--max-model-len 8192, but the artifact's seq_len is 4096 (at most is wanted)"),
        ({"batch_size": 8}, "--max-num-seqs 4, but the artifact's batch_size is 8 (equal is wanted)"),
        ({"tp_degree": 16}, "--tensor-parallel-size 32, but the artifact's tp_degree is 16 (equal is wanted)"),
        ({"torch_dtype": "float32"}, "--dtype bfloat16, but the artifact's torch_dtype is float32 (equal is wanted)"),
        ({"logical_nc_config": 1}, "LNC 2, but the artifact was made for 1"),
    ],
)
def test_each_setting_that_differs_is_named(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    assert problems(artifact(tmp_path, **settings)) == [said]


def test_an_incomplete_artifact_is_told_from_a_complete_one(tmp_path: Path) -> None:
    assert problems(tmp_path) == ["it is incomplete, neuron_config.json, model.pt is missing"]
    root = artifact(tmp_path, save_sharded_checkpoint=True)
    assert "weights/tp0_sharded_checkpoint.safetensors" in problems(root)[0]
    (root / "weights").mkdir()
    for rank in range(32):
        (root / f"weights/tp{rank}_sharded_checkpoint.safetensors").write_text("")
    assert problems(root) == []


NATIVE = {
    "name": "m",
    "model": {"repo": "meta-llama/Llama-3.1-8B-Instruct", "revision": "0" * 40},
    "sdk_release": "2.32.0",
    "tensor_parallel_size": 8,
    "max_num_seqs": 4,
    "max_model_len": 4096,
    "port": 8000,
}
EAGLE3 = {"method": "eagle3", "model": {"repo": "acme/e3", "revision": "c" * 40}, "tokens": 3}


def native(**fields: Any) -> dict[str, Any]:
    """What the plan has compiled for a native deployment."""
    deployment, wrong = parse_deployment({**NATIVE, **fields}, "x")
    assert deployment is not None, wrong
    found = expected(deployment, find_release(deployment.sdk_release, deployment.generation), 2)
    return dict(json.loads(json.dumps(found)))


def started(cache: Path, made: Any, wanted: dict[str, Any]) -> list[str]:
    """What a start of a native server says of a cache that was made with such settings."""
    (cache / "manifest.json").write_text(json.dumps({"inputs": {"settings": made}}))
    return agreement.problems("native", str(cache), [], {}, wanted)


def test_a_native_cache_is_started_for_what_its_manifest_says_and_nothing_else(tmp_path: Path) -> None:
    options: list[dict[str, Any]] = [
        {},
        {"speculation": EAGLE3},
        {"quantization": {"kv_cache": "fp8"}},
        {"buckets": {"prefill": [512, 4096]}},
        {"buckets": {"decode": [1024, 2048]}},
        {"buckets": {"segments": [2048], "prefill": [2048]}},
        {"structured_outputs": True},
        {"neuron_config": {"on_device_sampling_config": False}},
        {"max_num_seqs": 8},
        {"tensor_parallel_size": 16},
    ]
    plans = [native(**fields) for fields in options]
    for mine, made in enumerate(plans):
        for theirs, wanted in enumerate(plans):
            assert bool(started(tmp_path, made, wanted)) == (mine != theirs), (options[mine], options[theirs])
    # How a server answers is no matter of its graphs.
    assert started(tmp_path, plans[0], native(aliases=["a"], tools={"call_parser": "llama3_json"})) == []


def test_what_a_native_cache_was_made_with_instead_is_named(tmp_path: Path) -> None:
    plain, drafted = native(), native(speculation={**EAGLE3, "tokens": 5})
    assert started(tmp_path, native(speculation=EAGLE3), drafted) == [
        "speculative-config.num_speculative_tokens of the artifact is 3, and the plan had 5 compiled"
    ]
    assert 'speculative-config.method of the artifact is "eagle3", and the plan has none' in started(
        tmp_path, drafted, plain
    )
    assert 'the artifact has no speculative-config.method, and the plan had "eagle3" compiled' in started(
        tmp_path, plain, drafted
    )


def test_a_setting_that_is_empty_is_not_one_that_is_missing(tmp_path: Path) -> None:
    """Sampling on the device as it is by default is an empty mapping, and without one it is on the CPU."""
    wanted = native()
    assert wanted["additional-config"] == {"neuron_config": {"on_device_sampling_config": {}}}
    said = started(tmp_path, {**wanted, "additional-config": {"neuron_config": {"another": 1}}}, wanted)
    assert (
        "the artifact has no additional-config.neuron_config.on_device_sampling_config, and the plan had {} compiled"
        in said
    )


def test_a_native_cache_without_a_manifest_that_can_be_read_is_not_started(tmp_path: Path) -> None:
    wanted = native()
    assert agreement.problems("native", str(tmp_path), [], {}, wanted) == ["it is incomplete, manifest.json is missing"]
    for content in ("", "[]", "{}", '{"inputs": 3}', "[" * 100000):
        (tmp_path / "manifest.json").write_text(content)
        (said,) = agreement.problems("native", str(tmp_path), [], {}, wanted)
        assert said.startswith("its manifest.json cannot be read: ")
    assert started(tmp_path, "settings", wanted) != []


def recipes() -> list[Any]:
    """Both recipes, and one that asks for what they do not, with their SDK rows."""
    root = Path(__file__).parents[2] / "inventory/trn2/group_vars"
    raws = [yaml.safe_load((root / name / "deployment.yml").read_text()) for name in ("llama_3_3_70b", "qwen3_32b")]
    found = [next(iter(raw.values())) for raw in raws]
    adapter = {"name": "a", "repo": "acme/a", "revision": "0" * 40}
    lora = {"max_loras": 2, "max_rank": 16, "adapters": [adapter]}
    draft = {"method": "eagle", "model": {"repo": "acme/e", "revision": "0" * 40}, "tokens": 3}
    asks = {**found[1], "sdk_release": "2.28.0", "block_size": None, "lora": lora, "speculation": draft}
    made = []
    for raw in (*found, {**asks, "quantization": {"kv_cache": "fp8"}}):
        deployment, wrong = parse_deployment(raw, "x")
        assert deployment is not None, wrong
        made.append((deployment, find_release(deployment.sdk_release, deployment.generation)))
    return made


def another(value: Any) -> Any:
    """A value that means something else."""
    if value is None or isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, list):
        return [*value, 1]
    raise AssertionError(value)


def inside(name: str, value: Any) -> list[tuple[str, Any]]:
    """Each way in which one setting may be another, and how it is called then."""
    if name == agreement.SAMPLING:
        whole = {**agreement.SAMPLING_DEFAULTS, **value}
        return [(f"{name}.{key}", {**whole, key: another(whole[key])}) for key in whole] + [(name, None)]
    if name == agreement.ADAPTERS and value is not None:
        return [
            (name, None),
            (f"{name}.max_loras", {**value, "max_loras": value["max_loras"] - 1}),
            (f"{name}.max_lora_rank", {**value, "max_lora_rank": 8}),
            (f"{name}.target_modules", {**value, "target_modules": ["q_proj"]}),
            (f"{name}.dynamic_multi_lora", {**value, "dynamic_multi_lora": True}),
        ]
    if name == agreement.ADAPTERS:
        return [(name, {"max_loras": 1})]
    return [(name, another(value))]


@pytest.mark.parametrize(("deployment", "row"), recipes(), ids=lambda item: getattr(item, "name", ""))
def test_every_setting_that_serving_depends_on_is_compared(tmp_path: Path, deployment: Any, row: Any) -> None:
    wanted = json.loads(json.dumps(expected(deployment, row, 2)))
    assert {"tp_degree", "quantized", "is_eagle3", "ep_degree", agreement.SAMPLING, agreement.ADAPTERS} <= set(wanted)
    assert {"context_encoding_buckets", "token_generation_buckets", "prefix_buckets"} <= set(wanted)

    def told(**changes: Any) -> list[str]:
        (tmp_path / "neuron_config.json").write_text(json.dumps({"neuron_config": {**wanted, **changes}}))
        (tmp_path / "model.pt").write_text("")
        return agreement.problems(row.generation, str(tmp_path), [], {}, wanted)

    assert told(save_sharded_checkpoint=False) == []
    for name, value in wanted.items():
        for called, other in inside(name, value):
            found = told(**{name: other})
            assert any(line.startswith(f"{called} of the artifact is ") for line in found), (called, other, found)
    # More room than is asked for hurts nobody.
    if wanted[agreement.ADAPTERS]:
        roomy = {"max_loras": 8, "target_modules": [*wanted[agreement.ADAPTERS]["target_modules"], "embed_tokens"]}
        assert told(lora_config={**wanted[agreement.ADAPTERS], **roomy}) == []


def test_an_artifact_without_adapters_is_not_started_for_a_deployment_with_some(tmp_path: Path) -> None:
    deployment, row = recipes()[2]
    wanted = json.loads(json.dumps(expected(deployment, row, 2)))
    (tmp_path / "model.pt").write_text("")
    (tmp_path / "neuron_config.json").write_text(json.dumps({"neuron_config": {**wanted, "lora_config": None}}))
    (problem,) = agreement.problems(row.generation, str(tmp_path), [], {}, wanted)
    assert problem.startswith("lora_config of the artifact is null, and the plan had {")


@pytest.mark.parametrize("length", [float("-inf"), float("nan"), [4096], {"a": 1}, "long"])
def test_a_length_that_is_none_does_not_agree_with_any(length: object) -> None:
    said = agreement.disagreements(["--max-model-len", "4096"], {}, {"neuron_config": {"seq_len": length}})
    assert len(said) == 1
