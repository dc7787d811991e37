# SPDX-License-Identifier: Apache-2.0
"""Gives the lock of a run back that failed: Ansible runs no further task on a host that did, whoever has its lock."""

from __future__ import annotations

DOCUMENTATION = r"""
name: fleet_lock
type: aggregate
short_description: Gives the fleet's lock back where a run could not
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - A playbook that changes the fleet takes the lock of its hosts (M(trainyard.neuron.roll_lock)) and gives it back at
    its end. Where it failed, this runs the playbook C(trainyard.neuron.unlock) with the same arguments, in a process of
      its own.
  - Where that needs a password from the terminal, or does not work, it says whose lock is left and how it goes on.
requirements:
  - enabled in the configuration
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase
from ansible_collections.trainyard.neuron.plugins.plugin_utils import run_lock

UNLOCK = "trainyard.neuron.unlock"
"""The collection's own playbook: it is wherever this is, in a checkout or installed."""
TIMEOUT_S = 300.0
ASKING = ("ask_pass", "become_ask_pass", "ask_vault_pass", "start_at_task", "step")
"""Options that wait for somebody at the terminal, or leave tasks out."""


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core ships no types
    """Looks once, at the end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "trainyard.neuron.fleet_lock"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Give back what the run still has."""
        del stats
        held = [row for row in run_lock.current().all_said() if "renewed_s" in row]
        # A part of a longer run keeps it, but the last.
        if held and (run_lock.outer() is None or run_lock.OVER in os.environ):
            self._display.display(lock_message(held, given_back(context.CLIARGS, sys.argv[1:], held[0]["holder"])))


def given_back(options: Mapping[str, Any], argv: Sequence[str], holder: Mapping[str, Any]) -> bool:
    """Run the playbook that unlocks as the run itself was run; returns whether that worked.

    Args:
        options: the run's, as Ansible understood them.
        argv: the run's command line without its program.
        holder: what the hosts know the run as.
    """
    if any(options.get(name) for name in ASKING):
        return False
    environment = {name: value for name, value in os.environ.items() if name not in CALLBACKS}
    environment |= {run_lock.OUTER: f"{holder['run']}:{holder['pid']}", run_lock.OVER: "1"}
    command = [sys.executable, "-m", "ansible", "playbook", *without(argv, options.get("args") or ()), UNLOCK]
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


CALLBACKS = ("ANSIBLE_CALLBACK_PLUGINS", "ANSIBLE_CALLBACKS_ENABLED", "ANSIBLE_STDOUT_CALLBACK")
"""What listens to the run; it has ended."""


def without(argv: Sequence[str], playbooks: Sequence[str]) -> list[str]:
    """A command line without its playbooks."""
    left = list(argv)
    for name in (name for name in playbooks if name in left):
        # The last one: the same word before it would be an option's.
        left.reverse()
        left.remove(name)
        left.reverse()
    return left


def lock_message(held: Sequence[Mapping[str, Any]], given: bool) -> str:
    """What to tell about the hosts that gave this run their lock and did not get it back by themselves."""
    holder = held[0]["holder"]
    names = ", ".join(row["host"] for row in held)
    if given:
        return f"The lock of {names} is given back; of a host that does not answer it ends by itself or is taken over."
    return (
        f"This run ({holder['verb']}, run {holder['run']}) has the lock of {names} still.\n"
        "Next: mend the cause, then run the same again from here: it takes that lock over by itself. Another operator "
        f"does so with -e trainyard_take_over={holder['run']}; else it ends in {holder['lease_s'] / 3600:.1g} h."
    )
