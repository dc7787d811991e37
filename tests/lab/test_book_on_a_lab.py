# SPDX-License-Identifier: Apache-2.0
"""The commands that the book quotes, on a stand-in fleet: the first hour in its order, then the others of the list.

One lab goes through its life in the order of the tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs import quoted, story
from tests.stand_in import Lab
from trainyard.paths import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("book")]

STORY = list(story.steps(story.PAGE.read_text(encoding="utf-8")))
LISTED = {command: known["lab"] for command, known in quoted.listed().items() if "lab" in known}
#: Of the lines that the page has, those that a run must print again; what is under way when it is looked at differs.
SAME = 0.8
REPLICA = "tiny-llama-0"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    made = Lab(f"book-{os.getpid()}")
    try:
        yield made
    finally:
        made.trainyard("lab", "down", "--name", made.name)


def last_run(results: Path) -> str:
    """The newest benchmark's directory."""
    return max(results.glob("*/report.json"), key=lambda path: path.stat().st_mtime).parent.name


@pytest.mark.parametrize("step", STORY, ids=lambda step: f"{step.line}-{step.command}")
def test_the_first_hour_goes_as_the_page_says(lab: Lab, step: story.Step) -> None:
    code, lines = story.run(lab, step.command)
    assert bool(code) == step.fails, "\n".join(lines[-60:])
    shown = [line for line in step.printed if line.strip() and line != story.LEFT_OUT]
    said = {story.plain(line) for line in lines}
    lost = [line for line in shown if story.plain(line) not in said]
    assert len(lost) <= (1 - SAME) * len(shown), "\n".join(
        ["the page has, and the run has not:", *lost, "the run:", *lines]
    )


@pytest.mark.parametrize("command", LISTED)
def test_a_command_of_the_book_does_on_a_fleet_what_it_is_quoted_for(lab: Lab, command: str, tmp_path: Path) -> None:
    line = command if LISTED[command] is True else str(LISTED[command])
    for word, value in {
        "inventory/trn2": "inventory/lab",
        "{host}": "lab-1",
        "{replica}": REPLICA,
        "{tmp}": str(tmp_path),
        "{run}": last_run(ROOT / "results") if "{run}" in line else "",
    }.items():
        line = line.replace(word, value)
    code, lines = story.run(lab, line)
    assert code == 0, "\n".join(lines[-60:])
