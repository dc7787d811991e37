# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import agreement

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


def test_the_native_engine_has_no_configuration_to_compare(tmp_path: Path) -> None:
    assert problems(tmp_path, generation="native") == []
