# SPDX-License-Identifier: Apache-2.0
"""A few inputs for every parser and schema, the same each time; `make fuzz` gives them many, others each time."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import strategies as st

from tests.fuzz import engine
from tests.fuzz.engine import Target, fuzz
from tests.fuzz.targets import TARGETS
from trainyard.paths import ROOT

#: Inputs of one target for its weight of 1.
FEW = 12


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_no_input_ends_in_a_traceback_takes_too_long_or_is_wrongly_accepted(target: Target) -> None:
    tally = fuzz(target, FEW * min(target.weight, 4), 20261130)
    assert tally.clean, "\n".join(tally.shown)
    assert tally.inputs >= FEW / 3
    assert tally.accepted > 0, "no input was valid, so nothing behind the first check was reached"


def faulty(kind: str) -> Target:
    def run(_value: Any) -> Any:
        if kind == "traceback":
            return [][1]
        while kind == "hang":
            pass
        if kind == "refusal":
            raise ValueError
        return None

    return Target(kind, st.integers(), run, (ValueError,), lambda *_: "planted" if kind == "wrong" else "")


@pytest.mark.parametrize(
    ("kind", "counted"),
    [("traceback", (1, 0, 0)), ("hang", (0, 1, 0)), ("wrong", (0, 0, 1)), ("refusal", (0, 0, 0)), ("fine", (0, 0, 0))],
)
def test_each_kind_of_failure_is_counted(kind: str, counted: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "INPUT_S", 0.2)
    tally = fuzz(faulty(kind), 1, 1)
    assert (tally.tracebacks, tally.hangs, tally.wrong) == counted
    assert tally.clean is not any(counted)
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


def test_the_last_line_says_what_was_found_and_the_exit_follows_it() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--inputs", "60", "--only", "canary", "--seed", "3", "--jobs", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    last = run.stdout.splitlines()[-1]
    assert re.fullmatch(r"fuzz: inputs=\d+ tracebacks=0 hangs=0 wrongly_accepted=0", last), run.stdout
    assert run.returncode == 0
