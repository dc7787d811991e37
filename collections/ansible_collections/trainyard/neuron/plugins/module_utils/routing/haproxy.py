# SPDX-License-Identifier: Apache-2.0
"""Talk to HAProxy over its stats socket: what each server does, and whether it gets requests.

Commands and columns are those of HAProxy 2.6's management guide (unchanged up to 3.x).
"""

from __future__ import annotations

import csv
import io
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from .states import BrokenStatesError, keep

SOCKET = "/run/haproxy/admin.sock"
STATES_FILE = "/var/lib/trainyard-router/servers"
"""Where the unit of the router at `SOCKET` keeps its servers' states."""
TIMEOUT_S = 10.0
PREFIX = "model-"
"""What the names of the backends that have replicas begin with; others belong to the router itself."""
STATES = ("ready", "drain", "maint")
_NUMBER = re.compile(r"-?[0-9]{1,18}")
FAILURES = ("hrsp_5xx", "econ", "eresp")
"""Columns of the statistics that count requests failed on the server's side.

The largest of them is taken, not the sum: one broken request may stand in several.
"""
FULL_WEIGHT = 100
"""A server's weight in percent of the configured one, when nobody has lowered it."""
# Bits of srv_admin_state: set by the socket or by the configuration; the others follow from these or from checks.
_FORCED_MAINT, _FORCED_DRAIN = 0x01, 0x08
_PORT, _CHECK_PORT, _AGENT_PORT = 18, 21, 24
"""Fields of a row of the states, counted from 0. Source: HAProxy's management guide, `show servers state`."""


class RouterError(Exception):
    """The router did not answer, or refused a command."""


@dataclass(frozen=True)
class _Asked:
    """What operators and rolls set: a state, and a weight in percent of the configured one."""

    state: str
    weight: int


@dataclass(frozen=True)
class Server:
    """One server of one backend.

    Attributes:
        backend: name of the backend.
        name: name of the server, the replica's id.
        state: what was asked of it: ``ready``, ``drain`` or ``maint``.
        up: whether its checks pass.
        in_flight: requests that it works on.
        queued: requests that wait for it in the router.
        served: requests since the router started.
        check: the last check's verdict, for people.
        weight: how much it gets compared with others, in percent of its configured weight.
    """

    backend: str
    name: str
    state: str
    up: bool
    in_flight: int
    queued: int
    served: int
    check: str
    weight: int = FULL_WEIGHT

    @property
    def busy(self) -> int:
        """Requests that would be lost if it went away now."""
        return self.in_flight + self.queued


class Router:
    """One HAProxy process, by its socket.

    Args:
        path: the socket's path, or ``host:port`` where it listens on an address.
        states: the file that it reads its servers' states from when it starts; known of the host's own router.
    """

    states: Optional[Path] = None

    def __init__(self, path: str = SOCKET, states: Optional[Path] = None) -> None:
        self.path = path
        self.states = Path(STATES_FILE) if path == SOCKET else states

    def command(self, text: str) -> str:
        """Send one command and return the answer.

        Raises:
            RouterError: no HAProxy listens there.
        """
        host, _, port = self.path.rpartition(":")
        inet = not self.path.startswith("/") and bool(host)
        try:
            with socket.socket(socket.AF_INET if inet else socket.AF_UNIX, socket.SOCK_STREAM) as link:
                link.settimeout(TIMEOUT_S)
                link.connect((host, int(port)) if inet else self.path)
                link.sendall(text.encode("utf-8") + b"\n")
                parts: List[bytes] = []
                while True:
                    part = link.recv(65536)
                    if not part:
                        return b"".join(parts).decode("utf-8", "replace")
                    parts.append(part)
        except OSError as error:
            raise RouterError("{0}: {1}; `systemctl status haproxy` says more".format(self.path, error)) from error

    def servers(self) -> List[Server]:
        """Every server of every backend, in the configuration's order."""
        asked = self._asked()
        found = []
        for row in self._statistics():
            key = (row["pxname"], row["svname"])
            if key not in asked:
                continue
            found.append(
                Server(
                    backend=key[0],
                    name=key[1],
                    state=asked[key].state,
                    weight=asked[key].weight,
                    up=row["status"].startswith(("UP", "DRAIN", "no check", "NOLB")),
                    in_flight=_count(row, "scur"),
                    queued=_count(row, "qcur"),
                    served=_count(row, "stot"),
                    check="{0} {1}".format(row["status"], row.get("last_chk") or row.get("check_status") or "").strip(),
                )
            )
        return found

    def counts(self) -> Dict[str, Dict[str, int]]:
        """``requests`` and ``errors`` of every server by name, since the router started."""
        found: Dict[str, Dict[str, int]] = {}
        for row in self._statistics():
            before = found.get(row["svname"], {"requests": 0, "errors": 0})
            found[row["svname"]] = {
                "requests": before["requests"] + (_count(row, "req_tot") or _count(row, "stot")),
                "errors": before["errors"] + max(_count(row, column) for column in FAILURES),
            }
        return found

    def _statistics(self) -> List[Dict[str, str]]:
        """The rows of the statistics that are whole.

        Raises:
            RouterError: it is no table of HAProxy's.
        """
        text = self.command("show stat -1 4 -1").lstrip("# ")
        try:
            rows = [row for row in csv.DictReader(io.StringIO(text, newline="")) if None not in row]
        except csv.Error as error:
            raise RouterError("{0}: its statistics cannot be read ({1})".format(self.path, error)) from error
        if rows and not {"pxname", "svname", "status"} <= set(rows[0]):
            raise RouterError("{0}: what it said is no table of statistics: {1!r:.80}".format(self.path, text))
        return [row for row in rows if all(row[name] is not None for name in ("pxname", "svname", "status"))]

    def _asked(self) -> Dict[Tuple[str, str], _Asked]:
        """What was asked of each (backend, server), which the statistics mix with the checks' results."""
        states = {}
        for line in self.command("show servers state").splitlines():
            cells = line.split()
            if len(cells) < 9 or not cells[0].isdigit() or not cells[1].startswith(PREFIX):
                continue
            if not all(_NUMBER.fullmatch(cell) for cell in cells[6:9]):
                raise RouterError("{0}: a line of its states cannot be read: {1!r:.120}".format(self.path, line))
            bits = int(cells[6])
            state = "drain" if bits & _FORCED_DRAIN else "ready"
            # A server that the configuration disables begins with this bit as well, and loses it when it is made ready.
            state = "maint" if bits & _FORCED_MAINT else state
            now, configured = int(cells[7]), int(cells[8])
            states[(cells[1], cells[3])] = _Asked(state, round(100 * now / configured) if configured else FULL_WEIGHT)
        return states

    def find(self, name: str) -> List[Server]:
        """The servers of that name, one for each backend that has it."""
        return [server for server in self.servers() if server.name == name]

    def set_state(self, server: Server, state: str) -> None:
        """Ask for a state.

        Raises:
            RouterError: HAProxy refused; its words are in the message.
        """
        self._set(server, "state {0}".format(state))

    def set_weight(self, server: Server, percent: int) -> None:
        """Send it less than others, in percent of its configured weight, or as much again.

        Raises:
            RouterError: HAProxy refused; its words are in the message.
        """
        self._set(server, "weight {0}%".format(percent))

    def _set(self, server: Server, what: str) -> None:
        answer = self.command("set server {0}/{1} {2}".format(server.backend, server.name, what)).strip()
        if answer:
            raise RouterError("{0}/{1}: {2}".format(server.backend, server.name, answer))

    def saved_state(self) -> str:
        """The states in the form that HAProxy loads when it starts."""
        return self.command("show servers state")

    def remember(self) -> str:
        """Write the states where they outlive a crash, which saves nothing.

        Returns:
            Why that cannot be; empty where it was done, or is nobody's to do.
        """
        if self.states is None or not self.states.parent.is_dir():
            return ""
        try:
            keep(self.states, self.saved_state())
        except (BrokenStatesError, OSError, RouterError) as error:
            return "{0}: {1}; what was set is forgotten if the router crashes before its next reload".format(
                self.states, error
            )
        return ""


def _count(row: Mapping[str, Any], column: str) -> int:
    """A column of the statistics, 0 where it is empty.

    Raises:
        RouterError: it is no number.
    """
    text = row.get(column) or "0"
    if not _NUMBER.fullmatch(text):
        raise RouterError("{0}: {1} is {2!r:.40} and no number".format(row.get("svname"), column, text))
    return int(text)


def with_configured_ports(states: str, configuration: str) -> str:
    """States for a start with a configuration, which must not send requests to where replicas were before it.

    HAProxy takes a server's address from its configuration, but the ports from the states.

    Args:
        states: what `Router.saved_state` returned.
        configuration: the text of haproxy.cfg.
    """
    ports, backend = {}, ""
    for line in configuration.splitlines():
        words = line.split()
        if words[:1] in (["backend"], ["listen"], ["frontend"]) and len(words) > 1:
            backend = words[1]
        elif words[:1] == ["server"] and len(words) > 2:
            ports[(backend, words[1])] = words[2].rpartition(":")[2]
    rows = []
    for line in states.splitlines():
        cells = line.split(" ")
        port = ports.get((cells[1], cells[3])) if len(cells) > _AGENT_PORT else None
        if port:
            # 0 leaves the other two as they are configured.
            cells[_PORT], cells[_CHECK_PORT], cells[_AGENT_PORT] = port, "0", "0"
        rows.append(" ".join(cells) + "\n")
    return "".join(rows)
