# SPDX-License-Identifier: Apache-2.0
"""`trainyard logs`: what replicas logged, from every host, in the order of time, with what is known of each line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from trainyard import vault
from trainyard.ansible_run import PlaybookRun, run_playbook
from trainyard.paths import ROOT
from trainyard.plan_command import refuse, there_or_exit, use_vault, with_vault_fix

from ansible_collections.trainyard.neuron.plugins.module_utils.serving import phases  # isort: skip

PLAYBOOK = ROOT / "playbooks/logs.yml"
_OF = re.compile(r"(?P<deployment>[a-z0-9][a-z0-9-]*)(/(?P<replica>[a-z0-9][a-z0-9-]*))?")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Line:
    """A line of a replica's log.

    Attributes:
        at_s: seconds since 1970.
        kind: what the classifier says that it calls for: `fix`, `retry` or `replace`; empty where it knows nothing.
        cause: in one sentence.
        next: what to do.
    """

    at_s: float
    host: str
    replica: str
    text: str
    kind: str = ""
    cause: str = ""
    next: str = ""


def lines_of(run: PlaybookRun) -> list[Line]:
    """The lines that hosts gave, in the order of time, with the classifier's marks."""
    found = [
        line
        for one in run.results
        if not one.failed and isinstance(one.result.get("stdout"), str)
        for line in _parsed(one.host, one.result["stdout"].splitlines())
    ]
    return sorted(found, key=lambda line: (line.at_s, line.host, line.replica))


def _parsed(host: str, rows: Sequence[str]) -> Iterator[Line]:
    for row in rows:
        try:
            raw: Mapping[str, Any] = json.loads(row)
            at_s = int(raw["__REALTIME_TIMESTAMP"]) / 1e6
            unit, said = str(raw.get("_SYSTEMD_UNIT") or raw.get("UNIT") or ""), raw.get("MESSAGE")
        except (ValueError, KeyError, TypeError):
            continue
        if not isinstance(said, str):
            continue  # what is no text the journal gives as bytes
        # systemd tells of a unit in the manager's own name: then UNIT has it.
        if not unit.startswith("vllm@"):
            unit = str(raw.get("UNIT") or unit)
        # A server's clients can make it log what they like: only the runtime's own lines count.
        mark = phases.diagnose([said], served=True)
        marks = (mark.kind, mark.cause, mark.action) if mark else ("", "", "")
        yield Line(at_s, host, unit.partition("@")[2].rpartition(".")[0], _CONTROL.sub("?", said), *marks)


def show_lines(lines: Sequence[Line], console: Console) -> None:
    """Print lines for people; those that the classifier knows with what it says below."""
    for line in lines:
        when = datetime.fromtimestamp(line.at_s, UTC).strftime("%m-%d %H:%M:%S")
        colour = {"replace": "red", "fix": "red", "retry": "yellow"}.get(line.kind, "default")
        said = f"[dim]{when} {escape(line.host)}:{escape(line.replica)}[/] [{colour}]{escape(line.text)}[/]"
        console.print(said, soft_wrap=True)
        if line.kind:
            console.print(
                f"    [{colour}]{line.kind}[/]: {escape(line.cause)}. Next: {escape(line.next)}", soft_wrap=True
            )


def logs(
    of: Annotated[str, typer.Argument(metavar="DEPLOYMENT[/REPLICA]", help="Whose log.")],
    inventory: Annotated[list[str], typer.Option("--inventory", "-i", help="Inventory file, directory or script.")],
    last: Annotated[int, typer.Option(min=1, max=20000, help="Lines of each host.")] = 200,
    marked: Annotated[bool, typer.Option("--marked", help="Only lines that the classifier knows.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: a line of JSON for each.")] = False,
    vault_id: vault.VaultIds = None,
    vault_password_file: vault.VaultFiles = None,
    ask_vault_pass: vault.AskVault = False,
) -> None:
    """Show what the replicas of a deployment logged, from all hosts, with what is known of each line."""
    found = _OF.fullmatch(of)
    if found is None:
        raise refuse(
            f"{of!r} is neither a deployment nor a replica, such as llama-3-3-70b or llama-3-3-70b/llama-3-3-70b-0"
        )
    use_vault(vault_id, vault_password_file, ask_vault_pass)
    there_or_exit(inventory)
    units = f"vllm@{found['replica'] or found['deployment'] + '-*'}.service"
    run = run_playbook(PLAYBOOK, inventory, {"trainyard_logs": {"units": units, "lines": last}})
    lines = [line for line in lines_of(run) if line.kind or not marked]
    if as_json:
        for line in lines:
            typer.echo(json.dumps(asdict(line)))
    else:
        show_lines(lines, Console(highlight=False))
    if not run.succeeded:
        typer.echo(f"Not every host answered: {with_vault_fix(run.why_not())}", err=True)
        raise typer.Exit(1)
    if not lines and not as_json:
        typer.echo(f"No {'such line' if marked else 'line'} of {units} is in the journal of any host.")
