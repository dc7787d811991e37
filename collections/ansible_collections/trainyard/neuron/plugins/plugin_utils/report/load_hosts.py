# SPDX-License-Identifier: Apache-2.0
"""What the machines that sent the load had left: a client at its limit measures itself."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.figures import milliseconds, statistics_of
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.reading import Record
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import LoadHost, LoadShare


def load_host_of(summary: dict[str, Any], rows: Sequence[Record], windows: dict[int, tuple[float, float]]) -> LoadHost:
    """What the sending machine used under load, and each one's part where several sent."""
    repeats = summary["repeats"]

    def under_load(name: str) -> float | None:
        """Mean of one of the samples' own figures over the time under load; None where no sample has it."""
        known = [
            row[name]
            for repeat in repeats
            for row in repeat["samples"]
            if windows[repeat["index"]][0] <= row["at"] <= windows[repeat["index"]][1] and row.get(name) is not None
        ]
        return statistics.fmean(known) if known else None

    sampled = under_load("client_cores")
    late = statistics_of(milliseconds(r.get("late_s")) for r in rows)
    return LoadHost(
        name=summary["load_host"]["name"],
        processors=summary["load_host"]["processors"] or 1,
        client_processes=max(repeat["client_processes"] for repeat in repeats),
        client_cpu_cores=max(repeat["client_cpu_cores"] for repeat in repeats) if sampled is None else sampled,
        busiest_process_cores=under_load("client_busiest"),
        wanted_process_cores=under_load("client_wanted"),
        idle_ratio_mean=under_load("host_idle_ratio"),
        late_start_p99_ms=late.p99 if late else None,
        shares=_shares(rows, sum(end - start for start, end in windows.values())),
    )


def _shares(rows: Sequence[Record], duration_s: float) -> list[LoadShare]:
    """Each machine's part by the records' own account; none where all came from one machine, which was sampled."""
    sent = [row for row in rows if (row.get("client") or {}).get("host")]
    names = sorted({row["client"]["host"] for row in sent})
    return [
        _share(name, [row for row in sent if row["client"]["host"] == name], duration_s) for name in names[1:] and names
    ]


def _share(name: str, rows: Sequence[Record], duration_s: float) -> LoadShare:
    used: dict[int, float] = defaultdict(float)
    busy: dict[int, float] = defaultdict(float)
    for row in rows:
        if row["e2e_s"]:  # nobody knows for how long one that failed was in flight
            used[row["client"]["process"]] += row["client"]["cpu_s"]
            busy[row["client"]["process"]] += row["e2e_s"]
    free = [row["client"]["host_idle_ratio"] for row in rows if row["client"]["host_idle_ratio"] is not None]
    return LoadShare(
        name=name,
        requests=len(rows),
        client_processes=len({row["client"]["process"] for row in rows}),
        client_cpu_cores=sum(used.values()) / max(duration_s, 1e-9),
        busiest_process_cores=max((used[key] / busy[key] for key in used), default=0.0),
        idle_ratio_mean=statistics.fmean(free) if free else None,
    )
