# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.aliases import values_of


def shared(levels: int) -> Any:
    value: Any = "lol"
    for _ in range(levels):
        value = [value] * 9
    return value


@pytest.mark.parametrize(
    ("value", "count"),
    [("x", 1), ({}, 1), ([], 1), ({"a": 1, "b": [2, 3]}, 5), (shared(1), 10), (shared(2), 91), (({"a": ()},), 3)],
)
def test_values_are_counted_as_they_would_be_written_out(value: Any, count: float) -> None:
    assert values_of(value) == count


def test_what_is_shared_is_counted_at_once_however_often_it_is_named() -> None:
    assert values_of(shared(60)) > 9**60
    itself: list[Any] = []
    itself.append({"a": itself})
    assert values_of(itself) == float("inf")
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(RecursionError):
        values_of(deep)
