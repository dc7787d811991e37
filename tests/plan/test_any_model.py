# SPDX-License-Identifier: Apache-2.0
"""What is planned of any model: config.json decides, a name does not, and what is not known is said.

Each case is the smallest inventory of a public report; the fleets are planned as `trainyard plan` plans them.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.known_models import known_repositories
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet

REVISION = "0123456789abcdef0123456789abcdef01234567"
QWEN3_32B: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 5120,
    "intermediate_size": 25600,
    "num_hidden_layers": 64,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "torch_dtype": "bfloat16",
}
QWEN2 = {**QWEN3_32B, "model_type": "qwen2"}
LLAMA_X = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
GEMMA = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text",
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "num_hidden_layers": 62,
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "vocab_size": 262208,
    },
    "torch_dtype": "bfloat16",
}


class Planned:
    """What came of a plan: its problems and warnings as lines, and the plan where there is one."""

    def __init__(self, repo: str, config: Any = None, release: str = "2.27.0", **fields: Any) -> None:
        deployment = {
            "name": "m",
            "model": {"repo": repo, "revision": REVISION},
            "sdk_release": release,
            "tensor_parallel_size": 16,
            "max_num_seqs": 4,
            "max_model_len": 4096,
            "port": 8000,
            **fields,
        }
        host = {"ansible_host": "10.0.0.11", "trainyard_instance_type": "trn2.48xlarge"}
        given: dict[str, Any] = {"hosts": {"h1": {**host, "trainyard_deployment_m": deployment}}, "routers": ["h1"]}
        if config is not None:
            given["model_configs"] = {f"{repo}@{REVISION}": config}
        self.plan: dict[str, Any] = {}
        self.problems: list[str] = []
        try:
            self.plan = plan_fleet(given).to_dict()
        except PlanError as error:
            self.problems = error.lines()
        self.warnings = [f"{one['variable']}: {one['rule']}" for one in self.plan.get("warnings", ())]

    @property
    def replica(self) -> dict[str, Any]:
        return dict(self.plan["hosts"]["h1"]["replicas"][0])

    @property
    def compile_argv(self) -> list[str]:
        return list(self.plan["hosts"]["h1"]["artifacts"][0]["argv"])


@pytest.mark.parametrize(
    "repo",
    [
        "Qwen/Qwen2.5-VL-72B-Instruct",
        "meta-llama/Llama-3.2-11B-Vision-Instruct",
        "meta-llama/Llama-4-Scout-17B-16E-Instruct",
        "unsloth/Qwen3-32B-GGUF",
        "Qwen/Qwen3-32B-AWQ",
        "Qwen/Qwen3-Omni-30B-A3B-Instruct",
        "Qwen/Qwen3-Next-80B-A3B-Instruct",
        "meta-llama/Llama-Guard-3-8B",
        "acme/llama",
    ],
)
def test_a_name_that_contains_an_architecture_compiles_nothing(repo: str) -> None:
    (problem,) = Planned(repo).problems
    assert "m.model.repo" in problem
    assert "does not compile" in problem or f"give {repo}/{REVISION}/config.json" in problem


@pytest.mark.parametrize("repo", ["acme/support-llama-replacement", "acme/support-bot-7b"])
def test_what_config_json_says_is_what_is_compiled(repo: str) -> None:
    argv = Planned(repo, QWEN2).compile_argv
    assert argv[argv.index("--model-type") + 1] == "qwen2"


def test_a_vision_model_that_config_json_tells_is_refused_by_its_architecture() -> None:
    config = {"model_type": "qwen2_5_vl", "vision_config": {}, **{k: v for k, v in QWEN2.items() if k != "model_type"}}
    (problem,) = Planned("acme/llama-like", config).problems
    assert "inference_demo of NxDI 0.7.14366 does not compile qwen2_5_vl" in problem


@pytest.mark.parametrize("config", [None, GEMMA])
def test_more_knowledge_does_not_refuse_a_model_that_is_compiled(config: Any) -> None:
    planned = Planned("google/gemma-3-27b-it", config, "2.31.1", generation="nxdi_v1")
    assert planned.problems == []
    assert planned.replica["hbm_bytes_needed"] > 54e9


def test_an_architecture_whose_size_is_not_known_is_planned_with_a_warning() -> None:
    planned = Planned("acme/x", {"model_type": "phi4"}, "2.32.0")
    assert planned.problems == []
    assert planned.replica["hbm_bytes_needed"] is None
    assert any("has no size that is known here" in line for line in planned.warnings)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"}}, "compressed"),
        ({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}, "quant_method fp8"),
    ],
)
def test_a_checkpoint_that_nobody_reads_is_refused_with_its_config_and_without(config: Any, said: str) -> None:
    known, unknown = Planned("acme/Qwen3-32B-FP8", {**QWEN3_32B, **config}), Planned("acme/Qwen3-32B-FP8")
    assert any(said in problem for problem in known.problems)
    assert unknown.problems


def test_sizes_are_those_of_what_is_computed_with() -> None:
    fields = {"tensor_parallel_size": 2, "max_num_seqs": 1}
    fp8 = {**QWEN3_32B, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    assert any("of a core that has 24.0 GiB" in line for line in Planned("acme/q", fp8, **fields).problems)
    assert any("of a core that has 24.0 GiB" in line for line in Planned("acme/q", QWEN3_32B, **fields).problems)


@pytest.mark.parametrize("config", [{**LLAMA_X, "torch_dtype": "auto"}, [LLAMA_X], "text", 7, {}, {"model_type": 5}])
def test_a_config_json_that_makes_no_sense_is_said_in_one_line(config: Any) -> None:
    planned = Planned("acme/llama-x", config, tensor_parallel_size=8)
    assert len(planned.problems) + len(planned.warnings) == 1, (planned.problems, planned.warnings)


def test_positions_that_config_json_stretches_are_there_for_vllm_and_not_for_nxdi() -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    config, fields = {**QWEN3_32B, "rope_scaling": rope}, {"max_num_seqs": 1, "max_model_len": 131072}
    assert Planned("acme/Qwen3-32B-yarn", config, "2.32.0", tensor_parallel_size=32, **fields).problems == []
    (problem,) = Planned("acme/Qwen3-32B-yarn", config, tensor_parallel_size=64, **fields).problems
    assert "rope_scaling (yarn) is not read" in problem


def test_a_fix_names_no_degree_that_would_be_refused_next() -> None:
    qwen14 = {**QWEN2, "intermediate_size": 13824, "num_hidden_layers": 48, "num_attention_heads": 40}
    del qwen14["head_dim"]
    (problem,) = Planned("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", qwen14, "2.32.0").problems
    assert problem.endswith("Fix: use 1, 2, 4 or 8.")


#: Every config.json that these tests have: the published ones, each once, and those of reports.
CONFIGS: list[tuple[str, dict[str, Any]]] = [
    *(
        (repo, dict(json.loads(text)))
        for text, repo in {json.dumps(c): r for r, c in known_repositories().items()}.items()
    ),
    ("reports/qwen2", QWEN2),
    ("reports/gemma", GEMMA),
    ("reports/phi", {"model_type": "phi4"}),
    ("reports/awq", {**QWEN3_32B, "quantization_config": {"quant_method": "awq"}}),
]


@pytest.mark.parametrize(("release", "generation"), [("2.31.1", "nxdi_v1"), ("2.32.0", None)])
@pytest.mark.parametrize(("repo", "config"), CONFIGS, ids=[repo for repo, _config in CONFIGS])
def test_a_plan_with_config_json_agrees_with_one_without_or_the_latter_says_more(
    repo: str, config: dict[str, Any], release: str, generation: str | None
) -> None:
    """For every published model, and for the same files under a name that nobody knows."""
    fields: dict[str, Any] = {"generation": generation, "tensor_parallel_size": 8, "max_num_seqs": 1}
    known = Planned(repo, config, release, **fields)
    bare = Planned(repo, None, release, **fields)
    if repo in known_repositories():
        assert (known.problems, known.warnings, known.plan) == (bare.problems, bare.warnings, bare.plan)
        return
    if bool(known.problems) != bool(bare.problems):
        assert bare.problems or any("has no size that is known here" in line for line in bare.warnings)
