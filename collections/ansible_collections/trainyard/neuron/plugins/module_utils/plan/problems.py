# SPDX-License-Identifier: Apache-2.0
"""What a plan can complain about: one shape for errors and warnings, all of them told at once."""

from __future__ import annotations

import difflib
import json
import reprlib
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Dict, Iterable, List, Mapping

#: Longer values are cut in messages: the variable's name already says where to look.
VALUE_CHARACTERS = 120

#: A value of more parts than this is cut short inside.
PARTS_WRITTEN = 1000

#: Of a longer word no more is compared with what is known: comparing takes its length squared.
WORD_CHARACTERS = 80

#: A problem of a thousand hosts is told once, with so many of them named.
HOSTS_NAMED = 4


_SHORT = reprlib.Repr()
_SHORT.maxlevel = 3


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, or for a warning, one that will surprise.

    Attributes:
        host: inventory name of the host, empty when it is true for the whole fleet.
        variable: inventory variable, with the path into it (`trainyard_deployment_x.port`).
        value: what it holds.
        rule: what it breaks, as one clause.
        fix: what to do, as one clause in the imperative.
    """

    host: str
    variable: str
    value: Any
    rule: str
    fix: str

    def on(self, host: str) -> Problem:
        """Return the same problem, said of `host`."""
        return replace(self, host=host)

    def to_dict(self) -> Dict[str, Any]:
        """Return the JSON-ready form."""
        return asdict(self)

    def __str__(self) -> str:
        where = self.host + ": " if self.host else ""
        stop = "" if self.fix.endswith("?") else "."
        return "%s%s = %s: %s. Fix: %s%s" % (where, self.variable, show(self.value), self.rule, self.fix, stop)


def written(value: Any) -> str:
    """Return `repr` of a value, cut short inside where it is larger than a message: aliases of YAML multiply."""
    return repr(value) if _fits(value) else _SHORT.repr(value)


def _fits(value: Any) -> bool:
    """Return whether a value has few enough parts to be written out, looking at no more of them than that."""
    left, parts = PARTS_WRITTEN, [value]
    while parts and left > 0:
        item = parts.pop()
        left -= 1
        if isinstance(item, Mapping):
            parts.extend(islice((part for pair in item.items() for part in pair), left))
        elif isinstance(item, (list, tuple, set, frozenset)):
            parts.extend(islice(item, left))
    return left > 0


def show(value: Any) -> str:
    """Return a value as it would stand in JSON, on one line and cut where it is long."""
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False) if _fits(value) else written(value)
    except (TypeError, ValueError):
        text = " ".join(written(value).split())
    return text if len(text) <= VALUE_CHARACTERS else text[: VALUE_CHARACTERS - 3] + "..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `did you mean 'x'?`, or an empty string where nothing known is near."""
    near = difflib.get_close_matches(word[:WORD_CHARACTERS], list(known), n=1, cutoff=0.6)
    return "did you mean '%s'?" % near[0] if near else ""


class PlanError(Exception):
    """The plan cannot be made; `problems` holds every reason, not only the first.

    A problem that several hosts share is printed once, with those hosts named before it.
    """

    def __init__(self, problems: List[Problem]) -> None:
        super().__init__(problems)
        self.problems = list(problems)

    def __str__(self) -> str:
        return "\n".join([self.head()] + ["  - " + line for line in self.lines()])

    def head(self) -> str:
        """Return the first line, which says how many there are."""
        count = len(self.problems)
        return "the plan has %d problem%s; no host was touched" % (count, "" if count == 1 else "s")

    def lines(self) -> List[str]:
        """Return one line for each different problem, in the order found, with the hosts that share it."""
        first: Dict[str, Problem] = {}
        hosts: Dict[str, List[str]] = {}
        for problem in self.problems:
            key = str(problem.on(""))
            first.setdefault(key, problem)
            hosts.setdefault(key, []).append(problem.host)
        return [str(first[key].on(_host_list(hosts[key]))) for key in first]


def _host_list(hosts: List[str]) -> str:
    """Return the hosts' names, the first few where there are many."""
    names = [name for name in dict.fromkeys(hosts) if name]
    if len(names) <= HOSTS_NAMED:
        return ", ".join(names)
    return "%s and %d more hosts" % (", ".join(names[:HOSTS_NAMED]), len(names) - HOSTS_NAMED)
