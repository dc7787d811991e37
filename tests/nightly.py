# SPDX-License-Identifier: Apache-2.0
"""Runs every suite that `make test` leaves out, one after the other, and says at the end what ran and what was skipped.

A suite that fails does not keep the next from running. The last lines are a table; the exit code is 1 if one failed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_name("suites.yml")
_SKIPPED = re.compile(r"^SKIPPED \[(\d+)\] (\S+?)(?::\d+)?: (.*)$")
_COUNTS = re.compile(r"(\d+) (passed|failed|error|errors)\b")


@dataclass
class Ran:
    """One suite's run: exit code, minutes, what pytest counted, and why tests were skipped, with their number."""

    target: str
    code: int
    minutes: float
    passed: int = 0
    failed: int = 0
    skipped: dict[str, int] = field(default_factory=dict)


def suites(path: Path = LIST) -> list[dict[str, Any]]:
    """The suites of the data file."""
    return list(yaml.safe_load(path.read_text(encoding="utf-8")))


def read(target: str, code: int, minutes: float, lines: Iterable[str]) -> Ran:
    """What a suite's output says of its tests; a suite may run pytest several times."""
    ran = Ran(target, code, minutes)
    for line in lines:
        if found := _SKIPPED.match(line.strip()):
            reason = f"{found[2]}: {found[3]}"
            ran.skipped[reason] = ran.skipped.get(reason, 0) + int(found[1])
        elif " in " in line:
            for number, word in _COUNTS.findall(line):
                ran.passed += int(number) if word == "passed" else 0
                ran.failed += 0 if word == "passed" else int(number)
    return ran


def run(target: str) -> Ran:
    """Run a suite, its output shown as it comes."""
    began = time.monotonic()
    environment = {**os.environ, "PYTEST_ADDOPTS": f"{os.environ.get('PYTEST_ADDOPTS', '')} -rs".strip()}
    lines = []
    with subprocess.Popen(
        ["make", "--no-print-directory", target],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            sys.stdout.write(line)
            lines.append(line)
    return read(target, process.returncode, (time.monotonic() - began) / 60, lines)


def table(runs: list[Ran]) -> list[str]:
    """The lines that tell how the night went."""
    lines = ["", f"{'suite':<12} {'result':<8} {'minutes':>8} {'passed':>7} {'failed':>7} {'skipped':>8}"]
    lines += [
        f"{ran.target:<12} {'FAILED' if ran.code else 'passed':<8} {ran.minutes:8.1f} {ran.passed:7} {ran.failed:7} "
        f"{sum(ran.skipped.values()):8}"
        for ran in runs
    ]
    skipped = [f"  {ran.target}: {reason} ({count})" for ran in runs for reason, count in sorted(ran.skipped.items())]
    return [*lines, *(["", "Skipped, and why:", *skipped] if skipped else ["", "Nothing was skipped."])]


def main() -> int:
    """Run the night's suites."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", help="only these targets")
    wanted = parser.parse_args().only
    chosen = [row for row in suites() if row.get("nightly") and (not wanted or row["target"] in wanted)]
    sys.stdout.write(
        f"{len(chosen)} suites, about {sum(row['minutes'] for row in chosen)} minutes on a quiet machine\n"
    )
    runs = [run(row["target"]) for row in chosen]
    sys.stdout.write("\n".join(table(runs)) + "\n")
    return int(any(ran.code for ran in runs))


if __name__ == "__main__":
    sys.exit(main())
