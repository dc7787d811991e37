#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a roll costs the controller, through ansible-playbook: `--hosts 64 128 [--json FILE]`.

The plan and the roll of `playbooks/redeploy.yml` twice for each number of hosts with four replicas each: where every
replica is on its release already (plan, read, nothing to do), and where one replica is not (one wave). The hosts are
this machine by Ansible's local connection; the Python of each stands in, takes the module that it is sent and answers
as a host does whose work is done. `cpu_s` is processor time of ansible-playbook with all that it started. Exits 1 where
twice the hosts cost more than `--limit-growth` times as much.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "collections")]

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.topology import table_topology  # noqa: E402
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet  # noqa: E402

from bench.plan_scale import FOUR, fleet  # noqa: E402

OLD = "000000000000"
#: Finds the module's name in what is sent and answers with the file of that name, of the host or of all.
ANSWER = """#!/bin/sh
set -- $(grep -ao 'plugins\\.modules\\.[a-z_]*')
name=${{1#plugins.modules.}}
echo $name >> {asked}
if [ -e {own}/$name ]; then cat {own}/$name; else cat {shared}/$name; fi
"""
HOLDER = {
    "run": "bench", "owner": "bench@controller", "pid": 1, "verb": "redeploy", "process": "", "lease_s": 7200.0,
    "number": 1, "boot": "", "since_s": 0.0, "ends_s": 7200.0, "displaced": None,
}  # fmt: skip


def answers(plan: dict[str, Any], folder: Path, behind: str) -> dict[str, Path]:
    """Write what each host answers; returns its Python by host. The host `behind` has one replica of an old release."""
    shared = folder / "shared"
    shared.mkdir()
    topology = {**table_topology("trn2.48xlarge", 2).to_dict(), "operating_system": "ubuntu-22.04"}
    lock = {"holder": HOLDER}
    told = {"changed": False, "available": True, "reason": "", "driver_version": "2.21", "topology": topology}
    servers = {row["id"]: {"state": "ready", "up": True} for host in plan["hosts"].values() for row in host["replicas"]}
    common = {
        "topology_info": {**told, "lock": lock},
        "roll_lock": {"changed": True, "lock": lock},
        "router_server": {"changed": True, "arrived": True, "left": {}},
    }
    for name, answer in common.items():
        (shared / name).write_text(json.dumps(answer))
    programs = {}
    for name, host in plan["hosts"].items():
        own = folder / name
        own.mkdir()
        rows = {}
        for number, row in enumerate(host["replicas"]):
            now = OLD if name == behind and not number else row["release"]
            staged = [row["release"], OLD]
            rows[row["name"]] = {"active": "active", "running": now, "current": now, "previous": "", "staged": staged}
        seats = servers if name in plan["router"]["names"] else None
        info = {"changed": False, "replicas": rows, "servers": seats, "holder": None}
        (own / "replica_info").write_text(json.dumps(info))
        if name == behind:
            first = host["replicas"][0]
            done = {key: first[key] for key in ("id", "name", "release")}
            row = {**done, "gated": True, "error": "", "seconds": {}}
            (own / "replica_release").write_text(json.dumps({"changed": True, "replicas": [row]}))
        programs[name] = own / "python3"
        programs[name].write_text(ANSWER.format(asked=folder / "asked", own=own, shared=shared))
        programs[name].chmod(0o755)
    return programs


def rolling(folder: Path) -> Path:
    """Write a playbook of what is a roll's own in `playbooks/redeploy.yml`: the plan, the roll, the lock given back.

    With `--tags roll` that playbook checks the arguments of every role besides, on every host.
    """
    playbooks = ROOT / "playbooks"
    plays = [
        {"import_playbook": str(playbooks / "preflight.yml"), "vars": {"trainyard_verb": "redeploy"}},
        {"import_playbook": str(playbooks / "roll_planned.yml")},
        {"import_playbook": str(playbooks / "unlock.yml")},
    ]
    (folder / "roll.yml").write_text(json.dumps(plays))
    return folder / "roll.yml"


def measure(hosts: int, waves: int, folder: Path) -> dict[str, Any]:
    """Roll such a fleet in no wave or in one, and return what it took.

    Raises:
        RuntimeError: the run came out otherwise than it had to.
    """
    given = fleet(hosts, FOUR)
    plan = plan_fleet(given).to_dict()
    behind = list(given["hosts"])[-1] if waves else ""
    local = {"ansible_connection": "local", "ansible_pipelining": True, "ansible_become": False}
    programs = answers(plan, folder, behind)
    rows = {
        name: {**variables, **local, "ansible_python_interpreter": str(programs[name])}
        for name, variables in given["hosts"].items()
    }
    few = {"hosts": dict.fromkeys(given["routers"])}
    settings = {"trainyard_redeploy": {"canary_s": 0, "soak_s": 0}}
    inventory = {"all": {"vars": settings, "children": {"neuron": {"hosts": rows}, "router": few}}}
    (folder / "hosts.json").write_text(json.dumps(inventory))
    command = ["ansible-playbook", "-i", str(folder / "hosts.json"), str(rolling(folder))]
    began = time.monotonic()
    with (folder / "log").open("w") as log:
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    asked = (folder / "asked").read_text().split()
    # After a wave the stand-in still says that its replica is old, which the roll's report has to find.
    found = [asked.count("replica_release"), asked.count("replica_info")]
    if found != [waves, hosts * (1 + waves)]:
        raise RuntimeError(f"{found}\n{(folder / 'log').read_text()[-3000:]}")
    return {
        "hosts": hosts,
        "waves": waves,
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "wall_s": round(time.monotonic() - began, 1),
        "module_runs": len(asked),
    }


def main() -> int:
    """Measure, print and write the figures; 1 where they grow faster than the hosts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--limit-growth", type=float, default=2.3)
    options = parser.parse_args()
    rows, missed = [], []
    for waves in (0, 1):
        for hosts in sorted(options.hosts):
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(hosts, waves, Path(folder)))
            print(json.dumps(rows[-1]), flush=True)
        same = [row for row in rows if row["waves"] == waves]
        first, last = same[0], same[-1]
        if last["cpu_s"] > first["cpu_s"] * last["hosts"] / first["hosts"] * options.limit_growth / 2:
            missed.append(
                f"{waves} waves: {last['cpu_s']} s at {last['hosts']}, {first['cpu_s']} s at {first['hosts']}"
            )
    for miss in missed:
        print(f"MISSED {miss}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
