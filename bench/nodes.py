#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""One execution node against several over the same simulated fleet: `--nodes 1 2 4 [--hosts 64 128] [--json FILE]`.

`trainyard provision --nodes` over hosts with four replicas each, whole and, from two nodes on, with one of them killed
in the middle. A node is `ansible-runner worker` with all that it starts, in a process tree of its own on this machine;
what is sent to it and what comes back is what goes over SSH elsewhere. The hosts are this machine by Ansible's local
connection; the Python of each stands in, takes the module that it is sent, and answers after `--host-s` seconds, which
is what a module costs a host, as a host does that has all it needs.

A row for each number of nodes: `wall_s` of the whole command; `cpu_s` of the controller and all nodes; `node_cpu_s` and
`max_rss_mb` of the busiest node (what a machine of its own would carry; memory as the kernel's proportional set size,
ten times a second); `controller_cpu_s`; `redone_parts`. Where all nodes share one machine's processors, `wall_s` cannot
fall as it does on several; `processors` says how many there were. `to_one` has shares of what one node took over
the same hosts, where it was measured too; `growth` has what a doubling of the hosts multiplies, the nodes being the
same. Exits 1 where a host was left out, or a part of a killed node was not done again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "collections")]

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.topology import table_topology  # noqa: E402

from bench.plan_scale import FOUR, Peak, _tree, fleet  # noqa: E402
from bench.roll_scale import HOLDER  # noqa: E402

#: Finds the module's name in what is sent, writes down that this host was sent it, and answers.
ANSWER = """#!/bin/sh
set -- $(grep -ao 'plugins\\.modules\\.[a-z_]*')
name=${{1#plugins.modules.}}
sleep {host_s}
echo $name >> {asked}
cat {answers}/$name
"""
#: Figures that grow with a fleet.
GROWING = ("wall_s", "cpu_s", "node_cpu_s", "controller_cpu_s", "max_rss_mb")
#: The last that provisioning asks of a host, and what gives its lock back.
LAST, FREED = "sdk_release", "roll_lock"


def stand_in(folder: Path, hosts: list[str], host_s: float) -> dict[str, Path]:
    """Write what answers in the hosts' place; returns the Python of each."""
    answers = folder / "answers"
    answers.mkdir()
    (folder / "asked").mkdir()
    topology = {**table_topology("trn2.48xlarge", 2).to_dict(), "operating_system": "ubuntu-22.04"}
    lock = {"holder": {**HOLDER, "verb": "provision"}}
    said = {"available": True, "reason": "", "driver_version": "2.21", "topology": topology, "lock": lock}
    known: dict[str, dict[str, Any]] = {
        "topology_info": said,
        "instance_store": {"volume": {}},
        "jobs": {"missing": [], "done": [], "running": [], "paths": {}},
        "file_tree": {"changed_paths": []},
        "python_venv": {"changed_paths": []},
        "sdk_release": {"differs": False},
        "roll_lock": {"lock": lock},
    }
    for name, answer in known.items():
        (answers / name).write_text(json.dumps({"changed": False, **answer}))
    programs = {}
    for name in hosts:
        programs[name] = folder / f"python-{name}"
        programs[name].write_text(ANSWER.format(host_s=host_s, asked=folder / "asked" / name, answers=answers))
        programs[name].chmod(0o755)
    return programs


def inventory(folder: Path, hosts: int, host_s: float) -> Path:
    """Write the inventory of a simulated fleet."""
    given = fleet(hosts, FOUR)
    programs = stand_in(folder, list(given["hosts"]), host_s)
    local = {"ansible_connection": "local", "ansible_pipelining": True, "ansible_become": False}
    rows = {
        name: {**variables, **local, "ansible_python_interpreter": str(programs[name])}
        for name, variables in given["hosts"].items()
    }
    few = {"hosts": dict.fromkeys(given["routers"])}
    path = folder / "hosts.json"
    path.write_text(json.dumps({"all": {"children": {"neuron": {"hosts": rows}, "router": few}}}))
    return path


def node(meter: Path, words: list[str]) -> int:
    """Be a node: run ansible-runner, and write down what it and all that it started took."""
    meter.with_suffix(".pid").write_text(str(os.getpid()))
    process = subprocess.Popen(words)
    peak = Peak(process.pid)
    peak.start()
    code = process.wait()
    peak.ended.set()
    peak.join()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    row = {"cpu_s": usage.ru_utime + usage.ru_stime, "rss_mb": peak.highest_kb / 1024}
    with meter.open("a") as file:
        file.write(json.dumps(row) + "\n")
    return code


class Killer(threading.Thread):
    """Waits until a node's hosts have been asked so much, and kills the node with all that it started."""

    def __init__(self, folder: Path, meter: Path, runs: int) -> None:
        super().__init__(daemon=True)
        self.folder, self.meter, self.runs = folder, meter, runs
        self.ended = threading.Event()
        self.killed = 0

    def run(self) -> None:
        """Look ten times a second."""
        while not self.ended.wait(0.1):
            asked = sum(len(path.read_text().split()) for path in (self.folder / "asked").iterdir())
            if asked >= self.runs and self.meter.with_suffix(".pid").exists():
                for pid in reversed(_tree(int(self.meter.with_suffix(".pid").read_text()))):
                    try:
                        os.kill(pid, signal.SIGKILL)
                        self.killed += 1
                    except ProcessLookupError:
                        continue  # it ended by itself
                return


def measure(nodes: int, hosts: int, host_s: float, kill: bool, folder: Path) -> dict[str, Any]:
    """Provision such a fleet over so many nodes, and return what it took.

    Raises:
        RuntimeError: it came out otherwise than it had to.
    """
    source = inventory(folder, hosts, host_s)
    meters = [folder / f"node-{number}.jsonl" for number in range(1, nodes + 1)]
    me = [sys.executable, str(Path(__file__).resolve())]
    runner = str(Path(sys.executable).with_name("ansible-runner"))
    rows = [{"name": meter.stem, "runner": [*me, "--meter", str(meter), "--", runner]} for meter in meters]
    (folder / "nodes.yml").write_text(json.dumps({"nodes": rows}))
    command = [str(Path(sys.executable).with_name("trainyard")), "provision", "--json"]
    command += ["-i", str(source), "--nodes", str(folder / "nodes.yml")]
    # Of the seven that each host is asked: beyond the lock, before the end.
    killer = Killer(folder, meters[0], 3 * hosts if kill else sys.maxsize)
    began = time.monotonic()
    with (folder / "said").open("w") as said, (folder / "document").open("w") as out:
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=said)
        killer.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = time.monotonic() - began
    killer.ended.set()
    text = (folder / "said").read_text()
    if process.returncode:
        raise RuntimeError(f"{nodes} nodes, {hosts} hosts:\n{text[-4000:]}")
    document = json.loads((folder / "document").read_text())
    asked = {path.name: path.read_text().split() for path in (folder / "asked").iterdir()}
    left_out = [name for name, words in asked.items() if LAST not in words or words[-1] != FREED]
    if len(asked) != hosts or left_out:
        raise RuntimeError(f"{hosts} hosts, {len(asked)} asked, not to the end: {left_out[:5]}\n{text[-4000:]}")
    if kill and not (killer.killed and document["redone_parts"]):
        raise RuntimeError(f"{killer.killed} processes killed, done again: {document['redone_parts']}\n{text[-4000:]}")
    taken = [json.loads(line) for meter in meters if meter.exists() for line in meter.read_text().splitlines()]
    by_node = [
        sum(json.loads(line)["cpu_s"] for line in meter.read_text().splitlines()) for meter in meters if meter.exists()
    ]
    total = usage.ru_utime + usage.ru_stime
    return {
        "nodes": nodes,
        "killed_nodes": 1 if kill else 0,
        "hosts": hosts,
        "parts": len(document["parts"]),
        "redone_parts": len(document["redone_parts"]),
        "wall_s": round(wall_s, 1),
        "cpu_s": round(total, 1),
        "node_cpu_s": round(max(by_node), 1),
        "controller_cpu_s": round(total - sum(by_node), 1) if not kill else None,
        "max_rss_mb": round(max(row["rss_mb"] for row in taken)),
        "module_runs": sum(len(words) for words in asked.values()),
        "processors": os.cpu_count(),
        "hosts_are": "simulated",
    }


def with_ratios(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows, each with its shares of what one node took, and how it grew from the next smaller fleet."""
    found = []
    for row in rows:
        made = dict(row)
        ones = [one for one in rows if one["nodes"] == 1 and one["hosts"] == row["hosts"]]
        if ones:
            made["to_one"] = {name: round(row[name] / ones[0][name], 2) for name in ("node_cpu_s", "wall_s")}
        like = [one for one in rows if (one["nodes"], one["killed_nodes"]) == (row["nodes"], row["killed_nodes"])]
        smaller = max((one for one in like if one["hosts"] < row["hosts"]), key=lambda one: one["hosts"], default=None)
        if smaller:
            doublings = math.log2(row["hosts"] / smaller["hosts"])
            both = [name for name in GROWING if row[name] and smaller[name]]
            made["growth"] = {name: round((row[name] / smaller[name]) ** (1 / doublings), 2) for name in both}
        found.append(made)
    return found


def main() -> int:
    """Measure each number of nodes, print and write the figures."""
    if "--meter" in sys.argv:
        return node(Path(sys.argv[sys.argv.index("--meter") + 1]), sys.argv[sys.argv.index("--") + 1 :])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--hosts", type=int, nargs="+", default=[64])
    parser.add_argument("--host-s", type=float, default=0.3, help="seconds that a module takes on a host")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for hosts, nodes in itertools.product(sorted(options.hosts), options.nodes):
        for kill in (False, True) if nodes > 1 else (False,):
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(nodes, hosts, options.host_s, kill, Path(folder)))
            print(json.dumps(with_ratios(rows)[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(with_ratios(rows), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RuntimeError as error:
        print(f"MISSED {error}")
        sys.exit(1)
