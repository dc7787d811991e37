# SPDX-License-Identifier: Apache-2.0
"""``neuron-monitor-prometheus.py``: reads reports from its input, serves them as Prometheus metrics.

Its default port is 8000, which is vLLM's default as well. Names: those that the Grafana dashboard of the Neuron
documentation asks for.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .config import HostConfig

_DEFAULT_PORT = 8000


def _labels(values: dict[str, Any]) -> str:
    return ",".join(f'{name}="{value}"' for name, value in values.items())


def _runtime_lines(entry: dict[str, Any], base: dict[str, Any]) -> Iterator[str]:
    report = entry["report"]
    base = {**base, "runtime_tag": entry["neuron_runtime_tag"]}
    for core, data in report.get("neuroncore_counters", {}).get("neuroncores_in_use", {}).items():
        ratio = data["neuroncore_utilization"] / 100
        yield f"neuroncore_utilization_ratio{{{_labels({**base, 'neuroncore': core})}}} {ratio}"
    used = report.get("memory_used", {}).get("neuron_runtime_used_bytes", {})
    for place in ("host", "neuron_device"):
        if place in used:
            yield f"neuron_runtime_memory_used_bytes{{{_labels({**base, 'memory_location': place})}}} {used[place]}"
    execution = report.get("execution_stats", {})
    for name, value in execution.get("error_summary", {}).items():
        yield f"execution_errors_total{{{_labels({**base, 'error_type': name})}}} {value}"
    for name, value in execution.get("execution_summary", {}).items():
        yield f"execution_status_total{{{_labels({**base, 'status_type': name})}}} {value}"
    for name, value in (execution.get("latency_stats", {}).get("total_latency") or {}).items():
        yield f"execution_latency_seconds{{{_labels({**base, 'percentile': name})}}} {value}"
    for name, value in report.get("neuron_runtime_vcpu_usage", {}).get("vcpu_usage", {}).items():
        yield f"neuron_runtime_vcpu_usage_ratio{{{_labels({**base, 'usage_type': name})}}} {value / 100}"


def render(report: dict[str, Any]) -> str:
    """A report in the text format of Prometheus."""
    info = report["instance_info"]
    base = {"instance_id": info["instance_id"], "instance_type": info["instance_type"]}
    lines = [f"instance_info{{{_labels(base)}}} 1.0"]
    for entry in report["neuron_runtime_data"]:
        lines += _runtime_lines(entry, base)
    system = report["system_data"]
    usage = system.get("vcpu_usage", {})
    for name, value in usage.get("average_usage", {}).items():
        lines.append(f"system_vcpu_usage_ratio{{{_labels({**base, 'usage_type': name})}}} {value / 100}")
    if usage:
        lines.append(f"system_vcpu_count{{{_labels(base)}}} {len(usage['usage_data'])}")
    memory = system.get("memory_info", {})
    for name in ("memory_total_bytes", "memory_used_bytes", "swap_total_bytes", "swap_used_bytes"):
        if name in memory:
            lines.append(f"system_{name}{{{_labels(base)}}} {memory[name]}")
    for device in system.get("neuron_hw_counters", {}).get("neuron_devices", []):
        for name in ("mem_ecc_corrected", "mem_ecc_uncorrected", "sram_ecc_corrected", "sram_ecc_uncorrected"):
            labels = _labels({**base, "neuron_device_index": device["neuron_device_index"], "event_type": name})
            lines.append(f"hardware_ecc_events_total{{{labels}}} {device[name]}")
    return "\n".join(lines) + "\n"


class _Counters:
    """Adds up what each report counts for its own period, as the exporter's counters do."""

    def __init__(self) -> None:
        self._totals: dict[tuple[str, str, str], int] = {}
        self.page = ""

    def take(self, report: dict[str, Any]) -> None:
        """Make the page of a report."""
        for entry in report["neuron_runtime_data"]:
            execution = entry["report"].get("execution_stats", {})
            for part in ("error_summary", "execution_summary"):
                for name in execution.get(part, {}):
                    key = (entry["neuron_runtime_tag"], part, name)
                    self._totals[key] = self._totals.get(key, 0) + execution[part][name]
                    execution[part][name] = self._totals[key]
        self.page = render(report)


def main(host: HostConfig, argv: list[str]) -> int:
    """Serve until the input ends."""
    del host
    parser = argparse.ArgumentParser(prog="neuron-monitor-prometheus.py")
    parser.add_argument("-p", "--port", type=int, default=_DEFAULT_PORT, help="port (default: 8000)")
    options = parser.parse_args(argv)
    counters = _Counters()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = counters.page.encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing of requests."""

    try:
        server = ThreadingHTTPServer(("", options.port), Handler)
    except OSError as error:
        print(f"neuron-monitor-prometheus.py: {error}", file=sys.stderr)
        return 1
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for line in sys.stdin:
        try:
            counters.take(json.loads(line))
        except (ValueError, KeyError) as error:
            print(f"neuron-monitor-prometheus.py: bad report: {error}", file=sys.stderr)
    server.shutdown()
    return 0
