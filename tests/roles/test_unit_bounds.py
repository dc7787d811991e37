# SPDX-License-Identifier: Apache-2.0
"""Every unit of the toolkit bounds its memory and its tasks: what goes wrong in one ends it, and not its host."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.roles.render import ROOT

#: Configurations of other programs, and parts of a unit that stands with its bounds elsewhere in this list.
NO_UNITS = {"keepalived.conf.j2", "replica.conf.j2", "trainyard-block-watch.timer.j2"}
UNITS = sorted(
    path
    for suffix in ("service", "conf", "socket", "timer", "slice", "mount", "path")
    for path in ROOT.glob(f"roles/*/templates/**/*.{suffix}.j2")
    if path.name not in NO_UNITS
)


def service_section(text: str) -> list[str]:
    """The lines of its [Service] that are there whatever the variables are."""
    lines, depth, section = [], 0, ""
    for line in text.splitlines():
        depth += len(re.findall(r"{%-? *(?:if|for|macro)\b", line)) - len(
            re.findall(r"{%-? *end(?:if|for|macro)\b", line)
        )
        if re.fullmatch(r"\[\w+\]", line):
            section = line
        elif section == "[Service]" and not depth:
            lines.append(line)
    return lines


def bound(lines: list[str], name: str) -> str:
    values = [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]
    assert len(values) == 1, f"{name}: {values}"
    return values[0]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_has_its_bounds(path: Path) -> None:
    lines = service_section(path.read_text())
    memory = bound(lines, "MemoryMax")
    assert re.fullmatch(r"\d+[MG]|[1-9]\d?%|{{ load_balancer_memory_max }}", memory), memory
    assert 0 < int(bound(lines, "TasksMax")) <= 65536


def test_all_units_were_looked_at() -> None:
    """Whatever a role lays out below systemd's directory comes from one of these templates."""
    named = set()
    for tasks in ROOT.glob("roles/*/tasks/*.yml"):
        text = tasks.read_text()
        named |= set(re.findall(r"template: ([\w@.-]+\.service\.j2)", text))
        assert not re.search(r"path: \S*/systemd/system/\S+\n\s+content:", text), (
            f"{tasks} has a unit without a template"
        )
    assert named
    assert named <= {path.name for path in UNITS}
