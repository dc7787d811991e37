# SPDX-License-Identifier: Apache-2.0
"""Lists of CPUs and cores as Linux and Neuron write them: `0-3,8,10-11`."""

from __future__ import annotations

import re
from typing import Iterable, List, Set, Tuple

_PART = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")


def parse_ranges(text: str) -> Tuple[int, ...]:
    """Return the numbers that a range list names, ascending and once each.

    Raises:
        ValueError: a part is neither a number nor an ascending range.
    """
    found: Set[int] = set()
    for part in str(text).replace(" ", "").split(","):
        if not part:
            continue
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError("%r is neither a number nor a range such as 0-31" % part)
        first = int(match.group(1))
        last = first if match.group(2) is None else int(match.group(2))
        if last < first:
            raise ValueError("%r runs backwards" % part)
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def format_ranges(numbers: Iterable[int]) -> str:
    """Return the shortest range list of some numbers; the inverse of `parse_ranges`."""
    return ",".join("%d" % first if first == last else "%d-%d" % (first, last) for first, last in runs(numbers))


def runs(numbers: Iterable[int]) -> List[Tuple[int, int]]:
    """Return the contiguous runs of some numbers as (first, last), ascending."""
    found: List[Tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found
