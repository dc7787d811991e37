# SPDX-License-Identifier: Apache-2.0
"""How values that people wrote are checked: a kind for each field, and every mistake told at once.

A `Kind` checks a value and says in words and in JSON Schema what it takes; a `Field` adds default, unit, meaning and
example; a `Schema` is the fields of one dictionary with the rules between them. Checks, the reference page and the
JSON schemas are all made from these.
"""

from __future__ import annotations

import math
import re
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Pattern, Sequence, Tuple, Union

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem, did_you_mean, written
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.ranges import parse_ranges

#: The version that the fields came with which say nothing else.
FIRST_VERSION = "0.1.0"

#: Longest text that a field takes unless its kind says otherwise, characters.
TEXT_CHARACTERS = 512

#: Deepest nesting of what is taken as JSON, and the largest number: beyond it programs disagree on what was meant.
JSON_DEPTH, JSON_NUMBER = 32, 1 << 53

#: What is taken as JSON has no more parts than this, aliases written out.
JSON_PARTS = 10_000

#: What stands in a message in place of a value that may be a secret.
HIDDEN = "(hidden)"


class BadValueError(Exception):
    """A value breaks a rule; the caller knows which variable it came from.

    Attributes:
        rule: what it breaks, as one clause.
        fix: what to do, as one clause in the imperative.
        key: path below the value to what is wrong, empty for the value itself.
        value: what stands there, where `key` is given.
    """

    def __init__(self, rule: str, fix: str, key: str = "", value: Any = None) -> None:
        super().__init__(rule)
        self.rule, self.fix, self.key, self.value = rule, fix, key, value

    def all(self) -> List[BadValueError]:
        """Return every mistake that this one stands for."""
        return [self]


class BadValuesError(BadValueError):
    """Several mistakes of one value."""

    def __init__(self, found: Sequence[BadValueError]) -> None:
        super().__init__(found[0].rule, found[0].fix, found[0].key, found[0].value)
        self.found = list(found)

    def all(self) -> List[BadValueError]:
        """Return every mistake that this one stands for."""
        return self.found


@dataclass(frozen=True)
class Kind:
    """What a value may be.

    Attributes:
        check: returns the value as it is used; raises `BadValueError`.
        words: what is taken, for people: `whole number, 1 to 4096`.
        json: the same as a JSON Schema.
        parts: the schema of what is inside, for kinds that are or hold a dictionary of fields.
    """

    check: Callable[[Any], Any]
    words: str
    json: Mapping[str, Any]
    parts: Any = None

    def __call__(self, value: Any) -> Any:
        """Return the checked value, or raise `BadValueError`."""
        return self.check(value)


def whole_number(least: int, most: int = 1 << 31) -> Kind:
    """Return the kind of a whole number of `least` to `most`."""

    def check(value: Any) -> int:
        _no_digits_as_text(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise BadValueError("must be a whole number", "give one of %d or more" % least)
        if not least <= value <= most:
            raise BadValueError("must be %d to %d" % (least, most), "choose a number in that range")
        return value

    words = "whole number, %s" % (("%d or more" % least) if most == 1 << 31 else "%d to %d" % (least, most))
    return Kind(check, words, {"type": "integer", "minimum": least, "maximum": most})


def number(least: float, most: float) -> Kind:
    """Return the kind of a finite number of `least` to `most`, whole or not."""

    def check(value: Any) -> float:
        _no_digits_as_text(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise BadValueError("must be a number", "give one of %g to %g" % (least, most))
        if isinstance(value, float) and not math.isfinite(value):
            raise BadValueError("must be a finite number", "give one of %g to %g" % (least, most))
        if not least <= value <= most:
            raise BadValueError("must be %g to %g" % (least, most), "choose a number in that range")
        return value

    return Kind(check, "number, %g to %g" % (least, most), {"type": "number", "minimum": least, "maximum": most})


def _no_digits_as_text(value: Any) -> None:
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]+(\.[0-9]+)?\s*", value[:64]):
        raise BadValueError(
            "must be a number, not a string", "write %s without quotes; with -e, pass JSON" % value.strip()
        )


#: Words that Ansible reads as true and false, which is what `-e name=true` gives.
_SWITCH_WORDS = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def switch() -> Kind:
    """Return the kind of true or false."""

    def check(value: Any) -> bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in _SWITCH_WORDS:
            return _SWITCH_WORDS[value.lower()]
        raise BadValueError("must be true or false", "write one of them")

    return Kind(check, "true or false", {"type": "boolean"})


def one_of(choices: Tuple[str, ...]) -> Kind:
    """Return the kind of one of some words."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise BadValueError(
                "must be one of %s" % ", ".join(choices), did_you_mean(str(value), choices) or "choose one of them"
            )
        return str(value)

    return Kind(check, "one of %s" % ", ".join("`%s`" % choice for choice in choices), {"enum": list(choices)})


def text(pattern: Pattern[str], rule: str, fix: str, words: str = "text", most: int = TEXT_CHARACTERS) -> Kind:
    """Return the kind of a string that a pattern matches as a whole, of `most` characters."""

    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise BadValueError("must be a string", "quote it")
        if len(value) > most:
            raise BadValueError("must be at most %d characters" % most, "shorten it")
        if not pattern.fullmatch(value):
            raise BadValueError(rule, fix)
        return value

    return Kind(check, words, {"type": "string", "pattern": "^(?:%s)$" % pattern.pattern, "maxLength": most})


def optional(kind: Kind) -> Kind:
    """Return the kind that also takes null."""
    return Kind(
        lambda value: None if value is None else kind(value),
        "%s, or null" % kind.words,
        {"anyOf": [dict(kind.json), {"type": "null"}]},
        kind.parts,
    )


def list_of(kind: Kind, least: int = 0, most: int = 1000, what: str = "list") -> Kind:
    """Return the kind of a list of `least` to `most` items of one kind."""

    def check(value: Any) -> Tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise BadValueError("must be a list", "write [...] or a line with - for each")
        if not least <= len(value) <= most:
            raise BadValueError("must have %d to %d items" % (least, most), "add or remove some")
        found, wrong = [], []
        for index, item in enumerate(value):
            try:
                found.append(kind(item))
            except BadValueError as bad:
                for one in bad.all():
                    shown = one.value if one.key else HIDDEN if getattr(kind.parts, "secret", False) else item
                    wrong.append(BadValueError(one.rule, one.fix, "[%d]%s" % (index, _below(one.key)), shown))
        if wrong:
            raise BadValuesError(wrong)
        return tuple(found)

    json = {"type": "array", "items": dict(kind.json), "minItems": least, "maxItems": most}
    return Kind(check, "%s of %s" % (what, kind.words), json, kind.parts)


def _below(key: str) -> str:
    return key if not key or key.startswith("[") else "." + key


def mapping(value: Any) -> Dict[str, Any]:
    """Check a mapping with strings as keys."""
    if not isinstance(value, Mapping):
        raise BadValueError("must be a mapping", "write key: value lines below it, or {}")
    for key in value:
        if not isinstance(key, str):
            raise BadValueError("must have strings as keys", "quote the key %.40r" % (key,))
    return dict(value)


def json_mapping(value: Any) -> Dict[str, Any]:
    """Check a mapping of anything that every program reads in JSON as it was meant."""
    found = mapping(value)
    wrong = []
    for key, item in found.items():
        rule = json_rule(item)
        if rule:
            fix = "give one" if "number" in rule else "change its type"
            wrong.append(BadValueError(rule, fix, key, item if "number" in rule else "%.80s" % written(item)))
    if wrong:
        raise BadValuesError(wrong)
    return found


def json_rule(value: Any, depth: int = 0, left: Optional[List[int]] = None) -> str:
    """Return the rule of JSON that a value breaks, empty for none.

    Args:
        value: what is to be written as JSON, where each alias of YAML is written out.
        depth: how deep it lies in what was given.
        left: how many parts may still come; one count for all that was given.
    """
    left = [JSON_PARTS] if left is None else left
    left[0] -= 1
    if left[0] < 0:
        return "must have at most %d parts, aliases written out" % JSON_PARTS
    if depth > JSON_DEPTH:
        return "must not be nested deeper than %d" % JSON_DEPTH
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return ""
    if isinstance(value, (int, float)):
        if isinstance(value, float) and not math.isfinite(value):
            return "must be a finite number"
        return "" if -JSON_NUMBER <= value <= JSON_NUMBER else "must be a number below 2^53"
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            return "must be JSON (strings as keys)"
        return next((rule for item in value.values() for rule in [json_rule(item, depth + 1, left)] if rule), "")
    if isinstance(value, (list, tuple)):
        return next((rule for item in value for rule in [json_rule(item, depth + 1, left)] if rule), "")
    return "must be JSON (text, numbers, booleans, null, lists, mappings)"


MAPPING = Kind(mapping, "mapping", {"type": "object"})
JSON_MAPPING = Kind(json_mapping, "mapping of JSON values", {"type": "object"})


def _core_list(value: Any) -> Tuple[int, ...]:
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


#: A list of core or device numbers: `0-31,48`, one number, or a list of numbers; None is none.
core_list = Kind(
    _core_list,
    "range list such as `0-31,48`, a number, or a list of numbers",
    {"type": ["string", "integer", "array", "null"]},
)


def _share(value: Any, least: int, most: int, alone: Tuple[str, ...], percent_only: bool) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise BadValueError("must be %s" % _share_words(least, alone, percent_only), 'write it as "25%"')
    # A number that is too long to be written is none that is allowed.
    written = str(value) if isinstance(value, str) or abs(value) <= JSON_NUMBER else ""
    if written in alone:
        return written
    match = re.fullmatch(r"([0-9]{1,7})(%?)", written)
    if not match or (percent_only and not match.group(2)):
        raise BadValueError("must be %s" % _share_words(least, alone, percent_only), 'write it as "25%"')
    count, limit = int(match.group(1)), 100 if match.group(2) else most
    if not least <= count <= limit:
        raise BadValueError("must be %d to %d%s" % (least, limit, match.group(2)), "choose one in that range")
    return written


def _share_words(least: int, alone: Tuple[str, ...], percent_only: bool) -> str:
    percent = "percentage from %d%% to 100%%" % least
    rest = percent if percent_only else "a count from %d, or a %s" % (least, percent)
    return ", ".join(["`%s`" % word for word in alone] + [rest])


def share(least: int, most: int = 100000, alone: Tuple[str, ...] = (), percent_only: bool = False) -> Kind:
    """Return the kind of a count or a percentage of something (`2`, `25%`), as text; `alone`: words beside them."""
    pattern = "^(?:%s[0-9]{1,7}%s)$" % ("".join(word + "|" for word in alone), "%" if percent_only else "%?")
    choices: List[Mapping[str, Any]] = [{"type": "string", "pattern": pattern}]
    if not percent_only:
        choices.append({"type": "integer", "minimum": least, "maximum": most})
    return Kind(
        lambda value: _share(value, least, most, alone, percent_only),
        _share_words(least, alone, percent_only),
        {"anyOf": choices} if len(choices) > 1 else choices[0],
    )


#: A reference that can only ever mean one image: `registry/name@sha256:...`, with a tag or without.
_BY_DIGEST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*@sha256:[0-9a-f]{64}")


def _images_by_digest(value: Any) -> Dict[str, str]:
    if not isinstance(value, Mapping):
        raise BadValueError("must map an image's name and tag to its reference", 'write {"name:tag": "registry/..."}')
    for name, reference in value.items():
        if not isinstance(reference, str) or len(reference) > TEXT_CHARACTERS or not _BY_DIGEST.fullmatch(reference):
            rule = "must be registry/name@sha256:<64 hex digits>: a tag can move from one image to another"
            fix = "`skopeo inspect docker://...` and `docker buildx imagetools inspect` print the digest"
            raise BadValueError(rule, fix, str(name), reference)
    return {str(name): str(reference) for name, reference in value.items()}


#: A table of container images: name and tag of each to the reference by digest that is pulled.
images_by_digest = Kind(
    _images_by_digest,
    "mapping of `name:tag` to `registry/name@sha256:...`",
    {"type": "object", "additionalProperties": {"type": "string", "pattern": "^(?:%s)$" % _BY_DIGEST.pattern}},
)


class Field(NamedTuple):
    """How one field is read, and what people are told of it.

    Attributes:
        check: its kind, or any function that returns the checked value.
        required: whether it must be there.
        default: its value where it is not.
        about: what it means, as a clause.
        unit: of its number, `seconds` or `tokens`.
        example: as it stands in an inventory.
        since: version that it came with.
        secret: its value is in no message.
    """

    check: Union[Kind, Callable[[Any], Any]]
    required: bool = False
    default: Any = None
    about: str = ""
    unit: str = ""
    example: Any = None
    since: str = FIRST_VERSION
    secret: bool = False


#: A rule between fields: from what could be read to (field, rule, fix) of each that breaks it.
Rule = Callable[[Mapping[str, Any]], Iterable[Tuple[str, str, str]]]


@dataclass(frozen=True)
class Schema:
    """The fields of one dictionary that people write.

    Attributes:
        name: the variable or field that holds it.
        about: what it is for, as a sentence.
        fields: by name.
        rules: between its fields; a rule sees only what is right in itself, with defaults in place.
        secret: values of words that are no field may be secrets as well.
        null_is_unset: a field that is null counts as not given.
    """

    name: str
    about: str
    fields: Mapping[str, Field]
    rules: Tuple[Rule, ...] = field(default_factory=tuple)
    secret: bool = False
    null_is_unset: bool = False

    def read(self, raw: Any, where: str = "") -> Tuple[Dict[str, Any], List[Problem]]:
        """Return the values with defaults, and a problem for each that is not right.

        Args:
            raw: what the inventory or the file holds.
            where: the variable that holds it, which the problems name; empty for the schema's own name.
        """
        where = where or self.name
        if not isinstance(raw, Mapping):
            shown = HIDDEN if self.secret else raw
            return {}, [Problem("", where, shown, "must be a mapping", "write key: value lines below it, or {}")]
        if self.null_is_unset:
            raw = {key: value for key, value in raw.items() if value is not None or key not in self.fields}
        values, problems = read_fields(raw, self.fields, where, self.secret)
        for rule in self.rules:
            for key, broken, fix in rule(values):
                problems.append(Problem("", "%s.%s" % (where, key), raw.get(key), broken, fix))
        return values, problems

    @property
    def kind(self) -> Kind:
        """The kind of a value that is such a dictionary, read with its defaults."""
        return Kind(self._checked, "mapping", self.to_json(), self)

    @property
    def given(self) -> Kind:
        """The same, read as what was given and no more."""

        def check(value: Any) -> Dict[str, Any]:
            values = self._checked(value)
            return {key: values[key] for key in value if value[key] is not None or not self.null_is_unset}

        return Kind(check, "mapping", self.to_json(), self)

    def _checked(self, value: Any) -> Dict[str, Any]:
        values, problems = self.read(value, "\0")
        if problems:
            raise BadValuesError(
                [BadValueError(one.rule, one.fix, one.variable[1:].lstrip("."), one.value) for one in problems]
            )
        return values

    @property
    def defaults(self) -> Dict[str, Any]:
        """What each field is where nothing else is said."""
        return {name: copy(spec.default) for name, spec in self.fields.items()}

    def to_json(self) -> Dict[str, Any]:
        """Return the JSON Schema of such a dictionary; rules between fields are not in it."""
        properties = {}
        for name, spec in self.fields.items():
            described: Dict[str, Any] = dict(spec.check.json) if isinstance(spec.check, Kind) else {}
            if self.null_is_unset and described:
                described = {"anyOf": [described, {"type": "null"}]}
            if spec.about:
                described["description"] = spec.about + (" (%s)" % spec.unit if spec.unit else "")
            if spec.default not in (None, ()):
                described["default"] = list(spec.default) if isinstance(spec.default, tuple) else spec.default
            if spec.example is not None:
                described["examples"] = [spec.example]
            properties[name] = described
        found: Dict[str, Any] = {
            "type": "object",
            "description": self.about,
            "properties": properties,
            "additionalProperties": False,
        }
        required = [name for name, spec in self.fields.items() if spec.required]
        if required:
            found["required"] = required
        return found


def read_fields(
    raw: Mapping[str, Any], fields: Mapping[str, Field], where: str, secret: bool = False
) -> Tuple[Dict[str, Any], List[Problem]]:
    """Return the values of the fields that are right, and a problem for each that is not.

    Args:
        raw: what the inventory holds.
        fields: what may be there.
        where: the variable that holds it.
        secret: values of words that are no field stay out of the messages.
    """
    values: Dict[str, Any] = {}
    problems = [
        Problem(
            "",
            "%s.%s" % (where, key),
            HIDDEN if secret else raw[key],
            "is no field here",
            did_you_mean(str(key), fields) or "remove it",
        )
        for key in raw
        if key not in fields
    ]
    for key, spec in fields.items():
        path = "%s.%s" % (where, key)
        if key not in raw:
            values[key] = copy(spec.default)
            if spec.required:
                problems.append(Problem("", path, None, "must be given", "add it"))
                values.pop(key)
            continue
        try:
            values[key] = spec.check(raw[key])
        except BadValueError as error:
            for bad in error.all():
                value = HIDDEN if spec.secret else bad.value if bad.key else raw[key]
                problems.append(Problem("", path + _below(bad.key), value, bad.rule, bad.fix))
    return values, problems


def sentence(problem: Problem) -> str:
    """Return a problem as `name: value, rule; fix`, for programs that list problems of one dictionary."""
    return "%s: %s, %s; %s" % (problem.variable, _shown(problem.value), problem.rule, problem.fix)


def _shown(value: Any) -> str:
    text_of = value if isinstance(value, str) else written(value)
    return text_of if len(text_of) <= 80 else text_of[:77] + "..."
