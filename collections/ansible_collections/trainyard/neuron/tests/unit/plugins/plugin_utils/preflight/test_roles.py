# SPDX-License-Identifier: Apache-2.0
"""The defaults of roles are read once in a run, whatever number of workers asks for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible import constants
from ansible.parsing.dataloader import DataLoader
from ansible_collections.trainyard.neuron.plugins.plugin_utils.preflight import roles


class Counting(DataLoader):  # type: ignore[misc]  # ansible-core ships no types
    """A loader as each worker has one of its own, which says how often it was asked."""

    asked = 0

    def load_from_file(self, *arguments: Any, **more: Any) -> Any:
        Counting.asked += 1
        return super().load_from_file(*arguments, **more)


@pytest.fixture
def playbooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of playbooks with the roles beside it, in a run of its own."""
    monkeypatch.setattr(constants, "DEFAULT_LOCAL_TMP", str(tmp_path / "run"))
    monkeypatch.setattr(constants, "DEFAULT_ROLES_PATH", [])
    monkeypatch.setattr(Counting, "asked", 0)
    (tmp_path / "run").mkdir()
    for role in ("nvme_raid", "model_weights"):
        (tmp_path / "roles" / role / "defaults").mkdir(parents=True)
    (tmp_path / "roles/nvme_raid/defaults/main.yml").write_text("nvme_raid_disks: []\nnvme_raid_owner: root\n")
    (tmp_path / "roles/model_weights/defaults/main.yml").write_text("model_weights_hub_token: ''\n")
    (tmp_path / "playbooks").mkdir()
    return tmp_path / "playbooks"


def test_a_second_worker_reads_what_the_first_kept(playbooks: Path) -> None:
    wanted = {"nvme_raid_disks": [], "model_weights_hub_token": ""}
    assert roles.defaults(Counting(), str(playbooks)) == wanted
    read = Counting.asked
    assert read == 2
    assert roles.defaults(Counting(), str(playbooks)) == wanted
    assert Counting.asked == read
    kept = [path.name for path in (playbooks.parent / "run").iterdir()]
    assert len(kept) == 1, "nothing is left of the writing"
    # Roles of elsewhere are others.
    (playbooks.parent / "other").mkdir()
    assert roles.defaults(Counting(), str(playbooks.parent / "other" / "playbooks")) == {}


def test_a_template_stays_what_the_loader_made_it(playbooks: Path) -> None:
    """Written down it would be a text like any other, which Ansible does not template."""
    (playbooks.parent / "roles/model_weights/defaults/main.yml").write_text("model_weights_hub_token: '{{ mine }}'\n")
    for _worker in range(2):
        assert roles.defaults(Counting(), str(playbooks))["model_weights_hub_token"] == "{{ mine }}"
    assert Counting.asked == 4


def test_a_run_whose_directory_is_gone_reads_for_itself(playbooks: Path) -> None:
    (playbooks.parent / "run").rmdir()
    assert roles.defaults(Counting(), str(playbooks))["nvme_raid_disks"] == []
