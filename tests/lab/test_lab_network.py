# SPDX-License-Identifier: Apache-2.0
"""A lab's addresses are nobody else's."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainyard.lab import network
from trainyard.lab.errors import LabError


def test_the_same_lab_takes_the_same_subnet_when_it_is_free() -> None:
    assert network.choose([], "a-lab") == network.choose([], "a-lab")
    assert network.choose([], "a-lab") != network.choose([], "another-lab")


@given(taken=st.lists(st.integers(0, 2**13 - 1), max_size=40), width=st.integers(16, 30))
def test_a_chosen_subnet_overlaps_nothing(taken: list[int], width: int) -> None:
    first = int(network.POOL.network_address)
    used = [IPv4Network((first + number * 256, width), strict=False) for number in taken]
    if any(network.POOL.subnet_of(one) for one in used):
        return
    chosen = network.choose(used, "lab")
    assert chosen.subnet_of(network.POOL)
    assert chosen.prefixlen == 24
    assert not any(chosen.overlaps(one) for one in used)


def test_a_full_pool_is_an_error_of_one_line() -> None:
    with pytest.raises(LabError, match=r"every subnet of 10\.192\.0\.0/11 is in use"):
        network.choose([IPv4Network("10.0.0.0/8")], "lab")


def test_routes_are_read_and_the_default_route_is_none() -> None:
    routes = [{"dst": "default"}, {"dst": "10.88.0.0/16"}, {"dst": "192.168.1.7"}]
    assert list(network.routed(routes)) == [IPv4Network("10.88.0.0/16"), IPv4Network("192.168.1.7/32")]


def test_a_shared_mount_is_recognised() -> None:
    shared = "42 27 254:0 /run/netns /run/netns rw,relatime shared:1 - ext4 /dev/vda rw\n"
    private = "42 27 254:0 /run/netns /run/netns rw,relatime - ext4 /dev/vda rw\n"
    assert network._is_shared(shared, "/run/netns")
    assert not network._is_shared(private, "/run/netns")
    assert not network._is_shared(shared, "/run")
