# SPDX-License-Identifier: Apache-2.0
"""How long a load takes: each replica's last one is written down, and a load says how far it is against it.

The record lies in a directory that servers may write in, so it is for people: it decides nothing.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Callable, Dict, Optional

from . import layout, settings, trusted
from .settings import Replica

LONGEST_S = 7 * 86400.0
LATEST_S = 1e11
"""A record of a longer load, or of a later time of day, is none."""


def record(replica: Replica, seconds: float, clock: Callable[[], float] = time.time) -> None:
    """Write down what a load took; where that cannot be written, nothing is known of the next one.

    Args:
        replica: what was loaded.
        seconds: from the start of its server to the passed gate.
        clock: the time of day, in seconds.
    """
    row = {"seconds": round(seconds, 3), "weights": replica.weights_path, "at": clock()}
    try:
        trusted.write_text(_path(replica.name), json.dumps(row) + "\n")
    except OSError:
        return


def expected_s(replica: Replica) -> Optional[float]:
    """How long the load of a replica may take, in seconds: as long as its last one, else as the last on this host.

    Only loads of the same weights count; None where there was none.
    """
    own = _read(replica.name, replica.weights_path)
    if own:
        return own["seconds"]
    others = [_read(name, replica.weights_path) for name in settings.configured() if name != replica.name]
    known = [row for row in others if row]
    return max(known, key=lambda row: row["at"])["seconds"] if known else None


def progress(phase: str, elapsed_s: float, of_s: Optional[float]) -> str:
    """How far a load is: its phase, its time, and what part of the last load's time that is.

    Args:
        phase: what the log says, with its own count or percentage.
        elapsed_s: how long it has been loading.
        of_s: how long the last load took; None where that is not known.
    """
    words = "{0}, {1}".format(phase, duration(elapsed_s))
    if of_s is None:
        return words
    if elapsed_s > of_s:
        return "{0}, longer than the last load ({1})".format(words, duration(of_s))
    return "{0} of about {1} ({2} %)".format(words, duration(of_s), percent(elapsed_s, of_s))


def percent(elapsed_s: float, of_s: float) -> int:
    """What part of the last load's time has gone, 0 to 99: it is not over before the gate has passed."""
    return min(99, int(100 * max(0.0, elapsed_s) / of_s)) if of_s > 0 else 99


def duration(seconds: float) -> str:
    """A time for people: `45 s`, `3 min 5 s`, `2 h 5 min`."""
    whole = int(max(0.0, seconds))
    if whole < 60:
        return "{0} s".format(whole)
    if whole < 3600:
        return "{0} min {1} s".format(whole // 60, whole % 60) if whole % 60 else "{0} min".format(whole // 60)
    return "{0} h {1} min".format(whole // 3600, whole % 3600 // 60)


def _path(name: str) -> Path:
    return layout.STATE / (name + ".load.json")


def _read(name: str, weights: str) -> Dict[str, float]:
    """The record of a replica's last load of these weights; empty where there is none that can be used."""
    try:
        row = json.loads(trusted.read_text(_path(name)))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(row, dict) or row.get("weights") != weights:
        return {}
    took, at = _number(row.get("seconds"), LONGEST_S), _number(row.get("at"), LATEST_S)
    return {} if took is None or at is None or took <= 0 else {"seconds": took, "at": at}


def _number(value: object, largest: float) -> Optional[float]:
    """A number from 0 to the largest; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value <= largest else None
