# SPDX-License-Identifier: Apache-2.0
"""Bad deployments fail in preflight, before any host is touched: the SSH program of these runs records every call."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainyard.paths import ROOT

DEPLOYMENT: dict[str, Any] = {
    "name": "tiny",
    "model": {"repo": "acme/tiny-llama", "source": "path", "uri": "/srv/tiny", "revision": "0" * 40},
    "sdk_release": "2.23.0",
    "generation": "nxdi_v0",
    "runtime": "venv",
    "tensor_parallel_size": 32,
    "data_parallel_size": 2,
    "max_num_seqs": 4,
    "max_model_len": 8192,
    "port": 8000,
    "neuron_config": {"model_type": "llama"},
}

#: `unlock` has nothing to do with a plan.
BOOKS = [
    path for path in (ROOT / "playbooks").glob("*.yml") if path.stem != "unlock" and not path.stem.endswith("_planned")
]


@dataclass
class Preflight:
    """One run of the playbook: its exit code, what it printed, and whether anything connected to the host."""

    returncode: int
    output: str
    touched_a_host: bool


def preflight(
    tmp_path: Path, *deployments: dict[str, Any], monitor: str = "", tags: str = "", **host_variables: Any
) -> Preflight:
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.setblocking(False)
        run = run_preflight(tmp_path, door.getsockname()[1], deployments, host_variables, monitor, tags)
        try:
            door.accept()[0].close()
        except BlockingIOError:
            return Preflight(run.returncode, run.stdout + run.stderr, touched_a_host=False)
    return Preflight(run.returncode, run.stdout + run.stderr, touched_a_host=True)


def run_preflight(
    tmp_path: Path,
    port: int,
    deployments: tuple[dict[str, Any], ...],
    host_variables: dict[str, Any],
    monitor: str,
    tags: str,
) -> subprocess.CompletedProcess[str]:
    host = {
        "ansible_host": "127.0.0.1",
        "ansible_port": port,
        "ansible_ssh_timeout": 2,
        "trainyard_instance_type": "trn2.48xlarge",
        **{f"trainyard_deployment_{item['name'].replace('-', '_')}": item for item in deployments},
        **host_variables,
    }
    groups: dict[str, Any] = {name: {"hosts": {"trn2-a": None}} for name in ("router", "client")}
    if monitor:
        reached = {key: host[key] for key in ("ansible_host", "ansible_port", "ansible_ssh_timeout")}
        groups["monitor"] = {"hosts": {monitor: {**reached, "trainyard_address": "10.0.0.2"}}}
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(yaml.safe_dump({"all": {"children": {"neuron": {"hosts": {"trn2-a": host}}, **groups}}}))
    return subprocess.run(
        ["ansible-playbook", "site.yml" if tags else "playbooks/preflight.yml", "-i", str(inventory)]
        + (["--tags", tags] if tags else []),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "200"},
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data_parallel_size": 3}, ["data_parallel_size", "3", "64"]),
        ({"tensor_parallel_size": 24}, ["tensor_parallel_size", "24", "32"]),
        ({"tensor_paralel_size": 32}, ["tensor_paralel_size", "tensor_parallel_size"]),
        ({"generation": "native"}, ["generation", "native", "2.23.0"]),
    ],
    ids=[
        "more cores than there are",
        "illegal tensor parallelism",
        "a misspelt key",
        "a generation that the release has not",
    ],
)
def test_a_bad_deployment_fails_before_any_host_is_touched(
    tmp_path: Path, change: dict[str, Any], said: list[str]
) -> None:
    run = preflight(tmp_path, {**DEPLOYMENT, **change})
    assert run.returncode != 0
    assert not run.touched_a_host
    for word in said:
        assert word in run.output


def test_cores_that_overlap_another_deployments_fail_and_name_both(tmp_path: Path) -> None:
    first = {**DEPLOYMENT, "name": "first", "data_parallel_size": 1, "cores": "0-31"}
    second = {**DEPLOYMENT, "name": "second", "data_parallel_size": 1, "cores": "0-31", "port": 8100}
    run = preflight(tmp_path, first, second)
    assert run.returncode != 0
    assert not run.touched_a_host
    for word in ("first", "second", "cores", "0-31"):
        assert word in run.output


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    bad = {**DEPLOYMENT, "tensor_parallel_size": 24, "max_num_seqs": 0, "runtime": "chroot"}
    run = preflight(tmp_path, bad, trainyard_instance_type="trn2.48xlarge")
    for word in ("tensor_parallel_size", "max_num_seqs", "runtime"):
        assert word in run.output


def test_a_host_that_does_not_answer_ends_a_run_and_is_named_with_what_to_do(tmp_path: Path) -> None:
    run = preflight(tmp_path, DEPLOYMENT)
    assert run.returncode == 2, run.output
    assert run.touched_a_host, "preflight asks the hosts what they are once the inventory is sound"
    for word in (
        "preflight found 1 problem; nothing was changed",
        "trn2-a: ansible_host",
        "cannot be asked",
        "--limit",
    ):
        assert word in run.output
    assert "unreachable=0" in run.output


@pytest.mark.parametrize(("tags", "asked"), [("", True), ("serve", True), ("provision", False)])
def test_a_host_that_only_watches_is_asked_too_where_a_run_comes_to_it(tmp_path: Path, tags: str, asked: bool) -> None:
    run = preflight(tmp_path, DEPLOYMENT, monitor="watcher", tags=tags, trainyard_address="10.0.0.1")
    assert run.returncode == 2, run.output
    named = "trn2-a, watcher" if asked else "trn2-a"
    assert f"- {named}: ansible_host = " in run.output, run.output
    assert "Could not match supplied host pattern" not in run.output


def test_a_run_goes_as_far_as_possible_where_told_to_and_says_who_is_left_behind(tmp_path: Path) -> None:
    run = preflight(tmp_path, DEPLOYMENT, trainyard_as_far_as_possible=True)
    assert run.returncode == 0, run.output
    assert "trn2-a is left behind: it cannot be asked" in run.output


@pytest.mark.parametrize("inventory", ["inventory/trn2"])
def test_playbooks_parse_with_the_inventory_of_both_recipes(inventory: str) -> None:
    for playbook in ("site.yml", "playbooks/teardown.yml"):
        syntax = subprocess.run(
            ["ansible-playbook", playbook, "--syntax-check", "-i", inventory],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        )
        assert syntax.returncode == 0, syntax.stderr


def plays(playbook: str) -> list[str]:
    """Names of a playbook's plays, in order, as Ansible reads them."""
    listed = subprocess.run(
        ["ansible-playbook", playbook, "--list-tasks", "-i", "inventory/trn2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
    )
    return re.findall(r"^  play #\d+ \([^)]*\): (.*?)\s*TAGS:", listed.stdout, re.MULTILINE)


#: Playbooks about the AWS account: they run on the controller alone, before there is a fleet to plan.
ACCOUNT = ("block_watch.yml", "end.yml", "extend.yml", "launch.yml")
#: Playbooks that read what hosts keep, whatever the plan says: they ask nothing else, and change nothing.
ONLY_READ = ("logs.yml",)
OF_THE_FLEET = [
    "site.yml",
    *sorted(f"playbooks/{path.name}" for path in BOOKS if path.name not in (*ACCOUNT, *ONLY_READ)),
]


@pytest.mark.parametrize("name", ACCOUNT)
def test_a_playbook_about_the_account_touches_no_host(name: str) -> None:
    entries = yaml.safe_load((ROOT / "playbooks" / name).read_text())
    assert [(entry["hosts"], entry["connection"]) for entry in entries] == [("localhost", "local")]


@pytest.mark.parametrize("name", ONLY_READ)
def test_a_playbook_that_only_reads_runs_no_task_that_could_change_anything(name: str) -> None:
    for play in yaml.safe_load((ROOT / "playbooks" / name).read_text()):
        assert "roles" not in play and play["tasks"]
        assert all(task["changed_when"] is False for task in play["tasks"])


@pytest.mark.parametrize("path", OF_THE_FLEET)
def test_every_playbook_plans_first_and_once(path: str) -> None:
    found = plays(path)
    assert found[:2] == ["Fleet", "Preflight"]
    assert found.count("Preflight") == 1


def test_a_playbook_without_a_plan_says_how_to_get_one(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("[neuron]\ntrn2-a ansible_connection=local\n")
    run = subprocess.run(
        ["ansible-playbook", "playbooks/serve_planned.yml", "-i", str(tmp_path / "hosts")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "300"},
    )
    assert run.returncode != 0
    assert "this run has no plan" in run.stdout + run.stderr


#: Playbooks that change neither a serving host nor a router.
CHANGE_NOTHING = ("benchmark.yml", "preflight.yml", "status.yml", "unlock.yml")


@pytest.mark.parametrize("path", OF_THE_FLEET)
def test_every_playbook_that_changes_the_fleet_takes_its_lock_first_and_gives_it_back_last(path: str) -> None:
    imports = yaml.safe_load((ROOT / path).read_text())
    verbs = [(entry.get("vars") or {}).get("trainyard_verb") for entry in imports]
    files = [Path(str(entry.get("ansible.builtin.import_playbook"))).name for entry in imports]
    if Path(path).name in CHANGE_NOTHING:
        assert not any(verbs)
        return
    assert (files[0], verbs[0]) == ("preflight.yml", Path(path).stem)
    assert not any(verbs[1:])
    # What a run comes to may be judged when the lock is back, on the controller alone.
    while imports[-1].get("hosts") == "localhost":
        imports.pop()
        files.pop()
    assert files[-1] == "unlock.yml"
    assert files.count("unlock.yml") == 1
