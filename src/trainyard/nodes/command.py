# SPDX-License-Identifier: Apache-2.0
"""`trainyard provision` and `trainyard compile`: the two stages that need no order, over several execution nodes."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from trainyard import extra_vars as command_line
from trainyard import vault
from trainyard.extra_vars import ExtraVars
from trainyard.paths import absolute
from trainyard.plan_command import plan_or_exit, refuse, use_vault

from trainyard.nodes.cut import Part, waves_of  # isort: skip
from trainyard.nodes.engine import Spread  # isort: skip
from trainyard.nodes.parcel import ParcelError, pack  # isort: skip
from trainyard.nodes.settings import NodesError, read  # isort: skip
from trainyard.nodes.stream import SILENT_S  # isort: skip

Inventory = Annotated[list[str], typer.Option("--inventory", "-i", help="Inventory file, directory or script.")]
NodesFile = Annotated[Path, typer.Option("--nodes", help="YAML file that names the execution nodes.")]
Parts = Annotated[int, typer.Option(min=0, max=1000, help="Parts to cut a stage into; 0 is one for each node.")]
Check = Annotated[bool, typer.Option("--check", help="Say what would happen; change nothing.")]
Silent = Annotated[float, typer.Option(min=20, help="How long a node may give no sign of life, seconds.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print what became of each part as JSON.")]


def provision(
    inventory: Inventory,
    nodes: NodesFile,
    parts: Parts = 0,
    extra_vars: ExtraVars = None,
    check: Check = False,
    silent_s: Silent = SILENT_S,
    as_json: AsJson = False,
    vault_id: vault.VaultIds = None,
    vault_password_file: vault.VaultFiles = None,
    ask_vault_pass: vault.AskVault = False,
) -> None:
    """Make the hosts ready to compile and serve, by several execution nodes side by side."""
    use_vault(vault_id, vault_password_file, ask_vault_pass)
    _spread("provision", inventory, nodes, parts, extra_vars or [], check, silent_s, as_json)


def compile_artifacts(
    inventory: Inventory,
    nodes: NodesFile,
    parts: Parts = 0,
    extra_vars: ExtraVars = None,
    check: Check = False,
    silent_s: Silent = SILENT_S,
    as_json: AsJson = False,
    vault_id: vault.VaultIds = None,
    vault_password_file: vault.VaultFiles = None,
    ask_vault_pass: vault.AskVault = False,
) -> None:
    """Compile each artifact once for the fleet, and bring it to the others, by several execution nodes."""
    use_vault(vault_id, vault_password_file, ask_vault_pass)
    _spread("compile", inventory, nodes, parts, extra_vars or [], check, silent_s, as_json)


def _spread(
    verb: str,
    inventory: Sequence[str],
    nodes: Path,
    parts: int,
    extra_vars: Sequence[str],
    check: bool,
    silent_s: float,
    as_json: bool,
) -> None:
    """Cut the plan of an inventory, and have the nodes do it; exits 1 where a part is not done."""
    from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan import pinned_images

    try:
        known = read(nodes)
        command_line.use(extra_vars)
        variables = command_line.parsed()
    except (NodesError, command_line.ExtraVarsError) as error:
        raise refuse(str(error)) from error
    sources = [absolute(source) for source in inventory]
    plan = plan_or_exit(sources)
    unpinned = pinned_images.missing(plan)
    if unpinned:
        first = next(iter(plan["hosts"]))
        raise refuse(
            f"{', '.join(unpinned)} has no digest yet, and nodes that asked might be told different ones. "
            f"Next: provision one host from here, which keeps it beside the inventory: --limit {first}",
            1,
        )
    waves = waves_of(verb, plan, parts or len(known))
    folder = Path(tempfile.mkdtemp(prefix="trainyard-nodes-"))
    spread = Spread(verb, known, folder, variables, check, lambda line: typer.echo(line, err=as_json), silent_s)
    try:
        pack(folder, sources)
        done = spread.run(waves)
    except ParcelError as error:
        raise refuse(str(error)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if as_json:
        typer.echo(json.dumps(document(spread, waves), indent=2))
    _conclude(spread, waves, done)


def document(spread: Spread, waves: Sequence[Sequence[Part]]) -> dict[str, Any]:
    """Return what became of each part, for programs."""
    tried: dict[int, list[dict[str, Any]]] = {}
    for attempt in spread.attempts:
        row = {"node": attempt.node, "run": attempt.run, "end": attempt.outcome.end, "seconds": attempt.took_s}
        tried.setdefault(attempt.part.number, []).append({**row, "why": list(attempt.outcome.why)})
    return {
        "verb": spread.verb,
        "redone_parts": spread.redone(),
        "parts": [
            {"part": part.number, "wave": wave, "hosts": list(part.hosts), "attempts": tried.get(part.number, [])}
            for wave, parts in enumerate(waves, 1)
            for part in parts
        ],
    }


def _conclude(spread: Spread, waves: Sequence[Sequence[Part]], done: bool) -> None:
    hosts = sum(len(part.hosts) for wave in waves for part in wave)
    if done:
        typer.echo(f"{spread.verb}: {hosts} hosts in {sum(map(len, waves))} parts are done.", err=True)
        return
    finished = {attempt.part.number for attempt in spread.attempts if attempt.outcome.end == "done"}
    open_parts = [part for wave in waves for part in wave if part.number not in finished]
    names = ", ".join(str(part.number) for part in open_parts)
    typer.echo(f"{spread.verb}: parts {names} of {sum(map(len, waves))} are not done.", err=True)
    for attempt in spread.left():
        typer.echo(
            f"Hosts of part {attempt.part.number} may still be locked by its run, for two hours at most; the next "
            f"run takes that over with -e trainyard_take_over={attempt.run}",
            err=True,
        )
    typer.echo(
        "Next: mend the cause, then give the same command again; hosts that are done have nothing to do.", err=True
    )
    raise typer.Exit(1)
