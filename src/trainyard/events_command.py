# SPDX-License-Identifier: Apache-2.0
"""`trainyard events`: what happened to a fleet, from the history beside its inventory: rolls, healing, who ran what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trainyard import vault
from trainyard.plan_command import InventoryError, open_inventory, refuse, there_or_exit, use_vault

from ansible_collections.trainyard.neuron.plugins.plugin_utils import history  # isort: skip

COLOURS = {"failed": "red", "told": "red", "begun": "yellow", "would": "dim", "done": "green"}


def history_of(inventory: Sequence[str]) -> list[dict[str, Any]]:
    """The events of the fleet of an inventory, the oldest first.

    Raises:
        InventoryError, HistoryError: the one or the other cannot be read.
    """
    _, hostvars = open_inventory(tuple(inventory))
    given = next((hostvars[name].get(history.VARIABLE) for name in hostvars), None)
    return history.read(history.path_of({history.VARIABLE: given, "ansible_inventory_sources": list(inventory)}))


def about(event: Mapping[str, Any], word: str) -> bool:
    """Whether an event is about a host, a deployment, a replica, or somebody who ran it."""
    named = [event.get(key) for key in ("host", "replica", "who", "run", "what", "alert")]
    lists = [one for key in ("replicas", "deployments", "hosts") for one in event.get(key) or ()]
    return any(word in str(one) for one in (*named, *lists) if one)


def table_of(events: Sequence[Mapping[str, Any]]) -> Table:
    """Events as a table."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("WHEN (UTC)", "WHAT", "STATE", "ABOUT", "WHO", "WHY"):
        table.add_column(heading, overflow="fold")
    for event in events:
        when = datetime.fromtimestamp(float(event["at_s"]), UTC).strftime("%Y-%m-%d %H:%M:%S")
        state = str(event.get("state", ""))
        what = str(event.get("action") or event["what"]).replace("_", " ")
        of = ", ".join(str(one) for one in event.get("replicas") or event.get("hosts") or ()) or subject_of(event)
        cells = (when, what, f"[{COLOURS.get(state, 'default')}]{escape(state)}[/]", escape(of))
        table.add_row(*cells, escape(str(event.get("who", ""))), escape(str(event.get("why", ""))))
    return table


def subject_of(event: Mapping[str, Any]) -> str:
    """What an event of no replica is about."""
    host, device = str(event.get("host") or ""), event.get("device")
    return f"{host}:device {device}" if device is not None else ":".join(filter(None, (host, event.get("replica"))))


def events(
    inventory: Annotated[list[str], typer.Option("--inventory", "-i", help="Inventory file, directory or script.")],
    of: Annotated[str, typer.Option(help="Only of this host, replica, deployment, alert, run or person.")] = "",
    last: Annotated[int, typer.Option(min=1, help="How many.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: everything, as JSON.")] = False,
    vault_id: vault.VaultIds = None,
    vault_password_file: vault.VaultFiles = None,
    ask_vault_pass: vault.AskVault = False,
) -> None:
    """Show what happened to a fleet: rolls and healing, what came of them, and who ran them."""
    use_vault(vault_id, vault_password_file, ask_vault_pass)
    there_or_exit(inventory)
    try:
        found = [event for event in history_of(inventory) if not of or about(event, of)][-last:]
    except (InventoryError, history.HistoryError) as error:
        raise refuse(str(error)) from error
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    elif found:
        Console(highlight=False).print(table_of(found))
    else:
        typer.echo("Nothing is written down of this fleet: no roll and no healing ran from here.")
