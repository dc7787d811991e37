# SPDX-License-Identifier: Apache-2.0
"""A report as one screen of a terminal."""

from __future__ import annotations

from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import BenchmarkReport, Load


def cost_within_objective(report: BenchmarkReport) -> str:
    """Return what a million output tokens within the objective cost, or what is missing to tell."""
    goodput, cost = report.results.goodput, report.results.cost
    if cost is None:
        return "not known: benchmark_price_per_host_hour_usd says what an hour of a host costs"
    if goodput is None:
        return "not known: benchmark_objective says what a request must keep"
    within = cost.usd_per_million_output_tokens_within_objective
    if within is None:
        return "none: no request kept the objective"
    return f"{within:,.2f} USD a million output tokens within the objective"


def table(report: BenchmarkReport, width: int = 100) -> str:
    """The result for a terminal: one screen, the provenance in its title, flags below."""
    requests, latency = report.results.requests, report.results.latency
    throughput = report.results.throughput
    title = f"{report.scenario.model} · {report.provenance} · {report.run.id}"
    lines = [title, "-" * min(width, max(60, len(title)))]
    lines.append(f"client            {report.load.tool} {report.load.tool_version}  {_load_text(report.load)}")
    lines.append(
        f"requests          {requests.sent} sent, {requests.succeeded} succeeded, {requests.failed} failed, "
        f"{requests.timed_out} timed out"
    )
    lines.append(
        f"throughput        {throughput.output_tokens_per_s:.1f} output tokens/s, "
        f"{throughput.requests_per_s:.2f} requests/s"
    )
    cost = report.results.cost
    if cost is not None:
        so_far = "" if cost.run_usd is None else f"{cost.run_usd:.2f} USD for this run, "
        lines.append(f"cost              {so_far}{cost.usd_per_million_output_tokens:.2f} USD a million output tokens")
    lines.append(f"{'within objective':17} {cost_within_objective(report)}")
    lines.append(f"{'':17} {'p50':>10} {'p90':>10} {'p99':>10} {'of':>7}")
    for name, value in (
        ("TTFT ms", latency.time_to_first_token_ms),
        ("per token ms", latency.time_per_output_token_ms),
        ("inter-token ms", latency.inter_token_latency_ms),
        ("request ms", latency.request_latency_ms),
    ):
        if value is not None:
            lines.append(f"{name:17} {value.p50:10.1f} {value.p90:10.1f} {value.p99:10.1f} {value.count:7}")
    if report.results.models:
        lines.append(f"{'asked for':24} {'requests':>9} {'tokens':>9} {'TTFT p50':>10} {'per token':>10}   ms")
    for one in report.results.models:
        marks = (
            "-" if s is None else f"{s.p50:.1f}" for s in (one.time_to_first_token_ms, one.time_per_output_token_ms)
        )
        lines.append("{:24} {:>9} {:>9} {:>10} {:>10}".format(one.name, one.sent, one.output_tokens, *marks))
    lines.append(f"{'replica':24} {'requests':>9} {'tokens':>9} {'in flight':>10}   by its own counters")
    for server in report.servers.replicas:
        counts = ("-" if value is None else str(value) for value in (server.requests, server.generation_tokens))
        in_flight = "-" if server.in_flight_mean is None else f"{server.in_flight_mean:.1f}"
        lines.append("{:24} {:>9} {:>9} {:>10}".format(server.id, *counts, in_flight))
    agreement = "agree within 2 %" if report.servers.agreement.agree else "DO NOT AGREE within 2 %"
    lines.append(f"counters of client and servers {agreement}")
    lines += [f"{flag.severity.upper()}: {flag.message} ({flag.code})" for flag in report.flags]
    return "\n".join(lines)


def _load_text(load_: Load) -> str:
    if load_.loop == "open":
        shape = f"{load_.rate_per_s:g} requests/s ({load_.arrival})"
    else:
        shape = f"{load_.concurrency} streams"
    names = f", asking for {names_text(load_)}" if load_.models else ""
    return f"{shape}, {load_.input_tokens.mean:g} tokens in, {load_.output_tokens.mean:g} out{names}"


def names_text(load_: Load) -> str:
    """The names that requests asked for in turn, each with its share where that is not the others'."""
    counts = {name: load_.models.count(name) for name in load_.models}
    even = len(set(counts.values())) == 1
    return " + ".join(name if even else f"{count} x {name}" for name, count in counts.items())
