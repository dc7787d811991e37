# SPDX-License-Identifier: Apache-2.0
"""`trainyard accept`: what the product relies on of real hosts, checked there, as a report for an issue."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from trainyard import vault
from trainyard.ansible_run import run_playbook
from trainyard.paths import playbook
from trainyard.plan_command import InventoryError, open_inventory, refuse, there_or_exit, use_vault
from trainyard.plan_diff import AskError, ask_hosts

# Before Ansible's loader knows the collection: it does not find the rest of a package that it did not load itself.
from ansible_collections.trainyard.neuron.plugins.module_utils.acceptance import STAGES  # isort: skip
from ansible_collections.trainyard.neuron.plugins.module_utils.acceptance_trials import TRIED  # isort: skip
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import did_you_mean  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils import acceptance  # isort: skip


def accept(
    inventory: Annotated[list[str], typer.Option("--inventory", "-i", help="Inventory file, directory or script.")],
    host: Annotated[list[str] | None, typer.Option(help="Only this host; may be given several times.")] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(
            help="Only these: look and device read; compile, serve, fault and roll take cores.  [default: what reads]"
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory for accept.html and accept.json.")] = Path(
        "results/accept"
    ),
    hash_names: Annotated[
        bool, typer.Option("--hash-names", help="Name no host: digests with a salt of their own.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    vault_id: vault.VaultIds = None,
    vault_password_file: vault.VaultFiles = None,
    ask_vault_pass: vault.AskVault = False,
) -> None:
    """Check on hosts what trainyard relies on of them, and write one report. Nothing of theirs is changed.

    The exit status is 1 where something differs or a host did not answer.
    """
    use_vault(vault_id, vault_password_file, ask_vault_pass)
    known_stages = (*STAGES, *TRIED)
    stages = tuple(name for name in known_stages if name in (stage or STAGES))
    for name in stage or []:
        if name not in known_stages:
            fix = did_you_mean(name, known_stages) or "give one of " + ", ".join(known_stages)
            raise refuse(f"--stage {name}: {fix}")
    there_or_exit(inventory)
    try:
        known, variables = open_inventory(tuple(inventory))
        names = [one.name for one in known.get_hosts("neuron")] if "neuron" in known.groups else []
        for name in host or []:
            if name not in names:
                raise refuse(
                    f"--host {name}: {did_you_mean(name, names) or 'the group neuron has ' + ', '.join(names)}"
                )
        chosen = [name for name in names if not host or name in host]
        if not chosen:
            raise refuse(f"no host in the group 'neuron' of {', '.join(inventory)}")
        if set(stages) & set(TRIED):
            raise typer.Exit(tried(inventory, chosen, stages, output, hash_names=hash_names, as_json=as_json))
        types = {name: str(variables[name].get("trainyard_instance_type") or "") for name in chosen}
        answers = ask_hosts(inventory, ":".join(chosen), "trainyard.neuron.acceptance", become=True)
    except (InventoryError, AskError) as error:
        raise refuse(str(error)) from error
    report = acceptance.report_of(answers, chosen, stages, types, secrets.token_hex(8) if hash_names else "")
    try:
        acceptance.write(report, output)
    except OSError as error:
        raise refuse(f"{output} cannot be written: {error}") from error
    _tell(report, output, as_json)
    if not acceptance.sound(report):
        raise typer.Exit(1)


def _tell(report: Mapping[str, Any], output: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    for line in acceptance.said(report, output):
        _words(as_json).print(line, soft_wrap=True, markup=False)


def _words(as_json: bool) -> Console:
    """Return where words go: beside a document to the standard error."""
    return Console(highlight=False, stderr=as_json)


def tried(
    inventory: list[str], hosts: list[str], stages: tuple[str, ...], output: Path, *, hash_names: bool, as_json: bool
) -> int:
    """Have the playbook compile and serve, and print what its report says; the exit status."""
    asked = {"stages": list(stages), "hash_names": hash_names, "directory": str(output.resolve())}
    variables = {"trainyard_accept": asked, "trainyard_only": ":".join(hosts)}
    console = _words(as_json)
    with console.status("Accepting") as shown:
        run = run_playbook(playbook("accept"), inventory, variables, on_task=lambda name: shown.update(name))
    accepted = [one.result for one in run.results if one.action == "trainyard.neuron.acceptance_report"]
    if not accepted or "msg" not in accepted[-1]:
        raise refuse(run.why_not() or "the playbook made no report")
    if as_json:
        typer.echo((output / "accept.json").read_text(encoding="utf-8"), nl=False)
    for line in accepted[-1]["msg"]:
        console.print(line, soft_wrap=True, markup=False)
    return 0 if accepted[-1].get("sound") and run.succeeded else 1
