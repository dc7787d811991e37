# SPDX-License-Identifier: Apache-2.0
"""A deployment of the second recipe's shape with `runtime: container`, from bare host to tokens, on a stand-in host.

The image is the stand-in of AWS's, with its entry point and its health check; the engine on the host is podman. One lab
goes through its life in the order of the tests.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.stand_in import Lab, stand_in
from trainyard.paths import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("container-lab")]

DEPLOYMENT: dict[str, Any] = {
    "name": "qwen-shaped",
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
UNIT = "vllm@qwen-shaped-0.service"
CONTAINER = "vllm-qwen-shaped-0"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    variables = {"trainyard_deployment_tiny_llama": None, "trainyard_deployment_qwen_shaped": DEPLOYMENT}
    with stand_in("container", 1, "--sdk-release", "2.27.0", **variables) as made:
        yield made


def podman(lab: Lab, *words: str) -> Any:
    return json.loads(lab.on("lab-1", " ".join(["podman", *words])))


def busy(lab: Lab) -> list[int]:
    found = json.loads(lab.on("lab-1", "/opt/aws/neuron/bin/neuron-ls -j"))
    return [device["neuron_device"] for device in found if device["neuron_processes"]]


def complete(lab: Lab) -> httpx.Response:
    body = {"model": lab.inventory["all"]["vars"]["lab_model_repo"], "prompt": "Hello", "max_tokens": 8}
    return httpx.post(f"http://{lab.router_address}:8080/v1/completions", json=body, timeout=30)


def changes(run: dict[str, Any]) -> int:
    return sum(stats["changed"] for stats in run["stats"].values())


def test_site_brings_it_from_a_bare_host_to_tokens(lab: Lab) -> None:
    lab.play("site.yml", "--skip-tags=benchmark")
    answer = complete(lab)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 8
    assert busy(lab) == [0, 1, 2, 3]


def test_a_second_run_changes_nothing(lab: Lab) -> None:
    run = lab.play("site.yml", "--skip-tags=benchmark")
    assert changes(run) == 0


def test_the_unit_s_container_is_the_image_of_the_digest_with_its_traits_corrected(lab: Lab) -> None:
    """AWS's image: entry point that forwards no signal, health check of port 8080; documentation: one --device each."""
    (container,) = podman(lab, "container", "inspect", CONTAINER)
    (image,) = podman(lab, "image", "inspect", container["Image"])
    wanted = lab.inventory["all"]["vars"]["lab_images"][
        "neuron/pytorch-inference-vllm-neuronx:0.11.0-neuronx-py312-sdk2.27.0-ubuntu24.04"
    ]
    assert wanted.partition("@")[2] in {entry.partition("@")[2] for entry in image["RepoDigests"]}
    assert image["Config"]["Entrypoint"] == ["python", "/usr/local/bin/vllm_entrypoint.py"]
    assert "localhost:8080/ping" in " ".join(image["Healthcheck"]["Test"])
    assert container["HostConfig"]["Privileged"] is False
    words = container["Config"]["CreateCommand"]
    given = {word for option, word in pairwise(words) if option == "--device"}
    assert given == {f"/dev/neuron{number}" for number in range(16)}
    seen = lab.on("lab-1", f"podman exec {CONTAINER} python -c 'import os; print(*os.listdir(\"/dev\"))'").split()
    assert {f"/dev/{name}" for name in seen if name.startswith("neuron")} == given
    assert "vllm_entrypoint" not in json.dumps(container["Config"].get("Entrypoint"))
    assert container["Config"]["Healthcheck"] == {"Test": ["NONE"]}
    group = lab.on("lab-1", f"systemctl show --property=ControlGroup --value {UNIT}")
    assert group in lab.on("lab-1", f"cat /proc/{container['State']['Pid']}/cgroup")


def accepted(lab: Lab, folder: Path) -> tuple[int, dict[str, tuple[str, str]]]:
    """Status of an acceptance beside the replica, and outcome and sight of each of its checks."""
    asked = {"trainyard_accept": {"stages": ["device", "serve"], "directory": str(folder)}}
    process = lab.start("playbooks/accept.yml", f"--extra-vars={json.dumps(asked)}")
    output, _ = process.communicate()
    file = folder / "accept.json"
    assert file.exists(), output[-4000:]
    (host,) = json.loads(file.read_text())["hosts"].values()
    return process.returncode, {one["name"]: (one["outcome"], one["seen"]) for one in host["checks"]}


def test_an_acceptance_sees_by_podman_what_a_container_of_the_image_may_do(lab: Lab, tmp_path: Path) -> None:
    status, found = accepted(lab, tmp_path / "sound")
    assert (status, [name for name, one in found.items() if one[0] == "differs"]) == (0, []), found
    assert found["container-devices"] == ("passed", "it opened each of 16 devices")
    assert found["container-rights"] == ("passed", "no more than DAC_OVERRIDE, and it may gain none")
    assert found["health"][0] == "not judged" and "runs in a container" in found["health"][1]
    lab.fault("lab-1", "rule-off", "--rule", "container-devices")
    try:
        status, found = accepted(lab, tmp_path / "off")
    finally:
        lab.fault("lab-1", "clear")
    assert (status != 0, [name for name, one in found.items() if one[0] == "differs"]) == (True, ["container-devices"])
    assert busy(lab) == [0, 1, 2, 3], "the replica serves on"


def test_images_are_on_the_data_volume(lab: Lab) -> None:
    assert podman(lab, "info", "--format", "json")["store"]["graphRoot"].startswith("/data/containers")


def test_the_image_as_it_comes_ignores_a_stop_and_is_never_healthy(lab: Lab) -> None:
    """Its entry point starts the command as a child of a process 1 that handles no signal (AWS's Dockerfile)."""
    image = podman(lab, "container", "inspect", CONTAINER)[0]["Image"]
    lab.on("lab-1", f"podman run --detach --name plain --network host {image} sleep 300")
    unhealthy = lab.on("lab-1", "podman healthcheck run plain > /dev/null 2>&1 && echo healthy || echo unhealthy")
    assert unhealthy == "unhealthy"
    began = time.monotonic()
    lab.on("lab-1", "podman stop --time 3 plain")
    assert time.monotonic() - began > 3
    assert podman(lab, "container", "inspect", "plain")[0]["State"]["ExitCode"] == 137, "only SIGKILL ended it"
    lab.on("lab-1", "podman rm plain")


def test_a_stop_is_clean_and_frees_the_cores_and_a_start_serves_again(lab: Lab) -> None:
    lab.on("lab-1", f"systemctl stop {UNIT}")
    assert busy(lab) == []
    assert lab.on("lab-1", "podman ps --all --quiet") == ""
    assert lab.on("lab-1", f"systemctl show --property=Result --value {UNIT}") == "success"
    log = lab.on("lab-1", f"journalctl --unit {UNIT} --output cat --lines 40")
    assert "Finished server process" in log, "the server heard the signal"
    lab.on("lab-1", f"systemctl start {UNIT}")
    assert busy(lab) == [0, 1, 2, 3]


def test_a_killed_server_comes_back_with_its_cores(lab: Lab) -> None:
    """A SIGKILLed server leaves its engine; in the unit's control group that one ends too."""
    before = lab.on("lab-1", f"systemctl show --property=NRestarts --value {UNIT}")
    lab.fault("lab-1", "server-sigkill", "--replica", "qwen-shaped-0")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        shown = lab.on("lab-1", f"systemctl show --property=NRestarts,ActiveState --value {UNIT}").split()
        if shown[0] != before and "active" in shown:
            break
        time.sleep(1)
    assert shown[0] == str(int(before) + 1) and "active" in shown, shown
    assert busy(lab) == [0, 1, 2, 3]


def test_an_image_without_a_digest_is_refused(lab: Lab) -> None:
    without = '--extra-vars={"trainyard_image_registry": ""}'
    process = lab.start("playbooks/provision.yml", "--tags=container_engine", without)
    output, _ = process.communicate()
    assert process.returncode != 0
    assert "has no digest to pull it by: set trainyard_images" in output


def test_a_start_without_the_image_is_refused_with_the_way_out(lab: Lab) -> None:
    """The launcher never pulls: what serves is what provisioning put there."""
    lab.on("lab-1", f"systemctl stop {UNIT} && podman image rm --all --force")
    check = "/usr/local/lib/trainyard/replica check qwen-shaped-0 2>&1 || true"
    assert "is not on this host; run the provision playbook" in lab.on("lab-1", check)


def test_teardown_removes_the_container(lab: Lab) -> None:
    lab.play(str(ROOT / "playbooks/teardown.yml"))
    assert lab.on("lab-1", "podman ps --all --quiet") == ""
    assert busy(lab) == []
