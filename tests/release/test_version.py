# SPDX-License-Identifier: Apache-2.0
"""One version in two spellings, which sort alike."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ansible.utils.version import SemanticVersion
from packaging.version import Version as PythonVersion

from release.version import VersionError, before_the_first, version_here, version_of


@pytest.mark.parametrize(
    ("tag", "after", "python", "semantic"),
    [
        ("v1.2.3", 0, "1.2.3", "1.2.3"),
        ("v1.2.3", 4, "1.2.4.dev4+gabc1234", "1.2.4-0.dev.4+gabc1234"),
        ("v1.3.0-rc.1", 0, "1.3.0rc1", "1.3.0-rc.1"),
        ("v1.3.0-rc.1", 4, "1.3.0rc1.post4+gabc1234", "1.3.0-rc.1.4+gabc1234"),
        ("v1.3.0-alpha.2", 0, "1.3.0a2", "1.3.0-alpha.2"),
        ("v1.3.0-beta.10", 0, "1.3.0b10", "1.3.0-beta.10"),
    ],
)
def test_a_tag_says_both_spellings(tag: str, after: int, python: str, semantic: str) -> None:
    made = version_of(tag, after, "abc1234")
    assert (made.python, made.semantic) == (python, semantic)
    assert str(PythonVersion(made.python)) == made.python
    assert SemanticVersion(made.semantic).vstring == made.semantic


def test_both_spellings_sort_as_the_commits_came() -> None:
    came = [
        before_the_first("0.1.0", 9, "a", False, 0),
        before_the_first("0.1.0", 710, "a", False, 0),
        version_of("v0.1.0-alpha.1", 0),
        version_of("v0.1.0-rc.1", 0),
        version_of("v0.1.0-rc.1", 9, "a"),
        version_of("v0.1.0-rc.1", 12, "a"),
        version_of("v0.1.0-rc.2", 0),
        version_of("v0.1.0", 0),
        version_of("v0.1.0", 3, "a"),
        version_of("v0.1.1", 0),
    ]
    assert sorted(came, key=lambda one: SemanticVersion(one.semantic)) == came
    assert sorted(came, key=lambda one: PythonVersion(one.python)) == came


def test_what_differs_from_its_commit_says_so() -> None:
    assert version_of("v1.2.3", 0, "abc", dirty=True).python == "1.2.3+dirty"
    assert version_of("v1.2.3", 2, "abc", dirty=True).semantic == "1.2.4-0.dev.2+gabc.dirty"


@pytest.mark.parametrize("tag", ["1.2", "v1.2.3-", "v1.2.3-gamma.1", "vv1.2.3", "release-1", "v1.2.3-rc1", ""])
def test_a_tag_that_is_no_version_is_refused(tag: str) -> None:
    with pytest.raises(VersionError, match="is no version"):
        version_of(tag, 0)


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@example", *words], cwd=folder, check=True)


def test_a_checkout_is_asked(tmp_path: Path) -> None:
    with pytest.raises(VersionError, match=r"git log in .*"):
        version_here(tmp_path, "0.1.0")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "one")
    assert version_here(tmp_path, "0.1.0").python.startswith("0.1.0.dev1+g")
    git(tmp_path, "tag", "nightly")
    git(tmp_path, "tag", "v0.2.0-rc.1")
    assert version_here(tmp_path, "0.1.0").semantic == "0.2.0-rc.1"
    git(tmp_path, "commit", "--quiet", "--allow-empty", "-m", "two")
    assert version_here(tmp_path, "0.1.0").semantic.startswith("0.2.0-rc.1.1+g")
    (tmp_path / "file").write_text("x", encoding="utf-8")
    git(tmp_path, "add", "file")
    assert version_here(tmp_path, "0.1.0").python.endswith(".dirty")
    assert version_here(tmp_path, "0.1.0").made_at > 1_000_000_000
