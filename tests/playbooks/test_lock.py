# SPDX-License-Identifier: Apache-2.0
"""Who may change a fleet of three hosts, as Ansible runs it: two serve, one only routes, all of them are this machine.

The lock is the real one, in a directory for each host; between taking it and giving it back stands a play of the test.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.journal import Book, Claim

from tests.playbooks.test_preflight import DEPLOYMENT
from trainyard.paths import ROOT

HOSTS = ("h1", "h2", "r1")
NEURON = ROOT / "collections" / "ansible_collections" / "trainyard" / "neuron"
BETWEEN = [
    {"ansible.builtin.include_vars": {"file": "{{ where }}/between.json"}},
    {"ansible.builtin.shell": "echo {{ inventory_hostname }} >> {{ where }}/changed; {{ command }}", "name": "Change"},
]


@dataclass
class Fleet:
    """Three hosts below a directory."""

    folder: Path

    def book(self, host: str) -> Book:
        return Book(self.folder / host)

    def holders(self) -> list[str]:
        """Who has each host, by owner's user and verb."""
        found = [self.book(host).holder() for host in HOSTS]
        return [f"{holder.owner.partition('@')[0]} {holder.verb}" if holder else "" for holder in found]

    def changed(self) -> list[str]:
        path = self.folder / "changed"
        return sorted(path.read_text().split()) if path.exists() else []

    def start(self, user: str, *more: str, command: str = "true") -> subprocess.Popen[str]:
        """Start a playbook that changes the fleet by a command on each host, as an operator of that name."""
        (self.folder / "between.json").write_text(json.dumps({"command": command}))
        return subprocess.Popen(
            ["ansible-playbook", str(self.folder / "playbooks" / "serve.yml"), "-i", str(self.folder / "hosts"), *more],
            cwd=self.folder,
            env={
                **os.environ,
                "LOGNAME": user,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_COLLECTIONS_PATH": str(self.folder / "collections"),
                "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
                "ANSIBLE_NOCOLOR": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, user: str, *more: str, command: str = "true") -> tuple[int, str]:
        with self.start(user, *more, command=command) as process:
            text = process.communicate()[0]
        return process.returncode, text


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    copy = tmp_path / "collections" / "ansible_collections" / "trainyard" / "neuron"
    shutil.copytree(NEURON, copy, ignore=shutil.ignore_patterns("tests", "__pycache__", "docs"))
    # Each host has a directory and an address of its own, which one machine has not.
    modules, utils = copy / "plugins" / "modules", copy / "plugins" / "module_utils"
    for path, mine, its in (
        (
            utils / "roll" / "journal.py",
            'Path("/var/lib/trainyard/roll")',
            'Path(os.environ.get("LOCK_DIR", "/nowhere"))',
        ),
        (
            modules / "topology_info.py",
            'own_addresses(read_text("/proc/net/fib_trie"), read_text("/proc/net/if_inet6"))',
            "[]",
        ),
    ):
        text = path.read_text()
        assert mine in text
        path.write_text(text.replace(mine, its))
    # Without their ways to collection and roles: those of the copy are meant.
    ways = shutil.ignore_patterns("collections", "roles")
    shutil.copytree(ROOT / "playbooks", tmp_path / "playbooks", ignore=ways)
    play = {"name": "Between", "hosts": "neuron:router", "gather_facts": False, "vars": {"where": str(tmp_path)}}
    (tmp_path / "playbooks" / "serve_planned.yml").write_text(json.dumps([{**play, "tasks": BETWEEN}]))
    variables: dict[str, Any] = {
        "ansible_connection": "local",
        "ansible_become": False,
        "trainyard_asks": "reach",  # these hosts are no hosts, but for their lock
        "trainyard_instance_type": "trn2.48xlarge",
        "trainyard_deployment_tiny": DEPLOYMENT,
    }
    hosts: dict[str, Any] = {}
    for index, name in enumerate(HOSTS):
        python = tmp_path / f"python-{name}"
        python.write_text(f'#!/bin/sh\nLOCK_DIR={tmp_path / name} exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        hosts[name] = {**variables, "ansible_python_interpreter": str(python), "ansible_host": f"10.0.0.{index + 1}"}
    groups = {"neuron": ["h1", "h2"], "router": ["r1"], "client": ["r1"]}
    children = {group: {"hosts": {name: hosts[name] for name in names}} for group, names in groups.items()}
    (tmp_path / "hosts").write_text(json.dumps({"all": {"children": children}}))
    return Fleet(tmp_path)


def began(fleet: Fleet) -> None:
    """Return when a run changes the hosts."""
    end = time.monotonic() + 120
    while len(fleet.changed()) < len(HOSTS):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_every_host_is_held_while_it_is_changed_and_by_nobody_afterwards(fleet: Fleet) -> None:
    seen = f"cp {fleet.folder}/$0/state.json {fleet.folder}/$0.seen"
    code, text = fleet.run("ann", command="for host in h1 h2 r1; do sh -c '" + seen + "' $host; done")
    assert code == 0, text
    for host in HOSTS:
        assert json.loads((fleet.folder / f"{host}.seen").read_text())["holder"]["verb"] == "serve"
    assert fleet.changed() == list(HOSTS)
    assert fleet.holders() == ["", "", ""]


@pytest.mark.parametrize("held", HOSTS)
def test_where_one_host_is_held_none_is_changed_and_the_others_have_their_lock_back(fleet: Fleet, held: str) -> None:
    fleet.book(held).take(Claim("run-1", "bob@elsewhere", 7, "redeploy", "elsewhere/1/2/3"))
    code, text = fleet.run("ann")
    assert code != 0
    assert f"{held}: this host is held by bob@elsewhere (redeploy, run run-1, pid 7)" in text
    assert "-e trainyard_take_over=run-1" in text
    assert fleet.changed() == []
    assert [row for row in fleet.holders() if row] == ["bob redeploy"]
    code, text = fleet.run("ann", "--check")
    assert code == 0, text
    assert fleet.changed() == [], "the play of the test changes nothing in check mode either"
    code, text = fleet.run("ann", "-e", "trainyard_take_over=run-0,run-1")
    assert code == 0, text
    assert fleet.changed() == list(HOSTS)


def test_a_run_that_fails_gives_its_lock_back(fleet: Fleet) -> None:
    code, text = fleet.run("ann", command="false")
    assert code != 0
    assert "The lock of h1, h2, r1 is given back" in text, text
    assert fleet.holders() == ["", "", ""]


def test_a_run_that_was_killed_blocks_others_until_they_say_so_and_its_own_user_not_at_all(fleet: Fleet) -> None:
    process = fleet.start("ann", command="sleep 600")
    began(fleet)
    assert fleet.holders() == ["ann serve"] * 3
    code, text = fleet.run("ann")
    assert code != 0, "her own run lives"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    code, text = fleet.run("bob")
    assert code != 0
    assert "held by ann@" in text
    assert fleet.holders() == ["ann serve"] * 3
    code, text = fleet.run("ann")
    assert code == 0, text
    assert fleet.holders() == ["", "", ""]


def test_a_host_whose_file_is_cut_is_named_with_the_next_command(fleet: Fleet) -> None:
    assert fleet.run("ann")[0] == 0
    path = fleet.folder / "r1" / "state.json"
    path.write_text(path.read_text()[:20])
    code, text = fleet.run("ann")
    assert code != 0
    assert f"r1: {path} is not whole" in text
    assert fleet.run("ann", "-e", "trainyard_take_over=unreadable")[0] == 0
    assert path.with_name("state.json.broken").exists()
