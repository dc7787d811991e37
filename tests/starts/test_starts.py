# SPDX-License-Identifier: Apache-2.0
"""Hosts that are not bare: a machine image that is a release behind, and what others left. Each ends as a server."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import SdkRelease, find_release

from tests.front_door.whole import Door
from tests.lab_plays import PROVISION
from tests.stand_in import failures, stand_in

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("starts")]

LLAMA, QWEN = "llama-3-3-70b", "qwen3-32b"
ROWS = {LLAMA: find_release("2.23.0"), QWEN: find_release("2.27.0")}
DRIVER = "aws-neuronx-dkms"


@contextlib.contextmanager
def hosts_that_begin(start: str, recipe: str, count: int) -> Iterator[Door]:
    """A lab of hosts that begin so, made for the release of a recipe."""
    release = ROWS[recipe].release
    with stand_in(
        f"{start}-{release.replace('.', '-')}", count, f"--start={start}", f"--sdk-release={release}", "--data-gib=4000"
    ) as made:
        yield Door(made.name)


def version_of(door: Door, host: str, package: str) -> str:
    return door.on(host, f"dpkg-query --show --showformat='${{Version}}' {package}")


def assert_it_is_as_its_row(door: Door, host: str, row: SdkRelease, *, venv: bool) -> None:
    for name, version in row.packages.items():
        assert version_of(door, host, name).startswith(version)
    assert json.loads(door.on(host, "/opt/aws/neuron/bin/neuron-ls -j"))
    if venv:
        assert door.on(host, f"{row.venv}/bin/vllm --version")


def test_an_image_that_is_a_release_behind_is_brought_to_the_row_and_serves(tmp_path: Path) -> None:
    with hosts_that_begin("image", LLAMA, 1) as door:
        assert door.on("lab-1", "systemctl is-active dlami-nvme.service") == "active"
        assert not version_of(door, "lab-1", DRIVER).startswith(ROWS[LLAMA].driver)
        door.begin(LLAMA, ["lab-1"], tmp_path)
        door.arrive(LLAMA, "lab-1")
        assert_it_is_as_its_row(door, "lab-1", ROWS[LLAMA], venv=True)


def test_an_image_serves_qwen_in_a_container_and_by_its_own_environment(tmp_path: Path) -> None:
    """The guide gives both ways; one word of the inventory chooses."""
    with hosts_that_begin("image", QWEN, 2) as lab:

        def whole(host: str, runtime: str) -> None:
            door = Door(lab.name)
            door.begin(QWEN, [host], tmp_path / runtime)
            file = door.inventory_of_mine / "group_vars/qwen3_32b/deployment.yml"
            text = file.read_text(encoding="utf-8")
            assert "runtime: container" in text
            file.write_text(text.replace("runtime: container", f"runtime: {runtime}"), encoding="utf-8")
            door.arrive(QWEN, host)
            assert_it_is_as_its_row(door, host, ROWS[QWEN], venv=runtime == "venv")

        with ThreadPoolExecutor() as threads:
            assert list(threads.map(whole, ["lab-1", "lab-2"], ["container", "venv"])) == [None, None]


def refused(door: Door, *arguments: str) -> str:
    """Run a playbook, which fails on some host; which failed, and what they said."""
    process = door.start(*arguments)
    output, _ = process.communicate()
    assert process.returncode != 0
    begins = output.rfind('{\n    "custom_stats"')
    return failures(dict(json.JSONDecoder().raw_decode(output, begins)[0]))


@pytest.mark.parametrize("recipe", [LLAMA, QWEN])
def test_what_others_left_is_mended_or_named_and_then_serves(recipe: str, tmp_path: Path) -> None:
    """In order: half an installation, a driver that is held, none that is loaded, a kernel without headers."""
    hosts = ["lab-1", "lab-2", "lab-3", "lab-4"]
    with hosts_that_begin("left", recipe, len(hosts)) as door:
        door.begin(recipe, hosts, tmp_path)
        assert "old-inference" in door.on("lab-2", "systemctl status old-inference.service")
        said = refused(door, PROVISION)
        assert said.count("is held by python3") == 1
        assert "trn2-b" in said
        door.on("lab-2", "systemctl disable --now old-inference.service")
        door.arrive(recipe, "lab-1")
        for host in hosts:
            assert_it_is_as_its_row(door, host, ROWS[recipe], venv=recipe == LLAMA)
