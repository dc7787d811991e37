# SPDX-License-Identifier: Apache-2.0
"""Prints how much of each package its tests run, from a report of `coverage json`; see `make coverage`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

_PLUGINS = "collections/ansible_collections/trainyard/neuron/plugins/"


def packages(files: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """Lines that ran, and lines there are, of each directory.

    Args:
        files: `files` of the report: path -> its `summary`, which counts lines.
    """
    found: dict[str, tuple[int, int]] = {}
    for name, row in files.items():
        package = str(PurePosixPath(name).parent).removeprefix(_PLUGINS.rstrip("/")).strip("/") or "plugins"
        ran, lines = found.get(package, (0, 0))
        summary = row["summary"]
        found[package] = ran + summary["covered_lines"], lines + summary["num_statements"]
    return found


def table(found: Mapping[str, tuple[int, int]]) -> list[str]:
    """A line each, the least covered first, and all of them together at the end."""
    rows = sorted(found.items(), key=lambda item: item[1][0] / max(item[1][1], 1))
    total = sum(ran for ran, _lines in found.values()), sum(lines for _ran, lines in found.values())
    return [
        f"{100 * ran / max(lines, 1):6.1f} %  {ran:6} of {lines:6}  {name}"
        for name, (ran, lines) in [*rows, ("all", total)]
    ]


def main() -> int:
    """Print the table; 1 if less than asked for was run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, help="what `coverage json` wrote")
    parser.add_argument("--least", type=float, default=0.0, help="per cent of all lines")
    arguments = parser.parse_args()
    found = packages(json.loads(arguments.report.read_text(encoding="utf-8"))["files"])
    sys.stdout.write("\n".join(table(found)) + "\n")
    ran, lines = (sum(row[index] for row in found.values()) for index in (0, 1))
    return int(100 * ran < arguments.least * lines)


if __name__ == "__main__":
    sys.exit(main())
