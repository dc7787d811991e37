# SPDX-License-Identifier: Apache-2.0
"""What a host keeps of the runs that change it: who holds its lock, and how far a roll got with each replica.

Both live in one JSON file of the host, so that they survive the controller, and are changed under a file lock.

The lock ends by itself some time after the last step of its run, by a clock of the host that nobody sets and that goes
on while the host sleeps. Each time it changes hands it gets the next number. A run passes its number along, and every
module that changes something proves first that the number still holds: a run that was thought dead and goes on is
stopped by the first host that another run has.

The journal is needed for one question only, which no unit and no router can answer: is this replica out of rotation
because a roll took it out and did not come back, or because a person did? Standard library only.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Sequence, Tuple

STATE_DIR = Path("/var/lib/trainyard/roll")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
VERSION = 2
LEASE_S = 7200.0
"""How long a lock holds after the last step of its run, unless the run asks for more."""
RENEW_AFTER_S = 60.0
"""A lock that was renewed less than this ago is not written again."""
UNREADABLE = "unreadable"
"""What is taken over, in the place of a run, where the file does not tell which one it is."""


@dataclass(frozen=True)
class Moment:
    """A point in time as this host counts it.

    Attributes:
        boot: id of the kernel's boot; times of different boots cannot be compared.
        now_s: seconds since then, asleep or not.
    """

    boot: str
    now_s: float


def moment() -> Moment:
    """Now, by a clock that no time server and no administrator sets."""
    try:
        boot = BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return Moment(boot, time.clock_gettime(time.CLOCK_BOOTTIME))


@dataclass(frozen=True)
class Claim:
    """Who asks for a lock.

    Attributes:
        run: id of the run, new for each one.
        owner: ``user@controller``.
        pid: process of the run on its controller.
        verb: what it does, a playbook's name.
        process: what tells the process from another that gets its id later, and its controller from others.
        lease_s: how long the lock holds after each step.
    """

    run: str
    owner: str = ""
    pid: int = 0
    verb: str = ""
    process: str = ""
    lease_s: float = LEASE_S


@dataclass(frozen=True)
class Holder:
    """Who holds the lock of a host.

    Attributes:
        run, owner, pid, verb, process, lease_s: as in `Claim`.
        number: fencing number; grows whenever the lock changes hands.
        boot: boot of the host during which it was renewed last.
        since_s: when it was taken, seconds of that boot; below 0 if before it.
        ends_s: when it ends unless renewed, seconds of that boot.
        displaced: the holder whose lock had ended by itself when this one took it; see `Book.free`.
    """

    run: str
    owner: str
    pid: int
    verb: str
    process: str
    lease_s: float
    number: int
    boot: str
    since_s: float
    ends_s: float
    displaced: Optional[Dict[str, Any]] = None

    @classmethod
    def of(cls, claim: Claim, number: int, now: Moment, displaced: Optional[Holder] = None) -> Holder:
        """The holder that a claim becomes."""
        before = {**asdict(displaced), "displaced": None} if displaced else None
        return cls(
            **asdict(claim),
            number=number,
            boot=now.boot,
            since_s=now.now_s,
            ends_s=now.now_s + claim.lease_s,
            displaced=before,
        )

    def left_s(self, now: Moment) -> float:
        """How long it holds yet, in seconds; below 0 if it has ended.

        Nobody knows how long a host was down, so after a boot the lock holds for its whole length again.
        """
        return (self.ends_s if self.boot == now.boot else self.lease_s) - now.now_s

    def renewed(self, lease_s: float, now: Moment) -> Holder:
        """The same holder from now on."""
        since_s = self.since_s if self.boot == now.boot else -1.0
        ends_s = now.now_s + max(lease_s, self.left_s(now))
        return replace(self, lease_s=lease_s, boot=now.boot, since_s=since_s, ends_s=ends_s)

    def words(self, now: Moment) -> str:
        """The holder for people."""
        known = self.boot == now.boot and self.since_s >= 0
        since = "since {0:.0f} min".format((now.now_s - self.since_s) / 60) if known else "since before its last boot"
        return "{0} ({1}, run {2}, pid {3}) {4}, for {5:.0f} min more unless renewed".format(
            self.owner, self.verb, self.run, self.pid, since, max(0.0, self.left_s(now)) / 60
        )


class LockHeldError(Exception):
    """Another run holds the lock."""

    def __init__(self, holder: Holder, now: Moment) -> None:
        super().__init__(
            "this host is held by {0}. Nothing was changed. Wait for it; if that run is dead, take its lock over "
            "with `-e trainyard_take_over={1}`.".format(holder.words(now), holder.run)
        )
        self.holder = holder


class LockLostError(Exception):
    """The lock of this run is not its own any more."""

    def __init__(self, run: str, number: int, holder: Optional[Holder], now: Moment) -> None:
        who = "it is held by " + holder.words(now) if holder else "nobody holds it"
        had = "has lost the lock of this host (number {0})".format(number) if number else "never had this host's lock"
        super().__init__(
            "run {0} {1}: {2}. This step was not taken. Let the other run end, then run the same playbook again: it "
            "plans on what it finds.".format(run, had, who)
        )
        self.holder = holder


class StateError(Exception):
    """The file of a host cannot be used as it is; says what is lost with it, and the next command."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            "{0} {1}. It says who is changing this host, and which replicas an unfinished roll took out of rotation; "
            "both are unknown now, what serves goes on. If no other run is under way, run the same with "
            "`-e trainyard_take_over={2}`: the file is kept beside ({0}.broken), and replicas that are drained stay "
            "drained until somebody readmits them (playbooks/status.yml names them).".format(path, why, UNREADABLE)
        )


@dataclass(frozen=True)
class State:
    """The content of the file: the last fencing number given out, who holds the lock, journal entries by replica."""

    number: int
    holder: Optional[Holder]
    replicas: Dict[str, Dict[str, Any]]

    def to_dict(self) -> Dict[str, Any]:
        """JSON-ready form."""
        holder = asdict(self.holder) if self.holder else None
        return {"version": VERSION, "number": self.number, "holder": holder, "replicas": self.replicas}


EMPTY = State(0, None, {})
_TYPES: Dict[str, Tuple[type, ...]] = {
    "run": (str,),
    "owner": (str,),
    "pid": (int,),
    "verb": (str,),
    "process": (str,),
    "lease_s": (int, float),
    "number": (int,),
    "boot": (str,),
    "since_s": (int, float),
    "ends_s": (int, float),
    "displaced": (dict, type(None)),
}


def parse(text: str, now: Moment, wall_s: float) -> State:
    """Read the content of the file, of this version or of the first.

    Args:
        text: the file.
        now: by the host's clock.
        wall_s: seconds since the epoch, which locks of the first version counted in.

    Raises:
        ValueError: says what is wrong with it.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("is not whole ({0})".format(error)) from None
    if not isinstance(raw, dict):
        raise ValueError("holds no mapping")
    version = raw.get("version", 1)
    if isinstance(version, bool) or version not in (1, VERSION):
        raise ValueError(
            "is of version {0!r}, and this trainyard reads {1}; use the one that wrote it".format(version, VERSION)
        )
    number = raw.get("number", 0)
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ValueError("has {0!r} as number of its lock".format(number))
    return State(number, _holder_of(raw.get("holder"), version, now, wall_s), _entries_of(raw.get("replicas", {})))


def _holder_of(raw: Any, version: int, now: Moment, wall_s: float) -> Optional[Holder]:
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise ValueError("has {0!r} as holder of its lock".format(raw))
    if version == 1:
        raw = _of_version_1(raw, now, wall_s)
    wrong = [
        name
        for name, types in _TYPES.items()
        if not isinstance(raw.get(name), types) or isinstance(raw.get(name), bool)
    ]
    if wrong or set(raw) != {item.name for item in fields(Holder)}:
        raise ValueError("does not tell who holds its lock ({0})".format(", ".join(wrong) or "other fields"))
    numbers = (raw["lease_s"], raw["since_s"], raw["ends_s"])
    if not all(-1e15 < value < 1e15 for value in numbers):
        raise ValueError("does not tell how long its lock holds")
    return Holder(**raw)


def _of_version_1(raw: Dict[str, Any], now: Moment, wall_s: float) -> Dict[str, Any]:
    """A holder that counted in the wall clock: what is left of its time, and never more than it can have had."""
    try:
        left_s = min(float(raw["expires"]) - wall_s, LEASE_S)
        since_s = now.now_s - max(0.0, wall_s - float(raw["since"]))
        found = {name: raw[name] for name in ("run", "owner", "pid", "verb")}
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError("does not tell who holds its lock") from None
    more = {"process": "", "lease_s": LEASE_S, "number": 0, "boot": now.boot, "displaced": None}
    return {**found, **more, "since_s": since_s, "ends_s": now.now_s + left_s}


def _entries_of(raw: Any) -> Dict[str, Dict[str, Any]]:
    if not isinstance(raw, dict) or not all(isinstance(entry, dict) for entry in raw.values()):
        raise ValueError("does not tell how far a roll got with which replica")
    for name, entry in raw.items():
        if not isinstance(entry.get("admitted", False), bool) or not isinstance(entry.get("step", ""), str):
            raise ValueError("does not tell how far a roll got with {0!r}".format(name))
    return raw


def decide(current: Optional[Holder], claim: Claim, now: Moment, take_over: Sequence[str] = ()) -> bool:
    """Whether the lock changes hands if ``claim`` gets it; the same run renews.

    Args:
        current: who holds it, or None.
        claim: who asks.
        now: by the host's clock.
        take_over: runs known to be dead.

    Raises:
        LockHeldError: another run holds it, has not expired, and is not known to be dead.
    """
    if current is None or current.run == claim.run:
        return current is None
    if current.left_s(now) > 0 and current.run not in take_over:
        raise LockHeldError(current, now)
    return True


def begun(entries: Mapping[str, Any], moves: Sequence[Mapping[str, Any]], run: str, at_s: float) -> Dict[str, Any]:
    """Journal entries at the start of a run.

    A replica that an earlier, unfinished run took out of rotation stays marked as one to be readmitted, whatever its
    routers say now.

    Args:
        entries: the journal so far, by replica name.
        moves: the plan's moves on this host.
        run: id of this run.
        at_s: seconds since the epoch, for people who read the file.
    """
    fresh = {
        move["name"]: {
            "run": run,
            "step": "planned",
            "at": at_s,
            "was": move["was"],
            "release": move["release"],
            "admitted": bool(move["admit"]),
        }
        for move in moves
    }
    kept = {name: entry for name, entry in entries.items() if entry.get("admitted") and entry.get("step") != "ready"}
    return {**kept, **fresh}


@dataclass(frozen=True)
class Fence:
    """What a step shows to prove that it may act.

    Attributes:
        run: id of its run.
        number: fencing number that the host gave it; 0 if the host gave none.
        lease_s: how long the lock is to hold after the step.
    """

    run: str
    number: int
    lease_s: float = LEASE_S


class Book:
    """The file of a host. Every change is one transaction: locked, written beside, moved over.

    Args:
        directory: where it lies.
        clock: replaces the host's clock.
        wall: replaces ``time.time``.
    """

    def __init__(
        self,
        directory: Path = STATE_DIR,
        clock: Callable[[], Moment] = moment,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.directory = directory
        self.path = directory / "state.json"
        self.clock = clock
        self.wall = wall

    def state(self) -> State:
        """What the file says; empty if no run was ever here.

        Raises:
            StateError: it cannot be read.
        """
        try:
            text = self.path.read_text(encoding="utf-8", errors="replace")
            return parse(text, self.clock(), self.wall())
        except FileNotFoundError:
            return EMPTY
        except OSError as error:
            raise StateError(self.path, "cannot be read ({0})".format(error.strerror)) from error
        except ValueError as error:
            raise StateError(self.path, str(error)) from error

    def read(self) -> Dict[str, Any]:
        """For those who only look: ``{"holder", "held", "replicas", "problem"}``; an unreadable file is a problem.

        ``held`` tells people who keeps others from changing this host, and is empty where nobody does.
        """
        try:
            state = self.state()
        except StateError as error:
            return {"holder": None, "held": "", "replicas": {}, "problem": str(error)}
        holder, now = state.holder, self.clock()
        held = holder.words(now) if holder and holder.left_s(now) > 0 else ""
        return {"holder": asdict(holder) if holder else None, "held": held, "replicas": state.replicas, "problem": ""}

    def holder(self) -> Optional[Holder]:
        """Who holds the lock, expired or not.

        Raises:
            StateError: the file cannot be read.
        """
        return self.state().holder

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o755)
        with (self.directory / ".lock").open("w") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            yield

    def _write(self, state: State) -> None:
        beside = self.path.with_suffix(".new")
        with beside.open("w", encoding="utf-8") as out:
            json.dump(state.to_dict(), out, indent=2, sort_keys=True)
            out.flush()
            os.fsync(out.fileno())
        beside.replace(self.path)
        folder = os.open(self.directory, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def take(
        self, claim: Claim, moves: Optional[Sequence[Mapping[str, Any]]] = None, take_over: Sequence[str] = ()
    ) -> Holder:
        """Take or renew the lock, and open the journal where there are ``moves``.

        Raises:
            LockHeldError: see `decide`.
            StateError: the file does not tell who holds it, and `UNREADABLE` is not taken over.
        """
        with self._guarded():
            state, now = self._readable(take_over), self.clock()
            if decide(state.holder, claim, now, take_over):
                number = state.number + 1
                ended = state.holder if state.holder and state.holder.run not in take_over else None
                holder = Holder.of(claim, number, now, ended)
            else:
                if not state.holder:
                    raise AssertionError("nobody holds it, which would be a change of hands")
                number, holder = state.number, state.holder.renewed(claim.lease_s, now)
            entries = state.replicas if moves is None else begun(state.replicas, moves, claim.run, self.wall())
            self._write(State(number, holder, entries))
        return holder

    def _readable(self, take_over: Sequence[str]) -> State:
        try:
            return self.state()
        except StateError:
            if UNREADABLE not in take_over:
                raise
            self.path.replace(self.path.with_name(self.path.name + ".broken"))
            return EMPTY

    def refuses(self, claim: Claim, take_over: Sequence[str] = ()) -> None:
        """Refuse what `take` would refuse, and change nothing.

        Raises:
            LockHeldError, StateError: as `take`.
        """
        try:
            decide(self.state().holder, claim, self.clock(), take_over)
        except StateError:
            if UNREADABLE not in take_over:
                raise

    def prove(self, fence: Fence) -> None:
        """Go on only if the lock is still the step's own, and renew it.

        One that has ended and that nobody took is still its own.

        Raises:
            LockLostError: another run has it, or had it meanwhile, or it was given back.
            StateError: the file does not tell.
        """
        if not self.directory.exists():
            raise LockLostError(fence.run, fence.number, None, self.clock())
        with self._guarded():
            self._prove(self.state(), fence)

    def _prove(self, state: State, fence: Fence) -> State:
        holder, now = state.holder, self.clock()
        if holder is None or (holder.run, holder.number) != (fence.run, fence.number):
            raise LockLostError(fence.run, fence.number, holder, now)
        lease_s = max(fence.lease_s, holder.lease_s)
        if holder.boot == now.boot and holder.left_s(now) > lease_s - RENEW_AFTER_S:
            return state
        kept = replace(state, holder=holder.renewed(lease_s, now))
        self._write(kept)
        return kept

    def note(self, name: str, step: str, fence: Optional[Fence] = None, **more: Any) -> None:
        """Write down that a replica reached a step, once the lock is proved.

        Raises:
            LockLostError, StateError: as `prove`; nothing is written then.
        """
        with self._guarded():
            state = self.state()
            if fence:
                state = self._prove(state, fence)
            entry = {"admitted": False, **state.replicas.get(name, {}), "step": step, "at": self.wall(), **more}
            self._write(replace(state, replicas={**state.replicas, name: entry}))

    def free(self, fence: Fence, finished: Sequence[str] = (), keep: bool = False, unused: bool = False) -> bool:
        """Give the lock back and close the entries of ``finished`` replicas. Returns whether anything changed.

        Entries of replicas that the run did not finish stay: they are how the next run knows what to bring back. A run
        that has lost its lock gives nothing back and closes nothing.

        Args:
            fence: whose lock it is; number 0 is any of the run's.
            finished: names of replicas about which nothing has to be remembered.
            keep: close the entries, and keep the lock.
            unused: nothing was done under this lock: whoever held it before, and had let it end, has it again.

        Raises:
            StateError: the file cannot be read.
        """
        with self._guarded():
            state = self.state()
            holder = state.holder
            if not holder or holder.run != fence.run or fence.number not in (0, holder.number):
                return False
            closing = {name for name in finished if name in state.replicas}
            if keep and not closing:
                return False
            left = {name: entry for name, entry in state.replicas.items() if name not in closing}
            if not keep:
                holder = Holder(**holder.displaced) if unused and holder.displaced else None
            self._write(State(state.number, holder, left))
        return True
