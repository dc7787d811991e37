# SPDX-License-Identifier: Apache-2.0
"""A fleet comes up, is rolled and taken down from inside the execution environment, by ansible-runner and by navigator.

Both are given what an operator has: a directory with Ansible's settings and an inventory, and the files that the
inventory names. Nothing else of this machine is in the container but its network, in which the stand-in hosts are.
"""

from __future__ import annotations

import abc
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.packaged.environment import Image
from tests.stand_in import Lab, stand_in
from trainyard.init.command import settings_beside
from trainyard.paths import ROOT

pytestmark = pytest.mark.lab

#: Where the image has the collection that was built: tasks of any other one would say another path.
CARRIED = "/usr/share/ansible/collections/ansible_collections/trainyard/neuron/"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def recap(said: str) -> dict[str, dict[str, int]]:
    """What a run counted for each host."""
    rows = re.findall(r"^(\S+)\s+: (ok=.*)$", COLOUR.sub("", said).replace("\r", "").rpartition("PLAY RECAP")[2], re.M)
    return {host: {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", row)} for host, row in rows}


def inventory(lab: Lab, folder: Path) -> None:
    """Write the lab as a file of hosts with their groups' variables, as somebody has it in a project."""
    shown = lab.inventory
    about = shown.pop("_meta")["hostvars"]
    variables = shown.pop("all")["vars"]
    groups = {name: {"hosts": dict.fromkeys(group["hosts"])} for name, group in shown.items()}
    document = {"all": {"vars": variables, "hosts": about, "children": groups}}
    folder.mkdir()
    (folder / "hosts.yml").write_text(yaml.safe_dump(document), encoding="utf-8")
    shutil.copytree(ROOT / "inventory/lab/group_vars", folder / "group_vars")


@dataclass
class Engine(abc.ABC):
    """What runs playbooks in the image.

    Attributes:
        home: where it is called.
        files: what the inventory names on this machine: keys of hosts and of their user, the images that were pinned.
        tasks: paths of the files whose tasks ran, as the container has them.
    """

    image: Image
    home: Path
    files: Path
    tasks: set[str] = field(default_factory=set)

    @abc.abstractmethod
    def prepare(self, lab: Lab) -> None:
        """Put down what an operator has."""

    @abc.abstractmethod
    def run(self, playbook: str, words: list[str]) -> str:
        """Run a playbook, which must succeed, and note its tasks; what it printed."""

    def play(self, verb: str, *words: str, **variables: Any) -> dict[str, dict[str, int]]:
        # Without a space: ansible-navigator takes a word with one for a further inventory, whatever it begins with.
        given = [f"--extra-vars={json.dumps(variables, separators=(',', ':'))}"] if variables else []
        counted = recap(self.run(f"trainyard.neuron.{verb}", [*words, *given]))
        assert counted
        return counted


class Runner(Engine):
    """ansible-runner, in a directory as AWX makes one for each job."""

    def prepare(self, lab: Lab) -> None:
        inventory(lab, self.home / "inventory")
        (self.home / "project").mkdir()
        settings_beside(self.home / "project")

    def run(self, playbook: str, words: list[str]) -> str:
        argv = ["run", str(self.home), "--playbook", playbook, "--ident", f"run-{len(list(self.runs))}"]
        argv += ["--process-isolation", "--process-isolation-executable", "podman"]
        # As AWX has it: the image's own user could not read what the operator's has.
        argv += ["--container-image", self.image.tag, "--container-option=--user=root"]
        argv += ["--container-option=--network=host"]
        argv += ["--container-volume-mount", f"{self.files}:{self.files}"]
        argv += [f"--cmdline={shlex.join(words)}"] if words else []
        said = self.image.call("ansible-runner", *argv)
        for event in max(self.runs, key=lambda run: run.stat().st_mtime).glob("job_events/*.json"):
            path = json.loads(event.read_text(encoding="utf-8")).get("event_data", {}).get("task_path")
            self.tasks |= {path} if path else set()
        return said

    @property
    def runs(self) -> Iterator[Path]:
        return self.home.glob("artifacts/run-*")


class Navigator(Engine):
    """ansible-navigator, with its settings of the checkout."""

    def prepare(self, lab: Lab) -> None:
        inventory(lab, self.home / "inventory")
        settings_beside(self.home)

    def run(self, playbook: str, words: list[str]) -> str:
        argv = ["run", playbook, "-i", "inventory", *words, "--execution-environment-image", self.image.tag]
        argv += ["--container-engine", "podman", "--container-options=--network=host"]
        argv += ["--execution-environment-volume-mounts", f"{self.files}:{self.files}"]
        said = self.image.call("ansible-navigator", *argv, folder=self.home)
        kept = max(self.home.glob("results/*.json"), key=lambda path: path.stat().st_mtime)
        record = json.loads(kept.read_text(encoding="utf-8"))
        assert record["status"] == "successful"
        self.tasks |= {task["task_path"] for play in record["plays"] for task in play["tasks"]}
        return said


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with stand_in("environment", 2) as made:
        yield made


@pytest.fixture(scope="module", params=[Runner, Navigator])
def engine(request: pytest.FixtureRequest, built: Image, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    made: Engine = request.param(built, tmp_path_factory.mktemp("home"), lab.folder)
    made.prepare(lab)
    return made


def ask(lab: Lab) -> httpx.Response:
    plan = json.loads(lab.trainyard("plan", "-i", "inventory/lab", "--json"))
    body = {"model": plan["router"]["models"][0]["name"], "prompt": "Hello", "max_tokens": 4}
    return httpx.post(f"{plan['router']['urls'][0]}/v1/completions", json=body, timeout=60, trust_env=False)


def count(lab: Lab, word: str) -> int:
    """How many replicas a roll to what the inventory says would keep, or restart."""
    return lab.trainyard("plan", "-i", "inventory/lab", "--diff").count(word)


def test_the_fleet_comes_up_is_measured_and_answers(engine: Engine, lab: Lab) -> None:
    counted = engine.play("site")
    assert set(counted) >= set(lab.inventory["neuron"]["hosts"])
    assert {host: row["failed"] + row["unreachable"] for host, row in counted.items()} == dict.fromkeys(counted, 0)
    assert ask(lab).json()["choices"][0]["text"]
    (report,) = engine.home.rglob("report.json")
    assert json.loads(report.read_text(encoding="utf-8"))["provenance"] == "simulated"


def test_its_tasks_were_those_of_the_image(engine: Engine) -> None:
    ours = {path for path in engine.tasks if "trainyard" in path}
    assert any(path.startswith(f"{CARRIED}roles/vllm_endpoint/") for path in ours)
    assert {path for path in ours if not path.startswith(CARRIED)} == set()


def test_a_second_run_changes_nothing(engine: Engine) -> None:
    counted = engine.play("site", "--skip-tags=benchmark")
    assert {host: row["changed"] for host, row in counted.items()} == dict.fromkeys(counted, 0)


def test_the_fleet_is_rolled_to_another_release_and_back(engine: Engine, lab: Lab) -> None:
    assert count(lab, "keep") == 4
    engine.play("redeploy", trainyard_overrides={"tiny-llama": {"environment": {"ROLL_TEST": "1"}}})
    assert count(lab, "restart") == 4
    assert ask(lab).status_code == 200
    engine.play("rollback")
    assert count(lab, "keep") == 4


def test_the_fleet_is_taken_down(engine: Engine, lab: Lab) -> None:
    engine.play("teardown", trainyard_teardown_data=True)
    for host in lab.inventory["neuron"]["hosts"]:
        assert lab.on(host, "systemctl list-units --all --plain --no-legend 'vllm@*.service' | wc -l") == "0"
