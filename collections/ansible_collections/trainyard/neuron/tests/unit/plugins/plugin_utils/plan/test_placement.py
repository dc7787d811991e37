# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.ranges import format_ranges, parse_ranges
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.topology import (
    INSTANCE_TYPES,
    table_topology,
    with_host_facts,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.placement import (
    CpuMap,
    Placement,
    Request,
    cores_of_devices,
    devices_of,
    numa_nodes,
    place,
    room_elsewhere,
    spare_slices,
)

TRN2 = table_topology("trn2.48xlarge")


def cores(placement: Placement, name: str) -> list[str]:
    return [format_ranges(piece.cores) for piece in placement.slices[name]]


def blocked(text: str, why: str = "reserved cores") -> dict[int, str]:
    return dict.fromkeys(parse_ranges(text), why)


def test_two_replicas_of_32_take_the_halves_of_the_host() -> None:
    assert cores(place(TRN2, [Request("llama", 32, 2)]), "llama") == ["0-31", "32-63"]


def test_filling_with_16_gives_four_replicas_each_on_one_numa_node() -> None:
    placement = place(TRN2, [Request("qwen", 16, "fill")])
    assert cores(placement, "qwen") == ["0-15", "16-31", "32-47", "48-63"]
    found = [numa_nodes(devices_of(TRN2, piece.cores)) for piece in placement.slices["qwen"]]
    assert found == [(1,), (0,), (0,), (1,)]


def test_the_widest_are_laid_first_so_that_narrow_ones_do_not_break_their_slices() -> None:
    placement = place(TRN2, [Request("a", 4, 3), Request("b", 32, 1), Request("c", 16, 1)])
    assert cores(placement, "b") == ["0-31"]
    assert cores(placement, "c") == ["32-47"]
    assert cores(placement, "a") == ["48-51", "52-55", "56-59"]


def test_filling_leaves_room_for_the_others_and_takes_the_rest() -> None:
    placement = place(TRN2, [Request("filler", 16, "fill"), Request("small", 2, 3)])
    assert len(placement.slices["filler"]) == 3
    assert len(placement.slices["small"]) == 3


def test_a_slice_on_one_numa_node_is_preferred_to_a_lower_one() -> None:
    inf2 = table_topology("inf2.48xlarge")
    placement = place(inf2, [Request("x", 4, 1)])
    assert cores(placement, "x") == ["12-15"]
    assert numa_nodes(devices_of(inf2, range(12, 16))) == (1,)


def test_a_quarantined_device_costs_only_the_slices_that_touch_it() -> None:
    out = dict.fromkeys(cores_of_devices(TRN2, [5]), "quarantined devices")
    assert cores(place(TRN2, [Request("x", 16, "fill")], out), "x") == ["0-15", "32-47", "48-63"]


def test_reserved_cores_are_left_for_a_spare_slice() -> None:
    assert cores(place(TRN2, [Request("x", 16, "fill")], blocked("48-63")), "x") == ["0-15", "16-31", "32-47"]


def test_slices_leave_a_device_that_healing_took_out_and_no_other_moves() -> None:
    out = cores_of_devices(TRN2, [0])
    assert cores(place(TRN2, [Request("x", 8, 4)], {}, out), "x") == ["32-39", "8-15", "16-23", "24-31"]
    two = place(TRN2, [Request("x", 8, 3), Request("y", 4, 1)], {}, cores_of_devices(TRN2, [1, 6]))
    assert cores(two, "x") == ["32-39", "8-15", "16-23"]
    assert cores(two, "y") == ["28-31"]


def test_slices_stay_on_a_device_that_healing_took_out_where_there_is_no_other() -> None:
    out = cores_of_devices(TRN2, [5])
    assert cores(place(TRN2, [Request("x", 16, 4)], {}, out), "x") == ["0-15", "16-31", "32-47", "48-63"]
    pinned = place(TRN2, [Request("x", 16, 1, tuple(range(16, 32)))], {}, out)
    assert cores(pinned, "x") == ["16-31"]


def test_room_elsewhere_is_what_a_placement_would_find() -> None:
    out = cores_of_devices(TRN2, [0])
    placed = place(TRN2, [Request("x", 8, 4)]).slices["x"]
    taken = {core for piece in placed for core in piece.cores}
    assert room_elsewhere(TRN2, placed[:1], taken, out) == [True]
    assert room_elsewhere(TRN2, placed[:1], set(range(64)) - set(range(32, 36)), out) == [False]


def test_pinned_cores_are_taken_as_they_are_and_the_others_go_around() -> None:
    placement = place(TRN2, [Request("pinned", 16, 1, tuple(range(16, 32))), Request("loose", 16, 2)])
    assert cores(placement, "pinned") == ["16-31"]
    assert cores(placement, "loose") == ["0-15", "32-47"]


@pytest.mark.parametrize(
    ("requests", "out", "said"),
    [
        ([Request("x", 32, 3)], {}, "3 x tensor_parallel_size 32 is 96 cores, the host has 64"),
        ([Request("x", 32, 2)], blocked("20"), "would overlap reserved cores (20)"),
        ([Request("a", 32, 2), Request("b", 32, 1)], {}, "would overlap a (0-63)"),
        (
            [Request("a", 32, 1, tuple(range(32))), Request("b", 16, 1, tuple(range(16, 32)))],
            {},
            "overlaps a (0-31)",
        ),
        ([Request("a", 64, 1), Request("b", 8, "fill")], {}, "no aligned slice of 8 cores is left"),
        ([Request("a", 8, "fill"), Request("b", 16, "fill")], {}, "only one deployment of a host can fill it"),
    ],
)
def test_what_has_no_room_is_refused_with_who_is_in_the_way(
    requests: list[Request], out: dict[int, str], said: str
) -> None:
    refusals = place(TRN2, requests, out).refusals
    assert any(said in refusal.rule for refusal in refusals), refusals


def test_aws_split_of_the_cpus_comes_out_with_the_proxy_reservation() -> None:
    share = CpuMap(TRN2, reserve_proxy=True).of(range(64))
    assert format_ranges(share.cpus) == "0-39,48-87,96-135,144-183"
    assert format_ranges(share.proxy_cpus) == "40-47,88-95,136-143,184-191"


def test_a_replica_gets_its_share_of_its_nodes_with_hyper_threads_together() -> None:
    cpu_map = CpuMap(TRN2)
    assert format_ranges(cpu_map.of(range(16)).cpus) == "48-71,144-167"
    assert format_ranges(cpu_map.of(range(16, 32)).cpus) == "0-23,96-119"
    assert format_ranges(cpu_map.of(range(32)).cpus) == "0-23,48-71,96-119,144-167"
    first = cpu_map.of(range(2)).cpus
    assert {cpu + 96 if cpu < 96 else cpu - 96 for cpu in first} == set(first)


@pytest.mark.parametrize("kind", sorted(set(INSTANCE_TYPES) - {"trn2.3xlarge"}))
@pytest.mark.parametrize("proxy", [False, True])
def test_shares_of_single_cores_are_disjoint_and_never_empty(kind: str, proxy: bool) -> None:
    topology = table_topology(kind)
    cpu_map = CpuMap(topology, proxy)
    shares = [cpu_map.of([core]) for core in topology.cores]
    taken = [cpu for share in shares for cpu in share.cpus]
    assert all(share.cpus for share in shares)
    assert len(taken) == len(set(taken))
    assert not set(taken) & {cpu for share in shares for cpu in share.proxy_cpus}


def test_a_host_with_fewer_cpus_than_the_table_shares_what_it_has() -> None:
    small = with_host_facts(TRN2, {"online_cpus": "0-1"})
    cpu_map = CpuMap(small)
    assert cpu_map.of(range(32)).cpus == (0,)
    assert cpu_map.of(range(32, 64)).cpus == (1,)


def test_a_size_without_published_cpus_pins_nothing() -> None:
    assert CpuMap(table_topology("trn2.3xlarge")).of(range(4)).cpus == ()


def spares(requests: list[Request], taken: str) -> dict[str, str]:
    found = spare_slices(TRN2, requests, parse_ranges(taken))
    return {name: format_ranges(piece.cores) for name, piece in found.items()}


def test_a_spare_is_one_more_aligned_slice_and_no_two_share_a_core() -> None:
    assert spares([Request("x", 16, 3)], "0-47") == {"x": "48-63"}
    assert spares([Request("x", 16, 3)], "0-51") == {}
    assert spares([Request("x", 32, 1), Request("y", 16, 1)], "0-15") == {"x": "32-63", "y": "16-31"}
    assert spares([Request("x", 32, 1), Request("y", 16, 1)], "0-31") == {"x": "32-63"}


def test_what_is_pinned_to_its_cores_has_no_spare() -> None:
    assert spares([Request("x", 16, 1, tuple(range(16)))], "0-15") == {}
