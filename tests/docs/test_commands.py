# SPDX-License-Identifier: Apache-2.0
"""Every command that a page quotes is known: run here, on a lab, or by a file that is named; and none is misspelt."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.docs import quoted
from tests.docs.quoted import ROOT
from trainyard.cli import COMMANDS as COMMANDS_OF_OURS

PAGES = quoted.pages()
COMMANDS = [one for page in PAGES for one in quoted.quoted(page)]
LISTED: dict[str, dict[str, Any]] = quoted.listed()
WITHOUT = {one.command for one in COMMANDS if not one.story}
CHEAP = {command: known["run"] for command, known in LISTED.items() if "run" in known}
USAGE = re.compile(r"^# Usage: (ansible-playbook .*?)(?: {2,}.*)?$", re.MULTILINE)
#: Each playbook once, with an inventory that it is quoted with: that of real hosts where it is among them.
PARSED = sorted(
    {
        found[1]: found[2]
        for one in sorted(COMMANDS, key=lambda one: "inventory/trn2" in one.command)
        if (found := re.match(r"ansible-playbook (\S+\.yml) -i (\S+)", one.command)) is not None
    }.items()
)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("book")


def run(line: str, work: Path) -> subprocess.CompletedProcess[str]:
    """A line of shell at the root of the tree, as a reader gives it."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    filled = line.replace("{root}", str(ROOT)).replace("{tmp}", str(work))
    return subprocess.run(
        ["bash", "-euc", filled], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_the_pages_quote_commands() -> None:
    assert len(COMMANDS) > 80
    assert any(one.story for one in COMMANDS)


def test_every_command_is_known_and_none_is_listed_that_no_page_has() -> None:
    lost = [f"{one.at}: {one.command}" for one in COMMANDS if not one.story and one.command not in LISTED]
    assert lost == [], "give each a line in tests/docs/commands.yml"
    assert sorted(set(LISTED) - WITHOUT) == []


def test_every_line_says_what_runs_it() -> None:
    assert [command for command, known in LISTED.items() if not known.keys() & {"run", "lab", "by"}] == []
    assert [command for command, known in LISTED.items() if known.keys() - {"run", "lab", "by"}] == []


@pytest.mark.parametrize("command", [command for command, known in LISTED.items() if "by" in known])
def test_who_else_runs_it_is_there(command: str) -> None:
    by = LISTED[command]["by"]
    assert by["holds"] in (ROOT / by["file"]).read_text(encoding="utf-8")


def test_every_command_is_what_its_program_takes() -> None:
    wrong = [f"{one.at}: {one.command}: {why}" for one in COMMANDS if (why := quoted.wrong(one.command))]
    assert wrong == []


def test_commands_in_the_text_are_too() -> None:
    found = [one for page in PAGES for one in quoted.inline(page)]
    assert len(found) > 40
    assert [f"{one.at}: {one.command}: {why}" for one in found if (why := quoted.wrong(one.command, whole=False))] == []


def test_no_command_stands_where_nothing_looks_at_it() -> None:
    assert [f"{one.at}: {one.command}" for page in PAGES for one in quoted.strays(page)] == []


def test_the_usage_of_a_playbook_is_what_ansible_takes() -> None:
    said = [
        (path.name, found[1])
        for path in (ROOT / "site.yml", *sorted(ROOT.glob("playbooks/*.yml")))
        for found in USAGE.finditer(path.read_text(encoding="utf-8"))
    ]
    assert len(said) > 8
    assert [(name, line, why) for name, line in said if (why := quoted.wrong(re.sub(r"[\[\]]", "", line)))] == []


@pytest.mark.parametrize("command", CHEAP)
def test_a_cheap_one_runs(command: str, work: Path) -> None:
    done = run(command if CHEAP[command] is True else str(CHEAP[command]), work)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize("name", COMMANDS_OF_OURS)
def test_each_sub_command_says_what_it_takes(name: str, work: Path) -> None:
    # In a process of its own: in this one the collection has been imported already.
    done = run(f"trainyard {name} --help", work)
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"Usage: trainyard {name}" in done.stdout


@pytest.mark.parametrize(("playbook", "inventory"), PARSED)
def test_a_playbook_is_read_with_its_inventory(playbook: str, inventory: str, work: Path) -> None:
    # The one that `trainyard init` would have made is not there; a shipped one stands for it.
    there = inventory if inventory != quoted.MADE else "inventory/trn2"
    done = run(f"ansible-playbook {playbook} -i {there} --list-tasks", work)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "tasks:" in done.stdout


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("trainyard plan -i inventory/trn2 --jsn", "trainyard plan has no --jsn"),
        ("trainyard plann -i inventory/trn2", "there is no trainyard plann"),
        ("trainyard lab up --hosts many", "--hosts"),
        ("trainyard plan", "--inventory"),
        ("trainyard artifact lss -i inventory/trn2", "there is no trainyard artifact lss"),
        ("ansible-playbook playbooks/redeploi.yml -i inventory/trn2", "there is no playbook playbooks/redeploi.yml"),
        ("ansible-playbook site.yml -i inventory/trn3", "there is no inventory inventory/trn3"),
        ("ansible-playbook site.yml -i inventory/trn2 --chek", "--chek"),
        ("ansible-playbook site.yml -i inventory/trn2 --tags benchmrk", "has the tag benchmrk"),
        ("ansible-playbook site.yml", "no inventory is named"),
        ("make dmeo", "there is no target dmeo"),
        ("make demo HOST=2", "the Makefile reads no HOST"),
        ("pytest -m lab tests/atack", "there is no tests/atack"),
        ("python docs/messages.py --pages", "has no --pages"),
        ("molecule test -s sit", "there is no scenario sit"),
        ("trainyard report results/RUN 'x", "No closing quotation"),
        ("make venv && trainyard plann", "there is no trainyard plann"),
        ("trainyard init inventory/mine --recipy qwen3-32b", "trainyard init has no --recipy"),
    ],
)
def test_what_is_misspelt_is_found(command: str, why: str) -> None:
    assert why in quoted.wrong(command)


def test_a_page_is_read_as_a_reader_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quoted, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "Give `trainyard plan -i X`.\n\n"
        "```console\n$ one 'a # b'   # said\n  printed\n$ two \\\n>   more\n```\n\n"
        "<!-- run: first 3 -->\n```console\n$ three\nits output\n```\n\n"
        "    trainyard plan -i hidden\n\n"
        "```yaml\na: 1\n```\n\n```\nmake hidden\n```\n",
        encoding="utf-8",
    )
    assert [(one.command, one.line, one.story) for one in quoted.quoted(page)] == [
        ("one 'a # b'", 4, False),
        ("two more", 6, False),
        ("three", 12, True),
    ]
    assert [one.command for one in quoted.strays(page)] == ["trainyard plan -i hidden", "make hidden"]
    assert [(one.command, one.line) for one in quoted.inline(page)] == [("trainyard plan -i X", 1)]
