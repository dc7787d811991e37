# SPDX-License-Identifier: Apache-2.0
"""What holds for every placement, tried on hosts, deployments and quarantines that nobody thought of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.topology import (
    FAMILIES,
    INSTANCE_TYPES,
    Topology,
    table_topology,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.placement import (
    CpuMap,
    Placement,
    Request,
    Slice,
    cores_of_devices,
    place,
)
from hypothesis import given, settings
from hypothesis import strategies as st

SMALL = ("trn1.2xlarge", "trn2.3xlarge", "inf2.xlarge", "inf2.24xlarge")


@st.composite
def hosts(draw: st.DrawFn, kinds: Sequence[str] = tuple(INSTANCE_TYPES)) -> Topology:
    kind = draw(st.sampled_from(sorted(kinds)))
    return table_topology(kind, draw(st.sampled_from(FAMILIES[INSTANCE_TYPES[kind].family].lnc_choices)))


@st.composite
def demands(
    draw: st.DrawFn, kinds: Sequence[str] = tuple(INSTANCE_TYPES), most: int = 4, pins: bool = True
) -> tuple[Topology, list[Request], dict[int, str]]:
    topology = draw(hosts(kinds))
    out = dict.fromkeys(draw(st.sets(st.sampled_from(topology.cores), max_size=4)), "reserved cores")
    devices = draw(st.sets(st.integers(0, len(topology.devices) - 1), max_size=2))
    out.update(dict.fromkeys(cores_of_devices(topology, devices), "quarantined devices"))
    requests = []
    for position in range(draw(st.integers(1, most))):
        width = draw(st.sampled_from(topology.legal_tensor_parallel))
        count = draw(st.one_of(st.integers(1, 4), st.just("fill")))
        pinned: tuple[int, ...] = ()
        if pins and count != "fill" and draw(st.integers(0, 4)) == 0 and topology.core_count >= width * count:
            start = draw(st.integers(0, topology.core_count // width - count)) * width
            pinned = tuple(range(start, start + width * count))
        requests.append(Request(f"d{position}", width, count, pinned))
    return topology, requests, out


def laid(placement: Placement) -> list[Slice]:
    return [piece for pieces in placement.slices.values() for piece in pieces]


@given(demands())
@settings(max_examples=400, deadline=None)
def test_slices_are_disjoint_aligned_within_the_host_and_never_where_nobody_may_be(
    demand: tuple[Topology, list[Request], dict[int, str]],
) -> None:
    topology, requests, out = demand
    placement = place(topology, requests, out)
    taken = [core for piece in laid(placement) for core in piece.cores]
    assert len(taken) == len(set(taken))
    assert set(taken) <= set(topology.cores) - set(out)
    wanted = {request.name: request for request in requests}
    for name, pieces in placement.slices.items():
        request = wanted[name]
        assert all(piece.width == request.width and piece.start % request.width == 0 for piece in pieces)
        assert request.count == "fill" or len(pieces) == request.count
        assert not request.pinned or {c for piece in pieces for c in piece.cores} == set(request.pinned)
        assert [piece.start for piece in pieces] == sorted(piece.start for piece in pieces)


@given(demands(), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_the_order_of_the_input_changes_nothing(
    demand: tuple[Topology, list[Request], dict[int, str]], random: object
) -> None:
    topology, requests, out = demand
    shuffled = list(requests)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = place(topology, shuffled, dict(reversed(list(out.items()))))
    first = place(topology, requests, out)
    assert dict(again.slices) == dict(first.slices)
    assert sorted(map(str, again.refusals)) == sorted(map(str, first.refusals))


@given(demands())
@settings(max_examples=200, deadline=None)
def test_every_deployment_is_placed_or_refused(demand: tuple[Topology, list[Request], dict[int, str]]) -> None:
    topology, requests, out = demand
    placement = place(topology, requests, out)
    refused = {refusal.name for refusal in placement.refusals}
    unsaid = {request.name for request in requests} - set(placement.slices) - refused
    # Whether a filler has room is only known once the others have.
    assert not unsaid or (refused and unsaid <= {request.name for request in requests if request.count == "fill"})
    assert not set(placement.slices) & refused


@given(demands(kinds=("trn2.48xlarge", "inf2.48xlarge", "trn1.32xlarge")))
@settings(max_examples=100, deadline=None)
def test_replicas_share_no_cpu_where_there_is_one_for_each_core(
    demand: tuple[Topology, list[Request], dict[int, str]],
) -> None:
    topology, requests, out = demand
    cpu_map = CpuMap(topology)
    taken = [cpu for piece in laid(place(topology, requests, out)) for cpu in cpu_map.of(piece.cores).cpus]
    assert len(taken) == len(set(taken))


@given(demands(kinds=("trn2.48xlarge",), pins=False))
@settings(max_examples=100, deadline=None)
def test_another_deployment_moves_no_cpu_of_a_core(demand: tuple[Topology, list[Request], dict[int, str]]) -> None:
    topology, requests, out = demand
    cpu_map, again = CpuMap(topology), CpuMap(topology)
    for piece in laid(place(topology, requests, out)):
        assert cpu_map.of(piece.cores) == again.of(piece.cores)


@lru_cache(maxsize=200_000)
def feasible(free: frozenset[int], requests: tuple[tuple[int, int, tuple[int, ...]], ...], above: int = 0) -> bool:
    """Tell by trying everything whether slices (width, count, pinned) can be laid on free cores.

    The slices of one request are alike, so they are tried in ascending order only.
    """
    if not requests:
        return True
    (width, count, pinned), rest = requests[0], requests[1:]
    if count == 0:
        return feasible(free, rest)
    if count * width > len(free):
        return False
    allowed = free & set(pinned) if pinned else free
    for start in range(above, max(free, default=-1) + 1, width):
        cores = frozenset(range(start, start + width))
        if cores <= allowed and feasible(free - cores, ((width, count - 1, pinned), *rest), start + width):
            return True
    return False


def by_trying(topology: Topology, requests: Sequence[Request], out: Mapping[int, str], fill: int) -> bool:
    free = frozenset(topology.cores) - frozenset(out)
    counts = tuple((r.width, fill if r.count == "fill" else int(r.count), r.pinned) for r in requests)
    return feasible(free, counts)


@given(demands(kinds=SMALL, most=3))
@settings(max_examples=400, deadline=None)
def test_what_is_refused_is_really_impossible_and_filling_really_fills(
    demand: tuple[Topology, list[Request], dict[int, str]],
) -> None:
    topology, requests, out = demand
    fillers = [request for request in requests if request.count == "fill"]
    placement = place(topology, requests, out)
    if len(fillers) > 1:
        assert placement.refusals
        return
    least = 1 if fillers else 0
    assert bool(placement.refusals) == (not by_trying(topology, requests, out, least))
    if fillers and not placement.refusals:
        count = len(placement.slices[fillers[0].name])
        assert not by_trying(topology, requests, out, count + 1)


@given(demands(), st.integers(0, 15))
@settings(max_examples=300, deadline=None)
def test_a_device_that_healing_takes_out_moves_those_on_it_and_nobody_else(
    demand: tuple[Topology, list[Request], dict[int, str]], device: int
) -> None:
    topology, requests, out = demand
    shunned = cores_of_devices(topology, [device % len(topology.devices)])
    home, moved = place(topology, requests, out), place(topology, requests, out, shunned)
    assert moved.refusals == home.refusals
    for name, pieces in home.slices.items():
        for before, after in zip(pieces, moved.slices[name], strict=True):
            assert before == after or set(before.cores) & shunned
            assert before == after or not set(after.cores) & (shunned | set(out))
            assert after.start % after.width == 0
    everything = [core for piece in laid(moved) for core in piece.cores]
    assert len(everything) == len(set(everything))
