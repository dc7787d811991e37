"""The `trainyard` command: one sub-command a verb, each in a module of its own."""

from __future__ import annotations

import typer

from trainyard.artifact_command import app as artifact_app
from trainyard.lab.commands import app as lab_app
from trainyard.plan_command import plan
from trainyard.report.command import report
from trainyard.show_command import show
from trainyard.sweep.command import sweep

app = typer.Typer(
    name="trainyard",
    help="Plan, try out and measure LLM fleets on AWS Trainium.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # locals may hold credentials
)


@app.callback()
def trainyard() -> None:
    """Plan, try out and measure LLM fleets on AWS Trainium."""


app.command("plan")(plan)
app.command("report")(report)
app.command("show")(show)
app.command("sweep")(sweep)
app.add_typer(artifact_app, name="artifact")
app.add_typer(lab_app, name="lab")


def main() -> None:
    """Run the command; the entry point of the package."""
    app()
