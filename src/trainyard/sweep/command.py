# SPDX-License-Identifier: Apache-2.0
"""`trainyard sweep`: try configurations of a deployment on the fleet and recommend one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from trainyard import ansible_run
from trainyard.paths import ROOT
from trainyard.plan_command import InventoryError, read_inventory
from trainyard.report import analysis, render
from trainyard.sweep import engine, spec
from trainyard.sweep.engine import Budget, StepError, Sweep
from trainyard.sweep.spec import Point, Spec


class Fleet:
    """The real fleet, by the playbooks: the driver of a sweep."""

    def __init__(self, inventory: list[str], given: Spec, directory: Path) -> None:
        self.inventory = inventory
        self.spec = given
        self.directory = directory

    def serve(self, fields: Mapping[str, Any]) -> None:
        """Compile what is missing and serve it."""
        run = ansible_run.run_playbook(
            ROOT / "site.yml", self.inventory, self._variables(fields), tags="provision,compile,serve"
        )
        if not run.succeeded:
            raise StepError(f"not served: {run.why_not()}")

    def measure(self, fields: Mapping[str, Any], load: Mapping[str, Any]) -> Path:
        """One run of the benchmark playbook."""
        variables = {
            **self._variables(fields),
            "trainyard_benchmark": self.spec.deployment,
            "trainyard_results_dir": str(self.directory / "runs"),
            "benchmark_load": dict(load),
            "benchmark_objective": self.spec.objective.model_dump(exclude_none=True) if self.spec.objective else {},
            "benchmark_strict": False,  # a bad run is a finding of the sweep, not its end
        }
        if self.spec.price_per_host_hour_usd is not None:
            variables["benchmark_scenario"] = {"price_per_host_hour_usd": self.spec.price_per_host_hour_usd}
        run = ansible_run.run_playbook(ROOT / "playbooks/benchmark.yml", self.inventory, variables)
        reports = [
            one.result["path"] for one in run.results if one.action.endswith("benchmark_report") and not one.failed
        ]
        if not run.succeeded or not reports:
            raise StepError(f"not measured: {run.why_not() or 'the playbook made no report'}")
        return Path(reports[-1]).parent

    def _variables(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {"trainyard_overrides": {self.spec.deployment: dict(fields)}}


def points_of(inventory: list[str], given: Spec) -> list[Point]:
    """The sweep's points as the planner judges them on this inventory; no host is reached."""
    from ansible_collections.trainyard.neuron.plugins.module_utils.plan.plan import plan_fleet
    from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError

    known = read_inventory(inventory, "neuron", "router")

    def plan(fields: Mapping[str, Any]) -> Mapping[str, Any]:
        fleet = copy.deepcopy(known)
        for variables in fleet["hosts"].values():
            overrides = {**(variables.get("trainyard_overrides") or {})}
            overrides[given.deployment] = {**overrides.get(given.deployment, {}), **fields}
            variables["trainyard_overrides"] = overrides
        return dict(plan_fleet(fleet).to_dict())

    return spec.points(given, plan, PlanError)


def sweep(
    file: Annotated[Path, typer.Argument(help="YAML file with deployment, grid or points, loads, objective.")],
    inventory: Annotated[list[str], typer.Option("--inventory", "-i", help="Inventory file, directory or script.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Its directory; the same resumes.")] = None,
    hours: Annotated[float | None, typer.Option(help="Stop before this many hours of runs are used.")] = None,
    usd: Annotated[float | None, typer.Option(help="Stop before the hosts have cost this much.")] = None,
    stop_at: Annotated[datetime | None, typer.Option(help="End by then, as before a capacity block's end.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Show the planner's verdicts; run nothing.")] = False,
) -> None:
    """Try every configuration of a sweep, resume where it was stopped, and recommend one for the objective."""
    console = Console(highlight=False)
    try:
        given = spec.read(file)
        points = points_of(inventory, given)
    except (spec.SpecError, InventoryError) as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    show(console, points)
    if check:
        return
    directory = (output or ROOT / "results" / f"sweep-{file.stem}").resolve()
    budget = Budget(
        seconds=None if hours is None else hours * 3600, usd=usd, stop_at=stop_at.timestamp() if stop_at else None
    )
    columns = (TextColumn("{task.fields[state]}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None, state="")

        def heard(progress: engine.Progress) -> None:
            left = "" if progress.left_s is None else f", about {progress.left_s / 60:.0f} min left"
            cost = f", {progress.cost_usd:.2f} USD" if given.price_per_host_hour_usd else ""
            state = f"{progress.spent_s / 60:.0f} min{cost}{left}"
            bar.update(task, completed=progress.done, total=progress.total, description=progress.text, state=state)
            if not console.is_terminal:  # a log gets a line for each step
                console.print(f"{progress.done}/{progress.total} {state}: {progress.text}", soft_wrap=True)

        made = Sweep(given, points, Fleet(inventory, given, directory), directory, budget, heard)
        runs = made.run()
    conclude(console, given, runs, directory, made.stopped)


def show(console: Console, points: list[Point]) -> None:
    """The points, with the reasons of those that are out, and how many artifacts they need."""
    possible = [point for point in points if point.possible]
    artifacts = {artifact for point in possible for artifact in point.artifacts}
    console.print(
        f"{len(possible)} of {len(points)} configurations are possible, with {len(artifacts)} artifacts to compile"
    )
    for point in points:
        verdict = " ".join(artifact[:12] for artifact in point.artifacts) if point.possible else f"out: {point.reason}"
        console.print(f"  {point.name}  {verdict}", markup=False, soft_wrap=True)


def conclude(console: Console, given: Spec, runs: list[analysis.Measured], directory: Path, stopped: str) -> None:
    """Write the report and the recommendation, and say where they are."""
    if stopped:
        console.print(f"stopped: {stopped}; the same command resumes", soft_wrap=True)
    if not runs:
        console.print("nothing was measured", soft_wrap=True)
        raise typer.Exit(1)
    page = directory / "report.html"
    page.write_text(render.html(runs, given.objective), encoding="utf-8")
    (directory / "report.csv").write_text(render.as_csv(runs), encoding="utf-8")
    console.print(f"{len(runs)} runs ({render.provenance_of(runs)}): {page}", soft_wrap=True)
    if given.objective is None:
        return
    best = analysis.recommend(runs, given.objective)
    if best is None:
        console.print("no configuration kept the objective", soft_wrap=True)
        return
    target = directory / "recommended.yml"
    target.write_text(analysis.overrides(best), encoding="utf-8")
    console.print(
        f"recommended: {best.configuration} at {best.offered}; ansible-playbook site.yml -e @{target}", soft_wrap=True
    )
