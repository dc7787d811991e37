# SPDX-License-Identifier: Apache-2.0
"""`trainyard upgrade`: host by host to the SDK release of the plan, and no further than the first that fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from trainyard import extra_vars, vault
from trainyard.one_run import UNLOCK, OneRun
from trainyard.paths import ROOT, absolute, playbook
from trainyard.plan_command import plan_or_exit, use_vault

Run = Callable[[Sequence[str]], int]


def order(plan: Mapping[str, Any]) -> list[str]:
    """Return the hosts that serve, those that compile for others first: what they compile the others fetch."""
    hosts = {name: entry for name, entry in plan["hosts"].items() if entry["replicas"]}
    compilers = {artifact["compile_host"] for entry in hosts.values() for artifact in entry["artifacts"]}
    return sorted(hosts, key=lambda name: name not in compilers)


def command(host: str, inventory: Sequence[str], given: Sequence[str], check: bool) -> list[str]:
    """Return the command line for one host."""
    # Last, so that nothing given by hand sends it to other hosts.
    variables = [*given, json.dumps({"trainyard_only": host})]
    return [*command_line(playbook("upgrade"), inventory, variables), *(["--check"] if check else [])]


def command_line(path: Path, inventory: Sequence[str], given: Sequence[str]) -> list[str]:
    """Return the command line of a playbook."""
    return [
        "ansible-playbook",
        str(path),
        *(word for source in inventory for word in ("--inventory", source)),
        *(word for one in given for word in ("--extra-vars", one)),
    ]


def roll(
    hosts: Sequence[str], argv: Callable[[str], Sequence[str]], run: Run, *, aside: bool = False
) -> tuple[list[str], str]:
    """Upgrade one host after the other; returns those that are done, and the one that failed or an empty name."""
    done: list[str] = []
    for host in hosts:
        typer.echo(f"==> {host} ({len(done) + 1} of {len(hosts)})", err=aside)
        if run(argv(host)):
            return done, host
        done.append(host)
    return done, ""


def upgrade(
    inventory: Annotated[list[str], typer.Option("--inventory", "-i", help="Inventory file, directory or script.")],
    host: Annotated[list[str] | None, typer.Option(help="Only this host; may be given several times.")] = None,
    variables: extra_vars.ExtraVars = None,
    check: Annotated[bool, typer.Option("--check", help="Say what would happen; change nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print which hosts are done as JSON.")] = False,
    vault_id: vault.VaultIds = None,
    vault_password_file: vault.VaultFiles = None,
    ask_vault_pass: vault.AskVault = False,
) -> None:
    """Bring the fleet to the SDK release of its inventory, driver included, host by host, with no failed request."""
    use_vault(vault_id, vault_password_file, ask_vault_pass)
    extra_vars.use(variables)
    inventory = [absolute(source) for source in inventory]
    hosts = order(plan_or_exit(inventory))
    unknown = sorted(set(host or []) - set(hosts))
    if unknown:
        words = f"No host of the plan serves under this name: {', '.join(unknown)}; there are {', '.join(hosts)}"
        typer.echo(words, err=as_json)
        raise typer.Exit(2)
    chosen = [name for name in hosts if not host or name in host]
    whole = OneRun("upgrade")

    def run(argv: Sequence[str], environment: Mapping[str, str]) -> int:
        # What Ansible says of its tasks goes beside a document.
        out = sys.stderr.fileno() if as_json else None
        return subprocess.run(argv, cwd=ROOT, env={**os.environ, **environment}, stdout=out, check=False).returncode

    try:
        done, failed = roll(
            chosen,
            lambda name: command(name, inventory, extra_vars.given(), check),
            lambda argv: run(argv, whole.part),
            aside=as_json,
        )
    finally:
        # Between two hosts nobody else is to begin something; so the lock comes back here and not with each host.
        if not check:
            run(command_line(UNLOCK, inventory, extra_vars.given()), whole.end)
    left = [name for name in chosen if name not in (*done, failed)]
    if as_json:
        typer.echo(json.dumps({"check": check, "done": done, "failed": failed or None, "untouched": left}, indent=2))
    if failed:
        words = f"Stopped at {failed}. Done: {', '.join(done) or 'none'}. Untouched: {', '.join(left) or 'none'}."
        typer.echo(words, err=as_json)
        words = "Next: mend the cause, then give the same command again; hosts that are done have nothing to do."
        typer.echo(words, err=as_json)
        raise typer.Exit(1)
    typer.echo(f"{'Checked' if check else 'Upgraded'}: {', '.join(done) or 'none'}.", err=as_json)
