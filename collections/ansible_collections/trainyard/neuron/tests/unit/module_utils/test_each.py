# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils import each


def test_rows_are_repeated_and_filled_however_deep() -> None:
    rows = [
        {"name": "plain {not_touched}"},
        {
            "name": "{unit}",
            "env": {"R": ["{release}"]},
            "n": 1,
            "each": [{"unit": "a", "release": 7}, {"unit": "b", "release": 8}],
        },
        {"name": "{unit}", "each": []},
    ]
    assert each.expand(rows) == [
        {"name": "plain {not_touched}"},
        {"name": "a", "env": {"R": ["7"]}, "n": 1},
        {"name": "b", "env": {"R": ["8"]}, "n": 1},
    ]


def test_a_key_that_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match=r"'\{unt\}' cannot be filled in: no 'unt'"):
        each.fill("{unt}", {"unit": "a"})
