# SPDX-License-Identifier: Apache-2.0
"""What is true of each configuration of the lab's sweep, from the simulated engine's two durations alone.

A closed loop of equal answers goes in rounds. A batch's requests arrive together; one device prefills them one after
the other and then makes steps for all of them, so that they end together and the next round begins. With a prefill of P
and a step of S seconds, B sequences and N tokens an answer:

    the n-th of a batch has its first token after         n P
    each further token of it takes                        S + (B - n) P / (N - 1)
    a round takes, and with it each of its requests       B P + (N - 1) S

The objective is no choice: each limit is the median of what the configurations' slowest requests take, so that one half
of them keeps it and the other does not, and it stands midway between two neighbours. Nine in ten requests must keep
both limits; a batch has at most eight, so a configuration keeps the objective only if each place of its batch does.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

from lab.neuron_sim import latency

MODEL = "llama-3.3-70b"
CORES, LENGTH = 64, 2048
INPUT, OUTPUT = 1900, 100
DEGREES, BATCHES = (64, 32, 16, 8), (1, 4, 8)
PERCENTILE = 90


@dataclass(frozen=True)
class Truth:
    """What one configuration does when every slot is always taken."""

    speed: latency.Modelled
    copies: int
    batch: int

    @classmethod
    def of(cls, degree: int, batch: int) -> Truth:
        """The configuration of replicas on `degree` cores each that fill the host."""
        shape = latency.Shape.of(latency.SHAPES[MODEL])
        speed = latency.Modelled(shape, "trn2", degree, 4, batch, (LENGTH,), (LENGTH,))
        return cls(speed, CORES // degree, batch)

    @property
    def prefill_s(self) -> float:
        """One prompt, alone on the device."""
        return self.speed.prefill_seconds(INPUT)

    @property
    def step_s(self) -> float:
        """One token for the whole batch."""
        return self.speed.step_seconds([INPUT])

    @property
    def round_s(self) -> float:
        """From a batch's arrival to its end."""
        return self.batch * self.prefill_s + (OUTPUT - 1) * self.step_s

    @property
    def tokens_per_s(self) -> float:
        """Output tokens of the host."""
        return self.copies * self.batch * OUTPUT / self.round_s

    @property
    def ttfts_ms(self) -> list[float]:
        """First tokens of a batch, by place."""
        return [1000 * place * self.prefill_s for place in range(1, self.batch + 1)]

    @property
    def tpots_ms(self) -> list[float]:
        """Time per output token of a batch's requests, by place."""
        after = (self.batch - place for place in range(1, self.batch + 1))
        return [1000 * (self.step_s + prefills * self.prefill_s / (OUTPUT - 1)) for prefills in after]

    def keeps(self, objective: dict[str, Any]) -> bool:
        """Whether so many of its requests keep both limits as the objective wants."""
        good = sum(
            ttft <= objective["time_to_first_token_ms"] and tpot <= objective["time_per_output_token_ms"]
            for ttft, tpot in zip(self.ttfts_ms, self.tpots_ms, strict=True)
        )
        return 100 * good / self.batch >= objective["percentile"]


TRUTH = {(degree, batch): Truth.of(degree, batch) for degree in DEGREES for batch in BATCHES}

OBJECTIVE: dict[str, Any] = {
    "time_to_first_token_ms": statistics.median(max(one.ttfts_ms) for one in TRUTH.values()),
    "time_per_output_token_ms": statistics.median(max(one.tpots_ms) for one in TRUTH.values()),
    "percentile": PERCENTILE,
}


def optimum() -> tuple[int, int]:
    """Degree and batch of the most tokens/s among those that keep the objective: a sweep's own rule."""
    return max((name for name in TRUTH if TRUTH[name].keeps(OBJECTIVE)), key=lambda name: TRUTH[name].tokens_per_s)
