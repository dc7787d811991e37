# SPDX-License-Identifier: Apache-2.0
"""What about a run cannot be believed, and how badly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import (
    Load,
    LoadHost,
    LoadShare,
    Requests,
    Results,
    Servers,
)

#: In-flight requests of the busiest replica over the mean of all, beyond which the balance is flagged.
IMBALANCE_LIMIT = 1.15
#: In a short run, standard deviations of an even chance beyond which counts of requests are flagged.
CHANCE_SIGMAS = 2.0
#: Share of one processor that the busiest client process may use: beyond it, its own work shows in the latencies.
CLIENT_CPU_LIMIT = 0.85
#: Share of a load host's processor time that must be free.
IDLE_LIMIT = 0.05
#: Share of the asked-for streams that must be in flight on average, in closed loop, start and tail left out.
STREAMS_LIMIT = 0.9


def request_flags(requests: Requests, failed_limit: float) -> list[tuple[str, str, str]]:
    """What is wrong with the requests, as code, severity and text; `failed_limit` is the share that may fail."""
    found = []
    known = requests.succeeded + requests.failed + requests.timed_out
    if requests.sent != known or requests.sent != requests.asked:
        found.append(
            (
                "unaccounted_requests",
                "error",
                f"{requests.asked} asked for, {requests.sent} sent, {known} accounted for",
            )
        )
    bad = requests.failed + requests.timed_out
    if not requests.succeeded:
        found.append(("no_success", "error", "no request succeeded"))
    elif bad:
        severity = "error" if bad / requests.sent > failed_limit else "warning"
        first = requests.failures[0].message if requests.failures else ""
        text = f"{requests.failed} failed and {requests.timed_out} timed out of {requests.sent}; most often: {first}"
        found.append(("failed_requests", severity, text))
    return found


def server_flags(servers: Servers, balance_limit: float = 0.0) -> list[tuple[str, str, str]]:
    """What the servers' own account casts doubt on, as code, severity and text.

    `balance_limit` is what the busiest replica may serve over the mean of all, 0 for no limit.
    """
    found = []
    silent = [s.id for s in servers.replicas if s.requests is None]
    if silent:
        found.append(("counters_missing", "error", f"no counters after the load from {', '.join(silent)}"))
    restarted = [s.id for s in servers.replicas if s.restarted]
    if restarted:
        found.append(("replica_restarted", "error", f"restarted under load: {', '.join(restarted)}"))
    both = servers.agreement
    if not both.agree and not silent:
        requests, tokens = (
            "unknown" if value is None else f"{value:+.1%}"
            for value in (both.requests_difference_ratio, both.output_tokens_difference_ratio)
        )
        text = f"the servers' counters are {requests} of the client's requests and {tokens} of its output tokens off"
        found.append(("counters_disagree", "warning", text))
    idle = [s.id for s in servers.replicas if s.requests == 0]
    most = servers.requests_max_over_mean
    if balance_limit and most is not None and most > balance_limit:
        text = f"the busiest replica served {most:.2f} times the mean of all, {balance_limit:.2f} times is the limit"
        found.append(("imbalance", "error", text))
    elif idle:
        found.append(("replica_idle", "warning", f"served nothing: {', '.join(idle)}"))
    elif servers.imbalance_ratio is not None and servers.imbalance_ratio > IMBALANCE_LIMIT:
        text = f"the busiest replica had {servers.imbalance_ratio:.2f} times the mean in flight"
        found.append(("imbalance", "warning", text))
    elif servers.imbalance_ratio is None:
        found += _uneven_counts([server.requests or 0 for server in servers.replicas])
    return found


def _uneven_counts(served: Sequence[int]) -> list[tuple[str, str, str]]:
    """Judge the balance by requests where a run was too short to watch it: what chance alone would rarely make."""
    mean = sum(served) / len(served) if served else 0.0
    most = max(served, default=0)
    # Each replica's count of requests that chance spreads is within two standard deviations, 95 times of 100.
    if len(served) < 2 or most <= mean + CHANCE_SIGMAS * math.sqrt(mean * (1 - 1 / len(served))):
        return []
    counts = ", ".join(str(count) for count in sorted(served, reverse=True))
    return [("imbalance", "warning", f"the replicas served {counts} requests, in a run too short to say why")]


def _limited_clients(host: LoadHost) -> list[str]:
    """What is said of each machine whose own processors are in the figures."""
    found = []
    senders: Sequence[LoadShare | LoadHost] = host.shares or [host]
    for one in senders:
        busiest, free = one.busiest_process_cores, one.idle_ratio_mean
        where = f" on {one.name}" if host.shares else ""
        if busiest is not None and busiest > CLIENT_CPU_LIMIT:
            text = f"the client's busiest process{where} used {busiest:.2f} of a processor"
            found.append(text + ": its own work is in the latencies")
        elif isinstance(one, LoadHost) and (one.wanted_process_cores or 0) > CLIENT_CPU_LIMIT:
            text = f"a process of the client wanted {one.wanted_process_cores:.2f} of a processor"
            found.append(f"{text} and got {busiest or 0:.2f}: its work and its wait are in the latencies")
        elif free is not None and free < IDLE_LIMIT:
            name = one.name if host.shares else "the load host"
            found.append(f"{name} had {free:.0%} of its processors free: client and servers may wait for them")
    return found


def client_flags(
    host: LoadHost, load_: Load, repeats: Sequence[dict[str, Any]], results: Results
) -> list[tuple[str, str, str]]:
    """What the sender casts doubt on, as code, severity and text."""
    found = []
    failed = [repeat for repeat in repeats if any(repeat["exit_status"])]
    if failed:
        text = f"the client exited with {failed[0]['exit_status']}: {failed[0]['log_tail'][-300:]}"
        found.append(("client_error", "error", text))
    found += [("client_limited", "warning", text) for text in _limited_clients(host)]
    if host.late_start_p99_ms is not None and host.late_start_p99_ms > 50:
        text = f"requests started up to {host.late_start_p99_ms:.0f} ms after their time (p99)"
        found.append(("load_not_reached", "warning", text))
    floor = min(repeat.mean_in_flight for repeat in results.repeats)
    asked = load_.concurrency or 0
    # The tail, when the last streams end, is in the mean: a load of few rounds cannot reach the full number.
    reachable = asked * (1 - min(1.0, asked / load_.requests))
    # Who thinks between two requests has none in flight meanwhile.
    if load_.loop == "closed" and not load_.think_s and floor < STREAMS_LIMIT * reachable:
        text = f"{floor:.1f} requests in flight on average, {asked} were asked for"
        found.append(("load_not_reached", "warning", text))
    output = results.requests.output_tokens
    if output is not None and output.mean < 0.9 * load_.output_tokens.mean:
        text = f"answers had {output.mean:.0f} tokens on average, {load_.output_tokens.mean:.0f} were asked for"
        found.append(("short_answers", "warning", text))
    return found
