# SPDX-License-Identifier: Apache-2.0
"""What healing does about findings, what it does not, and that no storm of them gets more out of it than its budget."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils import heal, history
from ansible_collections.trainyard.neuron.plugins.plugin_utils.heal import (
    Decision,
    Device,
    Finding,
    Fleet,
    Limits,
    Replica,
    decide,
)
from hypothesis import given, settings
from hypothesis import strategies as st

NOW_S = 1_800_000_000.0
LIMITS = Limits()
STALLED = Finding(heal.RESTART, "a", "m-0", alert="ReplicaStalled")
BROKEN = Finding(heal.QUARANTINE, "a", device=0, alert="UncorrectableECC")


def replica(host: str, index: int, **more: Any) -> Replica:
    more.setdefault("devices", tuple(range(index * 4, index * 4 + 4)))
    return Replica(f"{host}:m-{index}", host, f"m-{index}", "m", "model", **more)


def fleet(
    *changed: Replica, devices: dict[tuple[str, int], Device] | None = None, routers: Sequence[str] = ()
) -> Fleet:
    """Two hosts with two replicas each, all in rotation, those that a test names in the place of the others."""
    known = {one.id: one for one in (replica(host, index) for host in ("a", "b") for index in (0, 1))}
    known.update({one.id: one for one in changed})
    seen = {(host, index): Device() for host in ("a", "b") for index in range(8)}
    return Fleet(tuple(known.values()), {**seen, **(devices or {})}, ("a", "b"), tuple(routers))


def did(decision: Decision, ago_s: float, ended: bool = True, run: str = "before") -> list[dict[str, Any]]:
    """An action as the history has it."""
    began = heal.event_of(decision, heal.BEGUN, run, "me@here", NOW_S - ago_s)
    over = heal.event_of(decision, heal.DONE, run, "me@here", NOW_S - ago_s + 30)
    return [began, over] if ended else [began]


def act(finding: Finding, found: Fleet, events: Sequence[dict[str, Any]] = (), limits: Limits = LIMITS) -> Decision:
    return decide(finding, found, events, limits, NOW_S)


def test_a_replica_that_answers_nothing_is_restarted() -> None:
    found = act(STALLED, fleet(replica("a", 0, generates=False)))
    assert (found.action, found.replicas, found.deployments, found.page) == (heal.RESTART, ("a:m-0",), ("m",), False)
    assert act(STALLED, fleet(replica("a", 0, active="failed", serving=False))).action == heal.RESTART


@pytest.mark.parametrize(
    ("finding", "found", "why"),
    [
        (STALLED, fleet(replica("a", 0, generates=True)), "a false alarm: it generates"),
        (replace(STALLED, over=True), fleet(replica("a", 0, generates=False)), "it is over"),
        (replace(STALLED, host="c"), fleet(), "c is no serving host of the plan"),
        (replace(STALLED, replica="x"), fleet(), "the plan has no such replica"),
        (STALLED, fleet(replica("a", 0, active="activating", serving=False)), "it is on its way up"),
        (STALLED, fleet(), "nobody asked it"),
        (BROKEN, fleet(), "a false alarm: the host shows nothing wrong with it"),
        (BROKEN, fleet(devices={("a", 0): Device(("x 1",), out=True)}), "it is out of the plan already"),
        (replace(BROKEN, device=99), fleet(), "no such device"),
        (Finding(heal.LIFT, "a", device=0), fleet(), "it is not out of the plan"),
        (
            Finding(heal.LIFT, "a", device=0),
            fleet(devices={("a", 0): Device(("x 1",), out=True)}),
            "as broken as before",
        ),
        (Finding(heal.LIFT, "a", device=0), fleet(devices={("a", 0): Device(out=True)}), "the same device still"),
        (Finding(heal.REPLACE, "a"), fleet(), "playbooks/evacuate.yml -e trainyard_only=a"),
    ],
)
def test_nothing_is_done_where_nothing_helps_or_nothing_is_wrong(finding: Finding, found: Fleet, why: str) -> None:
    decision = act(finding, found)
    assert decision.action == heal.NOTHING
    assert why in decision.why


def test_a_start_that_takes_too_long_is_restarted_though_it_is_on_its_way_up() -> None:
    slow = fleet(replica("a", 0, active="activating", serving=False))
    assert act(replace(STALLED, alert="StartTooLong"), slow).action == heal.RESTART


def test_what_did_not_help_is_not_done_again_but_told() -> None:
    ill = fleet(replica("a", 0, generates=False))
    first = act(STALLED, ill)
    again = act(STALLED, ill, did(first, 600))
    assert (again.action, again.page) == (heal.NOTHING, True)
    assert "10 min ago, and did not help" in again.why
    assert act(STALLED, ill, did(first, 7200)).action == heal.RESTART


def test_a_restart_on_a_broken_device_would_not_help() -> None:
    broken = {("a", 2): Device(("sram_uncorrected 1",))}
    found = act(STALLED, fleet(replica("a", 0, generates=False, room=True), devices=broken))
    assert (found.action, found.finding.device, found.replicas) == (heal.QUARANTINE, 2, ("a:m-0",))


def test_replicas_leave_a_broken_device_where_there_is_room_elsewhere() -> None:
    broken = {("a", 0): Device(("mem_uncorrected 3",))}
    found = act(BROKEN, fleet(replica("a", 0, room=True), devices=broken))
    assert (found.action, found.replicas) == (heal.QUARANTINE, ("a:m-0",))
    assert "mem_uncorrected 3" in found.why and "Replace the host" in found.why
    unused = act(
        replace(BROKEN, device=7), fleet(replica("a", 1, devices=(4, 5)), devices={("a", 7): Device(("x 3",))})
    )
    assert (unused.action, unused.replicas) == (heal.QUARANTINE, ()), "nobody is on it, and nobody will be"


def test_without_room_nobody_is_sent_to_a_broken_device_and_a_person_is_told() -> None:
    broken = {("a", 0): Device(("mem_uncorrected 3",))}
    found = act(BROKEN, fleet(replica("a", 0, room=False), devices=broken))
    assert (found.action, found.replicas, found.page) == (heal.DRAIN, ("a:m-0",), True)
    out = act(BROKEN, fleet(replica("a", 0, room=False, active="failed", serving=False), devices=broken))
    assert (out.action, out.page) == (heal.NOTHING, True)


def test_a_repairable_error_reboots_once_and_then_counts_as_broken() -> None:
    broken = {("a", 0): Device(("mem_repairable_uncorrected 1",), repairable=True)}
    finding = replace(BROKEN, finding=heal.REBOOT)
    one = fleet(replica("a", 0, room=True), devices=broken)
    first = act(finding, one)
    assert (first.action, first.replicas) == (heal.REBOOT, ("a:m-0", "a:m-1"))
    assert act(finding, one, did(first, 4 * 3600)).action == heal.QUARANTINE
    router = act(finding, replace(one, routers=("a",)))
    assert (router.action, router.page) == (heal.NOTHING, True)
    assert "cuts every stream" in router.why


def test_a_replica_that_the_error_took_does_not_keep_its_host_from_the_reboot_that_brings_it_back() -> None:
    broken = {("a", 0): Device(("mem_repairable_uncorrected 1",), repairable=True)}
    dead = replica("a", 0, active="failed", serving=False, generates=False)
    found = act(Finding(heal.REBOOT, "a", device=0), fleet(dead, devices=broken, routers=["b"]))
    assert (found.action, found.replicas) == (heal.REBOOT, ("a:m-0", "a:m-1")), found.why
    other = replica("b", 1, active="failed", serving=False, generates=False)
    refused = act(Finding(heal.REBOOT, "a", device=0), fleet(dead, other, devices=broken))
    assert refused.action == heal.NOTHING and "b:m-1 is out" in refused.why


def test_no_model_loses_a_replica_that_it_needs() -> None:
    wrong = Finding(heal.DRAIN, "a", "m-0", alert="NumericalErrors")
    assert act(wrong, fleet()).action == heal.DRAIN
    short = act(wrong, fleet(replica("b", 1, serving=False, active="failed")))
    assert (short.action, short.page) == (heal.NOTHING, True)
    assert "2 of 4 replicas left, and b:m-1 is out" in short.why
    # One that answers nothing takes nothing from anybody.
    both = fleet(replica("a", 0, generates=False), replica("b", 1, serving=False, active="failed"))
    assert act(STALLED, both).action == heal.RESTART


def test_another_replica_of_a_model_waits_for_one_whose_healing_did_not_end() -> None:
    ill = fleet(replica("a", 0, generates=False), replica("b", 0, generates=False))
    begun = did(act(STALLED, ill), 600, ended=False)
    other = act(replace(STALLED, host="b"), ill, begun)
    assert (other.action, other.page) == (heal.NOTHING, True)
    assert "run before began restart_replica of another replica" in other.why
    assert act(replace(STALLED, host="b"), ill, did(act(STALLED, ill), 600)).action == heal.RESTART


def test_a_false_alarm_is_taken_back() -> None:
    out = {("a", 0): Device(out=True)}
    taken = act(replace(BROKEN, over=True), fleet(devices=out))
    assert (taken.action, taken.why) == (heal.LIFT, "it was a false alarm")
    new = act(Finding(heal.LIFT, "a", device=0), fleet(devices={("a", 0): Device(replaced=True)}))
    assert (new.action, new.why) == (heal.LIFT, "it was replaced")
    wrong = Finding(heal.DRAIN, "a", "m-0", alert="NumericalErrors")
    drained = fleet(replica("a", 0, serving=False, drained=True, generates=True))
    assert act(replace(wrong, over=True), drained, did(act(wrong, fleet()), 600)).action == heal.READMIT
    # What a person drained stays so.
    assert act(replace(wrong, over=True), drained).action == heal.NOTHING


KINDS = st.sampled_from(heal.FINDINGS)
STORM = st.lists(
    st.tuples(
        KINDS,
        st.sampled_from(("a", "b", "c")),
        st.integers(0, 2),
        st.booleans(),
        st.floats(1, 900),
        st.sampled_from(("active", "failed", "activating")),
        st.sampled_from((None, True, False)),
        st.booleans(),
    ),
    max_size=60,
)


@given(STORM, st.integers(0, 4))
@settings(max_examples=300, deadline=None)
def test_a_storm_gets_no_more_than_the_budget_and_the_rest_is_told(storm: Any, budget: int) -> None:
    events: list[dict[str, Any]] = []
    acted: list[tuple[float, Decision]] = []
    at_s = NOW_S
    for number, (kind, host, index, over, gap_s, active, generates, sick) in enumerate(storm):
        at_s += gap_s
        device = index if kind in heal.OF_DEVICES else None
        finding = Finding(kind, host, f"m-{index}" if device is None else "", device, "X", over)
        odd = replica("a", 0, active=active, generates=generates, serving=active == "active", room=sick)
        one = fleet(odd, devices={("a", 0): Device(("mem_uncorrected 1",) if sick else (), out=over)})
        decision = decide(finding, one, events, Limits(budget), at_s)
        if decision.action == heal.NOTHING:
            assert decision.why
            continue
        acted.append((at_s, decision))
        assert len(set(decision.replicas) & {"a:m-0", "a:m-1", "b:m-0", "b:m-1"}) == len(decision.replicas)
        assert decision.action not in (heal.RESTART, heal.READMIT) or len(decision.replicas) == 1, "never two at once"
        events.append(heal.event_of(decision, heal.BEGUN, str(number), "me", at_s))
        events.append(heal.event_of(decision, heal.DONE, str(number), "me", at_s))
        within = [when for when, other in acted if "m" in other.deployments and at_s - when < heal.HOUR_S]
        assert "m" not in decision.deployments or len(within) <= budget


def test_a_storm_of_false_alarms_stops_at_the_budget_and_pages() -> None:
    """Each replica in turn answers nothing: two are restarted, and then somebody is called."""
    events: list[dict[str, Any]] = []
    said = []
    for number, (host, index) in enumerate([("a", 0), ("a", 1), ("b", 0), ("b", 1)]):
        ill = fleet(replica(host, index, generates=False))
        decision = decide(replace(STALLED, host=host, replica=f"m-{index}"), ill, events, Limits(), NOW_S + number)
        said.append((decision.action, decision.page))
        if decision.action != heal.NOTHING:
            events += [
                heal.event_of(decision, state, str(number), "me", NOW_S + number) for state in (heal.BEGUN, heal.DONE)
            ]
    assert said == [(heal.RESTART, False)] * 2 + [(heal.NOTHING, True)] * 2
    assert "its budget is 2" in decision.why


def test_a_finding_is_read_whole_or_refused_with_all_that_is_wrong() -> None:
    given_ = {"finding": "quarantine_device", "host": "a", "device": "5", "alert": "DeviceUnhealthy", "over": "true"}
    assert heal.finding_of(given_) == Finding(heal.QUARANTINE, "a", "", 5, "DeviceUnhealthy", True)
    with pytest.raises(heal.FindingError) as caught:
        heal.finding_of({"finding": "restart", "hosts": "a", "device": "-1"})
    said = str(caught.value)
    assert "trainyard_finding.hosts: is no word of a finding: did you mean 'host'?" in said
    assert "'restart' is none of restart_replica" in said
    assert "None is no host's name" in said and "'-1' is no device's index" in said
    for kind in ("restart_replica", "reboot_host"):
        with pytest.raises(heal.FindingError, match="needs one"):
            heal.finding_of({"finding": kind, "host": "a"})


def test_findings_of_alertmanager_come_the_gravest_first_and_once() -> None:
    def alert(**labels: str) -> dict[str, Any]:
        return {"labels": {"alertname": "X", **labels}, "status": {"state": "active"}}

    alerts = [
        alert(finding="restart_replica", host="a", replica="m-0"),
        alert(finding="restart_replica", host="a", replica="m-0"),
        alert(finding="drain_replica", host="b", runtime_tag="m-1"),
        alert(finding="quarantine_device", host="a", device="5"),
        alert(severity="warn", host="a"),
        alert(finding="quarantine_device", host="a", device="none"),
        {**alert(finding="restart_replica", host="b", replica="m-0"), "status": {"state": "suppressed"}},
    ]
    found, _ = heal.findings_of(alerts)
    assert [(one.finding, one.of) for one in found] == [
        ("quarantine_device", "a:device 5"),
        ("drain_replica", "b:m-1"),
        ("restart_replica", "a:m-0"),
    ]


def test_an_alert_whose_finding_is_not_understood_is_told_with_the_nearest_word() -> None:
    labels = [
        {"finding": "quarantine_devise", "host": "a", "device": "5", "alertname": "Mine"},
        {"finding": "quarantine_device", "host": "a", "device": "none", "alertname": "Mine"},
        {"severity": "warn", "host": "a", "alertname": "NoFinding"},
    ]
    found, problems = heal.findings_of({"labels": one, "status": {"state": "active"}} for one in labels)
    assert not found
    assert {line.split(":")[0] for line in problems} == {"alert 'Mine'"}
    assert "did you mean 'quarantine_device'?" in problems[0]
    assert "'none' is no device's index" in problems[1]


def test_the_history_keeps_every_event_in_order_whatever_a_full_disk_cut(tmp_path: Path) -> None:
    file = history.beside(str(tmp_path))
    assert history.read(file) == []
    history.add(file, {"at_s": 1.0, "what": "heal"})
    with file.open("ab") as cut:
        cut.write(b'{"at_s": 2.0, "wh')
    history.add(file, {"at_s": 3.0, "what": "roll"})
    assert [event["at_s"] for event in history.read(file)] == [1.0, 3.0]
    assert file.name == "trainyard_history.txt"
    assert history.beside(str(tmp_path / "hosts.yml")) == file
    with pytest.raises(history.HistoryError, match="longer than any"):
        history.add(file, {"at_s": 1.0, "what": "x" * history.LINE_BYTES})


def test_a_history_that_cannot_be_read_ends_the_healing(tmp_path: Path) -> None:
    """Without it nobody knows how much of the budget is left."""
    with pytest.raises(history.HistoryError, match="cannot be read"):
        history.read(tmp_path)


def test_the_file_that_an_inventory_names_is_taken(tmp_path: Path) -> None:
    other = str(tmp_path / "h.jsonl")
    assert history.path_of({history.VARIABLE: other, "ansible_inventory_sources": ["/x"]}) == Path(other)
    assert history.path_of({"ansible_inventory_sources": [str(tmp_path)]}) == tmp_path / history.NAME


def test_only_what_was_begun_counts() -> None:
    ill = fleet(replica("a", 0, generates=False))
    decision = act(STALLED, ill)
    states = [heal.event_of(decision, state, "r", "me", NOW_S) for state in (heal.WOULD, heal.TOLD)]
    assert act(STALLED, ill, states, Limits(1)).action == heal.RESTART
    assert json.loads(json.dumps(states)) == states


@pytest.mark.parametrize("over", ["ture", "1", 2, None, [], "x" * 1000])
def test_whether_a_finding_is_over_is_said_or_refused(over: Any) -> None:
    with pytest.raises(heal.FindingError, match="neither true nor false") as caught:
        heal.finding_of({"finding": heal.RESTART, "host": "a", "replica": "x-0", "over": over})
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(("over", "read"), [(True, True), ("True", True), ("yes", True), ("no", False), (False, False)])
def test_ansible_s_words_for_a_switch_are_known(over: Any, read: bool) -> None:
    found = heal.finding_of({"finding": heal.RESTART, "host": "a", "replica": "x-0", "over": over})
    assert found.over is read
