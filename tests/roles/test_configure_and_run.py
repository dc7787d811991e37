# SPDX-License-Identifier: Apache-2.0
"""The serving roles by their two parts: what a host is sent when a run's tags ask for one of them, or for both.

The roles run through ansible-playbook over the local connection; the host's Python stands in, keeps what it is sent and
answers as a host does that is as it is to be.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .render import ROOT, model, replica

ANSWER = """#!/bin/sh
cat > {folder}/sent-$$
echo '{{"changed": false, "changed_paths": [], "units": []}}'
"""
ROLES = ("vllm_endpoint", "load_balancer")
PLAY = [
    {
        "hosts": "all",
        "gather_facts": False,
        "roles": [
            {"role": "vllm_endpoint", "vllm_endpoint_replicas": [replica(0), replica(1)]},
            {"role": "load_balancer", "load_balancer_models": [model()]},
        ],
    }
]


def sent(folder: Path, *options: str) -> dict[str, list[dict[str, Any]]]:
    """Run both roles with these options; returns the arguments of each module run, by the role that asked for it."""
    program = folder / "python3"
    program.write_text(ANSWER.format(folder=folder))
    program.chmod(0o755)
    (folder / "play.yml").write_text(yaml.safe_dump(PLAY))
    local = {
        "ansible_connection": "local",
        "ansible_pipelining": True,
        "ansible_python_interpreter": str(program),
    }
    inventory = {"all": {"hosts": {"trn2-a": local}}}
    (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
    argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", str(folder / "hosts.yml")]
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
    }
    done = subprocess.run(
        [*argv, str(folder / "play.yml"), *options],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, list[dict[str, Any]]] = {role: [] for role in ROLES}
    for path in sorted(folder.glob("sent-*")):
        text = path.read_text()
        assert re.findall(r"plugins\.modules\.(\w+)", text)[0] == "file_tree"
        start = text.index('{"ANSIBLE_MODULE_ARGS"')
        arguments = json.JSONDecoder().raw_decode(text[start:])[0]["ANSIBLE_MODULE_ARGS"]
        found[arguments["note"]].append(arguments)
    return found


def parts(arguments: dict[str, Any]) -> tuple[bool, bool]:
    """Whether a module run lays files out, and whether it brings units up."""
    from ansible_collections.trainyard.neuron.plugins.module_utils import entries

    return bool(entries.unpack(arguments["payload"])), bool(arguments.get("services"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), (True, True)),
        (("--tags", ",".join(f"{role}_configure,{role}_run" for role in ROLES)), (True, True)),
        (("--tags", ",".join(f"{role}_configure" for role in ROLES)), (True, False)),
        (("--skip-tags", ",".join(f"{role}_run" for role in ROLES)), (True, False)),
        (("--tags", ",".join(f"{role}_run" for role in ROLES)), (False, True)),
        (("--skip-tags", ",".join(f"{role}_configure" for role in ROLES)), (False, True)),
    ],
)
def test_a_part_that_is_not_asked_for_is_not_done_and_each_role_is_one_module_run(
    tmp_path: Path, options: tuple[str, ...], expected: tuple[bool, bool]
) -> None:
    found = sent(tmp_path, *options)
    assert {role: [parts(run) for run in runs] for role, runs in found.items()} == {role: [expected] for role in ROLES}


def test_what_runs_by_itself_is_what_runs_at_once(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "apart").mkdir()
    whole = sent(tmp_path / "whole")
    apart = sent(tmp_path / "apart", "--tags", ",".join(f"{role}_run" for role in ROLES))
    for role in ROLES:
        assert whole[role][0]["services"] == apart[role][0]["services"]
        assert [row["name"] for row in whole[role][0]["services"]["units"]] != []
