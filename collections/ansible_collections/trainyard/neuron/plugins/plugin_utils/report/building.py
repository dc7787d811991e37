# SPDX-License-Identifier: Apache-2.0
"""Makes the report of a run out of what the load host kept of it and of the plan's replicas."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from ansible_collections.trainyard.neuron.plugins.plugin_utils.collection import collection_version
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.figures import (
    confidence_of,
    cost_of,
    goodput_of,
    latency_of,
    repeat_of,
    requests_of,
    shares_of,
    throughput_of,
    window,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.flags import (
    client_flags,
    request_flags,
    server_flags,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.load_hosts import load_host_of
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.reading import Record
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import (
    VERSION,
    BenchmarkReport,
    Flag,
    Length,
    Load,
    Objective,
    Replica,
    Results,
    Run,
    Scenario,
    Servers,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.servers import (
    agreement_of,
    busiest_of,
    imbalance_of,
    samples_of,
    server_of,
)


def load_of(summary: dict[str, Any], reason: str) -> Load:
    """What was asked for, from the summary that the load host left; `reason` says why this client sent it."""
    given = summary["load"]
    opened = bool(given["request_rate_per_s"])
    return Load(
        tool=summary["client"]["name"],
        tool_version=summary["client"]["version"],
        tool_reason=reason,
        source="dataset" if given["dataset"] else "random",
        target=given["target"],
        models=given.get("models") or [],
        loop="open" if opened else "closed",
        concurrency=given["concurrency"] or None,
        rate_per_s=given["request_rate_per_s"] or None,
        arrival=given["arrival"] if opened else None,
        requests=given["requests"],
        turns=given.get("turns", 1),
        turn_tokens=given["mean_turn_tokens"] if given.get("turns", 1) > 1 else 0,
        think_s=given.get("think_s", 0.0),
        warmup_requests=given["warmup_requests"],
        input_tokens=Length(mean=given["mean_input_tokens"], stddev=given["stddev_input_tokens"]),
        output_tokens=Length(mean=given["mean_output_tokens"], stddev=given["stddev_output_tokens"]),
        ignore_eos=given["ignore_eos"],
        sampling=given["sampling"],
        request_timeout_s=given["timeout_s"],
        seed=given["seed"],
        commands=summary["repeats"][0]["client_argv"],
    )


def scenario_of(summary: dict[str, Any], replicas: Sequence[dict[str, Any]], given: dict[str, Any]) -> Scenario:
    """The scenario from the plan's replicas; `given` adds or replaces fields, such as `price_per_host_hour_usd`."""
    kept = [_replica(row) for row in replicas]
    counts = {replica.core_count for replica in kept}
    cores = [replica.core_count for replica in kept if replica.core_count]
    names = {replica.deployment for replica in kept if replica.deployment}
    derived: dict[str, Any] = {
        "model": summary["fleet"]["model"],
        "weights": next((row["weights"] for row in replicas if row.get("weights")), None),
        "deployment": names.pop() if len(names) == 1 else None,
        "instance_type": _only(replicas, "instance_type"),
        "logical_nc_config": _only(replicas, "logical_nc_config"),
        "tensor_parallel_size": counts.pop() if len(counts) == 1 else None,
        "data_parallel_size": len(kept),
        "hosts": len({replica.host or replica.id.split(":")[0] for replica in kept}),
        "cores": sum(cores) if len(cores) == len(kept) else None,
        "router_url": summary["fleet"]["url"],
    }
    return Scenario(replicas=kept, **{**derived, **given})


def _only(rows: Sequence[dict[str, Any]], name: str) -> Any:
    """Return what all rows have under a name, None where they differ or one lacks it."""
    found = {row.get(name) for row in rows}
    return found.pop() if len(found) == 1 else None


def _replica(row: dict[str, Any]) -> Replica:
    compiled = row.get("compiled") or {}
    given = {"bucketing": compiled.get("enable_bucketing"), **row}
    return Replica(**{key: given[key] for key in Replica.model_fields if key in given})


def build(
    summary: dict[str, Any],
    rows: Sequence[Record],
    *,
    provenance: str,
    replicas: Sequence[dict[str, Any]],
    scenario: dict[str, Any] | None = None,
    objective: Objective | None = None,
    failed_limit: float = 0.0,
    balance_limit: float = 0.0,
    tool_reason: str = "",
    git_commit: str | None = None,
) -> BenchmarkReport:
    """The report of a run from its `run.json` (`summary`), its records and the plan's replicas.

    `failed_limit` is the share of requests that may fail before that makes the run unsound, `balance_limit` what the
    busiest replica may serve over the mean of all, 0 for no limit. Raises pydantic's ValidationError for a provenance
    that is none of the three.
    """
    by_repeat = {
        repeat["index"]: [r for r in rows if r.get("repeat", 0) == repeat["index"]] for repeat in summary["repeats"]
    }
    windows = {repeat["index"]: window(by_repeat[repeat["index"]], repeat) for repeat in summary["repeats"]}
    duration_s = max(sum(end - start for start, end in windows.values()), 1e-9)
    context = scenario_of(summary, replicas, scenario or {})
    good = [row for row in rows if row["outcome"] == "succeeded"]
    throughput = throughput_of(good, duration_s, context.hosts, context.cores)
    repeats = [repeat_of(repeat, by_repeat[repeat["index"]]) for repeat in summary["repeats"]]
    goodput = goodput_of(rows, duration_s, objective) if objective else None
    results = Results(
        requests=requests_of(rows, summary["load"]["requests"] * len(repeats)),
        latency=latency_of(good),
        throughput=throughput,
        goodput=goodput,
        cost=cost_of(context.price_per_host_hour_usd, context.hosts, throughput, duration_s, goodput),
        repeats=repeats,
        confidence=confidence_of(repeats),
        models=shares_of(rows, summary["load"].get("models") or []),
    )
    samples = samples_of(summary["repeats"], windows)
    per_server = [server_of(name, summary["repeats"], samples) for name in summary["fleet"]["replicas"]]
    servers = Servers(
        replicas=per_server,
        agreement=agreement_of(per_server, rows),
        requests_max_over_mean=busiest_of(per_server),
        imbalance_ratio=imbalance_of(per_server, len(samples)),
        samples=samples,
    )
    host = load_host_of(summary, rows, windows)
    section = load_of(summary, tool_reason)
    found = request_flags(results.requests, failed_limit) + server_flags(servers, balance_limit)
    found += client_flags(host, section, summary["repeats"], results)
    flags = [Flag.model_validate({"code": code, "severity": level, "message": text}) for code, level, text in found]
    return BenchmarkReport(
        version=VERSION,
        provenance=provenance,
        run=Run(
            id=summary["run_id"],
            started_at=datetime.fromtimestamp(summary["started_at"], timezone.utc),
            ended_at=datetime.fromtimestamp(summary["ended_at"], timezone.utc),
            duration_s=duration_s,
            repeats=len(repeats),
            trainyard_version=collection_version(),
            git_commit=git_commit,
        ),
        scenario=context,
        load=section,
        results=results,
        servers=servers,
        load_host=host,
        flags=flags,
        sound=not any(flag.severity == "error" for flag in flags),
    )
