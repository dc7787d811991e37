# SPDX-License-Identifier: Apache-2.0
"""Draining and readmitting at a router: the count decides, and what is not as wanted is said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.routing.haproxy import Router, RouterError, Server
from ansible_collections.trainyard.neuron.plugins.module_utils.routing.steering import Moved, move, preview


class FakeRouter(Router):
    """Servers whose requests end one per look, and whose checks pass some looks after they are ready."""

    def __init__(self, *servers: Server, looks_until_up: int = 0) -> None:
        self.path = "/run/fake.sock"
        self.now = {server.name: server for server in servers}
        self.looks_until_up = looks_until_up
        self.told: list[str] = []

    def servers(self) -> list[Server]:
        seen = list(self.now.values())
        for server in seen:
            if server.state == "drain" and server.in_flight:
                self.now[server.name] = replace(server, in_flight=server.in_flight - 1)
            if server.state == "ready" and not server.up:
                self.looks_until_up -= 1
                self.now[server.name] = replace(server, up=self.looks_until_up <= 0)
        return seen

    def set_state(self, server: Server, state: str) -> None:
        self.told.append(f"{server.name} {state}")
        self.now[server.name] = replace(self.now[server.name], state=state)

    def set_weight(self, server: Server, percent: int) -> None:
        self.told.append(f"{server.name} {percent}%")
        self.now[server.name] = replace(self.now[server.name], weight=percent)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def server(name: str, state: str = "ready", up: bool = True, busy: int = 0) -> Server:
    return Server("model-m", name, state, up, busy, 0, 7, "L7OK")


def moved(router: Router, names: list[str], state: str, timeout_s: float) -> Moved:
    clock = Clock()
    return move([router], names, state, timeout_s, sleep=clock.sleep, clock=clock)


def test_a_drain_ends_with_the_last_request() -> None:
    router = FakeRouter(server("a", busy=5), server("b", busy=2), server("c", busy=9))
    done = moved(router, ["a", "b"], "drain", 60)
    assert (done.left, done.problems()) == ({}, [])
    assert router.told == ["a drain", "b drain"]
    assert router.now["c"].state == "ready"
    assert [server.name for _, server in done.changing] == ["a", "b"]


def test_a_server_is_idle_only_when_no_router_has_a_request_for_it() -> None:
    clock = Clock()
    one, other = FakeRouter(server("a")), FakeRouter(server("a", busy=40))
    done = move([one, other], ["a"], "drain", 0.2, sleep=clock.sleep, clock=clock)
    assert done.left["a"] > 30
    assert move([one, other], ["a"], "drain", 60, sleep=clock.sleep, clock=clock).left == {}


def test_what_is_left_of_a_server_is_what_all_routers_have_together() -> None:
    one, other = FakeRouter(server("a", busy=5000)), FakeRouter(server("a", busy=7000))
    clock = Clock()
    assert move([one, other], ["a"], "drain", 0.0, sleep=clock.sleep, clock=clock).left["a"] > 11_000


def test_a_drain_that_does_not_end_says_how_many_are_left() -> None:
    done = moved(FakeRouter(server("a", busy=5000)), ["a"], "drain", 2)
    assert done.left["a"] > 4000
    assert "requests after 2 s; it stays in drain" in done.problems()[0]


def test_readmission_goes_through_maint_and_waits_for_the_checks() -> None:
    router = FakeRouter(server("a", "drain", up=False), looks_until_up=5)
    done = moved(router, ["a"], "ready", 60)
    assert router.told == ["a maint", "a ready"]
    assert (done.down, done.problems()) == ({}, [])
    assert done.seconds > 0


def test_a_server_that_stays_down_is_named() -> None:
    done = moved(FakeRouter(server("a", "maint", up=False), looks_until_up=10_000), ["a"], "ready", 1)
    assert done.problems() == ["a is ready and its checks do not pass (L7OK)"]


def test_an_unknown_server_stops_before_anything_is_told() -> None:
    router = FakeRouter(server("a"))
    with pytest.raises(RouterError, match=r"has no server x; it has a\. Nothing was changed"):
        moved(router, ["a", "x"], "drain", 1)
    assert router.told == []


def test_a_preview_tells_the_router_nothing() -> None:
    router = FakeRouter(server("a"), server("b", "drain"))
    assert [server.name for _, server in preview([router], ["a", "b"], "drain").changing] == ["a"]
    assert router.told == []


def test_a_weight_is_set_before_the_server_gets_anything_and_kept_where_none_is_named() -> None:
    router = FakeRouter(server("a", "drain"), replace(server("b"), weight=40), server("c"))
    done = move([router], ["a", "b", "c"], "ready", 5, weights={"a": 11})
    assert router.told == ["a 11%", "a maint", "a ready"]
    assert [server.name for _, server in done.changing] == ["a"]
    move([router], ["a"], "ready", 5, weights={"a": 100})
    assert router.told[3:] == ["a 100%"]
    assert router.now["b"].weight == 40
