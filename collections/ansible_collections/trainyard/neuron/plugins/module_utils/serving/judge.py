# SPDX-License-Identifier: Apache-2.0
"""Whether a replica that runs also serves. Pure: what was seen goes in, what is to be done comes out.

A replica counts as stalled when tokens are wanted and none come. Then one completion decides: if it comes back, the
counters were wrong; if not, the replica is taken out of rotation and restarted, a bounded number of times.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List


@dataclass(frozen=True)
class Limits:
    """When the probe acts; times in seconds.

    Attributes:
        stall_s: how long requests may be in flight with no token; longer than the longest prefill.
        idle_s: how long an idle replica goes without being asked for a token.
        silent_s: how long the server may give no answer at all before it leaves rotation.
        deadline_s: limit of the probe's own completion.
        restarts: how often the probe may restart the replica within the window.
        window_s: that window.
    """

    stall_s: float = 120.0
    idle_s: float = 60.0
    silent_s: float = 15.0
    deadline_s: float = 60.0
    restarts: int = 3
    window_s: float = 3600.0


@dataclass(frozen=True)
class Sample:
    """One look at a replica.

    Attributes:
        gated: its gate has passed since its last start.
        answers: its metrics could be read.
        wanted: requests that run or wait in it.
        tokens: tokens that it has read and generated since its start.
    """

    gated: bool
    answers: bool = True
    wanted: int = 0
    tokens: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What follows: whether it takes requests and why not, whether to ask it for a token, whether to restart it."""

    up: bool
    reason: str = ""
    ask: bool = False
    restart: bool = False


@dataclass
class Judge:
    """Remembers what it takes to tell slow from stuck; one for each replica."""

    limits: Limits = field(default_factory=Limits)
    tokens: float = -1.0
    progress_at: float = 0.0
    silent_since: float = -1.0
    failed_asks: int = 0
    stalled: str = ""
    restarts_at: List[float] = field(default_factory=list)

    def look(self, now: float, sample: Sample) -> Verdict:
        """Judge one look at the time ``now``, in seconds of a monotonic clock."""
        if not sample.gated:
            self._forget(now)
            return Verdict(False, "not ready yet")
        if not sample.answers:
            return self._silent(now)
        self.silent_since = -1.0
        if sample.tokens != self.tokens:
            self.tokens, self.progress_at = sample.tokens, now
            self.stalled, self.failed_asks = "", 0
        quiet_s = now - self.progress_at
        if sample.wanted and quiet_s > self.limits.stall_s:
            self.stalled = "stalled: {0} requests and no token for {1:.0f} s".format(sample.wanted, quiet_s)
        ask = bool(self.stalled) or (not sample.wanted and quiet_s > self.limits.idle_s)
        return Verdict(not self.stalled, self.stalled, ask=ask)

    def asked(self, now: float, failure: str) -> Verdict:
        """Judge the outcome of a completion: ``failure`` is empty if it came back."""
        if not failure:
            self.progress_at, self.failed_asks, self.stalled = now, 0, ""
            return Verdict(True)
        self.failed_asks += 1
        self.stalled = self.stalled or "generates nothing: {0}".format(failure)
        # An idle replica gets a second chance; one that already stalled with requests in it has used it up.
        if self.failed_asks < 2 and not self.stalled.startswith("stalled"):
            return Verdict(False, self.stalled, ask=True)
        return self._restart(now, self.stalled)

    def _silent(self, now: float) -> Verdict:
        if self.silent_since < 0:
            self.silent_since = now
        silent_s = now - self.silent_since
        if silent_s <= self.limits.silent_s:
            return Verdict(True)
        reason = "no answer for {0:.0f} s".format(silent_s)
        # The server's loop may be busy with one long request: out of rotation first, ended only after a stall's time.
        return self._restart(now, reason) if silent_s > self.limits.stall_s else Verdict(False, reason)

    def _restart(self, now: float, reason: str) -> Verdict:
        self.restarts_at = [at for at in self.restarts_at if now - at < self.limits.window_s]
        if len(self.restarts_at) >= self.limits.restarts:
            return Verdict(False, "{0}; restarted {1} times already, left alone".format(reason, len(self.restarts_at)))
        self.restarts_at.append(now)
        return Verdict(False, reason, restart=True)

    def _forget(self, now: float) -> None:
        self.tokens, self.progress_at, self.silent_since = -1.0, now, -1.0
        self.failed_asks, self.stalled = 0, ""
