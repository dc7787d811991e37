# SPDX-License-Identifier: Apache-2.0
"""What a sweep is to try, and the points that this makes: those that cannot work are out before anything runs."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainyard.benchmark_report import Objective


class SpecError(Exception):
    """The file of a sweep cannot be used; the text names it and every problem."""


class Search(BaseModel):
    """A binary search for the highest request rate that keeps the objective."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low_per_s: float = Field(default=0.1, gt=0)
    high_per_s: float = Field(gt=0)
    tolerance: float = Field(default=0.1, gt=0, lt=1)
    """Stop when the highest good rate and the lowest bad one are this near (share of the lower)."""


class Spec(BaseModel):
    """A sweep as its file gives it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    deployment: str
    grid: dict[str, list[Any]] = Field(default_factory=dict)
    """Fields of the deployment with the values to try, every combination."""
    points: list[dict[str, Any]] = Field(default_factory=list)
    """Further combinations, one by one."""
    load: dict[str, Any] = Field(default_factory=dict)
    """What every measurement has in common; fields of the benchmark role's load."""
    loads: list[dict[str, Any]] = [{}]
    """Each configuration is measured under each of these, over `load`."""
    objective: Objective | None = None
    search: Search | None = None
    price_per_host_hour_usd: float | None = Field(default=None, ge=0)
    order: Literal["given", "random"] = "given"
    """Random spreads slow changes of the machines over all configurations; groups of an artifact stay together."""

    @model_validator(mode="after")
    def _complete(self) -> Spec:
        if not self.grid and not self.points:
            raise ValueError("nothing to try: give a grid or points")
        if self.search is not None and self.objective is None:
            raise ValueError("search needs an objective")
        return self


def read(path: Path) -> Spec:
    """The sweep in a YAML file."""
    try:
        return Spec.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SpecError(f"{path} is no sweep: {error}") from error


@dataclass(frozen=True)
class Point:
    """One configuration: the fields that it changes, and what the planner says of it."""

    fields: Mapping[str, Any]
    artifacts: tuple[str, ...] = ()
    hosts: int = 1
    reason: str = ""

    @property
    def name(self) -> str:
        """The fields as one text: `tensor_parallel_size=32 max_num_seqs=4`."""
        return " ".join(f"{name}={value}" for name, value in self.fields.items())

    @property
    def possible(self) -> bool:
        """Whether the planner accepts it."""
        return not self.reason


def key_of(fields: Mapping[str, Any], load: Mapping[str, Any]) -> str:
    """Twelve digits that name a measurement: the same configuration and load always have the same."""
    text = json.dumps([dict(fields), dict(load)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def combinations(spec: Spec) -> list[dict[str, Any]]:
    """Every combination of the grid and every point, without repetition, in the order given."""
    made = [dict(zip(spec.grid, values, strict=True)) for values in itertools.product(*spec.grid.values())]
    found: dict[str, dict[str, Any]] = {}
    for fields in (made if spec.grid else []) + spec.points:
        found.setdefault(key_of(fields, {}), fields)
    return list(found.values())


Planner = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def points(spec: Spec, plan: Planner, refused: type[Exception]) -> list[Point]:
    """The points with the planner's verdict, those of the same artifacts side by side, the impossible last.

    `plan` takes a deployment's changed fields and returns the fleet's plan, or raises `refused` with its reasons.
    """
    found = []
    for fields in combinations(spec):
        try:
            fleet = plan(fields)
        except refused as error:
            found.append(Point(fields, reason=_shortest(str(error))))
            continue
        hosts = list(fleet["hosts"].values())
        mine = [r for host in hosts for r in host["replicas"] if r["deployment"] == spec.deployment]
        if not mine:
            found.append(Point(fields, reason=f"no replica of {spec.deployment} in the plan"))
            continue
        artifacts = tuple(sorted({replica["artifact"] for replica in mine}))
        found.append(Point(fields, artifacts, hosts=len({replica["id"].split(":")[0] for replica in mine})))
    return grouped(found, spec.order == "random")


def grouped(found: Sequence[Point], shuffled: bool) -> list[Point]:
    """The possible points by artifact, so that each is compiled and loaded once; then the impossible."""
    possible = [point for point in found if point.possible]
    groups: dict[tuple[str, ...], list[Point]] = {}
    for point in possible:
        groups.setdefault(point.artifacts, []).append(point)
    # Sorting by the digest is as good as a random order, and the same in every attempt.
    ordered = sorted(groups) if shuffled else list(groups)
    return [point for key in ordered for point in groups[key]] + [point for point in found if not point.possible]


def _shortest(text: str) -> str:
    """The first line of a planner's complaint that names a rule."""
    lines = [line.strip(" -") for line in text.splitlines() if line.strip()]
    return next((line for line in lines if ":" in line), lines[0] if lines else "refused by the planner")
