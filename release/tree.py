# SPDX-License-Identifier: Apache-2.0
"""The files of a checkout, as git lists them, and what their texts say of each other."""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

REPOSITORY = "https://github.com/trainyard/trainyard"
_LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)#\s:]+)(?P<after>(?:#[^)\s]*)?\))")


def tracked(root: Path, *folders: str) -> list[str]:
    """Return the files of a checkout that git knows, below some folders, by their way from its root."""
    words = ["git", "ls-files", "-z", "--", *folders]
    listed = subprocess.run(words, cwd=root, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in listed.split("\0") if name and (root / name).is_file())


def copy(root: Path, names: Iterable[str], target: Path, renamed: Callable[[str], str] = lambda name: name) -> None:
    """Copy files with their modes.

    Args:
        root: where they are.
        names: their ways from there.
        target: the directory that gets them.
        renamed: the way of each from the target.
    """
    for name in names:
        to = target / renamed(name)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, to)


def links_followed(text: str, source: str, target: str, place: Callable[[str], str | None], ref: str) -> str:
    """Return Markdown with its links leading to what is carried, where it lies now, or else into the repository.

    Args:
        text: the page.
        source: its way from the root of the checkout.
        target: its way in what is published.
        place: gives the way in what is published of a way from the root, None for what is not carried.
        ref: the tag or commit whose files are meant.
    """

    def follow(found: re.Match[str]) -> str:
        way = posixpath.normpath(posixpath.join(posixpath.dirname(source), found["target"]))
        there = place(way)
        to = f"{REPOSITORY}/blob/{ref}/{way}" if there is None else posixpath.relpath(there, posixpath.dirname(target))
        return f"{found['before']}{to}{found['after']}"

    return _LINK.sub(follow, text)
