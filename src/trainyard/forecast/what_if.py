# SPDX-License-Identifier: Apache-2.0
"""Forecasts of a deployment as it is planned and as it could be, each judged by the planner first."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainyard.paths import ROOT  # noqa: F401 - makes the planner's imports possible
from trainyard.sweep.spec import reason

# Before Ansible's loader knows the collection: it does not find the rest of a package that it did not load itself.
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.calibration import Calibration  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.figures import Setup, forecast  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.planned import (  # isort: skip
    NoForecastError,
    deployments_of,
    load_of,
    setup_of,
    too_long,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import Objective  # isort: skip


@dataclass(frozen=True)
class Asked:
    """What is to be forecast. Lengths in tokens; an empty list is the deployment's own.

    Attributes:
        grid: fields of the deployment with the values to try, every combination.
        input_tokens: lengths of the prompts.
        output_tokens: lengths of the answers.
        streams: kept in flight; None for the deployment's own.
        rate_per_s: of an open loop; None for the deployment's own.
        objective: what a request must keep.
        price_per_host_hour_usd: of one host.
    """

    grid: Mapping[str, Sequence[Any]]
    input_tokens: Sequence[float] = ()
    output_tokens: Sequence[float] = ()
    streams: int | None = None
    rate_per_s: float | None = None
    objective: Objective | None = None
    price_per_host_hour_usd: float | None = None


def plan_with(known: Mapping[str, Any], deployment: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the plan of a fleet with some fields of a deployment changed.

    Args:
        known: the planner's input.
        deployment: the deployment's name.
        fields: what differs.

    Raises:
        PlanError: what the planner refuses.
    """
    fleet = copy.deepcopy(dict(known))
    for variables in fleet["hosts"].values():
        overrides = {**(variables.get("trainyard_overrides") or {})}
        overrides[deployment] = {**overrides.get(deployment, {}), **fields}
        variables["trainyard_overrides"] = overrides
    return dict(plan_fleet(fleet).to_dict())


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every combination of a grid; of an empty one none, since that is the deployment itself."""
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())] if grid else []


def forecasts(
    known: Mapping[str, Any], plan: Mapping[str, Any], name: str, asked: Asked, calibration: Calibration
) -> Iterator[dict[str, Any]]:
    """Yield the forecast of a deployment as planned, then of each alternative; one that cannot be has `refused`.

    Args:
        known: the planner's input.
        plan: the plan of it.
        name: the deployment.
        asked: what is to be forecast.
        calibration: the constants.
    """
    yield from _of_plan(lambda: plan, {}, known, name, asked, calibration)
    for fields in combinations(asked.grid):
        yield from _of_plan(lambda f=fields: plan_with(known, name, f), fields, known, name, asked, calibration)  # type: ignore[misc]


def _of_plan(
    planned: Callable[[], Mapping[str, Any]],
    fields: Mapping[str, Any],
    known: Mapping[str, Any],
    name: str,
    asked: Asked,
    calibration: Calibration,
) -> Iterator[dict[str, Any]]:
    head: dict[str, Any] = {"deployment": name, "changes": dict(fields)}
    try:
        plan = planned()
        if name not in deployments_of(plan):
            raise NoForecastError(f"no replica of {name} in the plan")
        setup = setup_of(plan, name, known.get("model_configs") or {}, calibration.values)
    except (PlanError, NoForecastError) as error:
        yield {**head, "refused": reason(str(error))}
        return
    for input_tokens in asked.input_tokens or (None,):
        for output_tokens in asked.output_tokens or (None,):
            load = load_of(
                plan,
                name,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                streams=asked.streams,
                rate_per_s=asked.rate_per_s,
            )
            here = {**head, **_of_setup(setup), "input_tokens": load.input_tokens, "output_tokens": load.output_tokens}
            if wrong := too_long(setup, load):
                yield {**here, "refused": wrong}
                continue
            yield {**here, **forecast(setup, load, calibration, asked.objective, asked.price_per_host_hour_usd)}


def _of_setup(setup: Setup) -> dict[str, Any]:
    return {
        "tensor_parallel_size": setup.speed.cores,
        "data_parallel_size": setup.replicas,
        "hosts": setup.hosts,
        "max_num_seqs": setup.slots,
    }
