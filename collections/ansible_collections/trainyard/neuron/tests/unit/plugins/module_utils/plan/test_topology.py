# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.ranges import format_ranges, parse_ranges
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.topology import (
    GIB,
    INSTANCE_TYPES,
    Topology,
    TopologyError,
    parse_topology,
    table_topology,
    with_host_facts,
)

# instance type, LNC -> devices, logical cores, GiB of device memory per core
TABLE = [
    ("trn2.48xlarge", 2, 16, 64, 24),
    ("trn2.48xlarge", 1, 16, 128, 12),
    ("trn2u.48xlarge", 2, 16, 64, 24),
    ("trn2.3xlarge", 2, 1, 4, 24),
    ("trn2.3xlarge", 1, 1, 8, 12),
    ("trn1.2xlarge", 1, 1, 2, 16),
    ("trn1.32xlarge", 1, 16, 32, 16),
    ("trn1n.32xlarge", 1, 16, 32, 16),
    ("inf2.xlarge", 1, 1, 2, 16),
    ("inf2.8xlarge", 1, 1, 2, 16),
    ("inf2.24xlarge", 1, 6, 12, 16),
    ("inf2.48xlarge", 1, 12, 24, 16),
]


@pytest.mark.parametrize(("kind", "lnc", "devices", "cores", "gib"), TABLE)
def test_every_instance_type_has_its_devices_cores_and_memory(
    kind: str, lnc: int, devices: int, cores: int, gib: int
) -> None:
    topology = table_topology(kind, lnc)
    assert len(topology.devices) == devices
    assert topology.cores == tuple(range(cores))
    assert topology.hbm_bytes_per_core == gib * GIB


def test_the_table_above_has_every_instance_type() -> None:
    assert {row[0] for row in TABLE} == set(INSTANCE_TYPES)


def test_lnc_defaults_to_the_familys() -> None:
    assert table_topology("trn2.48xlarge").logical_nc_config == 2
    assert table_topology("trn1.32xlarge").logical_nc_config == 1


@pytest.mark.parametrize(("kind", "lnc"), [("trn2.48xlarge", 8), ("trn1.32xlarge", 2), ("inf2.xlarge", 2)])
def test_other_logical_core_sizes_are_refused(kind: str, lnc: int) -> None:
    with pytest.raises(TopologyError) as caught:
        table_topology(kind, lnc)
    assert caught.value.about == "logical_nc_config"


def nodes(topology: Topology) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for device in topology.devices:
        found.setdefault(device.numa_node, []).append(device.index)
    return found


def test_numa_nodes_are_those_that_aws_prints() -> None:
    assert nodes(table_topology("trn2.48xlarge")) == {1: [0, 1, 2, 3, 12, 13, 14, 15], 0: [4, 5, 6, 7, 8, 9, 10, 11]}
    assert nodes(table_topology("trn1.32xlarge")) == {
        0: [0, 1, 4, 5, 8, 9, 12, 13],
        1: [2, 3, 6, 7, 10, 11, 14, 15],
    }
    assert nodes(table_topology("inf2.48xlarge")) == {2: [0, 2, 4], 3: [1, 3, 5], 1: [6, 7, 11], 0: [8, 9, 10]}
    assert nodes(table_topology("inf2.xlarge")) == {-1: [0]}


@pytest.mark.parametrize("kind", sorted(INSTANCE_TYPES))
def test_links_go_both_ways_and_every_cpu_belongs_to_one_node(kind: str) -> None:
    topology = table_topology(kind)
    by_index = {device.index: device for device in topology.devices}
    owners: dict[int, int] = {}
    for device in topology.devices:
        assert all(device.index in by_index[other].connected_to for other in device.connected_to)
        assert all(owners.setdefault(cpu, device.numa_node) == device.numa_node for cpu in device.cpus)
    if topology.cpu_count is not None:
        assert sorted(owners) == list(range(topology.cpu_count))


def test_torus_neighbours_are_those_of_neuron_ls() -> None:
    by_index = {device.index: device.connected_to for device in table_topology("trn2.48xlarge").devices}
    assert by_index[0] == (12, 3, 4, 1)
    assert by_index[5] == (1, 4, 9, 6)
    assert by_index[15] == (11, 14, 3, 12)


def neuron_ls(kind: str = "trn2.48xlarge", lnc: int = 2, old: bool = False, **changes: Any) -> list[dict[str, Any]]:
    """Return what the tools print: since 2.25 with nodes, CPUs and core ids, before without."""
    rows = []
    for device in table_topology(kind, lnc).devices:
        row: dict[str, Any] = {
            "neuron_device": device.index,
            "bdf": "cc:00.0",
            "connected_to": list(device.connected_to),
            "nc_count": len(device.cores),
            "memory_size": device.memory_bytes,
            "neuron_processes": [],
        }
        if kind.startswith("trn2"):
            row["logical_neuroncore_config"] = lnc
        if not old:
            row["numa_node"] = str(device.numa_node)
            row["cpu_affinity"] = format_ranges(device.cpus)
            row["neuroncore_ids"] = list(device.cores)
        rows.append({**row, **changes})
    return rows


@pytest.mark.parametrize("kind", ["trn2.48xlarge", "trn2.3xlarge", "trn1.32xlarge", "inf2.48xlarge", "inf2.xlarge"])
@pytest.mark.parametrize("old", [False, True])
def test_what_a_host_prints_agrees_with_the_table(kind: str, old: bool) -> None:
    topology = parse_topology(neuron_ls(kind, table_topology(kind).logical_nc_config, old), kind)
    assert topology.devices == table_topology(kind).devices
    assert topology.source == "host"
    assert topology.disagreements == ()


@pytest.mark.parametrize("kind", sorted(INSTANCE_TYPES))
def test_the_modules_own_shape_reads_back(kind: str) -> None:
    topology = parse_topology(neuron_ls(kind, table_topology(kind).logical_nc_config), kind)
    assert parse_topology(topology.to_dict()) == topology


def test_a_type_that_nobody_gave_is_told_by_the_devices() -> None:
    assert parse_topology(neuron_ls("inf2.24xlarge", 1)).instance_type == "inf2.24xlarge"
    assert parse_topology(neuron_ls("trn2.3xlarge", 2)).instance_type == "trn2.3xlarge"


def test_the_host_wins_and_every_difference_is_told() -> None:
    raw = neuron_ls()
    raw[2]["numa_node"] = "0"
    raw[3]["cpu_affinity"] = "0-95"
    raw[4]["connected_to"] = [5]
    topology = parse_topology(raw, "trn2.48xlarge")
    assert topology.devices[2].numa_node == 0
    told = " / ".join(topology.disagreements)
    assert "NUMA node of device 2" in told
    assert "CPUs of device 3" in told
    assert "links of device 4" in told


def test_a_device_that_is_gone_is_told() -> None:
    topology = parse_topology([row for row in neuron_ls() if row["neuron_device"] != 5], "trn2.48xlarge")
    assert topology.core_count == 60
    assert 20 not in topology.cores
    assert "15 devices" in topology.disagreements[0]


def test_the_plan_may_count_cores_otherwise_than_the_host() -> None:
    topology = parse_topology(neuron_ls(lnc=2), "trn2.48xlarge", logical_nc_config=1)
    assert topology.core_count == 128
    assert topology.devices[1].cores == tuple(range(8, 16))
    assert "LNC 2" in topology.disagreements[0]


def test_tools_that_print_physical_cores_are_understood() -> None:
    raw = neuron_ls(old=True)
    for row in raw:
        row["nc_count"] = 8
    assert parse_topology(raw, "trn2.48xlarge").cores == tuple(range(64))


@pytest.mark.parametrize(
    "raw", ["text", 7, [], [{}], [{"neuron_device": "x"}], {"devices": [{}], "logical_nc_config": 2}]
)
def test_what_is_no_topology_is_refused(raw: Any) -> None:
    with pytest.raises(TopologyError) as caught:
        parse_topology(raw)
    assert caught.value.about == "report"


def test_a_host_without_tools_still_tells_its_cpus() -> None:
    topology = with_host_facts(table_topology("trn2.48xlarge"), {"online_cpus": "0-1", "memory_bytes": 8 * GIB})
    assert topology.online_cpus == (0, 1)
    assert topology.memory_bytes == 8 * GIB
    assert topology.core_count == 64


@pytest.mark.parametrize("text", ["0", "0-31", "0-3,8,10-11", ""])
def test_ranges_read_back(text: str) -> None:
    assert format_ranges(parse_ranges(text)) == text


@pytest.mark.parametrize("text", ["a", "3-1", "1-", "-1", "1--2", "0x3"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"range|backwards"):
        parse_ranges(text)


@pytest.mark.parametrize("wrong", [{"instance_type": ["trn2"]}, {"online_cpus": "many"}, {"cpu_count": "x"}])
def test_a_report_of_a_host_that_is_spoilt_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TopologyError):
        parse_topology({**table_topology("trn2.48xlarge").to_dict(), **wrong})
