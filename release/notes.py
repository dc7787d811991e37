# SPDX-License-Identifier: Apache-2.0
"""`python -m release.notes VERSION`: a release's notes, which are its part of the changelog."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_HEADING = re.compile(r"^## v?(\S+)\s*$")


class NotesError(Exception):
    """The changelog has nothing of a release."""


def notes_of(changelog: str, version: str) -> str:
    """Return what a changelog of antsibull-changelog says of a version, without its anchors.

    Raises:
        NotesError: it says nothing of it.
    """
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in changelog.splitlines():
        if heading := _HEADING.match(line.replace("\\", "")):
            lines = found.setdefault(heading[1], [])
        elif not line.startswith("<a id="):
            lines.append(line)
    text = "\n".join(found.get(version.removeprefix("v"), [])).strip()
    if not text:
        known = ", ".join(found) or "no release at all"
        raise NotesError(
            f"the changelog says nothing of {version}; it has {known}. antsibull-changelog release writes it"
        )
    return text + "\n"


def main() -> int:
    """Print the notes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("version", help="as the changelog has it, 0.1.0-rc.1 or the tag")
    parser.add_argument("--changelog", type=Path, default=ROOT / "CHANGELOG.md", help="the file (CHANGELOG.md)")
    given = parser.parse_args()
    try:
        sys.stdout.write(notes_of(given.changelog.read_text(encoding="utf-8"), given.version))
    except (NotesError, OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
