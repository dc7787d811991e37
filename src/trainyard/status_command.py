# SPDX-License-Identifier: Apache-2.0
"""`trainyard status`: what serves now, what is out and why, what is wrong and what to do next; a screen, or JSON.

What hosts say is read by `playbooks/status.yml`. Load, latencies and alerts are Prometheus', where one is named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trainyard import vault
from trainyard.ansible_run import PlaybookRun, run_playbook
from trainyard.paths import ROOT
from trainyard.plan_command import there_or_exit, use_vault, with_vault_fix

PLAYBOOK = ROOT / "playbooks/status.yml"
#: How long Prometheus may take to answer, seconds.
ANSWER_S = 10.0
#: What is asked of Prometheus, by the word that a replica's row has it under.
FIGURES = {
    "running": "trainyard:running",
    "waiting": "trainyard:waiting",
    "kv_usage_ratio": "trainyard:kv_usage_ratio",
    "tokens_per_s": "trainyard:generation_tokens:rate3m",
    "ttft_s": "trainyard:ttft_s:p50 >= 0",
    "itl_s": "trainyard:itl_s:p50 >= 0",
}


class StatusError(Exception):
    """The fleet's state cannot be told."""


@dataclass(frozen=True)
class Alert:
    """An alert that fires.

    Attributes:
        of: host, and replica where there is one.
        next: what to do.
    """

    name: str
    severity: str
    of: str
    summary: str
    next: str


@dataclass
class ReplicaRow:
    """A replica that is switched on; figures are those of `FIGURES` that Prometheus has.

    Attributes:
        out: why it is out of rotation, empty where it is in it.
        wanted: the release that a start would take.
    """

    host: str
    name: str
    active: str
    release: str
    wanted: str
    out: str
    load_s: float | None
    figures: dict[str, float] = field(default_factory=dict)


@dataclass
class Status:
    """What there is to say of a fleet.

    Attributes:
        silent: hosts that did not answer.
        held: who keeps others from changing a host, by host.
        blocks: capacity blocks of the hosts.
        next: what to do, the gravest first.
    """

    replicas: list[ReplicaRow]
    silent: list[str]
    held: dict[str, str]
    blocks: list[dict[str, Any]]
    alerts: list[Alert]
    next: list[str]

    @property
    def calm(self) -> bool:
        """Whether nobody has to do anything now."""
        pages = [alert for alert in self.alerts if alert.severity == "page"]
        return not (self.silent or pages or any(row.out for row in self.replicas))


def status_of(run: PlaybookRun, alerts: Sequence[Alert], figures: Mapping[tuple[str, str], dict[str, float]]) -> Status:
    """Put together what hosts and Prometheus said.

    Args:
        run: of the playbook.
        alerts: those that fire.
        figures: of each replica, by host and name.

    Raises:
        StatusError: the playbook did not come to its end.
    """
    told: Mapping[str, Any] | None = None
    hosts: dict[str, Mapping[str, Any]] = {}
    for one in run.results:
        if one.action == "trainyard.neuron.replica_info" and not one.failed:
            hosts[one.host] = one.result
        if one.action == "trainyard.neuron.roll_plan" and not one.failed:
            told = one.result
    if told is None:
        raise StatusError(with_vault_fix(run.why_not()) or "the playbook said nothing of the fleet")
    rows = []
    for host, answer in sorted(hosts.items()):
        for name, seen in sorted(answer["replicas"].items()):
            if not seen["current"] and not seen["running"]:
                continue  # staged, and nothing points at it
            out = str(told["out"].get(f"{host}:{name}", ""))
            figured = dict(figures.get((host, name), {}))
            now = (seen["active"], seen["running"], seen["current"])
            rows.append(ReplicaRow(host, name, *now, out, seen["load_s"], figured))
    held = {host: str(answer["held"]) for host, answer in sorted(hosts.items()) if answer.get("held")}
    silent = sorted({*told.get("silent", ()), *run.unreachable})
    return Status(rows, silent, held, list(told.get("blocks", ())), list(alerts), _next(rows, silent, alerts))


def _next(rows: Sequence[ReplicaRow], silent: Sequence[str], alerts: Sequence[Alert]) -> list[str]:
    """What to do: for what wakes a person, then for hosts and replicas that are missing, then for the rest."""
    found = [f"{alert.name} ({alert.of}): {alert.next}" for alert in alerts if alert.severity == "page"]
    if silent:
        found.append(f"{', '.join(silent)} did not answer: is it up, and does SSH reach it?")
    out = [f"{row.host}:{row.name}" for row in rows if row.out]
    if out:
        found.append(
            f"{', '.join(out)}: what a roll left, playbooks/redeploy.yml goes on with; else playbooks/serve.yml"
        )
    return found + [f"{alert.name} ({alert.of}): {alert.next}" for alert in alerts if alert.severity == "warn"]


def watched(url: str) -> tuple[list[Alert], dict[tuple[str, str], dict[str, float]]]:
    """Return the alerts that fire, the gravest first, and the figures of replicas, by host and name.

    Args:
        url: where Prometheus answers.

    Raises:
        StatusError: it does not.
    """
    import httpx

    figures: dict[tuple[str, str], dict[str, float]] = {}
    try:
        with httpx.Client(base_url=url, timeout=ANSWER_S) as client:
            fires = client.get("/api/v1/alerts").raise_for_status().json()["data"]["alerts"]
            for word, query in FIGURES.items():
                answer = client.get("/api/v1/query", params={"query": query}).raise_for_status().json()
                for row in answer["data"]["result"]:
                    key = (row["metric"].get("host", ""), row["metric"].get("replica", ""))
                    figures.setdefault(key, {})[word] = float(row["value"][1])
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        way = "`ssh -L 9090:127.0.0.1:9090 HOST` brings that of a monitor here"
        raise StatusError(f"Prometheus does not answer at {url}: {why}. {way}") from error
    order = ("page", "warn", "info")
    alerts = [_alert(row) for row in fires if row.get("state") == "firing" and row["labels"].get("severity") in order]
    return sorted(alerts, key=lambda alert: (order.index(alert.severity), alert.name, alert.of)), figures


def _alert(row: Mapping[str, Any]) -> Alert:
    labels, said = row["labels"], row.get("annotations", {})
    whom = labels.get("replica") or labels.get("runtime_tag") or labels.get("deployment")
    of = " ".join(word for word in (labels.get("host"), whom) if word) or "the fleet"
    return Alert(labels["alertname"], labels["severity"], of, said.get("summary", ""), said.get("do", ""))


def table_of(found: Status) -> Table:
    """Return the replicas as a table; columns of Prometheus' figures only where it has any."""
    known = [word for word in FIGURES if any(word in row.figures for row in found.replicas)]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("HOST", "REPLICA", "UNIT", "RELEASE", "ROTATION", *(word.upper() for word in known)):
        table.add_column(heading, overflow="fold")
    for row in found.replicas:
        drift = f" (wanted {row.wanted})" if row.release and row.release != row.wanted else ""
        rotation = f"[red]out: {escape(row.out)}[/]" if row.out else "in"
        numbers = [f"{row.figures[word]:.3g}" if word in row.figures else "-" for word in known]
        table.add_row(row.host, row.name, escape(row.active), (row.release or "none") + drift, rotation, *numbers)
    return table


def show_status(found: Status, console: Console) -> None:
    """Print a fleet's state for people."""
    console.print(table_of(found))
    serving = sum(not row.out for row in found.replicas)
    console.print(f"\n{serving} of {len(found.replicas)} replicas are in rotation.")
    for host, words in found.held.items():
        console.print(f"{host}: held by {escape(words)}")
    for alert in found.alerts:
        colour = {"page": "red", "warn": "yellow"}.get(alert.severity, "dim")
        console.print(f"[{colour}]{alert.severity}[/] {alert.name}: {escape(alert.summary)}")
    for line in found.next:
        console.print(f"Next: {escape(line)}")


def status(
    inventory: Annotated[list[str], typer.Option("--inventory", "-i", help="Inventory file, directory or script.")],
    prometheus: Annotated[
        str, typer.Option(help="Address of the fleet's Prometheus, for load, latencies and alerts.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="For programs: everything, as JSON.")] = False,
    vault_id: vault.VaultIds = None,
    vault_password_file: vault.VaultFiles = None,
    ask_vault_pass: vault.AskVault = False,
) -> None:
    """Say what serves, what is out and why, what is wrong, and what to do next; exit code 1 where that is something."""
    use_vault(vault_id, vault_password_file, ask_vault_pass)
    there_or_exit(inventory)
    try:
        alerts, figures = watched(prometheus) if prometheus else ([], {})
        found = status_of(run_playbook(PLAYBOOK, inventory, {}), alerts, figures)
    except StatusError as error:
        typer.echo(f"The state of the fleet cannot be told: {error}", err=True)
        raise typer.Exit(2) from error
    if as_json:
        typer.echo(json.dumps({**asdict(found), "calm": found.calm}, indent=2))
    else:
        show_status(found, Console(highlight=False))
    raise typer.Exit(0 if found.calm else 1)
