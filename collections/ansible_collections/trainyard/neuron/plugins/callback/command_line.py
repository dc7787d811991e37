# SPDX-License-Identifier: Apache-2.0
"""Refuses, before anything, a command line of which Ansible would do less than it says, and call it success."""

from __future__ import annotations

DOCUMENTATION = r"""
name: command_line
type: aggregate
short_description: Refuses a command line that cannot do what it says
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Ends a run before its first task where this ansible-core is too old, where C(--tags) names what no play, role or
    task has, where C(--skip-tags) misspells what one has, or where C(--start-at-task) would leave out the plan and the
    hosts' lock.
requirements:
  - enabled in C(callbacks_enabled)
"""

from collections.abc import Iterable, Iterator
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase
from ansible.release import __version__
from ansible_collections.trainyard.neuron.plugins.plugin_utils import command_line


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core ships no types
    """Looks at the command line once, when the playbook is read and nothing is done yet."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "trainyard.neuron.command_line"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """End the run with every reason, a line each."""
        plays = playbook.get_plays()
        given = context.CLIARGS
        reasons = command_line.refusals(
            version=__version__,
            tags=given.get("tags") or (),
            skipped=given.get("skip_tags") or (),
            known=set(_tags(plays)),
            start_at=str(given.get("start_at_task") or ""),
            plans=any(play.get_name() == "Preflight" for play in plays),
        )
        for reason in reasons:
            self._display.error(reason, wrap_text=False)
        if reasons:
            # An exception of a callback is a warning to Ansible; this is none of those.
            raise SystemExit(command_line.WRONG_OPTION)


def _tags(plays: Iterable[Any]) -> Iterator[str]:
    """Yield every tag of plays, of their roles and of their tasks, as `--list-tags` finds them."""
    for play in plays:
        yield from play.tags
        for role in play.get_roles():
            yield from role.tags
        for block in play.compile():
            yield from _of_block(block)


def _of_block(block: Any) -> Iterator[str]:
    yield from block.tags
    for item in [*block.block, *block.rescue, *block.always]:
        if hasattr(item, "rescue"):
            yield from _of_block(item)
        else:
            yield from item.tags
