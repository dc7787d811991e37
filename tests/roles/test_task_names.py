# SPDX-License-Identifier: Apache-2.0
"""A task's name says what is done, as an order: an operator reads it while it is done, and looks for it afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainyard.paths import ROOT

FILES = [
    *sorted(ROOT.glob("roles/*/tasks/*.yml")),
    *sorted(ROOT.glob("roles/*/handlers/*.yml")),
    *sorted(ROOT.glob("playbooks/**/*.yml")),
    ROOT / "site.yml",
]
#: First words of names; one that is not here is read by a person before it is added.
WORDS = """
Add Admit Ask Bring Build Change Check Compare Configure Decide Do Drain End Export Fail Find Give Go Heal Hold Install
Introduce Join Launch Lay Leave Let List Load Look Make Measure Mend Pin Plan Print Pull Put Read Readmit Reboot
Record Refuse Remove Replace Report Return Roll Route Run See Send Serve Start Stop Switch Take Tell Try Wait
Watch Write
"""
VERBS = frozenset(WORDS.split())


class _Loader(yaml.SafeLoader):
    """Reads tags that only Ansible knows as what stands behind them."""


_Loader.add_multi_constructor("!", lambda _, suffix, node: f"{suffix} {node.value}")


def tasks_of(rows: Any) -> Iterator[dict[str, Any]]:
    """Every task of a file of tasks or plays, those of blocks too."""
    for row in rows or []:
        inner = [row.get(key) for key in ("pre_tasks", "tasks", "post_tasks", "handlers", "block", "rescue", "always")]
        for part in inner:
            yield from tasks_of(part)
        if "hosts" not in row and not any(key.endswith("import_playbook") for key in row):
            yield row


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_a_task_is_named_by_what_it_does(path: Path) -> None:
    names = [task.get("name") for task in tasks_of(yaml.load(path.read_text(encoding="utf-8"), _Loader))]  # noqa: S506
    unnamed = sum(name is None for name in names)
    assert not unnamed, f"{unnamed} tasks have no name"
    assert [name for name in names if name.split()[0].rstrip(",:") not in VERBS] == []


def test_a_state_is_no_name_and_blocks_are_read() -> None:
    rows = [{"hosts": "a", "tasks": [{"block": [{"name": "Data volume is here"}], "name": "Make it"}]}]
    assert [task["name"] for task in tasks_of(rows)] == ["Data volume is here", "Make it"]
    assert "Data" not in VERBS
