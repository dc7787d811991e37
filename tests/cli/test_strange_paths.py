# SPDX-License-Identifier: Apache-2.0
"""Whatever stands where a command wants a path: words and an exit code that is documented, never a traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import typer

from trainyard.cli import COMMANDS, app
from trainyard.paths import ROOT

#: Exit codes of docs/commands.md.
DOCUMENTED = {0, 1, 2}
#: What makes the rest of a command line good, where one of its paths is not.
GOOD = {"inventory": "inventory/hosts.yml", "file": str(ROOT / "sweeps/llama-3-3-70b.yml")}
#: Options that are no path and have to be given, or keep a command from doing more than reading.
FURTHER = {
    "init": ["--recipe", "qwen3-32b", "--host", "a=10.0.0.11"],
    "sweep": ["--check"],
    "upgrade": ["--check", "--host", "nobody"],
    "blocks": ["--region", "nowhere-1"],
    "artifact rm": ["0123"],
}
#: Paths that are given as text, an inventory's above all: it may be a list of hosts.
AS_TEXT = {"inventory", "vault_id", "model_configs"}


@dataclass(frozen=True)
class Given:
    """A command and the parameter of it that gets a strange path."""

    command: str
    parameter: Any

    def words(self, value: str) -> list[str]:
        """The command line: the strange path for the one parameter, something good for the others that are wanted."""
        words, behind = self.command.split(), []
        for other in command_of(self.command).params:
            here = value if other.name == self.parameter.name else GOOD.get(str(other.name))
            if here is None or (other.name != self.parameter.name and not other.required):
                continue
            if other.param_type_name == "argument":
                behind.append(here)
            else:
                words += [other.opts[0], here if other.name != "vault_id" else f"x@{here}"]
        return [*words, *FURTHER.get(self.command, []), *behind]


def command_of(name: str) -> Any:
    found: Any = typer.main.get_command(app)
    for word in name.split():
        found = found.get_command(None, word)
    return found


def leaves(name: str) -> Iterator[str]:
    command = command_of(name)
    if hasattr(command, "list_commands"):
        for inner in command.list_commands(None):
            yield from leaves(f"{name} {inner}")
    else:
        yield name


def takes_a_path(parameter: Any) -> bool:
    return "Path" in str(parameter.type_descriptor.annotation) or parameter.name in AS_TEXT


EVERY = [
    Given(leaf, parameter)
    for name in COMMANDS
    for leaf in leaves(name)
    for parameter in command_of(leaf).params
    if takes_a_path(parameter)
]


#: What stands in every place; all the others in those of the commands that read most.
USUAL = ("missing", "folder", "unreadable", "binary", "a long name")
WIDE = ("plan inventory", "report runs", "report output", "sweep file")


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("strange")
    files = {"empty": b"", "binary": bytes(range(256)) * 8, "text": b"{{ not yaml: [", "null": b"a: \x00\n"}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere")
    made = {name: str(folder / name) for name in (*files, "folder", "loop", "dangling", "missing", "missing/below")}
    return {
        **made,
        "below a file": str(folder / "empty" / "x"),
        "nothing": "",
        "a long name": str(folder / ("x" * 300)),
        # What nobody can read, root neither.
        "unreadable": "/proc/self/mem",
        "a device": "/dev/null",
        "a list": "localhost,",
        "markup": str(folder / "[red]x[/nothing]"),
    }


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[list[str]], dict[str, Any]]]:
    """Runs a command line in a process of these tests' own."""
    keys = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
    nobody = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    argv = [sys.executable, "-m", "tests.cli.one_process"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    here = tmp_path_factory.mktemp("here")
    # A copy: some commands write beside the inventory.
    shutil.copytree(ROOT / "inventory/trn2", here / "inventory")
    with subprocess.Popen(
        argv,
        cwd=here,
        env={**os.environ, **keys, **nobody, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin
        assert process.stdout
        into, out = process.stdin, process.stdout

        def call(words: list[str]) -> dict[str, Any]:
            into.write(json.dumps(words) + "\n")
            into.flush()
            answer: dict[str, Any] = json.loads(out.readline())
            return answer

        yield call
        into.close()


@pytest.mark.parametrize("given", EVERY, ids=[f"{one.command} {one.parameter.name}" for one in EVERY])
def test_no_path_makes_a_traceback(
    given: Given, strange: dict[str, str], called: Callable[[list[str]], dict[str, Any]]
) -> None:
    wrong = []
    kinds = strange if f"{given.command} {given.parameter.name}" in WIDE else USUAL
    for kind in kinds:
        answer = called(given.words(strange[kind]))
        code, output = answer["exit_code"], answer["output"]
        if answer["fell"] or code not in DOCUMENTED or "Traceback" in output:
            wrong.append(f"{kind}: exit {code}: {answer['fell'] or output[-300:]}")
        elif code and not output.strip():
            wrong.append(f"{kind}: exit {code} without a word")
    assert wrong == []


def test_every_command_that_takes_a_path_is_looked_at() -> None:
    assert {"plan", "show", "sweep", "report", "init", "upgrade"} <= {one.command for one in EVERY}
    assert set(WIDE) <= {f"{one.command} {one.parameter.name}" for one in EVERY}
    assert len(EVERY) > 25
