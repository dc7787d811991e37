# SPDX-License-Identifier: Apache-2.0
"""The wheel of the `trainyard` command, with what a checkout has beside it: collection, recipes, schemas, lab."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from release.tree import copy, links_followed, tracked
from release.version import Version

#: What the command finds of the tree (src/trainyard/paths.py); the collection comes as it is published.
BESIDE = ("inventory", "docs/schemas", "lab", "sweeps", "ansible.cfg", "requirements.yml")
PROJECT = "src/trainyard/project"


class WheelError(Exception):
    """The wheel cannot be built, and why."""


def stage(root: Path, target: Path, collection: Path, version: Version, ref: str) -> None:
    """Put the sources of the wheel into a directory.

    Args:
        root: the checkout.
        target: an empty directory, or one that is made.
        collection: the archive that was built.
        version: that of both.
        ref: the tag or commit whose files links into the repository mean.

    Raises:
        WheelError: pyproject.toml is not as it is expected, or the archive cannot be unpacked.
    """
    copy(root, [*tracked(root, "src"), "LICENSE", "README.md", "pyproject.toml"], target)
    copy(root, tracked(root, *BESIDE), target / PROJECT)
    project = target / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    for pattern, put in (
        (r'^version = ".*"$', f'version = "{version.python}"'),
        # Files that are carried, and no packages: setuptools would take their modes from them.
        (r'^where = \["src"\]$', 'where = ["src"]\nexclude = ["trainyard.project*"]'),
        (r'^trainyard = \["py.typed",', 'trainyard = ["project/**/*", "py.typed",'),
    ):
        text, count = re.subn(pattern, put, text, flags=re.MULTILINE)
        if count != 1:
            raise WheelError(f"pyproject.toml has {count} lines {pattern!r}, one is wanted")
    project.write_text(text, encoding="utf-8")
    settings = target / PROJECT / "ansible.cfg"
    kept = [line for line in settings.read_text(encoding="utf-8").splitlines() if not line.startswith("roles_path")]
    settings.write_text("\n".join([*kept, ""]), encoding="utf-8")
    readme = target / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(links_followed(text, "README.md", "README.md", lambda _: None, ref), encoding="utf-8")
    words = [
        sys.executable,
        "-m",
        "ansible",
        "galaxy",
        "collection",
        "install",
        str(collection),
        "--no-deps",
        "--force",
    ]
    words += ["--collections-path", str(target / PROJECT / "collections")]
    run = subprocess.run(words, capture_output=True, text=True, check=False)
    if run.returncode:
        raise WheelError(f"ansible-galaxy collection install: {run.stderr.strip() or run.stdout.strip()}")
    for left in (target / PROJECT / "collections/ansible_collections").glob("*.info"):
        for file in left.iterdir():
            file.unlink()
        left.rmdir()


def build(staged: Path, output: Path, version: Version) -> Path:
    """Return the wheel of staged sources.

    Raises:
        WheelError: pip refused.
    """
    for path in staged.rglob("*"):
        os.utime(path, (version.made_at, version.made_at))
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    words += ["--no-build-isolation", "--no-index", "--wheel-dir", str(output), str(staged)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(version.made_at)}
    run = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        raise WheelError(f"pip wheel: {run.stderr.strip() or run.stdout.strip()}")
    (made,) = output.glob(f"trainyard-{version.python}-*.whl")
    return made
