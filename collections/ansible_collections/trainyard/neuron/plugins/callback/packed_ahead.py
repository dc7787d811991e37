# SPDX-License-Identifier: Apache-2.0
"""Packs the modules of a run while its first hosts are still asked: a process beside it, which nobody waits for.

Ansible packs a module with all that it imports when it first runs, a quarter of a second of the controller's each, and
every task waits for its own. What a user's earlier runs packed of the same files is brought back instead. A worker that
comes for a module that is being packed waits for Ansible's own lock of it, and packs by itself whatever is not there:
nothing depends on this process.
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
  - Keeps what was packed for the user's next runs, under C($XDG_CACHE_HOME/trainyard/modules) and by a digest of every
    file that it was packed of; what another user could have written there is not read.
  - Saves a quarter of a second for each module, and changes nothing of what is sent.
requirements:
  - enabled in the configuration
"""

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible import constants, context
from ansible.errors import AnsibleError
from ansible.plugins.callback import CallbackBase
from ansible.release import __version__
from ansible_collections.trainyard.neuron.plugins.plugin_utils import kept_modules

OURS = "trainyard.neuron."


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core ships no types
    """Begins with the run, and ends with it at the latest."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "trainyard.neuron.packed_ahead"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._kept: tuple[Path, str] | None = None

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Bring what earlier runs packed of the same files, and start the process that packs the rest."""
        with contextlib.suppress(OSError):
            self._kept = _kept()
            if self._kept:
                kept_modules.bring(*self._kept, _run())
        beside = multiprocessing.get_context("fork").Process(target=_pack, args=(playbook,), daemon=True)
        beside.start()

    def v2_playbook_on_stats(self, _stats: Any) -> None:
        """Keep what this run packed, for the next one."""
        with contextlib.suppress(OSError):
            if self._kept:
                kept_modules.keep(*self._kept, _run())


def _run() -> Path:
    """Return where Ansible looks for a packed module before it packs one: the run's own directory."""
    return Path(constants.DEFAULT_LOCAL_TMP, "ansiballz_cache")


def _kept() -> tuple[Path, str] | None:
    """Return where packed modules are kept, and the digest of all that this run's would be packed of."""
    base = kept_modules.place()
    if base is None:
        return None
    plugins = Path(__file__).resolve().parents[1]
    ours = [plugins / "modules", plugins / "module_utils"]
    words = [__version__, sys.version, _compression()]
    return base, kept_modules.digest(words, [*ours, Path(ansible.module_utils.__path__[0])])


def _compression() -> str:
    return str(constants.config.get_config_value("DEFAULT_MODULE_COMPRESSION"))


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
            module_compression=_compression(),
        )
    except (AnsibleError, OSError, TypeError):
        return  # another ansible-core, or the run is over
