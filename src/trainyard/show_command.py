# SPDX-License-Identifier: Apache-2.0
"""`trainyard show`: what a fleet serves, where, and what its last benchmark said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from trainyard import extra_vars, vault
from trainyard.paths import RESULTS
from trainyard.plan_command import host_tables, plan_or_exit, print_replicas, summary, use_vault

from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.reading import ReportError, load  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import BenchmarkReport  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.text import table as report_table  # isort: skip


#: How long a router may take to answer, seconds.
ANSWER_S = 3.0


def last_report(results: Path, models: set[str]) -> BenchmarkReport | None:
    """Return the newest readable report of one of these models in a directory of runs; None where there is none."""
    found = []
    for path in results.glob("*/report.json"):
        try:
            report = load(path)
        except ReportError:
            continue  # another version's, or one that is being written
        if report.scenario.model in models:
            found.append(report)
    return max(found, key=lambda report: report.run.ended_at, default=None)


def silence(url: str) -> str:
    """Return why a router does not answer from here, empty where it does: a refusal for want of a key is an answer."""
    import httpx

    try:
        # Directly, as clients of a private address: what a proxy says of it is not the router's word.
        answer = httpx.get(f"{url}/v1/models", timeout=ANSWER_S, verify=False, trust_env=False)  # noqa: S501 - sends nothing
    except httpx.HTTPError as error:
        return " ".join(str(error).split()) or type(error).__name__
    return "" if answer.status_code in (200, 401, 403) else f"HTTP {answer.status_code}"


def described(plan: dict[str, Any], results: Path | None) -> dict[str, Any]:
    """Return what is shown of a plan, JSON-ready.

    Args:
        plan: of the shape of docs/schemas/plan.schema.json.
        results: directory of the benchmark runs; None leaves the last one out.
    """
    names = [model["name"] for model in plan["router"]["models"]]
    silent = {url: silence(url) for url in plan["router"]["urls"][:1]}
    report = last_report(results, set(names)) if results else None
    return {
        "replicas": [
            {"host": host, **{key: replica[key] for key in ("name", "cores", "port", "url", "artifact", "release")}}
            for host, entry in plan["hosts"].items()
            for replica in entry["replicas"]
        ],
        "models": names,
        "router": [{"url": url, "answers": not why, "why_not": why} for url, why in silent.items()],
        "benchmark": str(results / report.run.id / "report.json") if results and report else None,
    }


def show(
    inventory: Annotated[list[str], typer.Option("--inventory", "-i", help="Inventory file, directory or script.")],
    results: Annotated[Path, typer.Option(help="Directory of the benchmark runs.")] = RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    variables: extra_vars.ExtraVars = None,
    vault_id: vault.VaultIds = None,
    vault_password_file: vault.VaultFiles = None,
    ask_vault_pass: vault.AskVault = False,
    benchmark: Annotated[bool, typer.Option(help="Also what the last benchmark said.")] = True,
) -> None:
    """Show what the fleet serves: replicas, the router's address and how to ask it, the last benchmark."""
    use_vault(vault_id, vault_password_file, ask_vault_pass)
    extra_vars.use(variables)
    plan = plan_or_exit(inventory)
    if as_json:
        typer.echo(json.dumps(described(plan, results if benchmark else None), indent=2))
        return
    console = Console(highlight=False)
    for heading, table in host_tables(plan):
        console.print(heading, soft_wrap=True)
        print_replicas(console, table)
        console.print()
    console.print(summary(plan), soft_wrap=True)
    names = [model["name"] for model in plan["router"]["models"]]
    for url in plan["router"]["urls"][:1]:
        why_not = silence(url)
        if why_not:
            console.print(f"\nThe router is to answer at [bold]{url}[/]; asked just now, it does not: {why_not}")
            console.print("Next: `trainyard plan --diff` says what runs. Once it answers, ask it:\n", markup=False)
        else:
            console.print(f"\nThe router answers at [bold]{url}[/]. Ask it:\n", soft_wrap=True)
        for name in names:
            # One line to paste; rich must not wrap or colour it.
            typer.echo(
                f"  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' "
                f'-d \'{{"model": "{name}", "stream": true, "max_tokens": 32, '
                '"messages": [{"role": "user", "content": "Hello"}]}\''
            )
    report = last_report(results, set(names)) if benchmark else None
    if report is not None:
        typer.echo(f"\n{report_table(report, width=console.width)}")
        typer.echo(f"\nThe whole report: {results / report.run.id / 'report.json'}")
