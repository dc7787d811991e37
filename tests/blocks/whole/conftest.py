# SPDX-License-Identifier: Apache-2.0
"""The account of the scenario, and the table at its end."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest

from tests.blocks.whole.account import Account

#: A line for each part of the scenario that is over.
PARTS: list[Part] = []


@dataclass(frozen=True)
class Part:
    """What one part of the scenario came to.

    Attributes:
        what: happened.
        sent: requests.
        failed: requests of these.
        compiles: graphs that were compiled on the hosts that it is about.
        seconds: that it took, or that nobody served.
    """

    what: str
    sent: int
    failed: int
    compiles: int
    seconds: float


@pytest.fixture(scope="session")
def account(tmp_path_factory: pytest.TempPathFactory) -> Account:
    """The lab that TRAINYARD_LAB names, with an empty account."""
    found = Account(os.environ["TRAINYARD_LAB"], tmp_path_factory.mktemp("life"))
    found.write_inventory()
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what each part came to."""
    head = ("simulated", "requests", "failed", "compiles", "seconds")
    rows = [(part.what, *map(str, (part.sent, part.failed, part.compiles, round(part.seconds)))) for part in PARTS]
    widths = [max(len(row[place]) for row in (head, *rows)) for place in range(len(head))]
    for row in (head, *rows) if rows else ():
        words = [word.rjust(width) for word, width in zip(row, widths, strict=True)]
        terminalreporter.write_line("  ".join([row[0].ljust(widths[0]), *words[1:]]))
