# SPDX-License-Identifier: Apache-2.0
"""What a user has after `site.yml` on bare hosts: served models, pinned images, a plan that says so, figures."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.front_door import shipped
from trainyard.paths import ROOT

pytestmark = pytest.mark.lab

FOLDER = ROOT / ".lab" / os.environ.get("TRAINYARD_LAB", "molecule-front-door")
INVENTORY = FOLDER / "inventory"


def environment() -> dict[str, str]:
    return {
        **os.environ,
        # Molecule asks for colours, whose marks would stand among the words.
        "ANSIBLE_FORCE_COLOR": "0",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_PRIVATE_KEY_FILE": str(FOLDER / "id_ed25519"),
        "ANSIBLE_SSH_COMMON_ARGS": f"-o UserKnownHostsFile={FOLDER / 'known_hosts'}",
    }


def run(*argv: str) -> str:
    done = subprocess.run(argv, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout


def on(host: str, command: str) -> str:
    said = run("ansible", host, "-i", str(INVENTORY), "--become", "-m", "ansible.builtin.command", "-a", command)
    return said.split(">>\n", 1)[1].strip()


@pytest.fixture(scope="module")
def plan() -> dict[str, Any]:
    return dict(json.loads(run("trainyard", "plan", "-i", str(INVENTORY), "--json")))


@pytest.fixture(scope="module")
def gateway() -> str:
    lab = json.loads((FOLDER / "lab.json").read_text(encoding="utf-8"))
    return f"http://{lab['hosts']['lab-3']}:8080"


def test_only_addresses_and_a_token_differ_from_what_is_shipped() -> None:
    mine = {path.relative_to(INVENTORY) for path in INVENTORY.rglob("*") if path.is_file()}
    theirs = {path.relative_to(shipped.SHIPPED) for path in shipped.SHIPPED.rglob("*") if path.is_file()}
    assert mine - theirs == {Path("group_vars/all/token.yml"), Path("trainyard_images.txt")}
    changed = {name for name in theirs if (INVENTORY / name).read_bytes() != (shipped.SHIPPED / name).read_bytes()}
    assert changed == {Path("hosts.yml")}
    assert theirs <= mine


@pytest.mark.parametrize("model", ["meta-llama/Llama-3.3-70B-Instruct", "Qwen/Qwen3-32B"])
def test_both_models_answer_through_the_router(gateway: str, model: str) -> None:
    body = json.dumps({"model": model, "prompt": "Hello", "max_tokens": 8}).encode()
    request = urllib.request.Request(  # noqa: S310 - the lab's own address
        f"{gateway}/v1/completions", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        assert json.load(answer)["usage"]["completion_tokens"] == 8


def test_the_image_is_the_one_that_the_tag_named_and_stays_it(plan: dict[str, Any]) -> None:
    lines = (INVENTORY / "trainyard_images.txt").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if not line.startswith("#")]
    reference, digest = line.split()
    assert plan["hosts"]["trn2-b"]["sdk"][0]["image"] == f"{reference.rpartition(':')[0]}@{digest}"
    assert digest in on("trn2-b", "podman images --digests")


def test_packages_and_environment_are_those_of_the_rows(plan: dict[str, Any]) -> None:
    for host in ("trn2-a", "trn2-b"):
        for name, version in plan["hosts"][host]["sdk"][0]["packages"].items():
            assert on(host, f"dpkg-query --show --showformat=${{Version}} {name}").startswith(version)
        assert on(host, "apt-cache policy aws-neuronx-dkms").count("https://apt.repos.neuron.amazonaws.com") > 0
        assert json.loads(on(host, "/opt/aws/neuron/bin/neuron-ls -j"))
    venv = plan["hosts"]["trn2-a"]["sdk"][0]["venv"]
    assert on("trn2-a", f"{venv}/bin/vllm --version")
    assert f"index-url = {'https://pip.repos.neuron.amazonaws.com'}" in on("trn2-a", f"cat {venv}/pip.conf")


def test_the_benchmark_of_each_recipe_is_believed(tmp_path: Path) -> None:
    given = {**shipped.beside("llama-3-3-70b", "qwen3-32b"), "trainyard_results_dir": str(tmp_path)}
    run("ansible-playbook", "playbooks/benchmark.yml", "-i", str(INVENTORY), "-e", json.dumps(given))
    reports = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*/report.json"))]
    assert len(reports) == 2
    for report in reports:
        assert report["load"]["tool"] == shipped.client()
        assert report["sound"], report["flags"]
