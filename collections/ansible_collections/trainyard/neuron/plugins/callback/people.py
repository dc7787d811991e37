# SPDX-License-Identifier: Apache-2.0
"""The output of a run for people: stages, what changed where, what failed and why, and the warnings once at the end."""

from __future__ import annotations

DOCUMENTATION = r"""
name: people
type: stdout
short_description: A run that one can watch
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Prints each stage of a run with the time that it took, under it the tasks that changed something and what they
    changed, a failure with its message as it was written, and how far long work is. A task that found everything as it
    should be prints nothing. Warnings are printed once, at the end, with the hosts that gave them.
  - With C(-v) and more it prints what C(ansible.builtin.default) prints.
  - C(ANSIBLE_STDOUT_CALLBACK=ansible.builtin.default) turns it off.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
requirements:
  - set as stdout_callback in the configuration
"""

import time
from typing import Any

from ansible import constants
from ansible.plugins.callback.default import CallbackModule as Default
from ansible_collections.trainyard.neuron.plugins.plugin_utils import screen


class CallbackModule(Default):  # type: ignore[misc]  # ansible-core ships no types
    """Says what happened in each stage; the recap at the end is Ansible's own."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "trainyard.neuron.people"

    def __init__(self) -> None:
        super().__init__()
        self._stage = ""
        self._check = False
        self._began_s = time.monotonic()
        self._run_began_s = self._began_s
        self._told = False
        self._changed: dict[str, int] = {}
        self._failed: list[str] = []
        self._warned: dict[str, list[str]] = {}

    @property
    def _plain(self) -> bool:
        """Whether everything is asked for, as Ansible prints it."""
        return bool(self._display.verbosity)

    # Stages

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Say nothing: the first stage speaks for itself."""
        if self._plain:
            super().v2_playbook_on_start(playbook)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """End the stage before, and remember the new one; its name is printed when it has something to say."""
        if self._plain:
            super().v2_playbook_on_play_start(play)
            return
        self._end_stage()
        self._play = play
        self._stage = play.get_name().strip()
        self._check = bool(play.check_mode)
        self._began_s = time.monotonic()

    def _head(self) -> None:
        """Print the stage's name, once."""
        if not self._told:
            self._told = True
            self._display.display(
                self._stage + (" (check: nothing is changed)" if self._check else ""), color="bright blue"
            )

    def _end_stage(self) -> None:
        if self._told:
            seconds = time.monotonic() - self._began_s
            text = screen.summary(self._changed, self._failed, seconds, self._check)
            color = constants.COLOR_ERROR if self._failed else constants.COLOR_OK
            self._display.display(f"  {text}", color=color)
        self._told, self._changed, self._failed = False, {}, []

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Say which stage had no host: it may be one that is left out, or a group that is misspelt."""
        if self._plain:
            super().v2_playbook_on_no_hosts_matched()
        else:
            self._display.display(f"{self._stage}: no host in this run", color="bright blue")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """End the last stage, print the warnings, and Ansible's own recap."""
        if not self._plain:
            self._end_stage()
            for line in ["", *screen.warnings(self._warned)] if self._warned else []:
                self._display.display(line, color=constants.COLOR_WARN if line else None)
            self._display.display(f"\nThe run took {screen.duration(time.monotonic() - self._run_began_s)}.")
        super().v2_playbook_on_stats(stats)

    # Tasks

    def _print_task_banner(self, task: Any) -> None:
        """Print the name of a task: here each line about a task has it."""
        if self._plain:
            super()._print_task_banner(task)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        """Say nothing of how a role is divided into files."""
        if self._plain:
            super().v2_playbook_on_include(included_file)

    def v2_runner_on_async_poll(self, result: Any) -> None:
        """Say nothing: what is waited for says itself how far it is."""
        if self._plain:
            super().v2_runner_on_async_poll(result)

    def v2_runner_on_async_ok(self, result: Any) -> None:
        """Say nothing: the task's result follows."""
        if self._plain:
            super().v2_runner_on_async_ok(result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Say nothing of what was not done."""
        if self._plain:
            super().v2_runner_on_skipped(result)

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        """Say nothing of what was not done."""
        if self._plain:
            super().v2_runner_item_on_skipped(result)

    def v2_runner_on_ok(self, result: Any) -> None:
        """Say what changed, and what a task was made to say."""
        if self._plain:
            super().v2_runner_on_ok(result)
            return
        outcome, task = result.result, result.task
        self._head()
        self._collect(result)
        if task.loop and "results" in outcome:
            return  # its items were told one by one
        self._tell_change(result, "")

    def v2_runner_item_on_ok(self, result: Any) -> None:
        """Say what changed for one item of a loop."""
        if self._plain:
            super().v2_runner_item_on_ok(result)
            return
        self._head()
        self._collect(result)
        label = self._get_item_label(result.result)
        self._tell_change(result, f" ({label})" if isinstance(label, str) else "")

    def _tell_change(self, result: Any, label: str) -> None:
        outcome, host = result.result, self.host_label(result)
        if outcome.get("changed"):
            self._changed[host] = self._changed.get(host, 0) + 1
            verb = "would change" if self._check else "changed"
            text = f"  {host}  {verb}  {screen.task_name(result.task.get_name())}{label}"
            what = screen.changes(outcome, self._display.columns - len(text) - len(": "))
            self._display.display(text + (f": {what}" if what else ""), color=constants.COLOR_CHANGED)
        elif outcome.get("_ansible_verbose_always") and "msg" in outcome:
            for line in screen.lines_of(outcome["msg"]):
                self._display.display(f"  {line}")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Say which task failed where, and its message as it was written."""
        if self._plain:
            super().v2_runner_on_failed(result, ignore_errors)
            return
        outcome = result.result
        self._head()
        self._collect(result)
        if not ignore_errors:
            self._failed.append(self.host_label(result))
        if result.task.loop and "results" in outcome:
            return
        self._tell_failure(result, "failed, and it goes on" if ignore_errors else "FAILED", "")

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """Say for which item a task failed, and why."""
        if self._plain:
            super().v2_runner_item_on_failed(result)
            return
        self._head()
        self._collect(result)
        self._tell_failure(result, "FAILED", f" ({self._get_item_label(result.result)})")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Say which host was not reached, and why."""
        if self._plain:
            super().v2_runner_on_unreachable(result)
            return
        self._head()
        self._collect(result)
        self._failed.append(self.host_label(result))
        self._tell_failure(result, "NOT REACHED", "")

    def _tell_failure(self, result: Any, verb: str, label: str) -> None:
        name = screen.task_name(result.task.get_name())
        color = constants.COLOR_ERROR
        self._display.display(f"  {self.host_label(result)}  {verb}  {name}{label}", color=color)
        for line in screen.message_of(result.result):
            self._display.display(f"    {line}", color=color)

    def _collect(self, result: Any) -> None:
        """Keep the warnings of a result for the end."""
        for warning in result.result.pop("warnings", None) or []:
            hosts = self._warned.setdefault(str(warning), [])
            hosts.append(self.host_label(result))
        self._handle_warnings(result.result)
