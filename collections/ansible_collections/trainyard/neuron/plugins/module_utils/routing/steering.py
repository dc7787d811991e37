# SPDX-License-Identifier: Apache-2.0
"""Moving servers of routers between ``ready``, ``drain`` and ``maint``, several at once, and waiting for what follows.

Shared by the module ``trainyard.neuron.router_server`` and by the program of a router's host.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from .haproxy import Router, RouterError, Server

POLL_S = 0.1

Seats = List[Tuple[Router, Server]]


@dataclass
class Moved:
    """What became of the servers.

    Attributes:
        state: what was asked for.
        before: each server at each router, as it was.
        after: the same when the wait was over.
        changing: those of ``before`` that were in another state, or had another weight.
        weights: weight that was asked for, by name, in percent of the configured one.
        left: requests that a server still has which takes nothing new, by name, over all routers.
        down: why the checks of a server that is ready do not pass, by name.
        seconds: how long it took.
        unkept: why a router that was told to does not remember it over a crash, a line each.
    """

    state: str
    before: Seats
    after: Seats
    changing: Seats
    weights: Mapping[str, int] = field(default_factory=dict)
    left: Dict[str, int] = field(default_factory=dict)
    down: Dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    unkept: List[str] = field(default_factory=list)

    def problems(self) -> List[str]:
        """What did not come out as wanted, a line each."""
        lines = [
            "{0} still has {1} requests after {2:.0f} s; it stays in {3}: wait longer, or set it to ready again".format(
                name, count, self.seconds, self.state
            )
            for name, count in sorted(self.left.items())
        ]
        return lines + [
            "{0} is ready and its checks do not pass ({1})".format(name, why) for name, why in sorted(self.down.items())
        ]


def look(routers: Sequence[Router], names: Sequence[str]) -> Seats:
    """The named servers at every router.

    Raises:
        RouterError: a router does not answer, or does not know one of them.
    """
    found: Seats = []
    for router in routers:
        known = router.servers()
        for name in names:
            here = [server for server in known if server.name == name]
            if not here:
                others = ", ".join(sorted({server.name for server in known})) or "none"
                raise RouterError(
                    "{0} has no server {1}; it has {2}. Nothing was changed".format(router.path, name, others)
                )
            found.extend((router, server) for server in here)
    return found


def preview(
    routers: Sequence[Router], names: Sequence[str], state: str, weights: Optional[Mapping[str, int]] = None
) -> Moved:
    """What `move` would change."""
    before = look(routers, names)
    wanted = dict(weights or {})
    changing = [
        (router, server)
        for router, server in before
        if (server.state, server.weight) != (state, wanted.get(server.name, server.weight))
    ]
    return Moved(state, before, before, changing, wanted)


def move(
    routers: Sequence[Router],
    names: Sequence[str],
    state: str,
    timeout_s: float,
    wait: bool = True,
    weights: Optional[Mapping[str, int]] = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Moved:
    """Bring servers to a state, all of them first, then wait: until the last request has ended, or the checks pass.

    A drained server becomes ready by way of ``maint``: only one that comes out of it is warmed up slowly, where the
    router is configured to.

    Args:
        routers: every router that may send to them; a server is idle only when none has a request for it.
        names: the servers.
        state: ``ready``, ``drain`` or ``maint``.
        timeout_s: how long to wait, in seconds.
        wait: wait at all.
        weights: by name, in percent of the configured weight; the others keep the weight that they have.
        sleep: replaces ``time.sleep``.
        clock: replaces ``time.monotonic``.

    Raises:
        RouterError: a router does not answer or refuses, or does not know one of them; then nothing was changed.
    """
    began = clock()
    moved = preview(routers, names, state, weights)
    for router, server in moved.changing:
        # The weight first: one that comes back must not get more even for a moment.
        if moved.weights.get(server.name, server.weight) != server.weight:
            router.set_weight(server, moved.weights[server.name])
        if server.state == state:
            continue
        if (server.state, state) == ("drain", "ready"):
            router.set_state(server, "maint")
        router.set_state(server, state)
    if moved.changing:
        moved.unkept = [line for line in (router.remember() for router in routers) if line]
    while True:
        moved.after = look(routers, names)
        moved.left, moved.down = _open(moved.after, state)
        moved.seconds = clock() - began
        if not wait or not (moved.left or moved.down) or moved.seconds >= timeout_s:
            return moved
        sleep(POLL_S)


def _open(seats: Seats, state: str) -> Tuple[Dict[str, int], Dict[str, str]]:
    """What is still to be waited for: requests of servers that take nothing new, checks of those that do."""
    if state == "ready":
        return {}, {server.name: server.check for _router, server in seats if not server.up}
    left: Dict[str, int] = {}
    for _router, server in seats:
        if server.busy:
            left[server.name] = left.get(server.name, 0) + server.busy
    return left, {}
