# SPDX-License-Identifier: Apache-2.0
"""From a benchmark's report to a point that the latency model can be fitted to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.figures import Load, Setup
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.fitting import Point
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.latency import PEAKS, Constants, Speed, Work
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.planned import (
    NoForecastError,
    cores_per_device,
    family_of,
    powers_of_two,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import ModelRef
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.fit import ConfigError, ModelShape
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.host_parts import weights_id
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.known_models import known_config, known_repositories
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import BenchmarkReport, Replica


class NoPointError(Exception):
    """The model cannot be fitted to a run; the text names the run, and says why and what to do."""


def model_of(report: BenchmarkReport, model_configs: Mapping[str, Any], as_model: str = "") -> ModelShape:
    """Return the shape of the model that a run was of.

    Args:
        report: the run's.
        model_configs: repo@revision -> config.json.
        as_model: the published repository that it is taken for, as a lab's tiny model poses as one; empty for its own.

    Raises:
        NoForecastError: nobody knows its sizes.
    """
    weights = report.scenario.weights or ""
    config = known_config(as_model) if as_model else None
    if config is None and not as_model:
        named = {weights_id(_reference(key)): given for key, given in model_configs.items()}
        config = named.get(weights) or known_config(report.scenario.model)
        config = config or next(
            (known_config(repo) for repo in known_repositories() if weights.startswith(_slug(repo))), None
        )
    if config is None:
        raise NoForecastError(
            f"{as_model or weights or report.scenario.model} has no size that is known here: give its config.json "
            "below --model-configs DIR, or say by --as-model which published model it is"
        )
    try:
        return ModelShape.from_config(config)
    except ConfigError as error:
        raise NoForecastError(f"config.json of {weights}: {error}") from error


def _reference(key: str) -> ModelRef:
    repo, _, revision = key.rpartition("@")
    return ModelRef(repo, "huggingface", revision)


def _slug(repo: str) -> str:
    return weights_id(ModelRef(repo, "huggingface", ""))


def point_of(
    report: BenchmarkReport, constants: Constants, model_configs: Mapping[str, Any], as_model: str = ""
) -> Point:
    """Return a run as a point.

    Args:
        report: the run's.
        constants: of the latency model.
        model_configs: as `model_of`.
        as_model: as `model_of`.

    Raises:
        NoPointError: the run has no figures that the model has, or too little is known of what it ran on.
    """
    try:
        return _point(report, constants, model_of(report, model_configs, as_model))
    except NoForecastError as error:
        raise NoPointError(f"{report.run.id}: {error}") from error


def _point(report: BenchmarkReport, constants: Constants, shape: ModelShape) -> Point:
    scenario, load, results = report.scenario, report.load, report.results
    name = report.run.id
    first = results.latency.time_to_first_token_ms
    if not report.sound or first is None:
        wrong = "; ".join(flag.message for flag in report.flags if flag.severity == "error") or "no request succeeded"
        raise NoPointError(f"{name}: nothing is fitted to a run that is not sound ({wrong}): leave it out")
    replica = _alike(report)
    if scenario.instance_type is None or replica.core_count is None or replica.max_model_len is None:
        raise NoPointError(f"{name}: its report does not say instance type, cores and max_model_len: leave it out")
    family = family_of(scenario.instance_type)
    longest = replica.max_model_len
    buckets = powers_of_two(longest) if replica.bucketing else (longest,)
    speed = Speed(
        work=Work.of(shape),
        constants=constants,
        peaks=PEAKS[family],
        cores=replica.core_count,
        cores_per_device=cores_per_device(family, scenario.logical_nc_config),
        batch=replica.max_num_seqs or 1,
        prefill_buckets=buckets,
        decode_buckets=buckets,
    )
    setup = Setup(speed, replica.max_num_seqs or 1, scenario.data_parallel_size, scenario.hosts, None, 0, 0)
    sent, answered = results.requests.input_tokens, results.requests.output_tokens
    given = Load(
        input_tokens=sent.mean if sent else load.input_tokens.mean,
        output_tokens=answered.mean if answered else load.output_tokens.mean,
        input_deviation=sent.stddev if sent else 0.0,
        output_deviation=answered.stddev if answered else 0.0,
        streams=load.concurrency or 0,
        rate_per_s=load.rate_per_s or 0.0,
        seed=load.seed,
    )
    token = results.latency.time_per_output_token_ms
    label = f"{name} (TP {speed.cores}, batch {setup.slots}, {given.input_tokens:g} in)"
    return Point(label, setup, given, load.requests, first.p50, token.p50 if token else None)


def _alike(report: BenchmarkReport) -> Replica:
    """Return the replica that all are like."""
    replicas = report.scenario.replicas
    kinds = {(one.core_count, one.max_num_seqs, one.max_model_len, one.bucketing) for one in replicas}
    if len(kinds) != 1:
        raise NoPointError(f"{report.run.id}: its replicas differ in cores, batch or length: leave it out")
    return replicas[0]
