# SPDX-License-Identifier: Apache-2.0
"""What a host says of its replicas: systemd's units, releases, the probe, the fence, and what a roll left."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional

from ..roll.journal import Book, StateError
from ..serving import layout, phases, trusted
from .page import Page

ROLLS = ("redeploy", "rollback", "upgrade", "heal")
"""Runs during which replicas are out on purpose."""
STATES = ("active", "activating", "deactivating", "failed", "inactive")
_BEGAN, _READY, _TURNED = (name + "TimestampMonotonic" for name in ("ExecMainStart", "ActiveEnter", "StateChange"))
PROPERTIES = ",".join(("Id", "ActiveState", "SubState", "NRestarts", _BEGAN, _READY, _TURNED))
HAS_PROCESS = ("start", "start-post")
"""Steps of a start that have its process; before them, systemd tells of the process of the start before."""
COMMAND_TIMEOUT_S = 20
MOST_REPLICAS = 128
PROBE_FRESH_S = 10.0
"""The probe writes once a second; a record that is older is no sign of life."""
FENCE_FRESH_S = 30.0

Unit = Mapping[str, str]


@dataclass
class Places:
    """Where a host keeps what is read; tests have others."""

    root: Path = layout.ROOT
    runtime: Path = layout.RUNTIME
    probe: Path = Path("/run/trainyard-probe")
    fence: Path = Path("/run/trainyard-fence-watch/state.json")
    fence_rules: Path = layout.RULES


def systemd_units(names: List[str]) -> Dict[str, Unit]:
    """What systemd says of the units of some replicas, by replica, with one call.

    Raises:
        OSError: it cannot be asked.
    """
    if not names:
        return {}
    argv = ["systemctl", "show", "--property=" + PROPERTIES, "--", *("vllm@{0}.service".format(name) for name in names)]
    try:
        done = subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=COMMAND_TIMEOUT_S, check=True
        )
    except subprocess.SubprocessError as error:
        raise OSError("systemd does not answer: {0}".format(error)) from error
    found: Dict[str, Unit] = {}
    for block in done.stdout.decode("utf-8", "replace").strip("\n").split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        name = values.get("Id", "").rpartition(".")[0].partition("@")[2]
        found[name] = values
    return found


def _number(text: Optional[str]) -> int:
    return int(text) if text and text.isascii() and text.isdigit() else 0


@dataclass
class Replicas:
    """What is said of a host's replicas; remembers how long each one's last start took.

    Args:
        places: where things are.
        units: asks systemd.
        book: the host's lock and journal.
    """

    places: Places = field(default_factory=Places)
    units: Callable[[List[str]], Dict[str, Unit]] = systemd_units
    book: Book = field(default_factory=Book)
    starts_s: Dict[str, float] = field(default_factory=dict)

    def entries(self) -> Dict[str, Dict[str, Any]]:
        """The plan's entry of each replica that is switched on."""
        paths = sorted(layout.linked(self.places.root, layout.CURRENT))[:MOST_REPLICAS]
        return {path.stem: layout.entry_of(path) for path in paths}

    def say(self, page: Page, now_s: float, monotonic_s: float) -> None:
        """Add everything about replicas.

        Args:
            page: where to.
            now_s: the time of day, in seconds.
            monotonic_s: the clock that systemd's monotonic times are of.

        Raises:
            OSError: systemd does not answer.
        """
        entries = self.entries()
        found = self.units(list(entries))
        for name, entry in entries.items():
            labels = {"deployment": str(entry.get("deployment", "")), "replica": name}
            page.say(
                "trainyard_replica_info",
                1,
                cores=str(entry.get("cores", "")),
                release=str(entry.get("release", "")),
                sdk=str(entry.get("sdk_release", "")),
                artifact_digest=str(entry.get("artifact", "")),
                **labels,
            )
            self._say_unit(page, labels, found.get(name, {}), monotonic_s)
            running = self._running_release(name)
            drifts = bool(running) and running != str(entry.get("release", ""))
            page.say("trainyard_drift", float(drifts), **labels)
            page.say("trainyard_probe_alive", float(self._probe_looked(name, now_s)), **labels)

    def _say_unit(self, page: Page, labels: Dict[str, str], unit: Unit, monotonic_s: float) -> None:
        name, state = labels["replica"], unit.get("ActiveState", "inactive")
        for known in STATES:
            page.say("trainyard_replica_state", float(known == state), state=known, **labels)
        page.say("trainyard_replica_restarts_total", _number(unit.get("NRestarts")), **labels)
        began_us = _number(unit.get(_BEGAN))
        ready_us = _number(unit.get(_READY))
        if state == "active" and 0 < began_us < ready_us:
            self.starts_s[name] = (ready_us - began_us) / 1e6
        if name in self.starts_s:
            page.say("trainyard_replica_start_seconds", self.starts_s[name], **labels)
        if state == "activating":
            since_us = began_us if unit.get("SubState") in HAS_PROCESS else _number(unit.get(_TURNED))
            since_s = max(0.0, monotonic_s - since_us / 1e6) if since_us else 0.0
            page.say("trainyard_replica_starting_seconds", since_s, **labels)
            page.say("trainyard_replica_phase", 1, phase=self._phase(name), **labels)

    def _record(self, path: Path, limit: int = trusted.STATE_LIMIT) -> Dict[str, Any]:
        """A record that a server's user may have written; empty where it is none."""
        try:
            row = json.loads(trusted.read_text(path, limit))
        except (OSError, ValueError, RecursionError):
            return {}
        return row if isinstance(row, dict) else {}

    def _running_release(self, name: str) -> str:
        found = self._record(self.places.runtime / name / "replica.json", trusted.CONFIGURATION_LIMIT).get("release")
        return found if isinstance(found, str) else ""

    def _phase(self, name: str) -> str:
        said = str(self._record(self.places.probe / (name + ".json")).get("progress", ""))
        # Its file is a server's to write: none but the words that there are.
        return next((phase for phase, _pattern in phases.PHASES if said.startswith(phase)), "starting")

    def _probe_looked(self, name: str, now_s: float) -> bool:
        try:
            status = (self.places.probe / (name + ".json")).lstat()
        except OSError:
            return False
        return abs(now_s - status.st_mtime) < PROBE_FRESH_S

    def say_fence(self, page: Page, now_s: float) -> None:
        """Add whether strangers are kept out; nothing where no role has put a fence up."""
        if not trusted.there(self.places.fence_rules):
            return
        row = self._record(self.places.fence)
        at_s = row.get("at")
        fresh = isinstance(at_s, (int, float)) and abs(now_s - at_s) < FENCE_FRESH_S
        page.say("trainyard_fence_closed", float(fresh and not row.get("problem")))

    def say_roll(self, page: Page) -> None:
        """Add who holds the lock, and what a roll has not brought back.

        Raises:
            OSError: the file that tells cannot be read.
        """
        try:
            state = self.book.state()
        except StateError as error:
            raise OSError(str(error)) from error
        holder = state.holder
        held = holder is not None and holder.left_s(self.book.clock()) > 0
        verb = holder.verb if holder is not None and held else ""
        page.say("trainyard_lock_held", float(held), verb=verb)
        page.say("trainyard_roll_in_progress", float(verb in ROLLS))
        entries = self.entries()
        for name, entry in entries.items():
            noted = state.replicas.get(name, {})
            left = bool(noted.get("admitted")) and noted.get("step") != "ready"
            labels = {"deployment": str(entry.get("deployment", "")), "replica": name}
            page.say("trainyard_roll_left_behind", float(left and not held), **labels)


def monotonic_s() -> float:
    """The clock of systemd's monotonic times, in seconds."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)
