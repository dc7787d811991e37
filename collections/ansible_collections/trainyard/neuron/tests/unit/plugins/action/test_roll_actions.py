# SPDX-License-Identifier: Apache-2.0
"""The controller's side of a roll: what the playbook is told, and what the operator reads at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.action.roll_plan import (
    elsewhere,
    files,
    identity,
    lease_s,
    named,
    ordered,
    overview,
    reported,
    wanted,
)
from ansible_collections.trainyard.neuron.plugins.action.roll_report import finished, light_weights, report_lines
from ansible_collections.trainyard.neuron.plugins.action.roll_step import (
    JUDGED,
    LOCK,
    STEPS,
    answers,
    decide,
    facts,
    mark,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.settings import HOOK_KINDS
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.orders import RollOrder, Terms, WaveOrder
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.plan import (
    out_of_rotation,
    plan_roll,
    read_fleet,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import Fleet, RollError, Seat, Settings
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.roll.fleets import fleet_plan, planned, report

SHAPE = {"h1": 2, "h2": 2}


def roll(
    settings: Settings | None = None,
    routers: tuple[str, ...] = ("r1", "r2"),
    hooks: dict[str, Any] | None = None,
) -> tuple[RollOrder, Fleet]:
    return planned(SHAPE, settings or Settings(), routers, hooks, golden=("Hello",))


def test_each_wave_says_what_every_host_and_router_has_to_do() -> None:
    fact, _ = roll()
    first = fact.waves[0]
    assert first.hosts() == ["h1"]
    assert first.on("h1") == [{"id": "h1:m-0", "name": "m-0", "url": "http://h1:8000", "release": "new", "was": "old"}]
    assert first.routed == {"r1": ("h1:m-0",), "r2": ("h1:m-0",)}
    assert set(first.watching()) == {"h1", "h2"}
    assert set(first.audience) == {"h1", "h2", "r1", "r2"}
    told = fact.to_dict()
    assert [move["name"] for move in told["moves"]["h2"]] == ["m-0", "m-1"]
    assert told["waves_of"]["h1"] == [0, 1, 2, 3]
    assert fact.terms.lead == "h1"
    assert all("h1" in wave.audience for wave in fact.waves)
    assert fact.terms.settings.router_timeout_s == 900


def test_without_a_watch_only_those_who_act_take_part() -> None:
    fact, _ = roll(Settings(canary_s=0, soak_s=0), routers=("r1",))
    assert [wave.audience for wave in fact.waves] == [("h1", "r1")] * 2 + [("h2", "r1", "h1")] * 2


def test_a_rollback_wants_the_previous_release_and_leaves_out_what_has_none() -> None:
    reports: dict[str, Any] = {"h1": report(previous="older"), "h2": {"replicas": {}}}
    back = wanted(fleet_plan(SHAPE), reports, "rollback")
    assert [item["release"] for item in back["hosts"]["h1"]["replicas"]] == ["older", "older"]
    assert back["hosts"]["h2"]["replicas"] == []


def test_a_run_that_is_limited_plans_for_its_hosts_only() -> None:
    assert list(wanted(fleet_plan(SHAPE), {"h2": report()}, "redeploy")["hosts"]) == ["h2"]


@pytest.mark.parametrize("answer", [None, {"unreachable": True}, {"failed": True, "replicas": {}}, {"skipped": True}])
def test_a_host_that_did_not_answer_has_no_report(answer: dict[str, Any] | None) -> None:
    hostvars = {"h1": {"seen": answer} if answer else {}}
    assert reported(hostvars, "h1", "seen") is None
    assert reported(hostvars, "h9", "seen") is None


def test_status_names_what_is_out_and_what_drifted() -> None:
    _, fleet = roll()
    lines = overview(fleet, {"h1": report(), "h2": {**report(), "problem": "state.json is not whole"}, "h3": None})[
        "msg"
    ]
    assert lines[0] == "h1:m-0  active  release old, wanted new  in rotation"
    assert lines[-2:] == ["h2: state.json is not whole", "4 of 4 replicas are in rotation."]


def test_status_says_who_holds_which_hosts() -> None:
    _, fleet = roll()
    held = {
        name: {**report(), "holder": {"run": run}, "held": f"{who} (redeploy, run {run}, pid 7)"}
        for name, run, who in (("r1", "a", "ann@ops"), ("h1", "a", "ann@ops"), ("h2", "b", "bob@ops"))
    }
    lines = overview(fleet, {**held, "h3": {**report(), "holder": None, "held": ""}})["msg"]
    assert lines[-3:-1] == [
        "r1, h1: held by ann@ops (redeploy, run a, pid 7)",
        "h2: held by bob@ops (redeploy, run b, pid 7)",
    ]


def test_a_lock_outlasts_the_longest_wave_and_its_way_back() -> None:
    assert lease_s(Settings()) > 2 * (2 * 900 + 300 + 3660)
    assert lease_s(Settings(drain_deadline_s=1, start_timeout_s=1, stop_timeout_s=1)) == 7200
    assert lease_s(Settings(drain_policy="wait")) > 2 * 86400


def part(step: str) -> Callable[..., Any]:
    found = STEPS[step].part
    assert found is not None
    return found


def answered(number: int, **answer: Any) -> dict[str, Any]:
    return {"answer": {"wave": number, **answer}}


def test_only_those_who_had_a_part_are_asked_and_only_about_this_wave() -> None:
    fact, _ = roll()
    wave, terms = fact.waves[0], fact.terms
    hostvars = {
        "h1": {"__rolling_redeploy_replace": answered(1, replicas=[])},
        "r1": {"__rolling_redeploy_drain": answered(1, arrived=True)},
        "r2": {"__rolling_redeploy_drain": answered(7, arrived=True)},
    }
    assert answers("replace", wave, terms, hostvars) == {"h1": {"wave": 1, "replicas": []}}
    assert answers("drain", wave, terms, hostvars) == {"r1": {"wave": 1, "arrived": True}, "r2": None}
    assert decide("replace", wave, terms, hostvars).problems == ["r2 gave no answer"]


def test_a_roll_begins_only_with_the_lock_of_every_host() -> None:
    terms = roll()[0].terms
    assert decide("begin", None, terms, {"h1": {"__rolling_redeploy_lock": {"changed": True}}, "h2": {}}).problems == [
        "h2 gave no answer"
    ]


def test_each_step_gives_work_to_those_who_have_a_part_and_to_nobody_else() -> None:
    fact, _ = roll()
    wave, terms = fact.waves[0], fact.terms
    assert part("drain")("r1", wave, terms, []) == (
        "router_server",
        {"state": "drain", "servers": ["h1:m-0"], "timeout_s": 900},
    )
    assert part("drain")("h1", wave, terms, []) is None
    module, arguments = part("replace")("h1", wave, terms, []) or ("", {})
    assert (module, arguments["drain_policy"]) == ("replica_release", "fail")
    assert part("replace")("h2", wave, terms, []) is None
    assert (part("restore")("h1", wave, terms, []) or ("", {}))[1]["state"] == "restored"
    assert {host for host in ("h1", "h2", "r1") if part("watch")(host, wave, terms, [])} == {"h1", "h2", "r1"}


def test_the_canary_gets_its_share_until_it_has_proved_itself_and_the_others_are_left_alone() -> None:
    fact, _ = roll(Settings(canary_share="10%"))
    canary, second, terms = fact.waves[0], fact.waves[1], fact.terms

    def weights(step: str, wave: WaveOrder) -> dict[str, int] | None:
        found = part(step)("r1", wave, terms, [move.id for move in wave.moves])
        return found[1]["weights"] if found else None

    # One tenth beside three others: w / (w + 300) = 0.1.
    assert weights("admit", canary) == {"h1:m-0": 33}
    assert weights("done", canary) == weights("return", canary) == {"h1:m-0": 100}
    assert (weights("admit", second), weights("return", second)) == ({}, {})
    assert part("done")("r1", second, terms, []) is None


def test_a_canary_that_still_gets_too_little_at_the_end_is_named_and_not_forgotten() -> None:
    fact, fleet = roll(Settings(canary_share="10%"))
    assert light_weights(fleet, fact) == {}
    seats = {**fleet.seats["r2"], "h1:m-0": Seat("ready", weight=33)}
    late = replace(fleet, seats={**fleet.seats, "r2": seats})
    light = light_weights(late, fact)
    assert light == {"h1:m-0": "33% of its weight at r2"}
    lines, failed = report_lines(fact, 4, "", {}, [], light)
    assert failed
    assert "  gets too little: h1:m-0: 33% of its weight at r2" in lines
    assert finished(fact, late, light)["h1"] == ["m-1"]


def test_only_what_is_gated_is_readmitted() -> None:
    fact, _ = roll()
    wave, terms = fact.waves[0], fact.terms
    assert part("admit")("r1", wave, terms, []) is None
    assert part("admit")("r1", wave, terms, ["h2:m-0"]) is None
    assert (part("admit")("r1", wave, terms, ["h1:m-0"]) or ("", {}))[1]["servers"] == ["h1:m-0"]


def test_a_wave_is_done_when_it_was_watched_or_when_nothing_is_to_be_watched() -> None:
    fact, _ = roll()
    wave = replace(fact.waves[2], watch_s=10)
    nothing = decide("refused", None, fact.terms, {})
    assert "trainyard_roll_done" not in facts("watch", wave, nothing, "")
    assert facts("done", wave, nothing, "")["trainyard_roll_done"] == 3
    assert facts("watch", replace(wave, watch_s=0), nothing, "")["trainyard_roll_done"] == 3


def test_hooks_that_did_not_come_to_their_end_stop_the_wave() -> None:
    fact, _ = roll(hooks={"drain": ["elb.yml"], "undrain": ["elb.yml"]})
    wave, terms = fact.waves[1], fact.terms
    hostvars: dict[str, Any] = {name: {"__rolling_redeploy_drain": answered(2, arrived=True)} for name in ("r1", "r2")}
    hostvars["h1"] = {"ansible_facts": {"trainyard_hook_drain": mark(fact.waves[0], terms)}}
    assert decide("replace", wave, terms, hostvars).problems == [
        "the hooks `drain` (elb.yml) failed; their message stands above"
    ]
    hostvars["h1"]["ansible_facts"]["trainyard_hook_drain"] = mark(wave, terms)
    assert decide("replace", wave, terms, hostvars).problems == []


def test_hooks_that_make_no_sense_are_refused_all_at_once() -> None:
    with pytest.raises(RollError) as refused:
        files({"drian": [], "before": "x.yml", "drain": ["a.yml"]})
    assert len(refused.value.problems) == 3


def test_where_nobody_can_be_asked_an_unfinished_roll_counts_as_drained() -> None:
    reports = {"h1": report(pending={"admitted": True}), "h2": report()}
    hooks = files({"drain": ["a.yml"], "undrain": ["a.yml"]})
    assert elsewhere(hooks, [], reports) == ["h1:m-0", "h1:m-1"]
    assert elsewhere({**hooks, "is_drained": ["a.yml"]}, ["h2:m-0"], reports) == ["h2:m-0"]
    assert elsewhere(files({}), [], reports) is None


def test_hooks_name_what_is_drained_by_a_list_or_by_what_they_registered() -> None:
    assert named([]) == []
    assert named(["h1:m-0"]) == ["h1:m-0"]
    assert named({"out": ["h1:m-0"], "changed": False}) == ["h1:m-0"]
    assert named({"results": [{"out": []}, {"out": ["h1:m-1"]}, {"out": ["h2:m-0"]}]}) == ["h1:m-1", "h2:m-0"]
    for wrong in ("h1:m-0", {"results": [{"skipped": True}]}, [1]):
        with pytest.raises(RollError, match="not a list of replica ids"):
            named(wrong)


def test_what_is_drained_elsewhere_is_seen_like_a_seat_of_our_own_router() -> None:
    reports = {"h1": report()["replicas"], "h2": report(running="new", current="new")["replicas"]}
    seats = {f"{host}:m-{index}": {"state": "ready"} for host in reports for index in range(2)}
    fleet = read_fleet(fleet_plan(SHAPE), reports, {"r1": seats}, ["h1:m-1"])
    plan = plan_roll(fleet, Settings())
    moves = [move.target.id for wave in plan.waves for move in wave.moves]
    assert moves == ["h1:m-0", "h1:m-1"]
    alone = read_fleet(fleet_plan(SHAPE), reports, {}, ["h1:m-1"])
    assert out_of_rotation(alone) == {"h1:m-1": "drain at elsewhere"}
    assert "somebody took it out" in plan_roll(alone, Settings(floor="1")).out["h1:m-1"]


def test_the_report_of_a_roll_that_stopped_says_where_why_and_what_is_untouched() -> None:
    fact, _ = roll()
    lines, failed = report_lines(fact, 1, "h1:m-1: no gate", {"h1:m-1": "unit failed"}, [], {})
    assert failed
    assert lines[0] == "Redeploy stopped at wave 2 of 4 (h1:m-1); 1 of 4 replicas are rolled."
    assert lines[1] == "  because: h1:m-1: no gate"
    assert lines[2] == "  untouched: h2:m-0, h2:m-1"
    assert lines[3] == "  out of rotation: h1:m-1: unit failed"
    assert "run the same playbook again" in lines[-1]


def test_a_roll_that_is_done_but_left_a_replica_out_has_failed() -> None:
    fact, _ = roll()
    assert report_lines(fact, 4, "", {}, [], {}) == (["Redeploy is done: 4 of 4 replicas rolled in 4 waves."], False)
    assert report_lines(fact, 4, "", {"h2:m-0": "drain at r1"}, [], {})[1]
    assert report_lines(fact, 4, "", {}, ["h2"], {})[1]
    expected = replace(fact, out={"h2:m-0": "somebody took it out"})
    assert not report_lines(expected, 4, "", {"h2:m-0": "drain at r1"}, [], {})[1]


def test_what_is_still_out_is_remembered_for_the_next_run() -> None:
    fact, fleet = roll()
    assert finished(fact, fleet, out_of_rotation(fleet)) == {"h1": ["m-0", "m-1"], "h2": ["m-0", "m-1"]}
    assert finished(fact, fleet, {"h1:m-0": "unit failed"})["h1"] == ["m-1"]


def with_a_spare(active: str = "inactive", running: str = "") -> tuple[RollOrder, Fleet]:
    """A roll of one host that has room for one more replica, as the playbook has it."""
    plan = fleet_plan({"h1": 2})
    entry = plan["hosts"]["h1"]
    entry["spares"] = [{**entry["replicas"][1], "id": "h1:m-spare", "name": "m-spare", "cores": "64-95"}]
    reports = {"h1": report()["replicas"] | {"m-spare": {"active": active, "running": running, "staged": ["new"]}}}
    seats = {"h1:m-0": {"state": "ready"}, "h1:m-1": {"state": "ready"}, "h1:m-spare": {"state": "maint"}}
    fleet = read_fleet(plan, reports, {"r1": seats})
    settings = Settings(strategy="blue_green")
    arguments = {"hosts": ["h1"], "lead": "h1", "thresholds": {}, "golden": [], "hooks": files({})}
    return ordered(plan_roll(fleet, settings), fleet, settings, arguments, identity("redeploy")), fleet


def test_a_spare_is_out_of_rotation_until_it_is_gated_and_in_maintenance_when_it_is_stopped() -> None:
    fact, _ = with_a_spare()
    first, last = fact.waves[0], fact.waves[-1]
    assert part("drain")("r1", first, fact.terms, []) == (
        "router_server",
        {"state": "drain", "servers": ["h1:m-spare"], "timeout_s": 900.0},
    )
    admitted = part("admit")("r1", first, fact.terms, ["h1:m-spare"])
    assert admitted and (admitted[1]["state"], admitted[1]["weights"]) == ("ready", {"h1:m-spare": 22})
    assert part("admit")("r1", last, fact.terms, []) == (
        "router_server",
        {"state": "maint", "servers": ["h1:m-spare"], "timeout_s": 60.0},
    )
    assert last.on("h1") == [
        {"id": "h1:m-spare", "name": "m-spare", "url": "http://h1:8001", "release": "", "was": "new"}
    ]


def test_of_a_spare_nothing_is_remembered_and_the_report_counts_replicas() -> None:
    fact, fleet = with_a_spare("active", "new")
    assert [move["name"] for move in fact.to_dict()["moves"]["h1"]] == ["m-0", "m-1"]
    assert "m-spare" in finished(fact, fleet, {})["h1"]
    lines, failed = report_lines(fact, 1, "h1:m-0 did not start", {}, [], {}, ["h1:m-spare"])
    assert failed
    assert "0 of 2 replicas are rolled" in lines[0]
    assert "  untouched: h1:m-1" in lines
    assert "  stands in still: h1:m-spare" in lines
    assert any(row.startswith("h1:m-spare  active  release new  stands in") for row in overview(fleet, {})["msg"])


def test_a_rollback_takes_spares_that_have_a_release_to_go_back_to() -> None:
    plan = fleet_plan({"h1": 1})
    spare = {**plan["hosts"]["h1"]["replicas"][0], "id": "h1:m-spare", "name": "m-spare"}
    plan["hosts"]["h1"] |= {"spares": [spare], "memory": {"loads_at_once": 1}}
    rows = report(1, previous="older")["replicas"]
    back = wanted(plan, {"h1": {"replicas": rows | {"m-spare": {"previous": "before"}}}}, "rollback")["hosts"]["h1"]
    assert [row["release"] for row in back["replicas"] + back["spares"]] == ["older", "before"]
    assert back["memory"]
    assert wanted(plan, {"h1": {"replicas": rows}}, "rollback")["hosts"]["h1"]["spares"] == []


def test_the_table_names_steps_and_hooks_that_there_are() -> None:
    assert {step.after for step in STEPS.values()} - {"", LOCK} == set(JUDGED)
    assert {step.hook for step in STEPS.values()} - {""} <= set(HOOK_KINDS)
    assert set(JUDGED) - {"lock"} <= set(STEPS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda raw: raw["waves"][0].update(wacth_s=3),
            "wave 1: wacth_s is no word that is known, meant is perhaps watch_s",
        ),
        (lambda raw: raw["waves"][0].pop("watch_s"), "wave 1: watch_s is missing"),
        (lambda raw: raw["waves"][1].update(canary="no"), "wave 2: canary is 'no', wanted is true or false"),
        (lambda raw: raw["waves"][0]["moves"][0].update(admitt=True), "moves: admitt is no word that is known"),
        (lambda raw: raw["waves"][0]["moves"][0].update(drain=0), "moves: drain is 0, wanted is true or false"),
        (lambda raw: raw["terms"].update(leader="h1"), "the roll's terms: leader is no word that is known"),
        (lambda raw: raw["terms"]["settings"].update(at_onec=2), "at_onec"),
        (lambda raw: raw["terms"]["thresholds"].update(chance=float("nan")), "chance"),
    ],
)
def test_a_step_takes_no_word_of_a_roll_that_it_does_not_know(change: Callable[[Any], Any], said: str) -> None:
    raw = roll()[0].to_dict()
    assert RollOrder.from_dict(raw).to_dict() == raw
    change(raw)
    with pytest.raises(RollError) as refused:
        RollOrder.from_dict(raw)
    assert said in str(refused.value)


def test_the_terms_of_a_roll_are_the_same_after_they_have_travelled() -> None:
    settings = Settings(floor="50%", batches=("2", "50%"), drain_policy="abort", canary_share="25%", soak_s=0.0)
    order, _ = roll(settings)
    assert Terms.from_dict(order.terms.to_dict()) == order.terms
    assert order.terms.settings == settings
