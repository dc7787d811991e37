# SPDX-License-Identifier: Apache-2.0
"""The latency model's constants with their sources and errors, as files: the published one, and those of a calibration.

A file comes from somebody: each number has bounds outside of which it is no hardware's, nothing unknown is read, and
NaN and infinity are refused.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import did_you_mean
from ansible_collections.trainyard.neuron.plugins.plugin_utils.bounded_file import FileError, read_json
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.latency import CONSTANT_NAMES, Constants
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

PUBLISHED = Path(__file__).with_name("published.json")

#: Least and most that a constant can be; the same for the search of a calibration.
BOUNDS: dict[str, tuple[float, float]] = {
    "hbm_efficiency": (0.02, 1.0),
    "flops_efficiency": (0.01, 1.0),
    "kv_penalty": (0.05, 60.0),
    "step_s": (1e-6, 0.2),
    "prefill_s": (1e-5, 5.0),
    "decode_collective_s": (1e-7, 0.02),
    "prefill_collective_s": (1e-7, 0.1),
    "collective_s_per_byte": (1e-14, 1e-8),
    "collective_floor": (0.01, 0.99),
    "guess_right": (0.01, 0.99),
    "guess_cost": (0.001, 20.0),
}


class CalibrationError(Exception):
    """A file of constants cannot be used; the text names it and every problem."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, frozen=True, allow_inf_nan=False)


class Fitted(_Model):
    """One constant."""

    value: float
    """In the unit that its name gives."""
    error_ratio: float | None = Field(ge=0)
    """Its standard error as a share of it; None where nobody knows."""
    source: str = Field(max_length=400)
    """Where it comes from."""


class Errors(_Model):
    """How far the model is off at points that it was not fitted to; where those were too few, at the others."""

    prefill_factor: float = Field(ge=1, le=100)
    """Times to the first token are within the forecast divided and multiplied by this."""
    decode_factor: float = Field(ge=1, le=100)
    """The same of the time of a token."""
    worst_point: str = Field(max_length=400)
    """The point that is off furthest."""


class Time(_Model):
    """A figure of starts or compiles."""

    value: float = Field(gt=0, le=1e15)
    error_factor: float = Field(ge=1, le=100)
    source: str = Field(max_length=400)


class Times(_Model):
    """What a start and a compile take."""

    start_s: Time
    """A replica's start beside its weights."""
    load_bytes_per_s: Time
    """Of a checkpoint that is cut for the cores already."""
    shard_bytes_per_s: Time
    """Of one that is cut while it loads."""
    compile_s: Time
    """With NxDI."""
    native_compile_s: Time
    """By the native plugin."""
    presharding_bytes_per_s: Time
    """What cutting a checkpoint at compile time adds."""


class Calibration(_Model):
    """A set of constants."""

    version: Literal[1]
    provenance: str = Field(max_length=200)
    """Where the figures come from: fitted to published points, or to runs that were cpu, simulated or measured."""
    fitted_to: list[str] = Field(max_length=10000)
    """The points."""
    constants: dict[str, Fitted]
    errors: Errors
    times: Times

    @model_validator(mode="after")
    def _known_and_possible(self) -> Calibration:
        wrong = []
        for name in sorted(set(self.constants) - set(CONSTANT_NAMES)):
            fix = did_you_mean(name, CONSTANT_NAMES) or "remove it"
            wrong.append(f"constants.{name:.60} is no constant of the model: {fix}")
        for name in CONSTANT_NAMES:
            low, high = BOUNDS[name]
            if name not in self.constants:
                wrong.append(f"constants.{name} is missing")
            elif not low <= self.constants[name].value <= high:
                wrong.append(f"constants.{name} is {self.constants[name].value:g}, and must be {low:g} to {high:g}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @property
    def values(self) -> Constants:
        """The constants as the model takes them."""
        return Constants(**{name: self.constants[name].value for name in CONSTANT_NAMES})


def calibration_of(data: Any, name: str) -> Calibration:
    """Return the constants in a file's content.

    Args:
        data: what the file holds.
        name: the file, which an error names.

    Raises:
        CalibrationError: with every problem of it.
    """
    try:
        return Calibration.model_validate(data, strict=True)
    except ValidationError as error:
        found = [
            f"{'.'.join(map(str, one['loc'])) or 'it'}: {one['msg'].removeprefix('Value error, ')}"
            for one in error.errors(include_url=False, include_input=False)[:20]
        ]
        text = f"{name} is no calibration: {'; '.join(found)}; write one by trainyard calibrate RUN..."
        raise CalibrationError(text) from error


def read_calibration(path: Path) -> Calibration:
    """Return the constants in a file.

    Raises:
        CalibrationError: it cannot be read, or is none.
    """
    try:
        data = read_json(path)
    except FileError as error:
        raise CalibrationError(f"{path} is no calibration: {error}") from error
    return calibration_of(data, str(path))


@lru_cache(maxsize=1)
def published() -> Calibration:
    """Return the constants that are fitted to published points: the default."""
    return read_calibration(PUBLISHED)


def as_text(found: Calibration) -> str:
    """Return a file's content."""
    return json.dumps(found.model_dump(), indent=2) + "\n"


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of such a file, as docs/schemas/calibration.schema.json publishes it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Calibration.model_json_schema()}
