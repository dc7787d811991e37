# SPDX-License-Identifier: Apache-2.0
"""The life of one role on a stand-in host, as a molecule scenario of its name brings it: `molecule test -s nvme_raid`.

What `--check` said is what the run did, a second run does nothing, undo is foretold as well and leaves nothing to undo.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.stand_in import Lab
from trainyard.paths import ROOT

pytestmark = pytest.mark.lab

ROLE = os.environ.get("TRAINYARD_ROLE", "")
PLAYBOOK = f"molecule/{ROLE}/converge.yml"

#: A stand-in host has /data from the start, as a volume of its own; what is to be made has another path.
MOUNT = "/srv/data"

#: Variables of the inventory that a role's scenario needs; all others are the roles' own defaults.
VARIABLES: dict[str, dict[str, Any]] = {
    "neuron_monitor": {"trainyard_monitor_port": 9400},
    "nvme_raid": {"nvme_raid_mount": MOUNT},
}


@pytest.fixture(scope="module")
def lab() -> Lab:
    if not ROLE:
        pytest.fail("run by molecule: molecule test --scenario-name ROLE")
    return Lab(os.environ["TRAINYARD_LAB"], VARIABLES.get(ROLE, {}))


def changed(run: dict[str, Any]) -> list[str]:
    """The tasks that changed something, in their order."""
    return [
        task["task"]["name"]
        for play in run["plays"]
        for task in play["tasks"]
        for result in task["hosts"].values()
        if result.get("changed")
    ]


def absent() -> tuple[str, str]:
    return "--extra-vars", json.dumps({f"{ROLE}_state": "absent"})


def test_check_mode_foretells_what_the_run_does(lab: Lab) -> None:
    foretold = changed(lab.play(PLAYBOOK, "--check", "--diff"))
    assert foretold != []
    assert changed(lab.play(PLAYBOOK, "--check", "--diff")) == foretold, "check mode changed something"
    assert changed(lab.play(PLAYBOOK)) == foretold


def test_second_run_changes_nothing(lab: Lab) -> None:
    assert changed(lab.play(PLAYBOOK)) == []
    assert changed(lab.play(PLAYBOOK, "--check")) == []


def volume_is_a_directory_and_only_with_permission(lab: Lab) -> None:
    assert lab.on("lab-1", f"stat --format='%F %U %a' {MOUNT}") == "directory root 755"
    argv = lab.command(PLAYBOOK, "--extra-vars", json.dumps({"nvme_raid_when_no_disks": "fail"}))
    refused = subprocess.run(argv, cwd=ROOT, env=lab.environment, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "this host has no disk of model 'Amazon EC2 NVMe Instance Storage'" in refused.stdout
    lab.on("lab-1", f"chmod 700 {MOUNT}")
    assert changed(lab.play(PLAYBOOK)) == ["nvme_raid : Make the data volume"]
    assert lab.on("lab-1", f"stat --format=%a {MOUNT}") == "755"


def packages_are_held_and_bound(lab: Lab) -> None:
    held = lab.on("lab-1", "apt-mark showhold").split()
    assert {"aws-neuronx-dkms", "aws-neuronx-runtime-lib", "aws-neuronx-collectives", "aws-neuronx-tools"} <= set(held)
    assert "Pin-Priority: -1" in lab.on("lab-1", "cat /etc/apt/preferences.d/trainyard-neuron")
    assert lab.on("lab-1", "ls /var/lib/trainyard/sdk") == "2.23.0-nxdi_v0.json", "the release's commands were run"


def programs_run_and_damage_is_mended(lab: Lab) -> None:
    program = "cd /usr/local/lib/trainyard && /opt/trainyard/tools/bin/python -B -c 'import {}'"
    lab.on("lab-1", program.format("boto3, huggingface_hub, trainyard_jobs.program"))
    lab.on("lab-1", "echo broken >> /usr/local/lib/trainyard/trainyard_jobs/job.py")
    assert changed(lab.play(PLAYBOOK)) == ["host_tools : Lay out programs and Python tools of long work"]
    lab.on("lab-1", program.format("trainyard_jobs.job"))


def metrics_answer_on_the_planned_port(lab: Lab) -> None:
    page = (
        "python3 -c \"import urllib.request as r; print(r.urlopen('http://127.0.0.1:9400/metrics').read().decode())\""
    )
    lab.on("lab-1", f"for i in $(seq 60); do {page} 2>/dev/null | grep -q hardware_ecc && break; sleep 1; done")
    said = lab.on("lab-1", page)
    assert 'instance_type="trn2.48xlarge"' in said
    assert said.count('event_type="mem_ecc_corrected"') == 16, "every device of the host"
    host = page.replace("9400", "9401")
    said = lab.on("lab-1", host)
    assert "trainyard_neuron_devices 16.0" in said
    assert 'trainyard_neuron_ecc_events_total{device="3",kind="sram_uncorrected"} 0.0' in said
    assert not re.search(r"trainyard_exporter_part_failed.* 1.0", said), said
    # Its own limits let it read what it is for.
    lab.fault("lab-1", "sram-error", "--device", "3")
    counted = 'trainyard_neuron_hw_errors_total{device="3",kind="SRAM_UNCORRECTABLE_ERROR"} 1.0'
    lab.on("lab-1", f"for i in $(seq 60); do {host} | grep -qF '{counted}' && exit 0; sleep 1; done; exit 1")
    lab.fault("lab-1", "clear")
    # Either of the two programs may die; what is left must not go on with old figures.
    for program in ("neuron-monitor -c", "neuron-monitor-prometheus.py --port"):
        before = lab.on("lab-1", "systemctl show --property=InvocationID --value trainyard-monitor")
        lab.on("lab-1", f"kill -9 $(pgrep -f -- '[n]{program[1:]}' | tail -1)")
        again = f"[ $(systemctl show -p InvocationID --value trainyard-monitor) != {before} ]"
        lab.on(
            "lab-1",
            f"for i in $(seq 60); do {again} && {page} 2>/dev/null | grep -q hardware_ecc && break; sleep 1; done",
        )
        assert 'instance_type="trn2.48xlarge"' in lab.on("lab-1", page)
        assert lab.on("lab-1", "systemctl show --property=InvocationID --value trainyard-monitor") != before


CHECKS: dict[str, Callable[[Lab], None]] = {
    "nvme_raid": volume_is_a_directory_and_only_with_permission,
    "neuron_venv": packages_are_held_and_bound,
    "host_tools": programs_run_and_damage_is_mended,
    "neuron_monitor": metrics_answer_on_the_planned_port,
}


def test_what_the_role_is_for_works(lab: Lab) -> None:
    CHECKS[ROLE](lab)
    assert changed(lab.play(PLAYBOOK)) == []


def test_undo_is_foretold_and_leaves_nothing_to_undo(lab: Lab) -> None:
    foretold = changed(lab.play(PLAYBOOK, "--check", *absent()))
    assert foretold != []
    assert changed(lab.play(PLAYBOOK, *absent())) == foretold
    assert changed(lab.play(PLAYBOOK, *absent())) == []
    assert changed(lab.play(PLAYBOOK)) != [], "and it can be made again"
