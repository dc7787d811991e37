# SPDX-License-Identifier: Apache-2.0
"""One host's side of a roll: what its replicas do, and replacing or restoring them.

The steps of a replacement are written to the journal before they are done, so that a run which finds the host after
an interruption knows how far it got. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils import units
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import metrics
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.journal import (
    Book,
    Fence,
    LockLostError,
    StateError,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.releases import (
    ReleaseError,
    Releases,
    core_range,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import probe, trusted

METRICS_TIMEOUT_S = 5.0
POLL_S = 0.25
RENEW_EVERY_S = 60.0
QUIET_S = 0.5
"""An engine counts as idle when two looks this far apart saw nothing: a request may be between router and engine."""
TIMES = ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")


def fetch_metrics(url: str) -> Optional[str]:
    """An engine's metrics; None if it does not answer in time, points elsewhere or sends without an end."""
    return probe.Client(url, timeout_s=METRICS_TIMEOUT_S).text("/metrics")


@dataclass
class Host:
    """Access to what a host knows; each part can be replaced in tests."""

    systemd: units.Systemd = field(default_factory=units.Systemd)
    releases: Releases = field(default_factory=Releases)
    book: Book = field(default_factory=Book)
    fetch: Callable[[str], Optional[str]] = fetch_metrics
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


def describe(host: Host) -> Dict[str, Dict[str, Any]]:
    """Every replica of the host, by name, in the form that `state.Observed.from_dict` reads."""
    names = host.releases.names()
    pending = host.book.read()["replicas"]
    statuses = host.systemd.show([unit_of(name) for name in names])
    loads = _load_s(host, names)
    found: Dict[str, Dict[str, Any]] = {}
    for index, name in enumerate(names):
        status = statuses[index]
        current, started = host.releases.current(name), host.releases.started(name)
        entry = started or current
        found[name] = {
            "unit": unit_of(name),
            "active": status.active,
            "status": status.text,
            "restarts": status.restarts,
            "running": status.environment.get("TRAINYARD_RELEASE", ""),
            "current": current.get("release", ""),
            "previous": host.releases.previous(name).get("release", ""),
            "staged": sorted(host.releases.staged(name)),
            "load_s": loads.get(name),
            "cores": core_range(entry) if status.environment else None,
            "weights": entry.get("weights", ""),
            "served_name": entry.get("served_name", ""),
            "credentials": entry.get("credentials", "") if status.environment else "",
            "url": entry.get("url", ""),
            "gate": _gate_record(host, name),
            "pending": pending.get(name),
            "problems": host.releases.problems(name) + _gate_problems(host, name),
        }
    return found


def unit_of(name: str) -> str:
    """The systemd unit of a replica."""
    return "vllm@{0}.service".format(name)


def _load_s(host: Host, names: Sequence[str]) -> Dict[str, float]:
    """How long the last start of each active replica took, from its process to the passed gate."""
    if not names:
        return {}
    text = host.systemd.call("show", "--property=Id,ActiveState," + ",".join(TIMES), "--", *map(unit_of, names))
    found = {}
    for name, block in zip(names, text.strip("\n").split("\n\n")):  # noqa: B905 (Python 3.9)
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        began, ready = (int(values.get(key) or 0) for key in TIMES)
        if values.get("ActiveState") == "active" and 0 < began < ready:
            found[name] = round((ready - began) / 1e6, 1)
    return found


#: What a gate writes down of a start, and as what; its file is the server's to write, so nothing else is taken over.
GATE_RECORD: Dict[str, Any] = {
    "release": str,
    "at": (int, float),
    "tokens": int,
    "ttft_ms": (int, float),
    "per_token_ms": (int, float),
    "text": str,
}


def _gate_record(host: Host, name: str) -> Dict[str, Any]:
    try:
        raw = json.loads(trusted.read_text(host.releases.runtime / name / "gate.json"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(raw, dict):
        return {}
    return {key: raw[key] for key, kind in GATE_RECORD.items() if isinstance(raw.get(key), kind)}


def _gate_problems(host: Host, name: str) -> List[str]:
    path = host.releases.runtime / name / "gate.json"
    if not path.exists() and not path.is_symlink():
        return []
    said = "{0} is broken: what its gate saw is lost, and an engine that dies is noticed late; `systemctl restart {1}`"
    return [] if _gate_record(host, name) else [said.format(path, unit_of(name))]


@dataclass(frozen=True)
class Order:
    """How replicas are replaced.

    Attributes:
        fence: what proves at each step that the host's lock is still the run's; None where no lock was taken.
        drain_deadline_s: how long requests in the engine may take to end.
        drain_policy: then ``wait``, ``abort`` them, or ``fail``.
        start_timeout_s: how long a start may take, gate included.
        stop_timeout_s: how long a stop may take.
        wait_s: how long to wait for a start before it is left to a later call; None for as long as it may take.
    """

    fence: Optional[Fence] = None
    drain_deadline_s: float = 900.0
    drain_policy: str = "fail"
    start_timeout_s: float = 3600.0
    stop_timeout_s: float = 300.0
    wait_s: Optional[float] = None


@dataclass
class Result:
    """What happened to one replica.

    Attributes:
        changed: its process or its links were touched.
        gated: its unit is active on ``release``, which systemd says only after the gate passed.
        step: the last step that was begun.
        error: why it went no further; empty if all went well.
        lost: it was for want of the host's lock, which another run has.
        cut_off: requests that were in the engine when it was stopped.
        seconds: duration of each step.
        begun_s: when it was told to start, in seconds of the host's clock, while it is still on its way.
        progress: how far it is then, in one line.
    """

    name: str
    release: str
    changed: bool = False
    gated: bool = False
    step: str = ""
    error: str = ""
    lost: bool = False
    cut_off: float = 0.0
    seconds: Dict[str, float] = field(default_factory=dict)
    notes: List[str] = field(default_factory=list)
    begun_s: Optional[float] = None
    progress: str = ""

    def to_dict(self) -> Dict[str, Any]:
        """JSON-ready form; how far a start is only while it is on its way."""
        of_starts = () if self.begun_s is not None else ("begun_s", "progress")
        return {key: value for key, value in vars(self).items() if key not in of_starts}


class _HaltError(Exception):
    """The replacement of one replica cannot go on."""


def replace(host: Host, order: Order, name: str, url: str, release: str, begun_s: Optional[float] = None) -> Result:
    """Bring one drained replica to a release: wait until it is idle, stop, switch, start, gate.

    Without a release it is stopped; of a spare, nothing is left that a start would take. A replica that already runs
    the release is only looked at, and one that is on its way to it is waited for. Nothing is undone here: after an
    error the replica is left as the step in the result says, out of rotation.

    With ``begun_s``, what an earlier call said of a start that it left on its way, that start is waited for.
    """
    return _Replacement(host, order, name, url, release, keep_previous=False).run(begun_s)


def restore(host: Host, order: Order, name: str, url: str, release: str, begun_s: Optional[float] = None) -> Result:
    """Bring one replica back to the release that it had before; without one (it was new) it is stopped.

    Requests that are left when the deadline is over are cut off unless the policy is to wait: a replica that is worse
    than its peers must not go on for want of an empty engine.
    """
    policy = "wait" if order.drain_policy == "wait" else "abort"
    calm = Order(**{**vars(order), "drain_policy": policy})
    return _Replacement(host, calm, name, url, release, keep_previous=True).run(begun_s)


class _Replacement:
    """One replica on its way to a release."""

    def __init__(self, host: Host, order: Order, name: str, url: str, release: str, keep_previous: bool) -> None:
        self.host = host
        self.order = order
        self.name = name
        self.unit = unit_of(name)
        self.url = url
        self.keep_previous = keep_previous
        self.result = Result(name=name, release=release)

    def run(self, begun_s: Optional[float] = None) -> Result:
        """Take every step that is still to be taken, or wait on for a start that was begun."""
        result = self.result
        try:
            if begun_s is not None:
                self._step("start", lambda: self._wait(units.Pending(self._start_waits(), begun_s)), begun_s)
            elif self._arrived():
                result.step = "gated"
            elif self._on_its_way():
                # An interrupted run told it to start: stopping it would only cost what it has loaded.
                self._step("start", self._start)
            elif not result.release:
                self._step("idle", self._idle)
                self._step("stop", self._stop)
                if self.host.releases.current(self.name).get("spare"):
                    self.host.releases.forget(self.name)
            else:
                # A release that is not there is found out before anything is stopped.
                self.host.releases.find(self.name, result.release)
                self._step("idle", self._idle)
                self._step("stop", self._stop)
                self._step("switch", self._switch)
                self._step("start", self._start)
            if result.begun_s is not None:
                return result
            result.step = "gated" if result.release else result.step
            self._note("gated" if result.release else "stopped")
            result.gated = bool(result.release)
        except (LockLostError, StateError) as error:
            # Nothing is written down: the file is another run's now, or nobody's.
            result.error, result.lost = str(error), True
        except (_HaltError, units.UnitError, ReleaseError) as error:
            result.error = str(error)
            self._note_failure(result.step or "planned", result.error.splitlines()[0])
        return result

    def _step(self, name: str, action: Callable[[], None], began_s: Optional[float] = None) -> None:
        self.result.step = name
        self._note(name)
        began = self.host.clock() if began_s is None else min(began_s, self.host.clock())
        try:
            action()
        finally:
            self.result.seconds[name] = round(self.host.clock() - began, 3)

    def _note(self, step: str, **more: Any) -> None:
        """Write a step down before it is taken; with a fence, only while the lock is the run's own."""
        self.host.book.note(self.name, step, self.order.fence, **more)

    def _note_failure(self, step: str, why: str) -> None:
        with contextlib.suppress(LockLostError, StateError):
            self._note(step, error=why)

    def _status(self) -> units.Status:
        return self.host.systemd.show([self.unit])[0]

    def _arrived(self) -> bool:
        status = self._status()
        running = status.environment.get("TRAINYARD_RELEASE", "")
        current = self.host.releases.current(self.name).get("release", "")
        return (
            bool(self.result.release)
            and status.active == "active"
            and running == self.result.release
            and current == self.result.release
        )

    def _on_its_way(self) -> bool:
        """Whether it is loading the release that it is to have; one that died and is started again is not."""
        status = self._status()
        running = status.environment.get("TRAINYARD_RELEASE", "")
        current = self.host.releases.current(self.name).get("release", "")
        starts = status.active == "activating" and status.sub != "auto-restart"
        return bool(self.result.release) and starts and current == self.result.release and running in ("", current)

    def _idle(self) -> None:
        """Wait until the engine has nothing left; the routers were drained before."""
        if self._status().active not in ("active", "reloading", "activating"):
            return
        deadline = self.host.clock() + self.order.drain_deadline_s
        quiet, renewed = 0, self.host.clock()
        while quiet < 2:
            left = self._in_flight()
            quiet = quiet + 1 if not left else 0
            if left and self.host.clock() >= deadline and self.order.drain_policy != "wait":
                if self.order.drain_policy == "abort":
                    self.result.cut_off = left
                    self.result.notes.append("{0:g} requests were cut off at the drain deadline".format(left))
                    return
                raise _HaltError(
                    "{0} still has {1:g} requests {2:g} s after it was drained. It was not stopped and goes on with "
                    "its release. Give it longer (trainyard_redeploy: {{drain_deadline_s: ...}}), or say "
                    "what is to happen to them (drain_policy: wait or abort).".format(
                        self.name, left, self.order.drain_deadline_s
                    )
                )
            if self.host.clock() - renewed > RENEW_EVERY_S:
                self._note("idle", left=left)
                renewed = self.host.clock()
            if quiet < 2:
                self.host.sleep(QUIET_S if quiet else POLL_S)

    def _in_flight(self) -> float:
        text = self.host.fetch(self.url)
        if text is None or not metrics.answers_load(text):
            # An engine that is dead or does not count has nothing to wait for but the routers' own count.
            if not self.result.notes:
                self.result.notes.append("the engine told no number of requests; the routers' count alone was used")
            return 0.0
        return metrics.read(text).in_flight

    def _stop(self) -> None:
        wanted = units.Wanted(name=self.unit, state="stopped", timeout_s=self.order.stop_timeout_s)
        step = units.Step(wanted, self._status(), "stop")
        units.carry_out(self.host.systemd, [step], False, self._settings())
        self.result.changed = True

    def _switch(self) -> None:
        if self.host.releases.switch(self.name, self.result.release, self.keep_previous):
            self.result.changed = True

    def _start(self) -> None:
        wanted = units.Wanted(name=self.unit, timeout_s=self.order.start_timeout_s)
        step = units.Step(wanted, self._status(), "start")
        self._wait(units.begin(self.host.systemd, [step], True, self._settings()))

    def _start_waits(self) -> Tuple[units.Wait, ...]:
        return (units.Wait(self.unit, "start", self.order.start_timeout_s),)

    def _wait(self, pending: units.Pending) -> None:
        """Wait for the start, as long as the order allows."""
        left = units.wait(self.host.systemd, pending, self._settings(self.order.wait_s))
        self.result.changed = True
        if left.waits:
            self.result.begun_s = left.began_s
            self.result.progress = units.on_the_way(self.host.systemd, left, self.host.clock())[0]["progress"]
            return
        running = self._status().environment.get("TRAINYARD_RELEASE", "")
        if running != self.result.release:
            raise _HaltError(
                "{0} came up on release {1}, not {2}".format(self.unit, running or "?", self.result.release)
            )

    def _settings(self, wait_s: Optional[float] = None) -> units.Settings:
        return units.Settings(sleep=self.host.sleep, clock=self.host.clock, wait_s=wait_s)


def unfinished(results: Sequence[Mapping[str, Any]]) -> List[str]:
    """One line for each replica that did not arrive."""
    return ["{0}: {1}".format(item["name"], item["error"]) for item in results if item.get("error")]
