# SPDX-License-Identifier: Apache-2.0
"""`trainyard report`: benchmark runs as a page, a table or values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainyard.report import analysis, render

# Before Ansible's loader knows the collection: it does not find the rest of a package that it did not load itself.
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.settings import OBJECTIVE  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.reading import ReportError  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import Objective  # isort: skip


def report(
    runs: Annotated[list[Path], typer.Argument(help="Directories of runs, or their report.json; two are compared.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write: .html, .md or .csv. One run: beside it.")
    ] = None,
    ttft_ms: Annotated[float | None, typer.Option(help="Objective: time to first token.")] = None,
    tpot_ms: Annotated[float | None, typer.Option(help="Objective: time per output token.")] = None,
    request_ms: Annotated[float | None, typer.Option(help="Objective: time of a whole request.")] = None,
    percentile: Annotated[float, typer.Option(help="Per cent of requests that must keep the objective.")] = 99,
) -> None:
    """Write a report over one benchmark run or several: HTML that needs nothing else, Markdown or CSV."""
    objective = None
    if any(limit is not None for limit in (ttft_ms, tpot_ms, request_ms)):
        given = {
            "time_to_first_token_ms": ttft_ms,
            "time_per_output_token_ms": tpot_ms,
            "request_latency_ms": request_ms,
            "percentile": percentile,
        }
        values, problems = OBJECTIVE.read(given)
        for problem in problems:
            typer.echo(f"error: {problem}", err=True)
        if problems:
            raise typer.Exit(2)
        objective = Objective(**values)
    try:
        measured = analysis.read(runs)
    except ReportError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    target = output or (measured[0].path or Path()) / "report.html"
    writers = {
        ".html": lambda: render.html(measured, objective),
        ".md": lambda: render.markdown(measured, objective),
        ".csv": lambda: render.as_csv(measured),
    }
    if target.suffix not in writers:
        typer.echo(f"error: {target} is none of {', '.join(writers)}", err=True)
        raise typer.Exit(2)
    try:
        target.write_text(writers[target.suffix](), encoding="utf-8")
    except OSError as error:
        typer.echo(f"error: {target} cannot be written: {error}", err=True)
        raise typer.Exit(2) from error
    typer.echo(f"{len(measured)} run(s), {render.provenance_of(measured)}: {target}")
