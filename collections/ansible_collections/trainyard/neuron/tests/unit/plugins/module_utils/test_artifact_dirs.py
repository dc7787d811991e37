# SPDX-License-Identifier: Apache-2.0
"""Which releases of replicas an artifact is kept for, as a roll leaves them on a host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils import artifact_dirs
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.releases import Releases

OLD, NEW = "ab" * 32, "cd" * 32


def stage(etc: Path, directory: str, replica: str, release: str, artifact: str) -> None:
    """Write what role vllm_endpoint stages of one replica."""
    place = etc / "releases" / directory
    place.mkdir(parents=True, exist_ok=True)
    entry = {"release": release, "artifact": artifact, "weights_path": str(etc)}
    (place / f"{replica}.json").write_text(json.dumps(entry))
    (place / f"{replica}.env").write_text(f'NEURON_COMPILED_ARTIFACTS="/data/artifacts/{artifact}"\n')
    (place / f"{replica}.conf").write_text("[Service]\n")


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    """A host whose first replica was rolled and whose second one was not yet."""
    found = Releases(tmp_path, tmp_path / "run")
    for replica, old, new in (("llama-0", "a" * 12, "b" * 12), ("llama-1", "c" * 12, "d" * 12)):
        stage(tmp_path, "one", replica, old, OLD)
        found.switch(replica, old)
        stage(tmp_path, "two", replica, new, NEW)
    found.switch("llama-0", "b" * 12)
    return found


def test_users_have_the_ids_that_status_prints_and_say_which_of_them_serve(releases: Releases) -> None:
    assert releases.current("llama-0")["release"] == "b" * 12, "what `status` prints of it"
    assert artifact_dirs.users(releases.root) == {
        OLD: ["release aaaaaaaaaaaa of llama-0 (previous)", "release cccccccccccc of llama-1 (current)"],
        NEW: ["release bbbbbbbbbbbb of llama-0 (current)", "release dddddddddddd of llama-1"],
    }


def test_one_release_in_two_directories_is_one_user(releases: Releases, tmp_path: Path) -> None:
    stage(tmp_path, "three", "llama-0", "b" * 12, NEW)
    assert artifact_dirs.users(releases.root)[NEW][0] == "release bbbbbbbbbbbb of llama-0 (current)"
    assert len(artifact_dirs.users(releases.root)[NEW]) == 2


def test_a_release_that_cannot_be_read_keeps_its_artifact(releases: Releases, tmp_path: Path) -> None:
    (tmp_path / "releases" / "one" / "llama-1.json").write_text(f'{{"artifact": "{OLD}"')
    assert "release that cannot be read of llama-1 (current)" in artifact_dirs.users(releases.root)[OLD]
