# SPDX-License-Identifier: Apache-2.0
"""What a deployment asks of its model beside its shape, in one form for all generations, and how each is told.

`read_options` checks the fields by themselves. `spelled` translates a deployment for its SDK row: into engine settings
that are compiled in, flags of the server and variables of both. `option_problems` says what the row cannot do, and what
could. A further checkpoint (a draft, an adapter) stands in settings and flags as `{model:<repo>@<revision>}`: that is
what a digest sees of it, and its directory takes the place when a command is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Optional, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.fields import (
    BadValueError,
    Field,
    Kind,
    Schema,
    list_of,
    mapping,
    one_of,
    optional,
    switch,
    text,
    whole_number,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem, did_you_mean
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.versions import version_number
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.known_models import known_config
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import NATIVE, NXDI_V0, NXDI_V1, SdkRelease

if TYPE_CHECKING:
    from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import Deployment, ModelRef

#: What stands for the chat template until its path is known.
TEMPLATE_FILE = "{file:chat_template}"

#: A switch of the compiler whose name only looks like a secret's.
NOT_SECRET = ("DISABLE_NUMERIC_CC_TOKEN",)

#: The fields of a deployment that are options of its model.
OPTIONS = (
    "aliases",
    "lora",
    "speculation",
    "quantization",
    "buckets",
    "prefix_caching",
    "chunked_prefill",
    "expert_parallel",
    "structured_outputs",
    "tools",
)

METHODS = ("draft", "eagle", "eagle3")
WEIGHTS = ("int8", "fp8")
SCHEMES = ("per_tensor", "per_channel")

#: Layers that adapters change where nothing is said: attention and MLP.
TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

#: What NxDI changes as well where it is named.
FURTHER_MODULES = ("embed_tokens", "lm_head", "qkv_proj")

#: What FP8 needs of the compiler and of the runtime, when it compiles and when it serves.
FP8_VARIABLES: Mapping[str, str] = {"XLA_HANDLE_SPECIAL_SCALAR": "1", "UNSAFE_FP8FNCAST": "1"}

#: And where weights are in it, as its tutorial has it.
FP8_WEIGHTS_VARIABLES: Mapping[str, str] = dict.fromkeys(NOT_SECRET, "1")

#: First release whose plugin takes adapters: 2.28 has plugin 0.4.1, and 0.2.0 says that it does not.
LORA_SINCE: Mapping[str, Tuple[int, ...]] = {NXDI_V0: (2, 23), NXDI_V1: (2, 28)}

#: First release with each way to speculate, by generation.
SPECULATION_SINCE: Mapping[Tuple[str, str], Tuple[int, ...]] = {
    (NXDI_V0, "draft"): (2, 23),
    (NXDI_V0, "eagle"): (2, 23),
    (NXDI_V1, "eagle"): (2, 26),
    (NXDI_V1, "eagle3"): (2, 28),
    (NATIVE, "eagle3"): (2, 31),
}

#: Settings that only a field says, since the server, the fetched files and the memory have to know of them -> field.
FIELD_SETTINGS: Mapping[str, str] = {
    **dict.fromkeys(
        ("enable_lora", "enable_dynamic_multi_lora", "max_loras", "max_lora_rank", "max_cpu_loras", "target_modules"),
        "lora",
    ),
    **dict.fromkeys(
        (
            "draft_model_path",
            "enable_eagle_speculation",
            "enable_fused_speculation",
            "is_eagle3",
            "speculation_length",
        ),
        "speculation",
    ),
}

#: Settings of the compiler that the server has its own flags for.
COMPILER_SETTINGS = (*(name for name, field in FIELD_SETTINGS.items() if field == "lora"), "draft_model_path")

#: Architectures that NxDI serves adapters of.
LORA_ARCHITECTURES = ("llama", "qwen2", "qwen3")

#: A further checkpoint in a command that is not yet written.
_PLACE = re.compile(r"\{model:([^{}@]+)@([^{}@]+)\}")
_ADAPTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*")
_MODULE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_PARSER = re.compile(r"[A-Za-z0-9_]+")
_PATH = re.compile(r"[^\x00-\x1f\x7f]+")


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter: the name that clients ask for, and its checkpoint."""

    name: str
    model: ModelRef


@dataclass(frozen=True)
class Lora:
    """Adapters of a deployment.

    Attributes:
        max_loras: how many can be worked with at once, compiled in.
        max_rank: the highest rank of any of them, compiled in.
        max_cpu_loras: how many the host's memory keeps beside them; None for none.
        dynamic: whether adapters come and go while the server runs.
        target_modules: layers that they change, compiled in.
        adapters: what is there at the start.
    """

    max_loras: int = 1
    max_rank: int = 16
    max_cpu_loras: Optional[int] = None
    dynamic: bool = False
    target_modules: Tuple[str, ...] = TARGET_MODULES
    adapters: Tuple[Adapter, ...] = ()


@dataclass(frozen=True)
class Speculation:
    """How a smaller model guesses ahead.

    Attributes:
        method: `draft` for a model of its own, `eagle` and `eagle3` for a head that was trained for this model.
        model: its checkpoint.
        tokens: how many it guesses at a time, compiled in.
    """

    method: str
    model: ModelRef
    tokens: int


@dataclass(frozen=True)
class Quantization:
    """In what numbers are held: weights `int8` or `fp8` of `checkpoint` (NxDI) or of the model, KV cache `fp8`.

    `modules_not_converted` are layers that stay as they are computed.
    """

    weights: Optional[str] = None
    scheme: str = "per_channel"
    modules_not_converted: Tuple[str, ...] = ()
    checkpoint: Optional[ModelRef] = None
    kv_cache: Optional[str] = None


@dataclass(frozen=True)
class Tools:
    """How answers are taken apart: parsers of calls and of reasoning, and a chat template of the controller's."""

    call_parser: Optional[str] = None
    reasoning_parser: Optional[str] = None
    chat_template: Optional[str] = None


def place_of(model: ModelRef) -> str:
    """Return what stands for a further checkpoint's directory until it is known."""
    return "{model:%s@%s}" % (model.repo, model.revision)


def placed(word: str, weights_path: str, model: ModelRef) -> str:
    """Return a word of a command with the directories of further checkpoints, which lie beside the model's own."""
    own = "/%s/%s" % (model.repo, model.revision)
    root = weights_path[: -len(own)] if weights_path.endswith(own) else "/data/weights"
    return _PLACE.sub(lambda found: "%s/%s/%s" % (root, found.group(1), found.group(2)), word)


def adapter_paths(deployment: Deployment, weights_path: str) -> Dict[str, str]:
    """Return where the adapters of a deployment are on a host, by their names."""
    if deployment.lora is None:
        return {}
    return {
        adapter.name: placed(place_of(adapter.model), weights_path, deployment.model)
        for adapter in deployment.lora.adapters
    }


def further_models(deployment: Deployment) -> List[ModelRef]:
    """Return the checkpoints that a deployment needs beside its model: a draft, adapters, quantized weights."""
    found: List[ModelRef] = []
    if deployment.speculation is not None:
        found.append(deployment.speculation.model)
    if deployment.quantization is not None and deployment.quantization.checkpoint is not None:
        found.append(deployment.quantization.checkpoint)
    if deployment.lora is not None:
        found += [adapter.model for adapter in deployment.lora.adapters]
    return list(dict.fromkeys(found))


def compiled_models(deployment: Deployment) -> List[ModelRef]:
    """Return those of them that an artifact is made from: adapters only have to fit it."""
    adapters = [adapter.model for adapter in deployment.lora.adapters] if deployment.lora is not None else []
    return [model for model in further_models(deployment) if model not in adapters]


def served_names(deployment: Deployment) -> Tuple[str, ...]:
    """Return every name that clients may ask for: the model's, its aliases, and its adapters'."""
    adapters = [adapter.name for adapter in deployment.lora.adapters] if deployment.lora is not None else []
    return (deployment.served_name, *deployment.aliases, *adapters)


# Reading ---------------------------------------------------------------------------------------------------------


def _lengths(value: Any) -> Tuple[int, ...]:
    """Check a list of lengths or counts, each larger than the one before."""
    found = _NUMBERS(value)
    if list(found) != sorted(set(found)):
        raise BadValueError("must ascend", "sort it, and name each once")
    return tuple(found)


_NUMBERS = list_of(whole_number(1), least=1, most=64)
LENGTHS = Kind(_lengths, "ascending list of whole numbers", _NUMBERS.json)
_LAYER = re.compile(r"[A-Za-z][A-Za-z0-9_.]*")
_NOT_CONVERTED = list_of(text(_LAYER, "must be a layer's name", "give one, such as lm_head"), most=4096)
_MODULE_NAMES = list_of(text(_MODULE, "must be a layer's name", "give one, such as q_proj"), least=1, most=32)


def _adapter_json(model: Schema) -> Dict[str, Any]:
    found = model.to_json()
    name = {"type": "string", "pattern": "^(?:%s)$" % _ADAPTER.pattern, "description": "as clients ask for it"}
    required = ["name", *found.get("required", [])]
    return {**found, "properties": {"name": name, **found["properties"]}, "required": required}


def _schemas(model: Schema) -> Dict[str, Schema]:
    """Return the schema of each option that is a dictionary; `model`: that of a checkpoint."""
    checkpoint = Kind(mapping, "mapping", model.to_json(), model)
    adapters = list_of(Kind(mapping, "mapping", _adapter_json(model), model), most=1000)
    parser = "a parser's name"
    return {
        "lora": Schema(
            "lora",
            "Adapters (LoRA) that are served beside the model, each under a name of its own.",
            {
                "max_loras": Field(
                    whole_number(1, 4096), default=1, about="worked with at once; compiled in", example=4
                ),
                "max_rank": Field(whole_number(1, 512), default=16, about="highest rank; compiled in", example=32),
                "max_cpu_loras": Field(
                    optional(whole_number(1, 65536)), about="kept in the host's memory beside them", example=16
                ),
                "dynamic": Field(
                    switch(), default=False, about="whether they come and go while the server runs", example=True
                ),
                "target_modules": Field(
                    _MODULE_NAMES,
                    default=TARGET_MODULES,
                    about="layers that they change; compiled in",
                    example=["q_proj", "v_proj"],
                ),
                "adapters": Field(
                    adapters,
                    default=(),
                    about="what is there at the start: `name` and a checkpoint's fields",
                    example=[{"name": "sql", "repo": "acme/sql-lora", "revision": "0" * 40}],
                ),
            },
        ),
        "speculation": Schema(
            "speculation",
            "A smaller model that guesses ahead, whose guesses the model checks.",
            {
                "method": Field(
                    one_of(METHODS),
                    required=True,
                    about="a model of its own, or a head that was trained for this model",
                    example="eagle3",
                ),
                "model": Field(
                    checkpoint,
                    required=True,
                    about="its checkpoint",
                    example={"repo": "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B", "revision": "0" * 40},
                ),
                "tokens": Field(
                    whole_number(1, 64), required=True, about="guessed at a time; compiled in", unit="tokens", example=3
                ),
            },
        ),
        "quantization": Schema(
            "quantization",
            "In what numbers weights and KV cache are held.",
            {
                "weights": Field(optional(one_of(WEIGHTS)), about="of what; without it as computed", example="int8"),
                "scheme": Field(
                    one_of(SCHEMES), default="per_channel", about="what has a scale of its own", example="per_tensor"
                ),
                "modules_not_converted": Field(
                    _NOT_CONVERTED,
                    default=(),
                    about="layers that stay as they are computed (NxDI)",
                    example=["lm_head"],
                ),
                "checkpoint": Field(
                    optional(checkpoint),
                    about="NxDI's own quantized weights; natively `model` is them",
                    example={"repo": "acme/llama-int8", "source": "s3", "uri": "s3://models/q", "revision": "v1"},
                ),
                "kv_cache": Field(optional(one_of(("fp8",))), about="of the KV cache", example="fp8"),
            },
        ),
        "tools": Schema(
            "tools",
            "How answers are taken apart.",
            {
                "call_parser": Field(
                    optional(text(_PARSER, "must be " + parser, "see vllm serve --help", parser)),
                    about="of calls of tools, which requests may then leave to the model",
                    example="llama3_json",
                ),
                "reasoning_parser": Field(
                    optional(text(_PARSER, "must be " + parser, "see vllm serve --help", parser)),
                    about="of what a model thinks before it answers",
                    example="qwen3",
                ),
                "chat_template": Field(
                    optional(text(_PATH, "must be a path on the controller", "give one", "path")),
                    about="file of the controller in place of the checkpoint's own template; it travels to the hosts",
                    example="templates/llama-3-tools.jinja",
                ),
            },
        ),
        "buckets": Schema(
            "buckets",
            "Lengths and counts that graphs are compiled for; each is one more to compile.",
            {
                "prefill": Field(optional(LENGTHS), about="of prompts", unit="tokens", example=[1024, 4096]),
                "decode": Field(optional(LENGTHS), about="of sequences", unit="tokens", example=[2048, 4096]),
                "prefix": Field(optional(LENGTHS), about="of shared beginnings (NxDI)", unit="tokens", example=[512]),
                "sequences": Field(
                    optional(LENGTHS), about="sequences at once (native)", unit="sequences", example=[1, 4]
                ),
                "segments": Field(optional(LENGTHS), about="pieces of prompts (native)", unit="tokens", example=[2048]),
            },
        ),
    }


def option_fields(model: Schema) -> Dict[str, Field]:
    """Return the fields of a deployment that are options of its model; `model`: the schema of a checkpoint."""
    schemas = _schemas(model)

    def part(name: str, example: Any, default: Any = None) -> Field:
        schema = schemas[name]
        kind = Kind(mapping, "mapping", schema.to_json(), schema)
        about = schema.about[0].lower() + schema.about[1:].rstrip(".")
        return Field(kind if default is not None else optional(kind), default=default, about=about, example=example)

    return {
        "lora": part("lora", {"max_loras": 2, "dynamic": True}),
        "speculation": part("speculation", {"method": "eagle3", "model": {"repo": "a/b", "revision": "0" * 40},
                                            "tokens": 3}),
        "quantization": part("quantization", {"kv_cache": "fp8"}),
        "buckets": part("buckets", {"prefill": [1024, 4096]}, {}),
        "prefix_caching": Field(
            optional(switch()), about="whether KV blocks of a common beginning are shared", example=True
        ),
        "chunked_prefill": Field(
            optional(switch()), about="whether prompts are worked on in pieces", example=False
        ),
        "expert_parallel": Field(
            optional(whole_number(2, 4096)), about="groups of cores that experts are spread over", example=4
        ),
        "structured_outputs": Field(
            optional(switch()), about="whether requests may come with a schema", example=True
        ),
        "tools": part("tools", {"call_parser": "llama3_json"}),
    }  # fmt: skip


Reader = Callable[[Any, str], Tuple[Any, List[Problem]]]


def read_options(values: Dict[str, Any], where: str, model: Schema, read_model: Reader) -> List[Problem]:
    """Put the options of a deployment's fields into their own forms, in place; return what is wrong with them.

    Args:
        values: the fields that are right in themselves.
        where: the variable that holds the deployment.
        model: the schema of a checkpoint.
        read_model: reads a checkpoint's mapping at a path.
    """
    schemas = _schemas(model)
    problems: List[Problem] = []
    makers: Tuple[Tuple[str, Callable[..., Tuple[Any, List[Problem]]]], ...] = (
        ("lora", _lora_of),
        ("speculation", _speculation_of),
        ("quantization", _quantization_of),
        ("tools", lambda found, *_: (Tools(**found), [])),
        ("buckets", lambda found, *_: ({key: list(item) for key, item in found.items() if item is not None}, [])),
    )
    for name, make in makers:
        if values.get(name) is None:
            continue
        path = "%s.%s" % (where, name)
        read, wrong = schemas[name].read(values[name], path)
        made: Any = None
        if not wrong:
            made, wrong = make(read, path, read_model)
        values[name] = {} if made is None and name == "buckets" else made
        problems += wrong
    return problems


def _lora_of(values: Dict[str, Any], where: str, read_model: Reader) -> Tuple[Optional[Lora], List[Problem]]:
    problems: List[Problem] = []
    adapters = []
    for index, item in enumerate(values["adapters"]):
        path = "%s.adapters[%d]" % (where, index)
        model, found = read_model({key: value for key, value in item.items() if key != "name"}, path)
        name = item.get("name")
        if not isinstance(name, str) or not _ADAPTER.fullmatch(name):
            fix = "name it as clients are to ask for it"
            found = [*found, Problem("", path + ".name", name, "must be letters, digits and . _ : / -", fix)]
        problems += found
        if not found:
            adapters.append(Adapter(str(name), model))
    names = [adapter.name for adapter in adapters]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(Problem("", where + ".adapters", name, "is the name of two adapters", "rename one"))
    if problems:
        return None, problems
    return Lora(**{**values, "adapters": tuple(adapters)}), []


def _speculation_of(
    values: Dict[str, Any], where: str, read_model: Reader
) -> Tuple[Optional[Speculation], List[Problem]]:
    model, problems = read_model(values["model"], where + ".model")
    return (None, problems) if problems else (Speculation(**{**values, "model": model}), [])


def _quantization_of(
    values: Dict[str, Any], where: str, read_model: Reader
) -> Tuple[Optional[Quantization], List[Problem]]:
    problems: List[Problem] = []
    if values["checkpoint"] is not None:
        values["checkpoint"], problems = read_model(values["checkpoint"], where + ".checkpoint")
    if not problems and not values["weights"] and not values["kv_cache"]:
        problems = [Problem("", where, None, "quantizes nothing", "set weights or kv_cache, or remove it")]
    return (None, problems) if problems else (Quantization(**values), [])


# Translating -----------------------------------------------------------------------------------------------------


def spelled(deployment: Deployment, release: SdkRelease) -> Deployment:
    """Return a deployment with its options in its generation's own words; the same again for one that has them.

    What `option_problems` refuses is left out. Adapters and a draft stay as well, for what is fetched and counted.
    """
    if deployment.spelled:
        return deployment
    config: Dict[str, Any] = {}
    flags: Dict[str, Any] = {}
    variables: Dict[str, str] = {}
    for tell in (_tell_quantization, _tell_buckets, _tell_speculation, _tell_lora, _tell_rest):
        tell(deployment, release, config, flags, variables)
    if not config and not flags and not variables:
        return replace(deployment, spelled=True)
    return replace(
        deployment,
        neuron_config={**config, **deployment.neuron_config},
        engine_args={**flags, **deployment.engine_args},
        environment={**variables, **deployment.environment},
        spelled=True,
    )


def _tell_quantization(
    deployment: Deployment,
    release: SdkRelease,
    config: Dict[str, Any],
    flags: Dict[str, Any],
    variables: Dict[str, str],
) -> None:
    wanted = deployment.quantization
    if wanted is None:
        return
    if release.generation == NATIVE:
        # What the weights are in is the checkpoint's own matter.
        if wanted.kv_cache:
            flags["kv-cache-dtype"] = wanted.kv_cache
        return
    if wanted.weights:
        config["quantized"] = True
        config["quantization_dtype"] = {"int8": "int8", "fp8": "f8e4m3"}[wanted.weights]
        config["quantization_type"] = wanted.scheme + "_symmetric"
        if wanted.modules_not_converted:
            config["modules_to_not_convert"] = list(wanted.modules_not_converted)
        if wanted.checkpoint is not None:
            config["quantized_checkpoints_path"] = place_of(wanted.checkpoint)
    if wanted.kv_cache:
        config["kv_cache_quant"] = True
    if wanted.weights == "fp8" or wanted.kv_cache:
        variables.update(FP8_VARIABLES)
    if wanted.weights == "fp8":
        variables.update(FP8_WEIGHTS_VARIABLES)


#: Bucket lists in each compiler's words; what is not there is refused.
_BUCKET_NAMES: Mapping[str, Mapping[str, str]] = {
    "nxdi": {
        "prefill": "context_encoding_buckets",
        "decode": "token_generation_buckets",
        "prefix": "prefix_buckets",
    },
    "native": {
        "prefill": "num_batched_tokens_buckets",
        "decode": "decode_context_length_buckets",
        "sequences": "num_seqs_buckets",
        "segments": "kv_segment_size_buckets",
    },
}


def _words(release: SdkRelease) -> Mapping[str, str]:
    return _BUCKET_NAMES["native" if release.generation == NATIVE else "nxdi"]


def _tell_buckets(
    deployment: Deployment,
    release: SdkRelease,
    config: Dict[str, Any],
    flags: Dict[str, Any],
    variables: Dict[str, str],
) -> None:
    del flags, variables
    known = _words(release)
    config.update({known[name]: list(value) for name, value in deployment.buckets.items() if name in known})


def _tell_speculation(
    deployment: Deployment,
    release: SdkRelease,
    config: Dict[str, Any],
    flags: Dict[str, Any],
    variables: Dict[str, str],
) -> None:
    del variables
    wanted = deployment.speculation
    if wanted is None:
        return
    told: Dict[str, Any] = {"model": place_of(wanted.model), "num_speculative_tokens": wanted.tokens}
    if wanted.method != "draft":
        told["method"] = wanted.method
    if release.generation != NATIVE:
        told["max_model_len"] = deployment.max_model_len
        config["draft_model_path"] = place_of(wanted.model)
        config["enable_fused_speculation"] = True
        config["speculation_length"] = wanted.tokens
        if wanted.method != "draft":
            config["enable_eagle_speculation"] = True
        if wanted.method == "eagle3":
            config["is_eagle3"] = True
    flags["speculative-config"] = told


def _tell_lora(
    deployment: Deployment,
    release: SdkRelease,
    config: Dict[str, Any],
    flags: Dict[str, Any],
    variables: Dict[str, str],
) -> None:
    wanted = deployment.lora
    if wanted is None or release.generation == NATIVE:
        return
    config.update(
        enable_lora=True,
        max_loras=wanted.max_loras,
        max_lora_rank=wanted.max_rank,
        target_modules=list(wanted.target_modules),
    )
    flags.update({"enable-lora": True, "max-loras": wanted.max_loras, "max-lora-rank": wanted.max_rank})
    if wanted.dynamic:
        config["enable_dynamic_multi_lora"] = True
        # As the plugin compares it; vLLM itself takes other words as well.
        variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    if wanted.max_cpu_loras is not None:
        config["max_cpu_loras"] = wanted.max_cpu_loras
        flags["max-cpu-loras"] = wanted.max_cpu_loras
    if wanted.adapters:
        flags["lora-modules"] = ["%s=%s" % (item.name, place_of(item.model)) for item in wanted.adapters]


def _tell_rest(
    deployment: Deployment,
    release: SdkRelease,
    config: Dict[str, Any],
    flags: Dict[str, Any],
    variables: Dict[str, str],
) -> None:
    del variables
    native = release.generation == NATIVE
    if deployment.expert_parallel is not None:
        if native:
            flags["enable-expert-parallel"] = True
            config["ep_degree"] = deployment.expert_parallel
        else:
            config["moe_ep_degree"] = deployment.expert_parallel
            config["moe_tp_degree"] = max(1, deployment.tensor_parallel_size // deployment.expert_parallel)
    if deployment.structured_outputs and native:
        config["enable_structured_outputs"] = True
    if deployment.prefix_caching is False and native:
        flags["enable-prefix-caching"] = False
    tools = deployment.tools
    if tools is None:
        return
    if tools.call_parser:
        flags.update({"enable-auto-tool-choice": True, "tool-call-parser": tools.call_parser})
    if tools.reasoning_parser:
        flags["reasoning-parser"] = tools.reasoning_parser
        if release.generation == NXDI_V0:
            flags["enable-reasoning"] = True
    if tools.chat_template:
        flags["chat-template"] = TEMPLATE_FILE if deployment.template is not None else tools.chat_template


# Refusing --------------------------------------------------------------------------------------------------------


def option_problems(
    deployment: Deployment, release: SdkRelease, where: str, architecture: Optional[str], quantized: Optional[str]
) -> List[Problem]:
    """Return what of the options a row cannot do, each with what could.

    Args:
        deployment: as the inventory has it.
        release: its SDK row.
        where: the variable that holds the deployment.
        architecture: the model's, by its config.json; None where nobody knows.
        quantized: quant_method of the checkpoint, None for plain weights or where nobody knows.
    """
    return [
        *_twice(deployment, release, where),
        *_lora_problems(deployment, release, where, architecture),
        *_speculation_problems(deployment, release, where),
        *_quantization_problems(deployment, release, where, quantized),
        *_caching_problems(deployment, release, where),
        *_rest_problems(deployment, release, where),
    ]


def _twice(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    """Return what a field and a raw setting both say."""
    found = [
        Problem(
            "",
            "%s.neuron_config.%s" % (where, name),
            value,
            "is not only compiled in",
            "remove it, and set %s" % FIELD_SETTINGS[name],
        )
        for name, value in deployment.neuron_config.items()
        if name in FIELD_SETTINGS
    ]
    bare = replace(deployment, neuron_config={}, engine_args={}, environment={})
    told = spelled(bare, release)
    for part, words, raw in (
        ("neuron_config", told.neuron_config, deployment.neuron_config),
        ("engine_args", told.engine_args, deployment.engine_args),
    ):
        for name in sorted((set(words) & set(raw)) - set(FIELD_SETTINGS)):
            rule = "is said by a field of the deployment as well"
            found.append(Problem("", "%s.%s.%s" % (where, part, name), raw[name], rule, "remove it"))
    return found


def _lora_problems(
    deployment: Deployment, release: SdkRelease, where: str, architecture: Optional[str]
) -> List[Problem]:
    wanted, path = deployment.lora, where + ".lora"
    if wanted is None:
        return []
    since = LORA_SINCE.get(release.generation)
    if since is None or release.number < since:
        rule = "%s of SDK %s serves no adapters" % (release.generation, release.release)
        return [Problem("", path, _summary(wanted.adapters), rule, "use nxdi_v1 with SDK 2.28.0 to 2.31.1, or nxdi_v0")]
    found = []
    if architecture is not None and architecture not in LORA_ARCHITECTURES:
        rule = "NxDI serves adapters of %s, and this is %s" % (", ".join(LORA_ARCHITECTURES), architecture)
        found.append(
            Problem("", path, _summary(wanted.adapters), rule, "serve the model that the adapters make, merged")
        )
    if wanted.dynamic and version_number(release.nxdi or "0")[:2] < (0, 7):
        rule = "inference_demo of NxDI %s has no adapters that come and go" % release.nxdi
        found.append(Problem("", path + ".dynamic", True, rule, "use SDK 2.28.0 or later, or name them all"))
    if not wanted.dynamic and len(wanted.adapters) > wanted.max_loras:
        rule = "are more than max_loras (%d), and none is loaded later" % wanted.max_loras
        value = len(wanted.adapters)
        found.append(Problem("", path + ".adapters", value, rule, "raise max_loras, or set dynamic: true"))
    if wanted.max_cpu_loras is not None and wanted.max_cpu_loras < wanted.max_loras:
        rule = "is below max_loras (%d), and vLLM ends at it" % wanted.max_loras
        found.append(Problem("", path + ".max_cpu_loras", wanted.max_cpu_loras, rule, "raise it, or leave it out"))
    for name in wanted.target_modules:
        if name not in (*TARGET_MODULES, *FURTHER_MODULES):
            rule = "is no layer that adapters change"
            fix = did_you_mean(name, TARGET_MODULES) or "use %s" % ", ".join(TARGET_MODULES)
            found.append(Problem("", path + ".target_modules", name, rule, fix))
    if not wanted.dynamic and not wanted.adapters:
        rule = "names no adapter, and none may come later"
        found.append(Problem("", path + ".adapters", [], rule, "name some, or set dynamic: true"))
    if deployment.block_size is not None:
        rule = "adapters are served without prefix caching, as their documentation does it"
        found.append(Problem("", where + ".block_size", deployment.block_size, rule, "set it to null"))
    if deployment.neuron_config.get("sequence_parallel_enabled"):
        rule = "adapters are served without it, as their documentation does it"
        found.append(Problem("", where + ".neuron_config.sequence_parallel_enabled", True, rule, "remove it"))
    return found


def _summary(adapters: Tuple[Adapter, ...]) -> List[str]:
    return [adapter.name for adapter in adapters]


def _speculation_problems(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    wanted, path = deployment.speculation, where + ".speculation"
    if wanted is None:
        return []
    found = []
    since = SPECULATION_SINCE.get((release.generation, wanted.method))
    if since is None or release.number < since:
        ways = ["%s from SDK %s" % (way, ".".join(map(str, first))) for (generation, way), first in
                sorted(SPECULATION_SINCE.items()) if generation == release.generation]  # fmt: skip
        rule = "%s of SDK %s has no such way" % (release.generation, release.release)
        fix = "it has %s" % " and ".join(ways)
        if since is None:
            others = sorted({generation for generation, way in SPECULATION_SINCE if way == wanted.method})
            fix += "; %s %s %s" % (" and ".join(others), "has" if len(others) == 1 else "have", wanted.method)
        found.append(Problem("", path + ".method", wanted.method, rule, fix))
    if release.generation == NATIVE and deployment.neuron_config.get("on_device_sampling_config", {}) in (None, False):
        rule = "speculation samples on the device"
        name = where + ".neuron_config.on_device_sampling_config"
        found.append(Problem("", name, False, rule, "remove it"))
    if wanted.tokens >= deployment.max_model_len:
        rule = "is not below max_model_len"
        found.append(Problem("", path + ".tokens", wanted.tokens, rule, "give 3 to 7"))
    return found


def _quantization_problems(
    deployment: Deployment, release: SdkRelease, where: str, quantized: Optional[str]
) -> List[Problem]:
    wanted, path = deployment.quantization, where + ".quantization"
    if wanted is None:
        return []
    if release.generation == NATIVE:
        if wanted.modules_not_converted:
            rule = "natively the checkpoint's own quantization_config says what is not converted"
            value, fix = list(wanted.modules_not_converted), "remove it"
            return [Problem("", path + ".modules_not_converted", value, rule, fix)]
        if wanted.weights == "int8":
            rule = "native serves no INT8 weights"
            return [Problem("", path + ".weights", "int8", rule, "use nxdi_v1 with an SDK up to 2.31.1, or FP8")]
        if wanted.checkpoint is not None:
            rule = "native reads the model's own checkpoint"
            return [
                Problem("", path + ".checkpoint", wanted.checkpoint.repo, rule, "set model to it, and remove it here")
            ]
        config = known_config(deployment.model.repo) if deployment.model_config is None else deployment.model_config
        if wanted.weights == "fp8" and config is not None and quantized is None:
            rule = "native serves FP8 where the checkpoint has it, and config.json has no quantization_config"
            return [Problem("", path + ".weights", "fp8", rule, "set model to a checkpoint that ModelOpt made")]
        return []
    if wanted.weights and wanted.checkpoint is None:
        rule = "NxDI reads quantized weights from a checkpoint of its own making, and ends without"
        return [
            Problem("", path + ".checkpoint", None, rule, "make one with NxDI, and give repo, revision and uri of it")
        ]
    if not wanted.weights and wanted.modules_not_converted:
        rule, value = "has no meaning without weights", list(wanted.modules_not_converted)
        return [Problem("", path + ".modules_not_converted", value, rule, "set weights to int8 or fp8")]
    if not wanted.weights and wanted.checkpoint is not None:
        rule = "has no meaning without weights"
        return [Problem("", path + ".checkpoint", wanted.checkpoint.repo, rule, "set weights to int8 or fp8")]
    return []


def _caching_problems(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    found = []
    native = release.generation == NATIVE
    segmented = bool(deployment.buckets.get("segments") or deployment.neuron_config.get("kv_segment_size_buckets"))
    caching, chunked = deployment.prefix_caching, deployment.chunked_prefill
    path = where + ".prefix_caching"
    if caching and native and not segmented:
        rule = "needs segmented prefill"
        found.append(
            Problem("", path, True, rule, "set buckets.segments and buckets.prefill to one size, such as [2048]")
        )
    if caching and release.generation == NXDI_V0:
        rule = "is served with nxdi_v1 and native here"
        found.append(Problem("", path, True, rule, "use generation nxdi_v1, with block_size 32"))
    if release.generation == NXDI_V1 and caching is not None and caching != (deployment.block_size is not None):
        rule = "follows from block_size: the plugin pages its cache with prefix caching, and only then"
        fix = "set block_size: 32" if caching else "set block_size: null"
        found.append(Problem("", path, caching, rule, fix))
    path = where + ".chunked_prefill"
    if chunked and not native:
        rule = "is not there with NxDI, whose scheduler works on whole prompts"
        found.append(Problem("", path, True, rule, "use generation native with buckets.segments"))
    if chunked is not None and native and chunked != segmented:
        rule = "is segmented prefill natively, which buckets.segments turn on"
        fix = "set buckets.segments" if chunked else "remove buckets.segments"
        found.append(Problem("", path, chunked, rule, fix))
    return found


def _rest_problems(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    found = []
    native = release.generation == NATIVE
    for name in sorted(set(deployment.buckets) - set(_words(release))):
        rule = "has no meaning for %s" % release.generation
        fix = "remove it; it has %s" % ", ".join(_words(release))
        found.append(Problem("", "%s.buckets.%s" % (where, name), list(deployment.buckets[name]), rule, fix))
    degree, path = deployment.expert_parallel, where + ".expert_parallel"
    if degree is not None:
        experts = _experts(deployment)
        if deployment.tensor_parallel_size % degree:
            rule = "does not divide tensor_parallel_size (%d)" % deployment.tensor_parallel_size
            found.append(Problem("", path, degree, rule, "use a divisor"))
        if experts == 0:
            found.append(Problem("", path, degree, "the model has no experts", "remove it"))
        elif experts is not None and experts % degree:
            found.append(Problem("", path, degree, "does not divide the model's %d experts" % experts, "use a divisor"))
        if not native and version_number(release.nxdi or "0")[:2] < (0, 7):
            rule = "inference_demo of NxDI %s has no flag for it yet" % release.nxdi
            found.append(Problem("", path, degree, rule, "use an SDK release with NxDI 0.7 or later"))
    if deployment.structured_outputs and release.generation == NXDI_V0:
        rule = "is nothing that the fork is known to do"
        found.append(Problem("", where + ".structured_outputs", True, rule, "use generation nxdi_v1 or native"))
    on_host = deployment.neuron_config.get("on_device_sampling_config", {}) in (None, False)
    if deployment.structured_outputs and native and on_host:
        rule = "structured outputs are sampled on the device"
        name = where + ".neuron_config.on_device_sampling_config"
        found.append(Problem("", name, False, rule, "remove it"))
    return found


def _experts(deployment: Deployment) -> Optional[int]:
    """Return the model's experts, 0 for a dense model, None where nobody knows."""
    config = known_config(deployment.model.repo) if deployment.model_config is None else deployment.model_config
    if config is None:
        return None
    inner = config.get("text_config")
    source = {**config, **inner} if isinstance(inner, Mapping) else config
    for name in ("num_local_experts", "num_experts", "n_routed_experts"):
        value = source.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return 0


def option_warnings(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    """Return what of the options works otherwise than one may think; arguments as `option_problems`."""
    found = []
    wanted = deployment.speculation
    if wanted is not None and release.generation == NATIVE:
        rule = "turns asynchronous scheduling off, and drafts greedily"
        fix = "watch vllm:spec_decode_num_accepted_tokens_per_pos: below 30 % accepted it costs more than it gives"
        found.append(Problem("", where + ".speculation.method", wanted.method, rule, fix))
    if wanted is not None and deployment.max_num_seqs > 1 and release.generation != NATIVE and wanted.method == "draft":
        rule = "is documented with one sequence where a draft is fused in"
        found.append(Problem("", where + ".max_num_seqs", deployment.max_num_seqs, rule, "measure it with 1 as well"))
    cache = deployment.quantization.kv_cache if deployment.quantization is not None else None
    if cache and release.generation == NATIVE:
        rule = "takes the scales of the checkpoint, and 1.0 where it has none, which costs accuracy"
        found.append(Problem("", where + ".quantization.kv_cache", cache, rule, "use a checkpoint with KV scales"))
    if deployment.lora is not None and deployment.lora.dynamic:
        rule = "lets whoever reaches a replica's own port load a directory of the host as an adapter"
        fix = "set vllm_endpoint_api_key; the router lets nobody through to these paths"
        found.append(Problem("", where + ".lora.dynamic", True, rule, fix))
    return found
