# SPDX-License-Identifier: Apache-2.0
"""Whether the first replica of a roll is worse than its peers: figures of real traffic, and golden completions.

Every comparison has a stated threshold and says what it saw. What cannot be compared (too few requests, no peers) is a
note, never a silent pass. Standard library only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.settings import CANARY
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.metrics import Histogram, Reading
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import RollError


@dataclass(frozen=True)
class Thresholds:
    """How much worse is too much.

    Means are compared, not quantiles: an engine's histograms have buckets a factor of 2.5 apart, so a quantile read
    from them moves by that factor when traffic moves a little, while their sum and count are exact. A difference that
    the spread of the observations explains is chance, not a finding, whatever its ratio.

    Attributes:
        min_requests: fewer finished requests than this, on either side, compare no figures.
        error_rate_margin: by how much the canary's share of failed requests may exceed its peers'.
        ttft_ratio: mean time to first token, canary over peers.
        ttft_slack_s: difference in mean time to first token that is never too much.
        per_token_ratio: mean time per output token, canary over peers.
        per_token_slack_s: difference in mean time per token that is never too much.
        output_length_ratio: mean output length, the longer over the shorter.
        chance: a difference of means counts only beyond this many standard errors of it.
        golden_share: mean share of each golden completion that must agree, from its beginning, with a peer's.
    """

    min_requests: int = 20
    error_rate_margin: float = 0.01
    ttft_ratio: float = 1.5
    ttft_slack_s: float = 0.05
    per_token_ratio: float = 1.3
    per_token_slack_s: float = 0.002
    output_length_ratio: float = 2.0
    chance: float = 3.0
    golden_share: float = 0.5

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Thresholds:
        """Read thresholds; unknown names and values that are no positive numbers are refused.

        Raises:
            RollError: naming each of them.
        """
        values, problems = CANARY.read(raw)
        if problems:
            raise RollError([str(problem) for problem in problems])
        return cls(**values)


@dataclass(frozen=True)
class Watched:
    """One replica, or several as one, over the watched time.

    Attributes:
        reading: what the engine counted.
        requests: requests that the routers sent.
        errors: of these, how many failed on the server's side: refused, cut off, or answered with 5xx.
        golden: completion of each golden prompt.
    """

    reading: Reading = field(default_factory=Reading)
    requests: int = 0
    errors: int = 0
    golden: Mapping[str, str] = field(default_factory=dict)

    def plus(self, other: Watched) -> Watched:
        """Both as one. Golden completions are those of the first replica that has them."""
        return Watched(
            self.reading.plus(other.reading),
            self.requests + other.requests,
            self.errors + other.errors,
            self.golden or other.golden,
        )


@dataclass(frozen=True)
class Verdict:
    """Outcome of a comparison: ``worse`` findings mean rollback; ``seen`` and ``notes`` are for the report."""

    worse: Tuple[str, ...] = ()
    seen: Tuple[str, ...] = ()
    notes: Tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True if nothing was found worse."""
        return not self.worse

    def to_dict(self) -> Dict[str, Any]:
        """JSON-ready form."""
        return {"ok": self.ok, "worse": list(self.worse), "seen": list(self.seen), "notes": list(self.notes)}


class _Findings:
    """Collects what a comparison says."""

    def __init__(self) -> None:
        self.worse: List[str] = []
        self.seen: List[str] = []
        self.notes: List[str] = []

    def add(self, text: str, bad: bool) -> None:
        self.seen.append(text)
        if bad:
            self.worse.append(text)


def compare(canary: Watched, peers: Sequence[Watched], thresholds: Thresholds, same_weights: bool) -> Verdict:
    """Compare a canary with its peers over the same stretch of time.

    Args:
        canary: the replica on the new release.
        peers: replicas of the same model still on the old one; without any, only the canary's own errors count.
        thresholds: how much worse is too much.
        same_weights: old and new release serve the same weights, so greedy completions must agree.
    """
    found = _Findings()
    together = Watched()
    for peer in peers:
        together = together.plus(peer)
    if not peers:
        found.notes.append("no peer serves this model, so only its own errors count")
    _errors(found, canary, together, thresholds)
    _figures(found, canary.reading, together.reading, thresholds)
    _golden(found, canary.golden, together.golden, thresholds, same_weights)
    return Verdict(tuple(found.worse), tuple(found.seen), tuple(found.notes))


def _errors(found: _Findings, canary: Watched, peers: Watched, limits: Thresholds) -> None:
    if not canary.requests:
        found.notes.append("no request reached it while it was watched, so traffic proves nothing")
        return
    rate = canary.errors / canary.requests
    usual = peers.errors / peers.requests if peers.requests else 0.0
    found.add(
        "failed requests {0} of {1} ({2:.2%}), peers {3} of {4} ({5:.2%}), margin {6:.2%}".format(
            canary.errors, canary.requests, rate, peers.errors, peers.requests, usual, limits.error_rate_margin
        ),
        rate > usual + limits.error_rate_margin,
    )


def _figures(found: _Findings, canary: Reading, peers: Reading, limits: Thresholds) -> None:
    measures = (
        ("time to first token", canary.ttft, peers.ttft, limits.ttft_ratio, limits.ttft_slack_s),
        ("time per token", canary.per_token, peers.per_token, limits.per_token_ratio, limits.per_token_slack_s),
    )
    # Tokens of one request share its fate: twenty of them are one observation of how fast a replica is, not twenty.
    requests = (canary.ttft.count, peers.ttft.count)
    for name, mine, theirs, ratio, slack in measures:
        asked = requests if name == "time per token" else None
        pair = _means(found, name, mine, theirs, limits.min_requests, asked)
        if pair:
            found.add(
                "mean {0} {1:.1f} ms, peers {2:.1f} ms, limit x{3:g} (and {4:g} ms)".format(
                    name, pair[0] * 1e3, pair[1] * 1e3, ratio, slack * 1e3
                ),
                pair[0] > pair[1] * ratio and pair[0] - pair[1] > slack and beyond_chance(mine, theirs, limits),
            )
    pair = _means(found, "output length", canary.output_tokens, peers.output_tokens, limits.min_requests)
    if pair:
        longer, shorter = max(pair), max(min(pair), 1e-9)
        found.add(
            "mean output length {0:.1f} tokens, peers {1:.1f}, limit x{2:g} either way".format(
                pair[0], pair[1], limits.output_length_ratio
            ),
            longer / shorter > limits.output_length_ratio
            and beyond_chance(canary.output_tokens, peers.output_tokens, limits),
        )


def beyond_chance(mine: Histogram, theirs: Histogram, limits: Thresholds) -> bool:
    """Whether two means differ by more than their standard error explains.

    The spread is taken of both together: a few observations that happen to be alike say little about their own.
    """
    freedom = mine.count + theirs.count - 2
    if freedom <= 0:
        return False
    variance = (mine.squared_spread + theirs.squared_spread) / freedom
    error = math.sqrt(variance * (1 / mine.count + 1 / theirs.count))
    return abs(mine.total / mine.count - theirs.total / theirs.count) > limits.chance * error


def _means(
    found: _Findings,
    name: str,
    mine: Histogram,
    theirs: Histogram,
    least: int,
    requests: Optional[Tuple[float, float]] = None,
) -> Optional[Tuple[float, float]]:
    """Both means; None where too few requests stand behind either (each observation is one, unless they are given)."""
    here, there = requests or (mine.count, theirs.count)
    if here < least or there < least:
        found.notes.append(
            "{0} not compared: {1:.0f} requests here and {2:.0f} at the peers, {3} wanted of each".format(
                name, here, there, least
            )
        )
        return None
    return mine.total / mine.count, theirs.total / theirs.count


def _golden(
    found: _Findings, mine: Mapping[str, str], theirs: Mapping[str, str], limits: Thresholds, same_weights: bool
) -> None:
    empty = sorted(prompt for prompt, text in mine.items() if not text.strip())
    if empty:
        found.add("empty completion of {0} of {1} golden prompts".format(len(empty), len(mine)), True)
    if not same_weights:
        found.notes.append("golden completions not compared: the weights changed, so they may differ")
        return
    shared = sorted(set(mine) & set(theirs))
    if not shared:
        found.notes.append("golden completions not compared: none on both sides")
        return
    share = sum(agreement(mine[prompt], theirs[prompt]) for prompt in shared) / len(shared)
    worst = min(shared, key=lambda prompt: agreement(mine[prompt], theirs[prompt]))
    text = "golden completions agree for {0:.0%} of their length, limit {1:.0%}".format(share, limits.golden_share)
    if share < limits.golden_share:
        text += "; e.g. {0!r}: {1!r}, peer {2!r}".format(worst, mine[worst][:80], theirs[worst][:80])
    found.add(text, share < limits.golden_share)


def agreement(left: str, right: str) -> float:
    """Share of the shorter text that both begin with, by words; greedy decoding that diverges once stays apart."""
    words = (left.split(), right.split())
    if not words[0] or not words[1]:
        return 1.0 if words[0] == words[1] else 0.0
    shorter = min(len(words[0]), len(words[1]))
    same = next((place for place in range(shorter) if words[0][place] != words[1][place]), shorter)
    return same / shorter
