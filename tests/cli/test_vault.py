# SPDX-License-Identifier: Apache-2.0
"""A vaulted inventory is read by the commands as by ansible-playbook, however the password is given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from trainyard.init.files import Fleet, Host, files_of
from trainyard.init.recipes import recipes
from trainyard.paths import ROOT

PASSWORD, SECRET = "correct horse", "hf_vaulted"


def run(*argv: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if "VAULT" not in name}
    return subprocess.run(
        argv, cwd=cwd, env={**kept, **environment, "COLUMNS": "200"}, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def vaulted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inventory with one file and one value of a vault, and the password in a file and in a program."""
    folder = tmp_path_factory.mktemp("vaulted")
    fleet = folder / "fleet"
    for path, text in files_of(Fleet(recipes()["qwen3-8b"], [Host("a", "10.0.0.1")]), fleet).items():
        (fleet / path).parent.mkdir(parents=True, exist_ok=True)
        (fleet / path).write_text(text)
    (folder / "password").write_text(PASSWORD + "\n")
    program = folder / "program"
    program.write_text(f"#!{sys.executable}\nprint({PASSWORD!r})\n")
    program.chmod(0o755)
    vault = fleet / "group_vars/all/vault.yml"
    vault.write_text(f"vault_hub_token: {SECRET}\ntrainyard_router_port: 8123\n")
    word = ["ansible-vault", "encrypt", "--vault-id", f"fleet@{folder / 'password'}", str(vault)]
    assert run(*word).returncode == 0
    assert "$ANSIBLE_VAULT;1.2;AES256;fleet" in vault.read_text()
    return folder


WAYS = {
    "a file": ["--vault-password-file", "{0}/password"],
    "a program": ["--vault-pass-file", "{0}/program"],
    "a label": ["--vault-id", "fleet@{0}/password"],
    "two labels": ["--vault-id", "other@{0}/program", "--vault-id", "fleet@{0}/password"],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_password_by_a_flag(vaulted: Path, way: str) -> None:
    flags = [word.format(vaulted) for word in WAYS[way]]
    done = run("trainyard", "plan", "-i", str(vaulted / "fleet"), *flags)
    assert done.returncode == 0, done.stderr
    assert "port 8123" in done.stdout
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize("command", [["ls"], ["verify"], ["rm", "0123"], ["gc"]])
def test_artifacts_are_asked_for_with_the_password(vaulted: Path, command: list[str]) -> None:
    flags = ["--vault-password-file", str(vaulted / "password")]
    given = {"ANSIBLE_SSH_EXECUTABLE": "/bin/false"}
    done = run("trainyard", "artifact", *command, "-i", str(vaulted / "fleet"), *flags, **given)
    assert done.returncode == 1, done.stderr
    text = done.stdout + done.stderr
    assert "ecrypt" not in text
    assert text.startswith("error: a: "), "the vault was opened, and the host is none"


@pytest.mark.parametrize("variable", ["ANSIBLE_VAULT_PASSWORD_FILE", "ANSIBLE_VAULT_IDENTITY_LIST"])
def test_a_password_by_the_environment_from_another_directory(vaulted: Path, variable: str) -> None:
    value = "password" if variable.endswith("FILE") else "fleet@password"
    done = run("trainyard", "plan", "-i", "fleet", cwd=vaulted, **{variable: value})
    assert done.returncode == 0, done.stderr
    assert "port 8123" in done.stdout


@pytest.mark.parametrize("said", ["vault_password_file = password", "vault_identity_list = fleet@{0}/password"])
def test_a_password_by_the_configuration_that_ansible_reads(vaulted: Path, said: str) -> None:
    """A file is looked for beside it, as Ansible does; playbooks that a command starts have the password as well."""
    own = vaulted / "own.cfg"
    shipped = (ROOT / "ansible.cfg").read_text()
    own.write_text(shipped.replace("[defaults]", f"[defaults]\n{said.format(vaulted)}"))
    away = vaulted / "away"
    away.write_text("#!/bin/sh\nexit 255\n")
    away.chmod(0o755)
    given = {"ANSIBLE_CONFIG": str(own), "ANSIBLE_SSH_EXECUTABLE": str(away)}
    done = run("trainyard", "plan", "-i", str(vaulted / "fleet"), **given)
    assert done.returncode == 0, done.stderr
    assert "port 8123" in done.stdout
    done = run("trainyard", "block-watch", "-i", str(vaulted / "fleet"), **given)
    assert (done.returncode, done.stderr) == (0, "")
    done = run("trainyard", "status", "-i", str(vaulted / "fleet"), **given)
    assert "vault" not in done.stdout + done.stderr
    assert "a did not answer" in done.stdout + done.stderr


COMMANDS = {
    "plan": ["plan"],
    "show": ["show"],
    "upgrade": ["upgrade", "--check"],
    "sweep": ["sweep", str(ROOT / "sweeps/llama-3-3-70b.yml"), "--check"],
    "artifact": ["artifact", "ls"],
    "forecast": ["forecast"],
    "status": ["status"],
    "logs": ["logs", "qwen3-8b"],
    "events": ["events"],
    "accept": ["accept"],
    "bundle": ["bundle", "create", "/no/such/place"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_without_the_password_one_line_says_which_flags_take_it(vaulted: Path, command: str) -> None:
    done = run("trainyard", *COMMANDS[command], "-i", str(vaulted / "fleet"))
    assert done.returncode == (1 if command == "logs" else 2)
    text = done.stdout + done.stderr
    assert "Traceback" not in text
    assert len(text.strip().splitlines()) == 1, text
    for word in ("vault", "--vault-password-file", "--ask-vault-pass"):
        assert word in text


def test_a_wrong_password_and_one_that_is_not_there_are_one_line_each(vaulted: Path) -> None:
    (vaulted / "wrong").write_text("nonsense\n")
    for file, word in (("wrong", "ecrypt"), ("gone", "no vault password file")):
        done = run("trainyard", "plan", "-i", str(vaulted / "fleet"), "--vault-password-file", str(vaulted / file))
        assert done.returncode == 2
        assert word in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    done = run("trainyard", "show", "-i", str(vaulted / "fleet"), "--ask-vault-pass")
    assert done.returncode == 2
    assert "no terminal" in done.stderr


def test_a_password_is_asked_for_once_and_reaches_the_playbooks(vaulted: Path) -> None:
    """Upgrade plans, and then starts ansible-playbook twice, neither of which may ask again."""
    book = str(Path(sys.executable).parent / "trainyard")
    argv = ["upgrade", "--check", "-i", str(vaulted / "fleet"), "-J", "-e", "ansible_connection=local"]
    child = pexpect.spawn(book, argv, cwd=str(vaulted), encoding="utf-8", timeout=240)
    child.expect("Vault password: ")
    child.sendline(PASSWORD)
    child.expect(pexpect.EOF)
    child.close()
    assert "Vault password" not in child.before
    assert "ecrypt" not in child.before
    assert "Stopped at a" in child.before, "the host is no host, and the vault was opened to find that"
    assert not list(Path("/tmp").glob("trainyard-vault-*")), "the password goes with the process"  # noqa: S108


@pytest.mark.parametrize(
    "command", [["plan"], ["show"], ["status"], ["logs", "m"], ["events"], ["accept"], ["forecast"]]
)
def test_an_inventory_that_is_not_there_is_named_as_it_was_given(command: list[str], tmp_path: Path) -> None:
    done = run("trainyard", *command, "-i", "nothere", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: no inventory at nothere\n"
