# SPDX-License-Identifier: Apache-2.0
"""`trainyard accept`: what the product relies on of real hosts, checked there, as a report for an issue."""

from __future__ import annotations

import hashlib
import json
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console

from trainyard import vault
from trainyard.plan_command import InventoryError, open_inventory, refuse, use_vault
from trainyard.plan_diff import AskError, ask_hosts

# Before Ansible's loader knows the collection: it does not find the rest of a package that it did not load itself.
from ansible_collections.trainyard.neuron.plugins.module_utils.acceptance import STAGES  # isort: skip
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import did_you_mean  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils import acceptance  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.collection import collection_version  # isort: skip


def report_of(
    answers: dict[str, dict[str, Any]], hosts: list[str], stages: tuple[str, ...], types: dict[str, str], salt: str
) -> dict[str, Any]:
    """Return the report, JSON-ready.

    Args:
        answers: result of the module by host, of those that answered.
        hosts: all that were asked.
        stages: what was looked at.
        types: instance types of the inventory, by host.
        salt: with one, hosts are named by a digest of it and their name.
    """
    found: dict[str, Any] = {}
    for name in hosts:
        shown = f"host-{hashlib.sha256((salt + name).encode()).hexdigest()[:10]}" if salt else name
        evidence = (answers.get(name) or {}).get("evidence")
        if not isinstance(evidence, dict):
            found[shown] = {"refused": "the host did not answer", "checks": []}
            continue
        known = {**evidence, "instance_type": types.get(name) or evidence.get("instance_type")}
        found[shown] = {"refused": "", "checks": acceptance.judged(known, stages)}
    outcomes = [check["outcome"] for host in found.values() for check in host["checks"]]
    return {
        "version": 1,
        "called": "acceptance",
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "trainyard_version": collection_version(),
        "stages": list(stages),
        "passed": outcomes.count(acceptance.PASSED),
        "differs": outcomes.count(acceptance.DIFFERS),
        "not_judged": outcomes.count(acceptance.SKIPPED),
        "hosts": found,
    }


def page(report: dict[str, Any]) -> str:
    """Return the report as a page that needs nothing else."""
    loader = PackageLoader("trainyard.accept", ".")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.get_template("page.html.j2").render(report=report) + "\n"


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
    report = report_of(answers, chosen, stages, types, secrets.token_hex(8) if hash_names else "")
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "accept.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        (output / "accept.html").write_text(page(report), encoding="utf-8")
    except OSError as error:
        raise refuse(f"{output} cannot be written: {error}") from error
    show(Console(highlight=False), report, output)
    if report["differs"] or any(one["refused"] for one in report["hosts"].values()):
        raise typer.Exit(1)


def show(console: Console, report: dict[str, Any], output: Path) -> None:
    """Print what differs, and where the report is."""
    for name, host in report["hosts"].items():
        if host["refused"]:
            console.print(f"{name}: {host['refused']}", soft_wrap=True, markup=False)
        for check in host["checks"]:
            if check["outcome"] == acceptance.DIFFERS:
                text = (
                    f"{name}: {check['name']}: expected {check['expected']}; seen {check['seen']} ({check['depends']})"
                )
                console.print(text, soft_wrap=True, markup=False)
    console.print(
        f"{report['passed']} checks passed, {report['differs']} differ, {report['not_judged']} were not judged: "
        f"{output / 'accept.html'}",
        soft_wrap=True,
        markup=False,
    )
