# SPDX-License-Identifier: Apache-2.0
"""What a compiled model is: the inputs that make it, their digest, and what an existing one disagrees with."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Dict, List, Mapping, Optional

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.deployment import Deployment
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.model_options import spelled
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.releases import SdkRelease
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.rendering import (
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
}

#: Settings that an artifact may have on although the deployment does not ask for them, and that change what it does.
_OFF_UNLESS_ASKED = (
    "async_mode",
    "enable_bucketing",
    "flash_decoding_enabled",
    "fused_qkv",
    "is_block_kv_layout",
    "is_chunked_prefill",
    "is_continuous_batching",
    "is_prefix_caching",
    "k_cache_transposed",
    "kv_cache_quant",
    "output_logits",
    "quantized",
    "sequence_parallel_enabled",
)

#: What on-device sampling is where the configuration does not say.
_SAMPLING_DEFAULTS: Mapping[str, Any] = {
    "do_sample": False,
    "dynamic": False,
    "top_k": 1,
    "top_p": 1.0,
    "temperature": 1.0,
    "global_topk": 256,
}

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
    nested = neuron_config_json.get("neuron_config")
    made: Mapping[str, Any] = nested if isinstance(nested, Mapping) else neuron_config_json
    if generation_of(release).compiler != "inference_demo":
        return []
    wanted = compiled_settings(deployment, release)
    sampling = wanted.pop("on_device_sampling_config")
    for name in _OFF_UNLESS_ASKED:
        wanted.setdefault(name, False)
    found = [
        _disagreement(_path(name, where), wanted[name], name, made[name])
        for name in sorted(wanted)
        if name in made and not _same(made[name], wanted[name])
    ]
    lnc = made.get("logical_nc_config", logical_nc_config)
    if lnc != logical_nc_config:
        found.append(_disagreement("trainyard_logical_nc_config", logical_nc_config, "logical_nc_config", lnc))
    return found + _sampling_disagreements(made, sampling, where)


def _path(name: str, where: str) -> str:
    return "%s.%s" % (where, _FIELD_OF.get(name, "neuron_config." + name))


def _same(made: Any, wanted: Any) -> bool:
    """Return whether two settings mean the same; NxDI writes off as false or null, and dtypes with their module."""
    if not made and not wanted:
        return True
    if isinstance(made, str) and isinstance(wanted, str):
        return made.rsplit(".", 1)[-1] == wanted.rsplit(".", 1)[-1]
    if isinstance(made, list) and isinstance(wanted, (list, tuple)):
        return sorted(made, key=str) == sorted(wanted, key=str)
    return bool(made == wanted)


def _sampling_disagreements(made: Mapping[str, Any], wanted: Optional[Mapping[str, Any]], where: str) -> List[Problem]:
    if "on_device_sampling_config" not in made:
        return []
    path = where + ".neuron_config.on_device_sampling_config"
    compiled = made["on_device_sampling_config"]
    if not isinstance(compiled, Mapping) or wanted is None:
        if not compiled and wanted is None:
            return []
        return [_disagreement(path, wanted, "on_device_sampling_config", compiled)]
    found = []
    for name, default in _SAMPLING_DEFAULTS.items():
        here, there = compiled.get(name, default), wanted.get(name, default)
        if here != there:
            found.append(_disagreement("%s.%s" % (path, name), there, name, here))
    return found


def _disagreement(path: str, value: Any, name: str, made: Any) -> Problem:
    shown = json.dumps(made, sort_keys=True, default=str)
    return Problem(
        "",
        path,
        value,
        "the artifact was compiled with %s %s" % (name, shown),
        "compile again, or set what the artifact was made for",
    )
