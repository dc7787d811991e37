# SPDX-License-Identifier: Apache-2.0
"""Who may reach a router, and what is refused before a host is touched."""

from __future__ import annotations

import ipaddress
from typing import Any

import hypothesis.strategies as st
import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.trainyard.neuron.plugins.filter.router_access import router_access as as_filter
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.inventory import fleet_input
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.router_access import router_access
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.plan.fleets import (
    deployment,
    host,
    plan,
    problems,
)
from hypothesis import given

KEYS = [{"name": "a", "sha256": "0" * 64}]
PUBLIC = "8.8.8.8"


def said(**variables: Any) -> list[str]:
    return [str(problem) for problem in router_access(variables, "10.0.0.10")[1]]


def text(**variables: Any) -> str:
    return "\n".join(said(**variables))


@pytest.mark.parametrize(
    "address", ["10.0.0.10", "172.31.9.9", "192.168.1.1", "127.0.0.1", "::1", "fd00::1", "fe80::1"]
)
def test_the_loopback_and_private_addresses_need_nothing(address: str) -> None:
    access, wrong = router_access({}, address)
    assert not wrong
    assert (access.addresses[0], access.metrics_addresses[0]) == (address, address)
    assert (access.private_only, access.metrics_private_only) == (True, True)


@pytest.mark.parametrize("address", ["*", "0.0.0.0", "::"])  # noqa: S104 - what is refused
def test_every_address_at_once_needs_keys(address: str) -> None:
    (line,) = said(load_balancer_address=address)
    assert "the router has no keys (load_balancer_keys)" in line
    assert "load_balancer_open_to_everybody: true" in line
    assert not said(load_balancer_address=address, load_balancer_keys=KEYS)
    assert not said(load_balancer_address=address, load_balancer_open_to_everybody=True)


def test_a_public_address_needs_tls_too() -> None:
    assert "no keys (load_balancer_keys) and no TLS (load_balancer_tls)" in text(load_balancer_address=PUBLIC)
    assert "has no TLS" in text(load_balancer_address=PUBLIC, load_balancer_keys=KEYS)
    assert "has no keys" in text(load_balancer_address=PUBLIC, load_balancer_tls="given")
    assert not said(load_balancer_address=PUBLIC, load_balancer_keys=KEYS, load_balancer_tls="given")
    assert "load_balancer_virtual_address" in text(load_balancer_virtual_address=f"{PUBLIC}/24")


def test_metrics_beyond_the_private_networks_need_a_word_of_their_own() -> None:
    for address in ("*", PUBLIC):
        given: dict[str, Any] = {"load_balancer_metrics_address": address, "load_balancer_keys": KEYS}
        assert "metrics ask for no key" in text(**given, load_balancer_open_to_everybody=True)
        assert not said(**given, load_balancer_metrics_open_to_everybody=True)


@pytest.mark.parametrize(
    ("variables", "private_only", "words"),
    [
        ({}, True, "private networks"),
        ({"load_balancer_keys": KEYS}, True, "private networks with a key, in clear text"),
        ({"load_balancer_keys": KEYS, "load_balancer_tls": "given"}, False, "everybody with a key, over TLS"),
        ({"load_balancer_open_to_everybody": True}, False, "everybody who reaches it"),
        ({"load_balancer_address": "127.0.0.1"}, True, "programs of its own host"),
    ],
)
def test_what_it_listens_on_decides_nothing_without_keys_and_tls(
    variables: dict[str, Any], private_only: bool, words: str
) -> None:
    access, wrong = router_access(variables, "10.0.0.10")
    assert not wrong
    assert (access.private_only, access.requests) == (private_only, words)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("load_balancer_open_to_everybody", "false", "true or false"),
        ("load_balancer_metrics_open_to_everybody", 1, "true or false"),
        ("load_balancer_private_networks", ["0.0.0.0/0"], "every address there is"),
        ("load_balancer_private_networks", "::/0", "every address there is"),
        ("load_balancer_private_networks", ["office"], "is no network"),
        ("load_balancer_private_networks", {"a": 1}, "is no network"),
        ("load_balancer_keys", "sk-a", "must be a list of keys"),
        ("load_balancer_metrics_port", [1], "whole number"),
        ("load_balancer_address", "10.0.0.300", "must be an address"),
        ("load_balancer_address", "10.0.0.1:80", "must be an address"),
        ("load_balancer_address", "a b", "must be an address"),
    ],
)
def test_what_is_not_understood_is_refused_and_opens_nothing(name: str, value: Any, rule: str) -> None:
    assert any(line.startswith(name) and rule in line for line in said(**{name: value}))
    assert router_access({name: value}, "10.0.0.10")[0].private_only


def test_an_address_that_may_not_be_the_hosts_own_is_listened_for_everywhere() -> None:
    """A name may be the loopback's there, a public address may be translated, a virtual one may be elsewhere."""
    tls = {"load_balancer_keys": KEYS, "load_balancer_tls": "given"}
    assert router_access({}, "gateway")[0].addresses == ("*",)
    assert router_access(tls, PUBLIC)[0].addresses == ("*",)
    assert router_access({"load_balancer_virtual_address": "10.0.0.100/24"}, "10.0.0.10")[0].addresses == ("*",)
    assert router_access({}, "10.0.0.10")[0].addresses == ("10.0.0.10", "127.0.0.1")
    assert router_access({}, "gateway")[0].private_only
    # What has no key stays on the host then.
    assert router_access(tls, PUBLIC)[0].metrics_addresses == ("127.0.0.1",)


@given(st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address))
def test_without_keys_every_address_of_the_internet_is_refused(address: ipaddress.IPv4Address) -> None:
    if address.is_global:
        assert said(load_balancer_address=str(address))
        assert said(load_balancer_metrics_address=str(address))
    assert router_access({"load_balancer_address": str(address)}, "x")[0].private_only


def test_the_plan_refuses_it_with_the_routers_name_and_says_who_reaches_what() -> None:
    hosts = {"a": host(deployment())}
    given = {"routers": ["gateway"], "other_variables": {"gateway": {"ansible_host": PUBLIC}}}
    assert any(line.startswith("gateway: load_balancer_address") for line in problems(hosts, **given))
    given["other_variables"] = {"gateway": {"ansible_host": "10.0.0.10"}}
    access = plan(hosts, **given)["router"]["access"]["gateway"]
    assert (access["address"], access["metrics_address"], access["metrics_port"]) == ("10.0.0.10", "10.0.0.10", 8405)
    # A router on a serving host is judged by the same rules.
    open_one = {"a": host(deployment(), load_balancer_address="*")}
    assert any(line.startswith("a: load_balancer_address") for line in problems(open_one, routers=["a"]))


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({}, ""),
        ({"load_balancer_address": "10.0.0.11"}, ""),
        ({"load_balancer_address": "127.0.0.1", "load_balancer_metrics_address": "127.0.0.1"}, ""),
        ({"load_balancer_address": "*", "load_balancer_keys": [{}]}, ""),
        ({"load_balancer_address": "10.0.0.12", "load_balancer_virtual_address": "10.0.0.100/24"}, ""),
        ({"load_balancer_address": "10.0.0.12"}, 'load_balancer_address = "10.0.0.12": is no address of the router'),
        ({"load_balancer_metrics_address": "10.0.0.12"}, 'load_balancer_metrics_address = "10.0.0.12"'),
    ],
)
def test_a_router_is_to_listen_on_addresses_that_it_has(variables: dict[str, Any], problem: str) -> None:
    """HAProxy does not start with another one, and a virtual one goes from router to router."""
    hosts = {"a": host(deployment())}
    given: dict[str, Any] = {
        "routers": ["gateway"],
        "other_variables": {"gateway": {"ansible_host": "10.0.0.10", **variables}},
    }
    assert "is no address" not in str(problems(hosts, **given)), "nobody has asked it"
    given["topologies"] = {"gateway": {"addresses": ["10.0.0.10", "10.0.0.11"]}}
    found = [line for line in problems(hosts, **given) if "is no address" in line]
    assert len(found) == bool(problem)
    assert all(line.startswith(f"gateway: {problem}") for line in found)


def test_the_inventorys_variables_reach_the_plan_and_keys_do_not() -> None:
    hostvars = {
        "a": host(deployment()),
        "gateway": {"ansible_host": PUBLIC, "load_balancer_keys": KEYS, "load_balancer_tls": "given"},
    }
    collected = fleet_input(hostvars, ["a"], ["gateway"])
    assert "0" * 64 not in str(collected)
    assert plan_fleet(collected).to_dict()["router"]["access"]["gateway"]["private_only"] is False
    del hostvars["gateway"]["load_balancer_keys"]
    with pytest.raises(Exception, match="no keys"):
        plan_fleet(fleet_input(hostvars, ["a"], ["gateway"]))


def test_the_role_refuses_what_the_plan_refuses() -> None:
    with pytest.raises(AnsibleFilterError, match="no keys"):
        as_filter({"load_balancer_address": "*"})
    assert as_filter({})["addresses"] == ["127.0.0.1"]
