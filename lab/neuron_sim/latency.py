# SPDX-License-Identifier: Apache-2.0
"""How long the simulated engine takes for a prompt and for a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


class Latency(Protocol):
    """What the engine asks: all durations in seconds."""

    @property
    def serial(self) -> bool:
        """Whether one device does everything in turn (a prefill delays every decode), as the hardware does."""
        ...

    def prefill_seconds(self, prompt_tokens: int) -> float:
        """From the start of a prompt's prefill to its first token."""
        ...

    def step_seconds(self, contexts: list[int]) -> float:
        """One decode step for sequences of these lengths, in tokens."""
        ...


@dataclass(frozen=True)
class Fixed:
    """The same time for every prompt and every token, whatever else runs: what accuracy is measured against."""

    ttft_seconds: float
    itl_seconds: float
    serial: bool = False

    def prefill_seconds(self, prompt_tokens: int) -> float:
        """Always the same."""
        del prompt_tokens
        return self.ttft_seconds

    def step_seconds(self, contexts: list[int]) -> float:
        """Always the same."""
        del contexts
        return self.itl_seconds


def from_settings(settings: dict[str, Any]) -> Latency:
    """The latency that the lab's configuration asks for.

    ``{"kind": "fixed", "ttft_ms": 50, "itl_ms": 5}``, the default, or a kind that a later module adds.

    Raises:
        ValueError: a kind that does not exist.
    """
    kind = settings.get("kind", "fixed")
    if kind != "fixed":
        raise ValueError(f"latency kind {kind!r}: expected fixed")
    return Fixed(float(settings.get("ttft_ms", 50)) / 1000, float(settings.get("itl_ms", 5)) / 1000)
