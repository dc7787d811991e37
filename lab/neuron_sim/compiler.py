# SPDX-License-Identifier: Apache-2.0
"""Compiling as NxDI does it: ``neuron_config.json`` first, graphs for a modelled time, ``model.pt`` last.

How long: a fixed part and a part for each graph that grows with the layers, fitted to what is published: about 15
minutes for a 15 GB model with the default buckets, 15 to 20 minutes for a 70B model (vLLM guide and tutorials of the
Neuron documentation). All of it is multiplied by the lab's ``time_scale``.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import time
import uuid
from pathlib import Path
from typing import Any

from . import compile_cache, faults, neuron_config, rules, sdk
from .config import HostConfig
from .hardware import GIB, instance_type
from .latency import Shape

_BASE_SECONDS = 150.0
_GRAPH_SECONDS = 30.0
_GRAPH_LAYER_SECONDS = 0.7
_HOST_COPIES = 1.5  # of the checkpoint in host memory while graphs are made and weights are sharded; derived
_WORK_DIR = "/tmp/nxd_model/"  # noqa: S108 - NxDI's own default
_GRAPHS = ("context_encoding_model", "token_generation_model")


class ModelError(Exception):
    """The model directory cannot be used; the message is what transformers says."""


class CompileError(Exception):
    """The compiler failed; the message is what it says."""


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


def checkpoint_bytes(path: str | Path, model: dict[str, Any]) -> int:
    """Size of the weights: of the files where there are any, else what the shape would have in BF16."""
    sizes = [file.stat().st_size for file in Path(path).glob("*.safetensors")]
    return sum(sizes) if sizes else 2 * Shape.of(model).parameters


def compile_seconds(model: dict[str, Any], config: dict[str, Any]) -> float:
    """How long the hardware's compiler would take, in seconds, before the lab's scale."""
    layers = int(model.get("num_hidden_layers", 32))
    graphs = neuron_config.graph_count(config)
    return _BASE_SECONDS + graphs * (_GRAPH_SECONDS + _GRAPH_LAYER_SECONDS * layers)


def check_weights(host: HostConfig, path: str | Path) -> None:
    """Read the headers of the checkpoint's files as the loader does.

    Raises:
        CompileError: a file is shorter than its header says.
    """
    if not rules.holds(host, "cut-weights"):
        return
    for file in sorted(Path(path).glob("*.safetensors")):
        with file.open("rb") as data:
            length = int.from_bytes(data.read(8), "little")
            head = data.read(length)
        try:
            entries = {name: value for name, value in json.loads(head).items() if name != "__metadata__"}
            end = max((int(value["data_offsets"][1]) for value in entries.values()), default=0)
        except (ValueError, KeyError, TypeError):
            raise CompileError("safetensors_rust.SafetensorError: Error while deserializing header") from None
        if file.stat().st_size < 8 + length + end:
            raise CompileError(
                "safetensors_rust.SafetensorError: Error while deserializing header: MetadataIncompleteBuffer"
            )


def save_config(
    directory: Path, model_path: str, model: dict[str, Any], config: dict[str, Any], draft_path: str = ""
) -> None:
    """Write ``neuron_config.json``: the model's own configuration, its path, its draft's, and NxDI's settings."""
    directory.mkdir(parents=True, exist_ok=True)
    fused = {"draft_model_path": draft_path} if draft_path else None
    whole = {**model, "_name_or_path": model_path, "fused_spec_config": fused, "neuron_config": config}
    text = json.dumps(whole, indent=2, sort_keys=True)
    (directory / neuron_config.CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


class WorkDirectory:
    """NxDI's scratch directory, which two compiles must not share: each start empties it for all."""

    def __init__(self, host: HostConfig) -> None:
        chosen = os.environ.get("BASE_COMPILE_WORK_DIR")
        self._path = Path(chosen) if chosen else host.path(_WORK_DIR)
        self._token = uuid.uuid4().hex

    def __enter__(self) -> WorkDirectory:
        for graph in _GRAPHS:
            directory = self._path / graph / "_tp0_bk0"
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "graph.neff").write_text(self._token, encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        """The scratch stays, as NxDI leaves it."""

    def check(self) -> None:
        """Collect what was compiled.

        Raises:
            CompileError: another compile took the directory over meanwhile.
        """
        for graph in _GRAPHS:
            file = self._path / graph / "_tp0_bk0" / "graph.neff"
            if not file.exists() or file.read_text(encoding="utf-8") != self._token:
                raise CompileError(f"FileNotFoundError: [Errno 2] No such file or directory: '{file}'")


def _host_memory(host: HostConfig, needed: int) -> None:
    """The kernel ends a compile that wants more memory than the instance has, without a word of its own."""
    enough = needed * _HOST_COPIES <= instance_type(host.instance_type).host_memory_gib * GIB
    if not enough or faults.find(host, "compile-oom"):
        os.kill(os.getpid(), signal.SIGKILL)


def _compile_graphs(
    host: HostConfig, row: sdk.Release, model: dict[str, Any], config: dict[str, Any], identity: dict[str, Any]
) -> None:
    entry = compile_cache.entry(host, row.compiler, identity)
    if entry.failed and not compile_cache.retries_failures():
        raise CompileError(
            f"Got a cached failed neff at {entry.path}/model.neff. Will skip compilation, please set "
            "--retry_failed_compilation for recompilation"
        )
    if entry.compiled:
        print(f"INFO ||NEURON_CC_WRAPPER||: Using a cached neff at {entry.path}/model.neff", flush=True)
        return
    time.sleep(compile_seconds(model, config) * host.time_scale)
    if faults.find(host, "compile-failure"):
        text = "subprocess.CalledProcessError: neuronx-cc compilation failed with 70"
        entry.fail(text)
        raise CompileError(text)
    entry.succeed()


def compile_model(
    host: HostConfig,
    row: sdk.Release,
    model_path: str,
    config: dict[str, Any],
    target: Path,
    *,
    dry_run: bool = False,
    draft_path: str = "",
) -> None:
    """Compile into ``target``, taking as long as the lab wants it to.

    Raises:
        ModelError: the checkpoint, or its draft, has no readable ``config.json``.
        CompileError: the compiler failed, or the model is to be compiled with a draft and there is none.
        OSError: the target cannot be written.
    """
    model = load_model_config(model_path)
    needed = checkpoint_bytes(model_path, model)
    if config["enable_fused_speculation"]:
        # One graph for both, so the draft is traced with the model.
        if not draft_path:
            raise CompileError(
                "AssertionError: Must pass speculative_config to load weights if using Neuron Speculation."
            )
        needed += checkpoint_bytes(draft_path, load_model_config(draft_path))
        check_weights(host, draft_path)
    written = config if rules.holds(host, "compile-settings") else {**config, "torch_dtype": "float16"}
    if rules.holds(host, "compile-order"):
        save_config(target, model_path, model, written, draft_path)
    target.mkdir(parents=True, exist_ok=True)
    _host_memory(host, needed)
    with WorkDirectory(host) as work:
        print(f"INFO:Neuron:Generating HLOs for the following models: {list(_GRAPHS)}", flush=True)
        identity = {"model": model, "config": config, "nxdi": row.nxdi}
        _compile_graphs(host, row, model, config, identity)
        work.check()
    print("INFO:Neuron:Finished Compilation for all HLOs", flush=True)
    if dry_run:
        return
    if faults.find(host, "disk-full"):
        # What fits is written: a file that is there and is not whole.
        (target / neuron_config.MODEL_FILE).write_bytes(graphs(row, config)[:16])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target / neuron_config.MODEL_FILE))
    (target / neuron_config.MODEL_FILE).write_bytes(graphs(row, config))
    if not rules.holds(host, "compile-order"):
        save_config(target, model_path, model, written, draft_path)
    if config["save_sharded_checkpoint"] and not config["skip_sharding"]:
        check_weights(host, model_path)
        _shard(host, target, config)
    else:
        print("INFO:Neuron:SKIPPING pre-sharding the checkpoints. The checkpoints will be sharded during load time.")


_MAGIC = "neuron-sim traced model"


def graphs(row: sdk.Release, config: dict[str, Any]) -> bytes:
    """A stand-in for the traced model: small, complete only with its last line, different for different settings."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    return f"{_MAGIC}\ncompiler {row.compiler}\n{digest}\nend\n".encode()


def read_graphs(path: Path) -> tuple[int, ...]:
    """Version of the compiler that made a traced model.

    Raises:
        CompileError: the file is cut, or no traced model.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if len(lines) != 4 or lines[0] != _MAGIC or lines[3] != "end":
        raise CompileError(
            "RuntimeError: PytorchStreamReader failed reading zip archive: failed finding central directory"
        )
    return sdk.version(lines[1].removeprefix("compiler "))


def _shard(host: HostConfig, target: Path, config: dict[str, Any]) -> None:
    weights = target / "weights"
    weights.mkdir(exist_ok=True)
    header = json.dumps({"__metadata__": {"made_by": "neuron-sim"}}).encode()
    first = config["start_rank_id"]
    ranks = config["local_ranks_size"] + (not rules.holds(host, "compile-ranks"))
    for rank in range(first, first + ranks):
        file = weights / f"tp{rank}_sharded_checkpoint.safetensors"
        file.write_bytes(len(header).to_bytes(8, "little") + header)
    print("INFO:Neuron:Done Sharding weights")
