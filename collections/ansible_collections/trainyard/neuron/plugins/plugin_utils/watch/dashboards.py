# SPDX-License-Identifier: Apache-2.0
"""Dashboards of a fleet, declared once: as JSON for Grafana, and as pages that Prometheus itself shows.

A panel is a query with what it is drawn as. Grafana's dashboards lie below `extensions/grafana` of the collection,
written by `docs/dashboards.py`; Prometheus' pages (`watch.consoles`) are made of the same panels by its role.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Sequence, Tuple

LINES, NUMBER, ROWS, HEAT = "timeseries", "stat", "table", "heatmap"
COUNT, SECONDS, SHARE, PER_S, USD = "short", "s", "percentunit", "cps", "currencyUSD"
SCHEMA_VERSION = 41
COLUMNS, HEIGHT = 24, 8
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
#: What a dashboard is looked at by, and where its values come from.
CHOICES = {
    "deployment": "label_values(trainyard_replica_info, deployment)",
    "host": "label_values(up, host)",
    "replica": "label_values(trainyard_replica_info, replica)",
}
ROLLS = "redeploy|rollback|upgrade|heal"
_ECC = 'sum by (host, device) (trainyard_neuron_ecc_events_total{kind=~".*uncorrected"})'
_D, _H, _R = 'deployment=~"$deployment"', 'host=~"$host"', 'host=~"$host",replica=~"$replica"'
_CORRECTED = (
    f'sum by (host, neuron_device_index) (increase(hardware_ecc_events_total{{{_H},event_type=~".*_corrected"}}[1h]))'
)
_BY_RELEASE = (
    f"avg by (release) ((trainyard:itl_s:p50{{{_H}}} >= 0) "
    "* on (host, replica) group_left (release) trainyard_replica_info)"
)


@dataclass(frozen=True)
class Panel:
    """A query and what it is drawn as.

    Attributes:
        title: what stands above it.
        query: PromQL; `$deployment`, `$host` and `$replica` stand for what is chosen.
        labels: those of a series that tell it from the others.
        unit: of its value.
        kind: what it is drawn as.
        width: of 24 columns.
        empty: what is said where the query gives nothing. That is no lack of data in a table of what is wrong or under
            way, which has no row then.
    """

    title: str
    query: str
    labels: Tuple[str, ...] = ()
    unit: str = COUNT
    kind: str = LINES
    width: int = 12
    empty: str = "None"


@dataclass(frozen=True)
class Dashboard:
    """Panels on one page.

    Attributes:
        title: what stands above all.
        choices: of `CHOICES`, what it can be narrowed to.
        panels: from the top left.
    """

    title: str
    choices: Tuple[str, ...]
    panels: Tuple[Panel, ...]


REPLICA = ("host", "replica")
DASHBOARDS: Dict[str, Dashboard] = {
    "fleet": Dashboard(
        "Fleet",
        (),
        (
            Panel("Replicas that serve", 'sum(trainyard_replica_state{state="active"})', kind=NUMBER, width=6),
            Panel("Replicas that do not", 'sum(trainyard_replica_state{state!="active"})', kind=NUMBER, width=6),
            Panel(
                "Devices with errors",
                f"count({_ECC} > 0) or vector(0)",
                kind=NUMBER,
                width=6,
            ),
            Panel("Devices out of the plan", "sum(trainyard_neuron_device_quarantined)", kind=NUMBER, width=6),
            Panel(
                "Alerts",
                'ALERTS{alertstate="firing",alertname!="Watching"}',
                ("severity", "alertname", "host", "replica", "device"),
                kind=ROWS,
                width=24,
            ),
            Panel(
                "Releases",
                "count by (deployment, release) (trainyard_replica_info)",
                ("deployment", "release"),
                kind=ROWS,
            ),
            Panel(
                "Until a capacity block ends",
                "trainyard_capacity_block_end_timestamp_seconds - time()",
                ("host",),
                SECONDS,
            ),
            Panel("Tokens/s", "sum by (deployment) (trainyard:generation_tokens:rate3m)", ("deployment",), PER_S),
            Panel("Requests in flight", "sum by (deployment) (trainyard:running + trainyard:waiting)", ("deployment",)),
            Panel(
                "Uncorrected memory errors",
                _ECC,
                ("host", "device"),
            ),
            Panel("Cost an hour", "sum(trainyard_price_per_host_hour_usd)", unit=USD, kind=NUMBER, width=6),
            Panel("A replica more would help", "trainyard:would_scale == 1", ("deployment",), kind=ROWS, width=6),
            Panel("Data volume in use", "max by (host) (trainyard_filesystem_used_ratio)", ("host",), SHARE),
        ),
    ),
    "deployment": Dashboard(
        "Deployment",
        ("deployment",),
        (
            Panel(
                "Late first tokens, an hour",
                f"trainyard:ttft_late:ratio_rate1h{{{_D}}}",
                ("deployment",),
                SHARE,
                NUMBER,
                6,
            ),
            Panel(
                "Late next tokens, an hour",
                f"trainyard:itl_late:ratio_rate1h{{{_D}}}",
                ("deployment",),
                SHARE,
                NUMBER,
                6,
            ),
            Panel(
                "Tokens/s",
                f"sum by (deployment) (trainyard:generation_tokens:rate3m{{{_D}}})",
                ("deployment",),
                PER_S,
                NUMBER,
                6,
            ),
            Panel(
                "Requests that wait",
                f"sum by (deployment) (trainyard:waiting{{{_D}}})",
                ("deployment",),
                kind=NUMBER,
                width=6,
            ),
            Panel("A million tokens, now", f"trainyard:usd_per_million_tokens{{{_D}}}", ("deployment",), USD),
            Panel("Until the queue is gone", f"trainyard:queue_gone_s{{{_D}}} >= 0", ("deployment",), SECONDS),
            Panel("First token", f"sum by (le) (rate(trainyard:ttft_s_bucket{{{_D}}}[5m]))", ("le",), SECONDS, HEAT),
            Panel("Next token", f"sum by (le) (rate(trainyard:itl_s_bucket{{{_D}}}[5m]))", ("le",), SECONDS, HEAT),
            Panel("First token, median", f"trainyard:ttft_s:p50{{{_D}}} >= 0", REPLICA, SECONDS),
            Panel("Next token, median", f"trainyard:itl_s:p50{{{_D}}} >= 0", REPLICA, SECONDS),
            Panel("Tokens/s of a replica", f"trainyard:generation_tokens:rate3m{{{_D}}}", REPLICA, PER_S),
            Panel("In flight of a replica", f"trainyard:running{{{_D}}} + trainyard:waiting{{{_D}}}", REPLICA),
            Panel(
                "Answers of routers",
                'sum by (code) (rate(haproxy_frontend_http_responses_total{proxy="openai"}[5m]))',
                ("code",),
                PER_S,
            ),
            Panel("Requests that wait in routers", "sum by (host) (haproxy_backend_current_queue)", ("host",)),
        ),
    ),
    "replica": Dashboard(
        "Replica",
        ("host", "replica"),
        (
            Panel(
                "What it runs",
                f"trainyard_replica_info{{{_R}}}",
                (*REPLICA, "release", "sdk", "cores", "artifact_digest"),
                kind=ROWS,
                width=24,
            ),
            Panel("State", f"trainyard_replica_state{{{_R}}} == 1", (*REPLICA, "state"), kind=ROWS),
            Panel("Phase of its start", f"trainyard_replica_phase{{{_R}}} == 1", (*REPLICA, "phase"), kind=ROWS),
            Panel("Last start", f"trainyard_replica_start_seconds{{{_R}}}", REPLICA, SECONDS),
            Panel("Restarts by systemd", f"trainyard_replica_restarts_total{{{_R}}}", REPLICA),
            Panel("KV cache in use", f"trainyard:kv_usage_ratio{{{_R}}}", REPLICA, SHARE),
            Panel(
                "Prefix cache hits",
                f"trainyard:prefix_hit_ratio{{{_R}}}",
                REPLICA,
                SHARE,
                empty="No prefix caching",
            ),
            Panel("Time in the queue, mean", f"trainyard:queue_time_s:mean10m{{{_R}}} >= 0", REPLICA, SECONDS),
            Panel("Preemptions", f"trainyard:preemptions:rate10m{{{_R}}}", REPLICA, PER_S),
        ),
    ),
    "device": Dashboard(
        "Device",
        ("host",),
        (
            Panel(
                "Memory errors by kind",
                f"trainyard_neuron_ecc_events_total{{{_H}}} > 0",
                ("host", "device", "kind"),
                kind=ROWS,
            ),
            Panel(
                "Hardware errors of the kernel",
                f"trainyard_neuron_hw_errors_total{{{_H}}} > 0",
                ("host", "device", "kind"),
                kind=ROWS,
            ),
            Panel(
                "Unhealthy components",
                f"trainyard_neuron_device_unhealthy{{{_H}}} == 1",
                ("host", "device", "component"),
                kind=ROWS,
                empty="None; drivers before 2.30 tell of none",
            ),
            Panel(
                "Out of the plan", f"trainyard_neuron_device_quarantined{{{_H}}} == 1", ("host", "device"), kind=ROWS
            ),
            Panel("Failed resets", f"trainyard_neuron_reset_failures_total{{{_H}}}", ("host", "device")),
            Panel(
                "Utilization of a replica's cores",
                f"avg by (host, runtime_tag) (neuroncore_utilization_ratio{{{_H}}})",
                ("host", "runtime_tag"),
                SHARE,
            ),
            Panel(
                "Executions by how they ended",
                f"sum by (host, status_type) (rate(execution_status_total{{{_H}}}[5m]))",
                ("host", "status_type"),
                PER_S,
            ),
            Panel(
                "Corrected memory errors, an hour",
                _CORRECTED,
                ("host", "neuron_device_index"),
            ),
        ),
    ),
    "roll": Dashboard(
        "Roll",
        ("host",),
        (
            Panel("Who holds hosts", f"trainyard_lock_held{{{_H}}} == 1", ("host", "verb"), kind=ROWS),
            Panel("Left behind", f"trainyard_roll_left_behind{{{_H}}} == 1", REPLICA, kind=ROWS),
            Panel("Replicas by release", f"count by (release) (trainyard_replica_info{{{_H}}})", ("release",)),
            # One that does not start is drawn at 0: nothing at all would look like a host that says nothing.
            Panel(
                "How long replicas have been starting",
                f"trainyard_replica_starting_seconds{{{_H}}} or on (host, replica) 0 * trainyard_replica_info{{{_H}}}",
                REPLICA,
                SECONDS,
            ),
            Panel(
                "Replicas whose release differs from the one switched on",
                f"trainyard_drift{{{_H}}} == 1",
                REPLICA,
                kind=ROWS,
            ),
            Panel(
                "Next token, median by release",
                _BY_RELEASE,
                ("release",),
                SECONDS,
            ),
        ),
    ),
}


def grafana(name: str) -> Dict[str, Any]:
    """Return a dashboard as Grafana takes it from a file."""
    found = DASHBOARDS[name]
    return {
        "uid": f"trainyard-{name}",
        "title": f"trainyard: {found.title}",
        "tags": ["trainyard"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_source(), *(_choice(word) for word in found.choices)]},
        "annotations": {"list": [_rolls()]},
        "links": [_link(other) for other in DASHBOARDS if other != name],
        "panels": _laid(found.panels),
    }


def queries(name: str) -> List[str]:
    """Return every query of a dashboard, with all chosen."""
    return [of_all(panel.query) for panel in DASHBOARDS[name].panels] + [_rolls()["expr"]]


def of_all(query: str) -> str:
    """Return a query for everything that could be chosen."""
    for word in CHOICES:
        query = query.replace(f"${word}", ".*")
    return query


def _source() -> Dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0}


def _choice(word: str) -> Dict[str, Any]:
    return {
        "name": word,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": CHOICES[word], "refId": word},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
        "hide": 0,
    }


def _rolls() -> Dict[str, Any]:
    """Rolls and healing, drawn over every panel."""
    return {
        "name": "Rolls and healing",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "orange",
        "expr": f'max by (host, verb) (trainyard_lock_held{{verb=~"{ROLLS}"}}) == 1',
        "titleFormat": "{{verb}}",
        "textFormat": "{{host}}",
        "step": "30s",
    }


def _link(name: str) -> Dict[str, Any]:
    return {
        "title": DASHBOARDS[name].title,
        "type": "link",
        "icon": "dashboard",
        "tooltip": "",
        "url": f"/d/trainyard-{name}",
        "tags": [],
        "asDropdown": False,
        "targetBlank": False,
        "includeVars": True,
        "keepTime": True,
    }


def _laid(panels: Sequence[Panel]) -> List[Dict[str, Any]]:
    """Lay panels from the left, row by row."""
    found, x, y = [], 0, 0
    for number, panel in enumerate(panels, start=1):
        if x + panel.width > COLUMNS:
            x, y = 0, y + HEIGHT
        found.append({**_panel(panel), "id": number, "gridPos": {"h": HEIGHT, "w": panel.width, "x": x, "y": y}})
        x += panel.width
    return found


def _panel(panel: Panel) -> Dict[str, Any]:
    legend = " ".join("{{%s}}" % label for label in panel.labels) or panel.title
    target: Dict[str, Any] = {"refId": "A", "datasource": SOURCE, "expr": panel.query, "legendFormat": legend}
    if panel.kind in (NUMBER, ROWS):
        target["instant"] = True
    if panel.kind == ROWS:
        target["format"] = "table"
    if panel.kind == HEAT:
        target["format"] = "heatmap"
    shown = {"unit": panel.unit, "noValue": panel.empty}
    options: Dict[str, Dict[str, Any]] = {HEAT: {"calculate": False}, NUMBER: {"colorMode": "value"}}
    return {
        "type": panel.kind,
        "title": panel.title,
        "datasource": SOURCE,
        "targets": [target],
        "fieldConfig": {"defaults": shown, "overrides": []},
        "options": options.get(panel.kind, {}),
        "transformations": _columns(panel) if panel.kind == ROWS else [],
    }


def _columns(panel: Panel) -> List[Dict[str, Any]]:
    """A table shows what tells its rows apart, and no time."""
    return [{"id": "filterFieldsByName", "options": {"include": {"names": [*panel.labels, "Value"]}}}]
