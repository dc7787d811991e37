# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.fan_out import fan_out
from hypothesis import given, settings
from hypothesis import strategies as st

SIZES = st.tuples(st.integers(1, 40), st.integers(0, 300))


def fleet(size: tuple[int, int]) -> tuple[list[str], list[str]]:
    names = [f"h{number}" for number in range(sum(size))]
    return names[: size[0]], names[size[0] :]


@settings(deadline=None)  # a busy machine is no fault of the function
@given(SIZES)
def test_each_host_receives_once_from_one_that_has_it(size: tuple[int, int]) -> None:
    holders, lacking = fleet(size)
    legs = fan_out(holders, lacking)
    assert sorted(legs) == sorted(lacking)
    has_since = dict.fromkeys(holders, 0) | {name: leg.round for name, leg in legs.items()}
    assert all(has_since[leg.sender] < leg.round for leg in legs.values())


@settings(deadline=None)  # a busy machine is no fault of the function
@given(SIZES)
def test_a_sender_serves_one_host_a_round_in_the_order_of_turns(size: tuple[int, int]) -> None:
    holders, lacking = fleet(size)
    served: dict[str, list[tuple[int, int]]] = {}
    for leg in fan_out(holders, lacking).values():
        served.setdefault(leg.sender, []).append((leg.round, leg.turn))
    for legs in served.values():
        rounds = [number for number, _turn in sorted(legs)]
        assert len(set(rounds)) == len(rounds)
        assert [turn for _round, turn in sorted(legs)] == list(range(len(legs)))


@settings(deadline=None)  # a busy machine is no fault of the function
@given(SIZES)
def test_rounds_grow_with_the_logarithm(size: tuple[int, int]) -> None:
    holders, lacking = fleet(size)
    rounds = max((leg.round for leg in fan_out(holders, lacking).values()), default=0)
    assert rounds == math.ceil(math.log2(sum(size) / size[0]))


def test_eight_hosts_from_one() -> None:
    legs = fan_out(["h0"], [f"h{number}" for number in range(1, 8)])
    assert [(name, leg.sender, leg.round, leg.turn) for name, leg in legs.items()] == [
        ("h1", "h0", 1, 0),
        ("h2", "h0", 2, 1),
        ("h3", "h1", 2, 0),
        ("h4", "h0", 3, 2),
        ("h5", "h1", 3, 1),
        ("h6", "h2", 3, 0),
        ("h7", "h3", 3, 0),
    ]


@pytest.mark.parametrize(("holders", "lacking"), [([], ["a"]), (["a"], ["a"]), (["a"], ["b", "b"])])
def test_what_is_no_fleet_is_refused(holders: list[str], lacking: list[str]) -> None:
    with pytest.raises(ValueError, match=r"nobody has it|named twice"):
        fan_out(holders, lacking)
