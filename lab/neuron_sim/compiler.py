# SPDX-License-Identifier: Apache-2.0
"""Compiling as NxDI does it: ``neuron_config.json`` first, graphs for a modelled time, ``model.pt`` last.

How long: a fixed part and a part for each graph that grows with the layers, fitted to what is published: about 15
minutes for a 15 GB model with the default buckets, 15 to 20 minutes for a 70B model (vLLM guide and tutorials of the
Neuron documentation). All of it is multiplied by the lab's ``time_scale``.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from . import neuron_config
from .config import HostConfig

_BASE_SECONDS = 150.0
_GRAPH_SECONDS = 30.0
_GRAPH_LAYER_SECONDS = 0.7


class ModelError(Exception):
    """The model directory cannot be used; the message is what transformers says."""


def load_model_config(path: str | Path) -> dict[str, Any]:
    """``config.json`` of a checkpoint directory.

    Raises:
        ModelError: there is none, or it is no JSON object.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise ModelError(
            f"OSError: We couldn't connect to the model hub to load this model, couldn't find it in the cached files "
            f"and it looks like {path} is not the path to a directory containing a file named config.json."
        )
    file = directory / "config.json"
    if not file.is_file():
        raise ModelError(f"OSError: {path} does not appear to have a file named config.json.")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"OSError: It looks like the config file at '{file}' is not a valid JSON file.") from error
    if not isinstance(data, dict):
        raise ModelError(f"OSError: It looks like the config file at '{file}' is not a valid JSON file.")
    return data


def compile_seconds(model: dict[str, Any], config: dict[str, Any]) -> float:
    """How long the hardware's compiler would take, in seconds, before the lab's scale."""
    layers = int(model.get("num_hidden_layers", 32))
    graphs = neuron_config.graph_count(config)
    return _BASE_SECONDS + graphs * (_GRAPH_SECONDS + _GRAPH_LAYER_SECONDS * layers)


def save_config(directory: Path, model_path: str, model: dict[str, Any], config: dict[str, Any]) -> None:
    """Write ``neuron_config.json``: the model's own configuration, its path, and NxDI's settings."""
    directory.mkdir(parents=True, exist_ok=True)
    whole = {**model, "_name_or_path": model_path, "fused_spec_config": None, "neuron_config": config}
    text = json.dumps(whole, indent=2, sort_keys=True)
    (directory / neuron_config.CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def compile_model(
    host: HostConfig, model_path: str, config: dict[str, Any], target: Path, *, dry_run: bool = False
) -> None:
    """Compile into ``target``, taking as long as the lab wants it to.

    Raises:
        ModelError: the checkpoint has no readable ``config.json``.
    """
    model = load_model_config(model_path)
    save_config(target, model_path, model, config)
    work = Path(os.environ.get("BASE_COMPILE_WORK_DIR", "/tmp/nxd_model/"))  # noqa: S108 - NxDI's own default
    work.mkdir(parents=True, exist_ok=True)
    print("INFO:Neuron:Generating HLOs for the following models: ['context_encoding_model', 'token_generation_model']")
    time.sleep(compile_seconds(model, config) * host.time_scale)
    print("INFO:Neuron:Finished Compilation for all HLOs")
    if dry_run:
        return
    (target / neuron_config.MODEL_FILE).write_bytes(_graphs(config))
    if config["save_sharded_checkpoint"] and not config["skip_sharding"]:
        _shard(target, config)
    else:
        print("INFO:Neuron:SKIPPING pre-sharding the checkpoints. The checkpoints will be sharded during load time.")


def _graphs(config: dict[str, Any]) -> bytes:
    """A stand-in for the traced model: small, and different for different settings."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    return b"neuron-sim traced model\n" + digest.encode() + b"\n"


def _shard(target: Path, config: dict[str, Any]) -> None:
    weights = target / "weights"
    weights.mkdir(exist_ok=True)
    header = json.dumps({"__metadata__": {"made_by": "neuron-sim"}}).encode()
    for rank in range(config["local_ranks_size"]):
        file = weights / f"tp{rank}_sharded_checkpoint.safetensors"
        file.write_bytes(len(header).to_bytes(8, "little") + header)
    print("INFO:Neuron:Done Sharding weights")
