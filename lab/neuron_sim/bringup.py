# SPDX-License-Identifier: Apache-2.0
"""From a started engine to one that can answer: find or make the artifact, load, warm up, or fail as it fails there.

Sources: the model loaders of the V0 fork (``model_executor/model_loader/neuronx_distributed.py``) and of the plugin
(``worker/neuronx_distributed_model_loader.py``), ``models/application_base.py`` of NxDI, the runtime's troubleshooting
guide, the native plugin's documentation. Derived rules say so.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import compiler, faults, neuron_config, rules, sdk
from .config import HostConfig, logical_nc_config
from .hardware import InstanceType, instance_type
from .latency import Shape
from .settings import ServeSettings

# Source: a checkpoint of 405B (810 GB) loads in 108 s when pre-sharded and in 187 s when sharded on load.
_PRESHARDED_BYTES_PER_SECOND = 7.5e9
_SHARD_ON_LOAD_BYTES_PER_SECOND = 4.3e9
_LOAD_BASE_SECONDS = 20.0
_WARMUP_SECONDS_PER_GRAPH = 1.0
# What a start takes of the host's memory where it does not keep to the rule, bytes.
_MEMORY_OFF = 3 << 29
# Derived: what the runtime, code and scratch take of a core's memory.
_RESERVED_SHARE = 0.1
# What vLLM 0.7 to 0.9's Neuron loader knows, and the plugin (NxDI's MODEL_TYPES without multi-modal ones).
_V0_ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "DbrxForCausalLM",
    "MixtralForCausalLM",
    "MllamaForConditionalGeneration",
)
_V0_QWEN = ("Qwen2ForCausalLM", "Qwen3ForCausalLM")
_V1_MODELS = ("llama", "mixtral", "dbrx", "qwen2", "qwen3", "qwen3moe", "llama4", "mllama", "gptoss")


class BringUpError(Exception):
    """The engine cannot start; the message is what it prints before it ends."""


@dataclass(frozen=True)
class Loaded:
    """An engine that is up.

    Attributes:
        config: NxDI's settings that are in force (empty for the native plugin).
        longest_prompt, longest_sequence: tokens that the compiled graphs take.
        batch: sequences that they take.
        broken: what the first request will die of; empty when all is well.
    """

    config: dict[str, Any]
    longest_prompt: int
    longest_sequence: int
    batch: int
    prefill_buckets: tuple[int, ...]
    decode_buckets: tuple[int, ...]
    broken: str = ""


def say(text: str, level: str = "INFO") -> None:
    """A line of the engine's log."""
    print(f"{level} {time.strftime('%m-%d %H:%M:%S')} {text}", file=sys.stderr, flush=True)


def loader_line(vllm: tuple[int, ...], text: str, level: str = "INFO") -> str:
    """A line of the model loader as each vLLM line prints it (sources: logs in issues of the fork and of the plugin).

    The fork's loader speaks through vLLM's logger; the plugin's is none of vLLM's own, and V1 names the process first.
    """
    if vllm >= (0, 11):
        return f"(EngineCore_DP0 pid={os.getpid()}) {level}:vllm_neuron.worker.neuronx_distributed_model_loader:{text}"
    source = "neuronx_distributed.py:244]" if vllm < (0, 8) else "[neuronx_distributed.py:244]"
    return f"{level} {time.strftime('%m-%d %H:%M:%S')} {source} {text}"


# The documentation leaves out what stands between the operation and the verdict.
COLLECTIVE_TEXT = (
    "ERROR  NRT: Collective operation REDUCE_SCATTER with this replica group is currently not supported\n"
    "ERROR  NRT: Failed to schedule neff execution. status=2 message=Invalid"
)


class _BringUp:
    """One engine's way up."""

    def __init__(self, host: HostConfig, row: sdk.Release, serve: ServeSettings, cores: tuple[int, ...]) -> None:
        self.host, self.row, self.serve, self.cores = host, row, serve, cores
        self.kind: InstanceType = instance_type(host.instance_type)
        self.lnc = logical_nc_config(host)
        self.model = compiler.load_model_config(serve.model)

    @property
    def devices(self) -> set[int]:
        per_device = self.kind.cores_per_device(self.lnc)
        return {core // per_device for core in self.cores}

    def loader_says(self, text: str, level: str = "INFO") -> None:
        """A line of the model loader."""
        print(loader_line(self.row.vllm_version, text, level), file=sys.stderr, flush=True)

    def says(self, text: str) -> None:
        """A line about how far the start is."""
        if rules.holds(self.host, "start-log"):
            say(text)

    def wait(self, seconds: float) -> None:
        """Let modelled time pass."""
        time.sleep(seconds * self.host.time_scale)

    # -- the runtime ------------------------------------------------------------------------------------------------

    def initialise_runtime(self) -> None:
        """What ``nrt_init`` finds: device nodes, a reset that works, a core count the collectives take."""
        for device in sorted(self.devices):
            if not self.host.path(f"/dev/neuron{device}").exists():
                raise BringUpError(f"ERROR  TDRV:tdrv_init Could not open the nd{device}")
        fault = faults.find(self.host, "device-reset-failure", devices=self.devices)
        if fault:
            mask = (1 << self.kind.cores_per_device(self.lnc)) - 1
            raise BringUpError(
                f"ERROR  TDRV:tdrv_init_wait_ncs_ready Failed to reset nd {fault.device} nc_map {mask:#x} "
                "timeout (result=-110)"
            )
        self.check_memory_errors()
        wanted = self.serve.tensor_parallel_size
        if wanted not in self.kind.legal_tp and rules.holds(self.host, "topology-degree"):
            if self.kind.family == "inf2" and self.row.generation == sdk.V0:
                raise BringUpError("KeyError: 'LOCAL_WORLD_SIZE'")
            legal = ", ".join(map(str, self.kind.legal_tp[:-1]))
            raise BringUpError(
                "ERROR  NRT:nrt_load_collectives Unsupported topology. Supported number of Neuron Cores is "
                f"{legal} or a multiple of {self.kind.legal_tp[-1]}"
            )

    def check_memory_errors(self) -> None:
        """Devices whose memory failed stay unusable until they are repaired."""
        for kind in ("hbm-error", "repairable-hbm-error", "sram-error"):
            fault = faults.find(self.host, kind, devices=self.devices)
            if fault:
                raise BringUpError(memory_error_text(kind, fault.device))

    @property
    def misaligned(self) -> bool:
        """Source: native plugin's disaggregation tutorial: a slice starts at a multiple of its own size on trn2."""
        aligned = self.cores[0] % self.serve.tensor_parallel_size == 0
        return self.kind.family == "trn2" and not aligned and rules.holds(self.host, "slice-start")

    def check_memory(self, batch: int, longest: int) -> None:
        """Weights and KV cache have to fit the cores' HBM."""
        degree = self.serve.tensor_parallel_size
        shape = Shape.of(self.model)
        weights = compiler.checkpoint_bytes(self.serve.model, self.model) / degree
        cache = batch * longest * shape.kv_bytes_per_token_and_core(degree)
        if self.serve.draft:
            draft = compiler.load_model_config(self.serve.draft)
            weights += compiler.checkpoint_bytes(self.serve.draft, draft) / degree
            cache += batch * longest * Shape.of(draft).kv_bytes_per_token_and_core(degree)
        room = self.kind.core_memory_bytes(self.lnc)
        if weights + cache > room * (1 - _RESERVED_SHARE):
            core = self.cores[0]
            per_device = self.kind.cores_per_device(self.lnc)
            usage = "tensors" if weights < room * (1 - _RESERVED_SHARE) else "model weights"
            size = (cache if usage == "tensors" else weights) / 1024**3
            raise BringUpError(
                f"ERROR  TDRV:log_dev_mem Failed to allocate {size:.3f}GB (alignment: none, usage: {usage}) on ND "
                f"{core // per_device}:NC {core % per_device}\n"
                'RuntimeError: nrt_tensor_allocate status=4 message="Allocation Failure"'
            )

    def check_options(self, config: dict[str, Any]) -> None:
        """Adapters and a draft are in the graphs or they are not there; the texts are NxDI's where they are known."""
        lora: dict[str, Any] = config.get("lora_config") or {}
        if self.serve.max_loras and not lora:
            raise BringUpError("ValueError: LoRA is enabled, but the compiled model has no lora_config")
        if self.serve.max_loras and self.serve.max_loras > lora["max_loras"]:
            raise BringUpError(
                f"ValueError: max_loras ({self.serve.max_loras}) is over the compiled model's {lora['max_loras']}"
            )
        self._check_adapters(lora)
        for name, path in self.serve.adapters.items():
            if not Path(path).is_dir():
                raise BringUpError(f"FileNotFoundError: LoRA adapter path {path} for adapter ID {name} is not found")
        if self.serve.draft and not config.get("enable_fused_speculation"):
            raise BringUpError("ValueError: speculative decoding is asked for, and the compiled model has no draft")
        if config.get("enable_fused_speculation") and not self.serve.draft:
            raise BringUpError(
                "AssertionError: Must pass speculative_config to load weights if using Neuron Speculation."
            )

    def _check_adapters(self, lora: dict[str, Any]) -> None:
        """Where NxDI finds adapters: the loaded configuration's paths; the plugin has a file of its own beside them.

        Derived: the model manager and the weights are of ``neuron_config.lora_config`` (NxDI, application_base.py).
        """
        known = {**(lora.get("lora_ckpt_paths") or {}), **(lora.get("lora_ckpt_paths_cpu") or {})}
        for name, path in self.serve.adapters.items():
            if known.get(name) != path:
                raise BringUpError(f"KeyError: adapter ID {name!r} is not in lora_ckpt_paths of the compiled model")
        if self.row.generation != sdk.V1 or not self.serve.adapters:
            return
        named = self.serve.neuron_settings.get("lora_ckpt_json")
        try:
            listed = json.loads(Path(str(named)).read_text(encoding="utf-8"))["lora-ckpt-paths"]
        except (OSError, ValueError, KeyError) as error:
            raise BringUpError(f"FileNotFoundError: LoRA adapter path {named} is not found ({error})") from error
        if set(listed) != set(self.serve.adapters):
            raise BringUpError(f"KeyError: lora_ckpt_json has {sorted(listed)}")

    # -- NxDI: the V0 fork and the plugin 0.x -----------------------------------------------------------------------

    def check_architecture(self) -> None:
        """The loaders' lists of models."""
        names = self.model.get("architectures") or []
        if self.row.generation == sdk.V0:
            known = _V0_ARCHITECTURES + (_V0_QWEN if self.row.nxdi_minor >= 5 else ())
            if not any(name in known for name in names):
                raise BringUpError(
                    f"ValueError: Model architectures {names} are not supported on Neuron for now. "
                    f"Supported architectures: {list(known)}"
                )
        elif self.row.generation == sdk.V1:
            name = str(names[0]) if names else ""
            if name.partition("For")[0].lower() not in _V1_MODELS:
                raise BringUpError(
                    f"ValueError: Model {name} is not supported on Neuron for now. Supported models: {list(_V1_MODELS)}"
                )

    def default_settings(self) -> dict[str, Any]:
        """The loaders' own settings for these arguments, before overrides."""
        serve = self.serve
        settings: dict[str, Any] = {
            "tp_degree": serve.tensor_parallel_size,
            "ctx_batch_size": 1,
            "batch_size": serve.max_num_seqs,
            "max_context_length": serve.max_model_len,
            "seq_len": serve.max_model_len,
            "enable_bucketing": True,
            "torch_dtype": serve.dtype,
            "padding_side": "right",
            "on_device_sampling_config": {"dynamic": True, "deterministic": False},
        }
        fork = self.row.generation == sdk.V0 and self.row.vllm_version >= (0, 8)
        settings["is_continuous_batching"] = fork or serve.max_num_seqs > 1
        if serve.max_loras:
            settings |= {"enable_lora": True, "max_loras": serve.max_loras}
        if serve.draft:
            settings |= {"enable_fused_speculation": True, "speculation_length": serve.draft_tokens}
        if self.row.generation == sdk.V0:
            settings["sequence_parallel_enabled"] = True
        else:
            settings |= self._block_settings()
        return settings

    def _block_settings(self) -> dict[str, Any]:
        """The plugin's rules about KV blocks (``_handle_pa_num_blocks``, ``_validate_neuron_config``)."""
        serve = self.serve
        if not serve.prefix_caching:
            return {"pa_num_blocks": serve.num_gpu_blocks or serve.max_num_seqs, "pa_block_size": serve.max_model_len}
        if not serve.block_size and not rules.holds(self.host, "prefix-needs-blocks"):
            return {"pa_num_blocks": serve.num_gpu_blocks or serve.max_num_seqs, "pa_block_size": serve.max_model_len}
        if not serve.block_size:
            raise BringUpError("AssertionError: When prefix caching is enabled, block_size must be set.")
        needed = -(-serve.max_model_len // serve.block_size) * serve.max_num_seqs
        given = serve.neuron_settings.get("pa_num_blocks")
        if given is not None and given != serve.num_gpu_blocks:
            raise BringUpError(
                f"ValueError: When setting pa_num_blocks ({given}) in override_neuron_config, you must also set "
                "--num-gpu-blocks-override to the same value to ensure vLLM and NxDI have consistent block counts."
            )
        blocks = (serve.num_gpu_blocks + 1) if serve.num_gpu_blocks else needed
        if serve.num_gpu_blocks and serve.num_gpu_blocks < needed:
            raise BringUpError(
                f"AssertionError: At least {needed} blocks are required for max_model_len {serve.max_model_len}, but "
                f"only {serve.num_gpu_blocks} blocks are available"
            )
        return {
            "is_block_kv_layout": True,
            "is_prefix_caching": True,
            "pa_num_blocks": blocks,
            "pa_block_size": serve.block_size,
        }

    def artifact_path(self, config: dict[str, Any]) -> Path:
        """Where the compiled model is looked for; without the variable its place is emptied first."""
        chosen = os.environ.get("NEURON_COMPILED_ARTIFACTS")
        # An empty value counts as set in V0 (`is not None`) and as unset in the plugin (truth).
        truth = (self.row.generation == sdk.V1) is rules.holds(self.host, "empty-artifact-variable")
        if chosen if truth else chosen is not None:
            return Path(chosen or "")
        if not rules.holds(self.host, "no-artifact-variable") and chosen is None:
            raise BringUpError("ValueError: NEURON_COMPILED_ARTIFACTS is not set")
        text = json.dumps({"model": self.model, "neuron_config": config}, sort_keys=True)
        digest = hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
        path = Path(self.serve.model) / "neuron-compiled-artifacts" / digest
        shutil.rmtree(path, ignore_errors=True)
        return path

    def load_artifact(self, path: Path) -> dict[str, Any]:
        """The compiled model's settings.

        Raises:
            FileNotFoundError: part of it is missing (the loaders take that as "compile it").
            ValueError: its configuration cannot be read (likewise).
            compiler.CompileError: its graphs are cut.
        """
        given = os.environ.get("NEURON_COMPILED_ARTIFACTS")
        if given and not path.is_dir() and not rules.holds(self.host, "wrong-artifact"):
            raise BringUpError(f"FileNotFoundError: no artifact in {path}")
        data = json.loads((path / neuron_config.CONFIG_FILE).read_text(encoding="utf-8"))
        config: dict[str, Any] = data["neuron_config"]
        graphs = path / neuron_config.MODEL_FILE
        if not graphs.exists() and not rules.holds(self.host, "artifact-without-graphs"):
            raise BringUpError(f"FileNotFoundError: {graphs}")
        if not graphs.exists():
            raise ValueError(f"The provided filename {path}/{neuron_config.MODEL_FILE} does not exist")
        try:
            made_by = compiler.read_graphs(graphs)
        except compiler.CompileError as error:
            if rules.holds(self.host, "cut-artifact"):
                raise
            raise ValueError(str(error)) from error
        if made_by > sdk.version(self.row.compiler):
            raise BringUpError("ERROR  NRT:nrt_load NEFF version mismatch supported: 1.1 received: 2.0")
        if config["tp_degree"] > len(self.cores) and rules.holds(self.host, "too-few-cores"):
            raise BringUpError(
                f"ERROR  NRT:nrt_load Not enough NeuronCores: the model needs {config['tp_degree']}, "
                f"{len(self.cores)} are visible. status=9 message=LOAD_NOT_ENOUGH_NC"
            )
        self._load_weights(path, config, str(data.get("_name_or_path", self.serve.model)))
        return config

    def _load_weights(self, path: Path, config: dict[str, Any], compiled_from: str) -> None:
        size = compiler.checkpoint_bytes(self.serve.model, self.model)
        if config["save_sharded_checkpoint"]:
            first, count = config["start_rank_id"], config["local_ranks_size"]
            self.says(f"Loading presharded checkpoints for {first}...{first + count - 1}")
            for rank in range(first, first + count):
                file = path / f"weights/tp{rank}_sharded_checkpoint.safetensors"
                if not file.exists():
                    raise FileNotFoundError(f"No such file or directory: {file}")
            rate = _PRESHARDED_BYTES_PER_SECOND
        else:
            # The artifact remembers where its weights were; 0.3 and later look there, not at the server's own argument.
            if not Path(compiled_from).is_dir() and not rules.holds(self.host, "moved-weights"):
                compiled_from = self.serve.model
            if not Path(compiled_from).is_dir():
                raise BringUpError(f"OSError: Incorrect path_or_model_id: '{compiled_from}'.")
            self.says("Sharding weights on load...")
            compiler.check_weights(self.host, compiled_from)
            rate = _SHARD_ON_LOAD_BYTES_PER_SECOND
        seconds = _LOAD_BASE_SECONDS + size / rate
        held = b"\1" * _MEMORY_OFF if not rules.holds(self.host, "load-memory") else b""
        self.wait(seconds)
        del held
        self.says(f"Finished weights loading in {seconds * self.host.time_scale} seconds")

    def nxdi(self) -> Loaded:
        """The way up of both NxDI generations."""
        self.check_architecture()
        settings = {**self.default_settings(), **self.serve.neuron_settings}
        wanted = neuron_config.build(settings, nxdi=self.row.nxdi, lnc=self.lnc, target=self.kind.family)
        path = self.artifact_path(wanted)
        try:
            config = self.load_artifact(path)
            if not rules.holds(self.host, "artifact-is-loaded") and not self.misaligned:
                self.loader_says(self._recompiling(path), "WARNING")
            if self.row.generation == sdk.V0:
                config = {**config, **self.serve.neuron_settings}
            else:
                self.loader_says(f"Successfully loaded pre-compiled model artifacts from {path}")
                if self.serve.neuron_settings and rules.holds(self.host, "ignored-overrides"):
                    self.loader_says("Using pre-compiled artifacts, override_neuron_config will be ignored", "WARNING")
        except (FileNotFoundError, NotADirectoryError, ValueError) as error:
            self.loader_says(f"Exception: {error}", "WARNING")
            self.loader_says(self._recompiling(path), "WARNING")
            compiler.compile_model(self.host, self.row, self.serve.model, wanted, path, draft_path=self.serve.draft)
            config = self.load_artifact(path)
        self.check_options(config)
        self.check_memory(int(config["max_batch_size"]), int(config["seq_len"]))
        return self.warm_up(config)

    def _recompiling(self, path: Path) -> str:
        """What the loaders say when they compile although an artifact was given."""
        if self.row.generation == sdk.V0:
            return f"Failed to load the model from {path} Recompiling..."
        return f"Unable to find precompiled artifacts from {path}. Recompiling..."

    def warm_up(self, config: dict[str, Any]) -> Loaded:
        """NxDI turns what fails in a warm-up into a warning: the first request meets it again."""
        broken = COLLECTIVE_TEXT if self.misaligned else ""
        if config["skip_warmup"]:
            say("Skipping model warmup")
        else:
            self.says("Warming up the model.")
            seconds = neuron_config.graph_count(config) * _WARMUP_SECONDS_PER_GRAPH
            self.wait(seconds)
            if broken:
                say(
                    "Received a RuntimeError during warmup of a model tagged as context_encoding_model. "
                    "This is safe to ignore.",
                    "WARNING",
                )
            self.says(f"Warmup completed in {seconds * self.host.time_scale} seconds.")
        prefill, decode = neuron_config.bucket_lists(config)
        return Loaded(
            config=config,
            longest_prompt=int(config["max_context_length"]),
            longest_sequence=int(config["max_length"]),
            batch=int(config["max_batch_size"]),
            prefill_buckets=tuple(prefill),
            decode_buckets=tuple(decode),
            broken=broken,
        )

    # -- the native plugin ------------------------------------------------------------------------------------------

    def native(self) -> Loaded:
        """The native plugin: a graph cache below ``VLLM_CACHE_ROOT``, warm-up that really runs."""
        serve = self.serve
        visible = os.environ.get("NEURON_VISIBLE_DEVICES", "").strip()
        if visible and len(self.cores) != serve.tensor_parallel_size * serve.data_parallel_size:
            raise BringUpError(
                f"AssertionError: TP ({serve.tensor_parallel_size}) != len(NEURON_VISIBLE_DEVICES) ({len(self.cores)})"
            )
        compiler.check_weights(self.host, serve.model)
        self.check_memory(serve.max_num_seqs, serve.max_model_len)
        held = b"\1" * _MEMORY_OFF if not rules.holds(self.host, "load-memory") else b""
        self.wait(
            _LOAD_BASE_SECONDS + compiler.checkpoint_bytes(serve.model, self.model) / _PRESHARDED_BYTES_PER_SECOND
        )
        del held
        self.says("Model loading finished")
        self._native_graphs()
        if self.misaligned:
            bucket = self._native_buckets()[0]
            raise BringUpError(f"{COLLECTIVE_TEXT}\nRuntimeError: Model warmup failed for prefill bucket {bucket}")
        buckets = tuple(self._native_buckets())
        return Loaded({}, serve.max_model_len, serve.max_model_len, serve.max_num_seqs, buckets, buckets)

    def _native_buckets(self) -> list[int]:
        given = self.serve.neuron_settings.get("num_batched_tokens_buckets")
        return sorted(given) if given else neuron_config.powers_of_two(self.serve.max_model_len)

    def _native_graphs(self) -> None:
        root = os.environ.get("VLLM_CACHE_ROOT") or Path("~/.cache/vllm").expanduser()
        identity = {
            "model": self.model,
            "tp": self.serve.tensor_parallel_size,
            "seqs": self.serve.max_num_seqs,
            "length": self.serve.max_model_len,
            "settings": self.serve.neuron_settings,
            "block_size": self.serve.block_size,
            "compiler": self.row.compiler,
            "vllm": self.row.vllm,
            "lnc": self.lnc,
        }
        digest = hashlib.md5(json.dumps(identity, sort_keys=True).encode(), usedforsecurity=False).hexdigest()
        entry = Path(root) / "neuron" / "compile_cache" / digest
        if (entry / ".compilation_complete").exists():
            self.says(f"Using cached graphs from {entry}")
            return
        forbidden = os.environ.get("VLLM_NEURON_DISABLE_WARMUP_COMPILE") == "1"
        if forbidden and rules.holds(self.host, "forbidden-compile"):
            raise BringUpError(
                f"RuntimeError: no compiled graph in {entry} and VLLM_NEURON_DISABLE_WARMUP_COMPILE=1 forbids compiling"
            )
        self.says(f"Compiling graphs into {entry}")
        entry.mkdir(parents=True, exist_ok=True)
        config = {"enable_bucketing": True, "max_context_length": self.serve.max_model_len, "max_length": 1}
        self.wait(compiler.compile_seconds(self.model, config))
        if faults.find(self.host, "compile-failure"):
            raise BringUpError("RuntimeError: neuronx-cc compilation failed with 70")
        (entry / "graph.neff").write_text("stand-in\n", encoding="utf-8")
        if rules.holds(self.host, "graphs-are-kept"):
            (entry / ".compilation_complete").touch()


def memory_error_text(kind: str, device: int) -> str:
    """What the runtime says of memory that failed; both HBM texts start alike, their ends tell what to do."""
    if kind == "sram-error":
        return (
            f"(FATAL-RT-UNDEFINED-STATE) [ND {device}][NC 0] Uncorrectable memory error is detected, metadata: 0x16. "
            "Please terminate or stop/start this instance to prevent future impact from the hardware error."
        )
    advice = (
        "terminate this instance" if kind == "hbm-error" else "reload the neuron driver or reboot your EC2 instance"
    )
    return (
        "(FATAL-RT-UNDEFINED-STATE) Uncorrectable HBM memory error is detected. Execution results may be invalid. "
        f"Please {advice} to prevent future impact from the hardware error."
    )


def check_arguments(host: HostConfig, row: sdk.Release, serve: ServeSettings, model: dict[str, Any]) -> None:
    """What vLLM refuses before any engine starts.

    Raises:
        BringUpError: with vLLM's own words.
    """
    heads = Shape.of(model).heads
    divides = heads % serve.tensor_parallel_size == 0 or not rules.holds(host, "heads-divide")
    if row.generation != sdk.V1 and not divides:
        raise BringUpError(
            f"ValueError: Total number of attention heads ({heads}) must be divisible by tensor parallel size "
            f"({serve.tensor_parallel_size})."
        )
    longest = int(model.get("max_position_embeddings", serve.max_model_len))
    allowed = os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN") == "1" or row.generation == sdk.V1
    if serve.max_model_len > longest and not allowed and rules.holds(host, "model-length"):
        raise BringUpError(
            f"ValueError: User-specified max_model_len ({serve.max_model_len}) is greater than the derived "
            f"max_model_len (max_position_embeddings={longest} or model_max_length=None in model's config.json). This "
            "may lead to incorrect model outputs or CUDA errors. To allow overriding this maximum, set the env var "
            "VLLM_ALLOW_LONG_MAX_MODEL_LEN=1"
        )


def bring_up(host: HostConfig, row: sdk.Release, serve: ServeSettings, cores: tuple[int, ...]) -> Loaded:
    """Do all of it, taking the modelled time.

    Raises:
        BringUpError: with what the engine prints; and compiler.ModelError, compiler.CompileError, OSError likewise.
    """
    work = _BringUp(host, row, serve, cores)
    work.initialise_runtime()
    return work.native() if row.generation == sdk.NATIVE else work.nxdi()
