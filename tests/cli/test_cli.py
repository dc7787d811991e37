# SPDX-License-Identifier: Apache-2.0
"""The `trainyard` command itself: its sub-commands, and what calling one of them loads."""

from __future__ import annotations

import os
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


def test_versions_are_told() -> None:
    told = CliRunner().invoke(app, ["--version"])
    assert told.exit_code == 0
    assert [line.split()[0] for line in told.output.splitlines()] == [
        "trainyard",
        "trainyard.neuron",
        "ansible-core",
        "Python",
    ]


def test_the_shell_completes_sub_commands_and_options() -> None:
    def completed(line: str) -> set[str]:
        words = {"_TRAINYARD_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        run = subprocess.run(["trainyard"], env={**os.environ, **words}, capture_output=True, text=True, check=False)
        return set(run.stdout.split())

    assert completed("trainyard ") == set(COMMANDS)
    assert {"up", "down", "inventory"} <= completed("trainyard lab ")
    assert {"--json", "--diff"} <= completed("trainyard plan --")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(36, "File name too long", "x"), 2, "error: x: File name too long"),
        (KeyError("replicas"), 70, "error: KeyError: 'replicas': a mistake of trainyard's; TRAINYARD_DEBUG=1 shows"),
    ],
)
def test_what_no_command_foresaw_is_a_line_and_a_code_that_is_documented(
    error: Exception, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fall(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("trainyard.show_command.plan_or_exit", fall)
    called = CliRunner().invoke(app, ["show", "-i", "x"])
    assert called.exit_code == code
    assert called.output.startswith(said)
    assert f"| {code} |" in (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    monkeypatch.setenv("TRAINYARD_DEBUG", "1")
    assert CliRunner().invoke(app, ["show", "-i", "x"]).exception is error


def test_a_name_that_is_no_text_is_shown_with_its_bytes_spelt_out() -> None:
    refused = CliRunner().invoke(app, ["sweep", os.fsdecode(b"/\xff"), "-i", "nowhere"])
    assert refused.exit_code == 2
    assert "is no sweep" in refused.output
