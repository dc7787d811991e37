#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the plan of a fleet costs the controller, through ansible-playbook: `--hosts 128 500 1000 [--json FILE]`.

One run for each number of hosts: `playbooks/preflight.yml`, and a task that sees that every host's part is there. Each
host has four replicas of four deployments, in its own copy of the variables. The hosts are this machine by Ansible's
local connection, with the pipelining that ansible.cfg has for SSH. One thing stands in, for its time is the host's: the
Python of a host, which takes the module that it is sent and answers as a trn2.48xlarge.

`cpu_s` is processor time of ansible-playbook with all that it started, the stand-ins too. `max_rss_mb` is the
memory of all those processes at once, its peak: a page that workers share with the controller counts once (the kernel's
proportional set size, summed over the tree of processes ten times a second). `largest_process_mb` is the largest of
them alone, with all that it shares. Exits 1 where the largest fleet takes more than `--limit-cpu-s` or `--limit-mb`, or
grows by more than `--limit-growth` where the hosts double. `--planner` times the planning function alone.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.topology import table_topology  # noqa: E402
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet  # noqa: E402

REPLICAS = 4
PREFLIGHT = ROOT / "playbooks" / "preflight.yml"
EVERY = "lookup('trainyard.neuron.plan', 'hook_replicas')"
READ = {
    "hosts": "neuron",
    "gather_facts": False,
    "tasks": [
        {
            "name": "See that every host has its part",
            "ansible.builtin.assert": {
                "that": f"{EVERY} | length == {REPLICAS} * groups['neuron'] | length",
                "quiet": True,
            },
            "run_once": True,
        }
    ],
}
#: Takes what is sent, as a host's Python takes a module, and counts it.
ANSWER = """#!/bin/sh
cat > /dev/null
echo run >> {asked}
cat {answer}
"""


def deployment(name: str, width: int, count: int, port: int) -> dict[str, Any]:
    """Return a deployment of a Llama with its own length, so that each has its own artifact."""
    return {
        "name": name,
        "model": {"repo": "meta-llama/Llama-3.2-1B-Instruct", "revision": "0" * 40},
        "served_name": name,
        "sdk_release": "2.23.0",
        "tensor_parallel_size": width,
        "data_parallel_size": count,
        "max_num_seqs": 4,
        "max_model_len": 1024 * width,
        "port": port,
        "neuron_config": {"on_device_sampling_config": {"do_sample": True, "dynamic": True, "global_topk": 64}},
    }


def fleet(hosts: int, deployments: list[tuple[str, int, int, int]]) -> dict[str, Any]:
    """Return the planner's input: so many hosts, each with these deployments; the first two balance (or the one)."""
    variables = {f"trainyard_deployment_{item[0]}": deployment(*item) for item in deployments}
    variables["trainyard_instance_type"] = "trn2.48xlarge"
    rows = {
        f"trn2-{number:04d}": {**copy.deepcopy(variables), "ansible_host": f"10.0.{number // 250}.{number % 250}"}
        for number in range(hosts)
    }
    return {"hosts": rows, "routers": list(rows)[:2]}


#: Four replicas of four deployments, and sixteen of four for the planning function alone.
FOUR = [("a", 16, 1, 8000), ("b", 8, 1, 8100), ("c", 4, 1, 8200), ("d", 1, 1, 8300)]
SIXTEEN = [("a", 16, 1, 8000), ("b", 8, 2, 8100), ("c", 4, 5, 8200), ("d", 1, 8, 8300)]


class Peak(threading.Thread):
    """Looks at the memory of a process with all its descendants until it is told to stop."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.root, self.ended = root, threading.Event()
        self.highest_kb = 0

    def run(self) -> None:
        """Sum up until the end."""
        while not self.ended.wait(0.1):
            self.highest_kb = max(self.highest_kb, sum(_shared_out_kb(pid) for pid in _tree(self.root)))


def _tree(pid: int) -> list[int]:
    try:
        children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return [pid]  # it is over
    return [pid] + [found for child in children for found in _tree(child)]


def _shared_out_kb(pid: int) -> int:
    """Return a process's proportional set size; 0 where it is over."""
    try:
        rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(row.split()[1]) for row in rows if row.startswith("Pss:"))


def stand_in(folder: Path) -> Path:
    """Write what answers in a host's place: a Python that takes any module in and says what `topology_info` finds."""
    topology = {**table_topology("trn2.48xlarge", 2).to_dict(), "operating_system": "ubuntu-22.04"}
    answer = {"changed": False, "available": True, "reason": "", "driver_version": "2.21", "topology": topology}
    (folder / "answer.json").write_text(json.dumps(answer))
    program = folder / "python3"
    program.write_text(ANSWER.format(asked=folder / "asked", answer=folder / "answer.json"))
    program.chmod(0o755)
    return program


def measure(hosts: int, folder: Path) -> dict[str, Any]:
    """Plan a fleet through ansible-playbook, and return what it took.

    Raises:
        RuntimeError: the run failed, or a host did not take part.
    """
    given = fleet(hosts, FOUR)
    local = {
        "ansible_connection": "local",
        "ansible_pipelining": True,
        "ansible_python_interpreter": str(stand_in(folder)),
    }
    rows = {name: {**variables, **local} for name, variables in given["hosts"].items()}
    few = {"hosts": dict.fromkeys(given["routers"])}
    inventory = {"all": {"children": {"neuron": {"hosts": rows}, "router": few, "client": few}}}
    (folder / "hosts.json").write_text(json.dumps(inventory))
    (folder / "plan.yml").write_text(json.dumps([{"import_playbook": str(PREFLIGHT)}, READ]))
    log, environment = folder / "log", {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    command = ["ansible-playbook", "-i", str(folder / "hosts.json"), str(folder / "plan.yml")]
    began = time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)
        peak = Peak(process.pid)
        peak.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.monotonic() - began
    peak.ended.set()
    peak.join()
    asked = folder / "asked"
    module_runs = len(asked.read_text().split()) if asked.exists() else 0
    if process.returncode or module_runs != hosts:
        raise RuntimeError(f"{hosts} hosts, {module_runs} of them asked:\n{log.read_text()[-3000:]}")
    return {
        "hosts": hosts,
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "max_rss_mb": round(peak.highest_kb / 1024),
        "largest_process_mb": round(usage.ru_maxrss / 1024),
        "wall_s": round(wall_s, 1),
        "module_runs": module_runs,
    }


def planner_s(hosts: int) -> float:
    """Return the median processor time of three plans of hosts with 16 replicas each, by the function alone."""
    given, taken = fleet(hosts, SIXTEEN), []
    for _run in range(3):
        began = time.process_time()
        plan = plan_fleet(given).to_dict()
        taken.append(time.process_time() - began)
    assert sum(len(host["replicas"]) for host in plan["hosts"].values()) == 16 * hosts
    return sorted(taken)[1]


def misses(rows: list[dict[str, Any]], options: argparse.Namespace) -> list[str]:
    """Return what is above a limit: the largest fleet's cost, and its growth from the one before."""
    rows = sorted(rows, key=lambda row: int(row["hosts"]))
    largest, found = rows[-1], []
    for key, limit in (("cpu_s", options.limit_cpu_s), ("max_rss_mb", options.limit_mb)):
        if largest[key] > limit:
            found.append(f"{largest['hosts']} hosts: {key} {largest[key]} is above {limit}")
        # Twice the hosts may cost the limit's factor; what is fixed makes it less, only more than linear makes it more.
        for before in rows[:-1]:
            factor = largest["hosts"] / before["hosts"] * options.limit_growth / 2
            if largest[key] > factor * before[key]:
                found.append(f"{largest['hosts']} hosts: {key} {largest[key]}, at {before['hosts']} {before[key]}")
    return found


def main() -> int:
    """Measure each number of hosts, print and write the figures; 1 above a limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, nargs="+", default=[128, 500, 1000])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--limit-cpu-s", type=float, default=90.0)
    parser.add_argument("--limit-mb", type=float, default=400.0)
    parser.add_argument("--limit-growth", type=float, default=2.3)
    parser.add_argument("--planner", action="store_true", help="time the planning function alone")
    options = parser.parse_args()
    if options.planner:
        for hosts in options.hosts:
            print(json.dumps({"hosts": hosts, "replicas": 16 * hosts, "planner_cpu_s": round(planner_s(hosts), 2)}))
        return 0
    rows = []
    for hosts in options.hosts:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(hosts, Path(folder)))
        print(json.dumps(rows[-1]), flush=True)
    missed = misses(rows, options)
    for miss in missed:
        print(f"MISSED {miss}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
