# SPDX-License-Identifier: Apache-2.0
"""A lab under load, and rolls of it: what the scenarios of `make` and molecule share."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.stand_in import Lab, stand_in
from trainyard.paths import ROOT

INVENTORY = ROOT / "inventory" / "lab"
MODEL = "trainyard/tiny-llama"
PER_TOKEN_S = 0.2
"""What molecule/redeploy has the engines take, so that streams last long and cost this machine little."""
BASE: dict[str, Any] = {
    "trainyard_redeploy": {
        "canary_s": 15,
        "soak_s": 1,
        "drain_deadline_s": 60,
        "at_once": 4,
        "floor": "50%",
    },
}

_serial = iter(range(int(time.time()), 2**40))


@dataclass
class Run:
    """One run of a playbook that is over: exit code, output, and how long it took in seconds."""

    code: int
    text: str
    seconds: float


@dataclass
class LabFleet:
    """The fleet of a running lab.

    Attributes:
        settings: variables given to every playbook: the deployment's shape, and how to roll.
        results: where loads leave their accounts.
        arguments: given to every playbook.
    """

    results: Path
    settings: dict[str, Any] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()

    def command(self, playbook: str, changes: Mapping[str, Any], *more: str) -> list[str]:
        """The command line of a playbook run."""
        variables = {**self.settings, **changes}
        return [
            "ansible-playbook",
            str(ROOT / "playbooks" / f"{playbook}.yml"),
            f"--inventory={INVENTORY}",
            f"--extra-vars={json.dumps(variables)}",
            *self.arguments,
            *more,
        ]

    def start(self, playbook: str, changes: Mapping[str, Any], *more: str) -> tuple[subprocess.Popen[str], Path]:
        """Start a playbook in a process group of its own; returns it and the file that it writes to."""
        log = self.results / f"{playbook}-{time.monotonic_ns()}.log"
        with log.open("w") as out:
            process = subprocess.Popen(
                self.command(playbook, changes, *more),
                cwd=ROOT,
                env={
                    **os.environ,
                    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                    # Tests strike when a task begins, whose name Ansible's own output has.
                    "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
                    "PYTHONUNBUFFERED": "1",
                },
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        return process, log

    def run(self, playbook: str, changes: Mapping[str, Any], *more: str) -> Run:
        """Run a playbook to its end."""
        began = time.monotonic()
        process, log = self.start(playbook, changes, *more)
        code = process.wait()
        return Run(code, log.read_text(), time.monotonic() - began)

    def inventory(self) -> dict[str, Any]:
        """The lab's inventory, as Ansible reads it."""
        done = subprocess.run([sys.executable, str(INVENTORY / "hosts.py"), "--list"], capture_output=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def shaped(self, **changes: Any) -> dict[str, Any]:
        """Variables that change the deployment, and nothing of its shape."""
        shape = self.settings["trainyard_overrides"]["tiny-llama"]
        return {"trainyard_overrides": {"tiny-llama": {**shape, **changes}}}

    def renewed(self) -> dict[str, Any]:
        """Changes that make a new release of every replica, and no other artifact: a variable that nothing reads."""
        return self.shaped(environment={"ROLL_TEST": str(next(_serial))})

    def retrained(self) -> dict[str, Any]:
        """The model at the hub's branch `next`, pinned: the same shape with other weights."""
        variables = self.inventory()["all"]["vars"]
        answer = httpx.get(f"{variables['lab_hub_url']}/api/models/{MODEL}/revision/next").raise_for_status()
        return {"repo": MODEL, "source": "huggingface", "revision": answer.json()["sha"]}

    def redeploy(self, changes: Mapping[str, Any]) -> Run:
        """Stage and roll; weights and artifact are there already in these scenarios."""
        return self.run("redeploy", changes, "--skip-tags=provision,compile")

    def reports(self) -> dict[str, dict[str, Any]]:
        """What every host reports of its replicas, and every router of its servers."""
        done = subprocess.run(
            ["ansible", "neuron:router", f"--inventory={INVENTORY}", "--become", "-m", "trainyard.neuron.replica_info"],
            cwd=ROOT,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_STDOUT_CALLBACK": "json",
                "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
            },
            capture_output=True,
            text=True,
            check=True,
        )
        hosts: dict[str, dict[str, Any]] = json.loads(done.stdout)["plays"][0]["tasks"][0]["hosts"]
        return hosts

    def running(self) -> dict[str, str]:
        """Release of every replica's process, by replica id."""
        return {
            f"{host}:{name}": row["running"]
            for host, report in self.reports().items()
            for name, row in report["replicas"].items()
        }

    def in_rotation(self) -> set[str]:
        """Replicas that a router sends requests to, and as many as to any other."""
        return {
            name
            for report in self.reports().values()
            for name, seat in (report["servers"] or {}).items()
            if seat["state"] == "ready" and seat["up"] and seat["weight"] == 100
        }

    def on(self, host: str, script: str) -> str:
        """Run a line of shell as root on a host."""
        done = subprocess.run(
            ["ansible", host, f"--inventory={INVENTORY}", "--become", "-m", "ansible.builtin.shell", "-a", script],
            cwd=ROOT,
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                # Molecule asks for colours, which would stand in what the line prints.
                "ANSIBLE_FORCE_COLOR": "0",
                "ANSIBLE_NOCOLOR": "1",
            },
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def started(self, changes: Mapping[str, Any], at: str, *more: str) -> tuple[subprocess.Popen[str], Path]:
        """Start a redeploy and come back when its output says ``at``; weights and artifact are there already."""
        process, log = self.start("redeploy", changes, "--skip-tags=provision,compile", *more)
        while at not in log.read_text():
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.05)
        return process, log

    def entry(self, host: str, replica: str) -> dict[str, Any]:
        """The plan's entry in the release of a replica that was staged last."""
        text = self.on(host, f"cat $(ls -t /etc/vllm/releases/*/{replica}.json | head -1)")
        found: dict[str, Any] = json.loads(text.partition("\n")[2])
        return found

    def fault(self, *words: str) -> None:
        """Switch a fault of the lab on, or with `clear` all off."""
        subprocess.run(["trainyard", "lab", "fault", *words], cwd=ROOT, check=True, capture_output=True, text=True)

    @contextlib.contextmanager
    def load(
        self,
        url: str,
        closed: int = 8,
        rate: float = 1.0,
        longest_s: float = 8.0,
        gap_limit_s: float = 2.0,
        model: str = MODEL,
    ) -> Iterator[dict[str, Any]]:
        """Stream from the router; the dictionary holds the account when the block is over."""
        out = self.results / f"load-{time.monotonic_ns()}.json"
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.roll.load",
                f"--url={url}",
                f"--model={model}",
                f"--per-token-s={PER_TOKEN_S}",
                f"--closed={closed}",
                f"--rate={rate}",
                f"--longest-s={longest_s}",
                f"--gap-limit-s={gap_limit_s}",
                f"--first-limit-s={15.0 + gap_limit_s}",
                f"--summary-out={out}",
                f"--requests-out={out.with_suffix('.jsonl')}",
            ],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        account: dict[str, Any] = {}
        try:
            time.sleep(2.0)
            yield account
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=600)
            account.update(json.loads(out.read_text()))
            account["requests"] = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]


@contextlib.contextmanager
def own_fleet(
    name: str,
    hosts: int,
    results: Path,
    settings: dict[str, Any],
    *more: str,
    groups: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Lab, LabFleet]]:
    """A served lab of a test's own, at the pace that the loads expect; gone when the block is over.

    Args:
        name: what the lab's name begins with.
        hosts: how many it has.
        results: where loads leave their accounts.
        settings: variables given to every playbook.
        more: further words of `trainyard lab up`.
        groups: what the inventory says beside the lab's own.
    """
    with stand_in(name, hosts, *more, **settings) as lab, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINYARD_LAB", lab.name)
        beside = lab.folder / "beside.json"
        beside.write_text(json.dumps(groups or {}))
        lab.inventories.append(str(beside))
        lab.pace(1000 * PER_TOKEN_S, 1000 * PER_TOKEN_S)
        lab.play("site.yml", "--skip-tags", "benchmark")
        yield lab, LabFleet(results, settings, (f"--inventory={beside}",))


class RotationWatch(threading.Thread):
    """Looks at the router once a second: the fewest replicas in rotation that it ever saw, and requests so far."""

    def __init__(self, url: str, replicas: int) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.fewest = replicas
        self.looks = 0
        self.requests = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(1.0):
            lines = httpx.get(self.url, timeout=10).text.splitlines()
            servers = [line for line in lines if line.startswith("haproxy_server_status{") and 'state="UP"' in line]
            served = [line for line in lines if line.startswith("haproxy_server_sessions_total{")]
            self.fewest = min(self.fewest, sum(line.endswith(" 1") for line in servers))
            self.requests = sum(int(float(line.rpartition(" ")[2])) for line in served)
            self.looks += 1


def nothing_lost(account: dict[str, Any]) -> None:
    """Every request of a load, and there were some, got its whole answer."""
    assert account["sent"] > 20, "the load proved nothing"
    assert account["sent"] == account["ok"], account


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> LabFleet:
    """The lab that TRAINYARD_LAB names, served by `site.yml` before."""
    shape = json.loads(os.environ.get("TRAINYARD_ROLL_SHAPE", "{}"))
    return LabFleet(tmp_path_factory.mktemp("rolls"), {**BASE, "trainyard_overrides": {"tiny-llama": shape}})


@pytest.fixture(scope="session")
def router_url(fleet: LabFleet) -> str:
    """The lab's router, from its inventory."""
    inventory = fleet.inventory()
    first = inventory["router"]["hosts"][0]
    return f"http://{inventory['_meta']['hostvars'][first]['ansible_host']}:8080"
