# SPDX-License-Identifier: Apache-2.0
"""Rows of a list of wants that stand for several: ``each: [...]`` with ``{key}`` where an element's value goes."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence


def fill(value: Any, element: Optional[Mapping[str, Any]]) -> Any:
    """``value`` with ``{key}`` replaced in every string in it, however deep; unchanged without an element.

    Raises:
        ValueError: a key that the element does not have, or braces that do not match.
    """
    if element is None:
        return value
    if isinstance(value, str):
        try:
            return value.format_map(element)
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError("{0!r} cannot be filled in: no {1} in the element".format(value, error)) from error
    if isinstance(value, dict):
        return {key: fill(inner, element) for key, inner in value.items()}
    if isinstance(value, list):
        return [fill(inner, element) for inner in value]
    return value


def expand(rows: Sequence[Mapping[str, Any]]) -> List[Dict[str, Any]]:
    """Each row once, or once for every element of its ``each``, which is then gone."""
    made: List[Dict[str, Any]] = []
    for row in rows:
        rest = {key: value for key, value in row.items() if key != "each"}
        elements: Sequence[Optional[Mapping[str, Any]]] = [None] if row.get("each") is None else row["each"]
        made.extend(fill(rest, element) for element in elements)
    return made
