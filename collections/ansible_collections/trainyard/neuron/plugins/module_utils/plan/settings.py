# SPDX-License-Identifier: Apache-2.0
"""What each settings dictionary may say: one schema each for rolls, canaries, hooks, loads, objectives, keys, sweeps.

They are judged in the plan, before a host is touched, and read by what they are for. The page `docs/reference.md` and
the JSON schemas are written from them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.benchmark.presets import PRESETS
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.fields import (
    HIDDEN,
    JSON_MAPPING,
    BadValueError,
    Field,
    Kind,
    Schema,
    list_of,
    number,
    one_of,
    optional,
    read_fields,
    share,
    switch,
    text,
    whole_number,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem, did_you_mean

#: The longest time that a setting may name, seconds.
DAY_S = 86400.0
MONTH_S = 30 * DAY_S

POLICIES = ("wait", "abort", "fail")
STRATEGIES = ("auto", "rolling", "blue_green")
HOOK_KINDS = ("before", "drain", "undrain", "is_drained", "after")
GOLDEN = ("The capital of France is", "One, two, three, four,")

_SECONDS = number(0, MONTH_S)
_NAME = text(re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"), "must be a deployment's name", "write it as in `name`")
_TEXT = text(re.compile(r"[^\x00-\x1f\x7f]*"), "must be one line without control characters", "remove them")
_PATH = text(
    re.compile(r"[^\x00-\x1f\x7f]+"), "must be a path, one line without control characters", "give one", "path", 4096
)
_PROMPT = text(re.compile(r"(?s:.*\S.*)"), "must have a word", "write a prompt", "text", 8192)

REDEPLOY = Schema(
    "trainyard_redeploy",
    "How a roll replaces replicas.",
    {
        "strategy": Field(
            one_of(STRATEGIES),
            default="auto",
            about="`auto` has a replica on a spare slice stand in where the plan has one and its host's memory is "
            "known to hold it, `blue_green` refuses to roll without, `rolling` uses none",
            example="blue_green",
        ),
        "at_once": Field(
            whole_number(1, 10000),
            default=1,
            about="replicas of the fleet that may be out of rotation at the same time because of the roll",
            unit="replicas",
            example=2,
        ),
        "floor": Field(
            share(0, alone=("auto",)),
            default="auto",
            about="replicas of each model that must stay in rotation; `auto` is all but `at_once`, and at least one",
            example="75%",
        ),
        "batches": Field(
            list_of(share(1), 1, 100),
            default=("1", "25%", "100%"),
            about="hosts of each batch, widening; the last one repeats until all are done",
            example=["1", "50%"],
        ),
        "canary_share": Field(
            share(1, percent_only=True),
            default="10%",
            about="share of a model's requests in flight that the first replica gets while it is watched",
            example="5%",
        ),
        "drain_deadline_s": Field(
            _SECONDS,
            default=900.0,
            about="how long the requests of a replica may take to end",
            unit="seconds",
            example=600,
        ),
        "drain_policy": Field(
            one_of(POLICIES),
            default="fail",
            about="what then: `wait` on, `abort` what is left, or `fail` (readmit the replica, stop the roll)",
            example="wait",
        ),
        "drain_assumed_s": Field(
            _SECONDS, default=60.0, about="what the estimate counts for a drain", unit="seconds", example=30
        ),
        "load_assumed_s": Field(
            _SECONDS,
            default=900.0,
            about="what the estimate counts for a load that was never seen",
            unit="seconds",
            example=600,
        ),
        "calibration": Field(
            optional(_PATH),
            default=None,
            about="file of `trainyard calibrate`, where Ansible runs; the estimate counts its forecast for a load that "
            "was never seen, where the model's size is known",
            example="/etc/trainyard/calibration.json",
        ),
        "soak_s": Field(
            _SECONDS,
            default=10.0,
            about="how long a readmitted replica is watched before the next one",
            unit="seconds",
            example=30,
        ),
        "canary_s": Field(
            _SECONDS,
            default=120.0,
            about="the same for the first replica of the roll, which is compared with its peers; 0 compares none",
            unit="seconds",
            example=300,
        ),
        "gate_s": Field(
            _SECONDS,
            default=5.0,
            about="what the estimate counts for stop, switch, and the completions of the gate",
            unit="seconds",
            example=5,
        ),
        "start_timeout_s": Field(
            _SECONDS, default=3660.0, about="how long a start may take, with its gate", unit="seconds", example=7200
        ),
        "stop_timeout_s": Field(_SECONDS, default=300.0, about="how long a stop may take", unit="seconds", example=300),
    },
)

CANARY = Schema(
    "trainyard_canary",
    "How much worse than its peers the first replica of a roll may be.",
    {
        "min_requests": Field(
            whole_number(1, 1000000),
            default=20,
            about="fewer finished requests than this, on either side, compare no figures",
            unit="requests",
            example=50,
        ),
        "error_rate_margin": Field(
            number(0, 1),
            default=0.01,
            about="by how much the canary's share of failed requests may exceed its peers'",
            unit="share, 0 to 1",
            example=0.02,
        ),
        "ttft_ratio": Field(
            number(1, 1000), default=1.5, about="mean time to first token, canary over peers", unit="ratio", example=1.5
        ),
        "ttft_slack_s": Field(
            number(0, 3600),
            default=0.05,
            about="difference in mean time to first token that is never too much",
            unit="seconds",
            example=0.1,
        ),
        "per_token_ratio": Field(
            number(1, 1000),
            default=1.3,
            about="mean time per output token, canary over peers",
            unit="ratio",
            example=1.2,
        ),
        "per_token_slack_s": Field(
            number(0, 3600),
            default=0.002,
            about="difference in mean time per token that is never too much",
            unit="seconds",
            example=0.005,
        ),
        "output_length_ratio": Field(
            number(1, 1000),
            default=2.0,
            about="mean output length, the longer over the shorter",
            unit="ratio",
            example=2,
        ),
        "chance": Field(
            number(0, 100),
            default=3.0,
            about="a difference of means counts only beyond this many standard errors of it",
            unit="standard errors",
            example=3,
        ),
        "golden_share": Field(
            number(0, 1),
            default=0.5,
            about="mean share of each golden completion that must agree, from its beginning, with a peer's",
            unit="share, 0 to 1",
            example=0.8,
        ),
    },
)

PROMPTS = list_of(_PROMPT, 1, 64)


def _hooks_together(values: Mapping[str, Any]) -> Iterator[Tuple[str, str, str]]:
    if {"drain", "undrain"} <= set(values) and bool(values["drain"]) != bool(values["undrain"]):
        given, missing = ("drain", "undrain") if values["drain"] else ("undrain", "drain")
        yield given, "drain and undrain belong together: what one takes out the other brings back", "give %s" % missing


_FILES = list_of(_PATH, 0, 64)
HOOKS = Schema(
    "trainyard_redeploy_hooks",
    "Task files of yours that a roll runs, paths as `include_tasks` takes them.",
    {
        "before": Field(
            _FILES, default=(), about="under the lock, before the first wave", example=["hooks/announce.yml"]
        ),
        "drain": Field(
            _FILES,
            default=(),
            about="return when routers that trainyard does not run have no request left at the replicas",
            example=["../hooks/elb/drain.yml"],
        ),
        "undrain": Field(
            _FILES,
            default=(),
            about="return when those routers send requests again",
            example=["../hooks/elb/undrain.yml"],
        ),
        "is_drained": Field(
            _FILES,
            default=(),
            about="find what is drained there: set `trainyard_drained_elsewhere`, or register it with `out`",
            example=["../hooks/elb/is_drained.yml"],
        ),
        "after": Field(
            _FILES, default=(), about="when the lock is back, however it came out", example=["hooks/tell.yml"]
        ),
    },
    rules=(_hooks_together,),
)

HEAL = Schema(
    "trainyard_heal",
    "How much healing may do by itself.",
    {
        "actions_per_hour": Field(
            whole_number(0, 100),
            default=2,
            about="actions for each deployment; what would go beyond is told to a person",
            unit="actions",
            example=1,
        ),
        "again_after_s": Field(
            _SECONDS,
            default=3600.0,
            about="what was healed and is ill again before is not healed again, but told: it did not help",
            unit="seconds",
            example=7200,
        ),
        "drain_deadline_s": Field(
            _SECONDS,
            default=60.0,
            about="how long requests of a replica that is restarted or moved may take to end; what is left is aborted "
            "where the replica answers nothing, and ends the healing where it does",
            unit="seconds",
            example=300,
        ),
    },
)

_TOKENS = whole_number(1, 10000000)
_DEVIATION = number(0, 10000000)


def _rounds_need_streams(values: Mapping[str, Any]) -> Iterator[Tuple[str, str, str]]:
    streams = values.get("concurrency") or PRESETS.get(values.get("preset") or "", {}).get("concurrency")
    if values.get("rounds") and values.get("request_rate_per_s") and not streams:
        yield "rounds", "an open loop has no streams to count them by", "give requests, or concurrency"


def _conversations_are_made_up(values: Mapping[str, Any]) -> Iterator[Tuple[str, str, str]]:
    turns = max(values.get("turns") or 1, PRESETS.get(values.get("preset") or "", {}).get("turns", 1))
    if turns > 1 and values.get("request_rate_per_s"):
        yield (
            "turns",
            "a turn begins when the one before is answered, and an open loop begins by the clock",
            "give streams",
        )
    if turns > 1 and values.get("dataset"):
        yield "turns", "a conversation is made up, and a dataset has prompts that stand alone", "leave one of them out"


def _one_way_to_name_models(values: Mapping[str, Any]) -> Iterator[Tuple[str, str, str]]:
    if values.get("models") and values.get("adapter_mixes"):
        yield "models", "is one mix of names, and adapter_mixes has them all", "put it into adapter_mixes"


#: What a request may name as its model: never empty, since a list of such names is sent one by one.
_MODEL_NAME = text(re.compile(r"[^\x00-\x1f\x7f]+"), "must be the name of a model", "give one that is served", "name")

LOAD = Schema(
    "benchmark",
    "What a benchmark sends.",
    {
        "preset": Field(
            optional(one_of(tuple(sorted(PRESETS)))),
            about="a recipe's load, or that of `conversations`, which the other fields change",
            example="llama-3-3-70b",
        ),
        "requests": Field(
            whole_number(1, 100000000), default=100, about="requests of one repeat", unit="requests", example=1000
        ),
        "rounds": Field(
            whole_number(0, 1000000),
            default=0,
            about="in place of `requests`, so many of them for each stream",
            unit="requests per stream",
            example=5,
        ),
        "concurrency": Field(
            whole_number(0, 1000000),
            default=0,
            about="streams in flight; 0 is one for each sequence that the replicas run at once",
            unit="streams",
            example=8,
        ),
        "request_rate_per_s": Field(
            number(0, 1000000),
            default=0.0,
            about="above 0 makes it an open loop that sends so often",
            unit="requests per second",
            example=2.5,
        ),
        "arrival": Field(
            one_of(("poisson", "constant")), default="poisson", about="spacing of an open loop", example="constant"
        ),
        "mean_input_tokens": Field(
            _TOKENS, default=550, about="mean length of the prompts", unit="tokens", example=7936
        ),
        "stddev_input_tokens": Field(
            _DEVIATION, default=0, about="standard deviation of it", unit="tokens", example=30
        ),
        "mean_output_tokens": Field(
            _TOKENS, default=150, about="mean length of the answers", unit="tokens", example=256
        ),
        "stddev_output_tokens": Field(
            _DEVIATION, default=0, about="standard deviation of it", unit="tokens", example=30
        ),
        "turns": Field(
            whole_number(1, 10000),
            default=1,
            about="requests of a conversation, each with all that was said before; 1 is none. `mean_input_tokens` is "
            "the length of its first one",
            unit="requests",
            example=12,
        ),
        "mean_turn_tokens": Field(
            _TOKENS, default=100, about="what each later request of a conversation adds", unit="tokens", example=120
        ),
        "think_s": Field(
            number(0, DAY_S),
            default=0.0,
            about="mean time between an answer and the next request of its conversation",
            unit="seconds",
            example=2.0,
        ),
        "sampling": Field(
            JSON_MAPPING, default={}, about="parameters of each request", example={"temperature": 0.7, "top_k": 50}
        ),
        "ignore_eos": Field(switch(), default=True, about="let every answer have its full length", example=False),
        "warmup_requests": Field(
            whole_number(-1, 1000000),
            default=-1,
            about="sent before the clock starts and not counted; -1 is one for each stream",
            unit="requests",
            example=8,
        ),
        "timeout_s": Field(
            number(0.1, DAY_S), default=600.0, about="silence that ends a request", unit="seconds", example=600
        ),
        "run_timeout_s": Field(
            number(1, MONTH_S), default=21600.0, about="what the whole run may take", unit="seconds", example=3600
        ),
        "repeats": Field(whole_number(1, 1000), default=1, about="how often it is measured", unit="repeats", example=3),
        "seed": Field(whole_number(0, (1 << 32) - 1), default=11111, about="of made-up prompts", example=7),
        "dataset": Field(
            _TEXT,
            default="",
            about="JSON lines with `prompt` and `output_tokens` on the load host, in place of made-up prompts",
            example="/data/prompts.jsonl",
        ),
        "target": Field(
            one_of(("router", "replicas")), default="router", about="who is sent the requests", example="replicas"
        ),
        "models": Field(
            list_of(_MODEL_NAME, 0, 1000),
            default=(),
            about="names that the requests ask for in turn, the model's, aliases or adapters; none is the model's own",
            example=["llama-3.3-70b", "support"],
        ),
    },
    rules=(_rounds_need_streams, _conversations_are_made_up),
    null_is_unset=True,
)

#: The load of a deployment, with what the planner reads itself.
BENCHMARK = replace(
    LOAD,
    rules=(*LOAD.rules, _one_way_to_name_models),
    fields={
        **LOAD.fields,
        "adapter_mixes": Field(
            optional(list_of(list_of(_MODEL_NAME, 1, 1000, "list of names"), 0, 100)),
            about="a run for each: names that its requests ask for in turn, one more often where it stands more often; "
            "unset, a model with adapters is measured by its own name and by all adapters in turn; [] is its own name",
            example=[["llama-3.3-70b"], ["support", "sql"]],
        ),
        "load_hosts": Field(
            whole_number(1, 10000),
            default=1,
            about="clients of the inventory that send together",
            unit="hosts",
            example=2,
        ),
    },
)

_MS = optional(number(0.001, 1e9))


def _some_limit(values: Mapping[str, Any]) -> Iterator[Tuple[str, str, str]]:
    limits = ("time_to_first_token_ms", "time_per_output_token_ms", "request_latency_ms")
    if all(name in values and values[name] is None for name in limits):
        yield limits[0], "an objective needs a limit", "give one of %s" % ", ".join(limits)


OBJECTIVE = Schema(
    "objective",
    "Limits that a request must keep to be good.",
    {
        "time_to_first_token_ms": Field(_MS, about="until the first token", unit="milliseconds", example=2000),
        "time_per_output_token_ms": Field(
            _MS, about="of each further token, on average", unit="milliseconds", example=50
        ),
        "request_latency_ms": Field(_MS, about="of the whole request", unit="milliseconds", example=30000),
        "percentile": Field(
            number(0.001, 100), default=99.0, about="of requests that must be good", unit="per cent", example=95
        ),
    },
    rules=(_some_limit,),
    null_is_unset=True,
)

KEY_ROW = Schema(
    "load_balancer_keys[]",
    "An API key that clients may use.",
    {
        "name": Field(
            text(
                re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:+-]*"),
                "must be letters, digits and . _ @ : + -, since it stands in maps and in the access log",
                "rename it",
                "name",
                64,
            ),
            required=True,
            about="who it is for; stands in the access log",
            example="team-a",
        ),
        "sha256": Field(
            text(
                re.compile(r"[0-9A-Fa-f]{64}"),
                "must be the key's SHA-256, 64 hex digits: the key itself is stored nowhere",
                "printf %s KEY | sha256sum",
                "64 hex digits",
            ),
            required=True,
            secret=True,
            about="hash of the key (`printf %s KEY | sha256sum`); the key itself is stored nowhere",
            example="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        ),
        "requests_per_minute": Field(
            whole_number(0, 1000000),
            default=0,
            about="requests that it may make in a minute; 0 for as many as there are",
            unit="requests per minute",
            example=600,
        ),
    },
    secret=True,
)


def _keys(value: Any) -> Tuple[Any, ...]:
    try:
        rows: Tuple[Any, ...] = list_of(KEY_ROW.kind, 0, 10000)(value)
    except BadValueError as error:
        if not isinstance(value, (list, tuple)):
            raise BadValueError(error.rule, error.fix, "[]", HIDDEN) from error
        raise
    for index, row in enumerate(rows):
        for other in rows[:index]:
            if row["name"] == other["name"] or row["sha256"].lower() == other["sha256"].lower():
                what = "name" if row["name"] == other["name"] else "sha256"
                rule, fix = "is there twice, and only one of the two would count", "remove one"
                raise BadValueError(rule, fix, "[%d].%s" % (index, what), row["name"])
    return rows


def key_problems(value: Any) -> List[Problem]:
    """Return what is wrong with the keys of a router; no part of a key is in what is said."""
    _values, problems = read_fields({"load_balancer_keys": value}, {"load_balancer_keys": Field(KEYS)}, "")
    return [replace(problem, variable=problem.variable.lstrip(".")) for problem in problems]


KEYS = Kind(_keys, "list of mappings", {"type": "array", "items": KEY_ROW.to_json()}, KEY_ROW)

SEARCH = Schema(
    "search",
    "A search for the highest request rate that keeps the objective.",
    {
        "low_per_s": Field(
            number(1e-6, 1e6), default=0.1, about="where it begins", unit="requests per second", example=0.5
        ),
        "high_per_s": Field(
            number(1e-6, 1e6), required=True, about="where it ends", unit="requests per second", example=20
        ),
        "tolerance": Field(
            number(0.001, 0.99),
            default=0.1,
            about="stop when the highest good rate and the lowest bad one are this near",
            unit="share of the lower",
            example=0.05,
        ),
    },
    rules=(
        lambda values: [
            ("low_per_s", "must be below high_per_s (%g)" % values["high_per_s"], "lower it")
            for low in [values.get("low_per_s")]
            if low is not None and "high_per_s" in values and low >= values["high_per_s"]
        ],
    ),
)

#: So many configurations are more than anybody measures; a grid's combinations multiply.
SWEEP_POINTS = 10000


def sweep_schema(fields: Iterable[str]) -> Schema:
    """Return the schema of a sweep's file.

    Args:
        fields: names of a deployment's fields, which its grid and points may change.
    """
    names = tuple(fields)

    def changes(value: Any) -> Dict[str, Any]:
        found: Dict[str, Any] = JSON_MAPPING(value)
        for key in found:
            if key not in names:
                fix = did_you_mean(key, names) or "name a field of the deployment"
                raise BadValueError("is no field of a deployment", fix, key, found[key])
        return found

    def grid(value: Any) -> Dict[str, Any]:
        found = changes(value)
        for key, choices in found.items():
            if not isinstance(choices, list) or not 1 <= len(choices) <= 100:
                raise BadValueError("must be a list of 1 to 100 values to try", "write [a, b]", key, choices)
        return found

    change = Kind(changes, "mapping of fields of the deployment", {"type": "object"})
    return Schema(
        "sweep",
        "What `trainyard sweep` tries.",
        {
            "deployment": Field(_NAME, required=True, about="the deployment that is varied", example="llama-3-3-70b"),
            "grid": Field(
                Kind(grid, "mapping of fields of the deployment to lists", {"type": "object"}),
                default={},
                about="fields with the values to try, every combination",
                example={"max_num_seqs": [4, 8]},
            ),
            "points": Field(
                list_of(change, 0, SWEEP_POINTS),
                default=(),
                about="further combinations, one by one",
                example=[{"tensor_parallel_size": 64}],
            ),
            "load": Field(
                LOAD.given, default={}, about="what every measurement has in common", example={"requests": 200}
            ),
            "loads": Field(
                list_of(LOAD.given, 0, 1000),
                default=({},),
                about="each configuration is measured under each of these, over `load`",
                example=[{"concurrency": 4}, {"concurrency": 8}],
            ),
            "objective": Field(
                optional(OBJECTIVE.given), about="what a request must keep", example={"time_per_output_token_ms": 50}
            ),
            "search": Field(
                optional(SEARCH.kind),
                about="find the highest rate that keeps the objective, in place of `loads`",
                example={"high_per_s": 20},
            ),
            "price_per_host_hour_usd": Field(
                optional(number(0, 1e6)), about="of one host, for costs and budgets", unit="US dollars", example=22.0
            ),
            "order": Field(
                one_of(("given", "random")),
                default="given",
                about="`random` spreads slow changes of the machines over all configurations",
                example="random",
            ),
        },
        rules=(_something_to_try, _search_needs_an_objective),
    )


def _something_to_try(values: Mapping[str, Any]) -> Iterator[Tuple[str, str, str]]:
    if "grid" not in values or "points" not in values:
        return
    if not values["grid"] and not values["points"]:
        yield "grid", "nothing to try", "give a grid or points"
    count = 1
    for choices in values["grid"].values():
        count *= len(choices)
    if count > SWEEP_POINTS:
        yield "grid", "has %d combinations, and at most %d are tried" % (count, SWEEP_POINTS), "take some away"


def _search_needs_an_objective(values: Mapping[str, Any]) -> Iterator[Tuple[str, str, str]]:
    if values.get("loads") == () and "search" in values and values["search"] is None:
        yield "loads", "nothing to measure", "give a load, or a search"
    if values.get("search") is not None and "objective" in values and values["objective"] is None:
        yield "search", "search needs an objective", "give one"
