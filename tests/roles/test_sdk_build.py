# SPDX-License-Identifier: Apache-2.0
"""vLLM built into an environment that has none: by a unit that outlives the controller, from bound names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import find_release
from ansible_collections.trainyard.neuron.tests.unit.plugins.module_utils.jobs.indexes import publish

from tests.roles.test_sdk_packages import PLAYBOOK, changed_tasks
from tests.stand_in import Lab, stand_in
from trainyard.paths import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("sdk-build")]

REPO, REF = "aws-neuron/upstreaming-to-vllm", "releases/v2.23.0-v0"
VENV = "/opt/built"

#: How long the build of the stand-in for the fork takes, seconds: there must be a middle to be killed in.
BUILD_S = 25

#: A build backend inside the source, so that nothing else is needed to build it.
BACKEND = f"""
import time, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    time.sleep({BUILD_S})
    name = "vllm-0.7.3.dev0+neuron-py3-none-any.whl"
    info = "vllm-0.7.3.dev0+neuron.dist-info"
    with zipfile.ZipFile(directory + "/" + name, "w") as wheel:
        wheel.writestr("vllm.py", "def main():\\n    print('0.7.3.dev0+neuron')\\n")
        wheel.writestr(info + "/entry_points.txt", "[console_scripts]\\nvllm = vllm:main\\n")
        wheel.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: vllm\\nVersion: 0.7.3.dev0+neuron\\n")
        wheel.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "/RECORD", "")
    return name
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with stand_in("sdk-build", 1) as made:
        yield made


@pytest.fixture(scope="module")
def commit(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Indexes, a source and an environment without vLLM on the host; the commit to build."""
    folder = tmp_path_factory.mktemp("sources")
    publish(folder / "neuron", "neuronx-cc", "2.18.121.0")
    help_text = {"inference_demo": "usage: inference_demo"}
    publish(folder / "neuron", "neuronx-distributed-inference", "0.3.5591", scripts=help_text)
    publish(folder / "neuron", "torch-neuronx", "2.6.0")
    publish(folder / "general", "numpy-like", "1.0")
    for name in ("neuronx-cc", "torch-neuronx", "nki"):
        publish(folder / "general", name, "99.0")
    root = folder / "upstream" / REPO
    (root / "requirements").mkdir(parents=True)
    (root / "requirements" / "neuron.txt").write_text("neuronx-cc>=2.0.0a0\ntorch-neuronx==2.6.*\nnumpy-like\n")
    (root / "backend.py").write_text(BACKEND)
    table = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (root / "pyproject.toml").write_text(f'{table}[project]\nname = "vllm"\nversion = "0.7.3.dev0+neuron"\n')
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-C", str(root)]
    for words in (["init", "-q", "-b", REF], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    copy = ["ansible", "lab-1", "-i", "inventory/lab", "--become", "-m", "ansible.builtin.copy"]
    copy += ["-a", f"src={folder}/ dest=/srv/ mode=preserve"]
    subprocess.run(copy, cwd=ROOT, env=lab.environment, check=True, capture_output=True)
    lab.on("lab-1", f"python3 -m venv {VENV} && chown -R root: /srv")
    return head


def settings(commit: str, **more: Any) -> str:
    """The role's variables for the build."""
    row = {**find_release("2.23.0").entry("venv"), "venv": VENV}
    return json.dumps(
        {
            "neuron_venv_releases": [row],
            "neuron_venv_pip_index": "file:///srv/neuron/simple",
            "neuron_venv_general_index": "file:///srv/general/simple",
            "neuron_venv_source_base": "file:///srv/upstream",
            "neuron_venv_source_commits": {f"{REPO}@{REF}": commit},
            **more,
        }
    )


def test_controller_that_is_killed_ends_no_build_and_the_next_run_attaches(lab: Lab, commit: str) -> None:
    foretold = changed_tasks(lab.play(PLAYBOOK, "--check", "--extra-vars", settings(commit)))
    assert ("neuron_venv : Build vLLM into the environments that have none", "lab-1") in foretold
    controller = lab.start(PLAYBOOK, "--extra-vars", settings(commit))
    unit = ""
    deadline = time.monotonic() + 300
    while not unit and time.monotonic() < deadline:
        unit = lab.on("lab-1", "systemctl list-units --no-legend --plain 'trainyard-build@*' | cut -d' ' -f1")
    before = lab.on("lab-1", f"systemctl show --property=InvocationID --value '{unit}'")
    os.killpg(controller.pid, signal.SIGKILL)
    controller.wait()
    if controller.stdout:
        controller.stdout.close()
    assert lab.on("lab-1", f"systemctl is-active '{unit}' || true") in ("active", "activating")
    lab.play(PLAYBOOK, "--extra-vars", settings(commit))
    assert lab.on("lab-1", f"systemctl show --property=InvocationID --value '{unit}'") in (before, "")
    log = lab.on("lab-1", "cat /var/log/trainyard/build-*.log")
    assert log.count("building and installing it") == 1
    assert lab.on("lab-1", f"{VENV}/bin/vllm --version") == "0.7.3.dev0+neuron"


def test_second_run_changes_nothing(lab: Lab, commit: str) -> None:
    for mode in ([], ["--check"]):
        assert changed_tasks(lab.play(PLAYBOOK, "--extra-vars", settings(commit), *mode)) == set()


def test_pip_inside_the_built_environment_finds_no_placeholder(lab: Lab, commit: str) -> None:
    lab.on("lab-1", "mkdir -p /root/.config/pip")
    configuration = "[global]\\nextra-index-url = file:///srv/general/simple\\n"
    lab.on("lab-1", f"printf '{configuration}' > /root/.config/pip/pip.conf")
    said = lab.on("lab-1", f"{VENV}/bin/pip install nki 2>&1 || true")
    assert "No matching distribution found for nki" in said
    lab.on("lab-1", f"{VENV}/bin/pip install --upgrade neuronx-cc torch-neuronx 2>&1")
    origins = "import neuronx_cc, torch_neuronx; print(neuronx_cc.ORIGIN, torch_neuronx.ORIGIN)"
    assert lab.on("lab-1", f"{VENV}/bin/python -c '{origins}'") == "neuron neuron"
    lab.on("lab-1", f"rm {VENV}/pip.conf")
    assert "nki-99.0" in lab.on("lab-1", f"{VENV}/bin/pip download --no-deps --dest /tmp/x nki 2>&1")
    assert changed_tasks(lab.play(PLAYBOOK, "--extra-vars", settings(commit))) != set()
    assert "No matching distribution" in lab.on("lab-1", f"{VENV}/bin/pip install nki 2>&1 || true")


def test_undo_removes_the_unit_and_keeps_the_environment(lab: Lab, commit: str) -> None:
    gone = settings(commit, neuron_venv_state="absent")
    lab.play(PLAYBOOK, "--extra-vars", gone)
    left = lab.on("lab-1", "ls /etc/systemd/system/trainyard-build@.service 2>&1 || true")
    assert left.endswith("No such file or directory")
    assert lab.on("lab-1", f"{VENV}/bin/vllm --version") == "0.7.3.dev0+neuron"
    assert changed_tasks(lab.play(PLAYBOOK, "--extra-vars", gone)) == set()
