# SPDX-License-Identifier: Apache-2.0
"""A foreign tree: taken from wherever it is, only if it is the right one, edited by line, or left as it was."""

from __future__ import annotations

import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils import patched_source
from ansible_collections.trainyard.neuron.plugins.module_utils.patched_source import SourceError


def run(argv: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    tree = tmp_path / "upstream"
    (tree / "package").mkdir(parents=True)
    (tree / "main.txt").write_text("one\ntwo\nthree\nfour\n")
    (tree / "package/part.txt").write_text("a\nb\n")
    return tree


def patch(
    name: str, lines: Any, text: str = "", was: list[str] | None = None, file: str = "main.txt"
) -> dict[str, Any]:
    edit = {"file": file, "lines": lines, "text": text, "was": patched_source.digest_of_lines(was) if was else ""}
    return {"name": name, "why": "a reason", "edits": [edit]}


def wanted(tmp_path: Path, upstream: Path, patches: list[dict[str, Any]], **more: Any) -> patched_source.Wanted:
    given = {
        "upstream_digest": patched_source.digest(upstream),
        "files": {"own.txt": "ours\n"},
        "commit": "HEAD",
        **more,
    }
    return patched_source.Wanted(path=tmp_path / "here/src", patches=patches, **given)


def test_lines_are_replaced_inserted_and_removed_by_their_number_in_the_source(tmp_path: Path, upstream: Path) -> None:
    patches = [
        patch("insert", "before 1", "zero\n"),
        patch("replace", "2-3", "TWO AND THREE\n", ["two\n", "three\n"]),
        patch("remove", 2, was=["b\n"], file="package/part.txt"),
        patch("unended", 4, "FOUR", ["four\n"]),
    ]
    try:
        wanted(tmp_path, upstream, patches).install(str(upstream), run)
    except SourceError as error:
        pytest.fail(f"patches that fit were refused: {error}")
    assert (tmp_path / "here/src/main.txt").read_text() == "zero\none\nTWO AND THREE\nFOUR\n"
    assert (tmp_path / "here/src/package/part.txt").read_text() == "a\n"
    assert (tmp_path / "here/src/own.txt").read_text() == "ours\n"


def test_the_source_is_the_same_from_a_repository_an_archive_and_a_directory(tmp_path: Path, upstream: Path) -> None:
    digest = patched_source.digest(upstream)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(upstream, arcname="project-f1d6bed")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as bundle:
        for path in patched_source.files_of(upstream):
            bundle.write(path, f"project/{path.relative_to(upstream)}")
    git = ["git", "-C", str(upstream), "-c", "user.name=t", "-c", "user.email=t@example.invalid"]
    for argv in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *argv], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    (upstream / "main.txt").write_text("a later state\n")
    subprocess.run([*git, "commit", "-qam", "second"], check=True)
    (upstream / "main.txt").write_text("a later state of the work tree\n")
    for source in ("a.tar.gz", "a.zip", "upstream"):
        patched_source.obtain(str(tmp_path / source), commit, tmp_path / f"from-{source}", run)
        assert patched_source.digest(tmp_path / f"from-{source}") == digest


@pytest.mark.parametrize(
    ("patches", "says"),
    [
        ([patch("wrong", 2, "x\n", ["not this\n"])], "patch wrong expects other text in lines 2 to 2"),
        (
            [patch("a", "1-2", "x\n", ["one\n", "two\n"]), patch("b", 2, "y\n", ["two\n"])],
            "patches a and b both change line 2",
        ),
        ([{"name": "silent", "edits": []}], "needs a name and a reason"),
        ([patch("lost", 1, "x\n", ["one\n"], file="none.txt")], "none.txt is not in the source"),
    ],
)
def test_patches_that_do_not_fit_leave_what_was_there(
    tmp_path: Path, upstream: Path, patches: list[dict[str, Any]], says: str
) -> None:
    target = tmp_path / "here/src"
    target.mkdir(parents=True)
    (target / "old").write_text("as it was")
    with pytest.raises(SourceError, match=says):
        wanted(tmp_path, upstream, patches).install(str(upstream), run)
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["src"]
    assert (target / "old").read_text() == "as it was"


def test_a_source_that_differs_in_one_byte_is_refused(tmp_path: Path, upstream: Path) -> None:
    ours = wanted(tmp_path, upstream, [])
    (upstream / "package/part.txt").write_text("a\nB\n")
    with pytest.raises(SourceError, match="not the one that the patches were made for"):
        ours.install(str(upstream), run)


def test_a_result_that_is_not_the_expected_one_is_refused(tmp_path: Path, upstream: Path) -> None:
    with pytest.raises(SourceError, match="did not give the tree that they should"):
        wanted(tmp_path, upstream, [], patched_digest="0" * 64).install(str(upstream), run)


def test_links_and_paths_that_lead_out_are_refused(tmp_path: Path, upstream: Path) -> None:
    (upstream / "link").symlink_to("/etc/passwd")
    with pytest.raises(SourceError, match="no regular file"):
        patched_source.digest(upstream)
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as bundle:
        bundle.writestr("../outside.txt", "x")
    with pytest.raises(SourceError, match="leads out by"):
        patched_source.obtain(str(tmp_path / "bad.zip"), "HEAD", tmp_path / "to", run)
    assert not (tmp_path / "outside.txt").exists()


def test_what_running_it_leaves_behind_does_not_count(upstream: Path) -> None:
    before = patched_source.digest(upstream)
    (upstream / "package/__pycache__").mkdir()
    (upstream / "package/__pycache__/part.cpython-311.pyc").write_text("x")
    (upstream / "stray.pyc").write_text("x")
    assert patched_source.digest(upstream) == before
