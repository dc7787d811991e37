# SPDX-License-Identifier: Apache-2.0
"""Pages of a fleet that Prometheus itself shows (its console templates), so that nobody needs a Grafana to look at one.

A page is tables: a query gives the rows, further ones, by a row's labels, the cells. Prometheus escapes what it fills
in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Dict, List, Tuple
from urllib.parse import quote

from ansible_collections.trainyard.neuron.plugins.plugin_utils.watch import dashboards
from ansible_collections.trainyard.neuron.plugins.plugin_utils.watch.rules import RUNBOOKS

REFRESH_S = 15
#: Formats of a value: functions of Prometheus' templates.
PLAIN, DURATION, SHARE = "humanize", "humanizeDuration", "humanizePercentage"

REPLICA = ("host", "deployment", "replica")
HOST = ("host",)


@dataclass(frozen=True)
class Label:
    """A column with what the row's query says in a label.

    Attributes:
        heading: what stands above it.
        name: the label.
    """

    heading: str
    name: str


@dataclass(frozen=True)
class Cell:
    """A column with a query of its own for each row.

    Attributes:
        heading: what stands above it; it leads to the query's graph.
        query: PromQL; SELECT stands for the row's labels, as `name="value"`.
        form: how its value is written; empty where a label is shown in its place.
        label: that label.
    """

    heading: str
    query: str
    form: str = PLAIN
    label: str = ""


@dataclass(frozen=True)
class Value:
    """A column with the value of the row's own query.

    Attributes:
        heading: what stands above it.
        form: how it is written.
    """

    heading: str
    form: str = PLAIN


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes:
        title: what stands above it.
        rows: a query; each of its series is a row.
        by: labels of a row by which its cells are asked.
        columns: from the left.
        empty: what is said where there is no row.
    """

    title: str
    rows: str
    by: Tuple[str, ...]
    columns: Tuple[Label | Cell | Value, ...]
    empty: str


def _p50(name: str) -> Cell:
    heading = {"ttft_s": "first token", "itl_s": "next token"}[name]
    return Cell(heading, f"trainyard:{name}:p50{{SELECT}} >= 0", DURATION)


ALERTS = Table(
    "Alerts",
    'ALERTS{alertstate="firing",alertname!="Watching"}',
    (),
    (
        Label("severity", "severity"),
        Label("alert", "alertname"),
        Label("host", "host"),
        Label("deployment", "deployment"),
        Label("replica", "replica"),
        Label("device", "device"),
    ),
    "Nothing is wrong.",
)
REPLICAS = Table(
    "Replicas",
    "sort_desc(trainyard_replica_info)",
    REPLICA,
    (
        Label("deployment", "deployment"),
        Label("replica", "replica"),
        Label("host", "host"),
        Cell("state", "trainyard_replica_state{SELECT} == 1", "", "state"),
        Cell("phase", "trainyard_replica_phase{SELECT} == 1", "", "phase"),
        Cell("running", "trainyard:running{SELECT}"),
        Cell("waiting", "trainyard:waiting{SELECT}"),
        Cell("KV cache", "trainyard:kv_usage_ratio{SELECT}", SHARE),
        Cell("tokens/s", "trainyard:generation_tokens:rate3m{SELECT}"),
        _p50("ttft_s"),
        _p50("itl_s"),
        Cell("last start", "trainyard_replica_start_seconds{SELECT}", DURATION),
        Cell("restarts", "trainyard_replica_restarts_total{SELECT}"),
        Label("cores", "cores"),
        Label("release", "release"),
        Label("SDK", "sdk"),
    ),
    "No host says that it has a replica.",
)
ROUTERS = Table(
    "Routers",
    'up{job="trainyard-routers"}',
    HOST,
    (
        Label("host", "host"),
        Cell("answers", 'up{job="trainyard-routers",SELECT}'),
        Cell("requests/s", 'sum(rate(haproxy_frontend_http_responses_total{proxy="openai",SELECT}[5m]))'),
        Cell("errors", "trainyard:router_errors:ratio_rate5m{SELECT} >= 0", SHARE),
        Cell("queued", "sum(haproxy_backend_current_queue{SELECT})"),
    ),
    "No router is watched.",
)
HOSTS = Table(
    "Hosts and devices",
    'up{job="trainyard-hosts"}',
    HOST,
    (
        Label("host", "host"),
        Cell("answers", 'up{job="trainyard-hosts",SELECT}'),
        Cell("devices", "trainyard_neuron_devices{SELECT}"),
        Cell("memory errors", 'sum(trainyard_neuron_ecc_events_total{kind=~".*uncorrected",SELECT})'),
        Cell("hardware errors", "sum(trainyard_neuron_hw_errors_total{SELECT})"),
        Cell("failed resets", "sum(trainyard_neuron_reset_failures_total{SELECT})"),
        Cell("lock", "trainyard_lock_held{SELECT} == 1", "", "verb"),
        Cell("fence closed", "trainyard_fence_closed{SELECT}"),
        Cell("disk", "max(trainyard_filesystem_used_ratio{SELECT})", SHARE),
        Cell("block ends in", "trainyard_capacity_block_end_timestamp_seconds{SELECT} - time()", DURATION),
    ),
    "No host is watched.",
)
_FORMS = {dashboards.SECONDS: DURATION, dashboards.SHARE: SHARE}


def _of_panels(name: str) -> Tuple[str, Sequence[Table]]:
    """A page of a dashboard's panels: what is now, and a way to the graph of each. A heat map has no such row."""
    found = dashboards.DASHBOARDS[name]
    return found.title, tuple(
        Table(
            panel.title,
            dashboards.of_all(panel.query),
            (),
            (*(Label(label, label) for label in panel.labels), Value("now", _FORMS.get(panel.unit, PLAIN))),
            f"{panel.empty}.",
        )
        for panel in found.panels
        if panel.kind != dashboards.HEAT
    )


PAGES: Dict[str, Tuple[str, Sequence[Table]]] = {
    "fleet": ("Fleet", (ALERTS, REPLICAS, ROUTERS, HOSTS)),
    **{name: _of_panels(name) for name in dashboards.DASHBOARDS if name != "fleet"},
}

_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:1500px;padding:0 1rem 3rem}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin:1.6rem 0 .4rem}
div{overflow-x:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #8886;white-space:nowrap}
th{font-weight:600}a{color:inherit}p{opacity:.75}
tr.page td:first-child{font-weight:700;color:#c22}
@media (prefers-color-scheme:dark){tr.page td:first-child{color:#f77}}
"""


def pages() -> Dict[str, str]:
    """Return each page by the name of its file, as Prometheus' console templates."""
    return {f"{name}.html": _page(title, tables) for name, (title, tables) in PAGES.items()}


def queries() -> List[str]:
    """Return every query of every page, with no row's labels in it."""
    found = []
    for _title, tables in PAGES.values():
        for table in tables:
            found.append(table.rows)
            found += [_of_all(cell.query) for cell in table.columns if isinstance(cell, Cell)]
    return found


def _of_all(query: str) -> str:
    return query.replace(",SELECT", "").replace("{SELECT}", "")


def _page(title: str, tables: Sequence[Table]) -> str:
    body = "\n".join(line for table in tables for line in _table(table))
    others = ", ".join(f'<a href="{name}.html">{other}</a>' for name, (other, _) in PAGES.items() if other != title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="refresh" content="{REFRESH_S}">\n<style>{_STYLE}</style></head><body>\n'
        f"<h1>{title}</h1>\n<p>Renewed every {REFRESH_S} s. Headings lead to graphs, alerts to what to do. "
        f'{others}, <a href="../alerts">all rules</a>, <a href="../targets">all targets</a>.</p>\n'
        f"{body}\n</body></html>\n"
    )


def _table(table: Table) -> Iterator[str]:
    yield f"<h2>{table.title}</h2>"
    yield f"{{{{ with query `{table.rows}` }}}}<div><table><tr>"
    for column in table.columns:
        asked = _of_all(column.query) if isinstance(column, Cell) else table.rows
        link = "" if isinstance(column, Label) else f"../graph?g0.expr={quote(asked)}&amp;g0.tab=0"
        heading = f'<a href="{link}">{column.heading}</a>' if link else column.heading
        yield f"<th>{heading}</th>"
    yield "</tr>"
    order = f' | sortByLabel "{table.by[-1] if table.by else "severity"}"'
    yield f'{{{{ range .{order} }}}}<tr class="{{{{ .Labels.severity }}}}">'
    for column in table.columns:
        if isinstance(column, Value):
            yield f"<td>{{{{ .Value | {column.form} }}}}</td>"
        else:
            yield _label(column) if isinstance(column, Label) else _cell(column, table.by)
    yield "</tr>{{ end }}</table></div>"
    yield f"{{{{ else }}}}<p>{table.empty}</p>{{{{ end }}}}"


def _label(column: Label) -> str:
    said = f"{{{{ .Labels.{column.name} }}}}"
    if column.name == "alertname":
        # Anchors of the page are in small letters.
        return f'<td><a href="{RUNBOOKS}#{{{{ toLower .Labels.alertname }}}}">{said}</a></td>'
    return f"<td>{said}</td>"


def _cell(cell: Cell, by: Sequence[str]) -> str:
    # %q quotes a label as PromQL does.
    before, _, after = cell.query.partition("SELECT")
    selected = ",".join(f"{name}=%q" for name in by)
    text = before.replace("%", "%%") + selected + after.replace("%", "%%")
    labels = " ".join(f".Labels.{name}" for name in by)
    shown = f".Labels.{cell.label}" if cell.label else f".Value | {cell.form}"
    asked = f"query (printf `{text}` {labels})"
    value = f"{{{{ with first . }}}}{{{{ {shown} }}}}{{{{ end }}}}"
    return f"<td>{{{{ with {asked} }}}}{value}{{{{ else }}}}-{{{{ end }}}}</td>"
