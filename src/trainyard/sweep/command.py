# SPDX-License-Identifier: Apache-2.0
"""`trainyard sweep`: try configurations of a deployment on the fleet and recommend one."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from trainyard import ansible_run, one_run, vault
from trainyard.forecast.command import calibration_or_exit, ranged
from trainyard.forecast.what_if import plan_with
from trainyard.one_run import OneRun
from trainyard.paths import RESULTS, called, playbook  # makes the planner's imports possible
from trainyard.plan_command import InventoryError, read_fleet, use_vault
from trainyard.report import analysis, render
from trainyard.sweep import engine, spec
from trainyard.sweep.engine import Budget, StepError, Sweep
from trainyard.sweep.guide import Guide
from trainyard.sweep.spec import Point, Spec

# Before Ansible's loader knows the collection, which an inventory is read with: it does not find the rest of a package
# that it did not load itself.
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.calibration import Calibration  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.figures import Setup, forecast  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.planned import (  # isort: skip
    NoForecastError,
    load_in,
    setup_of,
    too_long,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError  # isort: skip
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.block_end import EVACUATE_S  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils import block_times  # isort: skip


class Fleet:
    """The real fleet, by the playbooks: the driver of a sweep."""

    def __init__(self, inventory: list[str], given: Spec, directory: Path) -> None:
        self.inventory = inventory
        self.spec = given
        self.directory = directory
        self.whole = OneRun("sweep")

    def give_back(self) -> None:
        """Let others change the fleet again; what was served last goes on."""
        ansible_run.run_playbook(
            one_run.UNLOCK, self.inventory, {}, owner=str(self.directory), environment=self.whole.end
        )

    def serve(self, fields: Mapping[str, Any]) -> None:
        """Compile what is missing and serve it."""
        run = ansible_run.run_playbook(
            playbook("site"),
            self.inventory,
            self._variables(fields),
            tags="provision,compile,serve",
            owner=str(self.directory),
            environment=self.whole.part,
        )
        if not run.succeeded:
            raise StepError(f"not served: {run.why_not()}")

    def measure(self, fields: Mapping[str, Any], load: Mapping[str, Any], name: str) -> Path:
        """One run of the benchmark playbook."""
        variables = {
            **self._variables(fields),
            "trainyard_benchmark": self.spec.deployment,
            "trainyard_results_dir": str(self.directory / "runs"),
            "benchmark_run_id": name,
            "benchmark_load": dict(load),
            "benchmark_objective": self.spec.objective.model_dump(exclude_none=True) if self.spec.objective else {},
            "benchmark_strict": False,  # a bad run is a finding of the sweep, not its end
        }
        if self.spec.price_per_host_hour_usd is not None:
            variables["benchmark_scenario"] = {"price_per_host_hour_usd": self.spec.price_per_host_hour_usd}
        run = ansible_run.run_playbook(
            playbook("benchmark"),
            self.inventory,
            variables,
            owner=str(self.directory),
            environment=self.whole.part,
        )
        reports = [
            one.result["path"] for one in run.results if one.action.endswith("benchmark_report") and not one.failed
        ]
        if not run.succeeded or not reports:
            raise StepError(f"not measured: {run.why_not() or 'the playbook made no report'}")
        return Path(reports[-1]).parent

    def _variables(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {"trainyard_overrides": {self.spec.deployment: dict(fields)}}


def leaving_at(known: Mapping[str, Any]) -> float | None:
    """When the first of the hosts leave because their capacity block ends, wall-clock seconds; None without a block.

    Args:
        known: the planner's input; hosts say it in `trainyard_capacity_block_end`.

    Raises:
        SpecError: a host says what is no time with a zone.
    """
    try:
        end = block_times.first_end(known["hosts"], known["hosts"])
    except block_times.EndError as error:
        raise spec.SpecError(str(error)) from error
    return None if end is None else end.timestamp() - EVACUATE_S


def watched_end(known: Mapping[str, Any], read: Callable[[], Mapping[str, Any]]) -> Callable[[], float | None]:
    """Ask when hosts leave, anew at each step: an extension moves it.

    Args:
        known: the planner's input at the sweep's beginning; without a block nothing is read again.
        read: reads it anew. Where that fails, what was known before holds.
    """
    last = leaving_at(known)

    def now() -> float | None:
        nonlocal last
        if last is not None:
            with contextlib.suppress(InventoryError, PlanError, spec.SpecError):
                last = leaving_at(read())
        return last

    return now


def points_of(known: Mapping[str, Any], given: Spec, calibration: Calibration | None = None) -> list[Point]:
    """The sweep's points as the planner judges them on this inventory; no host is reached.

    With a calibration each has what a forecast needs, where its model is known.
    """

    def look(fleet: Mapping[str, Any]) -> Setup | None:
        if calibration is None:
            return None
        try:
            return setup_of(fleet, given.deployment, known.get("model_configs") or {}, calibration.values)
        except NoForecastError:
            return None

    return spec.points(given, lambda fields: plan_with(known, given.deployment, fields), PlanError, look)


def sweep(
    file: Annotated[Path, typer.Argument(help="YAML file with deployment, grid or points, loads, objective.")],
    inventory: Annotated[list[str], typer.Option("--inventory", "-i", help="Inventory file, directory or script.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Its directory; the same resumes.")] = None,
    hours: Annotated[float | None, typer.Option(help="Stop before this many hours of runs are used.")] = None,
    usd: Annotated[float | None, typer.Option(help="Stop before the hosts have cost this much.")] = None,
    stop_at: Annotated[datetime | None, typer.Option(help="End by then, as before a capacity block's end.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try again what failed before.")] = False,
    model_configs: Annotated[
        Path | None, typer.Option(help="Directory with REPO/REVISION/config.json; else what `trainyard plan` fetched.")
    ] = None,
    hub: Annotated[str, typer.Option(help="Fetch missing config.json files from this model hub.")] = "",
    check: Annotated[bool, typer.Option("--check", help="Show the planner's verdicts; run nothing.")] = False,
    exhaustive: Annotated[
        bool, typer.Option("--exhaustive", help="Measure every configuration as it stands; ask no forecast.")
    ] = False,
    calibration: Annotated[
        Path | None, typer.Option(help="Constants of the forecast that `trainyard calibrate` wrote.")
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print what was measured and is recommended as JSON; with --check the points."),
    ] = False,
    vault_id: vault.VaultIds = None,
    vault_password_file: vault.VaultFiles = None,
    ask_vault_pass: vault.AskVault = False,
) -> None:
    """Try the configurations of a sweep, resume where it was stopped, and recommend one for the objective.

    The forecast has the promising ones tried first; with an objective, those that cannot win are left out.
    """
    console = Console(highlight=False, stderr=as_json)
    use_vault(vault_id, vault_password_file, ask_vault_pass)
    constants = calibration_or_exit(calibration)
    try:
        given = spec.read(file)
        known = read_fleet(inventory, "neuron", "router", model_configs, hub)
        points = points_of(known, given, None if exhaustive else constants)
        leaves = watched_end(known, lambda: read_fleet(inventory, "neuron", "router", model_configs, hub))
    except (spec.SpecError, InventoryError) as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    except PlanError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    show(console, points, given, constants)
    if check:
        if as_json:
            rows = [{"name": one.name, "possible": one.possible, "reason": one.reason} for one in points]
            typer.echo(json.dumps({"points": rows}, indent=2))
        return
    directory = (output or RESULTS / f"sweep-{file.stem}").resolve()
    asked = None if stop_at is None else stop_at.timestamp()
    budget = Budget(seconds=None if hours is None else hours * 3600, usd=usd, stop_at=asked, leaves_at=leaves)
    fleet = Fleet(inventory, given, directory)
    try:
        with engine.alone(directory), progress_bar(console, given) as heard:
            if gone := ansible_run.end_left_over(str(directory)):
                console.print(f"ended {gone} processes that an attempt left when it was killed")
            guide = Guide(given, constants) if any(point.setup for point in points) else None
            made = Sweep(given, points, fleet, directory, budget, heard, retry=retry, guide=guide)
            try:
                runs = made.run()
            finally:
                fleet.give_back()
    except engine.BusyError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        raise typer.Exit(2) from error
    if as_json:
        typer.echo(json.dumps(document(given, runs, directory, made.stopped), indent=2))
    conclude(console, given, runs, directory, made.stopped)
    if guide is not None:
        say_forecast(console, guide, made.left_out)


@contextlib.contextmanager
def progress_bar(console: Console, given: Spec) -> Iterator[Callable[[engine.Progress], None]]:
    """A bar on a terminal, a line for each step elsewhere."""
    columns = (TextColumn("{task.fields[state]}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None, state="")

        def heard(progress: engine.Progress) -> None:
            left = "" if progress.left_s is None else f", about {progress.left_s / 60:.0f} min left"
            cost = f", {progress.cost_usd:.2f} USD" if given.price_per_host_hour_usd else ""
            state = f"{progress.spent_s / 60:.0f} min{cost}{left}"
            bar.update(task, completed=progress.done, total=progress.total, description=progress.text, state=state)
            if not console.is_terminal:
                console.print(f"{progress.done}/{progress.total} {state}: {progress.text}", soft_wrap=True)

        yield heard


#: Of so many points the forecast is shown; of more, only while they are measured.
SHOWN_FORECASTS = 200


def show(console: Console, points: list[Point], given: Spec, calibration: Calibration) -> None:
    """The points, with the reasons of those that are out, the artifacts that they need, and each one's forecast."""
    possible = [point for point in points if point.possible]
    artifacts = {artifact for point in possible for artifact in point.artifacts}
    console.print(
        f"{len(possible)} of {len(points)} configurations are possible, with {len(artifacts)} artifacts to compile"
    )
    few = len(possible) <= SHOWN_FORECASTS
    for point in points:
        verdict = " ".join(artifact[:12] for artifact in point.artifacts) if point.possible else f"out: {point.reason}"
        expected = expected_of(point, given, calibration) if few and point.possible else ""
        console.print(f"  {point.name}  {verdict}{expected}", markup=False, soft_wrap=True)


def expected_of(point: Point, given: Spec, calibration: Calibration) -> str:
    """What is forecast of a point under the sweep's first load; empty where nothing can be."""
    loads = given.loads or ({},)
    load = load_in({**given.load, **loads[0]})
    if point.setup is None or too_long(point.setup, load):
        return ""
    found = forecast(point.setup, load, calibration)
    tokens, first = (ranged(found[name]) for name in ("output_tokens_per_s", "time_to_first_token_p50_ms"))
    return f"  forecast: {tokens} tokens/s, first token {first} ms"


def say_forecast(console: Console, guide: Guide, left_out: Mapping[str, str]) -> None:
    """Say what the forecast left out, and how far it was off where something was measured."""
    for name, why in left_out.items():
        console.print(f"left out: {name}: {why}", soft_wrap=True, markup=False)
    if not guide.off:
        return
    console.print(f"forecast ({guide.calibration.provenance}) against the runs:", soft_wrap=True)
    for one in guide.off:
        console.print(f"  {one}", soft_wrap=True, markup=False)


def document(given: Spec, runs: list[analysis.Measured], directory: Path, stopped: str) -> dict[str, Any]:
    """Return what a sweep came to, for programs."""
    best = analysis.recommend(runs, given.objective) if given.objective else None
    return {
        "directory": str(directory),
        "provenance": render.provenance_of(runs) if runs else None,
        "runs": [dict(zip(render.COLUMNS, render.row_of(run), strict=True)) for run in runs],
        "recommended": best.report.run.id if best else None,
        "stopped": stopped or None,
    }


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
        f"recommended: {best.configuration} at {best.offered}; ansible-playbook {called('site')} -e @{target}",
        soft_wrap=True,
    )
