# SPDX-License-Identifier: Apache-2.0
"""Whatever stands where a command wants a path: words and an exit code that is documented, never a traceback."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.bench.seeded_truths import six
from tests.bench.test_report import saved
from tests.simulated_runs import write_run
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
USUAL = ("missing", "folder", "unreadable", "binary", "a long name", "no UTF-8")
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
        # What a terminal cannot show: Python has such bytes as surrogates.
        "no UTF-8": os.fsdecode(os.fsencode(folder) + b"/\xff\xfe"),
        "a newline": str(folder / "one\ntwo"),
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


#: Those that end in a program of their own, and one that prints a path and nothing else.
WITHOUT_JSON = {"ssh", "lab ssh", "lab inventory"}


def test_every_command_has_a_document_for_programs_and_the_page_says_which() -> None:
    every = {leaf for name in COMMANDS for leaf in leaves(name)}
    have = {leaf for leaf in every if any("--json" in one.opts for one in command_of(leaf).params)}
    assert every - have == WITHOUT_JSON
    page = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    told = set()
    for row in re.findall(r"^\| (`trainyard .*?) \|", page, re.MULTILINE):
        first, *others = re.findall(r"`(?:trainyard )?([a-z -]*?) --json`", row)
        told |= {first, *(other if other in every else f"{first.split()[0]} {other}" for other in others)}
    assert told == have


#: Commands that can be run here, and what of their document is known before.
DOCUMENTS: dict[str, tuple[list[str], Callable[[Any], bool]]] = {
    "init": (["{tmp}/made", "--recipe", "qwen3-32b", "--host", "a=10.0.0.11"], lambda one: "hosts.yml" in one["files"]),
    "report": (["{run}", "--output", "{tmp}/a.html"], lambda one: one["runs"][0]["provenance"] == one["provenance"]),
    "report --history": (["{run}", "--history"], lambda one: one["runs"][0]["regressions"] == []),
    "sweep": (
        [GOOD["file"], "-i", "inventory/hosts.yml", "--check"],
        lambda one: {"name", "possible", "reason"} == set(one["points"][0]),
    ),
    "block-watch": (["-i", "inventory/hosts.yml"], lambda one: {"blocks", "events", "told", "problem"} == set(one)),
    "join-release": (
        ["-i", "inventory", "--key", "{key}", "--store", "s3://a/b", "--output", "{tmp}/release"],
        lambda one: one["trainium_launch_join"]["release"].startswith("s3://a/b/"),
    ),
    "calibrate": (["{point}", "--output", "{tmp}/c.json"], lambda one: one["file"].endswith("c.json")),
    "lab down": (["--name", "never-made"], lambda one: one == {"lab": "never-made", "containers": 0, "cache": []}),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_standard_output_is_one_document(
    name: str, known: dict[str, str], tmp_path: Path, called: Callable[[list[str]], dict[str, Any]]
) -> None:
    words, holds = DOCUMENTS[name]
    filled = [word.format(**known, tmp=tmp_path) for word in words]
    answer = called([*name.split()[: 1 + name.startswith("lab ")], *filled, "--json"])
    assert holds(json.loads(answer["said"])), answer["output"]


#: Options that name a file to be written, and what a command needs to come so far; a pair of words for each.
WRITING = {
    "plan": ["plan", "-i", "inventory/hosts.yml", "--svg"],
    "report": ["report", "{run}", "--output"],
    "report --history": ["report", "{run}", "--history", "--output"],
    "calibrate": ["calibrate", "{point}", "--output"],
    "block-watch": ["block-watch", "-i", "inventory/hosts.yml", "--metrics"],
    "join-release": ["join-release", "-i", "inventory", "--key", "{key}", "--store", "s3://a/b", "--output"],
}
ENDING = {"report": ".html", "report --history": ".md"}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What stands for the words in braces."""
    folder = tmp_path_factory.mktemp("known")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
    # A run of which constants can be had.
    point = write_run(folder / "point", *six(1, 0.0)[0])
    return {"run": str(saved(folder, "run")), "point": str(point), "key": str(folder / "key")}


@pytest.mark.parametrize("name", WRITING)
def test_a_file_that_is_somebody_s_is_not_replaced_and_one_s_own_is(
    name: str, known: dict[str, str], tmp_path: Path, called: Callable[[list[str]], dict[str, Any]]
) -> None:
    target = tmp_path / f"file{ENDING.get(name, '')}"
    words = [*(word.format(**known) for word in WRITING[name]), str(target)]
    target.write_text("what I wrote\n", encoding="utf-8")
    target.chmod(0o640)
    answer = called(words)
    assert answer["exit_code"] == 2, answer["output"]
    assert f"{target} cannot be written: it is there, and this command did not make it" in answer["output"]
    assert target.read_text(encoding="utf-8") == "what I wrote\n"
    target.write_text("", encoding="utf-8")
    for _ in ("into an empty file", "over its own"):
        before = target.stat().st_ino
        answer = called(words)
        assert "cannot be written" not in answer["output"]
        assert target.stat().st_size
        assert (target.stat().st_ino != before, target.stat().st_mode & 0o777) == (True, 0o640)
    assert {path.name for path in tmp_path.iterdir()} <= {target.name, f"{target.name}.sig"}


def test_a_pipe_is_written_to_as_it_is() -> None:
    argv = ["trainyard", "plan", "-i", str(ROOT / "inventory/trn2"), "--json", "--svg", "/dev/stderr"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "<!-- trainyard plan -->" in done.stderr
    assert json.loads(done.stdout)["hosts"]


def test_every_option_that_names_a_file_to_write_is_looked_at() -> None:
    """Directories are named beside it: a command writes its own names there."""
    folders = {"accept output", "sweep output", "bundle create folder", "bundle install to", "init directory"}
    named = {f"{one.command} {one.parameter.name}" for one in EVERY}
    writing = {one for one in named if one.rpartition(" ")[2] in {"output", "svg", "metrics", "to", "folder"}}
    reading = {"bundle verify folder", "bundle install folder"}
    assert writing - folders - reading == {
        "plan svg",
        "report output",
        "calibrate output",
        "block-watch metrics",
        "join-release output",
    }
