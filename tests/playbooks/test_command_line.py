# SPDX-License-Identifier: Apache-2.0
"""Ansible's own habits: what a command line cannot do is said before anything, from any directory, with any HOME."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.command_line import refusals

from trainyard.paths import ROOT

RECIPE = "inventory/recipes/qwen3-8b.yml"
TAGS = {"always", "provision", "serve"}


def run(*argv: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("ANSIBLE_CONFIG", "HOME")}
    given = {**kept, "HOME": os.environ.get("HOME", "/root"), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "200", **environment}
    given = {name: value for name, value in given.items() if value}
    return subprocess.run(argv, cwd=cwd, env=given, capture_output=True, text=True, check=False)


def refused(**given: object) -> list[str]:
    sound = {"version": "2.19.14", "tags": [], "skipped": [], "known": TAGS, "start_at": "", "plans": True}
    return refusals(**{**sound, **given})  # type: ignore[arg-type]


def test_a_sound_command_line_is_not_refused() -> None:
    assert refused() == []
    assert refused(tags=["serve", "all", "tagged", "never"], version="2.21.0rc1") == []
    assert refused(start_at="Route", plans=False) == []


@pytest.mark.parametrize("version", ["2.16.19", "2.18.1", "2.9.27"])
def test_an_ansible_that_is_too_old_is_named_with_what_to_do(version: str) -> None:
    (line,) = refused(version=version)
    for word in (f"ansible-core {version} is too old", "2.19 or newer", "make venv"):
        assert word in line


def test_a_run_by_an_ansible_that_is_too_old_is_refused_where_it_comes_to_the_collection_first(tmp_path: Path) -> None:
    """It reads the inventory before any callback hears of the run, and could not: that would be the error."""
    (tmp_path / "sitecustomize.py").write_text("import ansible.release\nansible.release.__version__ = '2.18.19'\n")
    done = run("ansible-playbook", "site.yml", "-i", RECIPE, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2, done.stdout
    assert done.stderr.count("ansible-core 2.18.19 is too old") == 1
    assert "parse" not in done.stderr
    assert done.stdout == ""


def test_a_tag_that_nothing_has_is_refused_with_the_nearest() -> None:
    assert "did you mean 'provision'?" in refused(tags=["provison"])[0]
    assert "there are provision, serve" in refused(tags=["xyz"])[0]
    assert "there are none" in refused(tags=["xyz"], known={"always"})[0]
    assert len(refused(tags=["xyz", "provison"], start_at="Route")) == 3


def test_a_misspelt_tag_to_skip_is_refused_and_one_of_another_playbook_is_not() -> None:
    (line,) = refused(skipped=["provison"])
    assert "nothing would be left out: did you mean 'provision'?" in line
    assert refused(skipped=["benchmark", "molecule-notest", "notest", "never"]) == []


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tags", "provison"], ["'provison'", "did you mean 'provision'?"]),
        (["--skip-tags", "benchmrk"], ["did you mean 'benchmark'?"]),
        (["--tags", "vllm_endpoin"], ["did you mean 'vllm_endpoint'?"]),
        (["--start-at-task", "Route"], ["--start-at-task 'Route'", "playbooks/serve.yml", "lock"]),
    ],
)
def test_a_run_ends_before_its_first_task(flags: list[str], words: list[str]) -> None:
    done = run("ansible-playbook", "site.yml", "-i", RECIPE, *flags)
    assert done.returncode == 2, done.stdout
    assert "Preflight" not in done.stdout
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_a_stage_s_own_tags_are_known() -> None:
    done = run("ansible-playbook", "site.yml", "-i", RECIPE, "--tags", "vllm_endpoint,nvme_raid,jobs", "--syntax-check")
    assert done.returncode == 0, done.stderr


def test_from_another_directory_it_says_how_to_name_the_configuration(tmp_path: Path) -> None:
    book, inventory = str(ROOT / "playbooks/preflight.yml"), str(ROOT / RECIPE)
    done = run("ansible-playbook", book, "-i", inventory, cwd=tmp_path)
    assert done.returncode == 2
    assert f"export ANSIBLE_CONFIG={ROOT}/ansible.cfg" in done.stdout
    assert "Plan the fleet" not in done.stdout
    named = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_SSH_EXECUTABLE": "/bin/false"}
    done = run("ansible-playbook", book, "-i", inventory, cwd=tmp_path, **named)
    assert "preflight found 2 problems; nothing was changed" in done.stdout, "neither host of the recipe answers"


def test_in_a_checkout_that_others_can_write_it_says_the_same(tmp_path: Path) -> None:
    for name in ("ansible.cfg", "playbooks", "roles", "collections", "inventory"):
        (tmp_path / name).symlink_to(ROOT / name)
    tmp_path.chmod(0o777)
    done = run("ansible-playbook", "playbooks/preflight.yml", "-i", RECIPE, cwd=tmp_path)
    assert done.returncode == 2
    assert "export ANSIBLE_CONFIG=" in done.stdout
    assert "not where others can write that directory" in done.stdout


@pytest.mark.parametrize("command", [["plan"], ["events"], ["plan", "-e", '{"trainyard_router_port": 8123}']])
def test_a_command_reads_the_toolkit_s_configuration_from_any_directory(tmp_path: Path, command: list[str]) -> None:
    """It leaves out files beside an inventory that are none; another one, of the directory or the user, does not."""
    fleet = tmp_path / "fleet"
    fleet.mkdir()
    recipe = (ROOT / RECIPE).read_text()
    (fleet / "hosts.yml").write_text(re.sub(r"192\.0\.2\.", "10.0.0.", recipe))
    (fleet / "block_watch.json").write_text('{"told": [], "version": 1}')
    (fleet / "aws_ec2.yml").write_text("plugin: amazon.aws.aws_ec2\n")
    for path in (tmp_path / "ansible.cfg", tmp_path / ".ansible.cfg"):
        path.write_text("[inventory]\nignore_patterns = nothing\n")
    done = run("trainyard", *command, "-i", "fleet", cwd=tmp_path, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.parametrize("home", ["", "/nonexistent"])
def test_a_plan_needs_no_home(home: str, tmp_path: Path) -> None:
    done = run("trainyard", "plan", "-i", RECIPE, HOME=home, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "8 replicas on 1 hosts" in done.stdout


def test_check_and_diff_begin_with_the_same_questions() -> None:
    given = {"ANSIBLE_SSH_EXECUTABLE": "/bin/false"}
    done = run("ansible-playbook", "site.yml", "-i", RECIPE, "--check", "--diff", **given)
    assert done.returncode == 2
    assert "preflight found 2 problems; nothing was changed" in done.stdout
