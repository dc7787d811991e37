"""The `trainyard` command: one sub-command a verb, each in a module of its own that is loaded when it is called."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from trainyard import paths  # makes the collection importable, for every sub-command

#: Where each sub-command is: a function, or an application with sub-commands of its own.
COMMANDS = {
    "accept": "trainyard.accept.command:accept",
    "artifact": "trainyard.artifact_command:app",
    "block-watch": "trainyard.block_watch_command:watch",
    "blocks": "trainyard.blocks_command:blocks_command",
    "bundle": "trainyard.bundle.command:app",
    "calibrate": "trainyard.calibrate.command:command",
    "compile": "trainyard.nodes.command:compile_artifacts",
    "events": "trainyard.events_command:events",
    "forecast": "trainyard.forecast.command:command",
    "join-release": "trainyard.join_release_command:join_release",
    "init": "trainyard.init.command:init",
    "lab": "trainyard.lab.commands:app",
    "logs": "trainyard.logs_command:logs",
    "plan": "trainyard.plan_command:plan",
    "provision": "trainyard.nodes.command:provision",
    "report": "trainyard.report.command:report",
    "show": "trainyard.show_command:show",
    "ssh": "trainyard.ssh_command:ssh",
    "status": "trainyard.status_command:status",
    "sweep": "trainyard.sweep.command:sweep",
    "top": "trainyard.top_command:top",
    "upgrade": "trainyard.upgrade_command:upgrade",
}


#: With this in the environment an error that no command foresaw is shown whole.
DEBUG = "TRAINYARD_DEBUG"
#: The exit code of such an error, as sysexits.h has it.
MISTAKE = 70


class LazyGroup(TyperGroup):
    """A group that imports a sub-command when it is asked for: the libraries of all take longer than most of them."""

    def main(self, *args: Any, **more: Any) -> Any:
        """Run a command line; a file's name that is no text is shown with its bytes spelt out, and ends nothing."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **more)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the base class's signature
        """Return the names, in the order in which help shows them."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - the base class's signature
        """Return a sub-command, None for a name that is none."""
        if cmd_name not in COMMANDS:
            return None
        # Ansible reads its configuration when it is imported, which a sub-command may do as it is imported itself.
        os.environ.setdefault("ANSIBLE_CONFIG", str(paths.ROOT / "ansible.cfg"))
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        found = getattr(importlib.import_module(module), attribute)
        if isinstance(found, typer.Typer):
            made: Any = typer.main.get_group(found)
        else:
            alone = typer.Typer(add_completion=False)
            alone.command(cmd_name)(found)
            made = typer.main.get_command(alone)
        made.name = cmd_name
        return made

    def invoke(self, ctx: Any) -> Any:
        """Run a sub-command; what it did not foresee becomes a line and an exit code, too."""
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.errno == errno.EPIPE or os.environ.get(DEBUG):
                raise
            raise ended(
                ": ".join(str(part) for part in (error.filename, error.strerror or error) if part), 2
            ) from error
        except UnicodeEncodeError as error:
            if os.environ.get(DEBUG):
                raise
            raise ended("a name that was given is no text in UTF-8, and cannot be handed on", 2) from error
        except Exception as error:
            # Those that end a command in order are the library's own, which knows what to print.
            if hasattr(error, "exit_code") or type(error).__name__ == "Abort" or os.environ.get(DEBUG):
                raise
            said = " ".join(str(error).split())[:400]
            text = f"{type(error).__name__}: {said}: a mistake of trainyard's; {DEBUG}=1 shows where, for a report"
            raise ended(text, MISTAKE) from error


def ended(text: str, code: int) -> typer.Exit:
    """Print why a command ends, and return what ends it."""
    typer.echo(f"error: {text}", err=True)
    return typer.Exit(code)


app = typer.Typer(
    name="trainyard",
    cls=LazyGroup,
    help="Plan, try out and measure LLM fleets on AWS Trainium.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # locals may hold credentials
)


def versions() -> str:
    """Return a line about what runs here: the command, the collection that it plans with, Ansible and Python."""
    import platform
    from importlib.metadata import version

    from ansible_collections.trainyard.neuron.plugins.plugin_utils.collection import collection_version

    parts = (
        f"trainyard {version('trainyard')}",
        f"trainyard.neuron {collection_version()} in {paths.COLLECTIONS}",
        f"ansible-core {version('ansible-core')}",
        f"Python {platform.python_version()}",
    )
    return "\n".join(parts)


def _print_versions(asked: bool) -> None:
    if asked:
        typer.echo(versions())
        raise typer.Exit


@app.callback()
def trainyard(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_versions, help="Print the versions, and exit.")
    ] = False,
) -> None:
    """Plan, try out and measure LLM fleets on AWS Trainium."""


def main() -> None:
    """Run the command; the entry point of the package."""
    app()
