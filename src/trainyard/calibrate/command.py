# SPDX-License-Identifier: Apache-2.0
"""`trainyard calibrate`: benchmark runs in, constants for forecasts and the lab out, with how well they fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from trainyard.forecast.command import calibration_or_exit, numbers_wrong
from trainyard.plan_command import refuse
from trainyard.report import analysis
from trainyard.written import write_or_exit

# Before Ansible's loader knows the collection: it does not find the rest of a package that it did not load itself.
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import did_you_mean  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.bounded_file import FileError, read_json  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast import fitting  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.calibration import (  # isort: skip
    Calibration,
    CalibrationError,
    as_text,
    calibration_of,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.seen_times import (
    SeenError,
    seen_in,
    times_fitted,
    told_of,
)  # isort: skip

from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.runs import NoPointError, point_of  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.inventory import default_model_configs  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.known_models import known_repositories  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.reading import ReportError  # isort: skip


#: What `trainyard accept` writes.
ACCEPTED = "accept.json"


def configs_of(directory: Path) -> dict[str, Any]:
    """Return repo@revision -> config.json of every `<repo>/<revision>/config.json` in a directory that can be read."""
    found = {}
    for file in sorted(directory.glob("*/*/*/config.json")):
        try:
            found[f"{'/'.join(file.parts[-4:-2])}@{file.parts[-2]}"] = read_json(file)
        except FileError:
            continue
    return found


def points_of(
    runs: list[Path], begun: Calibration, model_configs: dict[str, Any], as_model: str
) -> tuple[list[fitting.Point], str, list[str]]:
    """Return the runs as points, where their figures come from, and what is wrong with them."""
    points, wrong, names, provenances = [], [], [], []
    for path in runs:
        try:
            report = analysis.read([path])[0].report
            names.append(report.run.id)
            provenances.append(report.provenance)
            points.append(point_of(report, begun.values, model_configs, as_model))
        except (ReportError, NoPointError) as error:
            wrong.append(str(error))
    wrong += [f"{name} is there twice: give each run once" for name in sorted({n for n in names if names.count(n) > 1})]
    kinds = sorted(set(provenances))
    if len(kinds) > 1:
        wrong.append(f"the runs are {' and '.join(kinds)}: a calibration is of one kind, leave the others out")
    return points, kinds[0] if kinds else "", wrong


def accepted_in(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """Divide what was given into benchmark runs and acceptances: a directory with accept.json, or such a file."""
    runs: list[Path] = []
    accepted: list[Path] = []
    for path in paths:
        file = path / ACCEPTED
        if path.name == ACCEPTED or file.is_file():
            accepted.append(path if path.name == ACCEPTED else file)
        else:
            runs.append(path)
    return runs, accepted


def with_seen(made: Calibration, files: list[Path], console: Console | None) -> Calibration:
    """Return a calibration whose starts, loads and compiles are as acceptances measured them.

    Raises:
        SeenError: one of them is no acceptance, or none has a time.
    """
    seen = seen_in(files)
    fitted = times_fitted(made.times, seen)
    if console:
        for line in told_of(made.times, seen):
            console.print(line, soft_wrap=True, markup=False)
    return made.model_copy(update={"times": fitted})


def with_times(made: Calibration, start_factor: float | None, compile_factor: float | None) -> Calibration:
    """Return a calibration whose starts and compiles take so many times as long."""
    times = made.times
    changed: dict[str, Any] = {}
    source = "scaled to what was seen"
    if start_factor is not None:
        changed["start_s"] = times.start_s.model_copy(
            update={"value": times.start_s.value * start_factor, "source": source}
        )
        for name in ("load_bytes_per_s", "shard_bytes_per_s"):
            old = getattr(times, name)
            changed[name] = old.model_copy(update={"value": old.value / start_factor, "source": source})
    if compile_factor is not None:
        for name in ("compile_s", "native_compile_s"):
            old = getattr(times, name)
            changed[name] = old.model_copy(update={"value": old.value * compile_factor, "source": source})
    return made.model_copy(update={"times": times.model_copy(update=changed)})


def command(
    reports: Annotated[
        list[Path],
        typer.Argument(help="Benchmark runs, by directory or report.json; acceptances, by directory or accept.json."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("calibration.json"),
    begin: Annotated[
        Path | None, typer.Option("--from", help="Calibration to begin with; else the published constants.")
    ] = None,
    as_model: Annotated[
        str,
        typer.Option(help="Published repository that the model is taken for, as a lab's tiny one poses as another."),
    ] = "",
    start_factor: Annotated[
        float | None, typer.Option(help="Starts took so many times as long as was forecast.")
    ] = None,
    compile_factor: Annotated[
        float | None, typer.Option(help="Compiles took so many times as long as was forecast.")
    ] = None,
    model_configs: Annotated[
        Path | None, typer.Option(help="Directory with <repo>/<revision>/config.json of models.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Fit the latency model's constants to benchmark runs, and times of starts and compiles to acceptances.

    Says how well they fit, and writes a file for forecasts, the lab and the estimates of rolls.
    """
    runs, accepted = accepted_in(reports)
    begun = calibration_or_exit(begin)
    wrong = numbers_wrong(start_factor=start_factor, compile_factor=compile_factor)
    if as_model and as_model not in known_repositories():
        fix = did_you_mean(as_model, known_repositories()) or "name a published repository in full"
        wrong.append(f"--as-model {as_model} is not known: {fix}")
    points: list[fitting.Point] = []
    provenance = ""
    if not wrong:
        configs = configs_of(model_configs or Path(default_model_configs()))
        points, provenance, wrong = points_of(runs, begun, configs, as_model)
    if wrong:
        raise refuse("\n       ".join(wrong))
    made, validated, fitted = fitting.calibrate(points, begun, provenance) if points else (begun, [], [])
    made = with_times(made, start_factor, compile_factor)
    console = Console(highlight=False)
    if accepted:
        try:
            made = with_seen(made, accepted, None if as_json else console)
        except SeenError as error:
            raise refuse(str(error)) from error
    write_or_exit(output, as_text(made), is_calibration)
    if as_json:
        answer = {
            "file": str(output),
            "calibration": made.model_dump(),
            "validated": [{"point": one.point, "figure": one.figure, "factor": one.factor} for one in validated],
            "fitted": [{"point": one.point, "figure": one.figure, "factor": one.factor} for one in fitted],
        }
        typer.echo(json.dumps(answer, indent=2))
        return
    if fitted:
        show(console, begun, made, validated, fitted)
    console.print(
        f"{output}: give it to trainyard forecast, sweep and lab up as --calibration, and to a roll as "
        "trainyard_redeploy.calibration",
        soft_wrap=True,
        markup=False,
    )


def is_calibration(content: bytes) -> bool:
    """Return whether a file holds a calibration."""
    try:
        calibration_of(json.loads(content), "")
    except (CalibrationError, ValueError, RecursionError):
        return False
    return True


def show(
    console: Console,
    begun: Calibration,
    made: Calibration,
    validated: list[fitting.Miss],
    fitted: list[fitting.Miss],
) -> None:
    """Print what was fitted for people."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("CONSTANT", "BEFORE", "NOW", "ERROR"):
        table.add_column(title)
    for name, now in made.constants.items():
        told = "-" if now == begun.constants[name] else "not told by these runs"
        error = told if now.error_ratio is None else f"{now.error_ratio:.1%}"
        table.add_row(name, f"{begun.constants[name].value:.4g}", f"{now.value:.4g}", error)
    console.print(table)
    console.print(f"{len(made.fitted_to)} runs, {made.provenance}", soft_wrap=True, markup=False)
    console.print(f"fitted: off by at most {_worst(fitted)}", soft_wrap=True, markup=False)
    if validated:
        text = f"left out one by one: off by at most {_worst(validated)}"
    else:
        text = "a single run: nothing could be left out, so the errors are at least those that were known before"
    console.print(text, soft_wrap=True, markup=False)


def _worst(found: list[fitting.Miss]) -> str:
    worst = max(found, key=lambda one: max(one.factor, 1 / one.factor))
    return f"{max(worst.factor, 1 / worst.factor) - 1:.1%} ({worst})"
