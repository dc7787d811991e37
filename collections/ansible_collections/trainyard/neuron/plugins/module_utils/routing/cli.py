# SPDX-License-Identifier: Apache-2.0
"""The program ``/usr/local/lib/trainyard/router``: look at the router of this host, drain and readmit a replica."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import List, Optional, Sequence

from . import states
from .haproxy import SOCKET, STATES_FILE, Router, RouterError, Server, with_configured_ports
from .steering import move
from .vllm_router import set_workers


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="router", description="Look at and steer the router of this host.")
    top.add_argument("--socket", default=SOCKET, help="HAProxy's stats socket (%(default)s)")
    top.add_argument("--states", default=STATES_FILE, help="where its servers' states are kept (%(default)s)")
    verbs = top.add_subparsers(dest="verb", required=True)
    verbs.add_parser("status", help="one line for each replica")
    save = verbs.add_parser("save", help="write the replicas' states to a file, as the unit does before a reload")
    save.add_argument("file", type=Path)
    ports = verbs.add_parser(
        "ports", help="give written states the ports of the configuration, as the unit does before a start"
    )
    ports.add_argument("file", type=Path)
    ports.add_argument("configuration", type=Path)
    workers = verbs.add_parser("workers", help="tell a vllm-router what it chooses among, as its unit's reload does")
    workers.add_argument("url", help="where it listens")
    workers.add_argument("worker", nargs="*", help="an address of each replica")
    for verb, text in (
        ("drain", "send nothing new to a replica and wait until it has finished"),
        ("maint", "take a replica out at once; its requests go on"),
        ("ready", "send requests to a replica again"),
    ):
        command = verbs.add_parser(verb, help=text)
        command.add_argument("replica", help="as `status` names it")
        command.add_argument("--timeout-s", type=float, default=600.0, help="limit of the wait (%(default)s)")
    return top


def table(servers: Sequence[Server]) -> List[str]:
    """Servers as aligned lines with a heading."""
    rows = [("REPLICA", "MODEL", "STATE", "CHECK", "IN FLIGHT", "QUEUED", "SERVED")]
    for server in servers:
        check = ("up" if server.up else "down") + " (" + server.check + ")"
        counts = (str(server.in_flight), str(server.queued), str(server.served))
        rows.append((server.name, server.backend, server.state, check, *counts))
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return ["  ".join(cell.ljust(widths[index]) for index, cell in enumerate(row)).rstrip() for row in rows]


def save(router: Router, path: Path) -> None:
    """Write the states where HAProxy reads them when it starts, all of them or none."""
    states.keep(path, router.saved_state())


def configure_ports(path: Path, configuration: Path) -> List[str]:
    """Give the states in a file the ports of a configuration; where there are none, nothing is to be done.

    Returns:
        What is to be said of the states, a line each: HAProxy starts with what can be had of them.
    """
    known, said = states.recover(path)
    if known:
        states.keep(path, with_configured_ports(known, configuration.read_text(encoding="utf-8")))
    return said


def steer(router: Router, name: str, state: str, timeout_s: float) -> None:
    """Set a replica's state, and wait until it is idle when it drains.

    Raises:
        RouterError: no such replica, or requests are left when the time is over.
    """
    moved = move([router], [name], state, timeout_s, wait=state == "drain")
    _tell(moved.unkept)
    if state == "drain" and moved.problems():
        raise RouterError("; ".join(moved.problems()))


def _tell(lines: Sequence[str]) -> None:
    for line in lines:
        sys.stderr.write("trainyard: {0}\n".format(line))


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point; 1 with the cause on stderr when something is refused."""
    arguments = parser().parse_args(argv)
    router = Router(arguments.socket, Path(arguments.states))
    try:
        if arguments.verb == "status":
            sys.stdout.write("\n".join(table(router.servers())) + os.linesep)
            _tell([line for line in [states.lost(Path(arguments.states))] if line])
        elif arguments.verb == "save":
            save(router, arguments.file)
        elif arguments.verb == "ports":
            _tell(configure_ports(arguments.file, arguments.configuration))
        elif arguments.verb == "workers":
            set_workers(arguments.url, arguments.worker)
        else:
            steer(router, arguments.replica, arguments.verb, arguments.timeout_s)
    except (RouterError, states.BrokenStatesError, OSError) as error:
        _tell([str(error)])
        return 1
    return 0
