# SPDX-License-Identifier: Apache-2.0
"""`trainyard report`: benchmark runs as a page, a table or values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from trainyard.report import analysis, history, render
from trainyard.written import write_or_exit

# Before Ansible's loader knows the collection: it does not find the rest of a package that it did not load itself.
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.settings import OBJECTIVE  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.reading import ReportError  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import Objective  # isort: skip


def _history(paths: list[Path], output: Path | None, as_json: bool) -> None:
    """Print or write a history; typer.Exit with 1 where the newest run of a load is a regression."""
    if output is not None and output.suffix != ".md":
        typer.echo(f"error: {output}: a history is written as .md", err=True)
        raise typer.Exit(2)
    try:
        found = history.entries(analysis.read(history.runs_below(paths)))
    except ReportError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    if not found:
        typer.echo(f"error: no run in {', '.join(map(str, paths))}", err=True)
        raise typer.Exit(2)
    text = history.markdown(found)
    if output is None:
        typer.echo(text, nl=False, err=as_json)
    else:
        write_or_exit(output, text, history.made)
        typer.echo(f"{len(found)} run(s): {output}", err=as_json)
    if as_json:
        typer.echo(json.dumps(_document([entry.run for entry in found], output, found), indent=2))
    newest = {history.signature(entry.run): entry for entry in found}
    if any(entry.regressions for entry in newest.values()):
        raise typer.Exit(1)


def _document(
    runs: Sequence[analysis.Measured], file: Path | None, entries: Sequence[history.Entry] = ()
) -> dict[str, Any]:
    """Return what a report is about, for programs; what became worse beside each run of a history."""
    rows: list[dict[str, Any]] = [dict(zip(render.COLUMNS, render.row_of(run), strict=True)) for run in runs]
    for row, entry in zip(rows, entries, strict=False):
        row["regressions"] = [one.name for one in entry.regressions]
    return {"file": str(file) if file else None, "provenance": render.provenance_of(runs), "runs": rows}


def report(
    runs: Annotated[list[Path], typer.Argument(help="Directories of runs, or their report.json; two are compared.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write: .html, .md or .csv. One run: beside it.")
    ] = None,
    ttft_ms: Annotated[float | None, typer.Option(help="Objective: time to first token.")] = None,
    tpot_ms: Annotated[float | None, typer.Option(help="Objective: time per output token.")] = None,
    request_ms: Annotated[float | None, typer.Option(help="Objective: time of a whole request.")] = None,
    percentile: Annotated[float, typer.Option(help="Per cent of requests that must keep the objective.")] = 99,
    over_time: Annotated[
        bool, typer.Option("--history", help="Each run beside the one before it of the same load; regressions flagged.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the runs as JSON.")] = False,
) -> None:
    """Write a report over one benchmark run or several: HTML that needs nothing else, Markdown or CSV.

    With --history, a table of a deployment over its releases, printed or written as Markdown; directories of runs are
    searched, and the command ends with 1 where the newest run of a load became worse beyond the noise.
    """
    if over_time:
        _history(runs, output, as_json)
        return
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
    # The directory of a run has nothing but what is of the run.
    write_or_exit(target, writers[target.suffix](), render.made if output else lambda _: True)
    if as_json:
        typer.echo(json.dumps(_document(measured, target), indent=2))
    typer.echo(f"{len(measured)} run(s), {render.provenance_of(measured)}: {target}", err=as_json)
