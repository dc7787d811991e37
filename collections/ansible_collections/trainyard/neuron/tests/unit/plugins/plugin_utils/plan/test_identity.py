# SPDX-License-Identifier: Apache-2.0
"""Hosts that are not what they seem are told in the plan, with the fix, before anything is touched."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.plan.fleets import deployment, host, problems

GATEWAY = {"routers": ["gw"], "other_variables": {"gw": {"ansible_host": "10.0.0.9"}}}


def told(hosts: dict[str, Any], **more: Any) -> list[str]:
    """What the plan says of an inventory just as it is."""
    try:
        plan_fleet({"hosts": hosts, **more})
    except PlanError as error:
        return error.lines()
    return []


def reported(*addresses: str) -> dict[str, Any]:
    return {"devices": [], "addresses": list(addresses)}


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("i-0123456789abcdef0", ["is an instance id", "private_ip_address"]),
        ("mi-0123456789abcdef0", ["is an instance id"]),
        ("localhost", ["is a name", "set trainyard_address"]),
        ("trn2-a.internal", ["is a name", "set trainyard_address"]),
        ("127.0.0.1", ["is the loopback"]),
        ("127.0.1.1", ["is the loopback"]),
        ("::1", ["is the loopback"]),
        ("0.0.0.0", ["is every address"]),  # noqa: S104 - a case, nothing is bound
        ("::", ["is every address"]),
        ("224.0.0.5", ["is a multicast address"]),
        ("ff02::1", ["is a multicast address"]),
        ("169.254.3.4", ["is a link-local address"]),
        ("fe80::1", ["is a link-local address"]),
        ("255.255.255.255", ["is a reserved address"]),
        ("10.0.0.256", ["is a name"]),
    ],
)
@pytest.mark.parametrize("variable", ["ansible_host", "trainyard_address"])
def test_an_address_where_nobody_can_reach_the_host_is_refused(variable: str, address: str, says: list[str]) -> None:
    (line,) = told({"a": host(deployment(), **{variable: address})}, **GATEWAY)
    assert line.startswith(f'a: {variable} = "{address}"')
    assert all(word in line for word in says)


@pytest.mark.parametrize("router", [{"ansible_host": "gateway.example"}, {}, {"ansible_host": "i-0123456789abcdef0"}])
def test_a_router_is_judged_as_a_host_is(router: dict[str, str]) -> None:
    (line,) = told({"a": host(deployment())}, routers=["gw"], other_variables={"gw": router})
    assert line.startswith("gw: ")
    assert "trainyard_address" in line


def test_a_router_known_by_a_public_address_is_not_what_replicas_see() -> None:
    """What it sends comes from its private address: the fence would admit the other one, and so refuse all of it."""
    beside = {"gw": {"ansible_host": "3.15.20.30"}}
    keyed = {"load_balancer_keys": [{"name": "x", "sha256": "0" * 64}], "load_balancer_tls": "given"}
    beside["gw"] |= keyed  # type: ignore[arg-type]

    def said(hosts: dict[str, Any], others: dict[str, Any]) -> list[tuple[str, Any]]:
        given = {"hosts": hosts, "routers": ["gw"], "other_variables": others}
        rows = plan_fleet(given).to_dict()["warnings"]
        return [(row["host"], row["value"]) for row in rows if "see another one" in row["rule"]]

    assert said({"a": host(deployment())}, beside) == [("gw", "3.15.20.30")]
    beside["gw"]["trainyard_address"] = "10.0.0.9"
    assert said({"a": host(deployment())}, beside) == []
    # Where the replicas have public addresses too, so does what reaches them.
    public = {"gw": {"ansible_host": "2600:1f18::9", **keyed}}
    six = {"a": host(deployment(), ansible_host="2600:1f18::1")}
    assert said(six, public) == []


def test_a_host_that_nobody_else_has_to_reach_may_be_reached_by_any_name() -> None:
    for address in ("localhost", "trn2-a.example", "127.0.0.1"):
        assert told({"a": host(deployment(), ansible_host=address)}, routers=["a"], clients=["a"]) == []


def test_addresses_of_documentation_are_said_and_do_not_stop_a_plan() -> None:
    given = {"hosts": {"a": host(deployment(), ansible_host="203.0.113.7")}, **GATEWAY}
    (warning,) = plan_fleet(given).to_dict()["warnings"]
    assert (warning["host"], warning["value"]) == ("a", "203.0.113.7")
    assert "documentation" in warning["rule"]


def test_a_reached_host_must_have_the_address_that_others_meet_it_at() -> None:
    hosts = {"a": host(deployment(), ansible_host="203.0.113.7")}
    found = told(hosts, topologies={"a": reported("10.0.0.5", "fd00::5")}, **GATEWAY)
    assert len(found) == 1
    for word in ('ansible_host = "203.0.113.7"', "which has 10.0.0.5, fd00::5", "trainyard_address", ": 10.0.0.5"):
        assert word in found[0]
    hosts["a"]["trainyard_address"] = "10.0.0.5"
    assert told(hosts, topologies={"a": reported("10.0.0.5", "fd00::5")}, **GATEWAY) == []
    # A host alone with its router is met on the loopback, whatever it is reached by.
    alone = {"a": host(deployment(), ansible_host="203.0.113.7")}
    assert told(alone, routers=["a"], clients=["a"], topologies={"a": reported("10.0.0.5")}) == []


@pytest.mark.parametrize("name", ["llama 70b", "a<b>&", "-a", "a/b", "a:b", "a%b", "ホスト", "", "a" * 129, "a\nb"])
def test_a_name_that_haproxy_units_or_paths_do_not_take_is_refused(name: str) -> None:
    (line,) = [row for row in problems({name: host(deployment())}, routers=[name]) if "inventory name" in row]
    assert "Fix: name it otherwise" in line


@pytest.mark.parametrize("name", ["neuron", "router", "client", "all"])
def test_a_name_of_a_group_is_refused(name: str) -> None:
    assert any("name of a group" in row for row in problems({name: host(deployment())}, routers=[name]))


def test_a_router_s_name_is_judged_as_well() -> None:
    found = told(
        {"a": host(deployment())},
        routers=["the gateway"],
        other_variables={"the gateway": {"ansible_host": "10.0.0.9"}},
    )
    assert [row.split(":")[0] for row in found] == ["the gateway"]


def test_two_hosts_cannot_have_one_address() -> None:
    pair = {"a": host(deployment()), "b": host(deployment())}
    found = told(pair, **GATEWAY)
    assert len(found) == 1
    line = found[0]
    assert line.startswith("a, b: ansible_host")
    assert "is the address of a, b: one host cannot be two" in line
    # Written otherwise it is the same address; and a router is one of the hosts.
    six = {"a": host(deployment(), ansible_host="fd00::0:1"), "b": host(deployment(), ansible_host="fd00::1")}
    assert any("is the address of a, b" in row for row in told(six, **GATEWAY))
    same = {"routers": ["gw"], "other_variables": {"gw": {"ansible_host": "10.0.0.1"}}}
    assert any("is the address of a, gw" in row for row in told({"a": host(deployment())}, **same))
    assert told({"a": host(deployment())}, routers=["a"], clients=["a"]) == []
