# SPDX-License-Identifier: Apache-2.0
"""System packages of the SDK on hosts that serve: never changed under a replica, and from Neuron's repository alone.

One lab goes through its life in the order of the tests; each needs the one before it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import find_release

from lab import neuron_packages
from tests.lab_plays import changed_tasks
from tests.stand_in import Lab, stand_in
from trainyard.paths import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("sdk-packages")]

PLAYBOOK = "tests/roles/neuron_venv.yml"
OLD, NEW = "2.23.0", "2.24.1"
PACKAGES = ("aws-neuronx-dkms", "aws-neuronx-runtime-lib", "aws-neuronx-collectives", "aws-neuronx-tools")
SHOW = "dpkg-query --show --showformat '${Package} ${db:Status-Want} ${Version}\\n' 'aws-neuronx-*'"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with stand_in("sdk-packages", 2, "--sdk-release", OLD, trainyard_monitor_port=9400) as made:
        yield made


def settings(lab: Lab, **more: Any) -> str:
    """The role's variables: the newer release, from the lab's repository."""
    source = str(lab.inventory["all"]["vars"]["lab_apt_url"])
    return json.dumps(
        {
            # For an image, which brings its own environment: what is tried here are the host's packages.
            "neuron_venv_releases": [find_release(NEW).entry("container")],
            "neuron_venv_package_source": source,
            "neuron_venv_package_key": f"{source.rstrip('/')}/key.asc",
            **more,
        }
    )


def fails(lab: Lab, *arguments: str) -> str:
    """Run a playbook that must fail; what it printed."""
    done = subprocess.run(
        lab.command(*arguments), cwd=ROOT, env=lab.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0, done.stdout[-4000:]
    return done.stdout


def test_packages_stay_while_replicas_of_the_old_release_run(lab: Lab) -> None:
    lab.pace(200, 100)
    lab.play("site.yml", "--skip-tags", "benchmark")
    before = lab.on("lab-1", SHOW)
    assert find_release(OLD).driver in before
    for mode in ([], ["--check"]):
        said = fails(lab, PLAYBOOK, "--limit", "lab-1", "--extra-vars", settings(lab), *mode)
        assert "vllm@tiny-llama-0.service" in said
        assert "run on these packages" in said
    assert lab.on("lab-1", SHOW) == before
    assert lab.on("lab-1", "systemctl is-active 'vllm@*'").split() == ["active", "active"]


def test_monitor_tells_the_replicas_apart_on_the_port_of_the_plan(lab: Lab) -> None:
    page = "curl --silent http://127.0.0.1:9400/metrics"
    lab.on("lab-2", f"for i in $(seq 60); do {page} | grep -q tiny-llama-1 && break; sleep 1; done")
    said = lab.on("lab-2", page)
    for core, name in ((0, "tiny-llama-0"), (63, "tiny-llama-1")):
        assert any(f'runtime_tag="{name}"' in line and f'neuroncore="{core}"' in line for line in said.splitlines())


def test_host_is_drained_for_a_change_when_told_to_and_no_request_fails(lab: Lab, tmp_path: Path) -> None:
    summary = tmp_path / "load.json"
    url = f"http://{lab.router_address}:8080"
    load = [sys.executable, "-m", "tests.roll.load", f"--url={url}", "--model=trainyard/tiny-llama", "--closed=4"]
    load += ["--rate=0.5", "--longest-s=8", f"--summary-out={summary}"]
    process = subprocess.Popen(load, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        time.sleep(3.0)
        drained = settings(lab, neuron_venv_in_use="drain", neuron_venv_drain_deadline_s=120)
        run = lab.play(PLAYBOOK, "--limit", "lab-1", "--extra-vars", drained)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=600)
    account = json.loads(summary.read_text())
    assert account["sent"] > 10
    assert (account["failed"], account["truncated"]) == (0, 0), account
    changed = {task.removeprefix("neuron_venv : ") for task, host in changed_tasks(run) if host == "lab-1"}
    assert {
        "Take replicas and monitor out of service",
        "Add Neuron's repository",
        "Install driver, runtime and tools at their versions",
        "Hold driver, runtime and tools at their versions",
    } <= changed
    assert "Return to service" not in changed, "it was in service before"
    after = lab.on("lab-1", SHOW)
    for name, version in find_release(NEW).packages.items():
        assert f"{name} hold {version}" in after
    assert lab.on("lab-1", "systemctl is-active trainyard-monitor") == "active", (
        "stopped for the driver, and started again"
    )
    assert find_release(OLD).driver in lab.on("lab-2", SHOW)
    assert lab.on("lab-2", "systemctl is-active 'vllm@*'").split() == ["active", "active"]


def test_second_run_changes_nothing_and_drift_is_told(lab: Lab) -> None:
    again = ("--limit", "lab-1", "--extra-vars", settings(lab))
    assert changed_tasks(lab.play(PLAYBOOK, *again)) == set()
    assert changed_tasks(lab.play(PLAYBOOK, "--check", *again)) == set()
    lab.on("lab-1", "apt-mark unhold aws-neuronx-tools; rm /etc/apt/preferences.d/trainyard-neuron")
    foretold = changed_tasks(lab.play(PLAYBOOK, "--check", *again))
    assert foretold == changed_tasks(lab.play(PLAYBOOK, *again)) != set()
    assert "aws-neuronx-tools hold" in lab.on("lab-1", SHOW)
    assert changed_tasks(lab.play(PLAYBOOK, *again)) == set()


def candidates(lab: Lab) -> dict[str, str]:
    """What apt would install, by name."""
    said = lab.on("lab-1", f"apt-cache policy {' '.join(PACKAGES)} aws-neuronx-extras")
    found = {}
    for block in said.split("\naws-neuronx"):
        lines = block.splitlines()
        found["aws-neuronx" + lines[0].removeprefix("aws-neuronx").rstrip(":")] = lines[2].split()[-1]
    return found


def test_placeholder_of_another_repository_is_no_candidate_whatever_its_version(lab: Lab, tmp_path: Path) -> None:
    planted = [*((name, "99.0") for name in PACKAGES), ("aws-neuronx-extras", "99.0")]
    neuron_packages.make(tmp_path / "planted", planted)
    copy = ["ansible", "lab-1", "-i", "inventory/lab", "--become", "-m", "ansible.builtin.copy"]
    copy += ["-a", f"src={tmp_path / 'planted'} dest=/srv/ mode=preserve"]
    subprocess.run(copy, cwd=ROOT, env=lab.environment, check=True, capture_output=True)
    lab.on("lab-1", "echo 'deb [trusted=yes] file:/srv/planted noble main' > /etc/apt/sources.list.d/planted.list")
    lab.on("lab-1", f"apt-get -qq update; apt-mark unhold {' '.join(PACKAGES)}")
    found = candidates(lab)
    assert found["aws-neuronx-extras"] == "(none)"
    for name, version in find_release(NEW).packages.items():
        assert not found[name].startswith("99"), found
        assert neuron_packages.debian_version(name, version) in lab.on("lab-1", SHOW)
    simulated = lab.on("lab-1", f"apt-get --simulate install {' '.join(PACKAGES)}")
    assert "99.0" not in simulated
    lab.on("lab-1", "mv /etc/apt/preferences.d/trainyard-neuron /root/")
    # Without the preferences the placeholder wins.
    assert all(version.startswith("99.0") for version in candidates(lab).values())
    lab.on("lab-1", "mv /root/trainyard-neuron /etc/apt/preferences.d/; rm /etc/apt/sources.list.d/planted.list")


def test_undo_leaves_packages_to_the_system(lab: Lab) -> None:
    gone = ("--limit", "lab-1", "--extra-vars", settings(lab, neuron_venv_state="absent"))
    lab.on("lab-1", "apt-get -qq update")
    lab.play(PLAYBOOK, "--limit", "lab-1", "--extra-vars", settings(lab))
    foretold = changed_tasks(lab.play(PLAYBOOK, "--check", *gone))
    assert changed_tasks(lab.play(PLAYBOOK, *gone)) == foretold != set()
    after = lab.on("lab-1", SHOW)
    assert " hold " not in after
    assert find_release(NEW).driver in after
    left = "ls /etc/apt/preferences.d/trainyard-neuron /etc/apt/sources.list.d/trainyard-neuron.sources 2>&1 || true"
    assert lab.on("lab-1", left).count("No such file") == 2
    assert changed_tasks(lab.play(PLAYBOOK, *gone)) == set()
