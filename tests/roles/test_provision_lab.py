# SPDX-License-Identifier: Apache-2.0
"""Provision and compile over a small lab: what check mode foretells, what a killed controller costs.

One lab goes through its life in the order of the tests; each needs the one before it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.stand_in import Lab, stand_in
from trainyard.paths import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("provision-lab")]

HOSTS = ("lab-1", "lab-2")
PROVISION, COMPILE = "playbooks/provision.yml", "playbooks/compile.yml"

#: How long a job may take to begin on a busy machine, seconds.
BEGIN_S = 300.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    # Compiles that last some seconds, so that there is a middle to be killed in.
    with stand_in("provision", len(HOSTS), "--time-scale", "0.2") as made:
        yield made


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


def logs(lab: Lab, kind: str) -> dict[str, str]:
    return {host: lab.on(host, f"cat /var/log/trainyard/{kind}-*.log 2>/dev/null || true") for host in HOSTS}


def test_check_mode_foretells_the_real_run_and_touches_nothing(lab: Lab) -> None:
    foretold = changed_tasks(lab.play(PROVISION, "--check", "--diff", "--tags", "nvme_raid,neuron_venv,host_tools"))
    assert lab.on("lab-1", "ls -d /data /opt/trainyard /etc/trainyard 2>/dev/null || true") == ""
    assert changed_tasks(lab.play(PROVISION, "--tags", "nvme_raid,neuron_venv,host_tools")) == foretold
    assert lab.on("lab-1", "ls -d /data /opt/trainyard/tools").split() == ["/data", "/opt/trainyard/tools"]


def test_killed_controller_costs_no_byte_of_a_download(lab: Lab) -> None:
    lab.trainyard("lab", "fault", "services", "hub-slow", "--seconds", "6", "--name", lab.name)
    controller = lab.start(PROVISION, "--tags", "model_weights")
    before = await_unit(lab, "lab-1", "weights")
    os.killpg(controller.pid, signal.SIGKILL)
    controller.wait()
    if controller.stdout:
        controller.stdout.close()
    assert await_unit(lab, "lab-1", "weights") == before
    lab.trainyard("lab", "fault", "services", "clear", "--name", lab.name)
    lab.play(PROVISION, "--tags", "model_weights")
    for log in logs(lab, "weights").values():
        assert log.count("fetching from") == 1
    assert lab.on("lab-1", "ls /data/weights/*/*/*/manifest.json")


def test_killed_controller_costs_no_second_compile(lab: Lab) -> None:
    controller = lab.start(COMPILE)
    before = await_unit(lab, "lab-1", "artifact")
    os.killpg(controller.pid, signal.SIGKILL)
    controller.wait()
    if controller.stdout:
        controller.stdout.close()
    assert await_unit(lab, "lab-1", "artifact") == before
    lab.play(COMPILE)
    said = logs(lab, "artifact")
    assert said["lab-1"].count("Compiling and saving model") == 1
    assert "Compiling and saving model" not in said["lab-2"]
    sums = {host: lab.on(host, "cd /data/artifacts && cat */manifest.json | sha256sum") for host in HOSTS}
    assert sums["lab-1"] == sums["lab-2"]


def test_second_run_changes_nothing_and_check_mode_says_so(lab: Lab) -> None:
    assert changes(lab.play(PROVISION, COMPILE)) == 0
    assert changes(lab.play(PROVISION, COMPILE, "--check")) == 0


def test_artifact_in_use_cannot_be_removed(lab: Lab) -> None:
    (artifact,) = json.loads(lab.trainyard("artifact", "ls", "-i", "inventory/lab", "--json"))
    assert artifact["places"] == ["store", *HOSTS]
    argv = ["trainyard", "artifact", "rm", "-i", "inventory/lab", artifact["digest"]]
    refused = subprocess.run(argv, cwd=ROOT, env=lab.environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "is used by tiny-llama" in refused.stderr


def test_damaged_artifact_is_found_and_fetched_again(lab: Lab) -> None:
    lab.on("lab-2", "truncate --size=-1 /data/artifacts/*/model.pt")
    found = subprocess.run(
        ["trainyard", "artifact", "verify", "-i", "inventory/lab"],
        cwd=ROOT,
        env=lab.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    run = lab.play(COMPILE)
    assert {host for _task, host in changed_tasks(run)} == {"lab-2"}
    lab.trainyard("artifact", "verify", "-i", "inventory/lab")
    assert "Compiling and saving model" not in logs(lab, "artifact")["lab-2"]


def test_undo_removes_what_was_made_and_only_that(lab: Lab) -> None:
    gone = json.dumps({"model_compile_state": "absent", "model_weights_state": "absent"})
    lab.play(PROVISION, COMPILE, "--tags", "model_weights,model_compile", "--extra-vars", gone)
    assert lab.on("lab-1", "find /data -type f") == ""
    assert lab.on("lab-1", "ls /etc/systemd/system/trainyard-*@.service 2>/dev/null || true") == ""
    assert changes(lab.play(PROVISION, COMPILE, "--tags", "model_weights,model_compile", "--extra-vars", gone)) == 0
