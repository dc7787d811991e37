# SPDX-License-Identifier: Apache-2.0
"""A deployment as the inventory gives it, checked field by field.

Only what can be judged from the deployment alone is judged here; what depends on the SDK release, the host or the
other deployments is judged where those are known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple, Union

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.fields import (
    HIDDEN,
    JSON_MAPPING,
    BadValueError,
    BadValuesError,
    Field,
    Kind,
    Schema,
    core_list,
    json_mapping,
    mapping,
    one_of,
    optional,
    read_fields,
    text,
    whole_number,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem, did_you_mean
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.settings import BENCHMARK
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.model_options import (
    NOT_SECRET,
    Lora,
    Quantization,
    Speculation,
    Tools,
    option_fields,
    read_options,
    served_names,
)

#: `trainyard_deployment_llama_3_3_70b` is the deployment `llama-3-3-70b`.
PREFIX = "trainyard_deployment_"

#: As many replicas as the free cores of a host allow.
FILL = "fill"

GENERATIONS = ("nxdi_v0", "nxdi_v1", "native")
RUNTIMES = ("venv", "container")
SOURCES = ("huggingface", "s3", "path")

#: What a checkpoint may be allowed to run, and that by default nothing is: pickles run code when they are loaded, and
#: the repository's own programs whenever a server or a compiler asks for them.
TRUST = ("pickle", "remote_code")
DTYPES = ("bfloat16", "float16", "float32")

#: Ports below are root's; the agent of a replica listens this far above it, so both must stay below 65536.
FIRST_PORT, LAST_PORT = 1024, 64535
AGENT_PORT_OFFSET = 1000

#: A replica's name is a systemd instance, a file name and a NEURON_PROCESS_TAG (255 characters at most).
NAME_CHARACTERS = 48
FLAG_CHARACTERS = 80

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SERVED_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*")
_SERVED_WORDS = "letters, digits and . _ : / -"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FLAG = re.compile(r"[a-z][a-z0-9-]*")
#: What argparse takes for an option where a value is due: a dash before anything but a number.
_OPTION = re.compile(r"-(?![0-9.])")
_ADDRESS_OF_FILES = re.compile(r"\S+")
_SECRET = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY)(_|$)", re.IGNORECASE)


@dataclass(frozen=True)
class ModelRef:
    """Which checkpoint: a pinned revision, so that the artifact made from it is known by it.

    Attributes:
        repo: name on the hub (`org/name`), also what the served name defaults to.
        source: where it is read from: `huggingface`, `s3` or `path`.
        revision: commit of the hub; for `s3` and `path` a token that changes whenever the files do.
        uri: `s3://bucket/prefix` or an absolute path; None for the hub.
        trust: what its files may run on hosts, of `TRUST`.
    """

    repo: str
    source: str
    revision: str
    uri: Optional[str] = None
    trust: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Deployment:
    """One model served in one configuration; fields as in the inventory, lengths in tokens.

    Attributes:
        generation: None leaves it to the SDK release's row.
        data_parallel_size: replicas on each host, or `FILL`.
        max_num_seqs: sequences that a replica works on at once, which is the compiled batch size.
        max_model_len: prompt and answer together, in tokens.
        block_size: tokens of a KV block; None for a contiguous cache.
        port: replica i listens on port + i, its agent on port + i + AGENT_PORT_OFFSET.
        neuron_config: engine settings that are compiled in.
        engine_args: further vLLM flags by name; None removes one that would be there.
        cores: exactly these cores of every host (`0-31`); empty lets the planner choose, which is the rule.
        aliases: further names that clients may ask for it by.
        lora: adapters that it serves beside the model.
        speculation: a smaller model that guesses ahead.
        quantization: in what numbers weights and KV cache are held.
        buckets: lengths and counts that graphs are compiled for, by what they are for.
        prefix_caching: whether KV blocks of a common beginning are shared; None leaves it to the generation.
        chunked_prefill: whether prompts are worked on in pieces; None leaves it to the generation.
        expert_parallel: over how many groups of cores experts are spread.
        structured_outputs: whether requests may come with a schema.
        tools: how answers are taken apart.
        model_config: the checkpoint's config.json where it is at hand; the planner gives it, no inventory does.
        template: what tools.chat_template holds, a file of the controller; the planner gives it as well.
        spelled: whether the options above are in neuron_config, engine_args and environment already.
    """

    name: str
    model: ModelRef
    served_name: str
    sdk_release: str
    generation: Optional[str]
    runtime: str
    tensor_parallel_size: int
    data_parallel_size: Union[int, str]
    max_num_seqs: int
    max_model_len: int
    dtype: str
    block_size: Optional[int]
    port: int
    neuron_config: Mapping[str, Any] = field(default_factory=dict)
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    benchmark: Mapping[str, Any] = field(default_factory=dict)
    cores: Tuple[int, ...] = ()
    aliases: Tuple[str, ...] = ()
    lora: Optional[Lora] = None
    speculation: Optional[Speculation] = None
    quantization: Optional[Quantization] = None
    buckets: Mapping[str, Any] = field(default_factory=dict)
    prefix_caching: Optional[bool] = None
    chunked_prefill: Optional[bool] = None
    expert_parallel: Optional[int] = None
    structured_outputs: Optional[bool] = None
    tools: Optional[Tools] = None
    model_config: Optional[Mapping[str, Any]] = None
    template: Optional[str] = None
    spelled: bool = False


def _name(value: Any) -> str:
    text(
        _NAME,
        "must be lower-case letters, digits and inner hyphens, since it names units, files and directories",
        "rename it, such as llama-3-3-70b",
    )(value)
    if len(value) > NAME_CHARACTERS:
        raise BadValueError("must be at most %d characters" % NAME_CHARACTERS, "shorten it")
    return str(value)


_VERSION = text(
    re.compile(r"[0-9]+\.[0-9]+(\.[0-9]+)?"),
    "must be a version such as 2.23.0",
    "give a release of the SDK table",
    "version such as `2.23.0`, quoted",
    32,
)


def _sdk_release(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise BadValueError(
            "must be a string: YAML reads it as a number and drops a trailing zero", 'quote it, such as "2.23.0"'
        )
    return str(_VERSION(value))


def _trust(value: Any) -> Tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise BadValueError("must be a list of %s" % " and ".join(TRUST), "write [%s], or [] for nothing" % TRUST[0])
    for item in value:
        if item not in TRUST:
            raise BadValueError(
                "must be a list of %s" % " and ".join(TRUST), did_you_mean(str(item), TRUST) or "remove it", "", item
            )
    return tuple(sorted(set(value)))


def _data_parallel_size(value: Any) -> Union[int, str]:
    if value == FILL:
        return FILL
    if isinstance(value, str) and not value.strip().isdigit():
        raise BadValueError(
            "must be a number of replicas on each host, or fill",
            did_you_mean(value, [FILL]) or "give 1 or more, or fill",
        )
    return int(whole_number(1, 1024)(value))


_SERVED = text(_SERVED_NAME, "must be " + _SERVED_WORDS, "rename it", _SERVED_WORDS, 200)


def _served_names(value: Any) -> Tuple[str, ...]:
    """Check the name that clients ask for, or a list of it and its aliases; None is none."""
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        return (_SERVED(value),)
    if not value:
        raise BadValueError("must name something", "give a name, or leave it out")
    return _aliases(value)


def _aliases(value: Any) -> Tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise BadValueError("must be a list of names", "write - name lines below it")
    found = tuple(_SERVED(item) for item in value)
    if len(set(found)) != len(found):
        raise BadValueError("has a name twice", "remove one")
    return found


def _engine_args(value: Any) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    wrong: List[BadValueError] = []
    for key, item in json_mapping(value).items():
        flag = (key[2:] if key.startswith("--") else key).replace("_", "-")
        bad = _flag_rule(flag, key, item)
        if bad is None and flag in found:
            bad = BadValueError("is there twice, once with - and once with _", "remove one", key, item)
        if bad is not None:
            wrong.append(bad)
        found[flag] = item
    if wrong:
        raise BadValuesError(wrong)
    return found


def _flag_rule(flag: str, key: str, item: Any) -> Optional[BadValueError]:
    """Return what is wrong with a flag of the server by its name and its value, None for nothing."""
    if len(flag) > FLAG_CHARACTERS or not _FLAG.fullmatch(flag):
        fix = "write the flag without dashes before it, such as max-log-len"
        return BadValueError("is no vLLM flag's name", fix, key, item)
    bare = flag[3:] if flag.startswith("no-") else flag
    if bare in OWNED_FLAGS:
        shown = HIDDEN if bare == "api-key" else item
        return BadValueError("is set by the plan", "remove it and set %s" % OWNED_FLAGS[bare], key, shown)
    if flag in OTHER_WAYS:
        return BadValueError("would set flags of the plan behind its back", OTHER_WAYS[flag], key, item)
    # vLLM's parser takes any beginning of a flag that is no other one's as well.
    meant = sorted(owned for owned in OWNED_FLAGS if owned.startswith(flag))
    if meant:
        rule = "is short for --%s, which is set by the plan" % meant[0]
        return BadValueError(rule, "write the flag that you mean in full", key, HIDDEN if "api-key" in meant else item)
    for part in item if isinstance(item, list) else [item]:
        if isinstance(part, str) and _OPTION.match(part):
            rule = "has a value that the server would read as a flag of its own"
            return BadValueError(rule, "give a value that does not begin with -", key, item)
    return None


def _environment(value: Any) -> Dict[str, str]:
    found: Dict[str, str] = {}
    for key, item in mapping(value).items():
        if not _VARIABLE.fullmatch(key):
            raise BadValueError("is no environment variable's name", "use letters, digits and underscores", key, item)
        if key in OWNED_VARIABLES:
            raise BadValueError("is set by the plan", "remove it; %s" % OWNED_VARIABLES[key], key, item)
        if _SECRET.search(key) and key not in NOT_SECRET:
            raise BadValueError(
                "looks like a secret, and the environment file and the plan are not secret",
                "give it as a credential of the role",
                key,
                HIDDEN,
            )
        if isinstance(item, bool) or not isinstance(item, (str, int, float)):
            raise BadValueError("must be text or a number", 'quote it, such as "1"', key, item)
        if any(ord(character) < 32 for character in str(item)):
            raise BadValueError("must be one line without control characters", "remove the line break", key, item)
        found[key] = str(item)
    return found


#: Flags that follow from fields of the deployment or from its placement, and where to say it instead.
OWNED_FLAGS = {
    "model": "model",
    "served-model-name": "served_name",
    "host": "trainyard_address",
    "port": "port",
    "tensor-parallel-size": "tensor_parallel_size",
    "data-parallel-size": "data_parallel_size (each replica is a server of its own)",
    "max-num-seqs": "max_num_seqs",
    "max-model-len": "max_model_len",
    "dtype": "dtype",
    "block-size": "block_size",
    "override-neuron-config": "neuron_config",
    "additional-config": "neuron_config",
    "api-key": "the router's keys (an argument is readable by every user of the host)",
}

#: Flags by which a file, a socket or a server of servers decides instead of the plan, and what to do without.
OTHER_WAYS = {
    "config": "remove it and write its flags here",
    "uds": "remove it: the router reaches replicas by address and port",
    "headless": "remove it: a replica answers requests itself",
}

_CORES = "the planner gives each replica its cores"
_LNC = "set trainyard_logical_nc_config on the host"

#: Variables that the plan computes for each replica; a second opinion would break it.
OWNED_VARIABLES = {
    "NEURON_RT_VISIBLE_CORES": _CORES,
    "NEURON_RT_NUM_CORES": _CORES,
    "NEURON_VISIBLE_DEVICES": _CORES,
    "NEURON_LOGICAL_NC_CONFIG": _LNC,
    "NEURON_RT_VIRTUAL_CORE_SIZE": _LNC,
    "NEURON_COMPILED_ARTIFACTS": "the planner names the artifact by its digest",
    "VLLM_CACHE_ROOT": "the planner names the artifact by its digest",
    "NEURON_PROCESS_TAG": "the planner sets the replica's name",
    "TRAINYARD_RELEASE": "the planner sets the release",
}


MODEL = Schema(
    "model",
    "Which checkpoint is served: a pinned revision, so that the artifact made from it is known by it.",
    {
        "repo": Field(
            text(_REPO, "must be a repository's name, org/name", "write it as the hub does", "`org/name`", 200),
            required=True,
            about="name on the hub, also what the served name defaults to",
            example="meta-llama/Llama-3.3-70B-Instruct",
        ),
        "source": Field(one_of(SOURCES), default="huggingface", about="where it is read from", example="s3"),
        "revision": Field(
            text(
                _REVISION,
                "must be a commit, or letters, digits, dots, hyphens and underscores (64 at most)",
                "pin the revision",
                "commit, or a token of at most 64 characters",
            ),
            required=True,
            about="commit of the hub; for `s3` and `path` a token that changes whenever the files do",
            example="6f6073b423013f6a7d4d9f39144961bfbfbc386b",
        ),
        "uri": Field(
            optional(
                text(
                    _ADDRESS_OF_FILES,
                    "must have no spaces",
                    "give s3://bucket/prefix or an absolute path",
                    "`s3://bucket/prefix` or an absolute path",
                )
            ),
            about="where it is for `s3` and `path`; has no meaning for the hub",
            example="s3://models/llama",
        ),
        "trust": Field(
            Kind(
                _trust,
                "list of %s" % " and ".join("`%s`" % item for item in TRUST),
                {"type": "array", "items": {"enum": list(TRUST)}},
            ),
            default=(),
            about="what its files may run on hosts: pickles are programs, and a repository may bring its own",
            example=["remote_code"],
        ),
    },
)
_MODEL_FIELDS = MODEL.fields

DEPLOYMENT = Schema(
    PREFIX + "<name>",
    "One model served in one configuration, in the variables of the inventory group of that name.",
    {
        "name": Field(
            Kind(
                _name,
                "lower-case letters, digits and inner hyphens, %d characters" % NAME_CHARACTERS,
                {"type": "string", "pattern": "^(?:%s)$" % _NAME.pattern, "maxLength": NAME_CHARACTERS},
            ),
            required=True,
            about="the variable's name with - for _; names units, files and directories",
            example="llama-3-3-70b",
        ),
        "model": Field(
            Kind(mapping, "mapping", MODEL.to_json(), MODEL),
            required=True,
            about="which checkpoint",
            example={"repo": "Qwen/Qwen3-32B", "revision": "9216db5781bf21249d130ec9da846c4624c16137"},
        ),
        "served_name": Field(
            Kind(
                _served_names,
                "%s, or a list of it and its aliases" % _SERVED_WORDS,
                {"anyOf": [_SERVED.json, {"type": "array", "items": _SERVED.json, "minItems": 1}, {"type": "null"}]},
            ),
            about="the model's name as clients say it; without it, the repository's",
            example="llama-70b",
        ),
        "sdk_release": Field(
            Kind(_sdk_release, _VERSION.words, _VERSION.json),
            required=True,
            about="Neuron SDK, a row of docs/sdk-releases.md",
            example="2.23.0",
        ),
        "generation": Field(
            optional(one_of(GENERATIONS)), about="way of serving; without it, the SDK row's", example="nxdi_v1"
        ),
        "runtime": Field(one_of(RUNTIMES), default="venv", about="what the server runs in", example="container"),
        "tensor_parallel_size": Field(
            whole_number(1, 4096), required=True, about="cores of one replica", unit="cores", example=32
        ),
        "data_parallel_size": Field(
            Kind(
                _data_parallel_size,
                "whole number, 1 to 1024, or `%s`" % FILL,
                {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 1024}, {"const": FILL}]},
            ),
            default=1,
            about="replicas on each host; `fill` is as many as the free cores allow",
            unit="replicas",
            example=2,
        ),
        "max_num_seqs": Field(
            whole_number(1, 65536),
            required=True,
            about="sequences that a replica works on at once, which is the compiled batch size",
            unit="sequences",
            example=4,
        ),
        "max_model_len": Field(
            whole_number(1), required=True, about="prompt and answer together", unit="tokens", example=8192
        ),
        "dtype": Field(one_of(DTYPES), default="bfloat16", about="what is computed in", example="bfloat16"),
        "block_size": Field(
            optional(whole_number(1)),
            about="size of a KV block; without it the cache is contiguous",
            unit="tokens",
            example=32,
        ),
        "port": Field(
            whole_number(FIRST_PORT, LAST_PORT),
            required=True,
            about="replica i listens on port + i, its agent %d above" % AGENT_PORT_OFFSET,
            example=8000,
        ),
        "neuron_config": Field(
            JSON_MAPPING, default={}, about="engine settings that are compiled in", example={"fused_qkv": True}
        ),
        "engine_args": Field(
            Kind(_engine_args, "mapping of flags to JSON values", {"type": "object"}),
            default={},
            about="further vLLM flags by name; null removes one that would be there",
            example={"max-log-len": 100},
        ),
        "environment": Field(
            Kind(_environment, "mapping of variables to text or numbers", {"type": "object"}),
            default={},
            about="of compiler and server; no secrets",
            example={"NEURON_RT_EXEC_TIMEOUT": "600"},
        ),
        "benchmark": Field(
            BENCHMARK.given, default={}, about="the load that measures it", example={"requests": 100, "concurrency": 8}
        ),
        "cores": Field(
            core_list,
            default=(),
            about="exactly these cores of every host; empty lets the planner choose, which is the rule",
            example="0-31",
        ),
        "aliases": Field(
            Kind(_aliases, "list of names", {"type": "array", "items": _SERVED.json}),
            default=(),
            about="further names of the model, as clients say them",
            example=["llama"],
        ),
        **option_fields(MODEL),
    },
)
_FIELDS = DEPLOYMENT.fields

#: The names of a deployment's fields.
FIELDS = tuple(_FIELDS)


def parse_deployment(raw: Any, where: str) -> Tuple[Optional[Deployment], List[Problem]]:
    """Read one deployment.

    Args:
        raw: what the inventory holds.
        where: the variable that holds it, which the problems name.

    Returns:
        The deployment and no problem, or None and every problem of it.
    """
    if not isinstance(raw, Mapping):
        return None, [Problem("", where, raw, "must be a mapping", "write the deployment's fields below it")]
    values, problems = read_fields(raw, _FIELDS, where)
    if isinstance(values.get("model"), dict):
        values["model"], found = _read_model(values["model"], where + ".model")
        problems += found
    problems += read_options(values, where, MODEL, _read_model)
    problems += _check_name(values.get("name"), where)
    problems += _check_remote_code(values.get("model"), values.get("engine_args"), where)
    if problems:
        return None, problems
    names = values["served_name"] or (values["model"].repo,)
    values["served_name"], values["aliases"] = names[0], (*names[1:], *values["aliases"])
    deployment = Deployment(**values)
    problems = _check_served_names(deployment, where)
    return (None, problems) if problems else (deployment, [])


def _check_served_names(deployment: Deployment, where: str) -> List[Problem]:
    """Check that a name means one thing: the model, or one of its adapters."""
    names = served_names(deployment)
    return [
        Problem("", where + ".aliases", name, "is the name of two things that are served", "rename one")
        for name in sorted({name for name in names if names.count(name) > 1})
    ]


def _check_remote_code(model: Any, engine_args: Any, where: str) -> List[Problem]:
    """Check that a server is told to run a repository's own programs only where the checkpoint is trusted with that."""
    asked = engine_args.get("trust-remote-code") if isinstance(engine_args, Mapping) else None
    if asked in (None, False) or not isinstance(model, ModelRef) or "remote_code" in model.trust:
        return []
    rule = "has the server run programs of the repository, which its files are not trusted with"
    fix = "remove it; or read those programs at this revision, and set model.trust: [remote_code]"
    return [Problem("", where + ".engine_args.trust-remote-code", asked, rule, fix)]


def _read_model(raw: Mapping[str, Any], where: str) -> Tuple[Optional[ModelRef], List[Problem]]:
    values, problems = read_fields(raw, _MODEL_FIELDS, where)
    if problems:
        return None, problems
    model = ModelRef(**values)
    wrong = _source_rule(model)
    if wrong is not None:
        key, rule, fix = wrong
        return None, [Problem("", "%s.%s" % (where, key), raw.get(key), rule, fix)]
    return model, []


def _source_rule(model: ModelRef) -> Optional[Tuple[str, str, str]]:
    """Return the field, rule and fix of what the source does not allow."""
    if model.source == "huggingface":
        if not _COMMIT.fullmatch(model.revision):
            return (
                "revision",
                "must be a full commit (40 hex digits): a branch or a tag can move",
                "pin the commit that the hub shows",
            )
        if model.uri is not None:
            return "uri", "has no meaning for the hub", "remove it, or set source to s3 or path"
    if model.source == "s3" and not (model.uri or "").startswith("s3://"):
        return "uri", "must be s3://bucket/prefix for source s3", "say where the checkpoint is"
    if model.source == "path" and not (model.uri or "").startswith("/"):
        return "uri", "must be an absolute path for source path", "say where the checkpoint is"
    return None


def _check_name(name: Any, where: str) -> List[Problem]:
    """Check that the variable is named after the deployment, so that neither hides another."""
    if not isinstance(name, str) or not where.startswith(PREFIX):
        return []
    wanted = PREFIX + name.replace("-", "_")
    if where == wanted:
        return []
    return [
        Problem(
            "", where + ".name", name, "must be the variable's name with - for _", "rename the variable to %s" % wanted
        )
    ]
