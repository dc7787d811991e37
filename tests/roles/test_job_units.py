# SPDX-License-Identifier: Apache-2.0
"""The units of the monitor and of long jobs, judged by systemd: understood word for word, and within a budget."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.roles.render import render
from tests.roles.test_vllm_endpoint import analyze, needs_systemd

# systemd's exposure level times ten (0 to 100), at most. A unit that needs more has to argue for it here.
BUDGET = {
    # Root, to look at runtimes of other users; two capabilities, no write access, no devices but Neuron's.
    ("neuron_monitor", "trainyard-monitor.service"): 30,
    # Root, since environments of machine images belong to whoever made the image.
    ("neuron_venv", "trainyard-build@.service"): 48,
}
VARIABLES = {"neuron_monitor": {"neuron_monitor_port": 9400, "neuron_monitor_clients": ["10.0.0.0/16"]}}

pytestmark = needs_systemd


def tree(root: Path, role: str, unit: str) -> str:
    """A root directory with the unit, its programs, and the targets it refers to; the name to ask about."""
    units = root / "etc/systemd/system"
    units.mkdir(parents=True)
    (units / unit).write_text(render(role, f"{unit}.j2", **VARIABLES.get(role, {})))
    for program in ("bin/bash", "opt/trainyard/tools/bin/python"):
        path = root / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    for name in ("sysinit", "basic", "shutdown", "network", "network-online", "multi-user"):
        (units / f"{name}.target").write_text("[Unit]\nDescription=x\n")
    return unit.replace("@.", "@x.")


@pytest.mark.parametrize(("role", "unit"), BUDGET)
def test_systemd_understands_the_unit(tmp_path: Path, role: str, unit: str) -> None:
    done = analyze("verify", tmp_path, tree(tmp_path, role, unit), "--man=no")
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize(("role", "unit"), BUDGET)
def test_unit_keeps_to_its_exposure_budget(tmp_path: Path, role: str, unit: str) -> None:
    name = tree(tmp_path, role, unit)
    limit = f"--threshold={BUDGET[role, unit]}"
    done = analyze("security", tmp_path, name, "--offline=true", limit, "--no-pager")
    assert done.returncode == 0, done.stdout[-400:]
