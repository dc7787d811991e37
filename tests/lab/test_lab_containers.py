# SPDX-License-Identifier: Apache-2.0
"""A lab on this machine, with real containers: up, repaired, broken on purpose, and gone without a trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainyard.lab import network, state
from trainyard.lab.commands import podman_here
from trainyard.lab.inventory import control_path_dir
from trainyard.lab.state import Lab
from trainyard.paths import ROOT

pytestmark = pytest.mark.lab

NAME = f"test-{os.getpid()}"


def trainyard(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The command, as a person runs it."""
    environment = {**os.environ, "TRAINYARD_LAB": NAME, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", "from trainyard.cli import main; main()", "lab", *words]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        pytest.fail(f"trainyard lab {' '.join(words)}: {done.stdout}{done.stderr}")
    return done


def on(host: str, command: str) -> str:
    """What a command on a host prints."""
    return trainyard("ssh", host, command).stdout


def described() -> dict[str, Any]:
    """The lab as `status --json` shows it."""
    found: dict[str, Any] = json.loads(trainyard("status", "--json").stdout)
    return found


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    trainyard("up", "--hosts", "2", "--engine", "simulated")
    found = state.load(NAME)
    assert found is not None
    yield found
    trainyard("down")


def test_hosts_are_hosts(lab: Lab) -> None:
    assert on(
        "lab-1", "systemctl is-system-running; hostname; sudo id -u; df --output=size -B1G /dev/shm | tail -1"
    ).split() == [
        *("running", "lab-1", "0", "2"),
    ]
    assert on("lab-2", "getent hosts lab-1").startswith(lab.hosts["lab-1"])


def test_a_host_poses_as_what_the_lab_says(lab: Lab) -> None:
    posed = json.loads(on("lab-1", "cat /etc/trainyard-lab.json"))
    assert (posed["instance_type"], posed["logical_nc_config"], posed["engine"]) == ("trn2.48xlarge", 2, "simulated")
    assert len(json.loads(on("lab-1", "neuron-ls --json-output"))) == 16


def test_a_host_has_none_of_the_machine_s_disks(lab: Lab) -> None:
    assert on("lab-1", "find /dev -type b").split() == []


def test_ansible_reaches_every_host_and_trusts_no_other_key(lab: Lab) -> None:
    environment = {**os.environ, "TRAINYARD_LAB": NAME, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    command = [
        str(Path(sys.executable).parent / "ansible"),
        "-i",
        str(ROOT / "inventory/lab"),
        "neuron",
        "-b",
        "-m",
        "ping",
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.count("ping: pong") == 2, done.stdout + done.stderr
    known = state.paths(NAME).known_hosts
    true_keys = known.read_text(encoding="utf-8")
    first, second = true_keys.splitlines()
    try:
        known.write_text(f"{first.split()[0]} {' '.join(second.split()[1:])}\n", encoding="utf-8")
        refused = trainyard("ssh", "lab-1", "true", check=False)
        assert refused.returncode == 255
    finally:
        known.write_text(true_keys, encoding="utf-8")


def test_units_bound_to_processors_of_the_real_host_start(lab: Lab) -> None:
    unit = "systemd-run --quiet --wait --pipe -p CPUAffinity=96-143 -p NUMAPolicy=bind -p NUMAMask=1 -p DynamicUser=yes"
    assert on("lab-1", f"sudo {unit} echo started").strip() == "started"


def test_a_second_up_changes_nothing(lab: Lab) -> None:
    before = on(
        "lab-1", "systemctl show --property=UserspaceTimestampMonotonic --value; cat /proc/1/stat | cut -d' ' -f22"
    )
    assert "everything was up already" in trainyard("up").stdout
    assert (
        on("lab-1", "systemctl show --property=UserspaceTimestampMonotonic --value; cat /proc/1/stat | cut -d' ' -f22")
        == before
    )


def test_up_brings_back_what_was_lost_and_leaves_the_rest(lab: Lab) -> None:
    podman = podman_here()
    born = on("lab-1", "cut -d' ' -f22 /proc/1/stat")
    podman.remove([lab.container("lab-2")])
    assert {host["name"]: host["state"] for host in described()["hosts"]} == {"lab-1": "running", "lab-2": "missing"}
    assert "(lab-2 started)" in trainyard("up").stdout
    assert {host["state"] for host in described()["hosts"]} == {"running"}
    assert on("lab-1", "cut -d' ' -f22 /proc/1/stat") == born


def test_a_reboot_keeps_data_and_a_stop_loses_it(lab: Lab) -> None:
    on("lab-1", "sudo mkdir -p /data && echo kept | sudo tee /data/file")
    boot = on("lab-1", "cut -d' ' -f22 /proc/1/stat")
    trainyard("fault", "lab-1", "reboot")
    assert on("lab-1", "cat /data/file").strip() == "kept"
    assert on("lab-1", "cut -d' ' -f22 /proc/1/stat") != boot
    trainyard("fault", "lab-1", "stop-start")
    assert on("lab-1", "ls -A /data") == ""
    assert on("lab-1", "systemctl is-system-running").strip() == "running"


def test_a_cut_network_separates_hosts_but_not_their_operator(lab: Lab) -> None:
    ping = "ping -c 1 -W 1 lab-1 > /dev/null && echo reached || echo lost"
    trainyard("fault", "lab-2", "network-cut")
    assert on("lab-2", ping).strip() == "lost"
    trainyard("fault", "lab-2", "clear")
    assert on("lab-2", ping).strip() == "reached"


def test_a_full_disk_can_be_read_but_not_written_until_it_is_cleared(lab: Lab) -> None:
    on("lab-1", "sudo mkdir -p /data && echo old | sudo tee /data/old")
    write = "sudo sh -c 'echo new > /data/new' 2>&1 | grep -o 'No space left\\|I/O error'"
    trainyard("fault", "lab-1", "disk-full")
    assert on("lab-1", "cat /data/old").strip() == "old"
    assert on("lab-1", write).strip() in ("No space left", "I/O error")
    assert on("lab-1", "df --output=avail /data | tail -1").strip() == "0"
    trainyard("fault", "lab-1", "clear")
    on("lab-1", "echo new | sudo tee /data/new")
    assert on("lab-1", "cat /data/new").strip() == "new"


def test_a_hub_that_says_429_is_heard_on_a_host(lab: Lab) -> None:
    code = f"curl -s -o /dev/null -w '%{{http_code}}' {lab.hub_url}/api/models/{state.MODEL}"
    trainyard("fault", "services", "hub-429", "--count", "1")
    assert on("lab-1", code) == "429"
    assert on("lab-1", code) == "200"


def test_neuron_packages_install_from_a_repository_whose_key_is_checked(lab: Lab) -> None:
    source = "/etc/apt/sources.list.d/neuron.list"
    only = f"-qq -o Dir::Etc::sourcelist={source} -o Dir::Etc::sourceparts=-"

    def update(key: str) -> str:
        on("lab-2", f"echo 'deb [signed-by={key}] {lab.apt_url} noble main' | sudo tee {source}")
        return on("lab-2", f"sudo apt-get {only} update 2>&1 | grep -c NO_PUBKEY || true").strip()

    on("lab-2", f"curl -s {lab.apt_url}/key.asc | sudo tee /etc/apt/keyrings/neuron.asc")
    assert update("/usr/share/keyrings/debian-archive-keyring.gpg") != "0"
    assert update("/etc/apt/keyrings/neuron.asc") == "0"
    on("lab-2", f"sudo apt-get {only} install --yes --allow-downgrades aws-neuronx-tools=2.27.33.0")
    assert on("lab-2", "dpkg-query --show --showformat '${Version}' aws-neuronx-tools") == "2.27.33.0"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fault", "lab-9", "reboot"), "no host 'lab-9'"),
        (("fault", "services", "reboot"), "no fault 'reboot' of services"),
        (("fault", "lab-1", "nonsense"), "nonsense"),
    ],
)
def test_what_is_not_there_is_named(lab: Lab, words: tuple[str, ...], message: str) -> None:
    done = trainyard(*words, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_eight_hosts_are_up_within_a_minute_and_down_leaves_nothing() -> None:
    name = f"{NAME}-gone"
    identity = state.lab_id(name)
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").count(identity)
    podman = podman_here()
    volumes = set(podman.run("volume", "ls", "--quiet").split())
    began = time.monotonic()
    trainyard("up", "--name", name, "--hosts", "8", "--engine", "simulated")
    assert time.monotonic() - began < 60
    lab = state.load(name)
    assert lab is not None
    assert len(podman.containers(identity)) == 9
    own_volumes = {
        mount["Name"]
        for container in podman.containers(identity)
        for mount in podman.json("inspect", container)[0]["Mounts"]
        if mount["Type"] == "volume"
    }
    assert len(own_volumes) == 8 and not own_volumes & volumes
    pid = podman.run("inspect", "--format", "{{.State.Pid}}", lab.container("lab-1")).strip()
    trainyard("down", "--name", name)
    assert podman.containers(identity) == {}
    assert not podman.succeeds("network", "exists", lab.prefix)
    assert not own_volumes & set(podman.run("volume", "ls", "--quiet").split())
    assert not Path(f"/proc/{pid}").exists()
    assert Path("/proc/self/mounts").read_text(encoding="utf-8").count(identity) == mounts
    assert not state.paths(name).folder.exists()
    assert not Path(control_path_dir(lab)).exists()
    assert lab.subnet not in {str(one) for one in network._used(podman)}
    assert "nothing was there" in trainyard("down", "--name", name).stdout
