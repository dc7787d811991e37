# SPDX-License-Identifier: Apache-2.0
"""Rows of a list of wants that stand for several: ``each`` a list or its name, ``{key}`` a value of an element."""

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


def elements_of(row: Mapping[str, Any], lists: Mapping[str, Any]) -> Sequence[Optional[Mapping[str, Any]]]:
    """What a row is repeated for: None alone where it stands for itself.

    Args:
        row: its ``each`` is a list of dictionaries, or the name of one of ``lists``.
        lists: lists that several rows share.

    Raises:
        ValueError: there is no list of that name, or it is no list of dictionaries.
    """
    given = row.get("each")
    if given is None:
        return [None]
    if isinstance(given, str):
        if given not in lists:
            raise ValueError(
                "each is {0!r}, which is none of the lists: {1}".format(given, ", ".join(lists) or "there is none")
            )
        given = lists[given]
    if not isinstance(given, list) or not all(isinstance(element, dict) for element in given):
        raise ValueError("each needs a list of dictionaries, or the name of one: {0!r}".format(given))
    return given


def expand(rows: Sequence[Mapping[str, Any]], lists: Optional[Mapping[str, Any]] = None) -> List[Dict[str, Any]]:
    """Each row once, or once for every element of its ``each``, which is then gone.

    Raises:
        ValueError: as `elements_of` and `fill` do.
    """
    made: List[Dict[str, Any]] = []
    for row in rows:
        rest = {key: value for key, value in row.items() if key != "each"}
        made.extend(fill(rest, element) for element in elements_of(row, lists or {}))
    return made
