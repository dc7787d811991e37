# SPDX-License-Identifier: Apache-2.0
"""What a Neuron host is made of: devices, logical cores, memory, NUMA nodes, CPUs, links.

Two sources give one shape: a table, for planning with no host at hand, and `neuron-ls --json-output` of a host, which
wins. The table's layouts are those that AWS prints in the Neuron runtime's performance guide (trn1.32xlarge,
inf2.48xlarge, trn2.48xlarge) and in the hardware pages (counts and sizes); sizes that have no published NUMA layout
carry node -1, as `neuron-ls` itself says for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.ranges import format_ranges, parse_ranges

GIB = 1 << 30

#: `neuron-ls` says this where the kernel knows no node, as on the single-device sizes.
NO_NUMA_NODE = -1


#: No host has more bytes or cores than that.
_MOST = 1 << 50


class TopologyError(ValueError):
    """A topology cannot be read, or does not exist.

    Attributes:
        about: what is wrong: `instance_type`, `logical_nc_config`, or `report` for what the host said.
    """

    def __init__(self, about: str, message: str) -> None:
        super().__init__(message)
        self.about = about


@dataclass(frozen=True)
class Family:
    """What all instance types of one accelerator share.

    Attributes:
        physical_cores: NeuronCores of a device.
        device_bytes: HBM of a device.
        lnc_choices: legal logical NeuronCore sizes, the default first.
        legal_tensor_parallel: degrees that the runtime's collectives support, at the default LNC.
    """

    name: str
    physical_cores: int
    device_bytes: int
    lnc_choices: Tuple[int, ...]
    legal_tensor_parallel: Tuple[int, ...]


#: Sources: the NxD Inference API guide (`tp_degree`), the LNC page (only 1 and 2), the hardware pages.
FAMILIES = {
    "trn1": Family("trn1", 2, 32 * GIB, (1,), (1, 2, 8, 16, 32)),
    "inf2": Family("inf2", 2, 32 * GIB, (1,), (1, 2, 4, 8, 24)),
    "trn2": Family("trn2", 8, 96 * GIB, (2, 1), (1, 2, 4, 8, 16, 32, 64)),
}


@dataclass(frozen=True)
class Device:
    """One Neuron device; `cores` are logical core ids as `neuron-ls` counts them at the host's LNC."""

    index: int
    cores: Tuple[int, ...]
    memory_bytes: int
    numa_node: int = NO_NUMA_NODE
    cpus: Tuple[int, ...] = ()
    connected_to: Tuple[int, ...] = ()


@dataclass(frozen=True)
class Topology:
    """A host's devices at one LNC.

    Attributes:
        source: `table` or `host`.
        cpu_count: vCPUs of the instance, None where nobody published it.
        memory_bytes: host memory, None where nobody published it.
        online_cpus: CPUs that the host really has, None for the table.
        disagreements: sentences about what the host and the table say differently.
    """

    instance_type: str
    family: str
    logical_nc_config: int
    devices: Tuple[Device, ...]
    cpu_count: Optional[int] = None
    memory_bytes: Optional[int] = None
    source: str = "table"
    online_cpus: Optional[Tuple[int, ...]] = None
    disagreements: Tuple[str, ...] = field(default=(), compare=False)

    @property
    def core_count(self) -> int:
        """Logical cores of the host."""
        return sum(len(device.cores) for device in self.devices)

    @property
    def cores(self) -> Tuple[int, ...]:
        """Logical core ids of the host, ascending."""
        return tuple(sorted(core for device in self.devices for core in device.cores))

    @property
    def hbm_bytes_per_core(self) -> int:
        """Device memory that one logical core may fill; at LNC 1 on trn2 two cores share a bank, half each."""
        device = self.devices[0]
        return device.memory_bytes // len(device.cores)

    @property
    def legal_tensor_parallel(self) -> Tuple[int, ...]:
        """Degrees that this host can run: the family's, as far as its cores go."""
        return tuple(degree for degree in FAMILIES[self.family].legal_tensor_parallel if degree <= self.core_count)

    def to_dict(self) -> Dict[str, Any]:
        """Return the JSON-ready shape that `trainyard.neuron.topology_info` gives and `parse_topology` reads."""
        return {
            "instance_type": self.instance_type,
            "family": self.family,
            "logical_nc_config": self.logical_nc_config,
            "source": self.source,
            "core_count": self.core_count,
            "hbm_bytes_per_core": self.hbm_bytes_per_core,
            "cpu_count": self.cpu_count,
            "memory_bytes": self.memory_bytes,
            "online_cpus": None if self.online_cpus is None else format_ranges(self.online_cpus),
            "devices": [
                {
                    "index": device.index,
                    "cores": list(device.cores),
                    "memory_bytes": device.memory_bytes,
                    "numa_node": device.numa_node,
                    "cpus": format_ranges(device.cpus),
                    "connected_to": list(device.connected_to),
                }
                for device in self.devices
            ],
            "disagreements": list(self.disagreements),
        }


@dataclass(frozen=True)
class _Row:
    """One instance type of the table; `numa_nodes` has a node for each device, `node_cpus` the CPUs of each node."""

    family: str
    devices: int
    cpu_count: Optional[int]
    memory_gib: Optional[int]
    links: str = "none"
    numa_nodes: Tuple[int, ...] = ()
    node_cpus: Tuple[str, ...] = ()


_TRN2_48XL = _Row("trn2", 16, 192, 2048, "torus", (1,) * 4 + (0,) * 8 + (1,) * 4, ("0-47,96-143", "48-95,144-191"))
_TRN1_32XL = _Row("trn1", 16, 128, 512, "torus", (0, 0, 1, 1) * 4, ("0-31,64-95", "32-63,96-127"))

#: trn2.3xlarge: the EC2 API lists it, no Neuron page tells its CPUs and memory.
INSTANCE_TYPES: Mapping[str, _Row] = {
    "trn2.48xlarge": _TRN2_48XL,
    "trn2u.48xlarge": _TRN2_48XL,
    "trn2.3xlarge": _Row("trn2", 1, None, None),
    "trn1.2xlarge": _Row("trn1", 1, 8, 32),
    "trn1.32xlarge": _TRN1_32XL,
    "trn1n.32xlarge": _TRN1_32XL,
    "inf2.xlarge": _Row("inf2", 1, 4, 16),
    "inf2.8xlarge": _Row("inf2", 1, 32, 128),
    "inf2.24xlarge": _Row("inf2", 6, 96, 384, "ring"),
    "inf2.48xlarge": _Row(
        "inf2",
        12,
        192,
        768,
        "ring",
        (2, 3, 2, 3, 2, 3, 1, 1, 0, 0, 0, 1),
        ("0-23,96-119", "24-47,120-143", "48-71,144-167", "72-95,168-191"),
    ),
}

_TORUS_SIDE = 4


def torus_neighbours(index: int) -> Tuple[int, ...]:
    """Return the neighbours of a device in the 4 x 4 torus of 16 devices: up, left, down, right with wrap-around."""
    row, column = divmod(index, _TORUS_SIDE)
    around = [(row - 1, column), (row, column - 1), (row + 1, column), (row, column + 1)]
    return tuple((r % _TORUS_SIDE) * _TORUS_SIDE + c % _TORUS_SIDE for r, c in around)


def _neighbours(row: _Row, index: int) -> Tuple[int, ...]:
    if row.links == "torus":
        return torus_neighbours(index)
    if row.links == "ring":
        return ((index - 1) % row.devices, (index + 1) % row.devices)
    return ()


def default_lnc(instance_type: str) -> int:
    """Return the LNC that a host of this type has when nobody set one.

    Raises:
        TopologyError: the table has no such instance type.
    """
    return FAMILIES[_row(instance_type).family].lnc_choices[0]


def _row(instance_type: str) -> _Row:
    try:
        return INSTANCE_TYPES[instance_type]
    except KeyError:
        raise TopologyError("instance_type", "must be one of %s" % ", ".join(INSTANCE_TYPES)) from None


@lru_cache(maxsize=64)
def table_topology(instance_type: str, logical_nc_config: Optional[int] = None) -> Topology:
    """Return the topology of an instance type, by default at its family's LNC.

    Raises:
        TopologyError: the table has no such instance type, or its family no such LNC.
    """
    row = _row(instance_type)
    family = FAMILIES[row.family]
    lnc = family.lnc_choices[0] if logical_nc_config is None else logical_nc_config
    per_device = cores_per_device(family, lnc)
    every_cpu = () if row.cpu_count is None else tuple(range(row.cpu_count))
    devices = []
    for index in range(row.devices):
        node = row.numa_nodes[index] if row.numa_nodes else NO_NUMA_NODE
        cpus = parse_ranges(row.node_cpus[node]) if row.node_cpus else every_cpu
        cores = tuple(range(index * per_device, (index + 1) * per_device))
        devices.append(Device(index, cores, family.device_bytes, node, cpus, _neighbours(row, index)))
    memory = None if row.memory_gib is None else row.memory_gib * GIB
    return Topology(instance_type, row.family, lnc, tuple(devices), row.cpu_count, memory)


def cores_per_device(family: Family, lnc: int) -> int:
    """Return the logical cores of a device.

    Raises:
        TopologyError: the family has no such LNC.
    """
    if lnc not in family.lnc_choices:
        legal = " and ".join(str(choice) for choice in sorted(family.lnc_choices))
        raise TopologyError("logical_nc_config", "%s has logical NeuronCores of size %s only" % (family.name, legal))
    return family.physical_cores // lnc


def with_host_facts(topology: Topology, facts: Any) -> Topology:
    """Return the topology with what a host said of its CPUs and memory, which it can before the SDK is installed.

    Args:
        topology: from the table.
        facts: a mapping with any of `cpu_count`, `memory_bytes` and `online_cpus` (a range list).
    """
    known = facts if isinstance(facts, Mapping) else {}
    online = known.get("online_cpus")
    try:
        return replace(
            topology,
            cpu_count=_count(known.get("cpu_count")) or topology.cpu_count,
            memory_bytes=_count(known.get("memory_bytes")) or topology.memory_bytes,
            online_cpus=parse_ranges(online) if online else None,
        )
    except (TypeError, ValueError) as error:
        raise TopologyError("report", "CPUs and memory of the host cannot be read: %s" % error) from error


def _count(value: Any) -> Optional[int]:
    """Return a number of things that there are, None where nothing was said."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST:
        raise ValueError("%.40r is no count" % (value,))
    return value


def _counted(value: Any, least: int = 0) -> int:
    """Return a number as neuron-ls writes it, as a number or as its digits."""
    found = int(value)
    if not least <= found <= _MOST:
        raise ValueError("%.40r is no count" % (value,))
    return found


def parse_topology(raw: Any, instance_type: Optional[str] = None, logical_nc_config: Optional[int] = None) -> Topology:
    """Read what a host said of itself.

    Args:
        raw: the array of `neuron-ls --json-output` (of tools before or after 2.25), or the shape of `Topology.to_dict`.
        instance_type: what it is known to be; without it the nearest type of the table is taken.
        logical_nc_config: the LNC to plan at; without it the host's own.

    Returns:
        The topology, with a sentence for each disagreement with the table.

    Raises:
        TopologyError: it is neither shape, or describes no device.
    """
    if isinstance(raw, Mapping) and "devices" in raw:
        entries = _own_entries(raw)
        instance_type = instance_type or raw.get("instance_type")
        reported = raw.get("logical_nc_config")
    elif isinstance(raw, Sequence) and not isinstance(raw, (str, bytes)):
        entries = [_neuron_ls_entry(entry) for entry in raw]
        reported = next((entry["lnc"] for entry in entries if entry["lnc"]), None)
    else:
        raise TopologyError("report", "neither the array of neuron-ls --json-output nor the shape of topology_info")
    if not entries:
        raise TopologyError("report", "it describes no Neuron device")
    if instance_type is not None and not isinstance(instance_type, str):
        raise TopologyError("report", "its instance_type is %.40r" % (instance_type,))
    try:
        reported = _counted(reported or 0)
    except (TypeError, ValueError, OverflowError) as error:
        raise TopologyError("report", "its logical_nc_config cannot be read: %s" % error) from error
    entries.sort(key=lambda entry: int(entry["index"]))
    family = _family(entries, instance_type)
    found_lnc = int(reported or _counted_lnc(family, entries))
    lnc = logical_nc_config or found_lnc
    known_type = _known_type(family, len(entries), instance_type)
    table = table_topology(known_type, lnc)
    topology = with_host_facts(
        replace(table, devices=_devices(entries, family, lnc, found_lnc, known_type), source="host"), raw
    )
    return replace(topology, disagreements=_disagreements(topology, table, found_lnc))


def _neuron_ls_entry(raw: Any) -> Dict[str, Any]:
    """Return one device of `neuron-ls`, where older tools leave out nodes, CPUs and core ids."""
    try:
        return {
            "index": _counted(raw["neuron_device"]),
            "nc_count": _counted(raw["nc_count"]),
            "memory_bytes": _counted(raw["memory_size"]),
            "lnc": _counted(raw.get("logical_neuroncore_config") or 0),
            "numa_node": None if raw.get("numa_node") in (None, "") else _counted(raw["numa_node"], NO_NUMA_NODE),
            "cpus": None if raw.get("cpu_affinity") in (None, "") else parse_ranges(raw["cpu_affinity"]),
            "cores": tuple(_counted(core) for core in raw.get("neuroncore_ids") or ()),
            "connected_to": tuple(_counted(other) for other in raw.get("connected_to") or ()),
        }
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise TopologyError("report", "no device of neuron-ls: %s: %s" % (type(error).__name__, error)) from error


def _own_entries(raw: Mapping[str, Any]) -> List[Dict[str, Any]]:
    try:
        return [
            {
                "index": _counted(device["index"]),
                "nc_count": len(device["cores"]),
                "memory_bytes": _counted(device["memory_bytes"]),
                "lnc": _counted(raw["logical_nc_config"]),
                "numa_node": _counted(device["numa_node"], NO_NUMA_NODE),
                "cpus": parse_ranges(device["cpus"]),
                "cores": tuple(_counted(core) for core in device["cores"]),
                "connected_to": tuple(_counted(other) for other in device["connected_to"]),
            }
            for device in raw["devices"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise TopologyError("report", "no topology of topology_info: %s: %s" % (type(error).__name__, error)) from error


def _family(entries: Sequence[Mapping[str, Any]], instance_type: Optional[str]) -> Family:
    """Tell the accelerator: 96 GiB is Trainium2; Trainium and Inferentia2 are told apart by type or count."""
    if entries[0]["memory_bytes"] > 64 * GIB:
        return FAMILIES["trn2"]
    row = INSTANCE_TYPES.get(instance_type or "")
    if row is not None and row.family != "trn2":
        return FAMILIES[row.family]
    return FAMILIES["trn1" if len(entries) in (1, 16) else "inf2"]


def _counted_lnc(family: Family, entries: Sequence[Mapping[str, Any]]) -> int:
    """Tell the LNC by the count of cores where `neuron-ls` does not say it; trn1 and inf2 have only one."""
    count = int(entries[0]["nc_count"])
    return family.physical_cores // count if 0 < count <= family.physical_cores else family.lnc_choices[0]


def _known_type(family: Family, devices: int, instance_type: Optional[str]) -> str:
    """Return the given type where it is one of this family, else the family's nearest in number of devices."""
    rows = {name: row for name, row in INSTANCE_TYPES.items() if row.family == family.name}
    if instance_type in rows:
        return str(instance_type)
    return min(rows, key=lambda name: abs(rows[name].devices - devices))


def _devices(
    entries: Sequence[Mapping[str, Any]], family: Family, lnc: int, found_lnc: int, instance_type: str
) -> Tuple[Device, ...]:
    """Build the devices at the wanted LNC; what old tools do not tell comes from the table."""
    table = {device.index: device for device in table_topology(instance_type, lnc).devices}
    per_device = cores_per_device(family, lnc)
    devices = []
    for entry in entries:
        index = entry["index"]
        known = table.get(index)
        counted = tuple(range(index * per_device, (index + 1) * per_device))
        cores = entry["cores"] if entry["cores"] and lnc == found_lnc else counted
        devices.append(
            Device(
                index=index,
                cores=cores,
                memory_bytes=entry["memory_bytes"],
                numa_node=_reported_or_known(entry["numa_node"], known.numa_node if known else NO_NUMA_NODE),
                cpus=_reported_or_known(entry["cpus"], known.cpus if known else ()),
                connected_to=entry["connected_to"] or (known.connected_to if known else ()),
            )
        )
    return tuple(devices)


def _reported_or_known(said: Any, table: Any) -> Any:
    return table if said is None else said


def _disagreements(host: Topology, table: Topology, found_lnc: int) -> Tuple[str, ...]:
    """Say what the host and the table tell differently; the host wins."""
    said: List[str] = []
    if len(host.devices) != len(table.devices):
        said.append(
            "the host shows %d devices, %s has %d" % (len(host.devices), table.instance_type, len(table.devices))
        )
    if found_lnc != host.logical_nc_config:
        said.append("neuron-ls counts at LNC %d, the plan at LNC %d" % (found_lnc, host.logical_nc_config))
    expected = {device.index: device for device in table.devices}
    for attribute, noun in (("numa_node", "NUMA node"), ("cpus", "CPUs"), ("connected_to", "links")):
        differ = [
            device.index
            for device in host.devices
            if device.index in expected and _plain(device, attribute) != _plain(expected[device.index], attribute)
        ]
        if differ:
            said.append("the %s of device %s differ from the table's" % (noun, format_ranges(differ)))
    return tuple(said)


def _plain(device: Device, attribute: str) -> Any:
    value = getattr(device, attribute)
    return tuple(sorted(value)) if isinstance(value, tuple) else value
