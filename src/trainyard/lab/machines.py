# SPDX-License-Identifier: Apache-2.0
"""The machines under instances that somebody launches at the lab's EC2 stand-in: made, and taken away again.

The stand-in has no access to this machine. `trainyard lab up --account` starts this program beside it, which asks it
what is wanted and tells it what there is, until the lab is gone.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import typer

from trainyard.lab import machine, state
from trainyard.lab.errors import LabError
from trainyard.lab.fleet import Fleet, write_files
from trainyard.lab.podman import Podman
from trainyard.lab.state import Lab, Paths

POLL_S = 0.5
MACHINES_PATH = "/_lab/machines"
FIRST_ADDRESS, LAST_ADDRESS = 211, 254
LOCK, LOG = "machines.lock", "machines.log"


@dataclass(frozen=True)
class Change:
    """What brings the machines to what is wanted.

    Args:
        make: instances without a machine.
        take: hosts whose instance has ended.
    """

    make: list[Mapping[str, str]]
    take: list[str]


def compare(wanted: Iterable[Mapping[str, str]], launched: Iterable[str]) -> Change:
    """Compare the instances that want a machine with the hosts that there are."""
    rows = {row["id"]: row for row in wanted}
    there = list(launched)
    return Change([rows[one] for one in rows if one not in there], [one for one in there if one not in rows])


def free_address(lab: Lab) -> str:
    """An address of the lab's network that no host has.

    Raises:
        LabError: there is none.
    """
    for number in range(FIRST_ADDRESS, LAST_ADDRESS + 1):
        if lab.address(number) not in lab.hosts.values():
            return lab.address(number)
    raise LabError(f"this lab has no more than {LAST_ADDRESS - FIRST_ADDRESS + 1} launched instances at once")


def ask(lab: Lab) -> list[dict[str, str]] | None:
    """Tell the stand-in which machines are up, and hear which are wanted; None where it does not answer."""
    data = json.dumps([{"id": one, "address": lab.hosts[one]} for one in lab.launched]).encode()
    request = urllib.request.Request(f"{lab.aws_url}{MACHINES_PATH}", data, method="PUT")  # noqa: S310 - the lab's own
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            found: list[dict[str, str]] = json.load(answer)
    except (OSError, urllib.error.URLError, ValueError):
        return None
    return found


class Machines:
    """The machines of one lab.

    Args:
        name: of the lab.
        podman: on this machine.
    """

    def __init__(self, name: str, podman: Podman) -> None:
        self.name, self.podman = name, podman
        self.files = state.paths(name)

    def follow(self) -> None:
        """Bring machines to what is wanted, again and again, until the lab is gone."""
        while state.load(self.name) is not None:
            # Not while another command changes the lab: its file is whole then, and nobody takes it away meanwhile.
            with state.at_work(state.lab_id(self.name)):
                lab = state.load(self.name)
                if lab is None or not lab.account:
                    return
                self._step(lab)
            time.sleep(POLL_S)

    def _step(self, lab: Lab) -> None:
        """Once; a machine is told to be up after it has booted."""
        wanted = ask(lab)
        if wanted is None:
            return
        change = compare(wanted, lab.launched)
        fleet = Fleet(self.podman, lab, self.files, typer.echo)
        if change.take:
            self._take(fleet, change.take)
        for row in change.make:
            self._make(fleet, row)
        if change.make:
            ask(lab)

    def _make(self, fleet: Fleet, row: Mapping[str, str]) -> None:
        """Make one machine; one that does not come up is taken away, and tried again."""
        lab, host = fleet.lab, row["id"]
        try:
            lab.hosts[host] = free_address(lab)
            lab.launched[host] = {name: row[name] for name in ("instance_type", "public_key", "user_data")}
            self._keep(lab)
            fleet.add(host)
            fleet.boots(host)
            typer.echo(f"{host} is up at {lab.hosts[host]}")
        except LabError as error:
            typer.echo(f"{host}: {error}")
            self._take(fleet, [host])

    def _take(self, fleet: Fleet, hosts: list[str]) -> None:
        """Take machines away."""
        fleet.remove(hosts)
        for host in hosts:
            fleet.lab.hosts.pop(host, None)
            fleet.lab.launched.pop(host, None)
            shutil.rmtree(self.files.host(host), ignore_errors=True)
            typer.echo(f"{host} is gone")
        self._keep(fleet.lab)

    def _keep(self, lab: Lab) -> None:
        """Write down what the lab is now, and what its hosts mount."""
        state.save(lab)
        write_files(lab, self.files)


def begin(lab: Lab, files: Paths) -> None:
    """Have the machines of a lab made from now on, if nobody does it yet."""
    with (files.folder / LOG).open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "trainyard.lab.machines", lab.name],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def main(name: str) -> int:
    """Follow one lab, as the only one who does; return an exit code."""
    files = state.paths(name)
    with (files.folder / LOCK).open("w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        Machines(name, Podman(machine.detect())).follow()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
