# SPDX-License-Identifier: Apache-2.0
"""A fleet comes up from a bundle on a network that leads nowhere, and no packet tries to leave it (simulated).

A lab with the world around it is the rehearsal: what its host installs, and what the bundle holds, comes from there.
In the other lab the services are stopped. What a host sends to anywhere but its neighbours is counted and dropped
on the bridge; what it has is the bundle, carried by SSH, and a registry on its first host, as a site has one.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.stand_in import Lab, stand_in
from trainyard.lab import machine, state
from trainyard.lab.podman import Podman
from trainyard.paths import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("air-gap")]

TOOLS = {"skopeo": "skopeo", "nft": "nftables"}
DEPLOYMENT: dict[str, Any] = {
    "name": "tiny",
    "model": {"repo": "{{ lab_model_repo }}", "source": "huggingface", "revision": "{{ lab_model_revision }}"},
    "sdk_release": "2.27.0",
    "generation": "nxdi_v1",
    "runtime": "container",
    "tensor_parallel_size": 16,
    "data_parallel_size": 1,
    "max_num_seqs": 32,
    "max_model_len": 1024,
    "dtype": "bfloat16",
    "block_size": 32,
    "port": 8000,
    "neuron_config": {"model_type": "llama"},
}
FLEET: dict[str, Any] = {
    "trainyard_deployment_tiny_llama": None,
    "trainyard_deployment_tiny": DEPLOYMENT,
    # The bucket of inventory/lab is outside: artifacts go from host to host.
    "model_compile_store": "",
}
UP = ("--sdk-release", "2.27.0")
#: Makes a repository of the packages that a host fetched for itself.
PACKAGES = """cd /var/cache/apt/archives && python3 - <<'END'
import hashlib, pathlib, subprocess
with open("Packages", "w") as index:
    for path in sorted(pathlib.Path(".").glob("*.deb")):
        said = subprocess.run(["dpkg-deb", "--field", path], capture_output=True, text=True, check=True).stdout
        data = path.read_bytes()
        index.write(f"{said}Filename: ./{path}\\nSize: {len(data)}\\nSHA256: {hashlib.sha256(data).hexdigest()}\\n\\n")
END
tar -C .. -cf /var/tmp/packages.tar --exclude=partial --exclude=lock archives
"""
REGISTRY = """
version: 0.1
storage: {filesystem: {rootdirectory: /var/lib/docker-registry}}
http: {addr: ":5000"}
"""


@dataclass
class Bridge:
    """The lab's bridge, with counters of the packets that want to leave it."""

    name: str
    table: str
    gateway: str
    network: str
    services: str

    def nft(self, *words: str, text: str | None = None) -> str:
        argv = [*machine.detect().privilege(), "nft", *words]
        return subprocess.run(argv, input=text, capture_output=True, text=True, check=True).stdout

    def close(self) -> None:
        """Let hosts reach one another and answer the machine, and count and drop all else that they send."""
        ports = ", ".join(sorted(path.name for path in Path(f"/sys/class/net/{self.name}/brif").iterdir()))
        frame = "ether type { ip, ip6 }"
        self.nft(
            *("-f", "-"),
            text=f"""
            table bridge {self.table} {{
              counter outside {{}}
              counter machine {{}}
              counter neighbours {{}}
              chain between {{
                type filter hook forward priority 0; policy accept;
                iifname != {{ {ports} }} accept
                arp daddr ip {self.services} counter name outside drop
                ip daddr {self.services} counter name outside drop
                ip daddr {self.network} counter name neighbours accept
                ip daddr {{ 224.0.0.0/24, 255.255.255.255 }} accept
                ip6 daddr fe80::/10 accept
                ip6 daddr ff02::/16 accept
                {frame} counter name outside drop
              }}
              chain up {{
                type filter hook input priority 0; policy accept;
                iifname != {{ {ports} }} accept
                ip daddr {self.gateway} tcp flags & ack == ack accept
                ip daddr {self.gateway} icmp type echo-reply accept
                ip daddr {self.gateway} counter name machine drop
                ip daddr {self.network} accept
                ip daddr {{ 224.0.0.0/24, 255.255.255.255 }} accept
                ip6 daddr fe80::/10 accept
                ip6 daddr ff02::/16 accept
                {frame} counter name outside drop
              }}
            }}
            """,
        )

    def open(self) -> None:
        self.nft("delete", "table", "bridge", self.table)

    def counted(self) -> dict[str, int]:
        shown = json.loads(self.nft("--json", "list", "counters", "table", "bridge", self.table))["nftables"]
        return {row["counter"]["name"]: row["counter"]["packets"] for row in shown if "counter" in row}


def bridge_of(podman: Podman, lab: state.Lab) -> Bridge:
    (network,) = podman.json("network", "inspect", lab.prefix)
    subnet = network["subnets"][0]
    name = network["network_interface"]
    return Bridge(name, f"gap_{os.getpid()}", subnet["gateway"], subnet["subnet"], lab.services_address)


def trainyard(*words: object, **environment: str) -> str:
    argv = ["trainyard", *map(str, words)]
    done = subprocess.run(
        argv, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr


def world_of(lab: Lab) -> dict[str, str]:
    """What a program on this machine needs to find the lab's world."""
    lines = lab.trainyard("lab", "env", "--name", lab.name).splitlines()
    return dict(shlex.split(line)[1].split("=", 1) for line in lines)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    signer = f'ops@example namespaces="trainyard-bundle" {path.with_suffix(".pub").read_text()}'
    path.with_name("signers").write_text(signer)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, key: Path) -> Path:
    """Made where the world is: its checkpoint, image, wheels, and the packages that a host of the rehearsal took."""
    if missing := [package for program, package in TOOLS.items() if not shutil.which(program)]:
        machine.install(missing, machine.detect())
    folder = tmp_path_factory.mktemp("carried")
    with stand_in("rehearsal", 1, *UP, **FLEET) as lab:
        lab.play("site.yml", "--skip-tags=benchmark")
        lab.on("lab-1", PACKAGES)
        argv = ["ansible", "lab-1", "-i", "inventory/lab", "--become", "-m", "ansible.builtin.fetch"]
        argv += ["-a", f"src=/var/tmp/packages.tar dest={folder}/ flat=yes"]
        subprocess.run(argv, cwd=ROOT, env=lab.environment, capture_output=True, check=True)
        subprocess.run(["tar", "-C", str(folder), "-xf", str(folder / "packages.tar")], check=True)
        fleet = folder / "fleet.yml"
        fleet.write_text(yaml.safe_dump({"neuron": {"hosts": {"lab-1": FLEET}}}))
        made = folder / "bundle"
        words = ["bundle", "create", made, "-i", "inventory/lab", "-i", fleet, "--host-python", "3.11"]
        # Wheels are of the machine's own index, of which the lab's world has nothing; the rest of it is there.
        trainyard(*words, "--skip", "weights", "--skip", "images", TRAINYARD_LAB=lab.name)
        more = ("--skip", "wheels", "--add", folder / "archives", "--key", key)
        trainyard(*words, *more, TRAINYARD_LAB=lab.name, **world_of(lab))
    return made


@pytest.fixture(scope="module")
def gap() -> Iterator[tuple[Lab, Bridge]]:
    """Two hosts and a registry, on a network that leads nowhere."""
    with stand_in("gap", 2, *UP, **FLEET) as lab:
        # What a site has of its own before anything of the fleet is there.
        lab.on("lab-1", "apt-get update -qq && apt-get install -y -qq docker-registry > /dev/null")
        lab.on(
            "lab-1", f"cat > /etc/docker/registry/config.yml <<'END'\n{REGISTRY}END\nsystemctl restart docker-registry"
        )
        podman = Podman(machine.detect())
        known = state.load(lab.name)
        assert known is not None
        podman.run("stop", "--time", "2", known.container(state.SERVICES))
        bridge = bridge_of(podman, known)
        bridge.close()
        try:
            yield lab, bridge
        finally:
            bridge.open()


def test_a_fleet_comes_up_from_a_bundle_and_no_packet_leaves(
    gap: tuple[Lab, Bridge], bundle: Path, key: Path, tmp_path: Path
) -> None:
    lab, bridge = gap
    registry = f"{lab.address('lab-1')}:5000"
    insecure = f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n'
    # Where skopeo looks for what its user says of a registry.
    settings = tmp_path / "home/.config/containers/registries.conf"
    settings.parent.mkdir(parents=True)
    settings.write_text(insecure)
    to = lab.folder / "mnt"
    words = ["--to", to, "--registry", registry, "--signers", key.with_name("signers"), "--identity", "ops@example"]
    said = trainyard("bundle", "install", bundle, *words, HOME=str(tmp_path / "home"))
    assert f"{registry}/neuron/" in said
    # Every host sees it under the same path.
    carried = tmp_path / "mnt.tar"
    subprocess.run(["tar", "-C", "/", "-cf", str(carried), str(to.relative_to("/"))], check=True)
    argv = ["ansible", "neuron", "-i", "inventory/lab", "--become", "-m", "ansible.builtin.unarchive"]
    argv += ["-a", f"src={carried} dest=/"]
    done = subprocess.run(argv, cwd=ROOT, env=lab.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
    # The hosts' own settings: packages and wheels from there, the site's registry without TLS.
    lab.on("neuron", f"echo 'deb [trusted=yes] file:{to}/files/archives ./' > /etc/apt/sources.list")
    lab.on("neuron", "rm -f /etc/apt/sources.list.d/*")
    lab.on("neuron", f"printf '[global]\\nno-index = true\\nfind-links = {to}/wheels\\n' > /etc/pip.conf")
    lab.on("neuron", f"printf %s {shlex.quote(insecure)} > /etc/containers/registries.conf.d/60-site.conf")
    lab.play("site.yml", "--skip-tags=benchmark", "-e", f"@{to}/variables.yml")
    body = {"model": lab.inventory["all"]["vars"]["lab_model_repo"], "prompt": "Hello", "max_tokens": 8}
    answers = [
        httpx.post(f"http://{lab.router_address}:8080/v1/completions", json=body, timeout=30, trust_env=False)
        for _ in range(4)
    ]
    assert [answer.json()["usage"]["completion_tokens"] for answer in answers] == [8] * 4
    units = lab.on("lab-2", "systemctl is-active vllm@tiny-0.service")
    assert units == "active"
    counted = bridge.counted()
    assert (counted["outside"], counted["machine"]) == (0, 0)
    assert counted["neighbours"] > 0


@pytest.mark.parametrize(
    ("command", "counter"),
    [
        ("curl --max-time 2 http://192.0.2.1/", "outside"),
        ("curl --max-time 2 https://huggingface.co/", "outside"),
        ("getent hosts pypi.invalid", "machine"),
    ],
)
def test_a_packet_that_would_leave_is_counted_and_goes_nowhere(
    gap: tuple[Lab, Bridge], command: str, counter: str
) -> None:
    """What the test above counts would not be zero by itself: an address, a service of the world, a name to look up."""
    lab, bridge = gap
    before = bridge.counted()[counter]
    assert lab.on("lab-2", f"{command} > /dev/null 2>&1 && echo answered || echo nothing") == "nothing"
    assert bridge.counted()[counter] > before
