# SPDX-License-Identifier: Apache-2.0
"""How values that people wrote are checked: a check for each field, and every mistake told at once."""

from __future__ import absolute_import, annotations, division, print_function

import re
from copy import copy
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Pattern, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem, did_you_mean
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.ranges import parse_ranges

__metaclass__ = type


class BadValueError(Exception):
    """A value breaks a rule; the caller knows which variable it came from."""

    def __init__(self, rule: str, fix: str, key: str = "", value: Any = None) -> None:
        super().__init__(rule)
        self.rule, self.fix, self.key, self.value = rule, fix, key, value


def whole_number(least: int, most: int = 1 << 31) -> Callable[[Any], int]:
    """Return a check for a whole number of `least` to `most`."""

    def check(value: Any) -> int:
        if isinstance(value, str) and value.strip().isdigit():
            raise BadValueError(
                "must be a number, not a string", "write %s without quotes; with -e, pass JSON" % value.strip()
            )
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadValueError("must be a whole number", "give one of %d or more" % least)
        if not least <= value <= most:
            raise BadValueError("must be %d to %d" % (least, most), "choose a number in that range")
        return value

    return check


def one_of(choices: Tuple[str, ...]) -> Callable[[Any], str]:
    """Return a check for one of some words."""

    def check(value: Any) -> str:
        if value not in choices:
            raise BadValueError(
                "must be one of %s" % ", ".join(choices), did_you_mean(str(value), choices) or "choose one of them"
            )
        return str(value)

    return check


def text(pattern: Pattern[str], rule: str, fix: str) -> Callable[[Any], str]:
    """Return a check for a string that a pattern matches as a whole."""

    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise BadValueError("must be a string", "quote it")
        if not pattern.fullmatch(value):
            raise BadValueError(rule, fix)
        return value

    return check


def optional(check: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a check that lets None pass."""
    return lambda value: None if value is None else check(value)


def core_list(value: Any) -> Tuple[int, ...]:
    """Check a list of core or device numbers: `0-31,48`, one number, or a list of numbers; None is none."""
    if value is None:
        return ()
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, (list, tuple)):
        value = ",".join(str(item) for item in value)
    if not isinstance(value, str):
        raise BadValueError("must be a list of numbers or ranges", 'write it as "0-31,48"')
    try:
        return parse_ranges(value)
    except ValueError as error:
        raise BadValueError(str(error), 'write it as "0-31,48"') from error


#: A reference that can only ever mean one image: `registry/name@sha256:...`, with a tag or without.
_BY_DIGEST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*@sha256:[0-9a-f]{64}")


def images_by_digest(value: Any) -> Dict[str, str]:
    """Check a table of container images: name and tag of each to the reference by digest that is pulled."""
    if not isinstance(value, Mapping):
        raise BadValueError("must map an image's name and tag to its reference", 'write {"name:tag": "registry/..."}')
    for name, reference in value.items():
        if not isinstance(reference, str) or not _BY_DIGEST.fullmatch(reference):
            rule = "must be registry/name@sha256:<64 hex digits>: a tag can move from one image to another"
            fix = "`skopeo inspect docker://...` and `docker buildx imagetools inspect` print the digest"
            raise BadValueError(rule, fix, str(name), reference)
    return {str(name): str(reference) for name, reference in value.items()}


class Field(NamedTuple):
    """How one field is read: its check, and whether it must be there."""

    check: Callable[[Any], Any]
    required: bool = False
    default: Any = None


def read_fields(
    raw: Mapping[str, Any], fields: Mapping[str, Field], where: str
) -> Tuple[Dict[str, Any], List[Problem]]:
    """Return the values of the fields that are right, and a problem for each that is not."""
    values: Dict[str, Any] = {}
    problems = [
        Problem("", "%s.%s" % (where, key), raw[key], "is no field here", did_you_mean(str(key), fields) or "remove it")
        for key in raw
        if key not in fields
    ]
    for key, spec in fields.items():
        path = "%s.%s" % (where, key)
        if key not in raw:
            values[key] = copy(spec.default)
            if spec.required:
                problems.append(Problem("", path, None, "must be given", "add it"))
            continue
        try:
            values[key] = spec.check(raw[key])
        except BadValueError as bad:
            inner = "%s.%s" % (path, bad.key) if bad.key else path
            problems.append(Problem("", inner, bad.value if bad.key else raw[key], bad.rule, bad.fix))
    return values, problems
