# SPDX-License-Identifier: Apache-2.0
"""How much data is with its aliases written out: nine lines of YAML can be a thousand million values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Dict


def values_of(value: Any) -> float:
    """Return how many values data has, those that it shares as often as they are named; infinite where it holds itself.

    What is shared is counted once and taken as often, so this is quick however many there are.

    Raises:
        RecursionError: it is nested deeper than Python goes.
    """
    return _count(value, {})


def _count(value: Any, known: Dict[int, float]) -> float:
    parts: Iterable[Any]
    if isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, (list, tuple)):
        parts = value
    else:
        return 1.0
    if id(value) not in known:
        # Met again before it is counted, it holds itself.
        known[id(value)] = float("inf")
        known[id(value)] = 1.0 + sum(_count(part, known) for part in parts)
    return known[id(value)]
