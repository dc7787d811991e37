# SPDX-License-Identifier: Apache-2.0
"""Releases on disk: what is complete, what each replica starts from, and switching one without the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.releases import (
    ReleaseError,
    Releases,
    core_range,
)


def stage(root: Path, directory: str, **releases: str) -> None:
    """Write a release directory of a host: ``a_0="r1"`` is replica ``a-0`` at release ``r1``."""
    place = root / "etc" / "releases" / directory
    place.mkdir(parents=True)
    for key, release in releases.items():
        name = key.replace("_", "-")
        entry = {"release": release, "runtime": "venv", "argv": [str(root / "python")], "weights_path": str(root)}
        (place / f"{name}.json").write_text(json.dumps(entry))
        (place / f"{name}.env").write_text(f"TRAINYARD_RELEASE={release}\n")
        (place / f"{name}.conf").write_text("[Service]\n")


@pytest.fixture
def releases(tmp_path: Path) -> Releases:
    (tmp_path / "python").write_text("")
    stage(tmp_path, "one", a_0="r1", a_1="s1")
    return Releases(tmp_path / "etc", tmp_path / "run")


def content(releases: Releases, side: str, name: str) -> str:
    return (releases.root / side / f"{name}.env").read_text()


def test_a_replica_is_switched_alone_and_all_of_it(releases: Releases, tmp_path: Path) -> None:
    releases.switch("a-0", "r1")
    releases.switch("a-1", "s1")
    stage(tmp_path, "two", a_0="r2", a_1="s2")
    assert releases.switch("a-0", "r2")
    assert releases.current("a-0")["release"] == "r2"
    assert content(releases, "current", "a-0") == "TRAINYARD_RELEASE=r2\n"
    assert (releases.root / "current" / "a-0.conf").resolve().parent.name == "two"
    assert releases.previous("a-0")["release"] == "r1"
    assert releases.current("a-1")["release"] == "s1", "its turn has not come"
    assert releases.previous("a-1") == {}


def test_switching_to_what_is_current_changes_nothing(releases: Releases) -> None:
    assert releases.switch("a-0", "r1")
    assert not releases.switch("a-0", "r1")


def test_going_back_keeps_the_last_good_release_as_previous(releases: Releases, tmp_path: Path) -> None:
    releases.switch("a-0", "r1")
    stage(tmp_path, "two", a_0="r2")
    releases.switch("a-0", "r2")
    releases.switch("a-0", "r1", keep_previous=True)
    assert releases.current("a-0")["release"] == "r1"
    assert releases.previous("a-0")["release"] == "r1", "what failed is no release to go back to"


def test_a_release_that_lacks_something_is_not_staged(releases: Releases, tmp_path: Path) -> None:
    stage(tmp_path, "two", a_0="r2")
    assert set(releases.staged("a-0")) == {"r1", "r2"}
    (tmp_path / "etc/releases/two/a-0.env").unlink()
    assert set(releases.staged("a-0")) == {"r1"}
    with pytest.raises(ReleaseError, match="release r2 of a-0 is incomplete: its environment file is missing"):
        releases.switch("a-0", "r2")
    (tmp_path / "python").unlink()
    with pytest.raises(ReleaseError, match="python is missing"):
        releases.switch("a-0", "r1")


def test_an_unknown_release_is_refused_before_anything_moves(releases: Releases) -> None:
    releases.switch("a-0", "r1")
    with pytest.raises(ReleaseError, match=r"release r9 of a-0 is not on this host \(there: r1\)"):
        releases.switch("a-0", "r9")
    assert releases.current("a-0")["release"] == "r1"


def test_replicas_that_did_not_change_follow_to_the_newest_directory(releases: Releases, tmp_path: Path) -> None:
    releases.switch("a-0", "r1")
    releases.switch("a-1", "s1")
    stage(tmp_path, "two", a_0="r2", a_1="s1")
    releases.switch("a-0", "r2")
    assert releases.align() == ["a-1"]
    assert (releases.root / "current" / "a-1.json").resolve().parent.name == "two"
    assert releases.previous("a-1") == {}, "it has the same release as before"


def test_only_directories_that_nothing_points_into_are_removed(releases: Releases, tmp_path: Path) -> None:
    releases.switch("a-0", "r1")
    stage(tmp_path, "two", a_0="r2")
    stage(tmp_path, "three", a_0="r3")
    releases.switch("a-0", "r2")
    assert releases.prune() == ["three"]
    assert releases.previous("a-0")["release"] == "r1"


def test_cores_are_read_as_a_range() -> None:
    assert core_range({"cores": "32-63"}) == (32, 63)
    assert core_range({"cores": "5"}) == (5, 5)
    assert core_range({}) is None


def spare(root: Path, directory: str, release: str) -> None:
    """Put a spare beside the replicas of a release directory."""
    path = root / "etc" / "releases" / directory / "a-spare.json"
    entry = json.loads(path.with_name("a-0.json").read_text())
    path.write_text(json.dumps({**entry, "release": release, "spare": True, "deployment": "a"}))
    path.with_suffix(".env").write_text("")
    for other in path.parent.glob("a-[0-9].json"):
        other.write_text(json.dumps({**json.loads(other.read_text()), "deployment": "a"}))


def test_a_spare_goes_back_to_the_release_beside_that_of_the_others(releases: Releases, tmp_path: Path) -> None:
    spare(tmp_path, "one", "t1")
    assert releases.previous("a-spare") == {}
    releases.switch("a-0", "r1")
    stage(tmp_path, "two", a_0="r2")
    spare(tmp_path, "two", "t2")
    releases.switch("a-0", "r2")
    assert releases.previous("a-spare")["release"] == "t1"
    assert releases.previous("a-1") == {}, "no spare, and it was never switched"


def test_of_what_is_forgotten_no_start_takes_anything(releases: Releases, tmp_path: Path) -> None:
    releases.switch("a-0", "r1")
    stage(tmp_path, "two", a_0="r2")
    releases.switch("a-0", "r2")
    assert releases.forget("a-0")
    assert (releases.current("a-0"), releases.previous("a-0")) == ({}, {})
    assert set(releases.staged("a-0")) == {"r1", "r2"}
    assert not releases.forget("a-0")
