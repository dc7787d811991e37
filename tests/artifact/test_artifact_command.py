# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from trainyard import artifact_command  # isort: skip - makes the collection importable

from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import manifest, store

from trainyard.artifact_command import Artifact, ArtifactError, Fleet

NOW = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)
OLD, YOUNG = "2026-11-01T00:00:00Z", "2026-11-21T00:00:00Z"


class Store:
    """A store that notes what is removed from it."""

    def __init__(self) -> None:
        self.removed: list[str] = []

    def remove(self, digest: str) -> None:
        self.removed.append(digest)


@pytest.fixture
def shared() -> Store:
    return Store()


@pytest.fixture
def fleet(shared: Store, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    made = Fleet("s3://fleet/a", "", {}, "/data/artifacts", {}, ["inventory"])
    monkeypatch.setattr(Fleet, "open_store", lambda _self: shared)
    return made


def artifact(digest: str, finished: str = OLD, **more: Any) -> Artifact:
    return Artifact(digest, made={"finished": finished}, places=["store", "h1"], **more)


def test_only_what_nothing_needs_and_is_old_enough_goes() -> None:
    found = {
        entry.digest: entry
        for entry in (artifact("a"), artifact("b", YOUNG), artifact("c", used_by=["tiny-llama"]), artifact("d"))
    }
    assert [entry.digest for entry in artifact_command.unused(found, 7.0, NOW)] == ["a", "d"]
    assert [entry.digest for entry in artifact_command.unused(found, 0.0, NOW)] == ["a", "b", "d"]


@pytest.mark.parametrize("made", [{}, {"finished": 7}, {"finished": "yesterday"}, {"finished": "2020-01-01T00:00:00"}])
def test_artifact_that_does_not_say_when_it_was_made_counts_as_new(made: dict[str, Any]) -> None:
    assert artifact_command.unused({"a": Artifact("a", made=made)}, 7.0, NOW) == []


def test_one_in_use_stops_the_removal_of_all(fleet: Fleet, shared: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(artifact_command, "ask_hosts", lambda *_, **arguments: asked.append(arguments) or {})
    with pytest.raises(ArtifactError, match="b is used by h1: release 0123"):
        artifact_command.remove(fleet, [artifact("a"), artifact("b", used_by=["h1: release 0123"])])
    assert (asked, shared.removed) == ([], [])


def test_store_keeps_what_a_host_refuses_to_give_up(
    fleet: Fleet, shared: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> dict[str, Any]:
        raise ArtifactError("h1: a is used by 0123 (current)")

    monkeypatch.setattr(artifact_command, "ask_hosts", refuse)
    with pytest.raises(ArtifactError, match="current"):
        artifact_command.remove(fleet, [artifact("a")])
    assert shared.removed == []


def test_removal_reaches_hosts_and_store(fleet: Fleet, shared: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(artifact_command, "ask_hosts", lambda *_, **arguments: asked.append(arguments) or {})
    artifact_command.remove(fleet, [artifact("a"), Artifact("b", places=["h1"])])
    assert asked == [{"remove": ["a", "b"]}]
    assert shared.removed == ["a"]


@pytest.mark.parametrize(("prefix", "fits"), [("ab", "ab1, ab2"), ("zz", "none")])
def test_beginning_of_a_digest_must_fit_one(prefix: str, fits: str) -> None:
    found = {digest: Artifact(digest) for digest in ("ab1", "ab2", "cd1")}
    with pytest.raises(ArtifactError, match=f"it fits {fits}"):
        artifact_command.chosen(found, [prefix])
    assert [entry.digest for entry in artifact_command.chosen(found, ["cd", "ab2"])] == ["cd1", "ab2"]


def test_artifact_says_what_it_was_made_for() -> None:
    inputs = {"weights": {"repo": "a/b"}, "sdk": {"release": "2.23.0"}, "settings": {"tp_degree": 32, "batch_size": 4}}
    made = Artifact("a", inputs=inputs)
    assert (made.model, made.what) == ("a/b", "SDK 2.23.0, TP 32, batch 4")


def test_one_broken_manifest_of_the_store_hides_no_other_artifact(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = "ab" * 32, "cd" * 32
    made = tmp_path / "made"
    made.mkdir()
    (made / "model.pt").write_bytes(b"x")
    shared = store.PathStore(str(tmp_path))
    shared.put(whole, made, manifest.build(made, "artifact", whole, {}, {}), lambda _count: None)
    (tmp_path / broken).mkdir()
    (tmp_path / broken / "manifest.json").write_bytes(bytes(100))
    monkeypatch.setattr(Fleet, "open_store", lambda _self: shared)
    monkeypatch.setattr(artifact_command, "ask_hosts", lambda *_, **__: {})
    found = artifact_command.survey(fleet, verify=True)
    assert found[whole].problems == []
    assert "manifest.json: not a manifest" in found[broken].problems[0]
    assert artifact_command.unused(found, 7.0, NOW) == []
    (tmp_path / whole / "model.pt").unlink()
    assert "model.pt: cannot be read" in artifact_command.survey(fleet, verify=True)[whole].problems[0]
