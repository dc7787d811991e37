# SPDX-License-Identifier: Apache-2.0
"""Routers over all replicas, and routers of the fleet over one on each host."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.parts import RouterModel, RouterServer
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.routers import shares, tiers_of
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.plan.fleets import (
    deployment,
    host,
    plan,
    problems,
)
from hypothesis import given

ABOVE = {"gateway": {"trainyard_router_over": "routers", "ansible_host": "10.0.0.9", "trainyard_router_port": 8443}}


def two_tiers(**more: Any) -> dict[str, Any]:
    hosts = {name: host(deployment(), ansible_host=f"10.0.0.{row}") for row, name in enumerate(("a", "b"), 1)}
    return plan(hosts, **{"routers": ["a", "b", "gateway"], "other_variables": ABOVE, **more})


def test_one_tier_is_what_there_is_without_a_word() -> None:
    router = plan({"a": host(deployment())}, routers=["a"])["router"]
    assert (router["names"], router["own"]) == (["a"], {})


def test_requests_come_in_at_the_fleet_router_and_rolls_talk_to_those_on_the_hosts() -> None:
    router = two_tiers()["router"]
    assert router["urls"] == ["http://10.0.0.9:8443"]
    assert router["names"] == ["a", "b"]
    above = router["own"]["gateway"]
    assert above["port"] == 8443
    row = {"port": 8080, "agent_port": 0, "max_num_seqs": 8, "router": True}
    assert [model["servers"] for model in above["models"]] == [
        [
            {"id": "a", "host": "a", "address": "10.0.0.1", **row},
            {"id": "b", "host": "b", "address": "10.0.0.2", **row},
        ]
    ]
    assert {row["host"] for row in router["own"]["a"]["models"][0]["servers"]} == {"a"}
    assert router["own"]["a"]["port"] == 8080


def test_behind_a_router_of_their_host_replicas_listen_on_loopback() -> None:
    found = two_tiers()["hosts"]
    assert {row["address"] for entry in found.values() for row in entry["replicas"]} == {"127.0.0.1"}
    # A load host reads the replicas' own counters.
    found = two_tiers(clients=["load"])["hosts"]
    assert found["b"]["replicas"][0]["address"] == "10.0.0.2"


def test_a_spare_is_no_room_and_only_its_host_knows_it() -> None:
    spare = deployment(tensor_parallel_size=16)
    hosts = {"a": host(spare), "b": host(deployment(), ansible_host="10.0.0.2")}
    router = plan(hosts, routers=["a", "b", "gateway"], other_variables=ABOVE)["router"]
    servers = router["own"]["a"]["models"][0]["servers"]
    assert [row.get("spare", False) for row in servers] == [False, False, True]
    assert [row["max_num_seqs"] for row in router["own"]["gateway"]["models"][0]["servers"]] == [8, 8]


@pytest.mark.parametrize(
    ("routers", "variables", "said"),
    [
        (["gateway"], {}, "a: inventory group router"),
        (["a", "edge", "gateway"], {}, "edge: trainyard_router_over"),
        (["a", "gateway"], {"a": {"trainyard_router_over": "routers"}}, "a: trainyard_router_over"),
        (["a", "gateway"], {"gateway": {"trainyard_router_over": "router"}}, "must be one of replicas, routers"),
    ],
)
def test_tiers_that_leave_somebody_out_are_refused(
    routers: list[str], variables: dict[str, dict[str, Any]], said: str
) -> None:
    beside = ABOVE | {name: row for name, row in variables.items() if name != "a"}
    found = problems({"a": host(deployment(), **variables.get("a", {}))}, routers=routers, other_variables=beside)
    assert any(said in line for line in found), found


NAMES = st.sampled_from("abcdef")


@given(
    serving=st.dictionaries(NAMES, st.lists(st.tuples(st.sampled_from(["m", "n"]), st.integers(1, 64)), max_size=4)),
    outer=st.sets(st.sampled_from("xyz"), min_size=1),
)
def test_every_replica_is_behind_every_fleet_router_once(
    serving: dict[str, list[tuple[str, int]]], outer: set[str]
) -> None:
    variables = {name: {"trainyard_router_over": "routers"} for name in outer}
    tiers, wrong = tiers_of([*serving, *outer], variables, list(serving))
    assert not wrong
    models: dict[str, list[RouterServer]] = {}
    for name, replicas in serving.items():
        for index, (model, room) in enumerate(replicas):
            models.setdefault(model, []).append(
                RouterServer(f"{name}:{index}", f"ip-{name}", 8000 + index, 0, max_num_seqs=room, host=name)
            )
    rows = [RouterModel(name, tuple(servers)) for name, servers in sorted(models.items())]
    own = shares(tiers, rows, {name: f"ip-{name}" for name in serving}, 8080, 443)
    for facing in outer:
        for row, above in zip(rows, own[facing]["models"], strict=True):
            behind = [
                server
                for router in above.servers
                for model in own[router.id]["models"]
                if model.name == row.name
                for server in model.servers
            ]
            assert sorted(server.id for server in behind) == sorted(server.id for server in row.servers)
            assert sum(r.max_num_seqs for r in above.servers) == sum(s.max_num_seqs for s in behind)


def test_a_router_of_a_host_knows_those_before_it() -> None:
    access = two_tiers()["router"]["access"]
    assert {name: row["before"] for name, row in access.items()} == {
        "a": ["10.0.0.9"],
        "b": ["10.0.0.9"],
        "gateway": [],
    }
