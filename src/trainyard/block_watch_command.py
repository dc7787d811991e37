# SPDX-License-Identifier: Apache-2.0
"""`trainyard block-watch`: one look at the clock of the hosts' capacity blocks, and what is due. A timer calls it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.offers import iso
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
from ansible_collections.trainyard.neuron.plugins.plugin_utils import block_times, block_watch, ec2_events
from ansible_collections.trainyard.neuron.plugins.plugin_utils.ec2_blocks import AskError

from trainyard.paths import ROOT, absolute, playbook
from trainyard.plan_command import InventoryError, open_inventory, read_fleet, use_vault
from trainyard.written import begins_with, write_or_exit

EVACUATE = playbook("evacuate")


def memory_of(inventory: Sequence[str]) -> Path:
    """Where the watch over an inventory remembers: beside it, as `status.yml` looks for it."""
    source = Path(absolute(inventory[0]))
    return (source if source.is_dir() else source.parent) / block_watch.NAME


def look(
    path: Path,
    read: Callable[[], Mapping[str, Any]],
    evacuate: Callable[[block_times.Block], bool],
    tell: Callable[[str], None],
    clock: Callable[[], datetime] = block_times.now_utc,
) -> block_watch.Memory:
    """Look once: see the blocks, tell what is to be told, evacuate what has to leave, and remember.

    Args:
        path: where it remembers.
        read: the planner's input, with the hosts' variables. Where that fails, what was known before holds.
        evacuate: takes a block's hosts out of service; returns whether that came to a good end.
        tell: is given words for a person.
        clock: this moment.

    Returns:
        What is remembered now.
    """
    try:
        memory = block_watch.read(path) or block_watch.Memory()
    except block_watch.BrokenMemoryError as error:
        # It must not keep hosts from leaving. At worst something is told, or drained, twice.
        tell(str(error))
        memory = block_watch.Memory()
    try:
        hosts = read()["hosts"]
        blocks = block_times.blocks_of(hosts, sorted(hosts))
        memory.see(blocks)
        memory.problem = ""
    except (InventoryError, PlanError, block_times.EndError, typer.Exit) as error:
        blocks = memory.known()
        memory.problem = " ".join(str(error).split()) or "the inventory cannot be read"
    found = block_watch.due(blocks, memory, clock())
    for words in found.tell:
        tell(words)
    memory.looked_at = clock().timestamp()
    # On disk before what may take long: a watch that is killed then has looked.
    block_watch.write(path, memory)
    for block in found.evacuate:
        done = evacuate(block)
        block_watch.note(memory, block, clock(), done)
        tell(f"{block_times.named(block.hosts)}: {'evacuated' if done else 'the evacuation failed; it is tried again'}")
        memory.looked_at = clock().timestamp()
        block_watch.write(path, memory)
    return memory


def scheduled(sources: Sequence[str]) -> list[ec2_events.Event]:
    """What EC2 has scheduled for the instances of an inventory; nothing where it cannot be asked, which is said.

    It must not keep hosts from leaving, so a look goes on without it.
    """
    try:
        inventory, variables = open_inventory(tuple(sources))
        hosts = [host.name for host in inventory.get_hosts("neuron:router")]
        return ec2_events.ask(ec2_events.instances_of({name: variables[name] for name in hosts}))
    except (InventoryError, AskError) as error:
        typer.echo(f"trainyard block-watch: {error}", err=True)
        return []


def document(
    memory: block_watch.Memory,
    blocks: Sequence[block_times.Block],
    events: Sequence[ec2_events.Event],
    told: Sequence[str],
    now: datetime,
) -> dict[str, Any]:
    """Return what a look saw, for programs."""
    return {
        "blocks": [
            {
                "hosts": list(block.hosts),
                "end": iso(block.end),
                "left_s": (block.end - now).total_seconds(),
                "evacuated": bool(memory.left.get(iso(block.end), {}).get("done")),
            }
            for block in blocks
        ],
        "events": [{**asdict(event), "at": iso(event.at)} for event in events],
        "told": list(told),
        "problem": memory.problem,
    }


def watch(
    inventory: Annotated[list[str], typer.Option("--inventory", "-i", help="Inventory file, directory or script.")],
    metrics: Annotated[Path | None, typer.Option(help="Write the countdown there, for a textfile collector.")] = None,
    tell: Annotated[str | None, typer.Option(help="Program that is given what is to be told as its argument.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what is known as JSON.")] = False,
) -> None:
    """Look once at the end of the hosts' capacity blocks: tell the last chance to extend, evacuate in time."""
    use_vault(None, None, False)
    sources = [absolute(source) for source in inventory]
    told: list[str] = []

    def evacuate(block: block_times.Block) -> bool:
        variables = json.dumps({"trainyard_only": ",".join(block.hosts)})
        argv = ["ansible-playbook", str(EVACUATE), *(word for one in sources for word in ("--inventory", one))]
        done = subprocess.run([*argv, "--extra-vars", variables], cwd=ROOT, env={**os.environ}, check=False)
        return done.returncode == 0

    def say(words: str) -> None:
        told.append(words)
        typer.echo(words, err=as_json)
        if tell:
            try:
                subprocess.run([tell, words], check=False, timeout=30)
            except (OSError, subprocess.TimeoutExpired) as error:
                typer.echo(f"{tell}: {error}", err=True)

    path = memory_of(sources)
    memory = look(path, lambda: read_fleet(sources, "neuron", "router"), evacuate, say)
    # After those who have to leave, who have little time.
    events = scheduled(sources)
    for words in block_watch.untold(events, memory):
        say(words)
    block_watch.write(path, memory)
    now = block_times.now_utc()
    blocks = memory.known()
    for block in blocks:
        typer.echo(block.line(now), err=as_json)
    if as_json:
        typer.echo(json.dumps(document(memory, blocks, events, told, now), indent=2))
    if memory.problem:
        typer.echo(f"trainyard block-watch: {memory.problem}", err=True)
    if metrics:
        write_or_exit(metrics, block_watch.metrics(memory, blocks, now, events), begins_with("# TYPE trainyard_"))
    if memory.problem:
        raise typer.Exit(1)
