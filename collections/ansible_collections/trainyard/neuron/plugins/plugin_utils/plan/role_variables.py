# SPDX-License-Identifier: Apache-2.0
"""Variables of the roles as an inventory sets them: each name known, each value of the kind that its role takes.

A role judges its own when its turn comes, which is hours later, and a misspelt one never.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.fields import HIDDEN
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import (
    WORD_CHARACTERS,
    Problem,
    did_you_mean,
)

#: role -> variable -> its option, without descriptions and defaults; docs/reference.py writes it.
_FILE = Path(__file__).with_name("role_variables.json")

#: From here on the rest of a name is a slip of that of a variable of the same role; below it, it may be the
#: inventory's own.
SLIP_LIKENESS = 0.75
#: The same of whole names, for one that has no role's prefix.
BARE_LIKENESS = 0.9

#: What marks a text as a template, which only the host's turn can resolve.
_TEMPLATE = ("{{", "{%", "{#")
#: Parts of a name whose value nobody is shown.
_SECRET = ("key", "token", "secret", "password", "credential")
_PAGE = "docs/reference.md has them all"


@lru_cache(maxsize=None)
def options() -> Dict[str, Dict[str, Any]]:
    """Return the option of each variable of every role, by its name."""
    found: Dict[str, Dict[str, Any]] = {}
    for variables in json.loads(_FILE.read_text(encoding="utf-8")).values():
        found.update(variables)
    return found


@lru_cache(maxsize=None)
def prefixes() -> Tuple[str, ...]:
    """Return what the names of the roles' variables begin with."""
    return tuple(sorted(role + "_" for role in json.loads(_FILE.read_text(encoding="utf-8"))))


class RoleVariables:
    """Judges an inventory's hosts one after the other: each name, and each value that hosts share, once.

    Args:
        plain: makes a value plain data; raises ValueError where it has more in it than any settings.
        is_result: tells what a task registered in this run, which is nobody's setting.
        elsewhere: variables whose values the planner judges by rules of their own.
    """

    def __init__(
        self, plain: Callable[[Any], Any], is_result: Callable[[Any], bool], elsewhere: Iterable[str] = ()
    ) -> None:
        self._plain = plain
        self._is_result = is_result
        self._elsewhere = frozenset(elsewhere)
        self._names: Dict[str, Optional[Tuple[bool, Problem]]] = {}
        # Values stay referred to, so that no other has the identity of one that was judged.
        self._values: Dict[Tuple[str, int], Tuple[Any, List[Problem]]] = {}

    def judge(self, host: str, variables: Mapping[str, Any]) -> Tuple[List[Problem], List[Problem]]:
        """Return problems and warnings of a host.

        Args:
            host: its inventory name.
            variables: by name; templates not resolved.
        """
        problems: List[Problem] = []
        warnings: List[Problem] = []
        for name in variables:
            if not isinstance(name, str):
                continue
            if name in options():
                if name in self._elsewhere:
                    continue
                problems += [one.on(host) for one in self._of_value(name, variables[name])]
                continue
            if name not in self._names:
                slip = slip_of(name)
                value = variables[name] if slip else None
                self._names[name] = None if slip is None or self._is_result(value) else slip.told(name, value)
            found = self._names[name]
            if found:
                (problems if found[0] else warnings).append(found[1].on(host))
        return problems, warnings

    def _of_value(self, name: str, value: Any) -> List[Problem]:
        key = (name, id(value))
        if key not in self._values:
            self._values[key] = (value, self._judged(name, value))
        return self._values[key][1]

    def _judged(self, name: str, value: Any) -> List[Problem]:
        try:
            given = self._plain(value)
        except ValueError as error:
            return [Problem("", name, None, str(error), "say less: aliases of YAML multiply")]
        return [] if given is None or _waits(given) else problems_of(name, given)


def problems_of(name: str, value: Any) -> List[Problem]:
    """Return what is wrong with the value of a role's variable.

    Args:
        name: of the variable.
        value: plain data without templates.
    """
    option = options()[name]
    shown = _shown(value, name)
    choices = [choice for choice in option.get("choices") or () if isinstance(choice, str)]
    if not _is_of_kind(value, option):
        rule, fix = "must be %s" % _kind(option), did_you_mean(str(value), choices) or "see its role's README"
        return [Problem("", name, shown, rule, fix)]
    if option.get("type") not in ("dict", "list"):
        return []
    # Ansible's words quote what they refuse.
    told = "has a part that its role does not take" if shown is HIDDEN else None
    errors = ArgumentSpecValidator({name: option}).validate({name: value}).error_messages
    return [Problem("", name, shown, told or "is refused by its role: %s" % one, "see its README") for one in errors]


def _is_of_kind(value: Any, option: Mapping[str, Any]) -> bool:
    """Tell whether a value is what an option takes, as Ansible converts it: texts of numbers and switches are."""
    kind = option.get("type", "str")
    if kind in ("int", "float") and isinstance(value, bool):
        return False
    if kind == "str" and isinstance(value, (Mapping, list)):
        return False
    bare = {"v": {key: option[key] for key in ("type", "choices") if key in option}}
    result = ArgumentSpecValidator(bare).validate({"v": value})
    return not result.error_messages and (kind != "float" or math.isfinite(result.validated_parameters["v"]))


def _kind(option: Mapping[str, Any]) -> str:
    """Return what an option takes, in words."""
    if option.get("choices"):
        return "one of %s" % ", ".join(str(choice) or "''" for choice in option["choices"])
    words = {"int": "a whole number", "float": "a finite number", "bool": "true or false", "list": "a list"}
    return {**words, "dict": "a dictionary"}.get(str(option.get("type")), "text")


@dataclass(frozen=True)
class Slip:
    """A name that no role has.

    Attributes:
        role: whose prefix it has, empty for none.
        meant: the variable that it most likely means, empty where none is near.
    """

    role: str
    meant: str

    def told(self, name: str, value: Any) -> Tuple[bool, Problem]:
        """Return whether it is refused, and what is said of it."""
        shown = _shown(value, name, self.meant)
        if self.meant:
            rule, fix = "is no variable of any role, and nobody would read it", "did you mean '%s'?" % self.meant
            return bool(self.role), Problem("", name, shown, rule, fix)
        rule = "begins as the variables of the role %s and is none of them: nobody reads it" % self.role
        return False, Problem("", name, shown, rule, _PAGE)


def slip_of(name: str) -> Optional[Slip]:
    """Return what is wrong with a name that no role has; nothing where it is not ours."""
    prefix = next((one for one in prefixes() if name.startswith(one)), "")
    if not prefix and name.startswith(("ansible_", "trainyard_", "_")):
        return None
    rest = {key[len(prefix) :]: key for key in options() if key.startswith(prefix)}
    likeness = SLIP_LIKENESS if prefix else BARE_LIKENESS
    near = difflib.get_close_matches(name[len(prefix) :][:WORD_CHARACTERS], rest, n=1, cutoff=likeness)
    return Slip(prefix[:-1], rest[near[0]] if near else "") if near or prefix else None


def _shown(value: Any, *names: str) -> Any:
    """Return a value for people; what is, or was meant for, a secret is hidden, and so is what is no plain value."""
    secret = any(part in name for part in _SECRET for name in names)
    return HIDDEN if secret or not isinstance(value, (str, int, float, list, dict)) else value


def _waits(value: Any) -> bool:
    """Tell whether a template is somewhere in a value."""
    return any(isinstance(part, str) and any(mark in part for mark in _TEMPLATE) for part in _parts(value))


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _parts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _parts(item)
    else:
        yield value
