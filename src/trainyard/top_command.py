# SPDX-License-Identifier: Apache-2.0
"""`trainyard top`: load, latencies and alerts of every replica, live, from the fleet's Prometheus; it asks no host."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from trainyard.status_command import ANSWER_S, FIGURES, Alert, StatusError, watched

#: Rows of a screen: the replicas that hosts say they have, and the state of each.
INFO, STATE = "trainyard_replica_info", "trainyard_replica_state == 1"
Figures = Mapping[tuple[str, str], Mapping[str, float]]


def replicas_of(url: str) -> list[dict[str, str]]:
    """Host, name, deployment, release and state of each replica, by deployment.

    Args:
        url: where Prometheus answers.

    Raises:
        StatusError: it does not.
    """
    import httpx

    try:
        with httpx.Client(base_url=url, timeout=ANSWER_S) as client:
            rows, states = (
                client.get("/api/v1/query", params={"query": query}).raise_for_status().json()["data"]["result"]
                for query in (INFO, STATE)
            )
            state = {(row["metric"]["host"], row["metric"]["replica"]): row["metric"]["state"] for row in states}
            found = [
                {
                    **{word: str(row["metric"].get(word, "")) for word in ("host", "replica", "deployment", "release")},
                    "state": state.get((row["metric"]["host"], row["metric"]["replica"]), "unknown"),
                }
                for row in rows
            ]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise StatusError(f"Prometheus does not answer at {url}: {' '.join(str(error).split())}") from error
    return sorted(found, key=lambda row: (row["deployment"], row["host"], row["replica"]))


def screen(rows: Sequence[Mapping[str, str]], figures: Figures, alerts: Sequence[Alert]) -> Group:
    """What is shown: a row for each replica, a sum for each deployment, then what is wrong and what to do."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("HOST", "REPLICA", "UNIT", "RELEASE", *(word.upper() for word in FIGURES)):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        mine = figures.get((row["host"], row["replica"]), {})
        colour = {"active": "default", "activating": "yellow"}.get(row["state"], "red")
        numbers = [f"{mine[word]:.3g}" if word in mine else "-" for word in FIGURES]
        cells = (row["host"], row["replica"], f"[{colour}]{escape(row['state'])}[/]", row["release"])
        table.add_row(*cells, *numbers)
    lines: list[Any] = [table, Text()]
    names = dict.fromkeys(row["deployment"] for row in rows)
    lines += [Text(total(name, [row for row in rows if row["deployment"] == name], figures)) for name in names]
    for alert in alerts:
        colour = {"page": "red", "warn": "yellow"}.get(alert.severity, "dim")
        said = f"[{colour}]{alert.severity}[/] {alert.name} ({escape(alert.of)}): {escape(alert.summary)}"
        lines.append(Text.from_markup(said))
        lines += [Text(f"     next: {alert.next}", style="dim")] if alert.severity == "page" else []
    return Group(*lines)


def total(name: str, rows: Sequence[Mapping[str, str]], figures: Figures) -> str:
    """A deployment in one line."""
    mine = [figures.get((row["host"], row["replica"]), {}) for row in rows]
    active = sum(row["state"] == "active" for row in rows)
    running, waiting, tokens = (
        sum(one.get(word, 0.0) for one in mine) for word in ("running", "waiting", "tokens_per_s")
    )
    load = f"{running:.0f} requests run, {waiting:.0f} wait, {tokens:.0f} tokens/s"
    return f"{name}: {active} of {len(rows)} replicas are up; {load}"


def top(
    prometheus: Annotated[str, typer.Option(help="Address of the fleet's Prometheus.")] = "http://127.0.0.1:9090",
    every: Annotated[float, typer.Option(min=1, help="How often it looks, in seconds.")] = 5.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Look once, and print it as JSON.")] = False,
) -> None:
    """Show load, latencies and alerts of every replica, live, until Ctrl-C."""

    def look() -> Group:
        alerts, figures = watched(prometheus)
        return screen(replicas_of(prometheus), figures, alerts)

    console = Console(highlight=False)
    try:
        if as_json:
            alerts, figures = watched(prometheus)
            found = replicas_of(prometheus)
            rows = [{**row, "figures": figures.get((row["host"], row["replica"]), {})} for row in found]
            typer.echo(json.dumps({"replicas": rows, "alerts": [asdict(one) for one in alerts]}, indent=2))
            return
        if once:
            console.print(look())
            return
        with Live(look(), console=console, screen=True, auto_refresh=False) as live:
            while True:
                time.sleep(every)
                live.update(look(), refresh=True)
    except KeyboardInterrupt:
        return
    except StatusError as error:
        typer.echo(f"Nothing can be shown: {error}", err=True)
        raise typer.Exit(2) from error
