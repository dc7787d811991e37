# SPDX-License-Identifier: Apache-2.0
"""Handing a service to the hosts of the next block: who leaves, who takes over, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import metrics
from ansible_collections.trainyard.neuron.plugins.plugin_utils.block_times import Block, too_late
from ansible_collections.trainyard.neuron.plugins.plugin_utils.hand_over import (
    HandOver,
    below_floor,
    hand_over_of,
    judged,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.canary import Thresholds
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import (
    Fleet,
    Observed,
    RollError,
    Seat,
    Settings,
    Target,
)

END = datetime(2026, 12, 2, 11, 30, tzinfo=UTC)
BLOCKS = [Block(END, ("old",)), Block(END + timedelta(days=1), ("new",))]


def target(host: str, index: int) -> Target:
    name = f"tiny-{index}"
    words = {"unit": f"vllm@{name}.service", "served_name": "tiny", "deployment": "tiny", "release": "r1"}
    return Target(f"{host}:{name}", name, host, cores=(0, 31), url="http://x", weights="w1", **words)


def fleet(new: int = 2, serving: tuple[str, ...] = ("old",), running: str = "r1", **changes: Any) -> Fleet:
    """Two replicas on the old host, some on the new one; `serving` hosts are in rotation."""
    targets = (*(target("old", index) for index in (0, 1)), *(target("new", index) for index in range(new)))
    up = [item for item in targets if item.host in serving]
    observed = {item.id: Observed("active", running, running, "", ()) for item in up}
    found = {"targets": targets, "observed": observed, "seats": {"router": {item.id: Seat("ready") for item in up}}}
    return Fleet(**{**found, **changes})


def test_the_hosts_of_the_block_that_ends_first_leave_and_all_others_take_over() -> None:
    found = hand_over_of(fleet(), BLOCKS, [], Settings())
    assert (found.leaving, found.taking) == (("old",), ("new",))
    assert found.new == ("new:tiny-0", "new:tiny-1") and found.floor == {"tiny": 2}
    # As in a roll, a new replica gets a tenth of what comes beside two others: never as much as they.
    assert set(found.weights.values()) == {22}
    assert HandOver.from_dict(found.to_dict()) == found


def test_a_second_run_has_nothing_to_admit_and_keeps_what_took_over() -> None:
    found = hand_over_of(fleet(serving=("new",)), BLOCKS, [], Settings())
    assert found.new == () and found.leaving == ("old",) and found.floor == {"tiny": 2}


def test_a_person_names_who_leaves_where_no_block_says_it() -> None:
    assert hand_over_of(fleet(), [], ["old"], Settings()).leaving == ("old",)
    with pytest.raises(RollError, match="trainyard_leaving"):
        hand_over_of(fleet(), [], [], Settings())


def test_it_is_refused_where_nobody_or_too_few_take_over() -> None:
    with pytest.raises(RollError, match=r"nobody takes over from old: launch hosts into the next block first"):
        hand_over_of(fleet(new=0), BLOCKS[:1], [], Settings())
    with pytest.raises(RollError, match=r"tiny: 1 replicas take over from old, and the floor is 2.*floor: 1"):
        hand_over_of(fleet(new=1), BLOCKS, [], Settings())
    assert hand_over_of(fleet(new=1), BLOCKS, [], Settings(floor="50%")).floor == {"tiny": 1}


def test_hosts_that_serve_something_else_than_the_plan_are_not_changed_by_it() -> None:
    with pytest.raises(RollError, match=r"old:tiny-0 runs release r0, and the plan has r1.*redeploy.yml"):
        hand_over_of(fleet(running="r0"), BLOCKS, [], Settings())


def test_a_host_that_did_not_answer_stops_it() -> None:
    with pytest.raises(RollError, match="router did not answer"):
        hand_over_of(fleet(silent=("router",)), BLOCKS, [], Settings())


def watched(ids: list[str], errors: int = 0) -> dict[str, Any]:
    row = {"answers": True, "reading": metrics.Reading().to_dict(), "golden": {"One, two": "three"}}
    return {"replicas": dict.fromkeys(ids, row), "routed": {}, "errors": errors}


def test_new_replicas_are_compared_with_those_that_served_before() -> None:
    order = hand_over_of(fleet(), BLOCKS, [], Settings())
    answers = {
        "old": watched(["old:tiny-0", "old:tiny-1"]),
        "new": watched(["new:tiny-0", "new:tiny-1"]),
        "router": {"replicas": {}, "routed": {name: {"requests": 50, "errors": 0} for name in order.new}},
    }
    good = judged(order, fleet(), answers, ["router"], Thresholds())
    assert set(good) == set(order.new) and all(verdict.ok for verdict in good.values())
    answers["router"]["routed"]["new:tiny-1"] = {"requests": 50, "errors": 40}
    answers["new"]["replicas"]["new:tiny-0"] = {"answers": False}
    bad = judged(order, fleet(), answers, ["router"], Thresholds())
    assert bad["new:tiny-0"].worse == ("it does not answer any more",)
    assert not bad["new:tiny-1"].ok


def test_nobody_leaves_before_enough_others_are_in_rotation() -> None:
    order = hand_over_of(fleet(), BLOCKS, [], Settings())
    (said,) = below_floor(order, fleet())
    assert "tiny: 0 replicas are in rotation on hosts that stay, and the floor is 2" in said and "new:tiny-0" in said
    assert below_floor(order, fleet(serving=("old", "new"))) == []


def test_a_hand_over_may_begin_when_the_old_block_leaves_no_time_for_other_work() -> None:
    late = END - timedelta(minutes=44)
    assert too_late(BLOCKS, "redeploy", ["old"], late)
    assert too_late(BLOCKS, "hand_over", ["old", "new"], late) == []
