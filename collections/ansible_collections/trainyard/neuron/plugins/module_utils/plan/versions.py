# SPDX-License-Identifier: Apache-2.0
"""Versions of Neuron's packages as numbers, and which driver and runtime library do not start together."""

from __future__ import annotations

from typing import Callable, Optional, Tuple


def version_number(text: str) -> Tuple[int, ...]:
    """Return a dotted version as numbers, `2.23.0` -> (2, 23, 0); a suffix such as `+lts` does not count."""
    numbers = []
    for part in text.split("+")[0].split("-")[0].split("."):
        digits = "".join(character for character in part if character.isdigit())
        numbers.append(int(digits) if digits else 0)
    return tuple(numbers)


#: Pairs that are known not to start, newest rule first: (applies, sentence).
_PAIR_RULES: Tuple[Tuple[Callable[[Tuple[int, ...], Tuple[int, ...]], bool], str], ...] = (
    (
        lambda driver, runtime: driver >= (2, 29) and runtime < (2, 33),
        "driver 2.29 and later needs runtime 2.33 or later, or the runtime does not start",
    ),
    (
        lambda driver, runtime: runtime >= (2, 32) and driver < (2, 27),
        "runtime 2.32 and later refuses driver 2.26 and older",
    ),
)


def pair_rule(driver: Optional[str], runtime_lib: Optional[str]) -> Optional[str]:
    """Return the rule that a driver and a runtime library break together, None when none is known."""
    if driver is None or runtime_lib is None:
        return None
    for applies, sentence in _PAIR_RULES:
        if applies(version_number(driver), version_number(runtime_lib)):
            return "%s (driver %s, runtime %s)" % (sentence, driver, runtime_lib)
    return None
