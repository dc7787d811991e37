# SPDX-License-Identifier: Apache-2.0
"""`trainyard ssh`: a shell on a host of the fleet, or a command there, by the way that its inventory says."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from trainyard import vault
from trainyard.paths import absolute
from trainyard.plan_command import InventoryError, open_inventory, refuse, use_vault

# Before Ansible's loader knows the collection: it does not find the rest of a package that it did not load itself.
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import did_you_mean  # isort: skip


class NoWayError(ValueError):
    """There is no way by SSH to what was named; with the reason."""


def words_of(name: str, variables: Any, command: Sequence[str]) -> list[str]:
    """Return the command line of ssh for a host, with all that Ansible would give it.

    Args:
        name: of the host in its inventory.
        variables: its variables, templated.
        command: what to run there; a shell where it is empty.

    Raises:
        NoWayError: Ansible reaches the host otherwise, or with a password.
    """
    from ansible.errors import AnsibleError
    from ansible.playbook.play_context import PlayContext
    from ansible.plugins.loader import connection_loader

    way = str(variables.get("ansible_connection") or "ssh").removeprefix("ansible.builtin.")
    if way not in ("ssh", "smart"):
        raise NoWayError(f"{name} is reached by {way}, as its inventory says, and not by SSH")
    try:
        plugin = connection_loader.get("ansible.builtin.ssh", PlayContext(), os.devnull)
        names = {one["name"] for rows in _documented(plugin) for one in rows}
        plugin.set_options(var_options={one: variables[one] for one in names if one in variables})
        given = {option: plugin.get_option(option) for option in _OPTIONS}
    except AnsibleError as error:
        raise NoWayError(f"{name}: {' '.join(str(error).split())}") from error
    if given["password"]:
        raise NoWayError(f"{name} is reached with a password, which ssh asks for itself: ssh {given['host'] or name}")
    argv = [str(given["ssh_executable"])]
    for option in ("ssh_args", "ssh_common_args", "ssh_extra_args"):
        argv += shlex.split(str(given[option] or ""))
    if given["host_key_checking"] is False:
        argv += ["-o", "StrictHostKeyChecking=no"]
    for option, word in (("port", "-p"), ("private_key_file", "-i"), ("remote_user", "-l")):
        argv += [word, str(Path(str(given[option])).expanduser())] if given[option] else []
    # Behind the dashes nothing is an option, whatever an inventory calls a host.
    return [*argv, "--", str(given["host"] or name), *command]


_OPTIONS = (
    *("host", "port", "remote_user", "private_key_file", "password", "host_key_checking"),
    *("ssh_executable", "ssh_args", "ssh_common_args", "ssh_extra_args"),
)


def _documented(plugin: Any) -> list[list[dict[str, str]]]:
    """Return for each option the variables that set it, as the plugin documents them."""
    from ansible import constants

    found = constants.config.get_configuration_definitions("connection", plugin._load_name)
    return [list(option.get("vars") or []) for option in found.values()]


def ssh(
    host: Annotated[str, typer.Argument(help="A host of the inventory.")],
    inventory: Annotated[list[str], typer.Option("--inventory", "-i", help="Inventory file, directory or script.")],
    command: Annotated[
        list[str] | None, typer.Argument(help="What to run there, behind --; a shell where nothing is said.")
    ] = None,
    show: Annotated[bool, typer.Option("--print", help="Print the command line of ssh; run nothing.")] = False,
    vault_id: vault.VaultIds = None,
    vault_password_file: vault.VaultFiles = None,
    ask_vault_pass: vault.AskVault = False,
) -> None:
    """Log in to a host of the fleet, or run a command there, with the key, user and options of its inventory.

    It ends with what the command on the host ended with.
    """
    use_vault(vault_id, vault_password_file, ask_vault_pass)
    missing = [source for source in inventory if not Path(source).exists() and "," not in source]
    if missing:
        raise refuse(f"no inventory at {', '.join(missing)}")
    try:
        known, variables = open_inventory(tuple(absolute(source) for source in inventory))
        names = sorted(known.hosts)
        if host not in names:
            fix = did_you_mean(host, names) or f"there are {', '.join(names[:20]) or 'none'}"
            raise refuse(f"no host {host}: {fix}")
        words = words_of(host, variables[host], command or [])
    except (InventoryError, NoWayError) as error:
        raise refuse(str(error)) from error
    if show:
        typer.echo(shlex.join(words))
        return
    os.execvp(words[0], words)  # noqa: S606 - no shell, and ssh needs this very terminal
