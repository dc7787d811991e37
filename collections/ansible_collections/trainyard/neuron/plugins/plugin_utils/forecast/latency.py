# SPDX-License-Identifier: Apache-2.0
"""How long a replica takes for a prompt and for a token: the model that forecasts, calibration and the lab share.

The graphs are static: a prompt is padded to a bucket, a decode step always computes the compiled batch. A decode step
reads the weights and the KV cache from HBM and does two collectives a layer; a prefill does the layers' arithmetic and
moves every token's activations through two collectives a layer. One device does all of it in turn.

The stand-in's engine (`lab/neuron_sim/latency.py`) computes the same without this collection, which its hosts do not
have; `tests/lab/test_sim_model.py` holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.fit import ModelShape, dtype_bytes

#: Cores that the constants of a collective are given for.
FITTED_CORES = 64

#: Experts that a token passes, by config.json's model_type.
EXPERTS_PER_TOKEN = {"qwen3_moe": 8, "mixtral": 2, "gpt_oss": 4, "llama4": 1}


@dataclass(frozen=True)
class Constants:
    """What of the model is fitted; `calibration` has the values, their sources and their bounds.

    Attributes:
        hbm_efficiency: share of the memory bandwidth that reading weights reaches.
        flops_efficiency: share of the arithmetic that a prefill reaches.
        kv_penalty: how much dearer reading the KV cache is than its bytes.
        step_s: what a decode step costs beside the layers, seconds.
        prefill_s: the same of a prefill.
        decode_collective_s: one collective of a decode step on 64 cores, seconds.
        prefill_collective_s: the same of a prefill.
        collective_s_per_byte: what a collective costs for each byte of activations, seconds.
        collective_floor: share of a collective that does not shrink with fewer cores.
        guess_right: chance that the next guess of a draft is right.
        guess_cost: how much longer a step with a draft takes, as a share of one without.
    """

    hbm_efficiency: float
    flops_efficiency: float
    kv_penalty: float
    step_s: float
    prefill_s: float
    decode_collective_s: float
    prefill_collective_s: float
    collective_s_per_byte: float
    collective_floor: float
    guess_right: float
    guess_cost: float

    def to_dict(self) -> dict[str, float]:
        """Return them by name."""
        return asdict(self)


CONSTANT_NAMES = tuple(field.name for field in fields(Constants))


@dataclass(frozen=True)
class Peaks:
    """What one device does at most: bytes/s of its memory, dense BF16 operations/s. Of the architecture pages."""

    hbm_bytes_per_s: float
    flops: float


#: 46.4 TB/s and 10.7 PFLOPS for 16 trn2 devices; 820 GB/s and 190 TFLOPS for one of the others.
PEAKS = {
    "trn2": Peaks(2.9e12, 667e12),
    "trn1": Peaks(0.82e12, 190e12),
    "inf2": Peaks(0.82e12, 190e12),
}


@dataclass(frozen=True)
class Work:
    """What of a model decides about time.

    Attributes:
        dense: parameters that every token passes.
        experts: parameters of all experts together, 0 for a dense model.
        expert_count: experts of a layer, 0 for a dense model.
        experts_per_token: those of a layer that a token passes.
        hidden: width of the activations.
        layers: their number.
        heads: query heads.
        kv_heads: heads of the KV cache.
        head_size: width of a head.
        weight_bytes: bytes of one parameter on the device.
        kv_bytes: bytes of one number in the KV cache.
    """

    dense: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    experts: int = 0
    expert_count: int = 0
    experts_per_token: int = 0
    weight_bytes: float = 2
    kv_bytes: float = 2

    @classmethod
    def of(cls, shape: ModelShape, weights_dtype: str = "bfloat16", kv_dtype: str = "bfloat16") -> Work:
        """Return the work of a model.

        Args:
            shape: the model.
            weights_dtype: what its weights are held in on the device.
            kv_dtype: what its KV cache is held in.

        Raises:
            ConfigError: a dtype is not known.
        """
        experts = (shape.layers - shape.dense_layers) * shape.experts * 3 * shape.hidden_size * shape.expert_size
        return cls(
            dense=shape.parameters - experts,
            hidden=shape.hidden_size,
            layers=shape.layers,
            heads=shape.query_heads,
            kv_heads=shape.kv_heads,
            head_size=shape.head_size,
            experts=experts,
            expert_count=shape.experts,
            experts_per_token=min(shape.experts, EXPERTS_PER_TOKEN.get(shape.model_type, 1)),
            weight_bytes=dtype_bytes(weights_dtype),
            kv_bytes=dtype_bytes(kv_dtype),
        )

    @property
    def active(self) -> float:
        """Parameters that one token passes."""
        return self.dense + (self.experts * self.experts_per_token / self.expert_count if self.experts else 0)

    def read(self, tokens: int) -> float:
        """Return the parameters that a step for so many tokens reads, with experts chosen independently."""
        if not self.experts:
            return self.dense
        left_out = (1 - self.experts_per_token / self.expert_count) ** tokens
        return self.dense + self.experts * (1 - left_out)


@dataclass(frozen=True)
class Speed:
    """One replica's times.

    Attributes:
        work: the model.
        constants: what is fitted.
        peaks: what a device does at most.
        cores: logical cores of the replica.
        cores_per_device: logical cores of a device.
        batch: sequences that the decode graph was compiled for.
        prefill_buckets: prompt lengths that graphs were compiled for, ascending.
        decode_buckets: the same of whole sequences.
        draft_tokens: how many tokens a draft guesses at a time, 0 without one.
        prefill_factor: what a prefill's time is multiplied by: the model's own error.
        step_factor: the same of a decode step.
    """

    work: Work
    constants: Constants
    peaks: Peaks
    cores: int
    cores_per_device: int
    batch: int
    prefill_buckets: tuple[int, ...]
    decode_buckets: tuple[int, ...]
    draft_tokens: int = 0
    prefill_factor: float = 1.0
    step_factor: float = 1.0

    @property
    def _collective(self) -> float:
        """Cost of a collective on these cores, relative to the 64 that it is given for."""
        if self.cores == 1:
            return 0.0
        floor = self.constants.collective_floor
        return floor + (1 - floor) * math.log2(self.cores) / math.log2(FITTED_CORES)

    def prefill_seconds(self, prompt_tokens: int) -> float:
        """Return the seconds from the start of a prompt's prefill to its first token."""
        work, given = self.work, self.constants
        tokens = bucket(prompt_tokens, self.prefill_buckets)
        operations = 2 * work.active * tokens + 2 * work.layers * work.heads * work.head_size * tokens**2
        arithmetic = operations / (self.peaks.flops * self.cores / self.cores_per_device * given.flops_efficiency)
        moved = tokens * work.hidden * 2 * given.collective_s_per_byte
        collectives = 2 * work.layers * (given.prefill_collective_s + moved) * self._collective
        return (given.prefill_s + arithmetic + collectives) * self.prefill_factor

    def step_seconds(self, context_tokens: int) -> float:
        """Return the seconds of one decode step whose longest sequence has so many tokens.

        With a draft, a token's share of a step that yields several.
        """
        work, given = self.work, self.constants
        length = bucket(context_tokens, self.decode_buckets)
        bandwidth = self.peaks.hbm_bytes_per_s / self.cores_per_device
        read = work.read(self.batch) * work.weight_bytes / self.cores / (bandwidth * given.hbm_efficiency)
        kept = 2 * work.layers * max(1.0, work.kv_heads / self.cores) * work.head_size * work.kv_bytes
        cache = given.kv_penalty * self.batch * length * kept / bandwidth
        moved = self.batch * work.hidden * 2 * given.collective_s_per_byte
        collectives = 2 * work.layers * (given.decode_collective_s + moved) * self._collective
        return (given.step_s + read + cache + collectives) * self._guessing * self.step_factor

    @property
    def _guessing(self) -> float:
        if not self.draft_tokens:
            return 1.0
        accepted = sum(self.constants.guess_right**guess for guess in range(self.draft_tokens + 1))
        return (1 + self.constants.guess_cost) / accepted


def bucket(tokens: int, buckets: Sequence[int]) -> int:
    """Return the shortest compiled length that takes so many tokens."""
    return next((one for one in buckets if one >= tokens), max(tokens, buckets[-1] if buckets else 0))
