# SPDX-License-Identifier: Apache-2.0
"""What a sweep is to try, and the points that this makes: those that cannot work are out before anything runs."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trainyard.settings_file import read_yaml

# Before Ansible's loader knows the collection: it does not find the rest of a package that it did not load itself.
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import FIELDS  # isort: skip
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.settings import SEARCH, sweep_schema  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.bounded_file import FileError  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.figures import Setup  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import Objective  # isort: skip

#: What a sweep's file may say.
SWEEP = sweep_schema(FIELDS)


class SpecError(Exception):
    """The file of a sweep cannot be used; the text names it and every problem."""


@dataclass(frozen=True)
class Search:
    """A binary search for the highest request rate that keeps the objective; fields as in the schema `SEARCH`."""

    high_per_s: float
    low_per_s: float = SEARCH.defaults["low_per_s"]
    tolerance: float = SEARCH.defaults["tolerance"]


@dataclass(frozen=True)
class Spec:
    """A sweep as its file gives it; fields as in the schema `SWEEP`, which judges them."""

    deployment: str
    grid: Mapping[str, list[Any]] = field(default_factory=dict)
    points: Sequence[dict[str, Any]] = ()
    load: Mapping[str, Any] = field(default_factory=dict)
    loads: Sequence[dict[str, Any]] = ({},)
    objective: Objective | None = None
    search: Search | None = None
    price_per_host_hour_usd: float | None = None
    order: Literal["given", "random"] = "given"

    @classmethod
    def from_dict(cls, raw: Any) -> Spec:
        """Read a sweep.

        Raises:
            SpecError: with every problem of it.
        """
        values, problems = SWEEP.read(raw)
        if problems:
            raise SpecError("; ".join(str(problem) for problem in problems))
        objective, search = values.pop("objective"), values.pop("search")
        return cls(
            **values,
            objective=None if objective is None else Objective(**objective),
            search=None if search is None else Search(**search),
        )


def read(path: Path) -> Spec:
    """Return the sweep in a YAML file.

    Raises:
        SpecError: it cannot be read, or is none.
    """
    try:
        return Spec.from_dict(read_yaml(path))
    except (FileError, SpecError) as error:
        raise SpecError(f"{path} is no sweep: {error}") from error


@dataclass(frozen=True)
class Point:
    """One configuration: the fields that it changes, and what the planner says of it."""

    fields: Mapping[str, Any]
    artifacts: tuple[str, ...] = ()
    hosts: int = 1
    reason: str = ""
    setup: Setup | None = field(default=None, compare=False)
    """What a forecast takes of it; None where nothing can be forecast."""

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
    for fields in [*(made if spec.grid else []), *spec.points]:
        found.setdefault(key_of(fields, {}), fields)
    return list(found.values())


Planner = Callable[[Mapping[str, Any]], Mapping[str, Any]]
Looker = Callable[[Mapping[str, Any]], Setup | None]


def points(spec: Spec, plan: Planner, refused: type[Exception], look: Looker = lambda _fleet: None) -> list[Point]:
    """The points with the planner's verdict, those of the same artifacts side by side, the impossible last.

    `plan` takes a deployment's changed fields and returns the fleet's plan, or raises `refused` with its reasons;
    `look` takes such a plan and returns what a forecast needs of it.
    """
    found = []
    for fields in combinations(spec):
        try:
            fleet = plan(fields)
        except refused as error:
            found.append(Point(fields, reason=reason(str(error))))
            continue
        hosts = list(fleet["hosts"].values())
        mine = [r for host in hosts for r in host["replicas"] if r["deployment"] == spec.deployment]
        if not mine:
            found.append(Point(fields, reason=f"no replica of {spec.deployment} in the plan"))
            continue
        artifacts = tuple(sorted({replica["artifact"] for replica in mine}))
        number = len({replica["id"].split(":")[0] for replica in mine})
        found.append(Point(fields, artifacts, hosts=number, setup=look(fleet)))
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


def reason(text: str) -> str:
    """The first line of a planner's complaint that names a rule."""
    lines = [line.strip(" -") for line in text.splitlines() if line.strip()]
    return next((line for line in lines if ":" in line), lines[0] if lines else "refused by the planner")
