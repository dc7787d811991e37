# SPDX-License-Identifier: Apache-2.0
"""How long the simulated engine takes for a prompt and for a token. Simulated: no figure of it is the hardware's.

``Modelled`` has the shape of the hardware. The graphs are static: a prompt is padded to a bucket, a decode step always
computes the compiled batch. A decode step reads the weights and the KV cache from HBM and does two collectives a layer;
a prefill does the layers' arithmetic and moves every token's activations through two collectives a layer. One device
does all of it in turn, so a prefill delays every decode, and requests queue for ``max_num_seqs`` slots.

Constants come from the architecture pages or are fitted to the published points below (Neuron tutorials, trn2.48xlarge,
BF16, tensor parallel 64, one sequence). The model against them, and what that says, is in ``docs/lab.md``. The forecast
computes the same (``plugin_utils/forecast`` of the collection, which a stand-in does not have);
``tests/lab/test_sim_model.py`` holds the two together.

    Llama 3.3 70B, 10,000 tokens in:  TTFT  814 ms, TPOT 19.6 ms
    Llama 3.1 405B, 10,000 tokens in: TTFT 2442 ms, TPOT 37.9 ms
    Llama 3.3 70B, about 1,000 in:    TTFT  123 ms
    Qwen3 32B, 128 in, 512 out:       TTFT   48 ms, 6.04 s in all
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

_BYTES_PER_WEIGHT = 2

# Peak HBM bandwidth (bytes/s) and dense BF16 arithmetic (FLOP/s) of one device. Source: trn2, trn1 and inf2
# architecture pages (46.4 TB/s and 10.7 PFLOPS for 16 trn2 devices; 820 GB/s and 190 TFLOPS for one of the others).
_HBM = {"trn2": 2.9e12, "trn1": 0.82e12, "inf2": 0.82e12}
_FLOPS = {"trn2": 667e12, "trn1": 190e12, "inf2": 190e12}

_FITTED_CORES = 64


@dataclass(frozen=True)
class Constants:
    """What is fitted, and what a lab's configuration may change under ``constants``; all of it above 0.

    The collection's ``plugin_utils/forecast/published.json`` has the same values with the source and the error of each;
    what `trainyard calibrate` writes has others.

    Attributes:
        hbm_efficiency, flops_efficiency: share of the peaks that is reached.
        kv_penalty: reading KV costs this much more than its bytes (short rows, and the scores computed from them).
        step_s, prefill_s: what a step and a prefill cost beside the layers: scheduling, sampling, the host's side.
        decode_collective_s, prefill_collective_s: one collective of a decode step and of a prefill, on 64 cores.
        collective_s_per_byte: what it costs for each byte of activations.
        collective_floor: share of a collective that does not shrink with fewer cores; the rest grows with log2 of them.
        guess_right: of a draft's guesses the next one is right with this chance.
        guess_cost: a step with a draft costs that much more. Both are fitted to the published 102.3 tokens/s of Qwen3
            32B without a draft and 137.8 with one that guesses 7 at a time.
    """

    hbm_efficiency: float = 0.65
    flops_efficiency: float = 0.5
    kv_penalty: float = 3.0
    step_s: float = 1.5e-3
    prefill_s: float = 20e-3
    decode_collective_s: float = 50e-6
    prefill_collective_s: float = 200e-6
    collective_s_per_byte: float = 15e-12
    collective_floor: float = 0.7
    guess_right: float = 0.6
    guess_cost: float = 0.82

    @classmethod
    def of(cls, given: dict[str, Any]) -> Constants:
        """The defaults with what is given in their place.

        Raises:
            ValueError: a name that is none, or a value that is no number above 0.
        """
        names = [field.name for field in fields(cls)]
        for name, value in given.items():
            if name not in names:
                raise ValueError(f"latency constants.{name}: expected one of {', '.join(names)}")
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise ValueError(f"latency constants.{name} {value!r}: expected a number above 0")
        return cls(**{name: float(value) for name, value in given.items()})


# Shapes for a lab whose tiny model stands for a big one ("as_model").
SHAPES: dict[str, dict[str, int]] = {
    "llama-3.3-70b": {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "llama-3.1-405b": {
        "hidden_size": 16384,
        "intermediate_size": 53248,
        "num_hidden_layers": 126,
        "num_attention_heads": 128,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "qwen3-32b": {
        "hidden_size": 5120,
        "intermediate_size": 25600,
        "num_hidden_layers": 64,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    },
}


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


@dataclass(frozen=True)
class Shape:
    """What of a model decides about time and memory."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool = False

    @classmethod
    def of(cls, config: dict[str, Any]) -> Shape:
        """From a ``config.json``; what it does not say is taken from Llama's usual relations."""
        hidden = int(config.get("hidden_size", 4096))
        heads = int(config.get("num_attention_heads", 32))
        return cls(
            hidden=hidden,
            intermediate=int(config.get("intermediate_size", 4 * hidden)),
            layers=int(config.get("num_hidden_layers", 32)),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads", heads)),
            head_dim=int(config.get("head_dim") or hidden // heads),
            vocabulary=int(config.get("vocab_size", 32000)),
            tied=bool(config.get("tie_word_embeddings", False)),
        )

    @property
    def parameters(self) -> int:
        """Weights of a dense decoder with gated feed-forward; embedding and output are one where they are tied."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        embeddings = (1 if self.tied else 2) * self.vocabulary * self.hidden
        return self.layers * (attention + 3 * self.hidden * self.intermediate) + embeddings

    def kv_bytes_per_token_and_core(self, cores: int) -> float:
        """KV cache of one token on one core; heads are replicated where there are fewer than cores."""
        heads = max(1.0, self.kv_heads / cores)
        return 2 * self.layers * heads * self.head_dim * _BYTES_PER_WEIGHT


@dataclass(frozen=True)
class Modelled:
    """The hardware's shape for one replica.

    Attributes:
        shape: the model.
        family: ``trn2``, ``trn1`` or ``inf2``.
        cores: logical cores of the replica (tensor parallel degree).
        cores_per_device: logical cores of a device.
        batch: sequences that the decode graph was compiled for.
        prefill_buckets, decode_buckets: lengths that graphs were compiled for, ascending.
        scale: factor on every duration, for labs that want the shape and not the waiting.
        constants: what is fitted.
    """

    shape: Shape
    family: str
    cores: int
    cores_per_device: int
    batch: int
    prefill_buckets: tuple[int, ...]
    decode_buckets: tuple[int, ...]
    scale: float = 1.0
    serial: bool = True
    constants: Constants = field(default_factory=Constants)

    @property
    def _devices(self) -> float:
        return self.cores / self.cores_per_device

    @property
    def _collective(self) -> float:
        """Cost of a collective on these cores, relative to the 64 that it was fitted on."""
        if self.cores == 1:
            return 0.0
        floor = self.constants.collective_floor
        return floor + (1 - floor) * math.log2(self.cores) / math.log2(_FITTED_CORES)

    def prefill_seconds(self, prompt_tokens: int) -> float:
        """One prompt, padded to its bucket."""
        shape, given = self.shape, self.constants
        tokens = _bucket(prompt_tokens, self.prefill_buckets)
        attention = 2 * shape.layers * shape.heads * shape.head_dim * tokens**2
        flops = 2 * shape.parameters * tokens + attention
        arithmetic = flops / (_FLOPS[self.family] * self._devices * given.flops_efficiency)
        moved = tokens * shape.hidden * _BYTES_PER_WEIGHT * given.collective_s_per_byte
        collectives = 2 * shape.layers * (given.prefill_collective_s + moved) * self._collective
        return (given.prefill_s + arithmetic + collectives) * self.scale

    def step_seconds(self, contexts: list[int]) -> float:
        """One token for every sequence; the compiled batch is computed whatever is in it."""
        shape, given = self.shape, self.constants
        length = _bucket(max(contexts, default=1), self.decode_buckets)
        core_bandwidth = _HBM[self.family] / self.cores_per_device
        weights = shape.parameters * _BYTES_PER_WEIGHT / self.cores / (core_bandwidth * given.hbm_efficiency)
        kv_bytes = self.batch * length * shape.kv_bytes_per_token_and_core(self.cores)
        moved = self.batch * shape.hidden * _BYTES_PER_WEIGHT * given.collective_s_per_byte
        collectives = 2 * shape.layers * (given.decode_collective_s + moved) * self._collective
        return (given.step_s + weights + given.kv_penalty * kv_bytes / core_bandwidth + collectives) * self.scale


def speculation_factor(tokens: int, constants: Constants | None = None) -> float:
    """How long a token takes with a draft that guesses so many at a time, as a part of the time without one."""
    if not tokens:
        return 1.0
    given = constants or Constants()
    accepted = sum(given.guess_right**guess for guess in range(tokens + 1))
    return (1 + given.guess_cost) / accepted


@dataclass(frozen=True)
class Guessed:
    """Another latency with a draft that guesses ahead: prompts take as long, tokens come faster."""

    plain: Latency
    factor: float

    @property
    def serial(self) -> bool:
        """As without."""
        return self.plain.serial

    def prefill_seconds(self, prompt_tokens: int) -> float:
        """As without."""
        return self.plain.prefill_seconds(prompt_tokens)

    def step_seconds(self, contexts: list[int]) -> float:
        """A token's share of a step that yields several."""
        return self.plain.step_seconds(contexts) * self.factor


def _bucket(tokens: int, buckets: tuple[int, ...]) -> int:
    """The shortest compiled length that takes this many tokens."""
    return next((bucket for bucket in buckets if bucket >= tokens), max(tokens, buckets[-1] if buckets else 0))


def from_settings(settings: dict[str, Any], model: dict[str, Any] | None = None) -> Latency:
    """The latency that the lab's configuration asks for.

    ``{"kind": "fixed", "ttft_ms": 50, "itl_ms": 5}`` is the default. ``{"kind": "model", "scale": 1.0, "as_model":
    "llama-3.3-70b"}`` computes it; ``as_model`` is one of ``SHAPES`` and replaces the served model's own shape, and
    ``constants`` has other constants than the default ones (see ``Constants``). What the server
    itself knows (family, cores, batch, buckets) is added under ``replica`` when it starts.

    Raises:
        ValueError: a kind, a shape or a constant that does not exist.
    """
    kind = settings.get("kind", "fixed")
    if kind == "fixed":
        return Fixed(float(settings.get("ttft_ms", 50)) / 1000, float(settings.get("itl_ms", 5)) / 1000)
    if kind != "model":
        raise ValueError(f"latency kind {kind!r}: expected fixed or model")
    name = settings.get("as_model")
    if name and name not in SHAPES:
        raise ValueError(f"latency as_model {name!r}: expected one of {', '.join(SHAPES)}")
    replica = settings["replica"]
    return Modelled(
        shape=Shape.of(SHAPES[name] if name else model or {}),
        family=replica["family"],
        cores=replica["cores"],
        cores_per_device=replica["cores_per_device"],
        batch=replica["batch"],
        prefill_buckets=tuple(replica["prefill_buckets"]),
        decode_buckets=tuple(replica["decode_buckets"]),
        scale=float(settings.get("scale", 1.0)),
        constants=Constants.of(settings.get("constants") or {}),
    )
