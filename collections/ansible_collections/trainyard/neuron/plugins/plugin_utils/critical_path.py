# SPDX-License-Identifier: Apache-2.0
"""What a run waited for: of all steps on all hosts, the chain that ends last. Used by the callback `critical_path`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, List, Sequence, Tuple

#: A step that took a smaller share of the whole path decided nothing.
SHORT_SHARE = 0.02


@dataclass(frozen=True)
class Step:
    """Something that took time on a host: a role, or a unit that worked beside the roles."""

    host: str
    name: str
    #: Seconds of one clock for all steps.
    began: float
    ended: float
    #: (host, name) of the steps that it could not begin before.
    needs: Tuple[Tuple[str, str], ...] = ()


def critical_path(steps: Sequence[Step]) -> List[Step]:
    """Return the chain of steps that decided when the last one ended, in order of time.

    Before each step stands the last to end of those that it waited for: those that it names, on whatever host, and
    those of its own host that had ended when it began. A step that waited for none is the first.
    """
    if not steps:
        return []
    path = [max(steps, key=lambda step: (step.ended, step.host, step.name))]
    left = [step for step in steps if step is not path[0]]
    while True:
        before = [step for step in left if _precedes(step, path[0])]
        if not before:
            return path
        path.insert(0, max(before, key=lambda step: (step.ended, step.host, step.name)))
        left.remove(path[0])


def _precedes(step: Step, later: Step) -> bool:
    """Return whether `later` waited for `step`: it says so, or the step had ended on its host when it began."""
    if (step.host, step.name) in later.needs:
        return step.began < later.began and step.ended < later.ended
    return step.host == later.host and step.ended <= later.began and step.began < later.began


def overlap(steps: Iterable[Step]) -> Tuple[float, float]:
    """Return how long the steps of a host take one after the other, and how long it was at any of them, in seconds."""
    spans = sorted((step.began, step.ended) for step in steps)
    busy, until = 0.0, float("-inf")
    for began, ended in spans:
        busy += max(0.0, ended - max(began, until))
        until = max(until, ended)
    return sum(ended - began for began, ended in spans), busy


def render(steps: Sequence[Step]) -> List[str]:
    """Return the lines that tell the critical path, and how much of its last host's work went on beside other work.

    Steps that took less than `SHORT_SHARE` of the path are counted only.
    """
    path = critical_path(steps)
    if not path:
        return []
    first, last = path[0].began, path[-1]
    apart_s, busy_s = overlap(step for step in steps if step.host == last.host)
    short_s = SHORT_SHARE * (last.ended - first)
    told = [step for step in path if step.ended - step.began >= short_s] or path
    width = max(len(step.host) for step in told)
    lines = [f"critical path: {last.ended - first:.0f} s, one line a step (host, from, to, what)"]
    lines += [
        f"  {step.host:<{width}}  {step.began - first:6.1f} s  {step.ended - first:6.1f} s  {step.name}"
        for step in told
    ]
    if len(told) < len(path):
        lines.append(f"  and {len(path) - len(told)} of less than {short_s:.1f} s each")
    ratio = apart_s / busy_s if busy_s > 0 else 1.0
    lines.append(f"  {last.host}: {apart_s:.1f} s of work in {busy_s:.1f} s, {ratio:.2f} at a time")
    return lines
