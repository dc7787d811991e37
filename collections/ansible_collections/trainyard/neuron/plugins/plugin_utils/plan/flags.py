# SPDX-License-Identifier: Apache-2.0
"""vLLM's flags by version: whether a release has one, what it takes, and whether it changes what is compiled.

`vllm_flags.json` has every flag of every version's own parser (`lab/planner_flags.py` writes it), and
`vllm_flag_effects.json` says of each what it does: `answers` change how a server answers, `graphs` may change what it
compiles. `fields` are said by a field of the deployment, `nxdi` cannot be said to a server whose model was compiled
before, `instead` names what took a flag's place, and `refused` can never be right. Below `inference_demo` the
compiler flags are told apart alike: what makes another artifact, and what only has to do with a run of that program.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem, did_you_mean
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.versions import version_number
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import (
    NATIVE,
    NXDI_V0,
    SdkRelease,
    sdk_table,
)

if TYPE_CHECKING:
    from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import Deployment

#: The options of the fork's branch that has no version of its own are those of upstream's next.
FORK_WITHOUT_VERSION = "0.8.5"

#: Flags that a plan sets itself where the model was compiled before, and that it checks by itself.
_PLANNED = ("num-gpu-blocks-override", "enable-prefix-caching", "device", "use-v2-block-manager")


class Repeated(List[Any]):
    """Values of a flag that is written once for each."""


@lru_cache(maxsize=None)
def _data(name: str) -> Any:
    return json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))


def effects() -> Mapping[str, Any]:
    """Return what each flag does: `answers`, `graphs`, `fields`, `nxdi`, `instead`, `refused`."""
    found: Mapping[str, Any] = _data("vllm_flag_effects.json")
    return found


@lru_cache(maxsize=None)
def answers_only() -> frozenset[str]:
    """Return the flags that change how a server answers and not what it compiles."""
    return frozenset(effects()["answers"])


def flags_of(release: SdkRelease) -> Mapping[str, Mapping[str, Any]]:
    """Return every flag of a release's server by its name: what it `takes`, and its `choices` where it has some.

    A vLLM that has no table of its own is read as the last one before it.
    """
    return _flags(release.vllm, release.generation != NXDI_V0)


@lru_cache(maxsize=None)
def _flags(vllm: Optional[str], serve: bool) -> Mapping[str, Mapping[str, Any]]:
    """Return the flags of `vllm serve`, or of the older way to start a server; arguments as `flags_of` has them."""
    table = _data("vllm_flags.json")
    wanted = version_number(vllm or FORK_WITHOUT_VERSION)
    known = [version_number(version) for version in table["versions"]]
    at = max((version for version in known if version <= wanted), default=known[0])
    found = {}
    for name, forms in table["flags"].items():
        for form in forms:
            if version_number(form["since"]) <= at <= version_number(form["until"]) and (
                serve or not form.get("serve")
            ):
                found[name] = form
    return found


def positive(name: str, value: Any, known: Mapping[str, Mapping[str, Any]]) -> Tuple[str, Any]:
    """Return a flag without its `no-`, and the value that it then has: `no-x: true` and `x: false` are one flag."""
    if name.startswith("no-") and isinstance(value, bool) and name not in known:
        return name[3:], not value
    return name, value


def spoken(name: str, value: Any, known: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return a value as the flag wants to be told it; None leaves the flag out.

    A switch that can only be put on is left out where it is off, and a list for a flag that takes JSON is JSON.
    """
    takes = known.get(name, {}).get("takes")
    if takes == "on" and value is False:
        return None
    if takes == "said" and isinstance(value, bool):
        return "true" if value else "false"
    if takes == "json" and isinstance(value, (list, tuple)):
        return json.dumps(value, sort_keys=True)
    if takes == "pairs" and isinstance(value, Mapping):
        return ",".join("%s=%s" % (key, value[key]) for key in sorted(value))
    if takes == "each" and isinstance(value, (list, tuple)):
        return Repeated(value)
    return value


def _is_number(value: Any, kind: Callable[[str], Any]) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return False
    try:
        kind(str(value))
    except ValueError:
        return False
    return True


def _count(text: str) -> float:
    """Return a number as vLLM reads one: `8k` is 8000, `8K` is 8192; `auto` is a number as well."""
    if text == "auto":
        return -1
    return float(text[:-1]) if text[-1:] in "kmgKMG" and text[:-1] else int(text)


def _is_json(value: Any) -> bool:
    if not isinstance(value, str):
        return True
    try:
        json.loads(value)
    except ValueError:
        return False
    return True


def _is_pairs(value: Any) -> bool:
    """Return whether a value is `image=4,audio=2`, or a mapping that can be written so."""
    if isinstance(value, Mapping):
        return all(_is_number(item, int) for item in value.values())
    return isinstance(value, str) and re.fullmatch(r"\w+=\d+(,\w+=\d+)*", value) is not None


def _is_text(value: Any) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


#: What a flag takes -> whether one value is that, and how to say it.
_TAKES: Mapping[str, Tuple[Callable[[Any], bool], str]] = {
    "either": (lambda value: isinstance(value, bool), "true or false"),
    "on": (lambda value: isinstance(value, bool), "true or false"),
    "said": (lambda value: isinstance(value, bool), "true or false"),
    "int": (lambda value: _is_number(value, int), "a whole number"),
    "float": (lambda value: _is_number(value, float), "a number"),
    "count": (lambda value: _is_number(value, _count), "a whole number"),
    "json": (_is_json, "a mapping, a list or JSON"),
    "pairs": (_is_pairs, "a mapping to whole numbers, or image=4,audio=2"),
    "text": (_is_text, "text"),
}


def _wrong_value(form: Mapping[str, Any], value: Any) -> str:
    """Return what a value must be, empty where it is that."""
    takes = form["takes"]
    many = takes in ("each", "ints", "floats", "texts")
    one = "text" if takes == "each" else takes[:-1] if many else takes
    values = value if many and isinstance(value, (list, tuple)) else [value]
    right, words = _TAKES[one]
    if not values or not all(right(item) for item in values):
        return "must be %s%s" % (words, ", or a list of such" if many else "")
    choices = [str(choice) for choice in form.get("choices") or ()]
    if choices and any(str(item) not in choices for item in values):
        return "must be one of %s" % ", ".join(choices)
    return ""


#: Flags of which a value is said by a field -> that field.
_SAID_BY: Mapping[str, str] = {
    "max-lora-rank": "lora.max_rank",
    "reasoning-parser": "tools.reasoning_parser",
    "kv-cache-dtype": "quantization.kv_cache",
}


def spoken_value_problems(told: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]], where: str) -> List[Problem]:
    """Return the values of fields that a release's server has no such choice for.

    Args:
        told: flags that follow from fields.
        known: as `flags_of` has them.
        where: the variable that holds the deployment.
    """
    found = []
    for name in sorted(set(told) & set(known)):
        wrong = _wrong_value(known[name], told[name]) if known[name].get("choices") else ""
        if wrong:
            path = "%s.%s" % (where, _SAID_BY.get(name, name))
            choices = [str(choice) for choice in known[name]["choices"]]
            fix = did_you_mean(str(told[name]), choices) or "choose one of them"
            found.append(Problem("", path, told[name], wrong + " for this release's vLLM", fix))
    return found


def flag_problems(deployment: Deployment, release: SdkRelease, where: str, told: Sequence[str] = ()) -> List[Problem]:
    """Return every engine argument that the server of a release would end at, or take for something else.

    Args:
        deployment: the deployment.
        release: its SDK row, whose vLLM's own parser is asked.
        where: the variable that holds the deployment, which the problems name.
        told: flags of which a problem was told already.
    """
    known, found = flags_of(release), []
    for given, value in deployment.engine_args.items():
        name, wanted = positive(given, value, known)
        path = "%s.engine_args.%s" % (where, given)
        if value is None or name in told:
            continue
        problem = _flag_problem(name, wanted, known, release)
        if problem is not None:
            found.append(Problem("", path, value, *problem))
    return found + _together(deployment, known, where)


def _flag_problem(
    name: str, value: Any, known: Mapping[str, Mapping[str, Any]], release: SdkRelease
) -> Optional[Tuple[str, str]]:
    """Return the rule and the fix of a flag that is wrong, None of one that is right."""
    says = effects()
    if name in says["refused"]:
        rule, fix = says["refused"][name]
        return rule, fix
    if name in says["fields"]:
        return "is not only a matter of the server", "remove it, and set %s" % says["fields"][name]
    if name not in known:
        return _unknown(name, known, release)
    wrong = _wrong_value(known[name], value)
    if wrong:
        near = did_you_mean(str(value), [str(choice) for choice in known[name].get("choices") or ()])
        return wrong, near or "change it"
    if release.generation != NATIVE and name in says["nxdi"] and not _changes_nothing(value):
        field = says["nxdi"][name]
        rule = "is no part of the compile command, so it would be served and not compiled"
        return rule, "remove it, and set %s" % field if field else "remove it, or use generation native"
    return None


def _changes_nothing(value: Any) -> bool:
    """Return whether a value is what a server has anyhow: off, left to vLLM, one of something."""
    return value is None or value is False or value in ("auto", {}) or (value == 1 and not isinstance(value, bool))


def _unknown(name: str, known: Mapping[str, Mapping[str, Any]], release: SdkRelease) -> Tuple[str, str]:
    """Return what is said of a flag that the release's vLLM does not have."""
    version = release.vllm or "%s (the fork's branch)" % FORK_WITHOUT_VERSION
    rule = "is no flag of vLLM %s, which SDK %s serves with" % (version, release.release)
    elsewhere = _data("vllm_flags.json")["flags"].get(name)
    if elsewhere is None:
        begins = [flag for flag in known if flag.startswith(name)]
        near = did_you_mean(name, known) or ("did you mean '%s'?" % begins[0] if begins else "")
        if begins and len(begins) == 1:
            rule, near = rule + "; a flag is written out", "write %s" % begins[0]
        return rule, near or "remove it"
    spans = ", ".join("%s to %s" % (form["since"], form["until"]) for form in _spans(elsewhere))
    rule += " (vLLM %s has it)" % spans
    instead = effects()["instead"].get(name)
    if instead:
        return rule, "set %s" % instead
    having = [row for row in sdk_table() if name in flags_of(row)]
    having = [row for row in having if row.generation == release.generation] or having
    if not having:
        return rule, "remove it"
    return rule, "remove it, or use SDK %s with %s" % (having[-1].release, having[-1].generation)


def _spans(forms: Sequence[Mapping[str, Any]]) -> List[Dict[str, Any]]:
    """Return the runs of versions that have a flag, whatever it takes in each."""
    versions = _data("vllm_flags.json")["versions"]
    found: List[Dict[str, Any]] = []
    for form in forms:
        if found and versions.index(form["since"]) == versions.index(found[-1]["until"]) + 1:
            found[-1]["until"] = form["until"]
        else:
            found.append({"since": form["since"], "until": form["until"]})
    return found


def _together(deployment: Deployment, known: Mapping[str, Mapping[str, Any]], where: str) -> List[Problem]:
    """Return what vLLM refuses of flags that need one another."""
    given = deployment.engine_args
    found = []
    for name, needs in (
        ("enable-auto-tool-choice", "tool-call-parser"),
        ("enable-reasoning", "reasoning-parser"),
        ("ssl-certfile", "ssl-keyfile"),
        ("ssl-keyfile", "ssl-certfile"),
    ):
        if given.get(name) and not given.get(needs) and name in known:
            rule = "needs %s beside it: vLLM ends at once without" % needs
            found.append(Problem("", "%s.engine_args.%s" % (where, name), given[name], rule, "set %s" % needs))
    return found


def flag_warnings(deployment: Deployment, release: SdkRelease, where: str) -> List[Problem]:
    """Return the engine arguments that do nothing where the model was compiled before; arguments as `flag_problems`."""
    if release.generation == NATIVE:
        return []
    known, answers, found = flags_of(release), answers_only(), []
    for given, value in deployment.engine_args.items():
        name, wanted = positive(given, value, known)
        if wanted in (None, False) or name in answers or name in _PLANNED or name in effects()["nxdi"]:
            continue
        rule = "may change what a server compiles, and this one serves what inference_demo compiled without it"
        fix = "remove it, or say it in neuron_config"
        found.append(Problem("", "%s.engine_args.%s" % (where, given), value, rule, fix))
    return found
