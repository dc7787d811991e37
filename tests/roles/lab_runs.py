# SPDX-License-Identifier: Apache-2.0
"""A lab that a test brings up for itself, the playbooks over it, and what they said."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from trainyard.paths import ROOT

PROVISION, COMPILE = "playbooks/provision.yml", "playbooks/compile.yml"

#: How long a job may take to begin on a busy machine, seconds.
BEGIN_S = 300.0


@dataclass
class Lab:
    """A lab of this test's own."""

    name: str
    #: Given to every playbook, before the arguments of the call.
    arguments: tuple[str, ...] = ()
    #: All that the last run of `play` printed.
    said: str = ""

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "TRAINYARD_LAB": self.name,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_NOCOLOR": "1",
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        argv = ["ansible-playbook", "-i", "inventory/lab", *self.arguments, *arguments]
        return subprocess.Popen(
            argv,
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def play(self, *arguments: str) -> dict[str, Any]:
        process = self.start(*arguments)
        output, _ = process.communicate()
        assert process.returncode == 0, output[-4000:]
        self.said = output
        # Progress lines of the jobs come before the document.
        return dict(json.JSONDecoder().raw_decode(output, output.index('{\n    "custom_stats"'))[0])

    def on(self, host: str, command: str) -> str:
        argv = ["ansible", host, "-i", "inventory/lab", "--become", "-m", "ansible.builtin.shell", "-a", command]
        environment = {**self.environment, "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.minimal"}
        result = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout.split(">>\n", 1)[1].strip()

    def trainyard(self, *arguments: str) -> str:
        argv = ["trainyard", *arguments]
        result = subprocess.run(argv, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def logs(self, kind: str, hosts: list[str]) -> dict[str, str]:
        """The logs of a kind of job, by host."""
        return {host: self.on(host, f"cat /var/log/trainyard/{kind}-*.log 2>/dev/null || true") for host in hosts}


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
