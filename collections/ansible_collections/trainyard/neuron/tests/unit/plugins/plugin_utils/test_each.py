# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils import each


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


def test_a_list_that_rows_share_goes_by_its_name() -> None:
    rows = [{"name": "{unit}", "each": "all"}, {"name": "{unit}.d", "each": "all"}]
    found = each.expand(rows, {"all": [{"unit": "a"}, {"unit": "b"}]})
    assert [row["name"] for row in found] == ["a", "b", "a.d", "b.d"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("al", "each is 'al', which is none of the lists: all, few"),
        ("few", r"needs a list of dictionaries, or the name of one: \['a'\]"),
        ({"unit": "a"}, "needs a list of dictionaries"),
    ],
)
def test_what_cannot_be_repeated_for_is_refused(given: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        each.expand([{"name": "{unit}", "each": given}], {"all": [{"unit": "a"}], "few": ["a"]})
