# SPDX-License-Identifier: Apache-2.0
"""A page of metrics in Prometheus' text format; every series that a host may say is declared here."""

from __future__ import annotations

from typing import Dict, List, Tuple

LABEL_CHARACTERS = 200
"""A longer value of a label is cut: what is on a host may be somebody else's word."""
COUNTER, GAUGE = "counter", "gauge"

SERIES: Dict[str, Tuple[str, str]] = {
    "trainyard_neuron_devices": (GAUGE, "Neuron devices that the driver shows."),
    "trainyard_neuron_ecc_events_total": (COUNTER, "Memory errors of a device since its driver was loaded, by kind."),
    "trainyard_neuron_device_unhealthy": (GAUGE, "1 for a component of a device that the driver calls unhealthy."),
    "trainyard_neuron_reset_failures_total": (COUNTER, "Resets of a device's cores that failed."),
    "trainyard_neuron_hw_errors_total": (COUNTER, "NEURON_HW_ERR lines of the kernel since the host booted, by kind."),
    "trainyard_neuron_device_quarantined": (GAUGE, "1 for a device that healing took out of the plan."),
    "trainyard_neuron_device_replaced": (GAUGE, "1 for a device in the place of one that healing took out."),
    "trainyard_capacity_block_end_timestamp_seconds": (GAUGE, "When the host's capacity block ends."),
    "trainyard_price_per_host_hour_usd": (GAUGE, "What an hour of the host costs."),
    "trainyard_replica_info": (GAUGE, "1 for each replica that is switched on, with what it runs."),
    "trainyard_replica_state": (GAUGE, "1 for the state that systemd has a replica's unit in."),
    "trainyard_replica_restarts_total": (COUNTER, "Times that systemd started a replica again by itself."),
    "trainyard_replica_start_seconds": (GAUGE, "How long the last start of a replica took, its gate included."),
    "trainyard_replica_starting_seconds": (GAUGE, "How long a replica has been starting."),
    "trainyard_replica_phase": (GAUGE, "1 for the phase that a start is in."),
    "trainyard_drift": (GAUGE, "1 where a replica runs another release than the one that is switched on."),
    "trainyard_probe_alive": (GAUGE, "1 where the standing probe has just looked at a replica."),
    "trainyard_lock_held": (GAUGE, "1 while a run holds the host's lock, with what it does."),
    "trainyard_roll_in_progress": (GAUGE, "1 while a roll or an upgrade holds the host's lock."),
    "trainyard_roll_left_behind": (GAUGE, "1 for a replica that a roll took out of rotation and did not bring back."),
    "trainyard_fence_closed": (GAUGE, "1 where the rules that keep strangers out are in force and watched."),
    "trainyard_filesystem_used_ratio": (GAUGE, "How full a file system is, 0 to 1."),
    "trainyard_exporter_part_failed": (GAUGE, "1 for a part of this page that could not be looked at."),
    "trainyard_exporter_look_cpu_seconds": (GAUGE, "Processor time of the last look, of programs that it ran too."),
    "trainyard_exporter_look_timestamp_seconds": (GAUGE, "When this page was made."),
}


class Page:
    """A page that is being written."""

    def __init__(self) -> None:
        self._samples: Dict[str, List[Tuple[Tuple[Tuple[str, str], ...], float]]] = {}

    def say(self, series: str, value: float, **labels: str) -> None:
        """Add a sample.

        Args:
            series: one of `SERIES`.
            value: its value.
            labels: its labels.
        """
        if series not in SERIES:
            raise KeyError(series)
        self._samples.setdefault(series, []).append((tuple(sorted(labels.items())), value))

    def text(self) -> str:
        """The page; series in the order of `SERIES`."""
        lines = []
        for name, (kind, about) in SERIES.items():
            rows = self._samples.get(name)
            if not rows:
                continue
            lines += ["# HELP {0} {1}".format(name, about), "# TYPE {0} {1}".format(name, kind)]
            lines += ["{0}{1} {2}".format(name, _labels(labels), repr(float(value))) for labels, value in rows]
        return "\n".join(lines) + "\n"


def _labels(labels: Tuple[Tuple[str, str], ...]) -> str:
    said = ",".join('{0}="{1}"'.format(name, _escaped(value)) for name, value in labels)
    return "{" + said + "}" if said else ""


def _escaped(value: str) -> str:
    cut = value[:LABEL_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
    return cut.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
