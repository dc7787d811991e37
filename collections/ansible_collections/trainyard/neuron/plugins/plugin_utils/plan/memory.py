# SPDX-License-Identifier: Apache-2.0
"""Memory of deployments on a host: what fits on its cores, what its replicas take while they load, and on disk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.versions import version_number
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import Deployment, ModelRef
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.fit import (
    GIB,
    ConfigError,
    Fit,
    ModelShape,
    artifact_bytes,
    degrees_for,
    disk_bytes,
    estimate_fit,
    fit_problems,
    head_problems,
    host_bytes_per_load,
    length_problems,
    loads_at_once,
    reserved_bytes_per_core,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.model_options import spelled
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.parts import HostMemory
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import NATIVE, SdkRelease
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.rendering import block_count

#: A head that guesses has one layer, some have two; a whole model has more.
MOST_HEAD_LAYERS = 4

#: Of what vLLM takes of the device (`gpu-memory-utilization`), the native plugin gives its KV cache at most this share;
#: from SDK 2.33 on it is measured instead.
CAP_VARIABLE, CAP_SHARE, UNCAPPED_SINCE = "VLLM_NEURON_KV_GMU_BUDGET_CAP_FRACTION", 0.30, (2, 33)
MEMORY_UTILIZATION = 0.9


def is_presharded(deployment: Deployment) -> bool:
    """Return whether the artifact holds the weights, cut for each core."""
    return bool(deployment.neuron_config.get("save_sharded_checkpoint"))


def deployment_fit(
    deployment: Deployment,
    release: SdkRelease,
    shape: ModelShape,
    hbm_bytes_per_core: int,
    draft: Optional[ModelShape] = None,
) -> Fit:
    """Estimate what one core of a replica needs; the formulas are `fit.estimate_fit`'s.

    A draft needs its weights and its own KV cache; adapters are cut for the cores, and one more slot stands empty for
    requests of the model itself.

    Args:
        deployment: the deployment.
        release: its SDK row.
        shape: its model.
        hbm_bytes_per_core: device memory of one logical core.
        draft: the model that guesses ahead, where its size is known.

    Raises:
        ConfigError: the deployment's dtype, or that of its cache, is not known.
    """
    deployment = spelled(deployment, release)
    config = deployment.neuron_config
    paged = deployment.block_size is not None and release.generation != NATIVE and "pa_num_blocks" in config
    fit = estimate_fit(
        shape,
        tensor_parallel_size=deployment.tensor_parallel_size,
        max_num_seqs=deployment.max_num_seqs,
        max_model_len=deployment.max_model_len,
        hbm_bytes_per_core=hbm_bytes_per_core,
        dtype=_weights_dtype(deployment, release, shape),
        kv_dtype=_cache_dtype(deployment, release),
        kv_tokens=block_count(deployment) * deployment.block_size if paged and deployment.block_size else None,
        prompt_tokens=_prompt_tokens(deployment),
        reserved_bytes=reserved_bytes_per_core(version_number(release.runtime)),
    )
    cores = deployment.tensor_parallel_size
    adapters = 0
    if deployment.lora is not None:
        each = shape.adapter_bytes(deployment.lora.max_rank, deployment.lora.target_modules)
        adapters = -(-(deployment.lora.max_loras + 1) * each // cores)
    guess = 0
    if draft is not None:
        cache = deployment.max_num_seqs * deployment.max_model_len * draft.kv_bytes_per_token(cores, deployment.dtype)
        guess = -(-(draft.weights_bytes(deployment.dtype) + cache) // cores)
    return replace(fit, adapters=adapters, draft=guess)


def _weights_dtype(deployment: Deployment, release: SdkRelease, shape: ModelShape) -> str:
    """Return what the weights are held in on the device: quantized where the compiler, or natively the file, has it."""
    if release.generation != NATIVE:
        if deployment.neuron_config.get("quantized"):
            return str(deployment.neuron_config.get("quantization_dtype", "int8"))
        return deployment.dtype
    return "fp8" if shape.quantization == "fp8" else deployment.dtype


def _cache_dtype(deployment: Deployment, release: SdkRelease) -> str:
    """Return what the KV cache is held in: `inference_demo` compiles it in, and the flag is the native server's."""
    if release.generation != NATIVE:
        return "fp8" if deployment.neuron_config.get("kv_cache_quant") else deployment.dtype
    named = str(deployment.engine_args.get("kv-cache-dtype") or "auto")
    short = next((kind for kind in ("fp8", "int8") if named.startswith(kind)), named)
    return deployment.dtype if named == "auto" else short


def _prompt_tokens(deployment: Deployment) -> Optional[int]:
    """Return the tokens of a prompt that are worked on at once, None for the whole sequence."""
    for given in (
        deployment.neuron_config.get("max_context_length"),
        _last(deployment.neuron_config.get("num_batched_tokens_buckets")),
    ):
        if isinstance(given, int):
            return given
    return None


def _last(values: Any) -> Any:
    return values[-1] if isinstance(values, list) and values else None


def memory_problems(
    deployment: Deployment,
    release: SdkRelease,
    shape: ModelShape,
    hbm_bytes_per_core: int,
    where: str,
    legal: Sequence[int] = (),
    draft: Optional[ModelShape] = None,
) -> Tuple[List[Problem], List[Problem]]:
    """Return (problems, warnings) of a deployment's model on the cores of a host.

    Args:
        deployment: as `deployment_fit`, and the next three.
        release: its SDK row.
        shape: its model.
        hbm_bytes_per_core: device memory of one logical core.
        where: the variable that holds the deployment, which the problems name.
        legal: tensor parallel degrees that the host runs.
        draft: as `deployment_fit`.
    """
    cores = deployment.tensor_parallel_size
    problems, warnings = head_problems(shape, cores, release.generation, where, legal)
    too_long, surprising = length_problems(shape, deployment.max_model_len, where, release.generation)
    if deployment.environment.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN") == "1":
        too_long, surprising = [], too_long + surprising
    problems, warnings = problems + too_long, warnings + surprising
    try:
        fit = deployment_fit(deployment, release, shape, hbm_bytes_per_core, draft)
    except ConfigError as error:
        fix = "use a dtype that is known here"
        return [*problems, Problem("", where + ".dtype", deployment.dtype, str(error), fix)], []
    problems += _draft_problems(deployment, shape, draft, where)
    warnings += _cap_warnings(deployment, release, fit, where)
    if deployment.speculation is not None and draft is None:
        rule = "has no size that is known here, so the estimate counts nothing of it"
        path = where + ".speculation.model.repo"
        warnings.append(Problem("", path, deployment.speculation.model.repo, rule, "leave it some room"))
    if shape.sees:
        rule = "also reads images: the part that does is in no estimate of memory"
        warnings.append(Problem("", where + ".model.repo", deployment.model.repo, rule, "leave it some room"))
    degrees = degrees_for(shape, legal, release.generation)
    return problems + fit_problems(fit, cores, where, degrees), warnings


def _draft_problems(
    deployment: Deployment, shape: ModelShape, draft: Optional[ModelShape], where: str
) -> List[Problem]:
    """Return why a model cannot guess for another one."""
    if deployment.speculation is None or draft is None:
        return []
    path, repo = where + ".speculation.model.repo", deployment.speculation.model.repo
    if deployment.speculation.method != "draft":
        if draft.layers <= MOST_HEAD_LAYERS:
            return []
        rule = "is a whole model with %d layers, and %s wants a head that was trained for this one" % (
            draft.layers,
            deployment.speculation.method,
        )
        return [Problem("", path, repo, rule, "name such a head, or use method draft with nxdi_v0")]
    if draft.vocabulary != shape.vocabulary:
        rule = "has %d tokens, and the model %d: its guesses would mean other words" % (
            draft.vocabulary,
            shape.vocabulary,
        )
        return [Problem("", path, repo, rule, "name a small model of the same family")]
    if draft.parameters >= shape.parameters:
        rule = "is as large as the model that it is to be faster than"
        return [Problem("", path, repo, rule, "name a small model of the same family")]
    return []


def _cap_warnings(deployment: Deployment, release: SdkRelease, fit: Fit, where: str) -> List[Problem]:
    """Return that the native plugin caps its KV cache below what every sequence at full length takes."""
    if release.generation != NATIVE or release.number[:2] >= UNCAPPED_SINCE:
        return []
    try:
        share = float(deployment.environment.get(CAP_VARIABLE, CAP_SHARE))
        use = float(deployment.engine_args.get("gpu-memory-utilization", MEMORY_UTILIZATION))
    except (TypeError, ValueError):
        return []
    cap = fit.available * use * share
    if fit.kv_cache <= cap:
        return []
    whole = int(deployment.max_num_seqs * cap / fit.kv_cache)
    rule = "want an estimated %.1f GiB of KV cache a core, which the plugin caps at %.1f GiB: %d at full length fit" % (
        fit.kv_cache / GIB,
        cap / GIB,
        whole,
    )
    fix = "lower max_num_seqs or max_model_len, or raise environment.%s" % CAP_VARIABLE
    return [Problem("", where + ".max_num_seqs", deployment.max_num_seqs, rule, fix)]


def further_bytes(
    deployment: Deployment, shape: ModelShape, shape_of: Callable[[ModelRef], Optional[ModelShape]]
) -> Dict[ModelRef, int]:
    """Estimate the bytes of the checkpoints that a deployment needs beside its model; arguments as `host_memory`."""
    found: Dict[ModelRef, int] = {}
    draft = None if deployment.speculation is None else shape_of(deployment.speculation.model)
    if deployment.speculation is not None and draft is not None:
        found[deployment.speculation.model] = draft.checkpoint_bytes
    quantized = deployment.quantization
    if quantized is not None and quantized.checkpoint is not None:
        found[quantized.checkpoint] = shape.weights_bytes("int8" if quantized.weights == "int8" else "fp8")
    if deployment.lora is not None:
        each = shape.adapter_bytes(deployment.lora.max_rank, deployment.lora.target_modules)
        found.update({adapter.model: each for adapter in deployment.lora.adapters})
    return found


def host_memory(
    replicas: Sequence[Tuple[Deployment, SdkRelease, ModelShape]],
    artifacts: Sequence[Tuple[Deployment, ModelShape]],
    host_memory_bytes: int,
    shape_of: Callable[[ModelRef], Optional[ModelShape]] = lambda _model: None,
) -> HostMemory:
    """Estimate what a host's replicas take of its memory and its disk.

    Args:
        replicas: each replica's deployment, SDK row and model.
        artifacts: one deployment and model for each artifact that the host holds.
        host_memory_bytes: memory of the host.
        shape_of: what is known of a further checkpoint, a draft; one that nobody knows is not counted.
    """
    checkpoints: Dict[ModelRef, int] = {}
    per_load = 0
    for deployment, release, shape in replicas:
        own = further_bytes(deployment, shape, shape_of)
        checkpoints.update({deployment.model: shape.checkpoint_bytes, **own})
        loaded = shape.checkpoint_bytes + sum(own.values())
        per_load = max(per_load, host_bytes_per_load(loaded, release.generation, is_presharded(deployment)))
    sizes = [
        artifact_bytes(shape.weights_bytes(deployment.dtype), is_presharded(deployment))
        for deployment, shape in artifacts
    ]
    steady, peak = disk_bytes(list(checkpoints.values()), sizes)
    return HostMemory(loads_at_once(host_memory_bytes, per_load, len(replicas)), per_load, steady, peak)
