# SPDX-License-Identifier: Apache-2.0
"""`trainyard blocks`: capacity blocks that are for sale and that are owned. Buys nothing."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity import (
    asking,
    block_end,
    blocks,
    offers,
    refusals,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.reading import ReportError, load
from rich.console import Console
from rich.table import Table

from trainyard.paths import called  # makes the collection importable

#: States of blocks that are over; shown with --all only.
_PAST = frozenset(blocks.ENDED)


class BlocksError(Exception):
    """It could not be looked; one line."""


def measured(path: Path) -> tuple[float, str]:
    """Output tokens a second that each host gave in a benchmark, and where that figure comes from.

    Args:
        path: a `report.json`.

    Raises:
        BlocksError: it is no report, or has no throughput.
    """
    try:
        report = load(path)
    except ReportError as error:
        raise BlocksError(str(error)) from error
    rate = report.results.throughput.output_tokens_per_s_per_host
    if not math.isfinite(rate) or rate <= 0:
        raise BlocksError(f"{path} has no throughput")
    return rate, report.provenance


def usd_per_million_tokens(price_per_host_hour: float, tokens_per_host: float) -> float:
    """Price of a million output tokens at a throughput.

    Args:
        price_per_host_hour: USD.
        tokens_per_host: output tokens a second of one host.
    """
    return price_per_host_hour / (tokens_per_host * 3600) * 1e6


def look(region: str | None, wish: offers.Wish | None) -> dict[str, Any]:
    """What is for sale and what is owned, from EC2.

    Raises:
        BlocksError: EC2 cannot be asked, or refuses.
    """
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client = boto3.client("ec2", region_name=region)
        found, unreadable = blocks.offers(client, wish) if wish else ([], [])
        return {
            "offers": offers.ranked(found, wish.budget if wish else None),
            "unreadable": unreadable,
            "blocks": blocks.owned(client),
            "found": len(found),
            "region": client.meta.region_name,
        }
    except ClientError as error:
        said = error.response.get("Error", {})
        doing = "looking for capacity blocks"
        raise BlocksError(refusals.explain(said.get("Code", ""), said.get("Message", ""), doing)) from error
    except BotoCoreError as error:
        raise BlocksError(f"EC2 could not be asked: {error}") from error
    except blocks.BlockError as error:
        raise BlocksError(str(error)) from error


def _owned_table(rows: list[blocks.Block], now: datetime) -> Table:
    table = Table(title="Owned", title_justify="left")
    for name in ("block", "intent", "hosts", "zone", "state", "end (UTC)", "left", "now"):
        table.add_column(name)
    for block in rows:
        phase = block_end.phase(now, block.start, block.end)
        left = block_end.countdown((block.end - now).total_seconds())
        hosts = f"{block.instance_count} x {block.instance_type} ({block.free_count} free)"
        cells = (block.id, block.intent, hosts, block.zone, block.state, offers.iso(block.end), left, phase.says)
        table.add_row(*cells)
    return table


def _offer_table(rows: list[offers.Offer], throughput: tuple[float, str] | None) -> Table:
    table = Table(title="For sale", title_justify="left")
    names = ["offer", "zone", "start (UTC)", "end (UTC)", "host-hours", "fee", "a host-hour"]
    for name in names + ([f"a million tokens ({throughput[1]})"] if throughput else []):
        table.add_column(name)
    for offer in rows:
        cells = [offer.id, ", ".join(offer.zones), offers.iso(offer.start), offers.iso(offer.end)]
        cells += [f"{offer.host_hours:g}", f"{offer.fee} {offer.currency}", f"{offer.price_per_host_hour}"]
        if throughput:
            cells.append(f"{usd_per_million_tokens(float(offer.price_per_host_hour), throughput[0]):.2f}")
        table.add_row(*cells)
    return table


def show(
    found: dict[str, Any], console: Console, *, past: bool, throughput: tuple[float, str] | None, searched: bool
) -> None:
    """Print what was found, for people."""
    now = datetime.now(UTC)
    kept = [block for block in found["blocks"] if past or block.state not in _PAST]
    console.print(_owned_table(kept, now) if kept else f"No capacity block is owned in {found['region']}.")
    if not searched:
        return
    if found["offers"]:
        console.print(_offer_table(found["offers"], throughput))
        console.print(f"Nothing was bought. To buy one: {called('launch')}, with its id and its fee (docs/blocks.md).")
    elif found["found"]:
        console.print(f"{found['found']} offers, each over the budget.")
    else:
        console.print("Nothing that meets these words is for sale: other hours, fewer hosts or another region may be.")
    for line in found["unreadable"]:
        console.print(f"Left out: {line}")


def blocks_command(
    instance_type: Annotated[str | None, typer.Option("--type", help="Search: instance type of the hosts.")] = None,
    count: Annotated[int, typer.Option(help="Search: how many hosts.")] = 1,
    hours: Annotated[int | None, typer.Option(help="Search: how long, in hours; whole days, then whole weeks.")] = None,
    start: Annotated[str | None, typer.Option(help="Search: ISO time before which none may begin.")] = None,
    end: Annotated[str | None, typer.Option(help="Search: ISO time after which none may end.")] = None,
    budget: Annotated[str | None, typer.Option(help="Search: the most that may be paid in all.")] = None,
    region: Annotated[str | None, typer.Option(help="AWS region; boto3's own where none is given.")] = None,
    report: Annotated[Path | None, typer.Option(help="A benchmark's report.json: adds a price of tokens.")] = None,
    past: Annotated[bool, typer.Option("--all", help="Show blocks that are over, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show capacity blocks: what is owned and how long it lasts, and what is for sale. Buys nothing."""
    try:
        asked = {"instance_type": instance_type, "instance_count": count, "hours": hours, "budget": budget}
        times = {"earliest_start": start, "latest_end": end}
        wish = asking.wish_of({**asked, **times}) if instance_type or hours else None
        throughput = measured(report) if report else None
        found = look(region, wish)
    except (BlocksError, offers.OfferError) as error:
        typer.secho(f"trainyard blocks: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
    if as_json:
        rows = {name: [row.as_dict() for row in found[name]] for name in ("blocks", "offers")}
        typer.echo(json.dumps({**rows, "unreadable": found["unreadable"], "region": found["region"]}, indent=1))
        return
    console = Console(highlight=False)
    show(found, console, past=past, throughput=throughput, searched=wish is not None)
