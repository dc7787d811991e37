# SPDX-License-Identifier: Apache-2.0
"""`trainyard ssh` goes where Ansible would, by the same key, user and options."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

#: Notes what it was called with, and ends as a command on a host may.
STAND_IN = f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\nsys.exit(7)\n"


def trainyard(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["trainyard", "ssh", *words], capture_output=True, text=True, timeout=120, check=False)


def inventory(folder: Path, **variables: Any) -> str:
    file = folder / "hosts.yml"
    hosts = {"trn2-a": variables, "trn2-b": {}}
    file.write_text(yaml.safe_dump({"all": {"children": {"neuron": {"hosts": hosts}}}}), encoding="utf-8")
    return str(file)


def test_address_port_user_key_and_options_are_those_of_the_inventory(tmp_path: Path) -> None:
    given = {
        "ansible_host": "{{ '192.0.2' }}.9",
        "ansible_port": 2222,
        "ansible_user": "ubuntu",
        "ansible_ssh_private_key_file": str(tmp_path / "key"),
        "ansible_ssh_common_args": "-o ProxyJump=bastion -o 'UserKnownHostsFile=/a b'",
    }
    done = trainyard("trn2-a", "-i", inventory(tmp_path, **given), "--print", "--", "uptime", "-p")
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    assert words[0] == "ssh"
    assert words[-4:] == ["--", "192.0.2.9", "uptime", "-p"]
    assert words[words.index("-p") + 1] == "2222"
    assert words[words.index("-l") + 1] == "ubuntu"
    assert words[words.index("-i") + 1] == str(tmp_path / "key")
    assert {"ProxyJump=bastion", "UserKnownHostsFile=/a b", "ControlMaster=auto"} <= set(words)


def test_it_is_run_and_ends_with_what_the_command_ended_with(tmp_path: Path) -> None:
    program = tmp_path / "ssh"
    program.write_text(STAND_IN, encoding="utf-8")
    program.chmod(0o755)
    done = trainyard("trn2-a", "-i", inventory(tmp_path, ansible_ssh_executable=str(program)), "--", "false")
    assert done.returncode == 7, done.stderr
    assert json.loads(done.stdout)[-3:] == ["--", "trn2-a", "false"]


@pytest.mark.parametrize(
    ("variables", "host", "said"),
    [
        ({}, "trn2-c", "no host trn2-c: did you mean"),
        ({"ansible_connection": "amazon.aws.aws_ssm"}, "trn2-a", "is reached by amazon.aws.aws_ssm"),
        ({"ansible_connection": "local"}, "trn2-a", "is reached by local"),
        ({"ansible_password": "planted"}, "trn2-a", "is reached with a password"),
        ({"ansible_port": "{{ nowhere }}"}, "trn2-a", "nowhere"),
        ({"ansible_port": "many"}, "trn2-a", "many"),
    ],
)
def test_where_there_is_no_such_way_it_says_so(variables: dict[str, Any], host: str, said: str, tmp_path: Path) -> None:
    done = trainyard(host, "-i", inventory(tmp_path, **variables), "--print")
    assert done.returncode == 2, done.stdout
    assert said in done.stderr
    assert "planted" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
