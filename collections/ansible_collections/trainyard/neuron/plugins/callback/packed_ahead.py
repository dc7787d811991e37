# SPDX-License-Identifier: Apache-2.0
"""Packs the modules of a run while its first hosts are still asked: a process beside it, which nobody waits for.

Ansible packs a module with all that it imports when it first runs, a quarter of a second of the controller's each, and
every task waits for its own. A worker that comes for one that is being packed waits for Ansible's own lock of it, and
packs by itself whatever is not there: nothing depends on this process.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: packed_ahead
type: aggregate
short_description: Modules of a run that are packed before their tasks come
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Packs the modules of this collection that a playbook's tasks name, in the order of the tasks and only those whose
    tags are asked for, in a process of its own that begins with the run.
  - Saves a quarter of a second for each module where the controller has a second processor, and changes nothing of
    what is sent.
requirements:
  - enabled in the configuration
"""

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from typing import Any

from ansible import constants, context
from ansible.errors import AnsibleError
from ansible.plugins.callback import CallbackBase

OURS = "trainyard.neuron."


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core ships no types
    """Begins with the run, and ends with it at the latest."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "trainyard.neuron.packed_ahead"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Start the process that packs."""
        beside = multiprocessing.get_context("fork").Process(target=_pack, args=(playbook,), daemon=True)
        beside.start()


def _pack(playbook: Any) -> None:
    """Pack what a playbook's tasks will send, and say nothing: each worker packs what is not there."""
    silent = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(silent, number)
    for name in dict.fromkeys(named(playbook.get_plays())):
        _pack_one(name)


def named(plays: Iterable[Any]) -> Iterator[str]:
    """Yield the modules of this collection that the tasks of plays name, where their tags are asked for.

    What a run only includes when it comes there is not known yet.
    """
    only, skip = context.CLIARGS.get("tags") or ("all",), context.CLIARGS.get("skip_tags") or ()
    for play in plays:
        roles = [block for role in play.get_roles() for block in _blocks_of(role)]
        for task in _tasks([*play.pre_tasks, *roles, *play.tasks, *play.post_tasks]):
            if str(task.action).startswith(OURS) and task.evaluate_tags(only, skip, {}):
                yield str(task.action)


def _blocks_of(role: Any) -> Iterator[Any]:
    for needed in role.get_all_dependencies():
        yield from needed.get_task_blocks()
    yield from role.get_task_blocks()


def _tasks(blocks: Iterable[Any]) -> Iterator[Any]:
    for one in blocks:
        if hasattr(one, "block"):
            yield from _tasks([*one.block, *one.rescue, *one.always])
        else:
            yield one


def _pack_one(name: str) -> None:
    """Have Ansible pack a module as it does before it sends it: into the run's own directory, under its own lock."""
    from ansible.executor.module_common import modify_module
    from ansible.parsing.dataloader import DataLoader
    from ansible.plugins.loader import module_loader
    from ansible.template import Templar

    path = module_loader.find_plugin_with_context(name, ".py").plugin_resolved_path
    if not path:
        return
    # Where an action plugin does all the work, the module's file is its documentation, of which Ansible keeps nothing.
    try:
        modify_module(
            module_name=name,
            module_path=path,
            module_args={},
            templar=Templar(loader=DataLoader()),
            # No host's Python is looked for; what is kept has none of it.
            task_vars={"ansible_python_interpreter": "/usr/bin/python3"},
            module_compression=constants.config.get_config_value("DEFAULT_MODULE_COMPRESSION"),
        )
    except (AnsibleError, OSError, TypeError):
        return  # another ansible-core, or the run is over
