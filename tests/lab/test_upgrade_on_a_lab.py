# SPDX-License-Identifier: Apache-2.0
"""`trainyard upgrade` of two stand-in hosts under load: other packages and driver, a reboot, and no failed request.

The hosts have the environments of both SDK releases, as an image would bring them; the system packages come from the
lab's repository, first those of the old release, then those of the new one. One lab goes through its life in the order
of the tests.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.releases import find_release

from tests.stand_in import Lab, stand_in
from trainyard.lab.commands import podman_here
from trainyard.lab.state import load
from trainyard.paths import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("upgrade")]

OLD, NEW = "2.23.0", "2.24.1"
HOSTS = ("lab-1", "lab-2")
SHOW = "dpkg-query --show --showformat '${Package} ${db:Status-Want} ${Version}\\n' 'aws-neuronx-*'"
BOOTED = "systemctl show --property=UserspaceTimestamp --value"
STARTED = "systemctl show --property=Id,ActiveState,ActiveEnterTimestamp 'vllm@*' haproxy.service | sort"
SETTINGS = {
    "neuron_venv_package_source": "{{ lab_apt_url }}",
    "neuron_venv_package_key": "{{ lab_apt_url }}/key.asc",
    "trainyard_redeploy": {"canary_seconds": 10, "soak_seconds": 1, "drain_deadline_seconds": 120},
}
TO_NEW = {"trainyard_overrides": {"tiny-llama": {"sdk_release": NEW}}}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with stand_in("upgrade", 2, "--sdk-release", OLD, "--sdk-release", NEW, **SETTINGS) as made:
        made.pace(200, 100)
        made.play("site.yml", "--skip-tags", "benchmark")
        yield made


def packages(lab: Lab, host: str, release: str) -> None:
    """The host has the release's packages, and keeps upgrades from them."""
    found = lab.on(host, SHOW)
    for name, version in find_release(release).packages.items():
        assert f"{name} hold {version}" in found, found


def upgrade(lab: Lab, *more: str) -> subprocess.CompletedProcess[str]:
    """`trainyard upgrade` of the whole lab to the newer release, as a person runs it."""
    environment = {name: value for name, value in lab.environment.items() if name != "ANSIBLE_STDOUT_CALLBACK"}
    words = ["trainyard", "upgrade", "-i", "inventory/lab", "-e", json.dumps({**SETTINGS, **TO_NEW}), *more]
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def replicas(lab: Lab) -> dict[str, dict[str, Any]]:
    """What every host reports of its replicas and, where it has one, of its router."""
    words = ["ansible", "neuron", "-i", "inventory/lab", "--become", "-m", "trainyard.neuron.replica_info"]
    environment = {**lab.environment, "ANSIBLE_STDOUT_CALLBACK": "json", "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    hosts: dict[str, dict[str, Any]] = json.loads(done.stdout)["plays"][0]["tasks"][0]["hosts"]
    return hosts


def running(lab: Lab) -> dict[str, str]:
    """Release of every replica's process, by replica id."""
    return {
        f"{host}:{name}": row["running"]
        for host, report in replicas(lab).items()
        for name, row in report["replicas"].items()
    }


def in_rotation(lab: Lab) -> set[str]:
    """Replicas that the router sends its full share to."""
    return {
        name
        for report in replicas(lab).values()
        for name, seat in (report["servers"] or {}).items()
        if seat["state"] == "ready" and seat["up"] and seat["weight"] == 100
    }


@contextlib.contextmanager
def powered(lab: Lab, host: str) -> Iterator[list[str]]:
    """Play the machine under a host: one that goes down for a reboot comes up again. Holds what it had to do."""
    made, over, done = load(lab.name), threading.Event(), list[str]()
    assert made is not None
    podman, container = podman_here(), made.container(host)

    def watch() -> None:
        while not over.wait(1.0):
            if podman.run("inspect", "--format", "{{.State.Status}}", container).strip() == "exited":
                done.append(lab.fault(host, "reboot"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def loaded(lab: Lab, out: Path) -> Iterator[dict[str, Any]]:
    """Stream from the router; the dictionary holds the account when the block is over."""
    words = [sys.executable, "-m", "tests.roll.load", f"--url=http://{lab.router_address}:8080"]
    words += ["--model=trainyard/tiny-llama", "--per-token-s=0.1", "--closed=4", "--rate=0.5", "--longest-s=8"]
    process = subprocess.Popen([*words, f"--summary-out={out}"], cwd=ROOT, stdout=subprocess.DEVNULL)
    account: dict[str, Any] = {}
    try:
        yield account
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)
        account.update(json.loads(out.read_text()))


def test_hosts_change_their_sdk_one_after_the_other_with_a_reboot_and_no_request_fails(
    lab: Lab, tmp_path: Path
) -> None:
    for host in HOSTS:
        packages(lab, host, OLD)
    before, booted = running(lab), {host: lab.on(host, BOOTED) for host in HOSTS}
    # The one that routes is not rebooted: its kernel lets go of the driver.
    lab.fault("lab-2", "driver-held")
    with loaded(lab, tmp_path / "load.json") as account, powered(lab, "lab-2") as power:
        run = upgrade(lab)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert "Upgraded: lab-1, lab-2." in run.stdout
    assert power == ["lab-2 rebooted"]
    assert account["sent"] > 50
    assert (account["failed"], account["truncated"]) == (0, 0), account
    for host in HOSTS:
        packages(lab, host, NEW)
    assert [lab.on(host, BOOTED) != booted[host] for host in HOSTS] == [False, True]
    after = running(lab)
    assert after.keys() == before.keys()
    assert all(release and release != before[name] for name, release in after.items())
    assert in_rotation(lab) == set(before)


def test_a_second_upgrade_does_nothing(lab: Lab) -> None:
    before = [lab.on(host, STARTED) for host in HOSTS]
    run = upgrade(lab)
    assert run.returncode == 0, run.stdout[-6000:]
    recaps = re.findall(r"^\S+ +: ok=\d+ +changed=(\d+) +unreachable=0 +failed=0", run.stdout, re.MULTILINE)
    assert len(recaps) == 2 * len(HOSTS)
    assert set(recaps) == {"0"}, run.stdout[-6000:]
    assert run.stdout.count("Nothing to roll") == len(HOSTS)
    assert [lab.on(host, STARTED) for host in HOSTS] == before


def test_a_router_is_not_rebooted_under_its_streams(lab: Lab) -> None:
    """What reboots the host that routes would cut every stream, and nobody was asked."""
    lab.fault("lab-1", "driver-held")
    words = {**SETTINGS, "trainyard_overrides": {"tiny-llama": {"sdk_release": OLD}}}
    booted = lab.on("lab-1", BOOTED)
    run = upgrade(lab, "--host", "lab-1", "-e", json.dumps(words))
    assert run.returncode == 1
    assert "is a router" in run.stdout, run.stdout[-4000:]
    assert lab.on("lab-1", BOOTED) == booted
    assert {name for name in in_rotation(lab) if name.startswith("lab-2:")} == {
        name for name in running(lab) if name.startswith("lab-2:")
    }
