# SPDX-License-Identifier: Apache-2.0
"""What the documentation of each generation warns of and a plan can see: refused where it cannot work, else warned of.

`tests/plan/option_traps.yml` has each of them beside the sentence that says so, with a deployment that falls into it.
"""

from __future__ import annotations

import re
from typing import Any, List, Mapping, NamedTuple, Optional, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem, did_you_mean
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import Deployment
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.fit import PARTS_THAT_READ, ConfigError, ModelShape
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.flags import answers_only
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.generation_tables import (
    ARCHITECTURE_CLASSES,
    COMPONENT_SETTINGS,
    DEMO_FLAGS,
    GPU_FLAGS,
    NATIVE_NAMES,
    NATIVE_SETTINGS,
    NATIVE_SIBLINGS,
    NATIVE_TOO,
    PARSER_FAMILIES,
    PLANNER_KEYS,
    REASONING_PARSERS,
    ROPE_KINDS,
    TELLING_WORDS,
    TOOL_PARSERS,
    WRITES_TEXT,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.known_models import known_config
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.model_options import spelled
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import NATIVE, NXDI_V0, NXDI_V1, SdkRelease
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.rendering import (
    architecture_of,
    config_of,
    native_config,
    sampling_of,
)

#: Graphs of decoding that are compiled without a word; each is minutes of the compiler.
QUIET_GRAPHS = 24

#: Guesses at a time that the documentation serves with.
MOST_GUESSES = 7

#: Between SIGTERM and SIGKILL of the native plugin's workers; what a unit is given for all of it, seconds.
TERMINATION, STOP_S, STOP_ROOM_S = "VLLM_NEURON_WORKER_TERMINATION_TIMEOUT", 300, 60

#: What the native plugin has a Qwen3 of its own for, and the only size of head that it takes.
NATIVE_QWEN3, QWEN3_HEAD = ("qwen3", "qwen3_moe"), 128


class Variable(NamedTuple):
    """A variable that a deployment should not set: in which generations (empty: all), why, what to do, and how bad."""

    generations: Tuple[str, ...]
    rule: str
    fix: str
    refused: bool = True


VARIABLES: Mapping[str, Variable] = {
    "VLLM_NEURON_CPU_COMPILE": Variable(
        (NATIVE,), "has a server compile for hosts with devices, and serve nothing", "remove it"
    ),
    "NEURON_PLATFORM_TARGET_OVERRIDE": Variable(
        (NATIVE,), "is for hosts without a device, which compile for others", "remove it"
    ),
    "VLLM_NEURON_CPU_MODE": Variable((), "would serve on the host's processors", "remove it"),
    "NEURON_LIBTORCH_DISABLE_COMPILE_CACHE": Variable(
        (NATIVE,), "has each start compile everything anew", "remove it: the cache is the artifact"
    ),
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": Variable(
        (), "is right where adapters come and go, which is compiled in as well", "remove it, and set lora.dynamic"
    ),
    "VLLM_NEURON_DISABLE_NKI_KERNELS": Variable(
        (NATIVE,), "is for debugging: every kernel falls back to a slow one", "remove it", refused=False
    ),
    "DISABLE_NEURON_CUSTOM_SCHEDULER": Variable(
        (NXDI_V1,),
        "has vLLM's own scheduler cut prompts in pieces, which the artifact is not compiled for",
        "remove it",
        refused=False,
    ),
}


class Flag(NamedTuple):
    """A flag that the native plugin's documentation says not to give: why, what to do, and how bad."""

    rule: str
    fix: str
    refused: bool = True


NATIVE_FLAGS: Mapping[str, Flag] = {
    "quantization": Flag("is told by the checkpoint's quantization_config, and the plugin ends at it", "remove it"),
    "calculate-kv-scales": Flag("has no effect on Neuron", "remove it, and use a checkpoint with KV scales"),
    "mm-encoder-only": Flag(
        "builds what reads images alone, and the router sends each replica whole requests", "remove it"
    ),
    "num-gpu-blocks-override": Flag(
        "is left out by the migration guide: the plugin works out its blocks", "remove it", refused=False
    ),
}


def trap_problems(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    """Return what of a deployment cannot work, by the documentation of its SDK row.

    Args:
        deployment: as the inventory has it.
        release: its SDK row.
        where: the variable that holds the deployment, which the problems name.
    """
    found = [
        *_config_problems(deployment, release, where),
        *_variables(deployment, release, where, refused=True),
        *_flags(deployment, release, where, refused=True),
        *_parser_problems(deployment, release, where),
        *_checkpoints_twice(deployment, where),
    ]
    if release.generation == NATIVE:
        found += _context_parallel_problems(deployment, where)
        found += _native_setting_problems(deployment, release, where)
    if release.generation == NXDI_V0 and deployment.engine_args.get("enable-prefix-caching"):
        path = where + ".engine_args.enable-prefix-caching"
        rule = "is no part of the compile command, so it would be served and not compiled"
        found.append(Problem("", path, True, rule, "remove it, and use generation nxdi_v1 with block_size 32"))
    return found


def trap_warnings(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    """Return what works otherwise than one may think; arguments as `trap_problems`."""
    found = [
        *_variables(deployment, release, where, refused=False),
        *_flags(deployment, release, where, refused=False),
        *_tls_warnings(deployment, where),
        *_stream_warnings(deployment, where),
        *_plugin_warnings(deployment, release, where),
        *_known_otherwise(deployment, where),
        *_rope_warnings(deployment, release, where),
        *_speculation_warnings(deployment, where),
        *_parser_warnings(deployment, release, where),
    ]
    found += _stop_warnings(deployment, release, where)
    return found + (_native_warnings(deployment, release, where) if release.generation == NATIVE else [])


def telling_word(repo: str) -> str:
    """Return the word in a repository's name that speaks against the plain model of that name, empty for none."""
    words = re.split(r"[^a-z0-9]+", repo.lower())
    return next((word for word in TELLING_WORDS if word in words), "")


def _config_problems(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    """Return what config.json says that no replica could serve, or that contradicts itself."""
    config = config_of(deployment) or {}
    given = config.get("architectures")
    names = [str(name) for name in given] if isinstance(given, (list, tuple)) else []
    path, value = where + ".model.repo", deployment.model.repo
    if given is not None and not (names and all(isinstance(name, str) for name in given)):
        rule = "config.json of it has architectures %.60r, and vLLM reads a list of names there" % (given,)
        return [Problem("", path, value, rule, "repair it")]
    if names and not any(name.endswith(WRITES_TEXT) for name in names):
        rule = "config.json of it has architectures %s, which write no text; a replica is ready once it wrote some" % (
            ", ".join(names)
        )
        return [Problem("", path, value, rule, "give a model that generates")]
    if config.get("is_encoder_decoder"):
        rule = "config.json of it has an encoder of its own (is_encoder_decoder), which no generation serves"
        return [Problem("", path, value, rule, "give a model that only decodes")]
    said = architecture_of(deployment)
    classes = tuple(known.lower() + "for" for known in ARCHITECTURE_CLASSES.get(str(said), ()))
    if classes and names and not any(name.lower().startswith(classes) for name in names):
        rule = "config.json of it says model_type %s and architectures %s" % (said, ", ".join(names))
        return [Problem("", path, value, rule, "repair one of them: compiler and server would each believe another")]
    if release.generation == NATIVE and deployment.model_config is not None and not said:
        file = "%s/%s/config.json" % (deployment.model.repo, deployment.model.revision)
        return [Problem("", path, value, "its config.json has no model_type, which vLLM needs", "repair %s" % file)]
    if release.generation == NATIVE and said in NATIVE_QWEN3:
        return _qwen3_problems(config, path, value)
    return []


def _qwen3_problems(config: Mapping[str, Any], path: str, value: str) -> List[Problem]:
    """Return what the native plugin's own Qwen3 rejects."""
    rejected = [name for name in ("attention_bias", "use_sliding_window") if config.get(name)]
    if config.get("head_dim") not in (None, QWEN3_HEAD):
        rejected.append("head_dim %.20s" % config["head_dim"])
    if not rejected:
        return []
    rule = (
        "config.json of it has %s, and the native plugin's Qwen3 takes neither biases, sliding windows nor heads "
        % (" and ".join(rejected))
    )
    return [Problem("", path, value, rule + "of another size than %d" % QWEN3_HEAD, "use generation nxdi_v1")]


def _variables(deployment: Deployment, release: SdkRelease, where: str, *, refused: bool) -> List[Problem]:
    return [
        Problem("", "%s.environment.%s" % (where, name), value, VARIABLES[name].rule, VARIABLES[name].fix)
        for name, value in deployment.environment.items()
        if name in VARIABLES
        and VARIABLES[name].refused is refused
        and value not in ("", "0")
        and (not VARIABLES[name].generations or release.generation in VARIABLES[name].generations)
    ]


def _flags(deployment: Deployment, release: SdkRelease, where: str, *, refused: bool) -> List[Problem]:
    given = {name: value for name, value in deployment.engine_args.items() if value not in (None, False, "auto")}
    native = release.generation == NATIVE
    found = [
        Problem("", "%s.engine_args.%s" % (where, name), value, NATIVE_FLAGS[name].rule, NATIVE_FLAGS[name].fix)
        for name, value in given.items()
        if native and name in NATIVE_FLAGS and NATIVE_FLAGS[name].refused is refused
    ]
    if not refused:
        rule = "speaks to GPUs, and nothing on Neuron is known to read it"
        found += [
            Problem("", "%s.engine_args.%s" % (where, name), value, rule, "remove it")
            for name, value in given.items()
            # Of what may be compiled in, NxDI's servers are warned of anyhow.
            if name in GPU_FLAGS and (native or name in answers_only())
        ]
    return found


def _parser_problems(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    """Return the parsers that no vLLM has, and plugins that are not found."""
    arguments = spelled(deployment, release).engine_args
    tools = deployment.tools
    found = []
    for flag, plugin, known, field, by_field in (
        ("tool-call-parser", "tool-parser-plugin", TOOL_PARSERS, "call_parser", tools and tools.call_parser),
        ("reasoning-parser", "reasoning-parser-plugin", REASONING_PARSERS, "reasoning_parser",
         tools and tools.reasoning_parser),
    ):  # fmt: skip
        name, brought = arguments.get(flag), arguments.get(plugin)
        path = "%s.%s" % (where, "tools." + field if by_field else "engine_args." + flag)
        if name and not brought and name not in known:
            fix = did_you_mean(str(name), known) or "use one of %s" % ", ".join(sorted(known))
            found.append(Problem("", path, name, "is no parser of any vLLM that is served here", fix))
        if brought and not str(brought).startswith("/"):
            path = "%s.engine_args.%s" % (where, plugin)
            rule = "is a file on the host, and a server has no directory of its own"
            found.append(Problem("", path, brought, rule, "give its absolute path"))
    return found


def _plugin_warnings(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    """Return the plugins whose parser nobody asks for; a server reads them all the same."""
    arguments = spelled(deployment, release).engine_args
    found = []
    for kind in ("tool-call-parser", "reasoning-parser"):
        plugin = kind.replace("-call", "") + "-plugin"
        if arguments.get(plugin) and not arguments.get(kind):
            path, rule = "%s.engine_args.%s" % (where, plugin), "does nothing without %s, which names what it brings"
            found.append(Problem("", path, arguments[plugin], rule % kind, "set %s" % kind))
    return found


def _stream_warnings(deployment: Deployment, where: str) -> List[Problem]:
    """Return what a client sees in a stream that is no event."""
    every = deployment.engine_args.get("sse-keep-alive-interval")
    if not every:
        return []
    rule = (
        "sends lines that are no events: a client that reads each as one fails, "
        "and the router's log has no time to the first token where one comes before it"
    )
    path = where + ".engine_args.sse-keep-alive-interval"
    return [
        Problem("", path, every, rule, "keep it where every client passes over comments, as LLMPerf patched here does")
    ]


def _parser_warnings(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    arguments = deployment.engine_args
    if arguments.get("tool-call-parser") and not arguments.get("enable-auto-tool-choice"):
        rule = "leaves nothing to the model without enable-auto-tool-choice: only requests that name a tool get one"
        path = where + ".engine_args.tool-call-parser"
        return [Problem("", path, arguments["tool-call-parser"], rule, "remove it, and set tools.call_parser")]
    asked = deployment.tools is not None and deployment.tools.call_parser
    said, families = architecture_of(deployment), PARSER_FAMILIES.get(str(asked or arguments.get("tool-call-parser")))
    if families and said is not None and said not in families:
        rule = "reads calls as %s writes them, and this is %s" % (" or ".join(families), said)
        path = where + (".tools.call_parser" if asked else ".engine_args.tool-call-parser")
        value = asked or arguments["tool-call-parser"]
        return [Problem("", path, value, rule, "use the parser of its family, if its card says none")]
    if asked and release.generation == NATIVE and sampling_of(spelled(deployment, release)) is None:
        rule = "answers no request with tool_choice required or a tool's name: that is sampled on the device"
        fix = "remove neuron_config.on_device_sampling_config: false"
        return [Problem("", where + ".tools.call_parser", asked, rule, fix)]
    return []


def _checkpoints_twice(deployment: Deployment, where: str) -> List[Problem]:
    """Return the draft or adapter that is the model itself."""
    own, found = deployment.model, []
    if deployment.speculation is not None and deployment.speculation.model.repo == own.repo:
        path = where + ".speculation.model.repo"
        found.append(Problem("", path, own.repo, "is the model itself, which guesses nothing faster", "name a draft"))
    for index, adapter in enumerate(deployment.lora.adapters if deployment.lora is not None else ()):
        if adapter.model.repo == own.repo:
            path = "%s.lora.adapters[%d].repo" % (where, index)
            found.append(Problem("", path, own.repo, "is the model itself, and no adapter", "name the adapter's own"))
    return found


def _heads(deployment: Deployment) -> Optional[Tuple[int, int]]:
    """Return query and KV heads, None where config.json is not known or not readable."""
    try:
        shape = ModelShape.from_config(config_of(deployment) or {})
    except ConfigError:
        return None
    return shape.query_heads, shape.kv_heads


def _context_parallel_problems(deployment: Deployment, where: str) -> List[Problem]:
    """Return what of decode context parallelism the plugin's start refuses."""
    name = "decode-context-parallel-size"
    width, degree = deployment.engine_args.get(name), deployment.tensor_parallel_size
    heads = _heads(deployment)
    if isinstance(width, bool) or not isinstance(width, int) or width <= 1 or heads is None:
        return []
    query, keys = heads
    path = "%s.engine_args.%s" % (where, name)
    if degree <= keys:
        rule = "needs more cores than KV heads (%d), each of which is on several then" % keys
        return [Problem("", path, width, rule, "raise tensor_parallel_size above %d, or remove it" % keys)]
    if degree % width or width > degree // keys or query // keys % width:
        rule = "must divide tensor_parallel_size (%d) and query heads of a KV head (%d), and be at most %d" % (
            degree,
            query // keys,
            degree // keys,
        )
        return [Problem("", path, width, rule, "lower it, or remove it")]
    return []


def _native_setting_problems(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    """Return settings that the native plugin refuses or that only a part of a deployment of several servers has."""
    found = []
    known = {*NATIVE_SETTINGS, *NATIVE_NAMES, *NATIVE_NAMES.values(), *NATIVE_TOO, *NATIVE_SIBLINGS, *PLANNER_KEYS}
    for name, value in deployment.neuron_config.items():
        path = "%s.neuron_config.%s" % (where, name)
        near = did_you_mean(name, known) if name not in known and name not in DEMO_FLAGS else ""
        if name in COMPONENT_SETTINGS:
            rule = "is for servers that only decode what others prefilled, and the router sends each whole requests"
            found.append(Problem("", path, value, rule, "remove it"))
        elif near:
            found.append(Problem("", path, value, "is no setting of the native plugin", near))
    segments = native_config(spelled(deployment, release)).get("kv_segment_size_buckets")
    if isinstance(segments, list) and len(segments) > 1:
        rule = "has more than one size, and the plugin takes one segment"
        path = where + ".neuron_config.kv_segment_size_buckets"
        found.append(Problem("", path, segments, rule, "keep one, the same for prefill"))
    runner = deployment.engine_args.get("runner")
    if runner == "pooling":
        rule = "writes no text, and a replica is ready once it wrote some"
        found.append(Problem("", where + ".engine_args.runner", runner, rule, "give a model that generates"))
    return found


def _native_warnings(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    found = []
    known = {*NATIVE_SETTINGS, *NATIVE_NAMES, *NATIVE_TOO, *NATIVE_SIBLINGS, *PLANNER_KEYS, *COMPONENT_SETTINGS}
    for name, value in deployment.neuron_config.items():
        if name not in known and name not in DEMO_FLAGS:
            path = "%s.neuron_config.%s" % (where, name)
            rule = "is not in the native plugin's reference, and what nobody reads is passed over in silence"
            found.append(Problem("", path, value, rule, "make sure of its name"))
    config = native_config(spelled(deployment, release))
    batches, lengths = config.get("num_seqs_buckets"), config.get("decode_context_length_buckets")
    if not isinstance(lengths, list):
        return found
    counts = len(batches) if isinstance(batches, list) else deployment.max_num_seqs.bit_length()
    # A draft has graphs of its own, and the model some without its guesses.
    graphs = counts * (len(lengths) + 1) * (3 if deployment.speculation is not None else 1)
    if graphs > QUIET_GRAPHS:
        rule = "compile %d graphs of decoding: %d counts of sequences by %d lengths" % (
            graphs,
            counts,
            len(lengths) + 1,
        )
        fix = "name fewer: each takes minutes of the compiler"
        found.append(Problem("", where + ".buckets.decode", list(lengths), rule, fix))
    return found


def _stop_warnings(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    """Return that workers may take longer to end than systemd waits for the unit."""
    value = deployment.environment.get(TERMINATION, "")
    if release.generation != NATIVE or not value.isdigit() or int(value) < STOP_S - STOP_ROOM_S:
        return []
    rule = "is longer than a unit is given to stop, %d s unless vllm_endpoint_stop_timeout_s says otherwise" % STOP_S
    fix = "lower it, or raise vllm_endpoint_stop_timeout_s above it by a minute"
    return [Problem("", "%s.environment.%s" % (where, TERMINATION), value, rule, fix)]


def _tls_warnings(deployment: Deployment, where: str) -> List[Problem]:
    if not deployment.engine_args.get("ssl-certfile"):
        return []
    rule = "has the server speak TLS alone, and gate, router and benchmark speak plain HTTP with replicas"
    fix = "remove it, and give the router a certificate (load_balancer_certificate)"
    path = where + ".engine_args.ssl-certfile"
    return [Problem("", path, deployment.engine_args["ssl-certfile"], rule, fix)]


#: What a published model is known by: another number is another model.
_TOLD_APART = (
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
)  # fmt: skip


def _known_otherwise(deployment: Deployment, where: str) -> List[Problem]:
    """Return that the config.json at hand is not that of the published repository of this name."""
    published, given = known_config(deployment.model.repo), deployment.model_config
    if published is None or given is None:
        return []
    theirs, ours = (_text_of(config) for config in (published, given))
    differs = [name for name in _TOLD_APART if name in theirs and name in ours and theirs[name] != ours[name]]
    differs = [name for name in differs if name != "model_type" or PARTS_THAT_READ.get(str(ours[name])) is None]
    if not differs:
        return []
    told = ", ".join("%s is %.40s there and %.40s here" % (name, theirs[name], ours[name]) for name in differs)
    rule = "is published with another config.json: %s" % told
    return [Problem("", where + ".model.repo", deployment.model.repo, rule, "make sure that it is the model you mean")]


def _text_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, Mapping) else config


def _rope_warnings(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    """Return how positions would be read other than config.json says."""
    source = _text_of(config_of(deployment) or {})
    rope = source.get("rope_scaling") or source.get("rope_parameters")
    if not isinstance(rope, Mapping):
        return []
    kind = str(rope.get("rope_type") or rope.get("type") or "default")
    path, value = where + ".model.repo", deployment.model.repo
    if kind not in ROPE_KINDS:
        rule = "config.json of it has rope_scaling of the type %.40s, which vLLM is not known to have" % kind
        near = did_you_mean(kind, ROPE_KINDS)
        return [Problem("", path, value, rule, near or "expect its first start to say no")]
    if release.generation != NATIVE and kind not in ("default", "llama3", "mrope"):
        rule = "config.json of it stretches positions (rope_scaling %s), which NxDI does not read: " % kind
        rule += "answers are not those of the model"
        return [Problem("", path, value, rule, "use generation native, or a checkpoint without rope_scaling")]
    return []


def _speculation_warnings(deployment: Deployment, where: str) -> List[Problem]:
    wanted, found = deployment.speculation, []
    if wanted is None:
        return []
    if wanted.tokens > MOST_GUESSES:
        rule = "is over %d: hardly a guess so far ahead is accepted" % MOST_GUESSES
        found.append(Problem("", where + ".speculation.tokens", wanted.tokens, rule, "give 3 to %d" % MOST_GUESSES))
    if deployment.lora is not None:
        rule = "is documented without adapters, and adapters without it"
        fix = "serve one of them, or measure both names"
        found.append(Problem("", where + ".speculation.method", wanted.method, rule, fix))
    return found
