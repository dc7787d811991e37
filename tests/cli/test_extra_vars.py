# SPDX-License-Identifier: Apache-2.0
"""Variables of a command line win over the inventory's, by each of the ways that ansible-playbook takes them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from trainyard import extra_vars, upgrade_command
from trainyard.paths import ROOT

PORT = "trainyard_router_port"


def run(*argv: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def plan(*argv: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return run("trainyard", "plan", "-i", str(ROOT / "inventory/trn2"), *argv, cwd=cwd)


@pytest.mark.parametrize(
    "given",
    [
        [json.dumps({PORT: 8123})],
        [f"{PORT}: 8123".join("{}")],
        ["@port.yml"],
        [json.dumps({PORT: 8000}), json.dumps({PORT: 8123})],
        [json.dumps({PORT: "{{ base_port + 123 }}"}), json.dumps({"base_port": 8000})],
    ],
    ids=["JSON", "YAML", "a file beside", "the last wins", "a template"],
)
def test_a_variable_of_the_command_line_is_planned_with(given: list[str], tmp_path: Path) -> None:
    (tmp_path / "port.yml").write_text(f"{PORT}: 8123\n")
    done = plan(*(word for one in given for word in ("-e", one)), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the router on port 8123 offers" in done.stdout


def test_a_word_is_text_as_ansible_has_it_and_a_number_that_is_none_is_refused() -> None:
    done = plan("--extra-vars", f"{PORT}=8123")
    assert done.returncode == 1
    assert f'{PORT} = "8123": must be a number, not a string. Fix: write 8123 without quotes; with -e, pass JSON' in (
        done.stderr
    )
    done = plan("-e", f"{PORT}x=8123")
    assert f"did you mean '{PORT}'?" in done.stderr


@pytest.mark.parametrize(("given", "word"), [("@no-such.yml", "no-such.yml"), ("[1]", "dictionary"), ("./x", "'@'")])
def test_what_is_no_variable_is_one_line(given: str, word: str, tmp_path: Path) -> None:
    done = plan("-e", given, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --extra-vars: ")
    assert word in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_the_hosts_are_asked_with_the_same_variables(tmp_path: Path) -> None:
    """What `--diff` asks goes over a connection that the variables name."""
    seen = tmp_path / "seen"
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$@" >> {seen}\nexit 255\n')
    ssh.chmod(0o755)
    (tmp_path / "way.json").write_text(json.dumps({"ansible_ssh_executable": str(ssh), "ansible_port": 2222}))
    plan("--diff", "-e", "@way.json", cwd=tmp_path)
    assert seen.exists(), "no host was asked by the way that the variables name"
    assert "Port=2222" in seen.read_text()


def test_an_upgrade_plans_with_the_variables_that_its_playbooks_get(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A fleet that is planned only with them is upgraded, and not refused before."""
    asked: list[list[str]] = []
    run_with: list[str] = []

    def order(_plan: object) -> list[str]:
        asked.append(upgrade_command.extra_vars.flags())
        return ["a"]

    def started(argv: list[str], **_more: object) -> subprocess.CompletedProcess[str]:
        run_with.extend(argv)
        return subprocess.CompletedProcess(argv, 0)

    monkeypatch.setattr(upgrade_command, "plan_or_exit", lambda _inventory: {})
    monkeypatch.setattr(upgrade_command, "order", order)
    monkeypatch.setattr(upgrade_command.subprocess, "run", started)
    monkeypatch.chdir(tmp_path)
    try:
        upgrade_command.upgrade(["hosts.yml"], variables=["a=1", "@b.yml"], check=True)
    finally:
        upgrade_command.extra_vars.use(None)
    assert asked == [["--extra-vars", "a=1", "--extra-vars", f"@{tmp_path}/b.yml"]]
    assert f"@{tmp_path}/b.yml" in run_with, "the playbooks run in another directory"


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a test gives stays for the next."""
    monkeypatch.setattr(extra_vars._Kept, "words", ())


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize(
    ("words", "read"),
    [
        ([], {}),
        (["a=1 b='q r'"], {"a": "1", "b": "q r"}),
        (['{"a": {"b": [1, true]}}'], {"a": {"b": [1, True]}}),
        (["{a: 1, c: '{{ 1 + 1 }}'}"], {"a": 1, "c": "{{ 1 + 1 }}"}),
        (["a=1", '{"a": 2}'], {"a": 2}),
        (["@vars.yml"], {"a": "of the file"}),
    ],
)
def test_execution_nodes_are_sent_what_ansible_reads(
    words: list[str], read: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vars.yml").write_text("a: of the file\n")
    monkeypatch.chdir(tmp_path)
    extra_vars.use(words)
    found = extra_vars.parsed()
    assert found == read
    assert json.loads(json.dumps(found)) == read
    assert all(type(value) in (str, int, dict) for value in found.values())


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("word", ["@missing.yml", "{a: [", "[1, 2]", "stray", "a=1 stray"])
def test_what_are_no_variables_is_told_in_a_line(word: str) -> None:
    extra_vars.use([word])
    with pytest.raises(extra_vars.ExtraVarsError, match=r"^--extra-vars: [^\n]+$"):
        extra_vars.parsed()
