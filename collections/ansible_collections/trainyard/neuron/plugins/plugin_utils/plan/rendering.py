# SPDX-License-Identifier: Apache-2.0
"""From a deployment to the exact commands and environments of its generation; the tables are `generation_tables.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Dict, List, Optional, Tuple, Union

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.versions import version_number
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import Deployment
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.flags import (
    Repeated,
    answers_only,
    flags_of,
    positive,
    spoken,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.generation_tables import (
    COMMON_ENVIRONMENT,
    COMMON_SERVE_ENVIRONMENT,
    DEMO_EITHER,
    DEMO_FLAGS,
    DEMO_MODEL_TYPE_OF,
    DEMO_SAMPLING_FLAGS,
    GENERATIONS,
    NATIVE_NAMES,
    NATIVE_SIBLINGS,
    NATIVE_TOO,
    NXDI_SAMPLING_KEYS,
    PLANNER_KEYS,
    PREFIX_FLAG,
    PROXY_VARIABLE,
    VARIANTS,
    Generation,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.known_models import known_config
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.model_options import (
    COMPILER_SETTINGS,
    TEMPLATE_FILE,
    adapter_paths,
    placed,
    spelled,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import NATIVE, SdkRelease
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.travelling import path_of

#: What `inference_demo` insists on although nothing is generated with --compile-only.
COMPILE_PROMPT = "Hello"

#: Deepest top-k that the device samples from, and NxDI's default.
MAX_GLOBAL_TOPK = 256

#: A server that only compiles listens this far above the deployment's port, where a replica may still be serving.
WARM_UP_PORT_OFFSET = 500

#: What the engine of NxDI samples with when a deployment says nothing: on the device, by each request's parameters.
DEFAULT_SAMPLING: Mapping[str, Any] = {"dynamic": True}


@dataclass(frozen=True)
class Placement:
    """Where one replica runs.

    Attributes:
        cores: its core slice, `0-31`.
        core_count: number of those cores.
        port: where it listens.
        address: the address that it binds.
        proxy_cpus: CPUs set aside for the runtime's own threads, empty for none.
        logical_nc_config: LNC of the host, 1 or 2.
    """

    cores: str
    core_count: int
    port: int
    address: str
    proxy_cpus: str = ""
    logical_nc_config: int = 2


@dataclass(frozen=True)
class Rendered:
    """A command and the variables it needs beside those of its unit.

    Attributes:
        argv: the command; in a container, the command inside it.
        environment: variables, sorted by name.
        files: what the command reads beside the checkpoints, where it lies on the host and what is in it.
        mode: `run` for a command that ends when its work is done, `warm_up` for a server that has done it once it
            answers, and is stopped then.
    """

    argv: Tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    mode: str = "run"
    files: Tuple[Tuple[str, str], ...] = ()


class RenderError(ValueError):
    """The deployment cannot be said to this generation; `generations.argument_problems` tells why."""


def generation_of(row: SdkRelease) -> Generation:
    """Return how the generation of an SDK row is spoken to."""
    return _variant(row.generation, row.vllm)


@lru_cache(maxsize=None)
def _variant(name: str, vllm: Optional[str]) -> Generation:
    return replace(GENERATIONS[name], **VARIANTS.get((name, vllm), {}))


def config_of(deployment: Deployment) -> Optional[Mapping[str, Any]]:
    """Return the model's config.json: the one at hand, else that of an exact, published repository; None for none."""
    return known_config(deployment.model.repo) if deployment.model_config is None else deployment.model_config


def architecture_of(deployment: Deployment) -> Optional[str]:
    """Return the model_type of the model's config.json, None where none is at hand or it does not say."""
    found = (config_of(deployment) or {}).get("model_type")
    return found if isinstance(found, str) else None


def quantization_of(deployment: Deployment, release: SdkRelease) -> Optional[Mapping[str, Any]]:
    """Return the quantization_config of the checkpoint as the engine is told it, None for plain weights."""
    config = config_of(deployment) or {}
    inner = config.get("text_config")
    # compressed-tensors had a key of its own before, and a model that also sees may say it of its text alone.
    places = [config.get("quantization_config"), config.get("compression_config")]
    places += [inner.get("quantization_config")] if isinstance(inner, Mapping) else []
    found = next((place for place in places if place), None)
    overrides = deployment.engine_args.get("hf-overrides")
    if release.generation == NATIVE and isinstance(overrides, Mapping):
        found = overrides.get("quantization_config", found)
    if not found:
        return None
    return found if isinstance(found, Mapping) else {"quant_method": None}


def model_type_of(deployment: Deployment) -> Optional[str]:
    """Return what the compiler calls the architecture (`llama`, `qwen3_moe`), None where nothing tells it.

    A repository's name tells nothing: that of a vision or a quantized model contains that of another architecture.
    """
    given = deployment.neuron_config.get("model_type")
    if isinstance(given, str):
        return given
    found = architecture_of(deployment)
    return None if found is None else DEMO_MODEL_TYPE_OF.get(found, found)


def block_count(deployment: Deployment) -> int:
    """Return the KV blocks of a replica: as given, else what holds `max_num_seqs` sequences of full length."""
    for given in (
        deployment.neuron_config.get("pa_num_blocks"),
        deployment.engine_args.get("num-gpu-blocks-override"),
    ):
        if isinstance(given, int):
            return given
    if deployment.block_size is None:
        return deployment.max_num_seqs
    return -(-deployment.max_model_len // deployment.block_size) * deployment.max_num_seqs


def sampling_of(deployment: Deployment) -> Optional[Dict[str, Any]]:
    """Return the on-device sampling that is compiled in, None where the deployment samples on the CPU.

    A mapping switches it on, an empty one too; false and null are the CPU.
    """
    given = deployment.neuron_config.get("on_device_sampling_config", True)
    if given is True:
        return dict(DEFAULT_SAMPLING)
    return dict(given) if isinstance(given, Mapping) else None


def compiled_settings(deployment: Deployment, row: SdkRelease) -> Dict[str, Any]:
    """Return every engine setting that is compiled in, by its name in the engine's own configuration.

    Lengths are tokens, `batch_size` sequences, `pa_num_blocks` blocks with those that the plugin adds.
    """
    generation, deployment = generation_of(row), spelled(deployment, row)
    if generation.compiler != "inference_demo":
        return _server_settings(deployment, row)
    batch = deployment.max_num_seqs
    settings: Dict[str, Any] = {
        "torch_dtype": deployment.dtype,
        "start_rank_id": 0,
        "local_ranks_size": deployment.tensor_parallel_size,
        "tp_degree": deployment.tensor_parallel_size,
        "batch_size": batch,
        "max_context_length": deployment.max_model_len,
        "seq_len": deployment.max_model_len,
        # A prompt is worked on alone; without continuous batching it would rewrite the cache of the whole batch.
        "ctx_batch_size": 1,
        "is_continuous_batching": batch > 1 or generation.continuous_batching == "always",
        **generation.settings,
    }
    if deployment.block_size is not None and generation.block_size_flag:
        settings.update(
            is_block_kv_layout=True,
            is_prefix_caching=True,
            pa_block_size=deployment.block_size,
        )
    settings.update({key: value for key, value in deployment.neuron_config.items() if key not in PLANNER_KEYS})
    if settings.get("is_block_kv_layout"):
        settings["pa_num_blocks"] = block_count(deployment) + generation.null_blocks
    settings["on_device_sampling_config"] = sampling_of(deployment)
    return settings


def _server_settings(deployment: Deployment, row: SdkRelease) -> Dict[str, Any]:
    """Return what shapes the graphs of a server that compiles itself: its flags without those that cannot."""
    return {
        name: value
        for name, value in serve_flags(deployment, row).items()
        if value is not None and name not in answers_only()
    }


def _engine_config(deployment: Deployment) -> Dict[str, Any]:
    """Return neuron_config without the keys that only the planner reads."""
    return {key: value for key, value in deployment.neuron_config.items() if key not in PLANNER_KEYS}


def render_serve(
    deployment: Deployment,
    release: SdkRelease,
    *,
    placement: Union[Placement, Mapping[str, Any]],
    weights_path: str,
    artifact_path: str,
    replica_name: str,
) -> Rendered:
    """Return the command and the environment of one replica.

    Args:
        deployment: what is served.
        release: the SDK row that serves it.
        placement: where it runs.
        weights_path: directory of the checkpoint, absolute.
        artifact_path: directory of the compiled model (or of the server's own cache), absolute.
        replica_name: unit, process tag and directory name of the replica.
    """
    where = placement if isinstance(placement, Placement) else Placement(**placement)
    generation, deployment = generation_of(release), spelled(deployment, release)
    names = {
        "venv": release.venv or "",
        "weights": weights_path,
        "artifact": artifact_path,
        "replica": replica_name,
        "cores": where.cores,
        "lnc": str(where.logical_nc_config),
        "cores_variable": generation.cores_variable,
        "artifact_variable": generation.artifact_variable,
    }
    flags = serve_flags(deployment, release)
    flags.update({"host": where.address, "port": where.port})
    environment = _environment(
        (COMMON_ENVIRONMENT, COMMON_SERVE_ENVIRONMENT, generation.serve_environment, deployment.environment), names
    )
    if generation.cpu_sampling_variable and sampling_of(deployment) is None:
        environment[generation.cpu_sampling_variable] = "1"
    if where.proxy_cpus:
        environment[PROXY_VARIABLE] = where.proxy_cpus
    program = _program(deployment, release, generation.serve, generation.serve_container)
    argv = [part.format(**names) for part in program] + _argv(flags)
    files = _files(deployment, weights_path)
    words = [
        _with_files(word, files) if FILE_PLACE in word else word for word in _placed(argv, weights_path, deployment)
    ]
    used = {path: content for path, content in files.values() if any(path in word for word in words)}
    return Rendered(tuple(words), dict(sorted(environment.items())), files=tuple(sorted(used.items())))


def _placed(argv: List[str], weights_path: str, deployment: Deployment) -> Tuple[str, ...]:
    return tuple(placed(word, weights_path, deployment.model) for word in argv)


#: What stands for a file that travels until its content is known, and with it its path.
FILE_PLACE = "{file:"
ADAPTERS_FILE = FILE_PLACE + "adapters}"


def _files(deployment: Deployment, weights_path: str) -> Dict[str, Tuple[str, str]]:
    """Return the files that a server reads: what stands for each -> where it lies, and what is in it."""
    found = {}
    if deployment.template is not None and deployment.tools is not None:
        name = str(deployment.tools.chat_template)
        found[TEMPLATE_FILE] = (path_of(name, deployment.template), deployment.template)
    adapters = adapter_paths(deployment, weights_path)
    if adapters:
        # NxDI's own format: what is on the device at the start, and what the host's memory has.
        lists = {"lora-ckpt-paths": adapters, "lora-ckpt-paths-cpu": adapters}
        content = json.dumps({"lora-ckpt-dir": "/", **lists}, indent=1, sort_keys=True) + "\n"
        found[ADAPTERS_FILE] = (path_of("adapters.json", content), content)
    return found


def _with_files(word: str, files: Mapping[str, Tuple[str, str]]) -> str:
    for place, (path, _content) in files.items():
        word = word.replace(place, path)
    return word


def serve_flags(deployment: Deployment, release: SdkRelease) -> Dict[str, Any]:
    """Return the server's flags by name, without those of its placement.

    The deployment's engine_args come last: a value replaces a flag, None removes it.
    """
    generation, deployment = generation_of(release), spelled(deployment, release)
    flags: Dict[str, Any] = {
        "served-model-name": [deployment.served_name, *deployment.aliases],
        "tensor-parallel-size": deployment.tensor_parallel_size,
        "max-num-seqs": deployment.max_num_seqs,
        "max-model-len": deployment.max_model_len,
        "dtype": deployment.dtype,
        **generation.fixed_flags,
    }
    flags.update(_block_flags(deployment, generation))
    config = served_config(deployment, generation)
    if config:
        flags[generation.config_flag] = config
    known = flags_of(release)
    if generation.translate and sampling_of(deployment) is None and "async-scheduling" in known:
        # On by default, and only with sampling on the device.
        flags["async-scheduling"] = False
    for given in sorted(deployment.engine_args):
        name, value = positive(given, deployment.engine_args[given], known)
        flags[name] = spoken(name, value, known)
    return flags


def _block_flags(deployment: Deployment, generation: Generation) -> Dict[str, Any]:
    flags: Dict[str, Any] = {}
    if not generation.block_size_flag:
        return flags
    if generation.prefix_follows_blocks:
        flags[PREFIX_FLAG] = deployment.block_size is not None
        flags["num-gpu-blocks-override"] = block_count(deployment)
    if deployment.block_size is not None:
        flags["block-size"] = deployment.block_size
    if generation.translate:
        flags.update(_native_prefill_flags(deployment))
    return flags


def _native_prefill_flags(deployment: Deployment) -> Dict[str, Any]:
    """Return how the native plugin works on prompts, said aloud: its defaults depend on one another.

    Prefix caching needs segmented prefill; without it a prompt must fit one batch.
    """
    config = native_config(deployment)
    segmented = bool(config.get("kv_segment_size_buckets"))
    buckets = config.get("num_batched_tokens_buckets") or config.get("kv_segment_size_buckets")
    sizes = [item for item in buckets if isinstance(item, int)] if isinstance(buckets, list) else []
    return {PREFIX_FLAG: segmented, "max-num-batched-tokens": max(sizes, default=deployment.max_model_len)}


def served_config(deployment: Deployment, generation: Generation) -> Dict[str, Any]:
    """Return the JSON of the generation's configuration flag, empty where there is nothing to say."""
    config = native_config(deployment) if generation.translate else _nxdi_config(deployment, generation)
    beside = {key: config.pop(key) for key in NATIVE_SIBLINGS if generation.translate and key in config}
    for key in reversed(generation.config_path):
        config = {key: config} if config else {}
    return {**config, **beside}


def _nxdi_config(deployment: Deployment, generation: Generation) -> Dict[str, Any]:
    """Return neuron_config as NxDI reads it, with the sampling that is compiled in.

    The fork sets a given key on the loaded configuration as it stands in the JSON. Only the sampling survives that, as
    a mapping that must name `global_topk`: NxDI reads it without a default at each request.
    """
    config = {key: value for key, value in _engine_config(deployment).items() if key not in COMPILER_SETTINGS}
    sampling = sampling_of(deployment)
    if "on_device_sampling_config" in config:
        config["on_device_sampling_config"] = sampling
    longest_prompt = config.get("max_context_length")
    if generation.prompt_limit_key and isinstance(longest_prompt, int) and longest_prompt < deployment.max_model_len:
        config[generation.prompt_limit_key] = longest_prompt
    if generation.config_keys is None:
        return {**config, **_adapter_settings(deployment, generation)}
    config = {key: value for key, value in config.items() if key in generation.config_keys and value is not None}
    config.update(_adapter_settings(deployment, generation))
    if "on_device_sampling_config" in config:
        config["on_device_sampling_config"] = {"global_topk": MAX_GLOBAL_TOPK, **(sampling or {})}
    return config


def _adapter_settings(deployment: Deployment, generation: Generation) -> Dict[str, Any]:
    """Return what a server has to be told of adapters beside its flags.

    The fork reads its other overrides only where there are some. The plugin finds adapters in a file of its own.
    """
    if deployment.lora is None:
        return {}
    if generation.config_keys is not None:
        return {"sequence_parallel_enabled": False}
    file = {"lora_ckpt_json": ADAPTERS_FILE} if deployment.lora.adapters else {}
    return {"target_modules": list(deployment.lora.target_modules), **file}


def native_config(deployment: Deployment) -> Dict[str, Any]:
    """Return neuron_config in the native plugin's words, without what it has no word for.

    Where sampling happens is always said: the plugin's pages disagree about what it is where nobody says it.
    """
    sampling = sampling_of(deployment)
    found: Dict[str, Any] = {} if sampling is None else {"on_device_sampling_config": _native_sampling(sampling)}
    for key, value in _engine_config(deployment).items():
        if key == "on_device_sampling_config":
            continue
        if key in NATIVE_NAMES or key in NATIVE_TOO or key not in DEMO_FLAGS:
            found[NATIVE_NAMES.get(key, key)] = value
    return found


def _native_sampling(sampling: Mapping[str, Any]) -> Dict[str, Any]:
    """Return on-device sampling for the native plugin.

    NxDI's static values are only defaults where sampling is dynamic, but the native plugin compiles them in: there an
    empty mapping means by each request's parameters.
    """
    if not any(key in sampling for key in NXDI_SAMPLING_KEYS):
        return dict(sampling)
    if sampling.get("dynamic") or sampling.get("do_sample"):
        return {}
    return {"all_greedy": True}


def render_compile(
    deployment: Deployment,
    release: SdkRelease,
    *,
    weights_path: str,
    artifact_path: str,
    work_dir: str,
    logical_nc_config: int,
) -> Rendered:
    """Return the command and the environment that make the artifact.

    Args:
        deployment: what is compiled.
        release: the SDK row that compiles it.
        weights_path: directory of the checkpoint, absolute.
        artifact_path: directory that the artifact is written to, absolute.
        work_dir: scratch directory of this compilation alone, absolute.
        logical_nc_config: LNC of the hosts that will serve it.

    Raises:
        RenderError: the compiler has no flag for a setting, or the architecture is not known
            (`generations.argument_problems` says so before).
    """
    generation, deployment = generation_of(release), spelled(deployment, release)
    names = {
        "venv": release.venv or "",
        "weights": weights_path,
        "artifact": artifact_path,
        "work_dir": work_dir,
        "lnc": str(logical_nc_config),
        "core_count": str(deployment.tensor_parallel_size),
    }
    environment = _environment((COMMON_ENVIRONMENT, generation.compile_environment, deployment.environment), names)
    if generation.compiler != "inference_demo":
        return _render_warm_up(deployment, release, names, environment)
    program = _program(deployment, release, ("{venv}/bin/inference_demo",), ("inference_demo",))
    argv = [part.format(**names) for part in program]
    list_path = "%s/%s" % (work_dir, NOT_CONVERTED_FILE)
    argv += _demo_argv(deployment, release, weights_path, artifact_path, list_path)
    listed = deployment.neuron_config.get(NOT_CONVERTED)
    content = json.dumps({NOT_CONVERTED: listed}) + "\n"
    return Rendered(
        _placed(argv, weights_path, deployment),
        dict(sorted(environment.items())),
        files=((list_path, content),) if listed else (),
    )


def _render_warm_up(
    deployment: Deployment, release: SdkRelease, names: Dict[str, str], environment: Dict[str, str]
) -> Rendered:
    """Return the server whose first start fills the cache that the replicas then read."""
    generation = generation_of(release)
    environment[generation.artifact_variable] = names["artifact"]
    environment[generation.cores_variable] = "0-%d" % (deployment.tensor_parallel_size - 1)
    flags = serve_flags(deployment, release)
    flags.update({"host": "127.0.0.1", "port": deployment.port + WARM_UP_PORT_OFFSET})
    program = _program(deployment, release, generation.serve, generation.serve_container)
    argv = [part.format(**names) for part in program] + _argv(flags)
    return Rendered(_placed(argv, names["weights"], deployment), dict(sorted(environment.items())), "warm_up")


def _program(
    deployment: Deployment, release: SdkRelease, venv: Tuple[str, ...], container: Tuple[str, ...]
) -> Tuple[str, ...]:
    if deployment.runtime == "container":
        return container
    if release.venv is None:
        raise RenderError("the environment of SDK %s for %s is not known" % (release.release, release.generation))
    return venv


def _environment(layers: Tuple[Mapping[str, str], ...], names: Mapping[str, str]) -> Dict[str, str]:
    """Return the variables of all layers, later ones winning; the last layer, the user's, is taken as it is."""
    found: Dict[str, str] = {}
    for layer in layers[:-1]:
        found.update({key.format(**names): value.format(**names) for key, value in layer.items()})
    found.update({key: str(value) for key, value in layers[-1].items()})
    return found


def _argv(flags: Mapping[str, Any]) -> List[str]:
    """Return flags as arguments: True alone, False as `--no-`, None not at all, lists repeated, mappings as JSON."""
    argv: List[str] = []
    for name, value in flags.items():
        if value is None:
            continue
        if isinstance(value, bool):
            argv.append("--%s%s" % ("" if value else "no-", name))
            continue
        if isinstance(value, Repeated):
            for item in value:
                argv += ["--" + name, _text(item)]
            continue
        argv.append("--" + name)
        argv += [_text(item) for item in value] if isinstance(value, (list, tuple)) else [_text(value)]
    return argv


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True) if isinstance(value, (dict, list)) else str(value)


#: The order in which the settings that every compilation has are written.
_DEMO_ORDER = (
    "torch_dtype",
    "start_rank_id",
    "local_ranks_size",
    "tp_degree",
    "batch_size",
    "max_context_length",
    "seq_len",
    "ctx_batch_size",
    "is_continuous_batching",
)


#: Layers that are not quantized: `inference_demo` reads them from a file of its own format.
NOT_CONVERTED, NOT_CONVERTED_FILE = "modules_to_not_convert", "modules_to_not_convert.json"


def _demo_argv(
    deployment: Deployment, release: SdkRelease, weights_path: str, artifact_path: str, list_path: str
) -> List[str]:
    """Return `inference_demo`'s arguments; `list_path`: where the file is of what is not quantized."""
    settings = compiled_settings(deployment, release)
    sampling = settings.pop("on_device_sampling_config")
    unknown = sorted(set(settings) - set(DEMO_FLAGS))
    if unknown:
        raise RenderError("inference_demo has no flag for %s" % ", ".join(unknown))
    if model_type_of(deployment) is None:
        raise RenderError("the architecture of %s is not known" % deployment.model.repo)
    argv = ["--model-type", str(model_type_of(deployment)), "--task-type", "causal-lm", "run"]
    argv += ["--model-path", weights_path, "--compiled-model-path", artifact_path]
    rest = sorted(set(settings) - set(_DEMO_ORDER))
    for name in [*_DEMO_ORDER, "on_device_sampling_config", *rest]:
        if name == "on_device_sampling_config":
            argv += _sampling_argv(sampling)
        elif name == NOT_CONVERTED:
            argv += [DEMO_FLAGS[name].flag, list_path] if settings[name] else []
        else:
            argv += _demo_flag(DEMO_FLAGS[name].flag, settings[name], says_off(name, release))
    return [*argv, "--compile-only", "--prompt", COMPILE_PROMPT]


def _sampling_argv(sampling: Optional[Mapping[str, Any]]) -> List[str]:
    if sampling is None:
        return []
    argv = ["--on-device-sampling"]
    for name, known in DEMO_SAMPLING_FLAGS.items():
        if name in sampling:
            argv += _demo_flag(known.flag, sampling[name])
    return argv


def says_off(setting: str, release: SdkRelease) -> bool:
    """Return whether the compiler decides a switch itself where nothing is said, and can be told that it is off."""
    since = DEMO_EITHER.get(setting)
    return since is not None and version_number(release.nxdi or "0")[:2] >= since


def _demo_flag(flag: str, value: Any, off: bool = False) -> List[str]:
    """Return one flag; but for a few, `inference_demo` knows no way to say that a switch is off but to leave it out."""
    if value is False and off:
        return ["--no-" + flag[2:]]
    if value is None or value is False:
        return []
    if value is True:
        return [flag]
    if isinstance(value, (list, tuple)):
        return [flag] + [str(item) for item in value]
    return [flag, str(value)]
