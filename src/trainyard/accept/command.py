# SPDX-License-Identifier: Apache-2.0
"""`trainyard accept`: what the product relies on of real hosts, checked there, as a report for an issue."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trainyard import vault
from trainyard.plan_command import InventoryError, open_inventory, refuse, use_vault
from trainyard.plan_diff import AskError, ask_hosts

# Before Ansible's loader knows the collection: it does not find the rest of a package that it did not load itself.
from ansible_collections.trainyard.neuron.plugins.module_utils.acceptance import STAGES  # isort: skip
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import did_you_mean  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils import acceptance  # isort: skip


def accept(
    inventory: Annotated[list[str], typer.Option("--inventory", "-i", help="Inventory file, directory or script.")],
    host: Annotated[list[str] | None, typer.Option(help="Only this host; may be given several times.")] = None,
    stage: Annotated[
        list[str] | None, typer.Option(help="Only this stage, look or device; both only read.  [default: all]")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory for accept.html and accept.json.")] = Path(
        "results/accept"
    ),
    hash_names: Annotated[
        bool, typer.Option("--hash-names", help="Name no host: digests with a salt of their own.")
    ] = False,
    vault_id: vault.VaultIds = None,
    vault_password_file: vault.VaultFiles = None,
    ask_vault_pass: vault.AskVault = False,
) -> None:
    """Check on hosts what trainyard relies on of them, and write one report. Nothing is changed there.

    The exit status is 1 where something differs or a host did not answer.
    """
    use_vault(vault_id, vault_password_file, ask_vault_pass)
    stages = tuple(name for name in STAGES if not stage or name in stage)
    for name in stage or []:
        if name not in STAGES:
            raise refuse(f"--stage {name}: {did_you_mean(name, STAGES) or 'give one of ' + ', '.join(STAGES)}")
    missing = [source for source in inventory if not Path(source).exists() and "," not in source]
    if missing:
        raise refuse(f"no inventory at {', '.join(missing)}")
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
        types = {name: str(variables[name].get("trainyard_instance_type") or "") for name in chosen}
        answers = ask_hosts(inventory, ":".join(chosen), "trainyard.neuron.acceptance", become=True)
    except (InventoryError, AskError) as error:
        raise refuse(str(error)) from error
    report = acceptance.report_of(answers, chosen, stages, types, secrets.token_hex(8) if hash_names else "")
    try:
        acceptance.write(report, output)
    except OSError as error:
        raise refuse(f"{output} cannot be written: {error}") from error
    console = Console(highlight=False)
    for line in acceptance.said(report, output):
        console.print(line, soft_wrap=True, markup=False)
    if not acceptance.sound(report):
        raise typer.Exit(1)
