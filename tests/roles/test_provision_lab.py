# SPDX-License-Identifier: Apache-2.0
"""Provision and compile over a small lab: what check mode foretells, what a killed controller costs.

One lab goes through its life in the order of the tests; each needs the one before it.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.lab_plays import COMPILE, PROVISION, await_unit, changed_tasks, changes, logs
from tests.stand_in import Lab, stand_in
from trainyard.paths import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("provision-lab")]

HOSTS = ["lab-1", "lab-2"]

#: The last line that the compiler says of a compile that went well.
CLOSING = "Compiling and tracing time"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    # Compiles that last some seconds, so that there is a middle to be killed in.
    with stand_in("provision", len(HOSTS), "--time-scale", "0.2") as made:
        yield made


def test_check_mode_foretells_the_real_run_and_touches_nothing(lab: Lab) -> None:
    foretold = changed_tasks(lab.play(PROVISION, "--check", "--diff", "--tags", "nvme_raid,neuron_venv,host_tools"))
    assert lab.on("lab-1", "ls -d /opt/trainyard /etc/trainyard 2>/dev/null; ls -A /data") == ""
    assert changed_tasks(lab.play(PROVISION, "--tags", "nvme_raid,neuron_venv,host_tools")) == foretold
    assert lab.on("lab-1", "ls -d /opt/trainyard/tools /etc/trainyard").split() == [
        "/etc/trainyard",
        "/opt/trainyard/tools",
    ]


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
    for log in logs(lab, "weights", HOSTS).values():
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
    said = logs(lab, "artifact", HOSTS)
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
    assert "Compiling and saving model" not in logs(lab, "artifact", HOSTS)["lab-2"]


def test_undo_removes_what_was_made_and_only_that(lab: Lab) -> None:
    gone = json.dumps({"model_compile_state": "absent", "model_weights_state": "absent"})
    lab.play(PROVISION, COMPILE, "--tags", "model_weights,model_compile", "--extra-vars", gone)
    assert lab.on("lab-1", "find /data -type f") == ""
    assert lab.on("lab-1", "ls /etc/systemd/system/trainyard-*@.service 2>/dev/null || true") == ""
    assert changes(lab.play(PROVISION, COMPILE, "--tags", "model_weights,model_compile", "--extra-vars", gone)) == 0


#: A second model beside the lab's own, which the hub keeps for those who have a token.
TWO_MODELS = json.dumps(
    {
        "model_weights_hub_token": "hf_lab",
        "trainyard_compiles_next": True,
        "trainyard_overrides": {"tiny-llama": {"data_parallel_size": 1}},
        "trainyard_deployment_second": {
            "name": "second",
            "model": {
                "repo": "{{ lab_model_repo }}-gated",
                "source": "huggingface",
                "revision": "{{ lab_model_revision }}",
            },
            "served_name": "second",
            "sdk_release": "2.23.0",
            "generation": "nxdi_v0",
            "runtime": "venv",
            "tensor_parallel_size": 32,
            "data_parallel_size": 1,
            "max_num_seqs": 4,
            "max_model_len": 1024,
            "dtype": "bfloat16",
            "port": 8500,
            "neuron_config": {"model_type": "llama"},
        },
    }
)


def spans(run: dict[str, Any], kind: str) -> list[tuple[float, float]]:
    """When units of a kind worked, as their hosts say, in seconds since the epoch."""
    return [
        (span["began"], span["ended"])
        for play in run["plays"]
        for task in play["tasks"]
        for result in task["hosts"].values()
        for span in result.get("spans", [])
        if span["kind"] == kind
    ]


def worked(run: dict[str, Any], role: str) -> tuple[float, float]:
    """When the first task of a role began and the last ended, in seconds since the epoch."""
    tasks = [
        task["task"]["duration"] for play in run["plays"] for task in play["tasks"] if role in task["task"]["path"]
    ]
    moments = [datetime.datetime.fromisoformat(tasks[index][key]) for index, key in ((0, "start"), (-1, "end"))]
    return moments[0].timestamp(), moments[1].timestamp()


def test_work_that_does_not_need_other_work_runs_beside_it(lab: Lab) -> None:
    lab.trainyard("lab", "fault", "services", "hub-slow", "--seconds", "4", "--name", lab.name)
    run, said = lab.printed(PROVISION, COMPILE, "--extra-vars", TWO_MODELS)
    lab.trainyard("lab", "fault", "services", "clear", "--name", lab.name)
    downloads, compiles = spans(run, "weights"), spans(run, "artifact")
    assert (len(downloads), len(compiles)) == (4, 4)
    sdk_began, sdk_ended = worked(run, "roles/neuron_venv/")
    assert min(began for began, _ended in downloads) < sdk_began
    assert max(ended for _began, ended in downloads) > sdk_ended
    ratios = [float(found) for found in re.findall(r"([0-9.]+) at a time", said)]
    # Less than 1.2 would be what two downloads of different length alone give.
    assert ratios, said[-2000:]
    assert ratios[0] >= 1.2
    assert re.search(r"critical path: \d+ s", said)
    path = re.findall(r"^  lab-\d\s+[0-9.]+ s\s+[0-9.]+ s  (\S+)", said, re.M)
    assert path.index("weights") < path.index("artifact")


def test_second_controller_waits_for_the_first_and_compiles_nothing(lab: Lab) -> None:
    """It has an inventory of its own, in which another host was elected to compile the same digest."""
    longer = ("--extra-vars", '{"trainyard_overrides": {"tiny-llama": {"max_model_len": 4096}}}')
    inventory = json.loads((ROOT / ".lab" / lab.name / "inventory.json").read_text())
    for group in ("neuron", "router", "client"):
        inventory[group]["hosts"] = ["lab-2"]
    other = ROOT / ".lab" / f"{lab.name}-second"
    other.mkdir()
    try:
        (other / "inventory.json").write_text(json.dumps(inventory))
        before = {host: log.count(CLOSING) for host, log in logs(lab, "artifact", HOSTS).items()}
        with ThreadPoolExecutor() as controllers:
            first = controllers.submit(lab.play, PROVISION, COMPILE, *longer)
            await_unit(lab, "lab-1", "artifact")
            Lab(other.name).play(PROVISION, COMPILE, *longer)
            first.result()
    finally:
        shutil.rmtree(other)
    said = logs(lab, "artifact", HOSTS)
    assert {host: said[host].count(CLOSING) - before[host] for host in HOSTS} == {"lab-1": 1, "lab-2": 0}
    assert "waiting for lab-1" in said["lab-2"]
