# SPDX-License-Identifier: Apache-2.0
"""Who may reach what: derived from who routes, sends load and monitors; closed unless the inventory says otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.plan.fleets import (
    deployment,
    host,
    plan,
    problems,
)

BESIDE = {
    "gw": {"ansible_host": "gw.example", "trainyard_address": "10.0.0.9"},
    "load": {"ansible_host": "10.0.0.8"},
}


def reach(hosts: dict[str, Any], name: str = "a", **more: Any) -> dict[str, Any]:
    return dict(plan(hosts, other_variables=BESIDE, **more)["hosts"][name]["reach"])


def admitted(found: dict[str, Any]) -> dict[str, tuple[list[int], list[str]]]:
    return {rule["what"]: (rule["ports"], rule["from"]) for rule in found["rules"]}


def test_routers_reach_replicas_and_agents_load_hosts_and_monitors_what_they_read() -> None:
    watched = host(
        deployment(),
        trainyard_monitor_port=9400,
        trainyard_monitors=["10.5.0.0/24"],
        neuron_monitor_clients=["10.6.0.1"],
    )
    found = reach({"a": watched, "b": host(deployment())}, routers=["gw", "b"], clients=["load", "a"])
    assert found["open"] is False
    b = "10.77.0.2"
    assert admitted(found) == {
        "replicas": ([8000, 8001], sorted(["10.0.0.9", b, "10.0.0.8", "10.5.0.0/24"])),
        "agents": ([9000, 9001], sorted(["10.0.0.9", b])),
        "device metrics": ([9400, 9401], ["10.5.0.0/24", "10.6.0.1"]),
    }


def test_hosts_of_the_group_monitor_read_what_there_is_to_read() -> None:
    """Whoever watches need not be named a second time, and the host that watches itself is no sender."""
    watched = host(deployment(), trainyard_monitor_port=9400, trainyard_monitors=["10.5.0.0/24"])
    gw = BESIDE["gw"]["trainyard_address"]
    found = plan({"a": watched}, routers=["a"], monitors=["a", "gw"], other_variables={"gw": BESIDE["gw"]})["hosts"][
        "a"
    ]
    assert admitted(found["reach"]) == {
        "replicas": ([8000, 8001], sorted(["10.5.0.0/24", gw])),
        "agents": ([9000, 9001], []),
        "device metrics": ([9400, 9401], sorted(["10.5.0.0/24", gw])),
    }
    assert found["monitor"]["clients"] == sorted(["10.5.0.0/24", gw])
    assert not found["replicas"][0]["url"].startswith("http://127."), "another host has to reach it"
    alone = plan({"a": watched}, routers=["a"], monitors=["a"])["hosts"]["a"]
    assert alone["replicas"][0]["url"].startswith("http://127.0.0.1:")


def test_a_host_that_routes_to_itself_alone_is_reached_by_nobody() -> None:
    found = reach({"a": host(deployment(), trainyard_monitor_port=9400)}, routers=["a"], clients=["a"])
    assert {what: rule[1] for what, rule in admitted(found).items()} == {
        "replicas": [],
        "agents": [],
        "device metrics": [],
    }


def test_behind_routers_of_the_fleet_no_other_host_reaches_replicas() -> None:
    above = {"gw": {**BESIDE["gw"], "trainyard_router_over": "routers"}}
    hosts = {"a": host(deployment()), "b": host(deployment())}
    found = plan(hosts, routers=["a", "b", "gw"], other_variables=above)["hosts"]
    assert [admitted(found[name]["reach"])["replicas"][1] for name in ("a", "b")] == [[], []]


def test_a_spare_s_ports_are_guarded_before_it_starts() -> None:
    found = plan({"a": host(deployment(data_parallel_size=1))}, routers=["gw"], other_variables=BESIDE)["hosts"]["a"]
    assert len(found["spares"]) == 1
    assert admitted(found["reach"])["replicas"][0] == [8000, found["spares"][0]["port"]]


def test_that_nobody_may_reach_the_replicas_is_said() -> None:
    (warning,) = plan({"a": host(deployment())})["warnings"]
    assert "nobody may reach the replicas" in warning["rule"]
    found = plan({"a": host(deployment(), vllm_endpoint_clients=["10.9.0.0/16"])})
    assert found["warnings"] == []
    assert found["hosts"]["a"]["reach"]["further"] == ["10.9.0.0/16"]


def test_open_is_said_in_so_many_words_and_warned_of() -> None:
    found = plan({"a": host(deployment(), trainyard_replicas_open_to_everybody=True)}, routers=["gw"])
    assert found["hosts"]["a"]["reach"]["open"] is True
    assert any("whoever reaches the host reaches its replicas" in row["rule"] for row in found["warnings"])


@pytest.mark.parametrize("value", ["yes", "true", 1, None, []])
def test_nothing_but_true_opens(value: Any) -> None:
    (line,) = problems({"a": host(deployment(), trainyard_replicas_open_to_everybody=value)}, routers=["a"])
    assert "must be true or false" in line


@pytest.mark.parametrize("variable", ["trainyard_monitors", "vllm_endpoint_clients", "neuron_monitor_clients"])
@pytest.mark.parametrize(
    ("value", "says"),
    [
        (["0.0.0.0/0"], "trainyard_replicas_open_to_everybody: true"),
        (["::/0"], "is everybody"),
        (["prometheus.internal"], "names can be resolved"),
        (["10.0.0.5/24"], "write 10.0.0.0/24"),
        (["127.0.0.1"], "no address that another host sends from"),
        (["224.0.0.1"], "no address that another host sends from"),
        (["10.0.0.5; drop table inet trainyard"], "must be an address or a network"),
        ([10], "must be an address or a network"),
        ("10.0.0.5", "must be a list"),
        ({"a": 1}, "must be a list"),
    ],
)
def test_only_addresses_and_networks_are_admitted(variable: str, value: Any, says: str) -> None:
    lines = problems({"a": host(deployment(), **{variable: value})}, routers=["a"])
    assert len(lines) == 1
    assert lines[0].startswith(f"a: {variable}")
    assert says in lines[0]
