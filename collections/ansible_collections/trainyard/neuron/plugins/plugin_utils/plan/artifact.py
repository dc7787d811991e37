# SPDX-License-Identifier: Apache-2.0
"""What a compiled model is: the inputs that make it, their digest, and what an existing one disagrees with."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Dict, List, Mapping, Optional

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import agreement
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import Deployment
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.model_options import (
    COMPILER_SETTINGS,
    spelled,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import SdkRelease
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.rendering import (
    compiled_settings,
    generation_of,
    model_type_of,
    says_off,
)

#: Raised whenever the form of the inputs changes, so that an old artifact is never taken for a new one.
INPUTS_VERSION = 1

#: Settings of the engine -> the deployment's field that they follow from; the others are keys of neuron_config.
_FIELD_OF: Mapping[str, str] = {
    "tp_degree": "tensor_parallel_size",
    "local_ranks_size": "tensor_parallel_size",
    "batch_size": "max_num_seqs",
    "is_continuous_batching": "max_num_seqs",
    "seq_len": "max_model_len",
    "torch_dtype": "dtype",
    "pa_block_size": "block_size",
    "is_block_kv_layout": "block_size",
    "is_prefix_caching": "block_size",
    "max_batch_size": "max_num_seqs",
    "tkg_batch_size": "max_num_seqs",
    "max_length": "max_model_len",
    "n_positions": "max_model_len",
}

#: Settings that an artifact may have although the deployment does not ask for them, and that change what it does: what
#: they are where nobody asks.
_UNLESS_ASKED: Mapping[str, Any] = {
    **dict.fromkeys(
        (
            "async_mode",
            "enable_bucketing",
            "enable_eagle_speculation",
            "enable_fused_speculation",
            "flash_decoding_enabled",
            "fused_qkv",
            "is_block_kv_layout",
            "is_chunked_prefill",
            "is_continuous_batching",
            "is_eagle3",
            "is_medusa",
            "is_prefix_caching",
            "k_cache_transposed",
            "kv_cache_quant",
            "output_logits",
            "quantized",
            "sequence_parallel_enabled",
        ),
        False,
    ),
    **dict.fromkeys(
        ("attention_dp_degree", "cp_degree", "ep_degree", "mlp_cp_degree", "moe_ep_degree", "pp_degree"), 1
    ),
    **dict.fromkeys(("medusa_speculation_length", "speculation_length", "windowed_context_encoding_size"), 0),
    # NxDI works its own out where none are given, and leaves them out of the file.
    **dict.fromkeys(("context_encoding_buckets", "prefix_buckets", "token_generation_buckets"), None),
}

#: Settings that NxDI sets beside another one -> that one.
_FOLLOWS: Mapping[str, str] = {
    "max_batch_size": "batch_size",
    "tkg_batch_size": "batch_size",
    "max_length": "seq_len",
    "n_positions": "seq_len",
}

#: Settings of a compilation that are in the file under another name, or in none.
_NOT_IN_THE_FILE = (*COMPILER_SETTINGS, "quantized_checkpoints_path")

#: Variables that reach the compiler; the others of a deployment tune the runtime, the server or the hub's client.
_COMPILER_VARIABLE = re.compile(
    r"XLA_\w+|NEURON_CC_FLAGS|UNSAFE_FP8FNCAST|DISABLE_NUMERIC_CC_TOKEN|NEURON_FUSE_\w+|VLLM_NEURON_BACKEND"
)


def artifact_inputs(deployment: Deployment, release: SdkRelease, logical_nc_config: int, family: str) -> Dict[str, Any]:
    """Return everything that changes the compiled model, and nothing else.

    Two deployments that differ in name, port, data parallelism, host, or in how their servers answer get the same
    inputs. What is compiled depends on the weights (shapes, and where they are sharded, their values), on the
    compiler and the library that traces the model, on the accelerator, and on the engine's settings.

    Args:
        deployment: what is compiled.
        release: the SDK row that compiles it.
        logical_nc_config: LNC it will run with.
        family: accelerator, `trn1`, `inf2`, `trn2` or `trn3`.

    Returns:
        A JSON-ready dict.
    """
    generation, deployment = generation_of(release), spelled(deployment, release)
    settings = compiled_settings(deployment, release)
    environment = {**generation.compile_environment, **deployment.environment}
    return {
        "version": INPUTS_VERSION,
        "weights": {"repo": deployment.model.repo, "revision": deployment.model.revision},
        "model_type": model_type_of(deployment) if generation.compiler == "inference_demo" else None,
        "sdk": {
            "release": release.release,
            "generation": release.generation,
            "compiler": release.compiler,
            "nxdi": release.nxdi,
            "plugin": release.plugin if generation.compiler == "serve" else None,
        },
        "family": family,
        "logical_nc_config": logical_nc_config,
        "settings": settings if generation.compiler == "serve" else _without_off(settings, release),
        "environment": {
            name: str(environment[name]) for name in sorted(environment) if _COMPILER_VARIABLE.fullmatch(name)
        },
    }


def _without_off(settings: Dict[str, Any], release: SdkRelease) -> Dict[str, Any]:
    """Return settings without those that are off, where `inference_demo` has no other way to be told so."""
    found = {}
    for key, value in settings.items():
        if value is None or (value is False and not says_off(key, release)):
            continue
        found[key] = _without_off(value, release) if isinstance(value, dict) else value
    return found


def artifact_digest(inputs: Dict[str, Any]) -> str:
    """Return the name of the artifact that these inputs make: SHA-256 of their canonical JSON, 64 hex digits."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def disagreements(
    neuron_config_json: Mapping[str, Any],
    deployment: Deployment,
    release: SdkRelease,
    logical_nc_config: int,
    where: str = "trainyard_deployment",
) -> List[Problem]:
    """Return what of a deployment an existing artifact was not made for.

    The engine loads an artifact whatever it is asked to serve: a setting that differs is ignored, or fails at the
    first request. A setting that the file does not mention is not judged.

    Args:
        neuron_config_json: the artifact's `neuron_config.json`, as parsed; NxDI writes it, so the native plugin's
            artifacts have none.
        deployment: what is to be served.
        release: its SDK row.
        logical_nc_config: LNC of the host.
        where: the variable that holds the deployment, which the problems name.
    """
    if generation_of(release).compiler != "inference_demo":
        return []
    found = agreement.differences(neuron_config_json, expected(deployment, release, logical_nc_config))
    problems = [
        _disagreement(_path(name, where), wanted, name.rsplit(".", 1)[-1], made) for name, made, wanted in found
    ]
    # What follows from one field is told once.
    return list({problem.variable: problem for problem in reversed(problems)}.values())[::-1]


def expected(deployment: Deployment, release: SdkRelease, logical_nc_config: int) -> Dict[str, Any]:
    """Return every setting that serving depends on, as the artifact's neuron_config.json has to have it.

    The native plugin's cache has no such file: its settings are those of the artifact's manifest.

    Args:
        deployment: what is to be served.
        release: its SDK row.
        logical_nc_config: LNC of the host.
    """
    deployment = spelled(deployment, release)
    settings = compiled_settings(deployment, release)
    if generation_of(release).compiler != "inference_demo":
        return settings
    wanted = {**_UNLESS_ASKED, **{name: value for name, value in settings.items() if name not in _NOT_IN_THE_FILE}}
    for name, source in _FOLLOWS.items():
        wanted.setdefault(name, settings[source])
    wanted["logical_nc_config"] = logical_nc_config
    wanted[agreement.ADAPTERS] = _adapters(settings)
    return wanted


def _adapters(settings: Mapping[str, Any]) -> Optional[Dict[str, Any]]:
    """Return how adapters are compiled in, in the words of the file; None where they are not."""
    if not settings.get("enable_lora"):
        return None
    found = {name: settings[name] for name in ("max_loras", "max_lora_rank", "target_modules", "max_cpu_loras")
             if name in settings}  # fmt: skip
    return {**found, "dynamic_multi_lora": bool(settings.get("enable_dynamic_multi_lora"))}


def _path(name: str, where: str) -> str:
    if name == "logical_nc_config":
        return "trainyard_logical_nc_config"
    if name.startswith(agreement.ADAPTERS):
        return where + ".lora"
    return "%s.%s" % (where, _FIELD_OF.get(name, "neuron_config." + name))


def _disagreement(path: str, value: Any, name: str, made: Any) -> Problem:
    shown = json.dumps(made, sort_keys=True, default=str)
    return Problem(
        "",
        path,
        value,
        "the artifact was compiled with %s %s" % (name, shown),
        "compile again, or set what the artifact was made for",
    )
