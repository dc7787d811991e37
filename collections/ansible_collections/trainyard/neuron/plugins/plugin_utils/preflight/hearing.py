# SPDX-License-Identifier: Apache-2.0
"""The answers of all hosts together: what ends the run, and what is only said."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError, Problem
from ansible_collections.trainyard.neuron.plugins.plugin_utils.preflight.judge import NETWORK

#: The variable by which a run goes on without the hosts that do not answer.
AS_FAR = "trainyard_as_far_as_possible"

#: Of hosts that were left out so many are named.
NAMED = 8


class PreflightError(PlanError):
    """The run would fail; `problems` holds what of the plan and what of the hosts."""

    def head(self) -> str:
        """Return the first line."""
        count = len(self.problems)
        return f"preflight found {count} problem{'' if count == 1 else 's'}; nothing was changed"


@dataclass(frozen=True)
class Heard:
    """What the hosts answered.

    Attributes:
        problems: of hosts and of the controller.
        warnings: a sentence each.
    """

    problems: list[Problem]
    warnings: list[str]


def heard(
    reports: Mapping[str, Any],
    everybody: Sequence[str],
    asked: Sequence[str],
    as_far_as_possible: bool,
    results_dir: str = "",
) -> Heard:
    """Return what hosts answered to `trainyard.neuron.topology_info`.

    Args:
        reports: what hosts answered, by host.
        everybody: every host of the fleet.
        asked: those that this run asks; the others are beyond its --limit.
        as_far_as_possible: whether hosts that gave no answer are left behind.
        results_dir: where reports will be written on the controller; empty where none will.
    """
    problems: list[Problem] = []
    warnings: list[str] = []
    for name in everybody:
        result = reports.get(name) if name in asked else None
        if not isinstance(result, Mapping):
            continue
        found = [Problem(**{str(key): row[key] for key in row}) for row in result.get("problems") or ()]
        if as_far_as_possible and result.get("asked") is False:
            warnings += [f"{one.host} is left behind: it {one.rule}" for one in found]
        else:
            problems += found
    problems = [one for one in problems if not _of_silent(one, everybody, reports, asked)]
    beyond = [name for name in everybody if name not in asked]
    if beyond:
        more = f" and {len(beyond) - NAMED} more" if len(beyond) > NAMED else ""
        warnings.append(
            f"--limit: {len(beyond)} of {len(everybody)} hosts were not asked, and are planned by the inventory: "
            f"{', '.join(beyond[:NAMED])}{more}"
        )
    return Heard([*problems, *_controller(results_dir)], warnings)


def _of_silent(problem: Problem, everybody: Sequence[str], reports: Mapping[str, Any], asked: Sequence[str]) -> bool:
    """Return whether a problem is the way to a host that gave no answer itself, or was not asked."""
    for name in everybody if problem.variable == NETWORK else ():
        silent = name not in asked or (reports.get(name) or {}).get("asked") is False
        if silent and problem.rule.startswith((f"replica {name}:", f"{name}: ")):
            return True
    return False


def _controller(results_dir: str) -> list[Problem]:
    """Return what the last stage would meet on the controller: a place for reports that cannot be written."""
    if not results_dir:
        return []
    path = Path(results_dir)
    while not path.exists() and path != path.parent:
        path = path.parent
    if path.is_dir() and os.access(path, os.W_OK | os.X_OK):
        return []
    rule = f"cannot be written by this user on the controller ({path})"
    return [Problem("", "trainyard_results_dir", results_dir, rule, "name a directory that can")]
