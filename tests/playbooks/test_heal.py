# SPDX-License-Identifier: Apache-2.0
"""`heal.yml` as Ansible runs it, on the fleet of the lock's tests: hosts that serve nothing, and a given finding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.journal import Claim
from ansible_collections.trainyard.neuron.plugins.plugin_utils import history

from tests.playbooks.test_lock import Fleet, fleet

__all__ = ["fleet"]


@pytest.fixture
def folder(fleet: Fleet) -> Path:
    """The fleet's folder, with heal.yml in the place of the playbook that its tests run."""
    playbooks = fleet.folder / "playbooks"
    (playbooks / "serve.yml").write_text((playbooks / "heal.yml").read_text())
    (fleet.folder / "roles").symlink_to(Path(__file__).resolve().parents[2] / "roles")
    (playbooks / "roles").symlink_to(fleet.folder / "roles")
    return fleet.folder


def heal(fleet: Fleet, **variables: Any) -> tuple[int, str]:
    return fleet.run("ann", "-e", json.dumps(variables))


def events(folder: Path) -> list[tuple[str, str]]:
    return [(event["state"], event["action"]) for event in history.read(folder / history.NAME)]


def test_a_finding_is_acted_on_once_and_all_of_it_is_written_down(fleet: Fleet, folder: Path) -> None:
    finding = {"finding": "restart_replica", "host": "h1", "replica": "tiny-0", "alert": "ReplicaFailed"}
    code, text = heal(fleet, trainyard_finding=finding, trainyard_dry=True)
    assert code == 0, text
    assert "h1:tiny-0 (ReplicaFailed): restart replica: its unit is inactive" in text
    assert events(folder) == [("would", "restart_replica")]

    # Nothing is staged on these hosts, so the roll refuses it; a person is told, and the lock is given back.
    code, text = heal(fleet, trainyard_finding=finding)
    assert code != 0
    assert "restart_replica failed: " in text, text
    assert events(folder)[1:] == [("begun", "restart_replica"), ("failed", "restart_replica")]
    assert fleet.holders() == ["", "", ""]

    code, text = heal(fleet, trainyard_finding=finding)
    assert code == 0, text
    assert "nothing is done: restart_replica would help, and is not done: it was done 0 min ago" in text
    assert events(folder)[3:] == [("told", "nothing")]
    said = history.read(folder / history.NAME)[1]
    assert (said["who"].partition("@")[0], said["replicas"], said["deployments"]) == ("ann", ["h1:tiny-0"], ["tiny"])


def test_nothing_is_healed_during_a_roll_or_without_a_finding(fleet: Fleet, folder: Path) -> None:
    code, text = heal(fleet)
    assert code != 0
    assert "There is no host in the group monitor whose Alertmanager could be asked" in text, text
    fleet.book("h2").take(Claim("run-1", "bob@elsewhere", 7, "redeploy", "elsewhere/1/2/3"))
    finding = {"finding": "quarantine_device", "host": "h1", "device": 3}
    code, text = heal(fleet, trainyard_finding=finding)
    assert code != 0
    assert "bob@elsewhere" in text and "redeploy" in text, text
    assert events(folder) == []
