# SPDX-License-Identifier: Apache-2.0
"""Tells at a run's end what it waited for, when units worked beside its roles."""

from __future__ import annotations

DOCUMENTATION = r"""
name: critical_path
type: aggregate
short_description: The critical path of a run
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - At the end of a run in which units of M(trainyard.neuron.jobs) worked, prints the chain of steps that decided how
    long it took, one line a step. Units tell themselves when they worked; what a role's tasks took is measured here.
    Tasks that wait for units are no steps.
  - Hosts' clocks are brought to the controller's by what they said when they were asked.
requirements:
  - enabled in the configuration
"""

import time
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible_collections.trainyard.neuron.plugins.plugin_utils import critical_path
from ansible_collections.trainyard.neuron.plugins.plugin_utils.critical_path import Step

#: The task that waits for units.
JOBS = "trainyard.neuron.jobs"


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core ships no types
    """Collects steps while the run goes on."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "trainyard.neuron.critical_path"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._began_s = time.time()
        self._tasks: dict[tuple[str, str], float] = {}
        #: By host, in order: role, first start, last end.
        self._roles: dict[str, list[tuple[str, float, float]]] = {}
        self._units: dict[tuple[str, str], Step] = {}

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Note when a task began on a host."""
        self._tasks[host.get_name(), task._uuid] = time.time()

    def v2_runner_on_ok(self, result: Any) -> None:
        """Note what a task took, and what it says of units."""
        self._ended(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:  # noqa: ARG002
        """Note what a task took that failed."""
        self._ended(result)

    def _ended(self, outcome: Any) -> None:
        host, task, now_s = outcome.host.get_name(), outcome.task, time.time()
        began_s = self._tasks.pop((host, task._uuid), now_s)
        answer = outcome.result if isinstance(outcome.result, dict) else {}
        if task.resolved_action == JOBS and "spans" in answer:
            self._note_units(host, answer, now_s)
        elif task._role is not None:
            self._note_role(host, task._role.get_name(), began_s, now_s)

    def _note_role(self, host: str, role: str, began_s: float, ended_s: float) -> None:
        roles = self._roles.setdefault(host, [])
        if roles and roles[-1][0] == role:
            began_s = roles.pop()[1]
        roles.append((role, began_s, ended_s))

    def _note_units(self, host: str, answer: dict[str, Any], now_s: float) -> None:
        ahead_s = now_s - float(answer["now"])
        for span in answer["spans"]:
            began_s, ended_s = span["began"] + ahead_s, span["ended"] + ahead_s
            if ended_s < self._began_s:
                continue  # of an earlier run
            name = unit_name(span["kind"], span["id"])
            needs = []
            if span["weights"]:
                needs.append((host, unit_name("weights", span["weights"])))
            if span["sender"]:
                needs.append((span["sender"], name))
            self._units[host, name] = Step(host, name, max(began_s, self._began_s), ended_s, tuple(needs))

    def steps(self) -> list[Step]:
        """Return all steps of the run, in seconds of the controller's clock."""
        found = [Step(host, name, began, ended) for host, roles in self._roles.items() for name, began, ended in roles]
        return [*found, *self._units.values()]

    def v2_playbook_on_stats(self, stats: Any) -> None:  # noqa: ARG002
        """Print the critical path."""
        if self._units:
            for line in critical_path.render(self.steps()):
                self._display.display(line)


def unit_name(kind: str, identifier: str) -> str:
    """Return what a unit is called in the output."""
    return f"{kind} {identifier[:12] if kind == 'artifact' else identifier}"
