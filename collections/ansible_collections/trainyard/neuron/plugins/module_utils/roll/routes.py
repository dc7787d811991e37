# SPDX-License-Identifier: Apache-2.0
"""The router's side of a roll, on the router's host: states of servers, moving several at once, counts of failures.

Standard library only.
"""

from __future__ import annotations

import csv
import io
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Sequence

from ansible_collections.trainyard.neuron.plugins.module_utils.routing.haproxy import SOCKET, Router, Server

POLL_S = 0.1
UP_TIMEOUT_S = 60.0
FAILURES = ("hrsp_5xx", "econ", "eresp")
"""Columns of HAProxy's statistics that count requests failed on the server's side.

The largest of them is taken, not the sum: one broken request may stand in several.
"""


def seats(path: str = SOCKET) -> Dict[str, Dict[str, Any]]:
    """Every server of this router by name: ``state``, ``up`` and ``sessions`` (in flight and queued)."""
    return {
        server.name: {"state": server.state, "up": server.up, "sessions": server.busy, "check": server.check}
        for server in Router(path).servers()
    }


def counts(path: str = SOCKET) -> Dict[str, Dict[str, int]]:
    """Requests and failed requests of every server by name, since the router started."""
    found: Dict[str, Dict[str, int]] = {}
    for row in csv.DictReader(io.StringIO(Router(path).command("show stat -1 4 -1").lstrip("# "))):
        before = found.get(row["svname"], {"requests": 0, "errors": 0})
        found[row["svname"]] = {
            "requests": before["requests"] + int(row.get("req_tot") or row.get("stot") or 0),
            "errors": before["errors"] + max(int(row.get(column) or 0) for column in FAILURES),
        }
    return found


@dataclass
class Moved:
    """What became of the servers that were to be drained or readmitted.

    Attributes:
        changed: names whose state was another before.
        unknown: names that this router does not have.
        left: requests that a drained server still has when the time is over, by name.
        down: names that are ready and whose checks do not pass.
        seconds: how long it took.
    """

    changed: List[str] = field(default_factory=list)
    unknown: List[str] = field(default_factory=list)
    left: Dict[str, int] = field(default_factory=dict)
    down: Dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def problems(self) -> List[str]:
        """What did not come out as wanted, a line each."""
        lines = ["{0} is not a server of this router".format(name) for name in self.unknown]
        lines += [
            "{0} still has {1} requests after {2:.0f} s; it stays drained".format(name, count, self.seconds)
            for name, count in sorted(self.left.items())
        ]
        lines += [
            "{0} is ready and its checks do not pass ({1})".format(name, check)
            for name, check in sorted(self.down.items())
        ]
        return lines


def preview(router: Router, names: Sequence[str], state: str) -> Moved:
    """What setting a state would change."""
    servers = router.servers()
    known = {server.name for server in servers}
    return Moved(
        changed=[name for name in names if any(server.name == name and server.state != state for server in servers)],
        unknown=[name for name in names if name not in known],
    )


def drain(
    router: Router,
    names: Sequence[str],
    timeout_s: float,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Moved:
    """Send nothing new to servers, all of them first, then wait until the last request of each has ended.

    Args:
        router: the router.
        names: its servers to drain; one in ``maint`` stays there, since that is the stronger state.
        timeout_s: how long to wait, in seconds.
        sleep: replaces ``time.sleep``.
        clock: replaces ``time.monotonic``.
    """
    began = clock()
    moved = _set(router, names, "drain", unless="maint")
    while True:
        by_name = _by_name(router.servers(), names)
        moved.left = {
            name: sum(server.busy for server in servers)
            for name, servers in by_name.items()
            if any(server.busy for server in servers)
        }
        moved.seconds = clock() - began
        if not moved.left or moved.seconds >= timeout_s:
            return moved
        sleep(POLL_S)


def admit(
    router: Router,
    names: Sequence[str],
    timeout_s: float = UP_TIMEOUT_S,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Moved:
    """Send requests to servers again, and wait until their checks pass.

    A drained server goes through ``maint`` on the way: only a server that comes out of it is warmed up slowly, where
    the router is configured to.
    """
    began = clock()
    for servers in _by_name(router.servers(), names).values():
        for server in servers:
            if server.state == "drain":
                router.set_state(server, "maint")
    moved = _set(router, names, "ready")
    while True:
        by_name = _by_name(router.servers(), names)
        moved.down = {
            name: servers[0].check for name, servers in by_name.items() if not all(server.up for server in servers)
        }
        moved.seconds = clock() - began
        if not moved.down or moved.seconds >= timeout_s:
            return moved
        sleep(POLL_S)


def _by_name(servers: Sequence[Server], names: Sequence[str]) -> Mapping[str, List[Server]]:
    found: Dict[str, List[Server]] = {}
    for server in servers:
        if server.name in names:
            found.setdefault(server.name, []).append(server)
    return found


def _set(router: Router, names: Sequence[str], state: str, unless: str = "") -> Moved:
    by_name = _by_name(router.servers(), names)
    moved = Moved(unknown=[name for name in names if name not in by_name])
    for name, servers in by_name.items():
        for server in servers:
            if server.state not in (state, unless):
                router.set_state(server, state)
                moved.changed.append(name)
    moved.changed = list(dict.fromkeys(moved.changed))
    return moved
