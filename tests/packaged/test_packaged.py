# SPDX-License-Identifier: Apache-2.0
"""A fleet comes up, is rolled and taken down by the published archive and wheel alone, with no checkout in reach."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from release.__main__ import make
from release.version import version_here
from tests.release.test_installed import EXAMPLE
from trainyard.paths import ROOT

pytestmark = pytest.mark.lab

DROPPED = ("ANSIBLE_", "MOLECULE_", "PYTHON", "TRAINYARD_", "VIRTUAL_ENV")


@dataclass
class Installed:
    """An empty directory, the environment beside it, and the lab that is brought up from there."""

    folder: Path
    bin: Path
    lab: str = f"packaged-{os.getpid()}"
    said: dict[str, str] = field(default_factory=dict)

    def run(self, program: str, *words: str) -> str:
        """Run a program of the environment; it must succeed."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(DROPPED)}
        clean |= {
            "PATH": f"{self.bin}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PWD": str(self.folder),
            "TRAINYARD_LAB": self.lab,
            "XDG_STATE_HOME": str(self.folder.parent / "state"),
            "ANSIBLE_NOCOLOR": "1",
        }
        done = subprocess.run(
            [str(self.bin / program), *words], cwd=self.folder, env=clean, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout

    def play(self, verb: str, *words: str, **variables: Any) -> dict[str, dict[str, int]]:
        """Run a playbook of the collection; what it counted for each host."""
        given = [f"--extra-vars={json.dumps(variables)}"] if variables else []
        said = self.run("ansible-playbook", f"trainyard.neuron.{verb}", "-i", self.said["inventory"], *given, *words)
        self.said[verb] = said
        recap = said.rpartition("PLAY RECAP")[2]
        counted = re.findall(r"^(\S+)\s+: (.*)$", recap, re.MULTILINE)
        return {host: {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", row)} for host, row in counted}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    root = tmp_path_factory.mktemp("packaged")
    archive, wheel, _sums = make(ROOT, root / "dist", version_here(ROOT, "0.1.0"))
    venv.create(root / "venv", with_pip=True)
    # The versions of the lock, without its hashes: the wheel itself is in no lock.
    locked = re.findall(r"^(\S+==.*?) ?\\?$", (ROOT / "requirements.txt").read_text("utf-8"), re.MULTILINE)
    (root / "constraints.txt").write_text("".join(f"{line}\n" for line in locked), encoding="utf-8")
    (root / "empty").mkdir()
    made = Installed(root / "empty", root / "venv/bin")
    made.run("pip", "install", "--quiet", "--no-compile", "-c", str(root / "constraints.txt"), f"{wheel}[lab]")
    made.run("ansible-galaxy", "collection", "install", str(archive), "--no-deps", "-p", "collections")
    made.said["inventory"] = made.run("trainyard", "lab", "inventory").strip()
    # As one begins there: Ansible's settings are written beside the inventory of one's own.
    made.run("trainyard", "init", "mine", "--recipe", "qwen3-32b", "--host", "trn2-a=10.0.0.11")
    try:
        made.run("trainyard", "lab", "up", "--hosts", "2", "--engine", "simulated")
        yield made
    finally:
        made.run("trainyard", "lab", "down")


def ask(here: Installed) -> httpx.Response:
    plan = json.loads(here.run("trainyard", "plan", "-i", here.said["inventory"], "--json"))
    body = {"model": plan["router"]["models"][0]["name"], "prompt": "Hello", "max_tokens": 4}
    return httpx.post(f"{plan['router']['urls'][0]}/v1/completions", json=body, timeout=60, trust_env=False)


def active(here: Installed) -> int:
    """How many replicas of all hosts are active."""
    argv = ["-i", here.said["inventory"], "neuron", "--become", "-m", "ansible.builtin.command", "-a"]
    units = here.run("ansible", *argv, "systemctl list-units --state=active --plain --no-legend vllm@*.service")
    return len(re.findall(r"^vllm@\S+\.service ", units, re.MULTILINE))


def test_nothing_of_the_checkout_is_in_reach(here: Installed) -> None:
    assert str(ROOT) not in here.run("trainyard", "--version")
    assert str(ROOT) not in here.run("python", "-c", "import sys, trainyard; print(sys.path, trainyard.__file__)")
    listed = here.run("ansible-galaxy", "collection", "list", "trainyard.neuron", "--format", "json")
    assert str(ROOT) not in listed
    assert sys.prefix not in listed


def test_the_fleet_comes_up_is_measured_and_answers(here: Installed) -> None:
    counted = here.play("site")
    assert {host: row["failed"] + row["unreachable"] for host, row in counted.items()} == dict.fromkeys(counted, 0)
    assert ask(here).json()["choices"][0]["text"]
    (report,) = here.folder.glob("results/*/report.json")
    assert json.loads(report.read_text(encoding="utf-8"))["run"]["trainyard_version"] in here.run(
        "trainyard", "--version"
    )


def test_a_second_run_changes_nothing(here: Installed) -> None:
    counted = here.play("site", "--skip-tags=benchmark")
    assert {host: row["changed"] for host, row in counted.items()} == dict.fromkeys(counted, 0)


def test_the_replicas_are_served_by_their_role_alone_as_its_page_says(here: Installed) -> None:
    """From a deployment of the inventory and hosts with weights and artifacts; it plans for itself."""
    here.play("teardown")
    (page,) = here.folder.glob("collections/**/roles/vllm_endpoint/README.md")
    (example,) = EXAMPLE.findall(page.read_text(encoding="utf-8"))
    (here.folder / "serve.yml").write_text(f"---\n{example}", encoding="utf-8")
    assert active(here) == 0
    here.run("ansible-playbook", "serve.yml", "-i", here.said["inventory"])
    # A unit is active once it has answered a request.
    assert active(here) == 4
    here.play("site", "--skip-tags=benchmark")
    assert ask(here).status_code == 200


def test_the_fleet_is_rolled_to_another_release_and_back(here: Installed) -> None:
    before = here.run("trainyard", "plan", "-i", here.said["inventory"], "--diff")
    assert before.count("keep") == 4
    here.play("redeploy", trainyard_overrides={"tiny-llama": {"environment": {"ROLL_TEST": "1"}}})
    after = here.run("trainyard", "plan", "-i", here.said["inventory"], "--diff")
    assert after.count("restart") == 4
    assert ask(here).status_code == 200
    here.play("rollback")
    assert here.run("trainyard", "plan", "-i", here.said["inventory"], "--diff").count("keep") == 4


def test_the_fleet_is_taken_down(here: Installed) -> None:
    here.play("teardown", trainyard_teardown_data=True)
    argv = ["-i", here.said["inventory"], "neuron", "--become", "-m", "ansible.builtin.command", "-a"]
    units = here.run("ansible", *argv, "systemctl list-units --all --plain --no-legend vllm@*")
    assert "vllm@" not in units.replace("vllm@*", "")
