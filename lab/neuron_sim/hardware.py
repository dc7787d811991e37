# SPDX-License-Identifier: Apache-2.0
"""Instance types: devices, cores, memory, links and NUMA nodes.

Sources: AWS Neuron documentation, "Best Practices: Neuron Runtime Performance" (NUMA layouts) and the ``neuron-ls``
guide (samples); architecture pages for memory and processor counts. trn2.3xlarge has no published table: its single
device is the trn2 device, its NUMA node is -1 as small instances report, processors and memory are a guess.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1024**3


@dataclass(frozen=True)
class Device:
    """One Neuron device (chip)."""

    index: int
    bdf: str
    connected_to: tuple[int, ...]
    numa_node: int
    cpu_affinity: str


@dataclass(frozen=True)
class InstanceType:
    """One EC2 instance type of the Neuron family.

    Attributes:
        family: ``trn2``, ``trn1`` or ``inf2``; what the driver calls the architecture.
        physical_cores: physical NeuronCores of one device.
        device_memory_bytes: HBM of one device.
        lncs: logical core configurations that are legal here, the default first.
    """

    name: str
    family: str
    devices: tuple[Device, ...]
    physical_cores: int
    device_memory_bytes: int
    lncs: tuple[int, ...]
    legal_tp: tuple[int, ...]
    vcpus: int
    host_memory_gib: int

    def cores_per_device(self, lnc: int) -> int:
        """Logical cores of one device at this logical core configuration."""
        return self.physical_cores // lnc

    def core_count(self, lnc: int) -> int:
        """Logical cores of the whole instance."""
        return self.cores_per_device(lnc) * len(self.devices)

    def core_memory_bytes(self, lnc: int) -> int:
        """HBM behind one logical core. Two LNC 1 cores of trn2 share one bank of 24 GB."""
        banks = 4 if self.family == "trn2" else self.physical_cores
        per_core = self.device_memory_bytes // banks
        return per_core // 2 if self.family == "trn2" and lnc == 1 else per_core


def _torus(index: int) -> tuple[int, ...]:
    """Neighbours in the 4 x 4 torus, in the order that neuron-ls prints them: up, left, down, right."""
    row, column = divmod(index, 4)
    return ((index - 4) % 16, row * 4 + (column - 1) % 4, (index + 4) % 16, row * 4 + (column + 1) % 4)


_TRN2_CPUS = {0: "0-47,96-143", 1: "48-95,144-191"}
_TRN2_BDF = ["cc", "b5", "b6", "cb", "6f", "58", "59", "6e", "9b", "84", "85", "9a", "f8", "e1", "e2", "f7"]
_TRN1_CPUS = {0: "0-31,64-95", 1: "32-63,96-127"}
_TRN1_BDF = [
    "10:1c",
    "10:1d",
    "a0:1c",
    "a0:1d",
    "20:1b",
    "20:1c",
    "90:1b",
    "90:1c",
    "20:1d",
    "20:1e",
    "90:1d",
    "90:1e",
    "10:1e",
    "10:1b",
    "a0:1e",
    "a0:1b",
]
_INF2_CPUS = {0: "0-23,96-119", 1: "24-47,120-143", 2: "48-71,144-167", 3: "72-95,168-191"}
_INF2_BDF = ["80:1e", "90:1e", "80:1d", "90:1f", "80:1f", "90:1d", "20:1e", "20:1f", "10:1e", "10:1f", "10:1d", "20:1d"]
_INF2_NUMA = (2, 3, 2, 3, 2, 3, 1, 1, 0, 0, 0, 1)


def _trn2_device(index: int) -> Device:
    node = 0 if 4 <= index < 12 else 1
    return Device(index, f"{_TRN2_BDF[index]}:00.0", _torus(index), node, _TRN2_CPUS[node])


def _trn1_device(index: int) -> Device:
    node = 0 if index % 4 < 2 else 1
    return Device(index, f"{_TRN1_BDF[index]}.0", _torus(index), node, _TRN1_CPUS[node])


def _inf2_device(index: int) -> Device:
    node = _INF2_NUMA[index]
    return Device(index, f"{_INF2_BDF[index]}.0", ((index - 1) % 12, (index + 1) % 12), node, _INF2_CPUS[node])


_TRN2_TP = (1, 2, 4, 8, 16, 32, 64)

INSTANCE_TYPES: dict[str, InstanceType] = {
    kind.name: kind
    for kind in (
        InstanceType(
            "trn2.48xlarge", "trn2", tuple(map(_trn2_device, range(16))), 8, 96 * GIB, (2, 1), _TRN2_TP, 192, 2048
        ),
        InstanceType(
            "trn2.3xlarge", "trn2", (Device(0, "00:1e.0", (), -1, "0-11"),), 8, 96 * GIB, (2, 1), _TRN2_TP, 12, 128
        ),
        InstanceType(
            "trn1.32xlarge", "trn1", tuple(map(_trn1_device, range(16))), 2, 32 * GIB, (1,), (1, 2, 8, 16, 32), 128, 512
        ),
        InstanceType(
            "inf2.48xlarge", "inf2", tuple(map(_inf2_device, range(12))), 2, 32 * GIB, (1,), (1, 2, 4, 8, 24), 192, 768
        ),
    )
}


def instance_type(name: str) -> InstanceType:
    """The table's row of that name.

    Raises:
        ValueError: there is no such row; the message lists those that there are.
    """
    try:
        return INSTANCE_TYPES[name]
    except KeyError:
        raise ValueError(f"instance type {name!r}: the lab knows {', '.join(INSTANCE_TYPES)}") from None
