# SPDX-License-Identifier: Apache-2.0
"""A run as people see it: Ansible itself, on two names of this machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[8]
PLAYBOOK = """
- name: Quiet
  hosts: all
  gather_facts: false
  tasks:
    - name: Look at something
      ansible.builtin.command: /bin/true
      changed_when: false

- name: Skipped
  hosts: all
  gather_facts: false
  tasks:
    - name: Never
      ansible.builtin.command: /bin/true
      when: false

- name: Empty
  hosts: "!all"
  gather_facts: false
  tasks:
    - name: Do it nowhere
      ansible.builtin.fail: {msg: somewhere}

- name: Busy
  hosts: all
  gather_facts: false
  tasks:
    - name: Change something
      ansible.builtin.file: {path: "{{ folder }}/{{ inventory_hostname }}", state: directory, mode: "0700"}
    - name: Change several
      ansible.builtin.file: {path: "{{ folder }}/{{ inventory_hostname }}/{{ item }}", state: directory, mode: "0700"}
      loop: [one, two]
    - name: Say something
      ansible.builtin.debug: {msg: [first word, second word]}
    - name: Warn of something
      warner: {}
    - name: Keep a secret
      ansible.builtin.fail: {msg: hunter2}
      no_log: true
      ignore_errors: true

- name: Broken
  hosts: all
  gather_facts: false
  tasks:
    - name: Refuse
      ansible.builtin.fail: {msg: "cause\\nnext step"}
      when: inventory_hostname == 'b'
"""
WARNER = """
from ansible.module_utils.basic import AnsibleModule

module = AnsibleModule(argument_spec={}, supports_check_mode=True)
module.warn("the clock is off")
module.exit_json()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("people")
    (made / "library").mkdir()
    (made / "library" / "warner.py").write_text(WARNER, encoding="utf-8")
    (made / "play.yml").write_text(PLAYBOOK, encoding="utf-8")
    return made


def run(folder: Path, *more: str, **environment: str) -> list[str]:
    """Run the playbook; its lines, without the times."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ansible", "playbook", "-i", "a,b,", str(folder / "play.yml"), *more),
            *("-e", f"ansible_python_interpreter={sys.executable}", "-e", f"folder={folder}", "-c", "local"),
        ],
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_FORCE_COLOR": "0",
            "NO_COLOR": "1",
            **environment,
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    return [re.sub(r", \d+ s$", ", N s", line) for line in done.stdout.splitlines()]


def stage(lines: list[str], name: str) -> list[str]:
    """The lines below a stage's name, hosts in order."""
    began = lines.index(name)
    ended = next(at for at, line in enumerate(lines) if at > began and not line.startswith("  "))
    return sorted(lines[began + 1 : ended], key=lambda line: line.startswith("  nothing") or " changed on " in line)


def test_a_run_says_what_changed_what_failed_and_what_it_warned_of(folder: Path) -> None:
    checked = run(folder, "--check")
    head = "Busy (check: nothing is changed)"
    assert "  a  would change  Change something" in stage(checked, head)
    assert not (folder / "a").exists()

    lines = run(folder)
    assert stage(lines, "Quiet") == ["  nothing to change, N s"]
    assert "Skipped" not in lines
    assert lines.index("Empty: no host in this run") == lines.index("Busy") - 1
    busy = stage(lines, "Busy")
    for host in "ab":
        assert f"  {host}  changed  Change something" in busy
        assert f"  {host}  changed  Change several (one)" in busy
        assert f"  {host}  failed, and it goes on  Keep a secret" in busy
    assert "  first word" in busy
    assert busy[-1] == "  6 changed on 2 hosts, N s"
    assert "hunter2" not in "\n".join(lines)

    broken = lines.index("  b  FAILED  Refuse")
    assert lines[broken + 1 : broken + 4] == ["    cause", "    next step", "  nothing to change, failed on b, N s"]
    warned = [line for line in lines if "the clock is off" in line]
    assert len(warned) == 1
    assert re.fullmatch(r"  ! the clock is off  \([ab], [ab]\)", warned[0])
    assert lines.index(warned[0]) > broken
    assert not [line for line in lines if line.startswith(("TASK", "ok:", "skipping:"))]
    assert [line.split()[0] for line in lines if " : ok=" in line] == ["a", "b"]


@pytest.mark.parametrize("more", [{"ANSIBLE_VERBOSITY": "1"}, {"ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default"}])
def test_everything_is_printed_when_it_is_asked_for(folder: Path, more: dict[str, str]) -> None:
    lines = run(folder, "--check", **more)
    assert any(line.startswith("TASK [Change something]") for line in lines)
    assert any(line.startswith(("ok: [a]", "changed: [a]")) for line in lines)
