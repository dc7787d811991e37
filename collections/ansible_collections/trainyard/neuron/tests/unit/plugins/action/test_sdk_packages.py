# SPDX-License-Identifier: Apache-2.0
"""The action in a play of ansible-playbook: foretold without a word to the package manager, else up to what fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trainyard.neuron.plugins.action import sdk_packages

COLLECTIONS = Path(__file__).resolve().parents[7]
WANTED = {
    "manager": "apt",
    "repository": {"address": "https://packages.example"},
    "install": {"aws-neuronx-dkms": "2.25.4.0"},
    "hold": ["aws-neuronx-dkms"],
    "free": [],
    "forget": False,
}


def play(folder: Path, arguments: dict[str, Any], *words: str) -> dict[str, Any]:
    """Run the action over a connection that ends at once; its result."""
    hosts = {"neuron": {"hosts": {"a": {"ansible_connection": "ssh", "ansible_host": "10.0.0.1"}}}}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": hosts}}), encoding="utf-8")
    tasks = [{"trainyard.neuron.sdk_packages": arguments}]
    (folder / "play.yml").write_text(
        yaml.safe_dump([{"hosts": "neuron", "gather_facts": False, "tasks": tasks}]), encoding="utf-8"
    )
    run = subprocess.run(
        [sys.executable, "-m", "ansible.cli.playbook", "-i", "hosts.yml", "play.yml", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_SSH_EXECUTABLE": "/bin/false",
            "ANSIBLE_LOCAL_TEMP": str(folder / "local"),
        },
    )
    assert run.stdout.find("{") >= 0, run.stderr
    report = json.loads(run.stdout[run.stdout.index("{") :])
    result: dict[str, Any] = report["plays"][0]["tasks"][0]["hosts"]["a"]
    return result


def test_check_mode_foretells_and_reaches_no_host(tmp_path: Path) -> None:
    done = play(tmp_path, WANTED, "--check")
    assert done.get("changed") is True
    assert done.get("diff", {}).get("after") == (
        "repository https://packages.example\naws-neuronx-dkms 2.25.4.0\nhold aws-neuronx-dkms\n"
    )
    assert play(tmp_path, {"manager": "apt"}, "--check")["changed"] is False


def test_a_word_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    assert "instal" in play(tmp_path, {"manager": "apt", "instal": {}}, "--check")["msg"]


@pytest.mark.parametrize("manager", ["apt", "dnf"])
def test_repository_comes_first_and_holds_come_last(manager: str) -> None:
    names = [name.rpartition(".")[2] for name, _values in sdk_packages.steps_of({**WANTED, "manager": manager})]
    ends = {"apt": ("apt", "dpkg_selections"), "dnf": ("yum_repository", "dnf_versionlock")}[manager]
    assert (names[0], names[-1]) == ends
    nothing = {"repository": None, "install": {}, "hold": [], "free": [], "forget": False}
    assert sdk_packages.steps_of({"manager": manager, **nothing}) == []
