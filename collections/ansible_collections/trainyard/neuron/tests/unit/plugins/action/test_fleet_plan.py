# SPDX-License-Identifier: Apache-2.0
"""The action in a play of ansible-playbook, with no host reached."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.plan.fleets import deployment, host

COLLECTIONS = Path(__file__).resolve().parents[7]


def play(tmp_path: Path, hosts: dict[str, Any], arguments: dict[str, Any], *after: dict[str, Any]) -> dict[str, Any]:
    """Run the action over hosts that cannot be reached, and return the results of its tasks by name."""
    groups = {"neuron": {"hosts": hosts}, "router": {"hosts": {"gateway": {"ansible_host": "10.0.0.9"}}}}
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}), encoding="utf-8")
    tasks = [{"name": "plan", "trainyard.neuron.fleet_plan": arguments, "run_once": True, "register": "made"}, *after]
    book = [{"hosts": "neuron", "gather_facts": False, "tasks": tasks}]
    (tmp_path / "play.yml").write_text(yaml.safe_dump(book), encoding="utf-8")
    run = subprocess.run(
        ["ansible-playbook", "-i", "hosts.yml", "play.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_INJECT_FACT_VARS": "false",
            "ANSIBLE_SSH_EXECUTABLE": "/bin/false",
            "ANSIBLE_SSH_RETRIES": "0",
            "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
        },
    )
    assert run.stdout.find("{") >= 0, run.stderr
    report = json.loads(run.stdout[run.stdout.index("{") :])
    return {task["task"]["name"]: task["hosts"] for task in report["plays"][0]["tasks"]}


def show(what: str, name: str = "show") -> dict[str, Any]:
    return {"name": name, "ansible.builtin.debug": {"msg": "{{ " + what + " }}"}}


BOTH = {"hosts": "{{ groups['neuron'] }}", "routers": "{{ groups['router'] }}"}


def test_each_host_reads_its_part_and_templates_are_resolved(tmp_path: Path) -> None:
    item = deployment(served_name="{{ word }}-70b")
    hosts = {name: host(item, word="llama", ansible_host=at) for name, at in (("a", "10.0.0.1"), ("b", "10.0.0.2"))}
    part = "lookup('trainyard.neuron.plan', 'host')"
    results = play(
        tmp_path, hosts, BOTH, show(f"[{part}.name, {part}.replicas[1].cores, {part}.replicas[0].served_name]")
    )
    assert results["plan"]["a"]["changed"] is False
    assert {name: result["msg"] for name, result in results["show"].items()} == {
        name: [name, "32-63", "llama-70b"] for name in ("a", "b")
    }


def test_what_every_host_of_the_play_is_given_does_not_grow_with_the_fleet(tmp_path: Path) -> None:
    """What a task returns that runs once is copied for each host, and goes through each of their workers."""
    one = play(tmp_path, {"a": host(deployment())}, BOTH)["plan"]["a"]
    three = play(tmp_path, {name: host(deployment(), ansible_host=f"10.0.0.{ord(name)}") for name in "abc"}, BOTH)[
        "plan"
    ]["a"]
    assert (one["hosts"], one["replicas"], three["hosts"], three["replicas"]) == (1, 2, 3, 6)
    assert len(json.dumps(three)) == len(json.dumps(one))


def test_nobody_else_can_read_the_plan_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    listing = {"name": "list", "delegate_to": "localhost", "ansible.builtin.command": {}}
    listing["ansible.builtin.command"] = {"argv": ["find", str(tmp_path / "local"), "-printf", "%m %y %p\\n"]}
    rows = play(tmp_path, {"a": host(deployment())}, BOTH, listing)["list"]["a"]["stdout_lines"]
    found = {row.rsplit("/", 1)[1]: row.split()[0] for row in rows if "trainyard-plan" in row}
    assert {"trainyard-plan": "700", "hosts": "700", "fleet.json": "600"}.items() <= found.items()
    assert set(found.values()) == {"600", "700"}
    assert list((tmp_path / "local").iterdir()) == []


def test_a_host_that_the_plan_does_not_have_is_told_which_it_has(tmp_path: Path) -> None:
    part = "lookup('trainyard.neuron.plan', 'host', name='trn-aa')"
    result = play(tmp_path, {"trn-a": host(deployment())}, BOTH, show(part))["show"]["trn-a"]
    assert "the plan of this run has no host trn-aa: did you mean 'trn-a'?" in result["msg"]


def test_a_part_that_no_plan_has_is_refused_with_the_nearest_word(tmp_path: Path) -> None:
    result = play(tmp_path, {"a": host(deployment())}, BOTH, show("lookup('trainyard.neuron.plan', 'hosst')"))["show"][
        "a"
    ]
    assert "did you mean 'host'?" in result["msg"]


def test_without_a_plan_it_is_said_which_playbook_makes_one(tmp_path: Path) -> None:
    tried = {**BOTH, "publish": False}
    result = play(tmp_path, {"a": host(deployment())}, tried, show("lookup('trainyard.neuron.plan', 'host')"))["show"][
        "a"
    ]
    assert "this run has no plan" in result["msg"]
    assert "Traceback" not in result["msg"]


def test_every_problem_of_every_host_is_in_the_message(tmp_path: Path) -> None:
    hosts = {"a": host(deployment(port=80)), "b": host(deployment(tensor_parallel_size=24), ansible_host="10.0.0.2")}
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


def test_a_registered_topology_is_planned_on(tmp_path: Path) -> None:
    report = {"failed": False, "topology": {"devices": [], "online_cpus": "0-1"}}
    cpus = show("lookup('trainyard.neuron.plan', 'host').replicas | map(attribute='cpus')")
    result = play(tmp_path, {"a": host(deployment(), trainyard_topology=report)}, BOTH, cpus)["show"]["a"]
    assert result["msg"] == ["0", "1"]


def test_the_digests_that_hosts_were_told_are_kept_and_are_nobodys_to_change(tmp_path: Path) -> None:
    item = deployment(
        sdk_release="2.27.0", generation="nxdi_v1", runtime="container", tensor_parallel_size=16, max_model_len=4096
    )
    first = play(tmp_path, {"a": host(item)}, BOTH)["plan"]["a"]
    (image,) = first["unpinned_images"]
    assert image.startswith("public.ecr.aws/neuron/")
    told = {"failed": False, "changed": False, "topology": {}, "images": {image: {"digest": "sha256:" + "1" * 64}}}
    hosts = {"a": host(item, trainyard_topology=told)}
    part = show("lookup('trainyard.neuron.plan', 'host').sdk[0].image")
    looked = play(tmp_path, hosts, BOTH, part)
    assert looked["show"]["a"]["msg"].endswith("@sha256:" + "1" * 64)
    assert not (tmp_path / "trainyard_images.txt").exists(), "a look keeps nothing"
    assert play(tmp_path, hosts, {**BOTH, "keep_images": True})["plan"]["a"]["unpinned_images"] == []
    kept = (tmp_path / "trainyard_images.txt").read_text(encoding="utf-8")
    assert kept.endswith(f"{image} sha256:{'1' * 64}\n")
    told["images"] = {image: {"digest": "sha256:" + "2" * 64}}
    again = play(tmp_path, hosts, {**BOTH, "keep_images": True}, part)
    assert again["show"]["a"]["msg"].endswith("@sha256:" + "1" * 64)
    assert (tmp_path / "trainyard_images.txt").read_text(encoding="utf-8") == kept
