# SPDX-License-Identifier: Apache-2.0
"""The `trainyard` command itself: its sub-commands, and what calling one of them loads."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from trainyard.cli import COMMANDS, app
from trainyard.paths import ROOT


@pytest.mark.parametrize("name", COMMANDS)
def test_each_sub_command_answers_and_is_in_the_help(name: str) -> None:
    called = CliRunner().invoke(app, [name, "--help"])
    assert called.exit_code == 0, called.output
    assert f"{name} [OPTIONS]" in called.output
    assert f"│ {name} " in CliRunner().invoke(app, ["--help"]).output


def test_name_that_is_none_is_refused() -> None:
    refused = CliRunner().invoke(app, ["provison"])
    assert refused.exit_code == 2
    assert "No such command" in refused.output


def loaded_by(*arguments: str) -> set[str]:
    """The packages that a call has loaded when it ends."""
    program = (
        "import sys\nfrom trainyard.cli import app\n"
        f"try:\n    app({list(arguments)!r})\nexcept SystemExit:\n    pass\n"
        "print(' '.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split())


def test_a_sub_command_loads_no_library_of_another() -> None:
    of_the_report = {"jinja2", "yaml"}
    assert of_the_report <= loaded_by("report", "--help")
    assert not of_the_report & loaded_by("lab", "status", "--help")
    assert not of_the_report & loaded_by("plan", "--help")
