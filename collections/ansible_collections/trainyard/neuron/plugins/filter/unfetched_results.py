# SPDX-License-Identifier: Apache-2.0
"""The filter `unfetched_results`: which archives of a load host no controller has, and where they go."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping

DOCUMENTATION = r"""
name: unfetched_results
short_description: Archives of benchmark results that the controller has neither packed nor unpacked
version_added: "0.2.0"
author:
  - trainyard contributors (@trainyard)
description:
  - A run's archive is fetched and unpacked beside the others; where its directory is there, nothing is to be fetched.
    An archive that is there packed came by an evacuation, and is fetched again only where its size differs.
options:
  _input:
    description: What M(ansible.builtin.find) found on the host, or nothing where it could not look.
    type: dict
    required: true
  folder:
    description: Where the controller keeps results.
    type: path
    required: true
"""

EXAMPLES = r"""
loop: "{{ found | trainyard.neuron.unfetched_results('results') }}"
"""

RETURN = r"""
_value:
  description: For each archive, C(src) on the host, C(dest) on the controller, and its C(name).
  type: list
  elements: dict
"""

SUFFIX = ".tar.gz"


def unfetched_results(found: Mapping[str, Any], folder: str) -> List[Dict[str, str]]:
    """Return what is to be fetched, by name."""
    rows = {Path(row["path"]).name: row for row in found.get("files") or []}
    here = Path(folder)
    return [
        {"src": row["path"], "dest": str(here / name), "name": name}
        for name, row in sorted(rows.items())
        if name.endswith(SUFFIX)
        and not (here / name[: -len(SUFFIX)]).exists()
        and _size(here / name) != row.get("size")
    ]


def _size(path: Path) -> int:
    """The size of a file, bytes; -1 where there is none."""
    return path.stat().st_size if path.is_file() else -1


class FilterModule:
    """Registers the filter."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Return the filters of this file by name."""
        return {"unfetched_results": unfetched_results}
