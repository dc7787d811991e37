# SPDX-License-Identifier: Apache-2.0
"""What of a command line of ansible-playbook cannot do what it says."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import did_you_mean

#: The oldest ansible-core that this is tested with; 2.18 and older print nothing of a run, and template otherwise.
OLDEST = (2, 19)

#: As ansible-playbook ends for an option that is wrong.
WRONG_OPTION = 2

#: Tags that Ansible itself knows.
ANSIBLES = frozenset({"all", "always", "never", "tagged", "untagged"})


def too_old(version: str) -> str:
    """Return why nothing runs on a version of ansible-core, empty of one that is tested or newer."""
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) >= OLDEST:
        return ""
    return (
        f"ansible-core {version} is too old: trainyard needs {OLDEST[0]}.{OLDEST[1]} or newer. "
        "`make venv` installs one that is tested"
    )


def refusals(
    version: str, tags: Iterable[str], skipped: Iterable[str], known: Collection[str], start_at: str, plans: bool
) -> list[str]:
    """Return why a run is not to begin, a line each.

    Args:
        version: of ansible-core.
        tags: of `--tags`.
        skipped: of `--skip-tags`; one that is like no tag of the playbook is there for another playbook.
        known: every tag of the playbook.
        start_at: task of `--start-at-task`, empty for none.
        plans: whether the playbook begins with a plan.
    """
    found = [one for one in [too_old(version)] if one]
    for tag in sorted(set(tags) - ANSIBLES - set(known)):
        others = ", ".join(sorted(set(known) - ANSIBLES)) or "none"
        found.append(
            f"no play, role or task has the tag {tag!r}, so nothing would be done: "
            f"{did_you_mean(tag, known) or 'there are ' + others}"
        )
    for tag in sorted(set(skipped) - ANSIBLES - set(known)):
        near = did_you_mean(tag, known)
        if near:
            found.append(f"no play, role or task has the tag {tag!r}, so nothing would be left out: {near}")
    if start_at and plans:
        found.append(
            f"--start-at-task {start_at!r} would leave out the plan and the hosts' lock, which all else needs: "
            "run a stage's own playbook (playbooks/serve.yml), or --tags; what is done already costs seconds"
        )
    return found
