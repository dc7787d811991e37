# SPDX-License-Identifier: Apache-2.0
"""The story of a page: its commands in their order, run on a lab, and what they printed put below them.

python -m tests.docs.story LAB [PAGE]    runs docs/first-hour.md on a lab of that name, left up, and writes it
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.docs.quoted import ROOT, RUN, bare, blocks
from tests.stand_in import Lab

PAGE = ROOT / "docs" / "first-hour.md"
LEFT_OUT = "..."
#: Wide enough for a table, narrow enough for a page.
COLUMNS = "110"


@dataclass
class Step:
    """A command of a story.

    Attributes:
        command: as the page has it.
        line: where the command stands in the page, from 1.
        how: how much of the output the page has (`first 5, last 3`; nothing: all of it), or that it `fails`.
        printed: what stands below it now.
    """

    command: str
    line: int
    how: str
    printed: list[str] = field(default_factory=list)

    @property
    def fails(self) -> bool:
        """Whether the command is there to show how it fails."""
        return "fails" in self.how


def steps(text: str) -> Iterator[Step]:
    """The commands of a page that are run where they stand."""
    for block in blocks(text):
        how = RUN.match(block.before)
        if block.info != "console" or how is None:
            continue
        step = None
        for number, line in enumerate(block.lines, block.line):
            if line.startswith("$ "):
                if step:
                    yield step
                step = Step(bare(line.removeprefix("$ ")), number, how["how"] or "")
            elif step:
                step.printed.append(line)
        if step:
            yield step


def shortened(lines: list[str], how: str) -> list[str]:
    """As much of an output as the page is to have."""
    first, last = (int(found[1]) if (found := re.search(rf"{word} (\d+)", how)) else 0 for word in ("first", "last"))
    if not first + last or len(lines) <= first + last:
        return lines
    return [*lines[:first], LEFT_OUT, *lines[len(lines) - last :]]


def plain(line: str) -> str:
    """A line without what differs from one lab to the next: numbers, digests, and how wide a table is."""
    line = re.sub(r"\b[0-9a-f]{12,}\b", "0", line)
    line = re.sub(r"\d+(\.\d+)*", "0", line)
    return " ".join(re.sub(r"[-─━═*]{2,}", "-", line).split())


def run(lab: Lab, command: str) -> tuple[int, list[str]]:
    """Give a command as a reader of the page does; its exit code and the lines of both its outputs."""
    environment = {
        **{name: value for name, value in lab.environment.items() if not name.startswith("ANSIBLE_")},
        "COLUMNS": COLUMNS,
        "PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-euc", filled(lab, command)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    said = done.stdout.replace(f"{ROOT}/", "").replace(lab.name, "default")
    return done.returncode, [line.rstrip() for line in said.strip("\n").splitlines()]


def filled(lab: Lab, command: str) -> str:
    """A command with a lab's own in place of what stands for the reader's."""
    return re.sub(r"\bROUTER\b", lambda _: lab.router_address, command)


def written(text: str, outputs: Callable[[Step], list[str]]) -> str:
    """The page with what each command printed below it."""
    lines = text.splitlines()
    for step in sorted(steps(text), key=lambda step: -step.line):
        lines[step.line : step.line + len(step.printed)] = outputs(step)
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    """Entry point; 1 where a command did not end as the page says."""
    lab = Lab(argv[0])
    page = Path(argv[1]) if len(argv) > 1 else PAGE
    text, printed = page.read_text(encoding="utf-8"), {}
    for step in steps(text):
        sys.stderr.write(f"$ {step.command}\n")
        code, lines = run(lab, step.command)
        if bool(code) != step.fails:
            sys.stderr.write("\n".join([*lines[-40:], f"exit code {code}\n"]))
            return 1
        printed[step.line] = shortened(lines, step.how)
    page.write_text(written(text, lambda step: printed[step.line]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
