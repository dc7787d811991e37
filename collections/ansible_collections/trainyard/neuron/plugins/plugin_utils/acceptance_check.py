# SPDX-License-Identifier: Apache-2.0
"""A check of acceptance: one thing that the product relies on, with its source and the first line of ours that does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.trainyard.neuron.plugins.plugin_utils.collection import HOME

PASSED, DIFFERS, SKIPPED = "passed", "differs", "not judged"


class DifferenceError(Exception):
    """What was seen is not what is expected; the text is what was seen."""


class NotJudgedError(Exception):
    """Nothing there to judge; the text says why."""


@dataclass(frozen=True)
class Check:
    """One thing that is relied on.

    Attributes:
        name: stable, for people who compare reports.
        stage: which stage sees it.
        source: where it is written.
        expected: in words.
        depends: file of the collection and a text in it: the first line of ours that relies on it.
        judge: takes the evidence, returns what was seen; `DifferenceError`, `NotJudgedError`.
    """

    name: str
    stage: str
    source: str
    expected: str
    depends: tuple[str, str]
    judge: Callable[[Mapping[str, Any]], str]

    def place(self) -> str:
        """Return the file and line of ours that relies on it."""
        file, text = self.depends
        lines = (HOME / file).read_text(encoding="utf-8").splitlines()
        return f"{file}:{next(number for number, line in enumerate(lines, 1) if text in line)}"

    def result(self, evidence: Mapping[str, Any]) -> dict[str, str]:
        """Return the verdict on some evidence, JSON-ready."""
        try:
            outcome, seen = PASSED, self.judge(evidence)
        except DifferenceError as error:
            outcome, seen = DIFFERS, str(error)
        except NotJudgedError as error:
            outcome, seen = SKIPPED, str(error)
        except (TypeError, KeyError, ValueError, AttributeError, IndexError, RecursionError) as error:
            outcome, seen = DIFFERS, f"it cannot be read: {type(error).__name__}"
        return {
            "name": self.name,
            "stage": self.stage,
            "outcome": outcome,
            "expected": self.expected,
            "seen": seen[:500],
            "source": self.source,
            "depends": self.place(),
        }
