# SPDX-License-Identifier: Apache-2.0
"""What a roll writes down on each host: who rolls (the lock), and how far each replica got (the journal).

Both live in one JSON file of the host, so that they survive the controller, and are changed under a file lock. The
journal is needed for one question only, which no unit and no router can answer: is this replica out of rotation
because a roll took it out and did not come back, or because a person did? Standard library only.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence

STATE_DIR = Path("/var/lib/trainyard/roll")


@dataclass(frozen=True)
class Holder:
    """Who holds the lock of a host.

    Attributes:
        run: id of the run, new for each one.
        owner: ``user@controller``.
        pid: process of the run on its controller.
        verb: ``redeploy`` or ``rollback``.
        since: start of the run, seconds since the epoch.
        expires: end of the lock unless renewed, seconds since the epoch.
    """

    run: str
    owner: str
    pid: int
    verb: str
    since: float
    expires: float

    def words(self, now: float) -> str:
        """The holder for people."""
        return "{0} ({1}, run {2}, pid {3}) since {4:.0f} min, for {5:.0f} min more unless renewed".format(
            self.owner, self.verb, self.run, self.pid, (now - self.since) / 60, max(0.0, self.expires - now) / 60
        )


class LockHeldError(Exception):
    """Another run holds the lock."""

    def __init__(self, holder: Holder, now: float) -> None:
        super().__init__(
            "a roll is under way here: {0}. Nothing was changed. Wait for it; if that run is dead, take its lock over "
            "with `-e trainyard_take_over={1}`.".format(holder.words(now), holder.run)
        )
        self.holder = holder


def decide(current: Optional[Holder], wanted: Holder, now: float, take_over: Sequence[str] = ()) -> Holder:
    """Whether ``wanted`` may hold the lock.

    Args:
        current: who holds it, or None.
        wanted: who asks. The same run renews.
        now: seconds since the epoch, by the host's clock.
        take_over: runs known to be dead.

    Raises:
        LockHeldError: another run holds it, has not expired, and is not known to be dead.
    """
    if current and current.run != wanted.run and current.expires > now and current.run not in take_over:
        raise LockHeldError(current, now)
    return wanted


def dead_runs(holders: Sequence[Holder], owner: str, alive: Mapping[int, bool]) -> List[str]:
    """Runs of this very controller and user whose process is gone.

    Args:
        holders: who holds locks in the fleet.
        owner: ``user@controller`` of this run; another controller's processes cannot be judged from here.
        alive: whether the process with that id lives on this controller.
    """
    return sorted({holder.run for holder in holders if holder.owner == owner and not alive.get(holder.pid, True)})


def begun(entries: Mapping[str, Any], moves: Sequence[Mapping[str, Any]], run: str, now: float) -> Dict[str, Any]:
    """Journal entries at the start of a run.

    A replica that an earlier, unfinished run took out of rotation stays marked as one to be readmitted, whatever its
    routers say now.

    Args:
        entries: the journal so far, by replica name.
        moves: the plan's moves on this host.
        run: id of this run.
        now: seconds since the epoch.
    """
    fresh = {
        move["name"]: {
            "run": run,
            "step": "planned",
            "at": now,
            "was": move["was"],
            "release": move["release"],
            "admitted": bool(move["admit"]),
        }
        for move in moves
    }
    kept = {name: entry for name, entry in entries.items() if entry.get("admitted") and entry.get("step") != "ready"}
    return {**kept, **fresh}


class Book:
    """The file of a host. Every change is one transaction: locked, written beside, moved over."""

    def __init__(self, directory: Path = STATE_DIR) -> None:
        self.directory = directory
        self.path = directory / "state.json"

    def read(self) -> Dict[str, Any]:
        """The state: ``{"holder": {...} or None, "replicas": {name: entry}}``; empty if there was never a roll."""
        try:
            raw = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raw = {}
        return {"holder": raw.get("holder"), "replicas": raw.get("replicas", {})}

    def holder(self) -> Optional[Holder]:
        """Who holds the lock, expired or not."""
        raw = self.read()["holder"]
        return Holder(**raw) if raw else None

    @contextmanager
    def change(self) -> Iterator[Dict[str, Any]]:
        """Hand out the state for changing; it is on disk when the block ends without an error."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        with (self.directory / ".lock").open("w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            state = self.read()
            yield state
            beside = self.path.with_suffix(".new")
            with beside.open("w", encoding="utf-8") as out:
                json.dump(state, out, indent=2, sort_keys=True)
                out.flush()
                os.fsync(out.fileno())
            beside.replace(self.path)

    def take(
        self, wanted: Holder, moves: Sequence[Mapping[str, Any]], now: float, take_over: Sequence[str] = ()
    ) -> bool:
        """Take or renew the lock and open the journal for ``moves``. Returns whether anything changed.

        Raises:
            LockHeldError: see `decide`.
        """
        with self.change() as state:
            current = Holder(**state["holder"]) if state["holder"] else None
            state["holder"] = asdict(decide(current, wanted, now, take_over))
            state["replicas"] = begun(state["replicas"], moves, wanted.run, now)
        return True

    def note(self, name: str, step: str, run: str = "", renew_seconds: float = 0.0, **more: Any) -> None:
        """Write down that a replica reached a step, and keep the lock of the run alive."""
        now = time.time()
        with self.change() as state:
            entry = state["replicas"].setdefault(name, {"admitted": False})
            entry.update({"step": step, "at": now, **more})
            holder = state["holder"]
            if holder and renew_seconds and holder["run"] == run:
                holder["expires"] = max(holder["expires"], now + renew_seconds)

    def free(self, run: str, finished: Sequence[str]) -> bool:
        """Give the lock back and close the entries of ``finished`` replicas. Returns whether anything changed.

        Entries of replicas that the run did not finish stay: they are how the next run knows what to bring back.
        """
        before = self.read()
        mine = bool(before["holder"] and before["holder"]["run"] == run)
        closing = [name for name in finished if name in before["replicas"]]
        if not mine and not closing:
            return False
        with self.change() as state:
            if state["holder"] and state["holder"]["run"] == run:
                state["holder"] = None
            for name in closing:
                state["replicas"].pop(name, None)
        return True
