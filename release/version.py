# SPDX-License-Identifier: Apache-2.0
"""The version of what is published, from the tag: one for Python (PEP 440) and the same one for Ansible (semver)."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

#: vMAJOR.MINOR.PATCH, of a pre-release with -alpha.N, -beta.N or -rc.N behind it.
TAG = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(?:-(alpha|beta|rc)\.(\d+))?")
_STAGES = {"alpha": "a", "beta": "b", "rc": "rc"}


class VersionError(Exception):
    """What is published has no version, and why."""


@dataclass(frozen=True)
class Version:
    """One version in both spellings.

    Attributes:
        python: as PEP 440 has it, for the wheel.
        semantic: as semver has it, for the collection.
        made_at: seconds since 1970 of the commit, the date of all that is made from it.
    """

    python: str
    semantic: str
    made_at: int = 0


def version_of(tag: str, after: int, commit: str = "", dirty: bool = False, made_at: int = 0) -> Version:
    """Return the version of a commit.

    Both spellings sort alike: what comes after a release comes before the next patch, what comes after a pre-release
    before the next one.

    Args:
        tag: the last tag before it, or the version that is being worked on where there is none yet, then with `after`.
        after: commits since that tag; 0 for the tag itself.
        commit: abbreviated name of the commit.
        dirty: whether files differ from the commit.
        made_at: seconds since 1970.

    Raises:
        VersionError: the tag is no version.
    """
    found = TAG.fullmatch(tag)
    if found is None:
        raise VersionError(f"the tag {tag!r} is no version: vMAJOR.MINOR.PATCH, or with -rc.N behind it")
    major, minor, patch, stage, number = found.groups()
    python, semantic = f"{major}.{minor}.{patch}", f"{major}.{minor}.{patch}"
    if stage:
        python, semantic = f"{python}{_STAGES[stage]}{number}", f"{semantic}-{stage}.{number}"
        if after:
            python, semantic = f"{python}.post{after}", f"{semantic}.{after}"
    elif after:
        following = f"{major}.{minor}.{int(patch) + 1}"
        python, semantic = f"{following}.dev{after}", f"{following}-0.dev.{after}"
    local = [word for word in (f"g{commit}" if after and commit else "", "dirty" if dirty else "") if word]
    mark = f"+{'.'.join(local)}" if local else ""
    return Version(python + mark, semantic + mark, made_at)


def before_the_first(base: str, commits: int, commit: str, dirty: bool, made_at: int) -> Version:
    """Return the version of a commit where nothing has been released: it comes before `base`; else as `version_of`."""
    found = TAG.fullmatch(base)
    if found is None or found[4]:
        raise VersionError(f"pyproject.toml says version {base!r}: MAJOR.MINOR.PATCH is wanted")
    mark = f"+g{commit}{'.dirty' if dirty else ''}"
    return Version(f"{base}.dev{commits}{mark}", f"{base}-0.dev.{commits}{mark}", made_at)


def version_here(root: Path, base: str) -> Version:
    """Return the version of a checkout.

    Args:
        root: the checkout.
        base: the version that is being worked on, where there is no tag.

    Raises:
        VersionError: it is no checkout, or its tag is no version.
    """
    commit, made_at = _git(root, "log", "-1", "--format=%h %ct").split()
    dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    try:
        described = _git(root, "describe", "--tags", "--long", "--match", "v[0-9]*")
    except VersionError:
        commits = int(_git(root, "rev-list", "--count", "HEAD"))
        return before_the_first(base, commits, commit, dirty, int(made_at))
    tag, after, _ = described.rsplit("-", 2)
    return version_of(tag, int(after), commit, dirty, int(made_at))


def _git(root: Path, *words: str) -> str:
    run = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    if run.returncode:
        raise VersionError(f"git {words[0]} in {root}: {run.stderr.strip() or 'failed'}")
    return run.stdout.strip()
