# SPDX-License-Identifier: Apache-2.0
"""What a roll does to one replica. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import FrozenSet, List

from ansible_collections.trainyard.neuron.plugins.module_utils.routing.haproxy import FULL_WEIGHT
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import Settings, Target

REPLACE, RAISE, RETIRE = "replace", "raise", "retire"
"""Bring a replica to its release; have a spare serve beside the others; stop it again."""


@dataclass(frozen=True)
class Move:
    """What happens to one replica.

    Attributes:
        was: release that runs now, or that would start; empty for a replica that never ran.
        reason: why it is touched at all.
        drain: it is in rotation and must leave it first.
        restart: its process is replaced; otherwise it is only gated again.
        admit: it goes (back) into rotation after its gate.
        load_s: how long its start will take.
        load_known: that figure was recorded, not assumed.
        load_forecast: it was forecast.
        weight_now: how much its routers send it, in percent of what they are configured to.
        weight: the same when the roll is done with it.
        after: keys of moves that must have been made before: those that free its cores, or bring up what stands in.
        kind: `REPLACE`, or, of a spare, `RAISE` or `RETIRE`.
    """

    target: Target
    was: str
    reason: str
    drain: bool
    restart: bool
    admit: bool
    load_s: float
    load_known: bool
    load_forecast: bool = False
    weight_now: int = FULL_WEIGHT
    weight: int = FULL_WEIGHT
    after: FrozenSet[str] = frozenset()
    kind: str = REPLACE

    @property
    def key(self) -> str:
        """What tells the moves of a roll apart: a spare comes and goes in the same one."""
        return self.target.id if self.kind == REPLACE else "{0} {1}".format(self.kind, self.target.id)

    def steps(self, watch_s: float, weight: int = FULL_WEIGHT) -> List[str]:
        """The steps in words, for people; ``weight`` is the one at readmission."""
        if self.kind == RETIRE:
            return ["drain", "stop"]
        words = ["drain"] if self.drain else []
        words += ["stop", "switch", "start"] if self.restart else []
        words += ["gate"]
        if self.admit:
            words += ["ready" if weight == FULL_WEIGHT else "ready at {0}%".format(weight)]
            words += ["watch {0:g} s".format(watch_s)] if watch_s else []
        else:
            words += ["stays out"]
        return words

    def seconds(self, settings: Settings, watch_s: float) -> float:
        """Estimated duration in seconds."""
        drain = min(settings.drain_assumed_s, settings.drain_deadline_s) if self.drain else 0.0
        load = self.load_s if self.restart else 0.0
        return drain + load + settings.gate_s + (watch_s if self.admit else 0.0)
