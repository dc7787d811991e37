# SPDX-License-Identifier: Apache-2.0
"""What a role registers is not lost when it is run again in another stage: a skipped task registers its skip."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
IMPORTS = "ansible.builtin.import_tasks"


def tasks(items: Any) -> Iterator[dict[str, Any]]:
    """The tasks of a file, those in blocks among them."""
    for item in items or ():
        yield item
        for part in ("block", "rescue", "always"):
            yield from tasks(item.get(part))


def lost(role: Path) -> list[str]:
    """Variables that a static import under a condition registers, and that something else of the role reads.

    Where the condition is false, Ansible skips each of the imported tasks, and what one registers is then the skip. A
    dynamic include is skipped as a whole, and what was registered before stays.
    """
    texts = {
        path: path.read_text(encoding="utf-8") for folder in ("tasks", "vars") for path in role.glob(f"{folder}/*.yml")
    }
    wrong = []
    for path, text in texts.items():
        for task in tasks(yaml.safe_load(text) if path.parent.name == "tasks" else ()):
            if IMPORTS not in task or "when" not in task:
                continue
            imported = path.parent / task[IMPORTS]
            names = re.findall(r"^[\s-]*register: (\w+)", texts[imported], re.MULTILINE)
            elsewhere = "\n".join(other for at, other in texts.items() if at != imported)
            wrong += [f"{imported.name}: {name}" for name in names if re.search(rf"\b{name}\b", elsewhere)]
    return wrong


@pytest.mark.parametrize("role", sorted(ROOT.glob("roles/*/tasks")), ids=lambda path: path.parent.name)
def test_what_another_stage_reads_is_registered_by_no_task_that_this_one_skips(role: Path) -> None:
    assert lost(role.parent) == []


def test_such_a_task_is_found(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/main.yml").write_text(
        f"- {IMPORTS}: start.yml\n  when: x\n- when: __found.missing\n- {IMPORTS}: other.yml\n", encoding="utf-8"
    )
    (tmp_path / "tasks/start.yml").write_text("- register: __found\n- register: __alone\n", encoding="utf-8")
    (tmp_path / "tasks/other.yml").write_text("- register: __found\n", encoding="utf-8")
    assert lost(tmp_path) == ["start.yml: __found"]
