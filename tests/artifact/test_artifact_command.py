# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import datetime
from typing import Any

import pytest

from trainyard import artifact_command
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


def test_artifact_that_does_not_say_when_it_was_made_counts_as_new() -> None:
    assert artifact_command.unused({"a": Artifact("a")}, 7.0, NOW) == []


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
