# SPDX-License-Identifier: Apache-2.0
"""A lab of a test's own, and what the tests of benchmarks do with it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainyard.paths import ROOT


class Lab:
    """A lab and its inventory; every command fails the test with its output when it fails."""

    def __init__(self, name: str) -> None:
        self.environment = {**os.environ, "TRAINYARD_LAB": name, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        self.name = name
        self.inventory = "inventory/lab"

    def attempt(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)

    def run(self, *argv: str) -> str:
        done = self.attempt(*argv)
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout

    def on(self, command: str, host: str = "lab-1") -> str:
        module = ("-m", "ansible.builtin.shell", "-a", command)
        return self.run("ansible", host, "-i", self.inventory, "--become", *module).split(">>\n", 1)[1].strip()

    def play(self, playbook: str, variables: dict[str, Any], *more: str) -> str:
        return self.run("ansible-playbook", playbook, "-i", self.inventory, "-e", json.dumps(variables), *more)

    @property
    def hub(self) -> str:
        """The lab's model hub, as programs on this machine reach it."""
        return str(json.loads(self.run("trainyard", "lab", "status", "--name", self.name, "--json"))["hub_url"])

    def set_speed(self, latency: dict[str, Any]) -> None:
        """How fast the simulated engine answers, for replicas that start from now on."""
        file = "/etc/trainyard-lab.json"
        code = "import json, sys; d = json.load(open(sys.argv[1])); d['latency'] = json.loads(sys.argv[2]); "
        code += "json.dump(d, open(sys.argv[1], 'w'))"
        self.on(f"python3 -c \"{code}\" {file} '{json.dumps(latency)}'")

    def benchmark(self, results: Path, variables: dict[str, Any]) -> dict[str, Any]:
        """One run of the benchmark playbook, sound or not; its report."""
        before = set(results.glob("*/report.json"))
        given = {"trainyard_results_dir": str(results), "benchmark_strict": False, **variables}
        self.play("playbooks/benchmark.yml", given)
        (made,) = set(results.glob("*/report.json")) - before
        return dict(json.loads(made.read_text()))


@contextlib.contextmanager
def running_lab(kind: str, *options: str) -> Iterator[Lab]:
    """A lab that is gone afterwards."""
    lab = Lab(f"{kind}-{os.getpid()}")
    try:
        lab.run("trainyard", "lab", "up", "--name", lab.name, *options)
        yield lab
    finally:
        lab.run("trainyard", "lab", "down", "--name", lab.name)


def assert_accounted(report: dict[str, Any], requests: int) -> None:
    """Every request has an outcome, all are good, and the replicas counted the same."""
    found = report["results"]["requests"]
    assert (found["asked"], found["sent"], found["succeeded"]) == (requests, requests, requests), found
    assert report["servers"]["agreement"]["agree"], report["servers"]
    assert report["sound"], report["flags"]


def left_of_ray(lab: Lab, host: str = "lab-1") -> str:
    """What of Ray is on a load host: its unit, its processes, its files."""
    seen = "systemctl list-units --all --no-legend 'trainyard-ray*'; pgrep -fa '[r]aylet|[g]cs_server'"
    files = "/run/trainyard-ray /tmp/ray /root/.ray /var/lib/trainyard/benchmark/ray-token /dev/shm/*plasma*"
    return lab.on(f"{seen}; ls -d {files} /tmp/trainyard-* 2>/dev/null; true", host)
