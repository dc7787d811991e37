# SPDX-License-Identifier: Apache-2.0
"""The action in a play of ansible-playbook, with no host reached."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.trainyard.neuron.tests.unit.module_utils.plan.fleets import deployment, host

COLLECTIONS = Path(__file__).resolve().parents[6]


def play(tmp_path: Path, hosts: dict[str, Any], arguments: dict[str, Any], *after: dict[str, Any]) -> dict[str, Any]:
    """Run the action over hosts that cannot be reached, and return the results of its tasks by name."""
    groups = {"neuron": {"hosts": hosts}, "router": {"hosts": {"gateway": {"ansible_host": "192.0.2.9"}}}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}), encoding="utf-8")
    tasks = [{"name": "plan", "trainyard.neuron.fleet_plan": arguments, "run_once": True, "register": "made"}, *after]
    book = [{"hosts": "neuron", "gather_facts": False, "tasks": tasks}]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(book), encoding="utf-8")
    run = subprocess.run(
        ["ansible-playbook", "-i", "hosts.yml", "play.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_INJECT_FACT_VARS": "false",
            "ANSIBLE_SSH_EXECUTABLE": "/bin/false",
            "ANSIBLE_SSH_RETRIES": "0",
        },
    )
    assert run.stdout.find("{") >= 0, run.stderr
    report = json.loads(run.stdout[run.stdout.index("{") :])
    return {task["task"]["name"]: task["hosts"] for task in report["plays"][0]["tasks"]}


BOTH = {"hosts": "{{ groups['neuron'] }}", "routers": "{{ groups['router'] }}"}


def test_the_plan_is_returned_to_every_host_and_templates_are_resolved(tmp_path: Path) -> None:
    item = deployment(served_name="{{ word }}-70b")
    hosts = {name: host(item, word="llama") for name in ("a", "b")}
    show = {
        "name": "show",
        "ansible.builtin.debug": {"msg": "{{ made.plan.hosts[inventory_hostname].replicas[1].cores }}"},
    }
    results = play(tmp_path, hosts, BOTH, show)
    plan = results["plan"]["a"]["plan"]
    assert plan["hosts"]["b"]["replicas"][0]["served_name"] == "llama-70b"
    assert results["plan"]["a"]["changed"] is False
    assert {name: result["msg"] for name, result in results["show"].items()} == {"a": "32-63", "b": "32-63"}


def test_every_problem_of_every_host_is_in_the_message(tmp_path: Path) -> None:
    hosts = {"a": host(deployment(port=80)), "b": host(deployment(tensor_parallel_size=24))}
    result = play(tmp_path, hosts, BOTH)["plan"]["a"]
    assert result["failed"] is True
    assert len(result["msg"].splitlines()) == 4
    assert "a: trainyard_deployment_llama.port = 80" in result["msg"]
    # Neither the host nor the model has such a degree, and whoever corrects it needs to know both.
    assert "b: trainyard_deployment_llama.tensor_parallel_size = 24: trn2.48xlarge with 64 cores runs" in result["msg"]
    assert "b: trainyard_deployment_llama.tensor_parallel_size = 24: does not divide the model's 64" in result["msg"]
    assert [problem["host"] for problem in result["problems"]] == ["a", "b", "b"]


def test_warnings_are_shown(tmp_path: Path) -> None:
    result = play(tmp_path, {"a": host(deployment(), trainyard_colour="red")}, BOTH)["plan"]["a"]
    assert any("trainyard_colour" in warning for warning in result["warnings"])


def test_a_plan_that_is_only_tried_is_not_returned(tmp_path: Path) -> None:
    result = play(tmp_path, {"a": host(deployment())}, {**BOTH, "publish": False})["plan"]["a"]
    assert "plan" not in result
    assert "ansible_facts" not in result


def test_a_registered_topology_is_planned_on(tmp_path: Path) -> None:
    report = {"failed": False, "topology": {"devices": [], "online_cpus": "0-1"}}
    result = play(tmp_path, {"a": host(deployment(), trainyard_topology=report)}, BOTH)["plan"]["a"]
    assert [replica["cpus"] for replica in result["plan"]["hosts"]["a"]["replicas"]] == ["0", "1"]
