# SPDX-License-Identifier: Apache-2.0
"""The life of one role on hosts where all that comes before it is done: what Molecule's scenarios of roles verify."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import pytest

from tests.lab_plays import COMPILE, PROVISION, changed_tasks, changes
from tests.stand_in import Lab

pytestmark = pytest.mark.lab

HOSTS = ["lab-1", "lab-2"]


@dataclass(frozen=True)
class Role:
    """A role under test."""

    name: str
    playbook: str
    #: Where its results are.
    folder: str
    kind: str


ROLES = {
    role.name: role
    for role in (
        Role("model_weights", PROVISION, "/data/weights", "weights"),
        Role("model_compile", COMPILE, "/data/artifacts", "artifact"),
    )
}


@pytest.fixture(scope="module")
def role() -> Role:
    return ROLES[os.environ["TRAINYARD_ROLE"]]


@pytest.fixture(scope="module")
def lab(role: Role) -> Lab:
    return Lab(os.environ["TRAINYARD_LAB"])


def traces(lab: Lab, role: Role) -> dict[str, str]:
    """What the role left on each host: results, unit, credential, specifications."""
    paths = (
        f"{role.folder} /etc/trainyard/credentials/{role.kind}.json /etc/systemd/system/trainyard-{role.kind}@.service"
    )
    find = f"find {paths} /etc/trainyard/jobs/{role.kind}-* -type f 2>/dev/null | sort || true"
    return {host: lab.on(host, find) for host in HOSTS}


def test_check_mode_foretells_the_changed_tasks_and_touches_nothing(lab: Lab, role: Role) -> None:
    before = traces(lab, role)
    foretold = changed_tasks(lab.play(role.playbook, "--tags", role.name, "--check", "--diff"))
    assert traces(lab, role) == before
    made = changed_tasks(lab.play(role.playbook, "--tags", role.name))
    assert made == foretold
    assert {host for _task, host in made} == set(HOSTS)


def test_second_run_changes_nothing_and_check_mode_says_so(lab: Lab, role: Role) -> None:
    before = traces(lab, role)
    assert changes(lab.play(role.playbook, "--tags", role.name)) == 0
    assert changes(lab.play(role.playbook, "--tags", role.name, "--check")) == 0
    assert traces(lab, role) == before


def test_undo_is_foretold_and_leaves_no_trace(lab: Lab, role: Role) -> None:
    gone = ("--extra-vars", json.dumps({f"{role.name}_state": "absent"}))
    foretold = changed_tasks(lab.play(role.playbook, "--tags", role.name, *gone, "--check"))
    assert changed_tasks(lab.play(role.playbook, "--tags", role.name, *gone)) == foretold
    assert traces(lab, role) == dict.fromkeys(HOSTS, "")
    assert changes(lab.play(role.playbook, "--tags", role.name, *gone)) == 0
