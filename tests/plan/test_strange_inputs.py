# SPDX-License-Identifier: Apache-2.0
"""What people write by mistake, and checkpoints that are not what they seem: a plan answers each in words.

`strange_inputs.jsonl` has one a line: the fields beside a bare deployment of Llama 3.1 8B, what of the checkpoint's
config.json differs from that of a plain model (`like`; `nothing`: the file is `config` itself), whether that is
refused, warned of or planned, and what stands in the answer.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet

LINES = Path(__file__).with_name("strange_inputs.jsonl").read_text(encoding="utf-8").splitlines()
INPUTS: list[dict[str, Any]] = [json.loads(line) for line in LINES]
REVISION = "0" * 40
PLAIN = {
    "llama": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
        "max_position_embeddings": 131072, "torch_dtype": "bfloat16",
    },
    "qwen3": {
        "model_type": "qwen3", "hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
        "max_position_embeddings": 40960, "torch_dtype": "bfloat16",
    },
}  # fmt: skip


def planned(given: dict[str, Any]) -> tuple[str, list[str]]:
    """What a plan makes of an input: the word of its answer, and its lines."""
    raw: dict[str, Any] = {
        "name": "m",
        "model": {"repo": "meta-llama/Llama-3.1-8B-Instruct"},
        "sdk_release": "2.28.1",
        "tensor_parallel_size": 8,
        "max_num_seqs": 4,
        "max_model_len": 4096,
        "port": 8000,
        **copy.deepcopy(given["fields"]),
    }
    raw["model"] = {"revision": REVISION, **raw["model"]}
    host = {
        "ansible_host": "10.0.0.1",
        "trainyard_instance_type": given.get("instance", "trn2.48xlarge"),
        "trainyard_deployment_m": raw,
        "neuron_venv_pip_index": "",
    }
    fleet: dict[str, Any] = {"hosts": {"h": host}, "routers": ["h"]}
    if "like" in given:
        config = given["config"]
        if given["like"] != "nothing":
            config = {**PLAIN[given["like"]], **config}
            config = {name: value for name, value in config.items() if name not in given.get("without", ())}
        fleet["model_configs"] = {f"{raw['model']['repo']}@{raw['model']['revision']}": config}
    try:
        plan = plan_fleet(fleet).to_dict()
    except PlanError as error:
        return "refused", error.lines()
    lines = [f"{one['variable']}: {one['rule']} {one['fix']}" for one in plan["warnings"]]
    return "warned" if lines else "planned", lines


@pytest.mark.parametrize("given", INPUTS, ids=lambda given: str(given["what"])[:60])
def test_a_strange_input_is_answered_in_words(given: dict[str, Any]) -> None:
    answer, lines = planned(given)
    assert answer == given["answer"], lines
    assert given.get("says", "") in "\n".join(lines), lines


def test_there_are_many_and_hardly_one_passes_in_silence() -> None:
    answers = [given["answer"] for given in INPUTS]
    assert len(answers) > 250
    assert answers.count("planned") < 25
    assert len({given["what"] for given in INPUTS}) == len(INPUTS)
