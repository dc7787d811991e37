# SPDX-License-Identifier: Apache-2.0
"""Which cores and CPUs each replica of one host gets; pure, and the same answer for any order of the input.

Rules, all from the Neuron runtime and its collectives: a slice is contiguous, as many cores as its tensor parallel
degree, starts at a multiple of that degree, and is nobody else's. Legal degrees of a family divide one another, so
aligned slices nest like the blocks of a buddy allocator: laying the widest first finds room whenever there is room,
whichever of the free slices is taken, and the choice is free to prefer slices on one NUMA node.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Collection, Dict, FrozenSet, Iterable, List, Mapping, Optional, Sequence, Set, Tuple, Union

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.ranges import format_ranges, runs
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.topology import NO_NUMA_NODE, Device, Topology
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import FILL

#: AWS keeps the last 8 of every 48 CPUs of a trn2.48xlarge for the runtime's proxy threads; other sizes alike.
PROXY_SHARE = 6


@dataclass(frozen=True)
class Request:
    """What one deployment wants of a host.

    Attributes:
        name: of the deployment.
        width: cores of a replica, its tensor parallel degree.
        count: replicas, or FILL.
        pinned: the cores it must use, empty for any.
    """

    name: str
    width: int
    count: Union[int, str]
    pinned: Tuple[int, ...] = ()


@dataclass(frozen=True)
class Slice:
    """The cores of one replica: `width` of them from `start`."""

    start: int
    width: int

    @property
    def cores(self) -> range:
        """Core ids, ascending."""
        return range(self.start, self.start + self.width)


@dataclass(frozen=True)
class Refusal:
    """Why a host has no room: a request's name, the field that says too much, and the numbers."""

    name: str
    field: str
    rule: str
    fix: str


@dataclass(frozen=True)
class Placement:
    """Slices of each deployment in the order of its replicas, or why there are none."""

    slices: Mapping[str, Tuple[Slice, ...]]
    refusals: Tuple[Refusal, ...] = ()


def place(
    topology: Topology,
    requests: Iterable[Request],
    blocked: Optional[Mapping[int, str]] = None,
    shunned: Collection[int] = (),
) -> Placement:
    """Lay the slices of one host.

    Args:
        topology: the host.
        requests: one for each deployment, names distinct, widths legal for the family.
        blocked: cores that nobody gets, and why (`reserved`, `quarantined`).
        shunned: cores that are left where there are others: slices on them go elsewhere, all others stay.

    Returns:
        The slices, ascending but for those that went elsewhere, or the refusals of every deployment that has none.
    """
    owners: Dict[int, str] = dict(blocked or {})
    nodes = {core: device.numa_node for device in topology.devices for core in device.cores}
    ordered = sorted(requests, key=lambda request: (-request.width, request.name))
    slices: Dict[str, Tuple[Slice, ...]] = {}
    refusals: List[Refusal] = []

    def lay(request: Request, cores: Set[int], count: int) -> bool:
        found = _take(cores, request.width, count, nodes)
        if len(found) < count:
            refusals.append(_refusal(topology, request, len(found), owners))
            return False
        slices[request.name] = found
        owners.update((core, request.name) for piece in found for core in piece.cores)
        return True

    def free() -> Set[int]:
        return set(topology.cores) - set(owners)

    for request in (request for request in ordered if request.pinned):
        lay(request, free() & set(request.pinned), len(request.pinned) // request.width)
    settled, too_much = _settle_fill(free(), [request for request in ordered if not request.pinned], nodes)
    refusals += too_much
    for request in settled:
        lay(request, free(), int(request.count))
    if shunned:
        _elsewhere(slices, ordered, free() - set(shunned), shunned, nodes)
    return Placement(slices, tuple(refusals))


def _elsewhere(
    slices: Dict[str, Tuple[Slice, ...]],
    requests: Sequence[Request],
    free: Set[int],
    shunned: Collection[int],
    nodes: Mapping[int, int],
) -> None:
    """Give the slices that touch shunned cores others, as far as there are some; each keeps its place in the order."""
    for request in requests:
        if request.pinned:
            continue
        pieces = list(slices.get(request.name, ()))
        for index, piece in enumerate(pieces):
            if not set(piece.cores) & set(shunned):
                continue
            for other in _take(free, request.width, 1, nodes):
                pieces[index] = other
                free -= set(other.cores)
        slices[request.name] = tuple(pieces)


def room_elsewhere(
    topology: Topology, placed: Sequence[Slice], taken: Iterable[int], shunned: Collection[int]
) -> List[bool]:
    """Return for each slice that touches shunned cores whether there is room for it elsewhere, as `place` would find.

    Args:
        topology: the host.
        placed: the slices that touch them.
        taken: cores that somebody has, or nobody gets.
        shunned: the cores to leave.
    """
    nodes = {core: device.numa_node for device in topology.devices for core in device.cores}
    free = set(topology.cores) - set(taken) - set(shunned)
    found = []
    for piece in sorted(placed, key=lambda piece: -piece.width):
        others = _take(free, piece.width, 1, nodes)
        found.append(bool(others))
        free -= {core for other in others for core in other.cores}
    return found


def _settle_fill(
    free: Set[int], requests: Sequence[Request], nodes: Mapping[int, int]
) -> Tuple[List[Request], List[Refusal]]:
    """Turn FILL into the largest count that leaves room for all the others."""
    fillers = [request for request in requests if request.count == FILL]
    fixed = [request for request in requests if request.count != FILL]
    if len(fillers) > 1:
        names = ", ".join(request.name for request in fillers)
        rule = "only one deployment of a host can fill it, here %s would" % names
        return fixed, [
            Refusal(filler.name, "data_parallel_size", rule, "give all but one a number") for filler in fillers
        ]
    if not fillers:
        return list(requests), []
    filler = fillers[0]
    for count in range(len(free) // filler.width, 0, -1):
        settled = sorted(
            [*fixed, Request(filler.name, filler.width, count)], key=lambda request: (-request.width, request.name)
        )
        if _fits(free, settled, nodes):
            return settled, []
    if not _fits(free, fixed, nodes):
        return fixed, []  # the others do not fit even alone, which is what is to be said
    rule = "no aligned slice of %d cores is left to fill" % filler.width
    return fixed, [Refusal(filler.name, "data_parallel_size", rule, "make room, or take it off this host")]


def _fits(free: Set[int], requests: Sequence[Request], nodes: Mapping[int, int]) -> bool:
    left = set(free)
    for request in requests:
        found = _take(left, request.width, int(request.count), nodes)
        if len(found) < int(request.count):
            return False
        left -= {core for piece in found for core in piece.cores}
    return True


def free_slices(free: Iterable[int], width: int) -> List[Slice]:
    """Return every free slice of a width that starts at a multiple of it, ascending."""
    found = []
    for first, last in runs(free):
        start = -(-first // width) * width
        found += [Slice(at, width) for at in range(start, last - width + 2, width)]
    return found


def spare_slices(topology: Topology, requests: Iterable[Request], taken: Iterable[int]) -> Dict[str, Slice]:
    """Give each request one more slice of its width on the cores that are left, the widest first.

    Args:
        topology: the host.
        requests: as of `place`; those with pinned cores get none, since they may have no other cores.
        taken: cores that somebody has, or nobody gets.

    Returns:
        By name, for those that there is room for; no two share a core.
    """
    nodes = {core: device.numa_node for device in topology.devices for core in device.cores}
    free = set(topology.cores) - set(taken)
    found: Dict[str, Slice] = {}
    for request in sorted(requests, key=lambda request: (-request.width, request.name)):
        for piece in () if request.pinned else _take(free, request.width, 1, nodes):
            found[request.name] = piece
            free -= set(piece.cores)
    return found


def _take(free: Iterable[int], width: int, count: int, nodes: Mapping[int, int]) -> Tuple[Slice, ...]:
    """Return up to `count` free slices, those on the fewest NUMA nodes first, then the lowest; ascending."""
    wanted = sorted(free_slices(free, width), key=lambda piece: (len({nodes[c] for c in piece.cores}), piece.start))
    return tuple(sorted(wanted[:count], key=lambda piece: piece.start))


def _refusal(topology: Topology, request: Request, found: int, owners: Mapping[int, str]) -> Refusal:
    """Say why a request has no room: too large for the host, or in the way of what is there."""
    if request.pinned:
        others = {owners[core] for core in request.pinned if core in owners}
        rule = "overlaps %s" % _owned({core: owner for core, owner in owners.items() if owner in others})
        return Refusal(request.name, "cores", rule, "choose cores that nobody else has, or leave cores out")
    count, width, total = int(request.count), request.width, topology.core_count
    if count * width > total:
        rule = "%d x tensor_parallel_size %d is %d cores, the host has %d" % (count, width, count * width, total)
        fix = "lower it to %d or less, or use fill" % (total // width)
        return Refusal(request.name, "data_parallel_size", rule, fix)
    rule = "%d free slices of %d cores from a multiple of %d are needed and there are %d: it would overlap %s" % (
        count,
        width,
        width,
        found,
        _owned(owners),
    )
    return Refusal(request.name, "data_parallel_size", rule, "lower it, or move a deployment to another host")


def _owned(owners: Mapping[int, str]) -> str:
    """Return who has which cores: `llama-3-3-70b (0-31), reserved cores (48-63)`."""
    names = sorted(set(owners.values()), key=lambda name: min(core for core in owners if owners[core] == name))
    return ", ".join(
        "%s (%s)" % (name, format_ranges(core for core in owners if owners[core] == name)) for name in names
    )


@dataclass(frozen=True)
class CpuShare:
    """CPUs of a replica and, apart from them, those of its runtime's proxy threads."""

    cpus: Tuple[int, ...]
    proxy_cpus: Tuple[int, ...] = ()


class CpuMap:
    """Gives every core its own share of its NUMA node's CPUs.

    A core's share depends on the hardware alone, not on who else runs: adding a deployment to a host changes no other
    replica's CPUs, so it restarts none of them. Hyper-threads of a CPU stay together. Where a host has fewer CPUs than
    cores, neighbouring cores share one.
    """

    def __init__(self, topology: Topology, reserve_proxy: bool = False) -> None:
        self._share: Dict[int, CpuShare] = {}
        groups: Dict[Tuple[int, ...], List[Device]] = {}
        for device in topology.devices:
            groups.setdefault(_usable(device, topology), []).append(device)
        for cpus, devices in groups.items():
            proxies = proxy_cpus(cpus) if reserve_proxy else frozenset()
            cores = sorted(core for device in devices for core in device.cores)
            workers = _split(_siblings_together([cpu for cpu in cpus if cpu not in proxies]), cores)
            helpers = _split(_siblings_together(sorted(proxies)), cores) if proxies else dict.fromkeys(cores, ())
            for core in cores:
                self._share[core] = CpuShare(workers[core], helpers[core])

    def of(self, cores: Iterable[int]) -> CpuShare:
        """Return the CPUs of some cores together, ascending."""
        shares = [self._share[core] for core in cores]
        return CpuShare(
            tuple(sorted({cpu for share in shares for cpu in share.cpus})),
            tuple(sorted({cpu for share in shares for cpu in share.proxy_cpus})),
        )


def _usable(device: Device, topology: Topology) -> Tuple[int, ...]:
    """Return the device's CPUs that the host really has; all of the host's where none of them is there."""
    if topology.online_cpus is None:
        return device.cpus
    found = tuple(cpu for cpu in device.cpus if cpu in set(topology.online_cpus))
    return found or topology.online_cpus


def proxy_cpus(cpus: Iterable[int]) -> FrozenSet[int]:
    """Return the CPUs to keep for proxy threads: the last sixth of every contiguous run, so of every node alike."""
    kept: Set[int] = set()
    for first, last in runs(cpus):
        size = (last - first + 1) // PROXY_SHARE
        kept.update(range(last - size + 1, last + 1))
    return frozenset(kept)


def _siblings_together(cpus: Sequence[int]) -> List[int]:
    """Order CPUs so that hyper-threads stand side by side.

    Linux numbers the first threads of all CPUs, then the second ones; a node therefore has two runs of equal length.
    """
    pieces = runs(cpus)
    lengths = {last - first for first, last in pieces}
    if len(pieces) % 2 or len(lengths) != 1:
        return sorted(cpus)
    half = len(pieces) // 2
    first = [cpu for piece in pieces[:half] for cpu in range(piece[0], piece[1] + 1)]
    second = [cpu for piece in pieces[half:] for cpu in range(piece[0], piece[1] + 1)]
    return [cpu for position in range(len(first)) for cpu in (first[position], second[position])]


def _split(cpus: Sequence[int], cores: Sequence[int]) -> Dict[int, Tuple[int, ...]]:
    """Cut a list of CPUs into a piece for each core, in order and as even as whole CPUs allow."""
    count, total = len(cpus), len(cores)
    shares: Dict[int, Tuple[int, ...]] = {}
    for position, core in enumerate(cores):
        first, last = position * count // total, (position + 1) * count // total
        shares[core] = tuple(cpus[first : max(last, first + 1)])
    return shares


def numa_nodes(devices: Iterable[Device]) -> Tuple[int, ...]:
    """Return the NUMA nodes of some devices, ascending; empty where the hardware names none."""
    return tuple(sorted({device.numa_node for device in devices if device.numa_node != NO_NUMA_NODE}))


def devices_of(topology: Topology, cores: Iterable[int]) -> Tuple[Device, ...]:
    """Return the devices that some cores are on, ascending."""
    wanted: Set[int] = set(cores)
    return tuple(device for device in topology.devices if wanted.intersection(device.cores))


def cores_of_devices(topology: Topology, indexes: Optional[Iterable[int]]) -> FrozenSet[int]:
    """Return the cores of some devices, by the devices' indexes."""
    wanted = set(indexes or ())
    return frozenset(core for device in topology.devices if device.index in wanted for core in device.cores)
