# SPDX-License-Identifier: Apache-2.0
"""Passwords of Ansible's vault, by each of Ansible's own ways, for this process and what it starts."""

from __future__ import annotations

import atexit
import getpass
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from trainyard.paths import ROOT

#: Ansible's variables of the environment, which its own programs read as this one does.
IDENTITIES, FILE = "ANSIBLE_VAULT_IDENTITY_LIST", "ANSIBLE_VAULT_PASSWORD_FILE"

#: The same as its configuration has them.
IN_IDENTITIES, IN_FILE = "DEFAULT_VAULT_IDENTITY_LIST", "DEFAULT_VAULT_PASSWORD_FILE"

#: What Ansible takes in place of a file, to ask for the password.
_PROMPTS = ("prompt", "prompt_ask_vault_pass")

#: The flags of a sub-command that reads an inventory, as ansible-playbook has them.
VaultIds = Annotated[list[str] | None, typer.Option("--vault-id", metavar="LABEL@FILE", help="As ansible-playbook's.")]
VaultFiles = Annotated[
    list[Path] | None,
    typer.Option("--vault-password-file", "--vault-pass-file", help="File or program with the vault's password."),
]
AskVault = Annotated[bool, typer.Option("--ask-vault-pass", "-J", help="Ask for the vault's password.")]


class VaultError(Exception):
    """A password cannot be had; one line."""


def use(ids: Sequence[str] | None, files: Sequence[Path] | None, ask: bool) -> None:
    """Keep how passwords are had, in the environment, where ansible-playbook finds it as well.

    A password that somebody types is asked for once, and lies in a file that only this user can read until this process
    ends: each playbook would ask again.

    Args:
        ids: `LABEL@FILE`, or `LABEL@prompt`.
        files: files or programs without a label.
        ask: whether to ask for one without a label.

    Raises:
        VaultError: a file is not there, or nobody can be asked.
    """
    given = [one for one in os.environ.get(IDENTITIES, "").split(",") if one.strip()] or _configured(IN_IDENTITIES)
    if not os.environ.get(FILE):
        given += [f"default@{path}" for path in _configured(IN_FILE)]
    given += [*(ids or ()), *(f"default@{path}" for path in files or ()), *(["default@prompt"] if ask else [])]
    if given:
        os.environ[IDENTITIES] = ",".join(_identity(one.strip()) for one in given)
    if os.environ.get(FILE):
        os.environ[FILE] = _place(os.environ[FILE])


def _configured(setting: str) -> list[str]:
    """Return what the configuration says that ansible-playbook reads, nothing where a variable of the environment does.

    Not by Ansible's constants, which read it when they are imported: this is earlier, and the variables are set here.
    """
    path = Path(os.environ.get("ANSIBLE_CONFIG") or ROOT / "ansible.cfg").expanduser()
    path = path / "ansible.cfg" if path.is_dir() else path
    try:
        if "vault_" not in path.read_text(encoding="utf-8", errors="replace"):
            return []
    except OSError:
        return []
    from ansible.config.manager import ConfigManager
    from ansible.errors import AnsibleError

    try:
        found, origin = ConfigManager(str(path)).get_config_value_and_origin(setting)
    except AnsibleError as error:
        raise VaultError(" ".join(str(error).split())) from error
    told = [found] if isinstance(found, str) else list(found or ())
    return [str(one) for one in told] if str(origin) == str(path) else []


def _identity(text: str) -> str:
    """Return an identity whose file every directory finds, asked for where it is a prompt."""
    label, sign, source = text.rpartition("@")
    if source in _PROMPTS:
        return f"{label or 'default'}@{_asked(label)}"
    return f"{label}{sign}{_place(source)}"


def _place(text: str) -> str:
    path = Path(text).expanduser()
    if not path.exists():
        raise VaultError(f"no vault password file at {text}")
    return str(path.resolve())


def _asked(label: str) -> Path:
    if not os.isatty(0):
        raise VaultError("no terminal to ask for the vault's password at: give --vault-password-file FILE")
    named = f" ({label})" if label and label != "default" else ""
    return _kept(getpass.getpass(f"Vault password{named}: "))


def _kept(password: str) -> Path:
    """Return a file with a password, which goes when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="trainyard-vault-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    file = folder / "password"
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as opened:
        opened.write(password + "\n")
    return file


def unlock(loader: Any) -> None:
    """Give Ansible's loader the passwords.

    Raises:
        VaultError: none of them can be read.
    """
    from ansible.cli import CLI
    from ansible.errors import AnsibleError

    given = [one for one in os.environ.get(IDENTITIES, "").split(",") if one.strip()]
    files = [os.environ[FILE]] if os.environ.get(FILE) else []
    if not given and not files:
        return
    try:
        ids = CLI.build_vault_ids(given, files, None, auto_prompt=False)
        loader.set_vault_secrets(CLI.setup_vault_secrets(loader, ids, auto_prompt=False))
    except AnsibleError as error:
        raise VaultError(" ".join(str(error).split())) from error
