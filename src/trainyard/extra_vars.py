# SPDX-License-Identifier: Apache-2.0
"""Variables of a command line, which win over the inventory's: `-e` with the meaning that ansible-playbook gives it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

#: The flag of a sub-command that reads an inventory, as ansible-playbook has it.
ExtraVars = Annotated[
    list[str] | None,
    typer.Option("--extra-vars", "-e", metavar="VARS", help="NAME=VALUE, YAML, JSON or @FILE, as ansible-playbook's."),
]


class ExtraVarsError(Exception):
    """What a command line gives are no variables; one line."""


class _Kept:
    """What this process was given."""

    words: tuple[str, ...] = ()


def use(words: Sequence[str] | None) -> None:
    """Keep the variables of a command line, or that there are none, for all inventories that this process opens.

    A file is kept with its whole path, for programs are started from elsewhere.
    """
    _Kept.words = tuple(
        f"@{Path(word[1:]).expanduser().absolute()}" if word.startswith("@") else word for word in words or ()
    )


def given() -> tuple[str, ...]:
    """Return what was kept, each as after `-e`."""
    return _Kept.words


def flags() -> list[str]:
    """Return the flags by which a program of Ansible is given the same."""
    return [word for one in given() for word in ("--extra-vars", one)]


def parsed() -> dict[str, Any]:
    """Return what was kept as data of Python's own types, for another machine's Ansible; a template stays a text.

    Raises:
        ExtraVarsError: they are no variables.
    """
    from ansible.parsing.dataloader import DataLoader

    from trainyard.paths import ROOT  # noqa: F401 - makes the collection's imports possible

    from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan import inventory  # isort: skip

    try:
        return dict(inventory.plain(tell_ansible(DataLoader())))
    except inventory.TooLargeError as error:
        raise ExtraVarsError(f"--extra-vars: {error}") from error


def tell_ansible(loader: Any) -> Any:
    """Give Ansible's manager of variables what was kept, read by its own parser, and return it: a template stays one.

    Raises:
        ExtraVarsError: they are no variables.
    """
    from ansible import context
    from ansible.cli.arguments import option_helpers
    from ansible.errors import AnsibleError
    from ansible.utils.context_objects import CLIArgs
    from ansible.utils.vars import load_extra_vars

    parser = option_helpers.create_base_parser("trainyard")
    option_helpers.add_runtask_options(parser)
    context.CLIARGS = CLIArgs(vars(parser.parse_args(flags())))
    # It remembers the first that it was given.
    load_extra_vars.extra_vars = None
    try:
        found = load_extra_vars(loader)
    except AnsibleError as error:
        raise ExtraVarsError(f"--extra-vars: {' '.join(str(error).split())}") from error
    # Ansible keeps so what is no NAME=VALUE, and nobody reads it.
    stray = found.get("_raw_params")
    if stray:
        raise ExtraVarsError(f"--extra-vars: {stray!s:.80} is no variable: write NAME=VALUE, YAML, JSON or @FILE")
    return found
