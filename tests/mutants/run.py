# SPDX-License-Identifier: Apache-2.0
"""Puts one plausible mistake at a time into a copy of the tree and asks whether its tests notice.

``mutants.yml`` has the mistakes, a line each: the file, the text as it is (once in the file), as it would be, and the
tests that are to notice. A mistake counts as noticed when one of them fails by an assertion. An error of another kind
(an import, a fixture) and a comparison of two checksums say that something changed, not what: they do not count.

Verdicts are kept in ``build/mutants.json``. ``--resume`` takes those of mistakes that were noticed, as long as neither
the file with the mistake nor a file of its tests has changed, and tries the rest.

Usage: ``python tests/mutants/run.py [--area AREA ...] [--match TEXT] [--jobs N] [--resume] [--within MINUTES]``; exits
with 1 if one lives, with 2 if time ran out before all were tried.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any
from xml.etree import ElementTree

import yaml

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("mutants.yml")
RECORD = ROOT / "build" / "mutants.json"
AREAS = (
    "watch",
    "plan",
    "templates",
    "roll",
    "serving",
    "jobs",
    "storage",
    "routing",
    "patches",
    "benchmark",
    "lab",
    "security",
    "capacity",
    "release",
    "docs",
)
#: A test that runs longer than this under a mistake has noticed nothing.
LIMIT_S = 300
_ASSERTION = re.compile(r"^(AssertionError|assert\b|Failed:|hypothesis\.errors|ExceptionGroup)", re.MULTILINE)
_CHECKSUMS = re.compile(r"assert '[0-9a-f]{12,64}' == '[0-9a-f]{12,64}'")


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Attributes:
        area: which part of the toolkit it is in, one of ``AREAS``.
        file: path from the root of the tree.
        old: the text that is replaced; it stands in the file exactly once.
        new: what stands there instead.
        tests: what pytest is to run, paths from the root with or without ``::test``.
        needs: a variable of the environment that its tests need, as `tests/sources.py` sets it where it can.
    """

    area: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    needs: str = ""

    def __str__(self) -> str:
        """The mistake in a line."""
        return f"[{self.area}] {self.file}: {_short(self.old)} -> {_short(self.new) or '(nothing)'}"


@dataclass(frozen=True)
class Outcome:
    """What the tests said of one mistake.

    Attributes:
        mutant: the mistake.
        why: why it does not count as noticed; empty if it does.
        by: the test that noticed it.
        seconds: how long it took.
    """

    mutant: Mutant
    why: str
    by: str
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether it counts as noticed."""
        return not self.why


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _short(text: str, limit: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def load(path: Path = LIST) -> list[Mutant]:
    """The mistakes of a data file.

    Raises:
        KeyError, TypeError: a row that lacks a field or has one that is unknown.
    """
    rows: list[dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [Mutant(**{**row, "tests": tuple(row["tests"])}) for row in rows]


def fault(mutant: Mutant, root: Path = ROOT) -> str:
    """Why a row of the data file cannot be used; empty if it can."""
    path = root / mutant.file
    if mutant.area not in AREAS:
        return f"{mutant}: no such area"
    if not path.is_file():
        return f"{mutant}: there is no such file"
    count = path.read_text(encoding="utf-8").count(mutant.old)
    if count != 1:
        return f"{mutant}: the text stands {count} times in the file"
    missing = [test for test in mutant.tests if not (root / test.partition("::")[0]).exists()]
    return f"{mutant}: no such test: {', '.join(missing)}" if missing or not mutant.tests else ""


def _copy(target: Path) -> None:
    """What git knows of the tree, as it lies here."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        source = ROOT / name
        if source.is_symlink() or source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name, follow_symlinks=False)


@contextmanager
def _applied(mutant: Mutant, tree: Path) -> Iterator[None]:
    path = tree / mutant.file
    before, times = path.read_text(encoding="utf-8"), path.stat()
    path.write_text(before.replace(mutant.old, mutant.new), encoding="utf-8")
    # Compiled modules are told apart by whole seconds and size: no two texts of a file may share both.
    unique = int(times.st_mtime) + 1 + int.from_bytes(hashlib.sha256(str(mutant).encode()).digest()[:3], "big")
    os.utime(path, (unique, unique))
    try:
        yield
    finally:
        path.write_text(before, encoding="utf-8")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def state(mutant: Mutant, root: Path = ROOT) -> str:
    """A sum of a mistake, its file and its tests: a verdict holds while it is equal."""
    total = hashlib.sha256(json.dumps([mutant.file, mutant.old, mutant.new, mutant.tests]).encode())
    for name in (mutant.file, *(test.partition("::")[0] for test in mutant.tests)):
        path = root / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            total.update(file.read_bytes())
    return total.hexdigest()


def _recorded() -> dict[str, float]:
    """State of each mistake that was noticed -> the seconds that it took; and which tests passed in which tree."""
    try:
        found: dict[str, float] = json.loads(RECORD.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _record(found: dict[str, float]) -> None:
    RECORD.parent.mkdir(exist_ok=True)
    half = RECORD.with_suffix(".new")
    half.write_text(json.dumps(found, indent=0), encoding="utf-8")
    half.replace(RECORD)


class Tree:
    """A copy of the tree, and a process that runs its tests (`forks.py`)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment = {**os.environ, "PYTHONPATH": str(path / "src"), "ANSIBLE_CONFIG": str(path / "ansible.cfg")}
        _copy(path)
        # `-P`: nothing of this directory is a module of the tests'.
        self._runner = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("forks.py"))],
            cwd=path,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """End the process."""
        self._runner.communicate()

    def run(self, tests: Sequence[str], report: Path) -> int:
        """Exit code of pytest until the first failure, -1 if it ran out of time."""
        assert self._runner.stdin
        assert self._runner.stdout
        asked = {"arguments": _arguments(tests, report), "limit_s": LIMIT_S}
        self._runner.stdin.write(json.dumps(asked) + "\n")
        self._runner.stdin.flush()
        return int(self._runner.stdout.readline())

    def passes(self, tests: Sequence[str], jobs: int) -> bool:
        """Whether the tests pass where nothing is wrong (else they would notice anything); says which do not."""
        report = self.path / ".sound.xml"
        command = [sys.executable, "-m", "pytest", "-n", str(jobs), *_arguments(tests, report)]
        done = subprocess.run(command, cwd=self.path, env=self.environment, capture_output=True, check=False)
        if done.returncode and report.exists():
            # pytest's own report of this machine, not a stranger's.
            for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314
                for node in (*case.iter("failure"), *case.iter("error")):
                    _say(f"{case.get('classname')}::{case.get('name')}: {_short(node.get('message', ''), 300)}")
        return done.returncode == 0

    def sum(self) -> str:
        """Of all its files: where tests have passed, they need not be run again."""
        total = hashlib.sha256()
        for path in sorted(path for path in self.path.rglob("*") if path.is_file() and not path.is_symlink()):
            if "__pycache__" not in path.parts and not path.name.endswith(".xml"):
                total.update(str(path.relative_to(self.path)).encode() + path.read_bytes())
        return total.hexdigest()


def _arguments(tests: Sequence[str], report: Path) -> list[str]:
    fixed = ["-x", "-q", "--tb=short", "-p", "no:cacheprovider", "-m", "not lab and not vm"]
    return [*fixed, f"--junitxml={report}", *tests]


def verdict(returned: int, report: str) -> str:
    """Why a run of pytest does not count as having noticed a mistake; empty if it does.

    Args:
        returned: pytest's exit code, -1 if it ran out of time.
        report: its JUnit report; empty if it wrote none.
    """
    if returned == 0:
        return "lives"
    if returned < 0:
        return f"lives: no answer within {LIMIT_S} s"
    # pytest's own report of this machine, not a stranger's.
    nodes = ElementTree.fromstring(report).iter("failure") if report else ()  # noqa: S314
    failures = [node.get("message", "") for node in nodes]
    if not failures:
        return "an error, and no assertion, noticed it"
    if any(_ASSERTION.search(text) and not _CHECKSUMS.search(text) for text in failures):
        return ""
    return f"noticed by a checksum or an accident only: {_short(failures[0], 100)}"


def noticed_by(report: str) -> str:
    """The first test that failed in a JUnit report, without its parameters; empty if none did."""
    cases = ElementTree.fromstring(report).iter("testcase") if report else ()  # noqa: S314 - as above
    failed = [case.get("name", "") for case in cases if case.find("failure") is not None]
    return failed[0].partition("[")[0] if failed else ""


def _try(mutant: Mutant, trees: Queue[Tree]) -> Outcome:
    tree = trees.get()
    began = time.monotonic()
    report = tree.path / ".mutant.xml"
    try:
        report.unlink(missing_ok=True)
        with _applied(mutant, tree.path):
            returned = tree.run(mutant.tests, report)
        text = report.read_text(encoding="utf-8") if report.exists() else ""
    finally:
        trees.put(tree)
    return Outcome(mutant, verdict(returned, text), noticed_by(text), time.monotonic() - began)


def _tests_of(mutants: list[Mutant]) -> list[str]:
    """The tests of some mistakes, each once: a file that is run whole has each of its tests."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    return [test for test in tests if "::" not in test or test.partition("::")[0] not in tests]


def _chosen(arguments: argparse.Namespace) -> list[Mutant]:
    return [
        mutant
        for mutant in load()
        if (not arguments.area or mutant.area in arguments.area) and arguments.match in str(mutant)
    ]


def _try_all(mutants: list[Mutant], jobs: int, known: dict[str, float], until: float) -> list[Outcome] | None:
    """What the tests said of each; None where they fail without a mistake. What is noticed goes into the record."""
    with tempfile.TemporaryDirectory(prefix="trainyard-mutants-") as folder, ExitStack() as stack:
        trees: Queue[Tree] = Queue()
        for number in range(jobs):
            tree = Tree(Path(folder, str(number)))
            stack.callback(tree.close)
            trees.put(tree)
        whole = tree.sum()
        unknown = [test for test in _tests_of(mutants) if f"sound {test} {whole}" not in known]
        if unknown and not tree.passes(unknown, jobs):
            _say("The tests fail without any mistake: mend that first.")
            return None
        known.update({f"sound {test} {whole}": 0.0 for test in unknown})
        outcomes = []
        with ThreadPoolExecutor(jobs) as pool:
            tries = [
                pool.submit(lambda one: _try(one, trees) if time.monotonic() < until else None, m) for m in mutants
            ]
            # As they come: one that keeps its tests waiting holds back no other's verdict.
            for outcome in filter(None, (done.result() for done in as_completed(tries))):
                _say(f"{'killed' if outcome.killed else 'ALIVE '} {outcome.seconds:5.1f} s  {outcome.mutant}")
                _say(f"       {outcome.why or 'by ' + outcome.by}")
                outcomes.append(outcome)
                if outcome.killed:
                    known[state(outcome.mutant)] = round(outcome.seconds, 1)
                    _record(known)
    return outcomes


def main() -> int:
    """Try them all; the survivors are named at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--area", action="append", choices=AREAS, help="only these areas")
    parser.add_argument("--match", default="", help="only mistakes whose line has this text")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="how many at once, each in a copy of its own"
    )
    parser.add_argument(
        "--resume", action="store_true", help="not those that were noticed before, if nothing has changed"
    )
    parser.add_argument("--within", type=float, default=float("inf"), help="begin none after this many minutes")
    arguments = parser.parse_args()
    until = time.monotonic() + 60 * arguments.within
    mutants = _chosen(arguments)
    faults = list(filter(None, map(fault, mutants)))
    if faults or not mutants:
        _say("\n".join(faults) or "no mistake is chosen")
        return 1
    for name in sorted({mutant.needs for mutant in mutants if mutant.needs and not os.environ.get(mutant.needs)}):
        lacking = [mutant for mutant in mutants if mutant.needs == name]
        _say(f"not tried, since {name} names no source: {len(lacking)} mistakes")
        mutants = [mutant for mutant in mutants if mutant not in lacking]
    known = _recorded() if arguments.resume else {}
    left = [mutant for mutant in mutants if state(mutant) not in known]
    before = len(mutants) - len(left)
    _say(
        f"{len(mutants)} mistakes{f', {before} of them noticed before' if before else ''}; first the tests without any"
    )
    outcomes = _try_all(left, max(1, arguments.jobs), known, until) if left else []
    if outcomes is None:
        return 1
    survivors = [outcome for outcome in outcomes if not outcome.killed]
    for outcome in survivors:
        _say(f"\n{outcome.mutant}\n  {outcome.why}\n  tests: {' '.join(outcome.mutant.tests)}")
    untried = len(left) - len(outcomes)
    killed = before + len(outcomes) - len(survivors)
    _say(f"\nmutants={len(mutants)} killed={killed} alive={len(survivors)} untried={untried}")
    if survivors or untried:
        return 1 if survivors else 2
    _say("all killed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
