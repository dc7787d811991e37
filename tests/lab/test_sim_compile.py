# SPDX-License-Identifier: Apache-2.0
"""``inference_demo`` compiles as NxDI does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.lab.sim_support import SimHost

RECIPE = [
    *("--torch-dtype", "bfloat16", "--start_rank_id", "0", "--local_ranks_size", "32", "--tp-degree", "32"),
    *("--batch-size", "4", "--max-context-length", "8192", "--seq-len", "8192", "--on-device-sampling"),
    *("--top-k", "1", "--do-sample", "--fused-qkv", "--qkv-kernel-enabled", "--attn-kernel-enabled"),
    *("--mlp-kernel-enabled", "--pad-token-id", "2", "--compile-only", "--prompt", "hello"),
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> SimHost:
    return SimHost(tmp_path_factory.mktemp("host"), sdk_releases=["2.23.0", "2.27.0"])


@pytest.fixture
def host(installed: SimHost) -> SimHost:
    shutil.rmtree(installed.root / "artifact", ignore_errors=True)
    return installed


def demo(host: SimHost, *argv: str, release: str = "2.23.0", model_type: str = "llama", **keywords: Any) -> Any:
    command = host.venv(release) / "inference_demo"
    return host.run(command, "--model-type", model_type, "--task-type", "causal-lm", "run", *argv, **keywords)


def compile_recipe(host: SimHost, *extra: str, **keywords: Any) -> Any:
    target = str(host.root / "artifact")
    return demo(host, "--model-path", str(host.model), "--compiled-model-path", target, *RECIPE, *extra, **keywords)


def artifact(host: SimHost) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((host.root / "artifact/neuron_config.json").read_text())
    return config


def test_recipe_compiles_and_says_how_long(host: SimHost) -> None:
    """The data parallel tutorial's command; NxDI prints the time."""
    result = compile_recipe(host)
    assert result.returncode == 0, result.stderr
    assert "Compiling and tracing time: " in result.stdout and result.stdout.rstrip().endswith("seconds")
    assert (host.root / "artifact/model.pt").stat().st_size > 0


def test_neuron_config_has_what_was_asked(host: SimHost) -> None:
    """NxDI models/config.py: names and defaults of NeuronConfig."""
    compile_recipe(host)
    config = artifact(host)["neuron_config"]
    wanted = {
        "tp_degree": 32,
        "batch_size": 4,
        "ctx_batch_size": 4,
        "tkg_batch_size": 4,
        "max_batch_size": 4,
        "seq_len": 8192,
        "max_context_length": 8192,
        "max_length": 8192,
        "torch_dtype": "bfloat16",
        "logical_nc_config": 2,
        "world_size": 32,
        "local_ranks_size": 32,
        "start_rank_id": 0,
        "is_continuous_batching": False,
        "fused_qkv": True,
        "save_sharded_checkpoint": False,
        "context_encoding_buckets": None,
    }
    assert {name: config[name] for name in wanted} == wanted
    assert config["on_device_sampling_config"]["top_k"] == 1
    assert artifact(host)["_name_or_path"] == str(host.model)


def test_neuron_config_is_written_first_and_model_last(host: SimHost) -> None:
    """NxDI application_base.py compile(): neuron_config.json alone proves nothing."""
    result = compile_recipe(host, "--compile-dry-run")
    assert result.returncode == 0
    assert (host.root / "artifact/neuron_config.json").exists()
    assert not (host.root / "artifact/model.pt").exists()


def test_presharded_weights_are_one_file_a_rank(host: SimHost) -> None:
    """NxDI application_base.py: weights/tp{rank}_sharded_checkpoint.safetensors, only when asked to."""
    compile_recipe(host, "--save-sharded-checkpoint")
    names = {path.name for path in (host.root / "artifact/weights").iterdir()}
    assert names == {f"tp{rank}_sharded_checkpoint.safetensors" for rank in range(32)}


def test_missing_required_arguments_are_argparse_errors(host: SimHost) -> None:
    result = demo(host, "--model-path", "/x")
    assert result.returncode == 2
    assert "the following arguments are required: --compiled-model-path, --prompt" in result.stderr


def test_start_rank_id_is_spelt_with_underscores(host: SimHost) -> None:
    """inference_demo.py defines --start_rank_id; the spelling with dashes does not exist."""
    result = compile_recipe(host, "--start-rank-id", "0")
    assert result.returncode == 2
    assert "unrecognized arguments: --start-rank-id 0" in result.stderr


@pytest.mark.parametrize("option", ["--cp-degree=2", "--attention-dp-degree=2", "--prefix-buckets=128", "--is-eagle3"])
def test_options_of_later_versions_are_refused_by_0_3(host: SimHost, option: str) -> None:
    """inference_demo.py at 0.3.5591 and at 0.7.14366."""
    assert compile_recipe(host, option).returncode == 2
    assert compile_recipe(host, option, release="2.27.0").returncode == 0


def test_model_types_follow_the_version(host: SimHost) -> None:
    """MODEL_TYPES: qwen3 is in 0.7.14366 and not in 0.3.5591; mistral in neither."""
    argv = ["--model-path", str(host.model), "--compiled-model-path", str(host.root / "q"), *RECIPE]
    assert demo(host, *argv, model_type="qwen3").returncode == 2
    assert demo(host, *argv, model_type="qwen3", release="2.27.0").returncode == 0
    assert "invalid choice: 'mistral'" in demo(host, *argv, model_type="mistral", release="2.27.0").stderr


def test_model_without_config_fails_with_status_1(host: SimHost) -> None:
    result = demo(host, "--model-path", "/nowhere", "--compiled-model-path", str(host.root / "a"), *RECIPE)
    assert result.returncode == 1
    assert "OSError" in result.stderr


def test_bucket_longer_than_the_context_is_refused(host: SimHost) -> None:
    """NxDI models/config.py asserts it."""
    result = compile_recipe(host, "--context-encoding-buckets", "16384")
    assert result.returncode == 1
    assert "Context bucket 16384 should be <= 8192" in result.stderr


def test_time_is_modelled_and_scaled(tmp_path: Path) -> None:
    """A graph a bucket: more buckets take longer; the lab's scale shortens all of it."""
    host = SimHost(tmp_path, time_scale=0.002)

    def seconds(*extra: str) -> float:
        line = compile_recipe(host, *extra).stdout.rstrip().splitlines()[-1]
        return float(line.removeprefix("Compiling and tracing time: ").removesuffix(" seconds"))

    short = seconds()
    # Without the scale it would be minutes; a busy machine adds seconds.
    assert 0.3 < short < 60
    assert seconds("--context-encoding-buckets", "1024", "2048", "4096", "8192") > short + 0.15
