# SPDX-License-Identifier: Apache-2.0
"""Draining and readmitting at a router: the count decides, and what is not as wanted is said."""

from __future__ import annotations

from dataclasses import replace

from ansible_collections.trainyard.neuron.plugins.module_utils.roll import routes
from ansible_collections.trainyard.neuron.plugins.module_utils.routing.haproxy import Router, Server


class FakeRouter(Router):
    """Servers whose requests end one per look, and whose checks pass some looks after they are ready."""

    def __init__(self, *servers: Server, looks_until_up: int = 0) -> None:
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


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def server(name: str, state: str = "ready", up: bool = True, busy: int = 0) -> Server:
    return Server("model-m", name, state, up, busy, 0, 7, "L7OK")


def test_a_drain_ends_with_the_last_request() -> None:
    clock = Clock()
    router = FakeRouter(server("a", busy=5), server("b", busy=2), server("c", busy=9))
    moved = routes.drain(router, ["a", "b"], 60, clock.sleep, clock)
    assert (moved.left, moved.problems()) == ({}, [])
    assert sorted(router.told) == ["a drain", "b drain"]
    assert router.now["c"].state == "ready"
    assert moved.changed == ["a", "b"]


def test_a_drain_that_does_not_end_says_how_many_are_left() -> None:
    clock = Clock()
    router = FakeRouter(server("a", busy=5000))
    moved = routes.drain(router, ["a"], 2, clock.sleep, clock)
    assert moved.left["a"] > 4000
    assert moved.problems()[0].endswith("requests after 2 s; it stays drained")


def test_what_is_in_maint_stays_there() -> None:
    router = FakeRouter(server("a", "maint"))
    assert routes.drain(router, ["a"], 1).changed == []
    assert router.told == []


def test_readmission_goes_through_maint_and_waits_for_the_checks() -> None:
    clock = Clock()
    router = FakeRouter(server("a", "drain", up=False), looks_until_up=5)
    moved = routes.admit(router, ["a"], 60, clock.sleep, clock)
    assert router.told == ["a maint", "a ready"]
    assert (moved.down, moved.problems()) == ({}, [])


def test_a_server_that_stays_down_is_named() -> None:
    clock = Clock()
    router = FakeRouter(server("a", "maint", up=False), looks_until_up=10_000)
    moved = routes.admit(router, ["a"], 1, clock.sleep, clock)
    assert moved.problems() == ["a is ready and its checks do not pass (L7OK)"]


def test_an_unknown_server_is_a_problem_not_a_success() -> None:
    assert routes.drain(FakeRouter(), ["x"], 1).problems() == ["x is not a server of this router"]
    assert routes.preview(FakeRouter(server("a")), ["a", "x"], "drain").changed == ["a"]
