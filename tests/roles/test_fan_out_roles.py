# SPDX-License-Identifier: Apache-2.0
"""Weights and artifacts over two hosts that are this machine, in check mode: who starts what, and who meets whom."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from trainyard.paths import ROOT

DIGEST = "ab" * 32


def play(folder: Path, stages: list[tuple[str, str]]) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """Run stages of the roles in check mode; return the results of each task by host, in order."""
    sender = {"host": "h1", "address": "192.0.2.1", "path": str(folder / "m"), "turn": 0}
    model = {"id": "m-1", "repo": "a/b", "revision": "r", "source": "huggingface", "uri": None}
    artifact = {
        "digest": DIGEST,
        "path": str(folder / "a"),
        "generation": "nxdi_v0",
        "compile_host": "h1",
        "runtime": "venv",
        "argv": ["compile"],
        "environment": {},
        "work_dir": str(folder / "work"),
        "inputs": {},
        "weights": "m-1",
        "weights_path": str(folder / "m"),
    }
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": "/usr/bin/python3",
        "model_weights_models": [{**model, "path": str(folder / "m"), "sender": "{{ sender }}"}],
        "model_weights_address": "192.0.2.1",
        "model_compile_address": "192.0.2.1",
        "model_compile_host": "{{ inventory_hostname }}",
        "model_compile_artifacts": [{**artifact, "sender": "{{ sender }}"}],
    }
    hosts = {"h1": {"sender": None}, "h2": {"sender": sender}}
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": variables}}))
    roles = [{"role": role, f"{role}_stage": stage} for role, stage in stages]
    (folder / "play.yml").write_text(yaml.safe_dump([{"hosts": "all", "gather_facts": False, "roles": roles}]))
    run = subprocess.run(
        ["ansible-playbook", "--check", "-i", "hosts.yml", "play.yml"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        },
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr
    document = json.JSONDecoder().raw_decode(run.stdout, run.stdout.index('{\n    "custom_stats"'))[0]
    return [
        (task["task"]["name"].rpartition(" : ")[2], task["hosts"])
        for part in document["plays"]
        for task in part["tasks"]
    ]


def done(tasks: list[tuple[str, dict[str, dict[str, Any]]]]) -> list[tuple[str, list[str]]]:
    """Tasks of the two roles' jobs that were not skipped, with their hosts."""
    jobs = ("Start fetching", "Start compiling", "Wait for the", "Let this host read")
    named = [(name, [host for host, result in hosts.items() if not result.get("skipped")]) for name, hosts in tasks]
    return [
        (name, sorted(hosts))
        for name, hosts in named
        if hosts and any(part in name for part in jobs) and not name.startswith("Look")
    ]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, dict[str, dict[str, Any]]]]:
    stages = [("model_weights", "start"), ("model_compile", "start")]
    return play(tmp_path_factory.mktemp("play"), [*stages, ("model_weights", "finish"), ("model_compile", "finish")])


def test_downloads_and_compiles_begin_before_either_is_waited_for(tasks: Any) -> None:
    assert done(tasks) == [
        ("Start fetching the missing checkpoints", ["h1", "h2"]),
        ("Let this host read at its senders what it lacks, and nothing else", ["h2"]),
        ("Start compiling the artifacts that this host was elected for", ["h1"]),
        ("Wait for the checkpoints, complete and verified", ["h1", "h2"]),
        ("Wait for the artifacts that this host was elected to compile, complete and in the store", ["h1"]),
        ("Start fetching the artifacts that other hosts compiled", ["h2"]),
        ("Let this host read at its senders what it lacks, and nothing else", ["h2"]),
        ("Wait for the artifacts that other hosts compiled, complete and verified", ["h2"]),
    ]


def test_waiting_is_no_change_and_beginning_is(tasks: Any) -> None:
    changed = {name: [host for host, result in hosts.items() if result.get("changed")] for name, hosts in tasks}
    assert sorted(changed["Start fetching the missing checkpoints"]) == ["h1", "h2"]
    assert changed["Wait for the checkpoints, complete and verified"] == []
    assert changed["Wait for the artifacts that other hosts compiled, complete and verified"] == []
