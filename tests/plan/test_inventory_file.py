# SPDX-License-Identifier: Apache-2.0
"""A file of the inventory whose aliases multiply: refused at once, by whatever reads the inventory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainyard.paths import ROOT

#: Processor seconds of Ansible and all its children, of which it needs two; written out, the aliases take it hours.
CPU_S = 30


def ansible(*words: str) -> subprocess.CompletedProcess[str]:
    """A program of Ansible's with the checkout's configuration, ended by the kernel where it takes too long."""
    limited = f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_CPU, ({CPU_S}, {CPU_S}));"
    run = limited + "sys.argv = sys.argv[1:]; runpy.run_module('ansible', run_name='__main__')"
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "COLUMNS": "300", "ANSIBLE_NOCOLOR": "1"}
    argv = [sys.executable, "-c", run, "ansible", *words]
    return subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def multiplied(within: str) -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    return "".join(f"{within}{line}\n" for line in lines)


FILES = {
    "variables of a group": f"all:\n  vars:\n{multiplied('    ')}  hosts: {{h1: }}\n",
    "variables of a host": f"all:\n  hosts:\n    h1:\n{multiplied('      ')}",
    "itself": "all:\n  vars:\n    a: &a [*a]\n  hosts: {h1: }\n",
}


@pytest.mark.parametrize("kind", FILES)
def test_aliases_that_multiply_are_refused_before_anything_is_run(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "hosts.yml"
    source.write_text(FILES[kind], encoding="utf-8")
    done = ansible("playbook", "-i", str(source), "playbooks/preflight.yml")
    assert done.returncode > 0, "the kernel ended it" if done.returncode < 0 else done.stdout
    told = "itself" if kind == "itself" else "values with its aliases written out"
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.stdout + done.stderr
    assert "PLAY" not in done.stdout


def test_an_inventory_with_aliases_that_do_not_multiply_is_read_as_ansible_reads_it(tmp_path: Path) -> None:
    source = tmp_path / "hosts.yml"
    group = "neuron: {hosts: {h1: {x: '{{ 1 + 1 }}'}}}"
    text = f"all:\n  vars: {{shared: &shared {{a: [1, 2]}}, again: *shared}}\n  children: {{{group}}}\n"
    source.write_text(text, encoding="utf-8")
    done = ansible("inventory", "-i", str(source), "--list")
    assert done.returncode == 0, done.stderr
    listed = json.loads(done.stdout)
    assert listed["neuron"]["hosts"] == ["h1"]
    variables = listed["_meta"]["hostvars"]["h1"]
    assert variables["shared"] == variables["again"] == {"a": [1, 2]}
    assert variables["x"] == "{{ 1 + 1 }}"
