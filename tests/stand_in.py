# SPDX-License-Identifier: Apache-2.0
"""A lab of a test's own: bring it up, run playbooks and commands on it, take it away."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainyard.lab.commands import podman_here
from trainyard.lab.state import load
from trainyard.paths import ROOT


@dataclass
class Lab:
    """One lab by its name.

    Attributes:
        variables: given to every playbook run.
        inventories: what every run reads; more may be added.
    """

    name: str
    variables: dict[str, Any] = field(default_factory=dict)
    inventories: list[str] = field(default_factory=lambda: ["inventory/lab"])

    @property
    def folder(self) -> Path:
        """Where the lab keeps its files."""
        return ROOT / ".lab" / self.name

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "TRAINYARD_LAB": self.name,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "0",  # as Molecule sets it, it wins over the one above
        }

    def command(self, *arguments: str) -> list[str]:
        given = [f"--extra-vars={json.dumps(self.variables)}"] if self.variables else []
        sources = [word for path in self.inventories for word in ("-i", path)]
        return ["ansible-playbook", *sources, *given, *arguments]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def play(self, *arguments: str) -> dict[str, Any]:
        """Run a playbook that must succeed; the JSON document of its results."""
        return self.printed(*arguments)[0]

    def printed(self, *arguments: str) -> tuple[dict[str, Any], str]:
        """Run a playbook that must succeed; the JSON document of its results, and all that it printed."""
        process = self.start(*arguments)
        output, _ = process.communicate()
        # Progress lines of the jobs come before the document, and each playbook ends with one of all until then.
        begins = output.rfind('{\n    "custom_stats"')
        document = dict(json.JSONDecoder().raw_decode(output, begins)[0]) if begins >= 0 else {}
        assert process.returncode == 0, failures(document) or output[-4000:]
        return document, output

    def output(self, *arguments: str) -> str:
        """Run a playbook that must succeed; what it prints for people."""
        environment = {name: value for name, value in self.environment.items() if name != "ANSIBLE_STDOUT_CALLBACK"}
        done = subprocess.run(
            self.command(*arguments),
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout

    def on(self, host: str, command: str) -> str:
        """Run a line of shell as root on a host; its output."""
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

    def fault(self, target: str, kind: str, *more: str) -> str:
        return self.trainyard("lab", "fault", target, kind, *more, "--name", self.name)

    @property
    def inventory(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "inventory.json").read_text()))

    def address(self, host: str) -> str:
        return str(self.inventory["_meta"]["hostvars"][host]["ansible_host"])

    @property
    def router_address(self) -> str:
        return self.address(self.inventory["router"]["hosts"][0])

    def pace(self, ttft_ms: float, itl_ms: float) -> None:
        """How fast the simulated engines answer that start from now on."""
        speed = json.dumps({"kind": "fixed", "ttft_ms": ttft_ms, "itl_ms": itl_ms})
        change = (
            "import json, pathlib; file = pathlib.Path('/etc/trainyard-lab.json'); "
            f"settings = json.loads(file.read_text()); settings['latency'] = {speed}; "
            "file.write_text(json.dumps(settings))"
        )
        self.on("neuron", f"python3 -c {shlex.quote(change)}")


def failures(document: dict[str, Any]) -> str:
    """What failed in a run and what was said of it, a paragraph for each host and task."""
    return "\n\n".join(
        f"{task['task']['name']} on {host}: {str(result.get('msg') or result)[:4000]}"
        for play in document.get("plays", [])
        for task in play["tasks"]
        for host, result in task["hosts"].items()
        if result.get("failed") or result.get("unreachable")
    )


@contextlib.contextmanager
def stand_in(name: str, hosts: int, *more: str, engine: str = "simulated", **variables: Any) -> Iterator[Lab]:
    """A running lab of this process's own, gone when the block is over."""
    lab = Lab(f"{name}-{os.getpid()}", variables)
    try:
        lab.trainyard("lab", "up", "--name", lab.name, "--hosts", str(hosts), "--engine", engine, *more)
        yield lab
    finally:
        lab.trainyard("lab", "down", "--name", lab.name)


@contextlib.contextmanager
def powered(lab: Lab, host: str) -> Iterator[list[str]]:
    """Play the machine under a host: one that goes down for a reboot comes up again. Holds what it had to do."""
    made, over, done = load(lab.name), threading.Event(), list[str]()
    assert made is not None
    podman, container = podman_here(), made.container(host)

    def watch() -> None:
        while not over.wait(1.0):
            if podman.run("inspect", "--format", "{{.State.Status}}", container).strip() == "exited":
                done.append(lab.fault(host, "reboot").strip())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()
