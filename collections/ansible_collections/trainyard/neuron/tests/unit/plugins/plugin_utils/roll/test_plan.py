# SPDX-License-Identifier: Apache-2.0
"""The plan of a roll: order, capacity, resumption, refusals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.plan import (
    cannot_leave,
    duration,
    in_rotation,
    not_in_one_roll,
    out_of_rotation,
    plan_roll,
    read_fleet,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import (
    Fleet,
    Observed,
    RollError,
    Seat,
    Settings,
)
from hypothesis import given
from hypothesis import strategies as st

OLD, NEW = "0ld0ld0ld0ld", "new123new123"


def wanted(hosts: int = 4, per_host: int = 4, release: str = NEW, model: str = "m") -> dict[str, Any]:
    width = 64 // per_host
    return {
        "hosts": {
            f"h{number}": {
                "replicas": [
                    {
                        "id": f"h{number}:{model}-{index}",
                        "name": f"{model}-{index}",
                        "unit": f"vllm@{model}-{index}.service",
                        "served_name": model,
                        "deployment": model,
                        "release": release,
                        "cores": f"{index * width}-{(index + 1) * width - 1}",
                        "url": f"http://h{number}:{8000 + index}",
                        "weights": "w-1",
                    }
                    for index in range(per_host)
                ]
            }
            for number in range(1, hosts + 1)
        }
    }


def running(release: str = OLD, **more: Any) -> dict[str, Any]:
    return {
        "active": "active",
        "running": release,
        "current": release,
        "staged": [OLD, NEW],
        "load_s": 600.0,
        **more,
    }


def keyed(plan: dict[str, Any], key: str) -> dict[str, Any]:
    """The same plan, whose replicas ask for a key."""
    for entry in plan["hosts"].values():
        for replica in entry["replicas"]:
            replica["credentials"] = key
    return plan


def test_a_key_comes_or_goes_in_a_roll_and_is_exchanged_in_two() -> None:
    plan = keyed(wanted(hosts=1, per_host=2), "aaaaaaaa")
    assert not_in_one_roll(fleet_of(plan)) == []
    asked = {f"h1:m-{index}": {"credentials": "bbbbbbbb"} for index in range(2)}
    assert "Take two rolls" in not_in_one_roll(fleet_of(plan, asked))[0]
    assert not_in_one_roll(fleet_of(keyed(plan, ""), asked)) == []
    with pytest.raises(RollError, match="API key would be another one"):
        plan_roll(fleet_of(keyed(plan, "aaaaaaaa"), asked), Settings())


def test_a_roll_that_would_move_ports_is_refused_with_the_ways_round_it() -> None:
    plan = wanted(hosts=1, per_host=2)
    here = plan["hosts"]["h1"]["replicas"][0]["url"]
    assert not_in_one_roll(fleet_of(plan, {"h1:m-0": {"url": here}})) == []
    moved = {"h1:m-0": {"url": "http://10.9.9.9:1"}}
    told = not_in_one_roll(fleet_of(plan, moved))
    assert [text.partition(", and")[0] for text in told] == [
        f"h1:m-0 from http://10.9.9.9:1 to {here}: they would listen elsewhere"
    ]
    with pytest.raises(RollError, match="out at once"):
        plan_roll(fleet_of(plan, moved), Settings())
    # What does not run is reached by nobody.
    assert not_in_one_roll(fleet_of(plan, {"h1:m-0": {"url": "http://10.9.9.9:1", "running": ""}})) == []


def fleet_of(plan: dict[str, Any], changes: dict[str, dict[str, Any]] | None = None, routers: int = 1) -> Fleet:
    """A fleet in which every replica runs the old release and is in rotation, but for ``changes`` by replica id."""
    reports: dict[str, Any] = {}
    seats: dict[str, Any] = {}
    for host, entry in plan["hosts"].items():
        reports[host] = {}
        for item in entry["replicas"]:
            change = dict((changes or {}).get(item["id"], {}))
            seats[item["id"]] = {
                "state": change.pop("state", "ready"),
                "up": change.pop("up", True),
                "weight": change.pop("weight", 100),
            }
            reports[host][item["name"]] = running(**change)
    return read_fleet(plan, reports, {f"r{number}": seats for number in range(routers)})


def ids(plan: Any) -> list[list[str]]:
    return [[move.target.id for move in wave.moves] for wave in plan.waves]


def test_rolls_replica_by_replica_host_by_host() -> None:
    plan = plan_roll(fleet_of(wanted()), Settings())
    assert ids(plan) == [[f"h{host}:m-{index}"] for host in range(1, 5) for index in range(4)]
    assert [wave.batch for wave in plan.waves] == [1] * 4 + [2] * 4 + [3] * 8
    assert [wave.canary for wave in plan.waves] == [True] + [False] * 15
    assert {wave.left["m"] for wave in plan.waves} == {15}


@pytest.mark.parametrize(
    ("share", "others", "weight"), [("10%", 1, 11), ("10%", 15, 100), ("5%", 15, 79), ("100%", 3, 100), ("1%", 1, 1)]
)
def test_the_first_replica_gets_a_share_of_the_traffic_and_never_more_than_another(
    share: str, others: int, weight: int
) -> None:
    assert Settings.from_dict({"canary_share": share}).canary_weight(others) == weight


@pytest.mark.parametrize("share", ["0%", "101%", "3", 0.1, "many"])
def test_a_share_that_is_no_percentage_is_refused(share: Any) -> None:
    with pytest.raises(RollError, match=r"canary_share = .*must be"):
        Settings.from_dict({"canary_share": share})


def test_only_the_canary_is_weighed_and_only_while_it_is_watched() -> None:
    plan = plan_roll(fleet_of(wanted(hosts=1, per_host=2)), Settings())
    assert [(wave.weights, wave.weights_after) for wave in plan.waves] == [
        ({"h1:m-0": 11}, {"h1:m-0": 100}),
        ({}, {}),
    ]
    assert "ready at 11%, watch 120 s" in plan.lines()[1]
    unwatched = plan_roll(fleet_of(wanted(hosts=1, per_host=2)), Settings(canary_s=0))
    assert unwatched.waves[0].weights == {}


def test_what_a_person_weighs_otherwise_stays_so() -> None:
    changes = {"h1:m-0": {"weight": 50}, "h1:m-1": {"weight": 5}}
    plan = plan_roll(fleet_of(wanted(hosts=1, per_host=2), changes), Settings(batches=("1",)))
    assert (plan.waves[0].weights, plan.waves[0].weights_after) == ({"h1:m-0": 11}, {"h1:m-0": 50})
    assert plan.waves[1].weights == {}
    right = wanted(hosts=1, per_host=2, release=OLD)
    assert plan_roll(fleet_of(right, changes), Settings()).waves == ()


def test_a_canary_whose_controller_died_is_watched_again_and_can_still_go_back() -> None:
    journal = {"admitted": True, "step": "gated", "was": OLD, "release": NEW}
    changes = {"h1:m-0": {"running": NEW, "current": NEW, "pending": journal, "weight": 11}}
    wave = plan_roll(fleet_of(wanted(hosts=1, per_host=2), changes), Settings()).waves[0]
    (move,) = wave.moves
    assert move.reason == "an unfinished roll left it at 11% of its weight"
    assert (move.restart, move.was, wave.canary) == (False, OLD, True)
    # It has that weight already; what is to be set is the full one, afterwards.
    assert (wave.weights, wave.weights_after) == ({"h1:m-0": 11}, {"h1:m-0": 100})


def test_nothing_to_do_when_everything_runs_what_it_should() -> None:
    plan = plan_roll(fleet_of(wanted(release=OLD)), Settings())
    assert plan.waves == ()
    assert len(plan.unchanged) == 16
    assert plan.seconds == 0
    assert plan.lines() == ["Nothing to roll: 16 replicas run what they should."]


def test_only_what_changed_is_rolled() -> None:
    plan = wanted(release=OLD)
    plan["hosts"]["h2"]["replicas"][1]["release"] = NEW
    assert ids(plan_roll(fleet_of(plan), Settings())) == [["h2:m-1"]]


def test_k_at_a_time_spreads_over_hosts_and_keeps_the_floor() -> None:
    plan = plan_roll(fleet_of(wanted()), Settings(at_once=3, batches=("1", "100%")))
    assert ids(plan)[0] == ["h1:m-0"], "the canary goes alone"
    assert ids(plan)[1] == ["h1:m-1", "h1:m-2", "h1:m-3"], "the first batch is one host"
    assert ids(plan)[2] == ["h2:m-0", "h3:m-0", "h4:m-0"]
    assert min(wave.left["m"] for wave in plan.waves) == 13
    wide = ids(plan_roll(fleet_of(wanted(hosts=3)), Settings(at_once=4, batches=("1", "100%"))))
    assert wide[2] == ["h2:m-0", "h3:m-0", "h2:m-1", "h3:m-1"]


def test_the_floor_is_a_count_or_a_share() -> None:
    fleet = fleet_of(wanted())
    assert len(plan_roll(fleet, Settings(at_once=8, floor="75%")).waves[-1].moves) <= 4
    assert min(wave.left["m"] for wave in plan_roll(fleet, Settings(at_once=8, floor="75%")).waves) == 12
    with pytest.raises(RollError, match=r"m: 16 of 16 replicas are in rotation and the floor is 16"):
        plan_roll(fleet, Settings(floor="16"))


def test_a_single_replica_is_refused_unless_an_outage_is_accepted() -> None:
    fleet = fleet_of(wanted(hosts=1, per_host=1))
    with pytest.raises(RollError, match=r"trainyard_redeploy: \{floor: 0\}"):
        plan_roll(fleet, Settings())
    assert len(plan_roll(fleet, Settings(floor="0")).waves) == 1


def test_refused_when_somebody_elses_drain_already_took_the_room() -> None:
    fleet = fleet_of(wanted(hosts=1), {"h1:m-2": {"state": "drain", "release": NEW}})
    with pytest.raises(RollError) as refusal:
        plan_roll(fleet, Settings())
    text = str(refusal.value)
    assert "3 of 4 replicas are in rotation and the floor is 3" in text
    assert "Out already: h1:m-2 (drain at r0)" in text


def test_a_broken_replica_is_rolled_first_and_gives_the_room_back() -> None:
    fleet = fleet_of(wanted(), {"h4:m-3": {"active": "failed", "release": "", "current": OLD, "up": False}})
    plan = plan_roll(fleet, Settings())
    assert ids(plan)[0] == ["h4:m-3"]
    assert plan.waves[0].batch == 0
    assert plan.waves[0].left["m"] == 15
    assert not plan.waves[0].canary, "it has no traffic of its own to be compared by before"
    assert plan.waves[1].canary
    assert len(plan.waves) == 16


def test_a_failed_replica_of_the_wanted_release_is_started_again() -> None:
    fleet = fleet_of(wanted(release=OLD), {"h1:m-0": {"active": "failed", "release": "", "current": OLD, "up": False}})
    plan = plan_roll(fleet, Settings())
    assert ids(plan) == [["h1:m-0"]]
    assert plan.waves[0].moves[0].restart
    assert plan.waves[0].moves[0].reason == "its unit is failed"


def test_what_a_person_drained_is_rolled_and_left_out() -> None:
    fleet = fleet_of(wanted(), {"h1:m-0": {"state": "maint"}})
    plan = plan_roll(fleet, Settings(floor="10"))
    move = plan.waves[0].moves[0]
    assert (move.target.id, move.admit, move.drain) == ("h1:m-0", False, False)
    assert "somebody took it out (maint at r0)" in plan.out["h1:m-0"]


@pytest.mark.parametrize(
    ("state", "seen", "restart", "drain"),
    [
        ("drain", {"release": OLD}, True, False),  # killed after the drain
        ("maint", {"release": "", "active": "inactive", "current": OLD}, True, False),  # after the stop
        ("maint", {"release": "", "active": "inactive", "current": NEW}, True, False),  # after the switch
        ("maint", {"release": NEW, "active": "activating"}, True, False),  # while it started
        ("maint", {"release": NEW}, False, False),  # after the gate
        ("ready", {"release": OLD}, True, True),  # before the drain
    ],
)
def test_an_interrupted_roll_is_resumed_from_wherever_it_stopped(
    state: str, seen: dict[str, Any], restart: bool, drain: bool
) -> None:
    pending = {"admitted": True, "step": "planned", "release": NEW, "was": OLD}
    fleet = fleet_of(wanted(), {"h1:m-0": {"state": state, "pending": pending, **seen}})
    plan = plan_roll(fleet, Settings())
    move = plan.waves[0].moves[0]
    assert move.target.id == "h1:m-0"
    assert (move.restart, move.drain, move.admit) == (restart, drain, True)
    assert sorted(name for wave in ids(plan) for name in wave) == sorted(fleet.observed)


def test_all_reasons_against_a_roll_come_at_once() -> None:
    plan = wanted(hosts=2, per_host=2)
    fleet = fleet_of(plan, {"h1:m-0": {"staged": [OLD]}, "h2:m-1": {"staged": []}})
    fleet = replace(fleet, silent=("h9",))
    with pytest.raises(RollError) as refusal:
        plan_roll(fleet, Settings())
    assert len(refusal.value.problems) == 3
    assert "h9 did not answer" in str(refusal.value)
    assert f"h1:m-0: release {NEW} is not complete on its host (there: {OLD})" in str(refusal.value)


def test_a_new_name_is_no_redeploy() -> None:
    fleet = fleet_of(wanted(hosts=1), {"h1:m-0": {"served_name": "other"}})
    with pytest.raises(RollError, match="h1:m-0: it serves other now and would serve m"):
        plan_roll(fleet, Settings())


def test_peers_stay_in_rotation_and_those_on_the_old_release_come_first() -> None:
    waves = plan_roll(fleet_of(wanted(), {"h1:m-1": {"state": "drain", "release": OLD}}), Settings(floor="8")).waves
    for wave in waves:
        moving = {move.target.id for move in wave.moves}
        assert not moving & {peer.target.id for peer in wave.peers}
        assert len(wave.peers) == 8
    last = [peer.target.id for peer in waves[-3].peers]
    assert last[:2] == ["h4:m-2", "h4:m-3"]


def test_a_repaired_replica_is_a_peer_of_the_next() -> None:
    fleet = fleet_of(wanted(hosts=1, per_host=2), {"h1:m-0": {"active": "failed", "release": "", "current": OLD}})
    waves = plan_roll(fleet, Settings()).waves
    assert [[peer.target.id for peer in wave.peers] for wave in waves] == [["h1:m-1"], ["h1:m-0"]]


def test_a_dry_run_asks_for_no_staged_release() -> None:
    fleet = fleet_of(wanted(), {"h1:m-0": {"staged": [OLD]}})
    assert len(plan_roll(fleet, Settings(), require_staged=False).waves) == 16


def test_an_unreachable_router_is_a_reason_too() -> None:
    plan = wanted(hosts=1)
    fleet = read_fleet(plan, {"h1": {}}, {"r0": None})
    with pytest.raises(RollError, match="r0 did not answer"):
        plan_roll(fleet, Settings())


def test_a_replica_ready_at_one_router_of_two_is_in_rotation() -> None:
    fleet = fleet_of(wanted(hosts=1, per_host=2), routers=2)
    seats = {router: dict(servers) for router, servers in fleet.seats.items()}
    seats["r1"]["h1:m-0"] = Seat("drain")
    fleet = replace(fleet, seats=seats)
    assert "h1:m-0" not in out_of_rotation(fleet)
    assert next(move for wave in plan_roll(fleet, Settings()).waves for move in wave.moves).drain


def test_new_slices_wait_until_the_old_holder_has_moved() -> None:
    """Two replicas of 32 cores become four of 16: each start needs cores that an earlier move gave up."""
    plan = wanted(hosts=1, per_host=4)
    reports = {"h1": {"m-0": running(cores=[0, 31]), "m-1": running(cores=[32, 63])}}
    for name in ("m-2", "m-3"):
        reports["h1"][name] = {"staged": [NEW]}
    seats = {f"h1:m-{index}": {"state": "ready", "up": index < 2} for index in range(4)}
    order = ids(plan_roll(read_fleet(plan, reports, {"r0": seats}), Settings(floor="1")))
    place = {name: number for number, wave in enumerate(order) for name in wave}
    assert place["h1:m-1"] > place["h1:m-0"]
    assert min(place["h1:m-2"], place["h1:m-3"]) > place["h1:m-1"]


def test_slices_that_wait_for_each_other_are_refused() -> None:
    plan = wanted(hosts=1, per_host=2)
    reports = {"h1": {"m-0": running(cores=[32, 63]), "m-1": running(cores=[0, 31])}}
    seats = {f"h1:m-{index}": {"state": "ready"} for index in range(2)}
    with pytest.raises(RollError, match=r"h1:m-0, h1:m-1 wait for each other's cores"):
        plan_roll(read_fleet(plan, reports, {"r0": seats}), Settings())


def test_cores_held_by_a_replica_outside_the_plan_are_named() -> None:
    plan = wanted(hosts=1, per_host=2)
    reports = {"h1": {"m-0": running(), "m-1": running(), "old-0": running(cores=[0, 15])}}
    seats = {f"h1:m-{index}": {"state": "ready"} for index in range(2)}
    with pytest.raises(RollError, match=r"its cores 0-31 are held by h1:old-0 \(0-15\)"):
        plan_roll(read_fleet(plan, reports, {"r0": seats}), Settings())


def test_the_estimate_counts_drain_load_gate_and_watching() -> None:
    settings = Settings(drain_assumed_s=30, gate_s=5, soak_s=10, canary_s=100)
    fleet = fleet_of(wanted(hosts=1, per_host=2), {"h1:m-1": {"load_s": None}})
    plan = plan_roll(fleet, settings)
    assert [wave.seconds for wave in plan.waves] == [30 + 600 + 5 + 100, 30 + 900 + 5 + 10]
    head, first, second = plan.lines()
    assert head == (
        "Roll of 2 replicas on 1 hosts, 1 at a time, 2 waves, about 28 min "
        "(1 load times recorded, 1 assumed at 15 min)."
    )
    assert "wave 1 (canary)  h1:m-0  0ld0ld0ld0ld -> new123new123" in first
    assert "drain, stop, switch, start, gate, ready at 11%, watch 100 s; about 12 min; 1 of 2 stay in rotation" in first
    assert "watch 10 s" in second


def test_a_load_that_was_never_seen_is_counted_as_it_is_forecast_and_one_that_was_as_it_was() -> None:
    settings = Settings(drain_assumed_s=30, gate_s=5, soak_s=10, canary_s=100)
    fleet = fleet_of(wanted(hosts=1, per_host=3), {"h1:m-1": {"load_s": None}, "h1:m-2": {"load_s": None}})
    plan = plan_roll(fleet, settings, loads={"h1:m-0": 1.0, "h1:m-1": 50.0})
    assert [wave.seconds for wave in plan.waves] == [30 + 600 + 5 + 100, 30 + 50 + 5 + 10, 30 + 900 + 5 + 10]
    assert plan.lines()[0].endswith("(1 load times recorded, 1 forecast at up to 50 s, 1 assumed at 15 min).")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"calibration": ""}, 'calibration = "": must be a path'),
        ({"at_once": 0}, "at_once = 0: must be 1"),
        ({"drain_policy": "kill"}, 'drain_policy = "kill": must be one of wait'),
        ({"floor": "120%"}, 'floor = "120%": must be 0 to 100%'),
        ({"batches": []}, r"batches = \[\]: must have 1"),
        ({"soak_s": -1}, "soak_s = -1: must be 0"),
        ({"speed": 1}, "speed = 1: is no field here"),
    ],
)
def test_senseless_settings_are_refused(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(RollError, match=message):
        Settings.from_dict(raw)


def test_durations_read_well() -> None:
    assert [duration(seconds) for seconds in (3, 99, 960, 18000)] == ["3 s", "99 s", "16 min", "5 h 00 min"]


@given(
    hosts=st.integers(1, 6),
    per_host=st.sampled_from([1, 2, 4]),
    at_once=st.integers(1, 6),
    floor=st.sampled_from(["auto", "0", "1", "50%", "75%", "90%"]),
    broken=st.lists(st.integers(0, 23), max_size=4, unique=True),
)
def test_no_wave_ever_goes_below_the_floor(
    hosts: int, per_host: int, at_once: int, floor: str, broken: list[int]
) -> None:
    plan = wanted(hosts, per_host)
    names = [item["id"] for entry in plan["hosts"].values() for item in entry["replicas"]]
    out = {names[index] for index in broken if index < len(names)}
    fleet = fleet_of(plan, {name: {"active": "failed", "release": "", "current": OLD, "up": False} for name in out})
    settings = Settings(at_once=at_once, floor=floor)
    try:
        roll = plan_roll(fleet, settings)
    except RollError:
        return
    serving = set(names) - out
    # Worked out here, and not asked of what is tested: `auto` is all but what moves at a time, a share is rounded up.
    least = {
        "auto": max(len(names) - at_once, 1),
        "0": 0,
        "1": 1,
        **{f"{share}%": -(-len(names) * share // 100) for share in (50, 75, 90)},
    }[floor]
    for wave in roll.waves:
        moving = {move.target.id for move in wave.moves}
        assert len(moving) <= at_once
        if moving & serving:
            assert len(serving - moving) >= least
        assert wave.left["m"] == len(serving - moving)
        serving |= moving
    assert sorted(name for wave in ids(roll) for name in wave) == sorted(names)


def test_a_replica_that_never_ran_is_new() -> None:
    assert Observed.from_dict({}).active == "inactive"
    plan = wanted(hosts=1, per_host=2)
    fleet = read_fleet(plan, {"h1": {"m-0": running(NEW), "m-1": {"staged": [NEW]}}}, {})
    moves = [move for wave in plan_roll(fleet, Settings()).waves for move in wave.moves]
    assert [(move.target.id, move.reason, move.admit) for move in moves] == [("h1:m-1", "new", True)]


def test_a_host_leaves_where_the_others_serve_and_no_floor_is_named() -> None:
    fleet = fleet_of(wanted(release=OLD))
    assert cannot_leave(fleet, ["h2"], Settings()) == []
    assert cannot_leave(fleet, ["h2"], Settings(floor="75%")) == []
    assert (
        "12 of 16 replicas would be in rotation without h2, and the floor is 13"
        in (cannot_leave(fleet, ["h2"], Settings(floor="80%"))[0])
    )


def test_a_host_stays_where_another_is_out_or_there_is_no_other() -> None:
    fleet = fleet_of(wanted(release=OLD), {"h1:m-0": {"active": "failed", "running": "", "up": False}})
    assert "Out already: h1:m-0 (unit failed)" in cannot_leave(fleet, ["h2"], Settings())[0]
    assert cannot_leave(fleet, ["h1"], Settings()) == [], "what is out is on the host that leaves"
    alone = fleet_of(wanted(hosts=1, release=OLD))
    assert (
        "0 of 4 replicas would be in rotation without h1, and the floor is 1"
        in (cannot_leave(alone, ["h1"], Settings())[0])
    )
    assert cannot_leave(alone, ["h1"], Settings(floor="0")) == []


def test_a_host_that_comes_back_on_another_release_has_a_canary_and_is_compared_with_the_others() -> None:
    """All its replicas were stopped, as for a change of the host's SDK; the other hosts have no part in this roll."""
    stopped = {"active": "inactive", "running": "", "up": False}
    everywhere = fleet_of(wanted(hosts=3, per_host=2))
    here = fleet_of(wanted(hosts=1, per_host=2), {"h1:m-0": stopped, "h1:m-1": stopped})
    beside = [peer for peer in in_rotation(everywhere) if peer.target.host != "h1"]
    plan = plan_roll(here, Settings(at_once=2), beside=beside)
    assert ids(plan) == [["h1:m-0"], ["h1:m-1"]]
    assert [wave.canary for wave in plan.waves] == [True, False]
    assert {peer.target.id for peer in plan.waves[0].peers} == {"h2:m-0", "h2:m-1", "h3:m-0", "h3:m-1"}
    assert "h1:m-0" in {peer.target.id for peer in plan.waves[1].peers}
    # A tenth beside the four that share the traffic, though none of them has a part in this roll.
    assert plan.waves[0].weights == {"h1:m-0": 44}


def test_replicas_that_only_have_to_start_again_have_no_canary() -> None:
    stopped = {"active": "inactive", "running": "", "up": False}
    plan = plan_roll(fleet_of(wanted(hosts=1, per_host=2, release=OLD), {"h1:m-0": stopped}), Settings())
    assert [(wave.batch, wave.canary) for wave in plan.waves] == [(0, False)]


def test_only_those_that_are_named_move_and_the_unwell_keep_their_release() -> None:
    """Healing restarts one replica of a fleet whose inventory wants another release."""
    seats = {"r": {f"h{number}:m-{index}": Seat("ready") for number in (1, 2) for index in (0, 1)}}
    fleet = read_fleet(
        wanted(2, 2), {f"h{number}": {f"m-{index}": running() for index in (0, 1)} for number in (1, 2)}, {}
    )
    fleet = replace(fleet, seats=seats)
    plan = plan_roll(fleet, Settings(strategy="rolling"), only={"h1:m-0": "it answers no completion"})
    (wave,) = plan.waves
    (move,) = wave.moves
    assert (move.target.id, move.target.release, move.was) == ("h1:m-0", OLD, OLD)
    assert (move.reason, move.drain, move.restart, move.admit) == ("it answers no completion", True, True, True)
    assert wave.left == {"m": 3}, "who answers nothing is none of those that serve"
    # One that is named without a reason is moved to where the plan wants it.
    (wave,) = plan_roll(fleet, Settings(strategy="rolling"), only={"h1:m-1": ""}).waves
    assert [(move.target.id, move.target.release) for move in wave.moves] == [("h1:m-1", NEW)]


def test_the_last_replica_of_a_model_is_restarted_where_it_answers_nothing() -> None:
    fleet = read_fleet(wanted(1, 1), {"h1": {"m-0": running()}}, {})
    fleet = replace(fleet, seats={"r": {"h1:m-0": Seat("ready")}})
    with pytest.raises(RollError):
        plan_roll(fleet, Settings(strategy="rolling"), only={"h1:m-0": ""})
    assert plan_roll(fleet, Settings(strategy="rolling"), only={"h1:m-0": "it answers nothing"}).waves
