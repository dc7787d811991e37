# SPDX-License-Identifier: Apache-2.0
"""An acceptance by its playbook on a lab (simulated): every stage passes beside replicas that serve and are left alone.

Run by `molecule test -s accept`. Each rule by itself is tests/lab/test_acceptance_rules.py, without a lab.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from trainyard.paths import ROOT

pytestmark = pytest.mark.lab

STAGES = ["look", "device", "compile", "serve", "fault", "roll"]
DEPLOYMENT = f"@{ROOT}/molecule/accept/deployment.json"
#: An acceptance takes at most so long, seconds.
LIMIT_S = 600
#: Of each stage a rule that is then off.
RULES = ("links", "compile-order", "stream-end", "killed-server")


@pytest.fixture(scope="module")
def lab() -> str:
    name = os.environ.get("TRAINYARD_LAB")
    if not name:
        pytest.skip("runs by molecule test -s accept")
    return name


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    # Molecule asks for colours, whose marks would stand among the words.
    plain = {"ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"}
    environment = {**os.environ, **plain, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    return subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def play(results: Path, *more: str, **accept: Any) -> tuple[int, dict[str, Any], str]:
    """The playbook's status, its report (empty without one) and what it printed."""
    said = json.dumps({"trainyard_accept": accept, "trainyard_results_dir": str(results)})
    argv = ["ansible-playbook", "playbooks/accept.yml", "-i", "inventory/lab", "-e", DEPLOYMENT, "-e", said, *more]
    done = run(*argv)
    file = results / "accept/accept.json"
    report = json.loads(file.read_text()) if file.exists() else {}
    return done.returncode, report, done.stdout + done.stderr


def differing(report: dict[str, Any]) -> list[str]:
    (host,) = report["hosts"].values()
    return [check["name"] for check in host["checks"] if check["outcome"] == "differs"]


def serving(lab: str) -> list[str]:
    """The replicas' main processes: others after a restart."""
    command = "systemctl show 'vllm@*' --property=Id,MainPID,NRestarts"
    done = run("ansible", "lab-1", "-i", "inventory/lab", "--become", "-m", "ansible.builtin.command", "-a", command)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if "=" in line]


def test_all_stages_pass_in_time_and_leave_replicas_and_disk_alone(lab: str, tmp_path: Path) -> None:
    before = serving(lab)
    began = time.monotonic()
    code, report, text = play(tmp_path, stages=STAGES, hash_names=True)
    took = time.monotonic() - began
    assert code == 0, text[-4000:]
    assert took < LIMIT_S
    assert (report["differs"], report["stages"]) == (0, STAGES)
    assert report["passed"] >= 58, [
        (check["name"], check["seen"])
        for check in next(iter(report["hosts"].values()))["checks"]
        if check["outcome"] != "passed"
    ]
    whole = (tmp_path / "accept/accept.html").read_text() + json.dumps(report)
    assert "lab-1" not in whole and "VLLM_API_KEY" not in whole
    assert serving(lab) == before and len(before) >= 4
    command = "ls -A /data/acceptance 2>/dev/null; pgrep -u vllm -fc -- --no-such-option; true"
    left = run("ansible", "lab-1", "-i", "inventory/lab", "--become", "-m", "ansible.builtin.shell", "-a", command)
    assert left.stdout.split(">>\n")[1].strip() == "0"


def test_without_a_stage_it_only_looks_and_check_mode_starts_nothing(lab: str, tmp_path: Path) -> None:
    code, report, text = play(tmp_path)
    assert code == 0, text[-4000:]
    assert report["stages"] == ["look", "device"] and report["passed"] >= 10
    code, report, text = play(tmp_path / "check", "--check", stages=STAGES)
    assert (code, report) == (0, {}), text[-4000:]


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_that_is_off_on_the_host_fails_the_run_and_its_check_alone(lab: str, tmp_path: Path, rule: str) -> None:
    fault = ("trainyard", "lab", "fault", "lab-1")
    try:
        done = run(*fault, "rule-off", "--rule", rule)
        assert done.returncode == 0, done.stderr
        code, report, text = play(tmp_path, stages=STAGES)
    finally:
        run(*fault, "clear")
    assert code != 0 and rule in text, text[-4000:]
    assert differing(report) == [rule]


def test_the_command_tries_where_a_stage_is_named(lab: str, tmp_path: Path) -> None:
    more = ("--host", "lab-1", "--stage", "fault", "-o", str(tmp_path / "made"))
    done = run("trainyard", "accept", "-i", "inventory/lab", *more)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "made/accept.json").read_text())
    assert (report["stages"], report["differs"]) == (["fault"], 0)
    assert f"{report['passed']} checks passed" in " ".join(done.stdout.split())


def test_a_deployment_that_is_not_there_is_refused_in_words(lab: str, tmp_path: Path) -> None:
    code, report, text = play(tmp_path, stages=["serve"], deployment="tiny-lama")
    assert (code != 0, report) == (True, {}) and "did you mean 'tiny-llama'" in text, text[-3000:]
