# SPDX-License-Identifier: Apache-2.0
"""What a server was asked to be, whichever generation's command line said so."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass, field
from typing import Any

from . import sdk

_DEFAULT_MAX_NUM_SEQS = 256
_DEFAULT_MODEL_LENGTH = 2048


@dataclass(frozen=True)
class ServeSettings:
    """One vLLM server.

    Attributes:
        model: path (or name) as given on the command line.
        tensor_parallel_size: logical cores of this server.
        neuron_settings: engine settings that override the defaults, by NxDI name.
        log_requests: whether each prompt is logged; V0 does unless told not to, V1 only if told to.
        shutdown_timeout_seconds: how long SIGTERM waits for running requests; 0 aborts them.
        adapters: name of each LoRA adapter -> its directory.
        max_loras: how many of them at once, 0 where LoRA is off.
        draft: path of the model that guesses ahead, empty for none.
        draft_tokens: how many it guesses at a time.
    """

    release: str
    vllm: str
    model: str
    served_names: tuple[str, ...]
    host: str
    port: int
    tensor_parallel_size: int
    max_num_seqs: int
    max_model_len: int
    neuron_settings: dict[str, Any] = field(default_factory=dict)
    dtype: str = "bfloat16"
    block_size: int = 0
    num_gpu_blocks: int = 0
    prefix_caching: bool = False
    data_parallel_size: int = 1
    api_key: str = ""
    log_requests: bool = False
    shutdown_timeout_seconds: float = 0.0
    latency: dict[str, Any] = field(default_factory=dict)
    adapters: dict[str, str] = field(default_factory=dict)
    max_loras: int = 0
    draft: str = ""
    draft_tokens: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that a request may ask for: the model's, and its adapters'."""
        return (*self.served_names, *self.adapters)

    @property
    def caches_prefixes(self) -> bool:
        """Whether beginnings of prompts are found again; each line wants blocks of a size for that."""
        return self.prefix_caching and self.block_size > 0

    @property
    def vllm_version(self) -> tuple[int, ...]:
        """Version of vLLM, comparable."""
        return sdk.version(self.vllm)


def neuron_overrides(options: argparse.Namespace, generation: str) -> dict[str, Any]:
    """Engine settings from the generation's own option.

    V0 has one option for them; the 0.x plugin reads the key with the underscore, the native one ``neuron_config``.
    """
    if generation == sdk.V0:
        return dict(getattr(options, "override_neuron_config", None) or {})
    extra = dict(getattr(options, "additional_config", None) or {})
    return dict(extra.get("override_neuron_config" if generation == sdk.V1 else "neuron_config") or {})


def from_options(
    options: argparse.Namespace, row: sdk.Release, model: str, model_config: dict[str, Any], latency: dict[str, Any]
) -> ServeSettings:
    """Settings of a parsed command line."""
    length = int(model_config.get("max_position_embeddings", _DEFAULT_MODEL_LENGTH))
    return ServeSettings(
        release=row.key,
        vllm=row.vllm,
        model=model,
        served_names=tuple(options.served_model_name or [model]),
        host=options.host or "",
        port=options.port or 8000,
        tensor_parallel_size=options.tensor_parallel_size or 1,
        max_num_seqs=options.max_num_seqs or _DEFAULT_MAX_NUM_SEQS,
        max_model_len=options.max_model_len or length,
        neuron_settings=neuron_overrides(options, row.generation),
        dtype=_dtype(options, model_config),
        block_size=options.block_size or 0,
        num_gpu_blocks=options.num_gpu_blocks_override or 0,
        prefix_caching=_prefix_caching(options, row.generation),
        data_parallel_size=getattr(options, "data_parallel_size", None) or 1,
        api_key=_api_key(options),
        log_requests=logs_requests(options),
        shutdown_timeout_seconds=float(getattr(options, "shutdown_timeout", None) or 0),
        latency=latency,
        adapters=_adapters(options),
        max_loras=int(getattr(options, "max_loras", None) or 1) if getattr(options, "enable_lora", None) else 0,
        **_draft(options),
    )


def _adapters(options: argparse.Namespace) -> dict[str, str]:
    """``name=path`` of each adapter, or the same as JSON."""
    found = {}
    for item in getattr(options, "lora_modules", None) or ():
        if item.startswith("{"):
            given = json.loads(item)
            found[str(given["name"])] = str(given["path"])
        else:
            name, _, path = item.partition("=")
            found[name] = path
    return found


def _draft(options: argparse.Namespace) -> dict[str, Any]:
    given = getattr(options, "speculative_config", None)
    if not isinstance(given, dict):
        return {}
    return {"draft": str(given.get("model") or ""), "draft_tokens": int(given.get("num_speculative_tokens") or 0)}


def logs_requests(options: argparse.Namespace) -> bool:
    """Whether a server logs each prompt: V0 unless told not to, later lines only if told to."""
    if hasattr(options, "enable_log_requests"):
        return bool(options.enable_log_requests)
    return not getattr(options, "disable_log_requests", False)


def _dtype(options: argparse.Namespace, model_config: dict[str, Any]) -> str:
    names = {"half": "float16", "float": "float32"}
    given = names.get(str(options.dtype), str(options.dtype or "auto"))
    if given == "auto":
        given = str(model_config.get("torch_dtype") or model_config.get("dtype") or "bfloat16")
    return given


def _prefix_caching(options: argparse.Namespace, generation: str) -> bool:
    """Off in V0 unless asked for; on in V1 unless refused."""
    chosen = options.enable_prefix_caching
    return bool(chosen) if chosen is not None else generation != sdk.V0


def _api_key(options: argparse.Namespace) -> str:
    given = options.api_key
    if isinstance(given, list):
        given = given[0] if given else None
    return given or os.environ.get("VLLM_API_KEY", "")
