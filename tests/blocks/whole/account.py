# SPDX-License-Identifier: Apache-2.0
"""An account at a lab's EC2, the shipped inventory for it, and what an operator runs there.

The lab is one of `trainyard lab up` with "--account": what is launched becomes a host. Its own one host routes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
import yaml

from trainyard.paths import ROOT

SHIPPED, TINY = ROOT / "inventory/trn2", ROOT / "inventory/lab/group_vars/all/tiny_llama.yml"
REGION, MODEL = "us-east-1", "trainyard/tiny-llama"
#: What the engines take for a token, as the lab of the scenario has them.
PER_TOKEN_S = 0.05
FLEET = {
    "trainium_launch_fleet": "llama",
    "trainium_launch_region": REGION,
    "trainium_launch_hours": 24,
    "trainium_launch_clients_from": ["10.0.0.0/8"],
}
SETTINGS = {"canary_s": 5, "soak_s": 1, "drain_deadline_s": 60}


@dataclass
class Account:
    """One lab as an operator sees it.

    Attributes:
        name: of the lab.
        results: where logs and loads go.
        seconds: how long each playbook took.
    """

    name: str
    results: Path
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return ROOT / ".lab" / self.name

    @property
    def lab(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "lab.json").read_text()))

    @property
    def router(self) -> str:
        return str(self.lab["hosts"]["lab-1"])

    @property
    def url(self) -> str:
        return f"http://{self.router}:8080"

    @property
    def inventory(self) -> Path:
        return self.folder / "inventory"

    @property
    def sources(self) -> list[str]:
        return [str(self.inventory), str(self.inventory / "aws_ec2.yml")]

    def write_inventory(self) -> None:
        """The shipped inventory with a router, a store, the fleet's words, and a model that fits any machine."""
        shutil.rmtree(self.inventory, ignore_errors=True)
        shutil.copytree(SHIPPED, self.inventory, ignore=shutil.ignore_patterns("llama_*", "qwen3_*"))
        (self.inventory / "group_vars/tiny_llama").mkdir()
        shutil.copy(TINY, self.inventory / "group_vars/tiny_llama")
        world = json.loads((self.folder / "inventory.json").read_text())["all"]["vars"]
        router = {"lab-1": {"ansible_host": self.router, "trainyard_capacity_block_end": ""}}
        groups = {"neuron": {}, "router": {"hosts": router}, "client": {"hosts": {"lab-1": {}}}}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))
        cloud = self.inventory / "aws_ec2.yml"
        cloud.write_text(cloud.read_text().replace("us-east-2", REGION))
        words = {
            **FLEET,
            "trainium_launch_ssh_from": f"{self.router.rsplit('.', 1)[0]}.1/32",
            "trainium_launch_public_key": (self.folder / "id_ed25519.pub").read_text().strip(),
            "lab_model_repo": world["lab_model_repo"],
            "lab_model_revision": world["lab_model_revision"],
            "model_compile_store": "s3://lab-artifacts/artifacts",
            "benchmark_client": "llmeter",
            "benchmark_provenance": "simulated",
            # What every host of the lab has in place of disks and of a kernel of its own.
            "nvme_raid_when_no_disks": "directory",
            "neuron_monitor_sysfs": "/run/neuron-sim/sys",
            "neuron_monitor_kernel_log": "/run/neuron-sim/kernel.log",
            "trainyard_redeploy": SETTINGS,
            "trainyard_results_dir": str(self.results / "results"),
        }
        (self.inventory / "group_vars/all/launch.yml").write_text(yaml.safe_dump(words))

    @property
    def environment(self) -> dict[str, str]:
        """What `eval "$(trainyard lab env)"` sets, and how its hosts are reached."""
        said = subprocess.run(
            ["trainyard", "lab", "env", "--name", self.name], capture_output=True, text=True, check=True
        )
        found = dict(re.findall(r"^export (\w+)='?(.*?)'?$", said.stdout, re.MULTILINE))
        return {
            **os.environ,
            **found,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_PRIVATE_KEY_FILE": str(self.folder / "id_ed25519"),
            "ANSIBLE_SSH_COMMON_ARGS": f"-o UserKnownHostsFile={self.folder / 'known_hosts'}",
            "ANSIBLE_FORCE_COLOR": "0",
            "ANSIBLE_NOCOLOR": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def attempt(self, name: str, *words: str, **variables: Any) -> tuple[int, str]:
        """Run a playbook; its exit code, and what it printed."""
        path = ROOT / ("site.yml" if name == "site" else f"playbooks/{name}.yml")
        given = [f"--extra-vars={json.dumps(variables)}"] if variables else []
        sources = [word for source in self.sources for word in ("-i", source)]
        began, log = time.monotonic(), self.results / f"{name}-{time.monotonic_ns()}.log"
        with log.open("w") as out:
            argv = ["ansible-playbook", str(path), *sources, *given, *words]
            done = subprocess.run(
                argv, cwd=ROOT, env=self.environment, stdout=out, stderr=subprocess.STDOUT, check=False
            )
        self.seconds[name] = round(time.monotonic() - began, 1)
        return done.returncode, log.read_text()

    def run(self, name: str, *words: str, **variables: Any) -> str:
        """Run a playbook that must succeed; what it printed."""
        code, said = self.attempt(name, *words, **variables)
        assert code == 0, said[-6000:]
        return said

    def watch(self) -> str:
        """One look of the watch over blocks, as its timer has it; what it printed."""
        argv = ["trainyard", "block-watch", *(word for one in self.sources for word in ("--inventory", one))]
        done = subprocess.run(argv, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout

    def on(self, host: str, line: str) -> str:
        """Run a line of shell as root on a host of the inventory."""
        sources = [word for source in self.sources for word in ("-i", source)]
        argv = ["ansible", host, *sources, "--become", "-m", "ansible.builtin.shell", "-a", line]
        done = subprocess.run(argv, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.split(">>\n", 1)[1].strip()

    def compiles(self, host: str) -> int:
        """How many graphs a host compiled by itself."""
        line = "cat /var/log/trainyard/artifact-*.log 2>/dev/null | grep -c 'Compiling and tracing time' || true"
        return int(self.on(host, line))

    @property
    def ec2(self) -> Any:
        session = boto3.Session(aws_access_key_id="lab", aws_secret_access_key="lab")
        return session.client("ec2", region_name=REGION, endpoint_url=f"http://{self._services}:5000")

    @property
    def _services(self) -> str:
        return f"{self.router.rsplit('.', 1)[0]}.2"

    def market(self, **settings: Any) -> dict[str, Any]:
        """Set what EC2 sells and what time it is; the state after it."""
        request = urllib.request.Request(
            f"http://{self._services}:5000/_lab/market", json.dumps(settings).encode(), method="PUT"
        )
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - the lab's own address
            return dict(json.load(answer))

    def offers(self) -> list[dict[str, Any]]:
        """What is for sale for one host and a day, the first to begin and to end first."""
        found = self.ec2.describe_capacity_block_offerings(
            InstanceType="trn2.48xlarge", InstanceCount=1, CapacityDurationHours=24
        )["CapacityBlockOfferings"]
        return sorted(found, key=lambda row: (row["StartDate"], row["EndDate"]))

    def end_of(self, reservation: str) -> datetime:
        """When a block ends, by this machine's clock."""
        (row,) = self.ec2.describe_capacity_reservations(CapacityReservationIds=[reservation])["CapacityReservations"]
        end: datetime = row["EndDate"]
        return end

    def forward_to(self, reservation: str, minutes_before: float) -> None:
        """Let the clock of EC2 run until so long before a block's end."""
        left_s = self.end_of(reservation).timestamp() - time.time()
        self.market(forward_s=left_s - 60 * minutes_before)

    def hosts(self) -> dict[str, str]:
        """Names of the fleet's hosts that run, and the ids by which the inventory has them."""
        wanted = [{"Name": "instance-state-name", "Values": ["running"]}, {"Name": "tag-key", "Values": ["trainyard"]}]
        rows = self.ec2.describe_instances(Filters=wanted)["Reservations"]
        instances = [instance for row in rows for instance in row["Instances"]]
        return {
            next(tag["Value"] for tag in row["Tags"] if tag["Key"] == "trainyard:host"): str(row["InstanceId"])
            for row in instances
        }

    @contextlib.contextmanager
    def load(self, closed: int = 8, least: int = 0) -> Iterator[dict[str, Any]]:
        """Streams from the router; the dictionary holds the account when the block is over.

        Args:
            closed: streams at once.
            least: requests that the router has to have seen before the load ends.
        """
        out = self.results / f"load-{time.monotonic_ns()}.json"
        options = {"url": self.url, "model": MODEL, "per-token-s": PER_TOKEN_S, "closed": closed, "rate": 0.5}
        # A machine that all of a lab shares stalls now and then; what is judged here is that every answer comes whole.
        limits = {"shortest-s": 0.1, "longest-s": 1.0, "gap-limit-s": 20, "first-limit-s": 40, "summary-out": out}
        words = [f"--{name}={value}" for name, value in {**options, **limits}.items()]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.roll.load", *words], cwd=ROOT, stdout=subprocess.DEVNULL
        )
        before, account = self.requests(), {}
        try:
            time.sleep(2)
            yield account
            while self.requests() - before < least and process.poll() is None:
                time.sleep(1)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=600)
            account.update(json.loads(out.read_text()))

    def requests(self) -> int:
        """Requests that the router has sent to replicas so far."""
        with urllib.request.urlopen(f"{self.url.replace(':8080', ':8405')}/metrics") as answer:  # noqa: S310
            lines = answer.read().decode().splitlines()
        rows = [line for line in lines if line.startswith("haproxy_server_sessions_total{")]
        return sum(int(float(line.rpartition(" ")[2])) for line in rows)
