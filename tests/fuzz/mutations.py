# SPDX-License-Identifier: Apache-2.0
"""What a file of a user or a program's output can become: valid inputs, and mutations of them."""

from __future__ import annotations

import copy
import datetime
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

#: Values that somebody's YAML, JSON or template gives where another kind was meant.
STRANGE: tuple[Callable[[random.Random], Any], ...] = (
    lambda _: None,
    lambda rng: rng.random() < 0.5,
    lambda rng: rng.choice([0, 1, -1, -4, -5, 5, 80, 2**31, 2**63, 10**400, -(10**30)]),
    lambda rng: rng.choice([float("nan"), float("inf"), float("-inf"), 1e308, 1e-300, 1e-17, -0.5, 0.5, 2.5]),
    lambda rng: rng.choice(
        ["", " ", "many", "5", "-4", "1e9", "²", "٣", "\x00", "a\nb", "{{ x }}", "%s", "no", "x" * 3000]
    ),
    lambda rng: rng.choice([[], {}, [1, 2], [[]], {"a": 1}, {1: 2}, {None: 1}, ["a", 1, None], {"a": {"b": {"c": 1}}}]),
    lambda rng: nested(rng.choice([3, 40, 90])),
    lambda _: datetime.date(2026, 11, 30),
    lambda rng: multiplied(rng.choice([2, 6])),
)


def nested(depth: int) -> Any:
    """A list in a list, so often."""
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def multiplied(levels: int) -> Any:
    """What aliases of YAML make: nine times the same, in each level."""
    value: Any = "lol"
    for _ in range(levels):
        value = [value] * 9
    return value


def near(word: str, rng: random.Random) -> str:
    """A word as fingers write it."""
    if not word:
        return "x"
    at = rng.randrange(len(word))
    return rng.choice(
        [
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[:-1],
            word.replace("_", "-"),
            word.upper(),
            "--" + word,
            word + "s",
            word[:at] + "x" + word[at + 1 :],
        ]
    )


#: Of what is written as JSON.
MOST_NODES = 20_000
MOST_DEPTH = 200


def mutate(value: Any, rng: random.Random) -> Any:
    """One mutation somewhere in a value, which is changed in place where it can be."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        way = rng.random()
        if way < 0.5:
            value[key] = mutate(value[key], rng)
        elif way < 0.6:
            del value[key]
        elif way < 0.75:
            value[near(str(key), rng)] = value.pop(key) if rng.random() < 0.5 else value[key]
        elif way < 0.8:
            value[rng.choice([1, None, True, 2.5, (1, 2)])] = value[key]
        else:
            value[key] = strange(rng)
        return value
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        way = rng.random()
        if way < 0.6:
            value[at] = mutate(value[at], rng)
        elif way < 0.75:
            del value[at]
        elif way < 0.9:
            value.append(copy.deepcopy(value[at]))
        else:
            value[at] = strange(rng)
        return value
    if isinstance(value, str) and rng.random() < 0.4:
        return near(value, rng)
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.4:
        small = -(2**60) < value < 2**60
        return rng.choice([value + 1, -value, value * 1000, str(value), *([float(value), value / 3] if small else [])])
    return strange(rng)


def strange(rng: random.Random) -> Any:
    return rng.choice(STRANGE)(rng)


@st.composite
def mutated(draw: Any, examples: Sequence[Any]) -> Any:
    """One of some valid inputs with none to six mutations."""
    rng = random.Random(draw(st.integers(0, 2**63)))  # noqa: S311 - reproducible, not secret
    value = copy.deepcopy(rng.choice(examples))
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3, 6])):
        value = mutate(value, rng)
    return value


def cut(text: str, rng: random.Random) -> str:
    """One mutation of a text: cut off, a piece twice, lost or replaced, a number that is too large."""
    at, to = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
    return rng.choice(
        [
            lambda: text[:at],
            lambda: text[at:],
            lambda: text[:at] + text[to:],
            lambda: text[:to] + text[at:],
            lambda: text[:at] + "\x00" + text[at:],
            lambda: text[:at] + rng.choice(["é", "\u2028", "²", '"', "\\", "{", "]", ",", " ", "\t", "\r"]) + text[at:],
            lambda: (
                text[:at] + rng.choice(["9" * 400, "NaN", "Infinity", "-1", "1e999", "null", "[" * 3000]) + text[to:]
            ),
            lambda: text.replace("\n", "\r\n"),
            lambda: text + text[at:to] * 20,
            lambda: "\n".join(reversed(text.split("\n"))),
        ]
    )()


@st.composite
def mutated_text(draw: Any, examples: Sequence[str]) -> str:
    """One of some texts with none to four mutations."""
    rng = random.Random(draw(st.integers(0, 2**63)))  # noqa: S311 - reproducible, not secret
    text = rng.choice(examples)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 4])):
        text = cut(text, rng)
    return text


@st.composite
def mutated_json(draw: Any, examples: Sequence[Any]) -> str:
    """The text of JSON that is mutated as data, as text, or as both."""
    rng = random.Random(draw(st.integers(0, 2**63)))  # noqa: S311 - reproducible, not secret
    value = copy.deepcopy(rng.choice(examples))
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        value = mutate(value, rng)
    text = json.dumps(as_json(value), indent=rng.choice([None, 1]), default=str)
    return cut(text, rng) if rng.random() < 0.4 else text


def as_json(value: Any, depth: int = 0, left: list[int] | None = None) -> Any:
    """Data with keys that JSON can write, and no more of it than a file may hold: JSON has no aliases that multiply."""
    left = [MOST_NODES] if left is None else left
    left[0] -= 1
    if left[0] < 0 or depth > MOST_DEPTH:
        return None
    if isinstance(value, dict):
        return {str(key): as_json(item, depth + 1, left) for key, item in value.items()}
    return [as_json(item, depth + 1, left) for item in value] if isinstance(value, list) else value
