# SPDX-License-Identifier: Apache-2.0
"""Between two steps: one bad answer stops everybody, and only what proved itself comes back."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.metrics import Histogram, Reading
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll import steps
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.canary import Thresholds
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.orders import MoveOrder, PeerOrder, WaveOrder

UNREACHABLE = {"unreachable": True, "msg": "ssh: no route to host"}


def move(name: str = "h1:m-0", **more: Any) -> MoveOrder:
    host, _, short = name.partition(":")
    words: dict[str, Any] = {
        "id": name,
        "name": short,
        "host": host,
        "unit": f"vllm@{short}.service",
        "url": f"http://{host}:8000",
        "address": host,
        "port": 8000,
        "was": "old",
        "release": "new",
        "kind": "replace",
        "reason": "release",
        "drain": True,
        "restart": True,
        "admit": True,
        "load_s": 1.0,
        "served_name": "m",
        "weights": "w",
    }
    return MoveOrder(**{**words, **more})


def wave(*moves: MoveOrder, peers: tuple[PeerOrder, ...] = ()) -> WaveOrder:
    return WaveOrder(
        number=1,
        batch=1,
        canary=True,
        left={"m": 1},
        watch_s=10.0,
        weights={},
        weights_after={},
        seconds=1.0,
        moves=moves or (move(),),
        peers=peers,
        routed={},
        audience=(),
    )


def row(name: str = "h1:m-0", **more: Any) -> dict[str, Any]:
    return {
        "id": name,
        "name": name.split(":")[1],
        "release": "new",
        "gated": True,
        "error": "",
        "seconds": {"start": 3.2},
        **more,
    }


def test_every_host_has_to_give_its_lock() -> None:
    assert steps.locked({"h1": {"changed": True}, "h2": {"changed": True}}).problems == []
    outcome = steps.locked({"h1": {"changed": True}, "h2": {"msg": "a roll is under way here"}, "h3": UNREACHABLE})
    assert outcome.problems == ["h2: a roll is under way here", "h3 cannot be reached: ssh: no route to host"]


def test_one_router_that_is_not_drained_stops_the_wave() -> None:
    good = {"arrived": True, "left": {}}
    late = {"arrived": False, "left": {"h1:m-0": 2}, "msg": "h1:m-0 still has 2 requests after 60 s"}
    assert steps.drained(wave(), {"r1": good, "r2": good}, "fail").problems == []
    assert "r2: h1:m-0 still has 2 requests" in steps.drained(wave(), {"r1": good, "r2": late}, "fail").problems[0]
    assert steps.drained(wave(), {"r1": good, "r2": late}, "abort").problems == []
    assert steps.drained(wave(), {"r1": good, "r2": UNREACHABLE}, "abort").problems
    assert steps.drained(wave(), {"r1": None}, "fail").problems == ["r1 gave no answer"]


def test_a_spare_that_is_retired_only_has_to_stop() -> None:
    gone = wave(move("h1:m-spare", was="new", release="", admit=False))
    stopped = row("h1:m-spare", release="", gated=False)
    outcome = steps.replaced(gone, {"h1": {"replicas": [stopped]}})
    assert (outcome.problems, outcome.ready) == ([], [])
    assert "h1:m-spare: stopped" in outcome.seen[0]
    assert steps.readmitted(gone, {"r1": {"arrived": True}}).seen == []
    failed = {"replicas": [{**stopped, "error": "its cores are held"}]}
    assert steps.replaced(gone, {"h1": failed}).problems == ["h1:m-spare: its cores are held"]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        UNREACHABLE,
        {"skipped": True},
        {"replicas": [row(gated=False, error="it did not come up")]},
        {"replicas": [row(gated=False)]},
        {"replicas": [row(release="other")]},
        {"replicas": [row("h1:m-9")], "msg": "module crashed"},
        {"msg": "module crashed"},
    ],
)
def test_only_a_passed_gate_on_the_right_release_counts(answer: dict[str, Any] | None) -> None:
    outcome = steps.replaced(wave(), {"h1": answer})
    assert len(outcome.problems) == 1
    assert outcome.ready == []


def test_what_is_gated_may_come_back_unless_a_person_took_it_out() -> None:
    answers = {"h1": {"replicas": [row(), row("h1:m-1")]}}
    outcome = steps.replaced(wave(move(), move("h1:m-1", admit=False)), answers)
    assert outcome.problems == []
    assert outcome.ready == ["h1:m-0"]
    assert outcome.seen[0] == "h1:m-0: gated on new (start 3.2 s)"


def test_a_sibling_of_a_failed_replica_is_not_admitted_by_the_way_forward() -> None:
    answers = {"h1": {"replicas": [row(), row("h1:m-1", gated=False, error="no")]}}
    assert steps.replaced(wave(move(), move("h1:m-1")), answers).problems == ["h1:m-1: no"]


def test_on_the_way_back_each_is_admitted_by_its_own_gate() -> None:
    answers = {
        "h1": {"replicas": [row(release="old"), row("h1:m-1", release="old", gated=False, error="cores are held")]},
        "h2": UNREACHABLE,
    }
    outcome = steps.restored(wave(move(), move("h1:m-1"), move("h2:m-0")), answers)
    assert outcome.ready == ["h1:m-0"]
    assert outcome.problems == ["h1:m-1: cores are held", "h2:m-0: h2 cannot be reached: ssh: no route to host"]


def test_a_new_replica_is_not_admitted_on_the_way_back() -> None:
    answers = {"h1": {"replicas": [row(release="", gated=False)]}}
    outcome = steps.restored(wave(move(was="")), answers)
    assert (outcome.ready, outcome.problems) == ([], [])
    assert "stopped" in outcome.seen[0]


def engine(per_token: float = 0.02, requests: int = 50, golden: str = "one two three") -> dict[str, Any]:
    shape = Histogram(((1.0, requests),), per_token * requests, requests)
    reading = Reading(ttft=shape, per_token=shape, output_tokens=Histogram(((512, requests),), 99 * requests, requests))
    return {"answers": True, "reading": reading.to_dict(), "golden": {"p": golden}}


def peer(name: str, weights: str = "w") -> PeerOrder:
    return PeerOrder(name, name.split(":")[0], "http://h2:8000", "m", weights)


def watched(mine: dict[str, Any], theirs: dict[str, Any], weights: str = "w", errors: int = 0) -> steps.Outcome:
    answers = {
        "h1": {"replicas": {"h1:m-0": mine}},
        "h2": {"replicas": {"h2:m-0": theirs}},
        "r1": {"routed": {"h1:m-0": {"requests": 50, "errors": errors}, "h2:m-0": {"requests": 50, "errors": 0}}},
    }
    return steps.watched(wave(peers=(peer("h2:m-0", weights),)), answers, ["r1"], Thresholds())


def test_a_replica_like_its_peers_passes() -> None:
    outcome = watched(engine(), engine())
    assert outcome.problems == []
    assert any("failed requests 0 of 50" in line for line in outcome.seen)


@pytest.mark.parametrize(
    ("mine", "errors", "finding"),
    [
        (engine(per_token=0.04), 0, "h1:m-0 is worse than its peers: mean time per token 40.0 ms"),
        (engine(golden="x y z"), 0, "golden completions agree for 0%"),
        (engine(), 3, "failed requests 3 of 50"),
        ({"answers": False}, 0, "h1:m-0: it does not answer any more"),
    ],
)
def test_a_worse_one_stops_the_roll(mine: dict[str, Any], errors: int, finding: str) -> None:
    assert any(finding in problem for problem in watched(mine, engine(), errors=errors).problems)


def test_golden_completions_are_compared_with_equal_weights_only() -> None:
    assert watched(engine(golden="uno dos"), engine(), weights="other").problems == []
