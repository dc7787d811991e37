# SPDX-License-Identifier: Apache-2.0
"""Names of files that others chose: a table of tricks, properties over any text, and every reader of such names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import (
    artifact,
    bound_install,
    build,
    job,
    manifest,
    names,
    peer,
    progress,
    send,
    store,
    transfer,
    weights,
)
from hypothesis import given, settings
from hypothesis import strategies as st

TRICKS = {
    "..": "leads out",
    "../x": "leads out",
    "a/../../x": "leads out",
    "a/..": "leads out",
    "/etc/shadow": "absolute",
    "//x": "absolute",
    "a//b": "names no file",
    "a/": "names no file",
    ".": "names no file",
    "./a": "names no file",
    "a/./b": "names no file",
    "": "empty",
    "a\0b": "control",
    "a\nb": "control",
    "a\x7fb": "control",
    "a\x85b": "control",
    "a\u2028b": "control",
    "a\u202eb": "control",
    "a\ud800b": "control",
    "..\\x": "backslash",
    "a\\b": "backslash",
    "C:\\x": "backslash",
    "x" * 201: "200 are allowed",
    "\u00e9" * 101: "200 are allowed",
    "/".join(["x" * 100] * 11): "1024 are allowed",
}
GOOD = [
    "config.json",
    "model-00001-of-00004.safetensors",
    "weights/tp0_sharded_checkpoint.safetensors",
    "a/b/c",
    "..a",
    "a..",
    "...",
    ".gitattributes",
    "-x",
    "a b",
    "\u00e9",
    "x" * 200,
    "*",
    "[a]",
]


@pytest.mark.parametrize(("name", "why"), TRICKS.items())
def test_a_trick_is_refused_with_its_reason_on_one_line(tmp_path: Path, name: str, why: str) -> None:
    for call in (lambda: names.relative(name, "it"), lambda: names.inside(tmp_path, name, "it")):
        with pytest.raises(names.BadNameError, match=why) as caught:
            call()
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", [None, 1, b"a", ["a"], True])
def test_what_is_no_text_is_no_name(value: object) -> None:
    with pytest.raises(names.BadNameError, match="it is no text"):
        names.relative(value, "it")


@pytest.mark.parametrize("name", GOOD)
def test_a_name_that_checkpoints_have_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    assert names.inside(tmp_path, name, "it") == tmp_path / name


PARTS = st.sampled_from(["..", ".", "", "a", "b", "/", "\\", "\0", "link", "out", "\u202e", "..a", "\n"]) | st.text(
    max_size=8
)


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(PARTS, max_size=6), between=st.sampled_from(["/", "//", "\\", ""]))
def test_whatever_the_text_a_path_that_is_given_is_below_its_directory(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], between: str
) -> None:
    top = tmp_path_factory.mktemp("top", numbered=True)
    root = top / "root"
    (root / "a").mkdir(parents=True)
    (root / "link").symlink_to("a")
    (root / "out").symlink_to(top)
    name = between.join(parts)
    try:
        path = names.inside(root, name, "it")
    except names.BadNameError as error:
        assert str(error).isprintable()
        return
    real = os.path.realpath(path)
    assert real.startswith(f"{root}/")
    assert str(path) == f"{root}/{name}"


@pytest.mark.parametrize("kind", ["file", "folder", "absent"])
def test_a_link_that_leads_out_is_refused_whatever_it_leads_to(tmp_path: Path, kind: str) -> None:
    root, target = tmp_path / "root", tmp_path / "target"
    root.mkdir()
    if kind == "folder":
        target.mkdir()
    elif kind == "file":
        target.write_text("x")
    (root / "link").symlink_to(target)
    name = "link/x" if kind == "folder" else "link"
    with pytest.raises(names.BadNameError, match="a link takes it to"):
        names.inside(root, name, "it")
    with pytest.raises(names.BadNameError, match="a link takes it to"):
        names.inside(root, "link", "it")


def test_a_directory_whose_name_another_s_begins_with_is_not_that_other(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root2").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "root2")
    with pytest.raises(names.BadNameError, match="a link takes it to"):
        names.inside(tmp_path / "root", "link/x", "it")


def entry(path: object, size: object = 1) -> dict[str, Any]:
    return {"path": path, "size": size}


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([entry("a"), entry("a")], "'a': it is there twice"),
        ([entry("a"), entry("a/b")], "'a': it is a file and a folder"),
        ([entry("a", -1)], "its size is -1"),
        ([entry("a", "1")], "its size is '1'"),
        ([entry("a", True)], "its size is True"),
        ([entry("a", 1.5)], "its size is 1.5"),
    ],
)
def test_files_that_cannot_lie_together_are_refused(entries: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(names.BadNameError, match="it lists files that are refused") as caught:
        names.listing(entries, "it")
    assert why in str(caught.value)


def test_every_wrong_name_of_a_list_is_told_at_once() -> None:
    with pytest.raises(names.BadNameError) as caught:
        names.listing([entry("../a"), entry("/b"), entry("ok")], "it")
    assert "'../a'" in str(caught.value)
    assert "'/b'" in str(caught.value)


class Listed:
    """A source that lists what a stranger wrote, and would write it."""

    name = "s3://bucket/m"

    def __init__(self, *paths: str) -> None:
        self.paths = paths

    def expected(self) -> list[dict[str, Any]]:
        return [entry(path) for path in self.paths]

    def fetch(self, staging: Path, expected: list[dict[str, Any]]) -> None:
        for wanted in expected:
            (staging / wanted["path"]).parent.mkdir(parents=True, exist_ok=True)
            (staging / wanted["path"]).write_text("x")

    def forget(self, staging: Path, name: str) -> None:
        (staging / name).unlink()


@pytest.fixture
def report(tmp_path: Path) -> progress.Progress:
    return progress.Progress(tmp_path / "run" / "report.json")


@pytest.mark.parametrize("name", [*(trick for trick in TRICKS if trick), "manifest.json", ".cache/x", ".locks/x"])
def test_another_model_s_weights_stay_whatever_a_source_lists(
    tmp_path: Path, report: progress.Progress, name: str
) -> None:
    other = tmp_path / "weights" / "x"
    other.parent.mkdir()
    other.write_text("another model")
    staging = tmp_path / "weights" / ".mine.partial"
    with pytest.raises((job.JobError, OSError)) as caught:
        transfer.bring(Listed("config.json", name), staging, "mine", report)
    assert isinstance(caught.value, job.JobError), "it got as far as the disk"
    assert caught.value.left == "nothing was fetched, written or removed"
    assert other.read_text() == "another model"
    assert sorted(path.name for path in other.parent.iterdir()) == ["x"]


def test_a_link_in_a_half_made_directory_is_not_written_through(tmp_path: Path, report: progress.Progress) -> None:
    (tmp_path / "outside").mkdir()
    staging = tmp_path / ".mine.partial"
    staging.mkdir()
    (staging / "folder").symlink_to(tmp_path / "outside")
    for call in (
        lambda: transfer.lacks(staging, entry("folder/x")),
        lambda: store.PathStore(str(tmp_path)).get(".mine.partial", "folder/x", tmp_path / "t", lambda _count: None),
        lambda: artifact.StoreSource(store.PathStore(str(tmp_path)), "d", {}).forget(staging, "folder/x"),
        lambda: weights.PathSource({"inputs": {"uri": str(tmp_path)}}).forget(staging, "folder/x"),
    ):
        with pytest.raises(names.BadNameError, match="a link takes it to"):
            call()


def test_a_sender_opens_no_file_that_a_link_leads_to(tmp_path: Path) -> None:
    root = tmp_path / "result"
    root.mkdir()
    (root / "a").write_text("a")
    described = manifest.build(root, "weights", "x", {}, {})
    manifest.write_atomically(root / manifest.NAME, manifest.dump(described))
    (root / "a").unlink()
    (root / "a").symlink_to("/etc/hostname")
    with (tmp_path / "got").open("wb") as target, pytest.raises(names.BadNameError, match="a link takes it to"):
        send.send(root, 0, 0, target)


@pytest.mark.parametrize("ahead", [None, "x", -1, True, [1]])
def test_a_sender_s_status_is_read_with_care(tmp_path: Path, report: progress.Progress, ahead: object) -> None:
    (tmp_path / "a").write_text("a")
    described = manifest.build(tmp_path, "weights", "x", {}, {})
    spec = {"sender": {"host": "h", "address": "a"}, "inputs": {}, "kind": "weights", "id": "x"}
    receiver = peer.Peer(spec, report, tmp_path)
    assert receiver._complete({"manifest": described, "ahead": 2}) == (described, 2)
    with pytest.raises(peer.PeerError, match="receivers are before this"):
        receiver._complete({"manifest": described, "ahead": ahead})
    with pytest.raises(peer.PeerError, match="not a manifest"):
        receiver._complete({"manifest": "x", "ahead": 0})


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    root = tmp_path / "hub" / "models--a--b" / "snapshots" / "rev"
    root.mkdir(parents=True)
    (tmp_path / "hub" / "models--a--b" / "blobs").mkdir()
    (tmp_path / "secret").write_text("root only")
    return root


def listed(root: Path) -> list[str]:
    return [found["path"] for found in weights.PathSource({"inputs": {"uri": str(root), "exclude": []}}).expected()]


def test_a_hub_s_cache_and_links_that_stay_are_read(shared: Path) -> None:
    (shared.parent.parent / "blobs" / "sum").write_text("{}")
    (shared / "model.safetensors").symlink_to("../../blobs/sum")
    (shared / "again.json").symlink_to("model.safetensors")
    assert listed(shared) == ["again.json", "model.safetensors"]


@pytest.mark.parametrize("to", ["../../../../secret", "/etc/hostname", "..", ".", "../../blobs/../../../secret"])
def test_no_link_of_a_shared_directory_has_root_copy_another_file(shared: Path, to: str) -> None:
    (shared / "model.safetensors").symlink_to(to)
    with pytest.raises(job.JobError, match=r"'model\.safetensors' is (a link to|no regular file)"):
        listed(shared)


def test_a_pipe_in_a_shared_directory_holds_nobody_up(shared: Path) -> None:
    os.mkfifo(shared / "model.safetensors")
    with pytest.raises(job.JobError, match="no regular file"):
        listed(shared)


def test_a_requirements_file_that_a_link_takes_elsewhere_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "outside.txt").write_text("evil\n")
    checkout = tmp_path / "source"
    checkout.mkdir()
    (checkout / "neuron.txt").symlink_to("../outside.txt")
    inputs = {"repo": "a/b", "ref": "main", "commit": "0" * 40, "requirements": "neuron.txt", "venv": "/v"}
    with pytest.raises(job.JobError, match="a link takes it to"):
        build.requirements_of(checkout, inputs)


@pytest.mark.parametrize(
    ("name", "version", "url"),
    [
        ("torch\n--index-url=https://evil", "1", "https://index/torch-1.whl"),
        ("torch", "1\nevil", "https://index/torch-1.whl"),
        ("torch", "1", "https://index/torch-1.whl\nevil @ https://evil/x.whl"),
        ("torch", "1", "https://index/torch-1.whl --global-option=x"),
        ("torch", "1", "https://index/..%2f..%2ftorch-1.whl"),
        ("torch", "1", "https://index/.."),
        ("torch", "1", "https://index/a%5cb.whl"),
        ("torch", "1", "https://index/a%00b.whl"),
        ("-r", "1", "https://index/torch-1.whl"),
        ("torch", "1", None),
    ],
)
def test_an_index_writes_no_line_of_its_own_into_the_requirements(name: str, version: str, url: str) -> None:
    document = {
        "metadata": {"name": name, "version": version},
        "download_info": {"url": url, "archive_info": {"hashes": {"sha256": "0" * 64}}},
    }
    with pytest.raises(bound_install.BindingError):
        bound_install._resolved(document)
