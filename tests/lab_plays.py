# SPDX-License-Identifier: Apache-2.0
"""What playbooks of provisioning and compiling did to a lab of a test's own."""

from __future__ import annotations

import time
from typing import Any

from tests.stand_in import Lab

PROVISION, COMPILE = "playbooks/provision.yml", "playbooks/compile.yml"

#: How long a job may take to begin on a busy machine, seconds.
BEGIN_S = 300.0


def changed_tasks(run: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the tasks that changed something, with their hosts."""
    return {
        (task["task"]["name"], host)
        for play in run["plays"]
        for task in play["tasks"]
        for host, result in task["hosts"].items()
        if result.get("changed")
    }


def changes(run: dict[str, Any]) -> int:
    return sum(stats["changed"] for stats in run["stats"].values())


def await_unit(lab: Lab, host: str, kind: str) -> str:
    """Wait until a job's unit runs; return its invocation, which a restart would change."""
    deadline = time.monotonic() + BEGIN_S
    while time.monotonic() < deadline:
        units = lab.on(host, f"systemctl list-units --no-legend --plain 'trainyard-{kind}@*' | cut -d' ' -f1")
        for unit in units.split():
            return lab.on(host, f"systemctl show --property=InvocationID --value '{unit}'")
        time.sleep(0.5)
    raise AssertionError(f"no {kind} job began on {host}")


def logs(lab: Lab, kind: str, hosts: list[str]) -> dict[str, str]:
    """The logs of a kind of job, by host."""
    return {host: lab.on(host, f"cat /var/log/trainyard/{kind}-*.log 2>/dev/null || true") for host in hosts}
