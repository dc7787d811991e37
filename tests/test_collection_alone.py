# SPDX-License-Identifier: Apache-2.0
"""The collection is built and installed as a user would, and runs from there with no checkout of the toolkit."""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trainyard.neuron.plugins.callback.fleet_lock import UNLOCK
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.plan.fleets import deployment, host
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.report.runs import (
    REPLICAS,
    record,
    summary_of,
)

from trainyard.paths import COLLECTIONS

HOME = COLLECTIONS / "ansible_collections/trainyard/neuron"
VERSION = yaml.safe_load((HOME / "galaxy.yml").read_text(encoding="utf-8"))["version"]


def run(argv: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with nothing in its environment that names the checkout, nor any module of the toolkit at hand."""
    decoys = folder / "decoys"
    for name in ("trainyard", "lab", "bench"):
        (decoys / name).mkdir(parents=True, exist_ok=True)
        (decoys / name / "__init__.py").write_text("raise ImportError('the toolkit is not here')\n", encoding="utf-8")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "PYTHON"))}
    clean |= {"PYTHONPATH": str(decoys), "ANSIBLE_LOCAL_TEMP": str(folder / "local"), **environment}
    return subprocess.run(argv, cwd=folder, env=clean, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of collections with the one that was built from this tree."""
    folder = tmp_path_factory.mktemp("alone")
    built = run(["ansible-galaxy", "collection", "build", str(HOME), "--output-path", str(folder)], folder)
    assert built.returncode == 0, built.stderr
    archive = folder / f"trainyard-neuron-{VERSION}.tar.gz"
    target = folder / "elsewhere"
    words = ["ansible-galaxy", "collection", "install", str(archive), "--collections-path", str(target), "--offline"]
    done = run(words, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def archive_of_a_run(folder: Path) -> Path:
    """A benchmark's run as it is brought from the load host."""
    summary, rows = summary_of(20), [record(index) for index in range(20)]
    files = {
        "run.json": json.dumps(summary),
        "repeat-0/requests.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
    }
    path = folder / f"{summary['run_id']}.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{summary['run_id']}/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def test_modules_actions_and_lookups_run_from_where_it_was_installed(installed: Path, tmp_path: Path) -> None:
    part = "lookup('trainyard.neuron.plan', 'host', name='trn-a')"
    tasks: list[dict[str, Any]] = [
        {"trainyard.neuron.fleet_plan": {"hosts": ["trn-a"], "routers": []}},
        {"ansible.builtin.debug": {"msg": f"{{{{ {part}.replicas | map(attribute='cores') | list }}}}"}},
        {"trainyard.neuron.topology_info": {}},
        {
            "trainyard.neuron.file_tree": {
                "items": [{"path": str(tmp_path / "cli.py"), "module_util": "serving/cli.py"}]
            }
        },
        {
            "trainyard.neuron.benchmark_report": {
                "archive": str(archive_of_a_run(tmp_path)),
                "provenance": "simulated",
                "replicas": REPLICAS,
            }
        },
    ]
    hosts = {
        "localhost": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable},
        "trn-a": host(deployment()),
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}), encoding="utf-8")
    book = [{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(book), encoding="utf-8")
    done = run(
        ["ansible-playbook", "-i", "hosts.yml", "play.yml"],
        tmp_path,
        ANSIBLE_COLLECTIONS_PATH=str(installed),
        ANSIBLE_STDOUT_CALLBACK="ansible.posix.json",
        ANSIBLE_INJECT_FACT_VARS="false",
    )
    assert done.stdout.find("{") >= 0, done.stderr
    told = json.loads(done.stdout[done.stdout.index("{") :])
    results = [task["hosts"]["localhost"] for task in told["plays"][0]["tasks"]]
    assert done.returncode == 0, results[-1]
    planned, cores, topology, written, report = results
    assert planned["replicas"] == 2
    assert cores["msg"] == ["0-31", "32-63"]
    assert topology["kernel"] == platform.release()
    assert written["changed_paths"] == [str(tmp_path / "cli.py")]
    assert (tmp_path / "cli.py").read_bytes() == (HOME / "plugins/module_utils/serving/cli.py").read_bytes()
    assert report["sound"] is True
    assert json.loads(Path(report["path"]).read_text(encoding="utf-8"))["run"]["trainyard_version"] == VERSION
    # The command that writes pages is of the toolkit, which is not here.
    assert report["page"] == ""


def test_a_run_that_failed_gives_the_lock_back_by_the_playbook_that_was_installed(
    installed: Path, tmp_path: Path
) -> None:
    """What the callback runs at the end, where no checkout is near; nobody holds a lock here, so it changes nothing."""
    (tmp_path / "hosts").write_text(
        f"[neuron]\nh1 ansible_connection=local ansible_python_interpreter={sys.executable}"
    )
    words = [sys.executable, "-m", "ansible", "playbook", "-i", "hosts", "-e", "ansible_become=false", UNLOCK]
    done = run(words, tmp_path, ANSIBLE_COLLECTIONS_PATH=str(installed))
    assert (done.returncode, "Give the lock back" in done.stdout) == (0, True), done.stdout + done.stderr


def test_nothing_of_the_checkout_is_in_what_is_published(installed: Path) -> None:
    files = [path for path in installed.rglob("*") if path.is_file() and "neuron" in path.parts]
    assert len(files) > 100
    assert [path for path in files if str(COLLECTIONS).encode() in path.read_bytes()] == []
