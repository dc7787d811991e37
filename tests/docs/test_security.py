# SPDX-License-Identifier: Apache-2.0
"""docs/security.md names tests that exist, one at least for each boundary, and leaves no attack out."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`((?:tests|collections)/[\w/]+\.py)(?:::(\w+))?`", PAGE)


def test_every_test_that_it_names_is_there() -> None:
    assert len(NAMED) > 20
    lost = [
        f"{path}::{test}"
        for path, test in NAMED
        if not (ROOT / path).is_file() or (test and f"def {test}(" not in (ROOT / path).read_text(encoding="utf-8"))
    ]
    assert lost == []


def test_every_boundary_names_one() -> None:
    table = PAGE.partition("## Boundaries")[2].partition("\n## ")[0]
    rows = [
        line for line in table.splitlines() if line.startswith("| ") and not line.startswith(("| ---", "| boundary"))
    ]
    assert len(rows) > 20
    assert [row for row in rows if ".py" not in row.split("|")[3]] == []


def test_every_file_of_attacks_is_named() -> None:
    attacks = {f"tests/attack/{path.name}" for path in (ROOT / "tests" / "attack").glob("test_*.py")}
    assert attacks <= {path for path, _test in NAMED}
