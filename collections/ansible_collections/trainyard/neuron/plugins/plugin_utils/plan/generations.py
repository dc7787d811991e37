# SPDX-License-Identifier: Apache-2.0
"""The serving generations: what a deployment becomes in each, and what of it each cannot do.

This is the interface of `generation_tables.py` (the data) and `rendering.py` (its interpreter); the checks live here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Dict, List, Mapping, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem, did_you_mean
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.versions import version_number
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import Deployment
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.flags import (
    flag_problems,
    flag_warnings,
    flags_of,
    spoken_value_problems,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.generation_tables import (
    DEMO_DROPPED,
    DEMO_FLAGS,
    DEMO_MODEL_TYPE_OF,
    DEMO_MODEL_TYPES,
    DEMO_SAMPLING_FLAGS,
    FOREIGN_FLAGS,
    FOREIGN_VARIABLES,
    NATIVE_MODEL_TYPES,
    NATIVE_NAMES,
    NATIVE_SEGMENTS,
    NATIVE_TOO,
    NXDI_QUANTIZED,
    OWNED_SETTINGS,
    PLANNER_KEYS,
    PREFIX_FLAG,
    QWEN3_MOE_RELEASE,
    QWEN3_MOE_SEQUENCES,
    RANK_SETTINGS,
    REMOVED_VARIABLES,
    SAME_PROGRAM,
    DemoFlag,
    Generation,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.model_options import (
    option_problems,
    option_warnings,
    spelled,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import NATIVE, NXDI_V0, NXDI_V1, SdkRelease
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.rendering import (
    COMPILE_PROMPT,
    MAX_GLOBAL_TOPK,
    Placement,
    Rendered,
    RenderError,
    architecture_of,
    compiled_settings,
    generation_of,
    model_type_of,
    native_config,
    quantization_of,
    render_compile,
    render_serve,
    sampling_of,
    serve_flags,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.traps import (
    telling_word,
    trap_problems,
    trap_warnings,
)

__all__ = [
    "COMPILE_PROMPT",
    "Placement",
    "RenderError",
    "Rendered",
    "argument_problems",
    "argument_warnings",
    "compiled_settings",
    "generation_of",
    "model_type_of",
    "render_compile",
    "render_serve",
]

#: Block sizes that the plugin's documentation uses, tokens.
PLUGIN_BLOCK_SIZES = (16, 32)


def argument_problems(
    deployment: Deployment, release: SdkRelease, where: str = "trainyard_deployment"
) -> List[Problem]:
    """Return what of a deployment cannot be said to its generation, or would stop its server.

    Args:
        deployment: the deployment.
        release: its SDK row.
        where: the variable that holds the deployment, which the problems name.
    """
    generation = generation_of(release)
    quantized = (quantization_of(deployment, release) or {}).get("quant_method")
    problems = option_problems(deployment, release, where, architecture_of(deployment), quantized)
    problems += trap_problems(deployment, release, where)
    problems += _spoken_problems(deployment, release, where)
    problems += _foreign_problems(deployment, release, where)
    problems += flag_problems(deployment, release, where, [one.variable.rsplit(".", 1)[-1] for one in problems])
    sampling = deployment.neuron_config.get("on_device_sampling_config")
    if sampling is not None and not isinstance(sampling, (Mapping, bool)):
        path = where + ".neuron_config.on_device_sampling_config"
        return [
            *problems,
            Problem(
                "", path, sampling, "must be a mapping, or false to sample on the CPU", "write key: value below it"
            ),
        ]
    told_so = bool(problems)
    asked = deployment.neuron_config
    deployment = spelled(deployment, release)
    problems += _owned_problems(deployment, where)
    if generation.compiler == "inference_demo":
        problems += _rank_problems(asked, where)
        problems += _model_type_problems(deployment, release, where)
        problems += _checkpoint_problems(deployment, release, where)
        settings = _setting_problems(deployment, release, where)
        # What nobody wrote follows from a field, of which the problem was told.
        problems += [one for one in settings if not told_so or one.variable.rsplit(".", 1)[-1] in asked]
        problems += _block_problems(deployment, release, generation, where)
        problems += _length_problems(deployment, where)
    else:
        problems += _checkpoint_problems(deployment, release, where)
        problems += _native_problems(deployment, release, where)
    return problems


def _spoken_problems(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    """Return the fields that the release's server has no flag for."""
    known = flags_of(release)
    told = spelled(replace(deployment, engine_args={}), release).engine_args
    missing = [
        Problem("", where, name, "is no flag of vLLM %s, which this needs" % release.vllm, "use a later SDK release")
        for name in sorted(told)
        if name not in known
    ]
    return missing + spoken_value_problems(told, known, where)


def _foreign_problems(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    """Return a problem for each flag and variable that belongs to another generation."""
    found = []
    for flag, why in FOREIGN_FLAGS[release.generation].items():
        value = deployment.engine_args.get(flag)
        if value is not None:
            path = "%s.engine_args.%s" % (where, flag)
            found.append(Problem("", path, value, "is no flag of %s: %s" % (release.generation, why), "remove it"))
    for name, (wrong, why) in FOREIGN_VARIABLES[release.generation].items():
        value = deployment.environment.get(name)
        if value is not None and (wrong is None or value in wrong):
            path = "%s.environment.%s" % (where, name)
            found.append(Problem("", path, value, "is wrong for %s: %s" % (release.generation, why), "remove it"))
    for name, (since, why) in REMOVED_VARIABLES.items():
        if name in deployment.environment and release.number[:2] >= since:
            path = "%s.environment.%s" % (where, name)
            found.append(Problem("", path, deployment.environment[name], "is read by nothing: %s" % why, "remove it"))
    if deployment.engine_args.get("quantization") == "neuron_quant" and release.generation != NATIVE:
        path = where + ".engine_args.quantization"
        rule = "must not be set: quantization is an engine setting"
        found.append(Problem("", path, "neuron_quant", rule, "remove it, and set quantization.weights"))
    return found


def _owned_problems(deployment: Deployment, where: str) -> List[Problem]:
    return [
        Problem(
            "",
            "%s.neuron_config.%s" % (where, name),
            value,
            "follows from another variable",
            "remove it and set %s" % OWNED_SETTINGS[name],
        )
        for name, value in deployment.neuron_config.items()
        if name in OWNED_SETTINGS
    ]


def _rank_problems(asked: Mapping[str, Any], where: str) -> List[Problem]:
    """Return the settings that would make NxDI wait for more ranks than a replica has cores."""
    rule = "multiplies the ranks of NxDI's world, and a replica has tensor_parallel_size cores"
    return [
        Problem("", "%s.neuron_config.%s" % (where, name), asked[name], rule, "remove it, and set %s" % field)
        for name, field in RANK_SETTINGS.items()
        if asked.get(name) not in (None, 1)
    ]


def _model_type_problems(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    """Return why the compiler cannot be told the architecture, or does not compile it."""
    nxdi = version_number(release.nxdi or "0")[:2]
    known = sorted(name for name, since in DEMO_MODEL_TYPES.items() if since <= nxdi)
    given, said = deployment.neuron_config.get("model_type"), architecture_of(deployment)
    path = where + (".model.repo" if given is None else ".neuron_config.model_type")
    if given is not None and not isinstance(given, str):
        return [Problem("", path, given, "must be text", "use one of %s" % ", ".join(known))]
    model_type = model_type_of(deployment)
    if model_type is None:
        return [_unknown_architecture(deployment, where, known)]
    value = deployment.model.repo if given is None else given
    if model_type in known:
        if given is None or said is None or _same_architecture(said, given):
            return []
        rule = "config.json of %s says model_type %s" % (deployment.model.repo, said)
        return [Problem("", path, given, rule, "remove it")]
    since = DEMO_MODEL_TYPES.get(model_type)
    fix = did_you_mean(model_type, known) if given is not None else ""
    if since is not None:
        fix = "use an SDK release with NxDI %d.%d or later" % since
    elif model_type in NATIVE_MODEL_TYPES:
        fix = "use generation native, SDK %d.%d or later" % NATIVE_MODEL_TYPES[model_type]
    rule = "inference_demo of NxDI %s does not compile %s" % (release.nxdi, model_type)
    return [Problem("", path, value, rule, fix or "it compiles %s" % ", ".join(known))]


def _same_architecture(said: str, given: str) -> bool:
    return DEMO_MODEL_TYPE_OF.get(said, said) == given or (said, given) in SAME_PROGRAM


def _unknown_architecture(deployment: Deployment, where: str, known: List[str]) -> Problem:
    """Return that nothing tells the architecture, and which file would settle it."""
    model = deployment.model
    file = "%s/%s/config.json" % (model.repo, model.revision)
    if deployment.model_config is None:
        rule = "the compiler needs the architecture, which config.json tells and a repository's name does not"
        told = telling_word(model.repo)
        if told:
            rule += " (%s in it speaks against a plain model)" % told
        fix = "give %s: below --model-configs DIR, or fetched by trainyard plan --hub https://huggingface.co" % file
    else:
        rule, fix = "its config.json has no model_type, which the compiler needs", "repair %s" % file
    fix += "; or set neuron_config.model_type to one of %s" % ", ".join(known)
    return Problem("", where + ".model.repo", model.repo, rule, fix)


def _checkpoint_problems(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    """Return why the engine cannot read the checkpoint's numbers, as its config.json gives them."""
    found = quantization_of(deployment, release)
    if not found:
        return []
    method = str(found.get("quant_method") or "(none named)")
    path, value = where + ".model.repo", deployment.model.repo
    told = "config.json of it has quantization_config.quant_method %s" % method
    if release.generation == NATIVE:
        if _native_reads(method, found):
            return []
        rule = "%s, and the native plugin reads FP8 of ModelOpt with one scale for each tensor" % told
        return [Problem("", path, value, rule, "use the model in BF16, or a checkpoint that ModelOpt made")]
    if deployment.neuron_config.get("quantized") and method in NXDI_QUANTIZED and not found.get("weight_block_size"):
        return []
    rule = "%s, which NxDI does not read" % told
    fix = "use the model in BF16; NxDI quantizes it itself"
    if method in NXDI_QUANTIZED:
        rule += " unless neuron_config.quantized is set, and then from NxDI's own checkpoint"
    return [Problem("", path, value, rule, fix)]


def _native_reads(method: str, found: Mapping[str, Any]) -> bool:
    """Return whether the native plugin reads such a checkpoint; scales for the KV cache alone never hurt."""
    if method == "compressed-tensors":
        return bool(found.get("kv_cache_scheme")) and not found.get("config_groups")
    if method == "fp8":
        return not found.get("weight_block_size") and found.get("activation_scheme") == "static"
    return method == "mxfp4" or (method == "modelopt" and found.get("quant_algo", "FP8") == "FP8")


def _model_warnings(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    """Return what of the model is undocumented, or needs a word more."""
    model, path = deployment.model, where + ".model.repo"
    said = architecture_of(deployment)
    found: List[Problem] = []
    few = deployment.max_num_seqs < QWEN3_MOE_SEQUENCES and release.number[:2] == QWEN3_MOE_RELEASE
    if few and model_type_of(deployment) == "qwen3_moe":
        rule = "is under %d, which SDK 2.28 serves a mixture of Qwen3 with" % QWEN3_MOE_SEQUENCES
        advice = "give %d or more, or use another release" % QWEN3_MOE_SEQUENCES
        found.append(Problem("", where + ".max_num_seqs", deployment.max_num_seqs, rule, advice))
    if release.generation == NATIVE and said is not None:
        since = NATIVE_MODEL_TYPES.get(said)
        if since is None or since > release.number[:2]:
            rule = "the native plugin of SDK %s has no recipe for %s" % (release.release, said)
            advice = "expect its first start to say no" if since is None else "use SDK %d.%d or later" % since
            found.append(Problem("", path, model.repo, rule, advice))
        quantization = quantization_of(deployment, release) or {}
        if quantization.get("quant_method") == "mxfp4":
            rule = "is stored in MXFP4, which only trn3 computes with; trn2 serves it in BF16"
            advice = "on trn2 set engine_args.hf-overrides to {quantization_config: {}}"
            found.append(Problem("", path, model.repo, rule, advice))
    return found


def _setting_problems(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    """Return a problem for each engine setting that `inference_demo` of the release has no flag for."""
    nxdi = version_number(release.nxdi or "0")[:2]
    sampling = deployment.neuron_config.get("on_device_sampling_config")
    found: List[Problem] = []
    for name, value in deployment.neuron_config.items():
        if name == "on_device_sampling_config" or name in PLANNER_KEYS or name in OWNED_SETTINGS:
            continue
        found += _flag_problems(name, value, nxdi, DEMO_FLAGS, where + ".neuron_config." + name, release)
    for name, value in sampling.items() if isinstance(sampling, Mapping) else ():
        path = "%s.neuron_config.on_device_sampling_config.%s" % (where, name)
        found += _flag_problems(name, value, nxdi, DEMO_SAMPLING_FLAGS, path, release)
    return found


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole_numbers(value: Any) -> List[int]:
    """Return a list of whole numbers as it is, and nothing for anything else."""
    return value if isinstance(value, list) and all(_is_int(item) for item in value) else []


#: What a flag takes -> whether a value is that, and how to say it.
_TAKES: Mapping[str, Callable[[Any], bool]] = {
    "switch": lambda value: isinstance(value, bool),
    "int": _is_int,
    "float": lambda value: _is_int(value) or isinstance(value, float),
    # Behind a dash argparse finds a flag, not the value of the one before.
    "text": lambda value: isinstance(value, str) and not value.startswith("-"),
    "ints": lambda value: bool(_whole_numbers(value)),
    "texts": lambda value: isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value),
}
_TAKES_WORDS = {
    "switch": "true or false",
    "int": "a whole number",
    "float": "a number",
    "text": "text that does not begin with -",
    "ints": "a list of whole numbers",
    "texts": "a list of texts",
}


def _flag_problems(
    name: str,
    value: Any,
    nxdi: Tuple[int, ...],
    table: Mapping[str, DemoFlag],
    path: str,
    release: SdkRelease,
) -> List[Problem]:
    compiler = "inference_demo of NxDI %s" % release.nxdi
    if name not in table:
        rule = "%s has no flag for it, so it would be served and not compiled" % compiler
        return [Problem("", path, value, rule, did_you_mean(name, table) or "remove it")]
    # A setting that is off is left out, whatever the release knows of it.
    if value is None or value is False:
        return []
    known = table[name]
    if known.since > nxdi:
        rule = "%s has no flag for it yet" % compiler
        return [Problem("", path, value, rule, "use an SDK release with NxDI %d.%d or later" % known.since)]
    if name in DEMO_DROPPED and nxdi >= DEMO_DROPPED[name]:
        return [Problem("", path, value, "%s no longer has a flag for it" % compiler, "remove it")]
    if not _TAKES[known.takes](value):
        rule = "must be %s for %s" % (_TAKES_WORDS[known.takes], known.flag)
        return [Problem("", path, value, rule, "change it")]
    return []


def _block_problems(deployment: Deployment, release: SdkRelease, generation: Generation, where: str) -> List[Problem]:
    """Return what contradicts how the engine lays its KV cache out."""
    arguments = deployment.engine_args
    given = arguments.get("num-gpu-blocks-override")
    path = where + ".engine_args.num-gpu-blocks-override"
    sequences, blocks = deployment.max_num_seqs, _least_blocks(deployment)
    if release.generation == NXDI_V0:
        wanted = sequences if release.vllm == "0.7.2" else sequences + 1
        if given is not None and given != wanted:
            rule = "the fork's worker takes exactly %d here" % wanted
            return [Problem("", path, given, rule, "remove it: that is its default")]
        return []
    found = []
    for flag in (PREFIX_FLAG, "no-" + PREFIX_FLAG):
        if flag in arguments and generation.prefix_follows_blocks:
            rule = "follows from block_size: the plugin pages its cache with prefix caching, and only then"
            fix = "remove it, and set block_size (or null for a contiguous cache)"
            found.append(Problem("", "%s.engine_args.%s" % (where, flag), arguments[flag], rule, fix))
    for name in ("is_block_kv_layout", "is_prefix_caching"):
        if name in deployment.neuron_config:
            value = deployment.neuron_config[name]
            path_of = "%s.neuron_config.%s" % (where, name)
            found.append(Problem("", path_of, value, "follows from block_size", "remove it, and set block_size"))
    if deployment.block_size is None and given is not None and given != sequences:
        rule = "must be max_num_seqs (%d) where the cache is contiguous" % sequences
        found.append(Problem("", path, given, rule, "remove it"))
    for variable, value in ((path, given), (where + ".neuron_config.pa_num_blocks", _pa_num_blocks(deployment))):
        if deployment.block_size is not None and isinstance(value, int) and value < blocks:
            rule = "%d sequences of %d tokens need %d blocks of %d" % (
                sequences,
                deployment.max_model_len,
                blocks,
                deployment.block_size,
            )
            found.append(Problem("", variable, value, rule, "remove it, or give %d or more" % blocks))
    return found


def _pa_num_blocks(deployment: Deployment) -> Any:
    return deployment.neuron_config.get("pa_num_blocks")


def _least_blocks(deployment: Deployment) -> int:
    """Return the blocks that hold every sequence at full length."""
    size = deployment.block_size or deployment.max_model_len
    return -(-deployment.max_model_len // size) * deployment.max_num_seqs


def _length_problems(deployment: Deployment, where: str) -> List[Problem]:
    """Return the lengths (tokens) that NxDI refuses: a bucket or a prompt that is longer than what holds it."""
    config, longest = deployment.neuron_config, deployment.max_model_len
    limits = (
        ("max_context_length", longest, "max_model_len"),
        ("context_encoding_buckets", config.get("max_context_length", longest), "the longest prompt"),
        ("token_generation_buckets", longest, "max_model_len"),
    )
    found = []
    for name, limit, what in limits:
        value = config.get(name)
        largest = max(_whole_numbers(value), default=value)
        if isinstance(largest, int) and isinstance(limit, int) and largest > limit:
            rule = "must not be over %s (%d)" % (what, limit)
            found.append(Problem("", "%s.neuron_config.%s" % (where, name), value, rule, "lower it"))
    return found


def _native_problems(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    """Return what the native plugin's start would refuse of its buckets (lengths in tokens)."""
    config = native_config(deployment)
    flags = serve_flags(deployment, release)
    batched = flags["max-num-batched-tokens"]
    checks = (
        ("num_batched_tokens_buckets", _last_is(batched, "max-num-batched-tokens")),
        ("num_seqs_buckets", _last_is(deployment.max_num_seqs, "max_num_seqs")),
        ("kv_segment_size_buckets", _segments(deployment.block_size or 32, config.get("num_batched_tokens_buckets"))),
        ("decode_context_length_buckets", _decode_lengths(deployment.max_model_len)),
    )
    found = []
    degree = config.get("ep_degree")
    if degree not in (None, 1) and not flags.get("enable-expert-parallel"):
        rule = "does nothing without enable-expert-parallel, and the plugin ends at it"
        found.append(
            Problem("", where + ".neuron_config.ep_degree", degree, rule, "remove it, and set expert_parallel")
        )
    for name, check in checks:
        buckets = config.get(name)
        if buckets is None:
            continue
        rule = _ascending(buckets) or check(buckets)
        if rule:
            found.append(Problem("", "%s.neuron_config.%s" % (where, name), buckets, rule, "change the list"))
    return found


def _ascending(buckets: Any) -> str:
    if not _whole_numbers(buckets):
        return "must be a list of whole numbers"
    if buckets != sorted(set(buckets)):
        return "must ascend"
    return ""


def _last_is(wanted: int, name: str) -> Any:
    return lambda buckets: "" if buckets[-1] == wanted else "must end with %s (%d)" % (name, wanted)


def _segments(block_size: int, prefill: Any) -> Any:
    def check(buckets: List[int]) -> str:
        if any(item not in NATIVE_SEGMENTS or item % block_size for item in buckets):
            sizes = ", ".join(str(item) for item in NATIVE_SEGMENTS)
            return "must be one of %s and a multiple of the block size (%d)" % (sizes, block_size)
        if prefill != buckets:
            return "must be the same list as num_batched_tokens_buckets"
        return ""

    return check


def _decode_lengths(longest: int) -> Any:
    def check(buckets: List[int]) -> str:
        wrong = any(item % 128 or item >= longest for item in buckets)
        return "must be multiples of 128 below max_model_len (%d)" % longest if wrong else ""

    return check


def argument_warnings(
    deployment: Deployment, release: SdkRelease, where: str = "trainyard_deployment"
) -> List[Problem]:
    """Return what of a deployment works otherwise than it reads; arguments as `argument_problems`."""
    generation = generation_of(release)
    found = option_warnings(deployment, release, where)
    found += trap_warnings(deployment, release, where)
    found += flag_warnings(deployment, release, where)
    deployment = spelled(deployment, release)
    found += _model_warnings(deployment, release, where)
    found += _sampling_warnings(deployment, release, generation, where)
    if deployment.block_size is not None and not generation.block_size_flag:
        rule = "has no effect in %s, whose block is the whole sequence" % release.generation
        found.append(Problem("", where + ".block_size", deployment.block_size, rule, "set it to null"))
    if release.generation == NXDI_V1 and deployment.block_size is not None:
        found += _paging_warnings(deployment, where)
    if generation.translate:
        found += _dropped_warnings(deployment, release, where)
    else:
        found += _length_warnings(deployment, generation, where)
    return found


def _sampling_warnings(
    deployment: Deployment, release: SdkRelease, generation: Generation, where: str
) -> List[Problem]:
    sampling = sampling_of(deployment)
    path = where + ".neuron_config.on_device_sampling_config"
    found = []
    if sampling is not None and generation.compiler == "inference_demo" and not sampling.get("dynamic"):
        rule = "compiles one way of sampling in, so what a request asks for is not what it gets"
        found.append(Problem("", path, sampling, rule, "add dynamic: true"))
    deepest = (sampling or {}).get("global_topk")
    if isinstance(deepest, int) and deepest > MAX_GLOBAL_TOPK:
        rule = "the device samples from %d candidates at most" % MAX_GLOBAL_TOPK
        found.append(Problem("", path + ".global_topk", deepest, rule, "give %d or less" % MAX_GLOBAL_TOPK))
    elif isinstance(deepest, int) and deepest < MAX_GLOBAL_TOPK and release.generation == NXDI_V0:
        # Read in the fork's runner (top_k below 1 becomes 256) and in NxDI's validate_sampling_params.
        rule = "is below %d, which the fork asks for where a request names no top_k: NxDI then raises in the engine" % (
            MAX_GLOBAL_TOPK
        )
        fix = "give %d, or let no request through that samples without top_k 1 to %d" % (MAX_GLOBAL_TOPK, deepest)
        found.append(Problem("", path + ".global_topk", deepest, rule, fix))
    return found


def _paging_warnings(deployment: Deployment, where: str) -> List[Problem]:
    found = []
    if deployment.max_num_seqs == 1:
        rule = "the plugin is known to answer wrongly with prefix caching and one sequence"
        found.append(Problem("", where + ".max_num_seqs", 1, rule, "give 2 or more, or set block_size to null"))
    if deployment.block_size not in PLUGIN_BLOCK_SIZES:
        rule = "the plugin is documented with blocks of %s tokens" % " or ".join(str(i) for i in PLUGIN_BLOCK_SIZES)
        found.append(Problem("", where + ".block_size", deployment.block_size, rule, "use one of them"))
    return found


def _dropped_warnings(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    return [
        Problem(
            "",
            "%s.neuron_config.%s" % (where, name),
            value,
            "is a setting of NxDI that %s has no word for, and is left out" % release.generation,
            "remove it",
        )
        for name, value in deployment.neuron_config.items()
        if name in DEMO_FLAGS and name not in NATIVE_NAMES and name not in NATIVE_TOO
    ]


def _length_warnings(deployment: Deployment, generation: Generation, where: str) -> List[Problem]:
    """Return the compiled lengths that are shorter than what is served, in tokens."""
    config: Dict[str, Any] = dict(deployment.neuron_config)
    found = []
    given = config.get("max_context_length")
    longest = given if isinstance(given, int) else deployment.max_model_len
    if longest < deployment.max_model_len and not generation.prompt_limit_key:
        path = where + ".neuron_config.max_context_length"
        rule = "is under max_model_len (%d): longer prompts are admitted and fail" % deployment.max_model_len
        found.append(Problem("", path, longest, rule, "raise it, or lower max_model_len"))
    for name, length in (
        ("context_encoding_buckets", longest),
        ("token_generation_buckets", deployment.max_model_len),
    ):
        buckets = config.get(name)
        if max(_whole_numbers(buckets), default=length) < length:
            rule = "ends below %d tokens: longer sequences are admitted and fail" % length
            found.append(Problem("", "%s.neuron_config.%s" % (where, name), buckets, rule, "add %d" % length))
    return found
