# SPDX-License-Identifier: Apache-2.0
"""Spares in a roll: they come first, nothing is missing meanwhile, they go again; and every way not to use them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.plan import RollPlan, plan_roll, read_fleet
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import Fleet, RollError, Seat, Settings
from hypothesis import given
from hypothesis import strategies as st

from .fleets import fleet_plan, report

BLUE_GREEN = Settings(strategy="blue_green")


def fleet(hosts: int = 1, replicas: int = 3, **spare: Any) -> Fleet:
    """Hosts whose replicas serve `old` and have cores left for one more; ``spare``: what the hosts report of it."""
    shape = {f"h{number}": replicas for number in range(1, hosts + 1)}
    plan = fleet_plan(shape)
    reports = {}
    for host, entry in plan["hosts"].items():
        entry["memory"] = {"loads_at_once": 1}
        last = entry["replicas"][-1]
        cores = f"{32 * replicas}-{32 * replicas + 31}"
        entry["spares"] = [{**last, "name": "m-spare", "id": f"{host}:m-spare", "cores": cores, "release": "more"}]
        reports[host] = report(replicas, load_s=600.0)["replicas"]
        reports[host]["m-spare"] = {"active": "inactive", "staged": ["more"], **spare}
    seats: dict[str, Any] = {f"{host}:{name}": {"state": "ready"} for host, rows in reports.items() for name in rows}
    for host in reports:
        seats[f"{host}:m-spare"] = {"state": "maint", "up": False}
    return read_fleet(plan, reports, {"r1": seats})


def seated(told: Fleet, **spare: Any) -> Fleet:
    """The same, where the router has the spare of the first host otherwise."""
    return replace(told, seats={"r1": {**told.seats["r1"], "h1:m-spare": Seat(**spare)}})


def all_but_the_spares(told: Fleet, **seen: Any) -> Fleet:
    """The same, whose replicas report something else."""
    changed = {target.id: replace(told.seen(target), **seen) for target in told.targets}
    return replace(told, observed={**told.observed, **changed})


def rolled(told: Fleet) -> Fleet:
    return all_but_the_spares(told, running="new", current="new")


def order(plan: RollPlan) -> list[str]:
    return [" + ".join(move.key for move in wave.moves) for wave in plan.waves]


def test_the_spare_is_the_canary_and_goes_when_all_have_moved() -> None:
    plan = plan_roll(fleet(), Settings())
    assert order(plan) == ["raise h1:m-spare", "h1:m-0", "h1:m-1", "h1:m-2", "retire h1:m-spare"]
    assert [wave.canary for wave in plan.waves] == [True, False, False, False, False]
    assert [wave.left["m"] for wave in plan.waves] == [3] * 5
    first, last = plan.waves[0].moves[0], plan.waves[-1].moves[0]
    assert (first.was, first.target.release, first.admit, first.drain) == ("", "more", True, False)
    assert (last.target.release, last.admit, last.drain) == ("", False, True)
    assert {peer.target.id for peer in plan.waves[0].peers} == {"h1:m-0", "h1:m-1", "h1:m-2"}
    # Four loads of 600 s, where three replicas change.
    assert plan.seconds == pytest.approx(4 * 600 + 4 * 60 + 5 * 5 + 120 + 3 * 10)
    text = "\n".join(plan.lines())
    assert "Roll of 3 replicas on 1 hosts" in text
    assert "h1:m-spare  nothing -> more [stands in on spare cores 96-127]  stop, switch, start, gate" in text
    assert "h1:m-spare  more -> nothing [nothing is left to stand in for]  drain, stop;" in text
    assert "spare  h1:m-spare stands in for h1:m-0, h1:m-1, h1:m-2 on cores 96-127" in text


def test_a_single_replica_is_rolled_without_being_missed() -> None:
    plan = plan_roll(fleet(replicas=1), Settings())
    assert order(plan) == ["raise h1:m-spare", "h1:m-0", "retire h1:m-spare"]
    assert [wave.left["m"] for wave in plan.waves] == [1, 1, 1]
    with pytest.raises(RollError, match="floor is 1") as refused:
        plan_roll(fleet(replicas=1), Settings(strategy="rolling"))
    assert refused.value.problems[1] == "h1:m-spare could stand in on cores 32-63, and the strategy is rolling."


@given(
    hosts=st.integers(1, 4),
    replicas=st.integers(1, 3),
    at_once=st.integers(1, 4),
    strategy=st.sampled_from(["auto", "blue_green"]),
)
def test_whatever_the_fleet_every_spare_comes_before_those_it_stands_in_for_and_goes_after(
    hosts: int, replicas: int, at_once: int, strategy: str
) -> None:
    plan = plan_roll(fleet(hosts, replicas), Settings(strategy=strategy, at_once=at_once))
    wave_of = {move.key: wave.number for wave in plan.waves for move in wave.moves}
    assert len(wave_of) == hosts * (replicas + 2)
    for number in range(1, hosts + 1):
        mine = [wave_of[f"h{number}:m-{index}"] for index in range(replicas)]
        assert wave_of[f"raise h{number}:m-spare"] < min(mine)
        assert max(mine) < wave_of[f"retire h{number}:m-spare"]
    for wave in plan.waves:
        assert len(wave.moves) <= at_once
        assert wave.left["m"] >= plan.floor["m"]
        assert len({move.kind == "retire" for move in wave.moves}) == 1
    if strategy == "blue_green":
        assert plan.floor["m"] == hosts * replicas


def test_nothing_to_roll_raises_nothing() -> None:
    told = fleet()
    same = {
        name: replace(seen, running="new", current="new") for name, seen in told.observed.items() if "spare" not in name
    }
    assert plan_roll(replace(told, observed={**told.observed, **same}), BLUE_GREEN).waves == ()


@pytest.mark.parametrize(
    ("seat", "first"),
    [
        ({"state": "ready"}, []),
        ({"state": "ready", "weight": 11}, ["raise h1:m-spare"]),
        ({"state": "drain"}, ["raise h1:m-spare"]),
    ],
)
def test_an_unfinished_roll_goes_on_with_the_spare_that_it_finds(seat: dict[str, Any], first: list[str]) -> None:
    told = seated(fleet(active="active", running="more", current="more"), **seat)
    plan = plan_roll(told, Settings())
    assert order(plan) == [*first, "h1:m-0", "h1:m-1", "h1:m-2", "retire h1:m-spare"]
    assert all(not move.restart for move in plan.waves[0].moves if move.kind == "raise")
    assert plan.waves[0].canary


def test_a_spare_of_another_release_is_started_anew_and_never_goes_back() -> None:
    told = seated(fleet(active="active", running="older", current="older"), state="ready")
    plan = plan_roll(told, Settings())
    first = plan.waves[0].moves[0]
    assert (first.key, first.drain, first.restart, first.was) == ("raise h1:m-spare", True, True, "")
    assert plan.waves[0].left["m"] == 3


def test_a_spare_that_is_left_over_is_retired_whatever_the_strategy() -> None:
    told = rolled(seated(fleet(active="active", running="more", current="more"), state="ready"))
    for strategy in ("auto", "rolling", "blue_green"):
        plan = plan_roll(told, Settings(strategy=strategy))
        assert order(plan) == ["retire h1:m-spare"]
        assert not plan.waves[0].canary
        assert plan.waves[0].moves[0].was == "more"
        assert "Roll of 0 replicas" in plan.lines()[0]


def test_a_spare_that_others_need_stays() -> None:
    """A person took one out; the floor is all of them, so the spare goes on for it."""
    told = rolled(seated(fleet(active="active", running="more", current="more"), state="ready"))
    out = {**told.seats["r1"], "h1:m-0": Seat("drain")}
    plan = plan_roll(replace(told, seats={"r1": out}), Settings(floor="100%"))
    assert plan.waves == ()


def unmeasured(told: Fleet) -> Fleet:
    return replace(told, measured=frozenset())


def held(told: Fleet) -> Fleet:
    other = replace(told.observed["h1:m-0"], cores=(96, 127))
    return replace(told, observed={**told.observed, "h1:x-0": other})


def unstaged(told: Fleet) -> Fleet:
    return replace(told, observed={**told.observed, "h1:m-spare": replace(told.observed["h1:m-spare"], staged=())})


def unknown(told: Fleet) -> Fleet:
    return replace(told, seats={"r1": {name: seat for name, seat in told.seats["r1"].items() if "spare" not in name}})


def elsewhere(told: Fleet) -> Fleet:
    others = {target.id: Seat("ready") for target in told.targets}
    return replace(told, seats={**told.seats, "elsewhere": others})


def none(told: Fleet) -> Fleet:
    return replace(told, spares=())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (held, "its cores 96-127 are held by h1:x-0"),
        (unstaged, "its release more is not on its host"),
        (unknown, "r1 does not know it"),
        (elsewhere, "routers that trainyard does not run"),
        (none, "the plan has no spare slice"),
    ],
)
def test_a_spare_that_cannot_serve_is_not_used_and_blue_green_refuses(change: Any, why: str) -> None:
    told = change(fleet())
    plan = plan_roll(told, Settings())
    assert order(plan) == ["h1:m-0", "h1:m-1", "h1:m-2"]
    assert (why in "\n".join(plan.lines())) == (change is not none)
    with pytest.raises(RollError) as refused:
        plan_roll(told, BLUE_GREEN)
    assert len(refused.value.problems) == 3
    assert why in str(refused.value)
    assert order(plan_roll(told, BLUE_GREEN, require_spares=False)) == ["h1:m-0", "h1:m-1", "h1:m-2"]


def test_where_nobody_knows_the_memory_only_a_person_may_say_that_it_is_enough() -> None:
    plan = plan_roll(unmeasured(fleet()), Settings())
    assert order(plan) == ["h1:m-0", "h1:m-1", "h1:m-2"]
    assert "nobody knows whether the memory of h1 holds one more" in "\n".join(plan.lines())
    assert order(plan_roll(unmeasured(fleet()), BLUE_GREEN))[0] == "raise h1:m-spare"


def test_a_dry_run_says_where_blue_green_would_be_possible() -> None:
    rolling = plan_roll(fleet(), Settings(strategy="rolling"), require_staged=False)
    assert "h1:m-spare could stand in on cores 96-127, and the strategy is rolling" in "\n".join(rolling.lines())
    fresh = unknown(unstaged(fleet()))
    assert order(plan_roll(fresh, BLUE_GREEN, require_staged=False))[0] == "raise h1:m-spare"


def test_replicas_that_serve_nobody_need_no_spare() -> None:
    told = fleet()
    down = {name: replace(seen, active="failed") for name, seen in told.observed.items() if "spare" not in name}
    assert order(plan_roll(replace(told, observed={**told.observed, **down}), BLUE_GREEN)) == [
        "h1:m-0",
        "h1:m-1",
        "h1:m-2",
    ]


@pytest.mark.parametrize("left", [{"current": "more"}, {"active": "deactivating"}, {"active": "activating"}])
def test_whatever_a_roll_left_of_a_spare_is_retired(left: dict[str, str]) -> None:
    """Its link alone would have it start with the host."""
    told = rolled(seated(fleet(**left), state="maint"))
    assert order(plan_roll(told, Settings())) == ["retire h1:m-spare"]
