# SPDX-License-Identifier: Apache-2.0
"""From a fleet's plan to the configurations that are forecast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ansible_collections.trainyard.neuron.plugins.module_utils.benchmark.presets import PRESETS
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.settings import LOAD
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.topology import FAMILIES
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.figures import Load, Setup
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.latency import PEAKS, Constants, Speed, Work
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.fit import ConfigError, ModelShape
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.known_models import known_config

NATIVE = "native"
SMALLEST_BUCKET = 128


class NoForecastError(Exception):
    """A configuration of which nothing can be forecast; the text says why, and what would change that."""


def shape_of(repo: str, revision: str, model_configs: Mapping[str, Any]) -> ModelShape:
    """Return a model's shape, from its config.json where it is at hand, else by its published name.

    Args:
        repo: of the checkpoint.
        revision: of the checkpoint.
        model_configs: repo@revision -> config.json.

    Raises:
        NoForecastError: nobody knows its sizes.
    """
    config = model_configs.get(f"{repo}@{revision}", known_config(repo))
    if config is None:
        raise NoForecastError(
            f"{repo} has no size that is known here: give {repo}/{revision}/config.json below --model-configs DIR, or "
            "fetch it by --hub https://huggingface.co"
        )
    try:
        return ModelShape.from_config(config)
    except ConfigError as error:
        raise NoForecastError(f"config.json of {repo}: {error}") from error


def family_of(instance_type: str | None) -> str:
    """Return the family of an instance type.

    Raises:
        NoForecastError: nobody knows it.
    """
    family = str(instance_type).partition(".")[0].removesuffix("n").removesuffix("u")
    if family not in PEAKS:
        raise NoForecastError(f"{instance_type} is of no family whose peaks are known here: {', '.join(PEAKS)}")
    return family


def cores_per_device(family: str, logical_nc_config: int | None) -> int:
    """Return the logical cores of a device."""
    lnc = logical_nc_config or FAMILIES[family].lnc_choices[0]
    return FAMILIES[family].physical_cores // lnc


def deployments_of(plan: Mapping[str, Any]) -> list[str]:
    """Return the names of a plan's deployments that have a replica."""
    return sorted({replica["deployment"] for host in plan["hosts"].values() for replica in host["replicas"]})


def setup_of(plan: Mapping[str, Any], name: str, model_configs: Mapping[str, Any], constants: Constants) -> Setup:
    """Return the configuration of one deployment; arguments and errors as `setups_of`."""
    placed = [
        (host, replica)
        for host in plan["hosts"].values()
        for replica in host["replicas"]
        if replica["deployment"] == name
    ]
    host, replica = placed[0]
    artifact = next(one for one in host["artifacts"] if one["digest"] == replica["artifact"])
    settings, weights = artifact["inputs"]["settings"], artifact["inputs"]["weights"]
    shape = shape_of(weights["repo"], weights["revision"], model_configs)
    family = family_of(host["instance_type"])
    native = replica["generation"] == NATIVE
    kept_in, cached_in = _dtypes(shape, settings, native)
    prefill, decode = buckets_of(settings, replica["max_model_len"])
    speed = Speed(
        work=Work.of(shape, kept_in, cached_in),
        constants=constants,
        peaks=PEAKS[family],
        cores=replica["core_count"],
        cores_per_device=cores_per_device(family, host["logical_nc_config"]),
        batch=replica["max_num_seqs"],
        prefill_buckets=prefill,
        decode_buckets=decode,
        draft_tokens=int(settings.get("speculation_length") or 0),
    )
    return Setup(
        speed=speed,
        slots=replica["max_num_seqs"],
        replicas=len(placed),
        hosts=len({one["name"] for one, _replica in placed}),
        hbm_bytes_needed=replica["hbm_bytes_needed"],
        hbm_bytes_available=replica["hbm_bytes_available"],
        load_bytes=shape.checkpoint_bytes,
        presharded=bool(settings.get("save_sharded_checkpoint")),
        native=native,
    )


def _dtypes(shape: ModelShape, settings: Mapping[str, Any], native: bool) -> tuple[str, str]:
    """Return what weights and KV cache are held in on the device."""
    plain = str(settings.get("torch_dtype") or "bfloat16")
    kept_in = shape.quantization if native and shape.quantization else plain
    if settings.get("quantized"):
        kept_in = str(settings.get("quantization_dtype") or "int8")
    return kept_in, "fp8" if settings.get("kv_cache_quant") else plain


def buckets_of(settings: Mapping[str, Any], longest: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the lengths, in tokens, that graphs are compiled for: of prompts and of whole sequences.

    Without a list NxDI makes powers of two where bucketing is on, and one graph of the whole length where it is off.
    """
    found = []
    for name, length in (
        ("context_encoding_buckets", int(settings.get("max_context_length") or longest)),
        ("token_generation_buckets", longest),
    ):
        given = settings.get(name)
        if isinstance(given, list) and given:
            found.append(tuple(sorted(int(one) for one in given)))
        elif settings.get("enable_bucketing"):
            found.append(powers_of_two(length))
        else:
            found.append((length,))
    return found[0], found[1]


def powers_of_two(longest: int) -> tuple[int, ...]:
    """Return 128, 256, ... and in the end the length itself."""
    sizes, size = [], SMALLEST_BUCKET
    while size < longest:
        sizes.append(size)
        size *= 2
    return (*sizes, longest)


def load_of(plan: Mapping[str, Any], name: str, **given: float | None) -> Load:
    """Return the load that measures a deployment, with what was given in its place.

    Args:
        plan: as `setup_of`.
        name: the deployment.
        given: `input_tokens`, `output_tokens`, `streams`, `rate_per_s`; None for the deployment's own.
    """
    own: Mapping[str, Any] = next((one["load"] for one in plan["benchmarks"] if one["deployment"] == name), {})
    load = load_in(own)
    asked = {key: value for key, value in given.items() if value is not None}
    if "streams" in asked:
        asked["rate_per_s"] = 0.0
    if "input_tokens" in asked:
        asked["input_deviation"] = 0.0
    if "output_tokens" in asked:
        asked["output_deviation"] = 0.0
    return replace(load, **asked)  # type: ignore[arg-type]


def load_in(settings: Mapping[str, Any]) -> Load:
    """Return a load from what a benchmark is told, its preset and the defaults under it."""
    given = {name: value for name, value in settings.items() if value is not None}
    merged = {**LOAD.defaults, **PRESETS.get(given.get("preset") or "", {}), **given}
    # A conversation's requests have what was said before: on average half of what all its turns add.
    grown = (merged["turns"] - 1) * (merged["mean_turn_tokens"] + merged["mean_output_tokens"]) / 2
    return Load(
        input_tokens=merged["mean_input_tokens"] + grown,
        output_tokens=merged["mean_output_tokens"],
        input_deviation=merged["stddev_input_tokens"],
        output_deviation=merged["stddev_output_tokens"],
        streams=int(merged["concurrency"]),
        rate_per_s=merged["request_rate_per_s"],
        seed=merged["seed"],
    )


def too_long(setup: Setup, load: Load) -> str:
    """Return why no request of a load fits a configuration, empty where its mean does."""
    longest = setup.speed.decode_buckets[-1]
    if load.input_tokens + load.output_tokens > longest:
        return (
            f"a request of {load.input_tokens:g} tokens in and {load.output_tokens:g} out is longer than the {longest} "
            "that it is compiled for: raise max_model_len, or ask for shorter ones"
        )
    return ""
