# SPDX-License-Identifier: Apache-2.0
"""Roles that run twice in a play, in stages: the second reads what the first one found."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROLES = Path(__file__).resolve().parents[2] / "roles"


def test_what_one_stage_found_is_not_overwritten_by_a_skip_of_another() -> None:
    """A task that is skipped registers that it was: an import hands its condition to each, an include runs none."""
    lost = []
    for path in sorted(ROLES.glob("*/tasks/*.yml")):
        for task in yaml.safe_load(path.read_text(encoding="utf-8")) or []:
            named = task.get("ansible.builtin.import_tasks")
            if not named or "when" not in task:
                continue
            imported = path.parent / named
            others = [other for other in path.parents[1].rglob("*.yml") if other != imported]
            for name in re.findall(r"^\s+register: (\w+)$", imported.read_text(encoding="utf-8"), re.MULTILINE):
                readers = [
                    other.name for other in others if re.search(rf"\b{name}\b", other.read_text(encoding="utf-8"))
                ]
                lost += [f"{path.relative_to(ROLES)}: {named} registers {name} for {reader}" for reader in readers]
    assert lost == []
