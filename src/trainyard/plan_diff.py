# SPDX-License-Identifier: Apache-2.0
"""What a plan would change on hosts that already serve."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from typing import Any

from trainyard import extra_vars
from trainyard.paths import ROOT, absolute

#: What may become of a replica, in the order that matters to a reader.
START, RESTART, STOP, KEEP, UNKNOWN = "start", "restart", "stop", "keep", "unknown"


class AskError(Exception):
    """No host could be asked."""


@dataclass(frozen=True)
class Change:
    """What happens to one replica, and why.

    Attributes:
        host: inventory name.
        replica: its name.
        action: `start`, `restart`, `stop`, `keep`, or `unknown` where the host did not answer.
        why: one clause.
    """

    host: str
    replica: str
    action: str
    why: str


def ask_hosts(inventory: list[str], group: str, module: str, become: bool = False) -> dict[str, dict[str, Any]]:
    """Run a module that only reads on the hosts of a group, and return the results of those that answered.

    Raises:
        AskError: ansible itself failed.
    """
    command = ["ansible", group, "-m", module, *(["--become"] if become else [])]
    for source in inventory:
        command += ["-i", absolute(source)]
    command += extra_vars.flags()
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": os.environ.get("ANSIBLE_CONFIG", str(ROOT / "ansible.cfg")),
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        "ANSIBLE_NOCOLOR": "1",
    }
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    start = run.stdout.find("{")
    try:
        plays = json.loads(run.stdout[start:])["plays"]
    except (ValueError, KeyError) as error:
        raise AskError((run.stderr or run.stdout).strip()[-500:]) from error
    results = {name: result for play in plays for task in play["tasks"] for name, result in task["hosts"].items()}
    return {name: result for name, result in results.items() if not (result.get("failed") or result.get("unreachable"))}


def changes(plan: dict[str, Any], running: dict[str, dict[str, Any]]) -> list[Change]:
    """Compare a plan with what `trainyard.neuron.replica_info` found.

    Args:
        plan: of the shape of docs/schemas/plan.schema.json.
        running: `replicas` of each host that answered, by host.
    """
    found = []
    for host, planned in plan["hosts"].items():
        wanted = {replica["name"]: replica for replica in planned["replicas"]}
        if host not in running:
            found += [Change(host, name, UNKNOWN, "the host did not answer") for name in wanted]
            continue
        there = running[host]
        found += [_change(host, name, wanted[name]["release"], there.get(name) or {}) for name in wanted]
        spares = {spare["name"] for spare in planned["spares"]}
        found += [
            Change(host, name, STOP, "it stands in for others" if name in spares else "it is in no plan any more")
            for name in sorted(set(there) - set(wanted))
            if there[name].get("running")
        ]
    return found


def _change(host: str, name: str, release: str, there: dict[str, Any]) -> Change:
    runs = there.get("running")
    if not runs:
        return Change(host, name, START, f"nothing runs; release {release} will")
    if runs == release:
        return Change(host, name, KEEP, f"runs release {release}")
    return Change(host, name, RESTART, f"runs release {runs}, planned is {release}")
