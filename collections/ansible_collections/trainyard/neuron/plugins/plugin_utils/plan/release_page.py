# SPDX-License-Identifier: Apache-2.0
"""The page of the SDK releases, docs/sdk-releases.md, written from the table: `python -m ...plan.release_page FILE`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import List, Optional, Sequence

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.releases import (
    IMAGE_NAME,
    RELEASES,
    SdkRelease,
    releases,
)

_HEAD = """# SDK releases

A deployment names one release of the Neuron SDK (`sdk_release`), and everything that must match follows from that row:
driver, runtime, compiler, vLLM, the environment or the image it runs in. A release that serves in two generations takes
`generation`; the one in **bold** is the default. Adding a release is adding a row to
`plugins/module_utils/plan/releases.py`; this page is written from it.

"not known" means that no source named it when the row was made. Nothing here is guessed.

## Where vLLM runs
"""

_PACKAGES = """
## What the host has installed

A driver of one row with the runtime of another may not start: driver 2.29 and later needs runtime 2.33 or later, and
runtime 2.32 and later refuses driver 2.26 and older. Stop every replica before the driver is replaced.
"""

_SERVING = (
    "release",
    "generation",
    "vLLM",
    "plugin",
    "NxDI",
    "environment",
    "image tag",
    "Python",
    "system",
    "families",
)
_INSTALLED = ("release", "date", "driver", "runtime", "collectives", "tools", "compiler")
_PREFIX = "/opt/aws_neuronx_venv_pytorch_"


def release_page() -> str:
    """Return the page, Markdown."""
    notes = ["- %s, %s: %s" % (row.release, row.generation, row.note) for row in RELEASES if row.note]
    lines = [
        _HEAD,
        *_table(_SERVING, [_serving(row) for row in RELEASES]),
        "",
        "Environments are below `%s`; images are `%s`, without their registry. An environment with"
        % (_PREFIX, IMAGE_NAME),
        "(build) holds no vLLM: it is built there from %s." % _sources(),
        _PACKAGES,
        *_table(_INSTALLED, [_installed(release) for release in releases()]),
        "",
        "## Notes",
        "",
        *notes,
    ]
    return "\n".join(lines) + "\n"


def _serving(row: SdkRelease) -> List[str]:
    venv = _value(row, "venv").replace(_PREFIX, "")
    return [
        row.release,
        "**%s**" % row.generation if row.default else row.generation,
        _value(row, "vllm", "fork's branch"),
        _value(row, "plugin", "-"),
        _value(row, "nxdi", "-"),
        venv + ("" if row.venv_has_vllm else " (build)"),
        _value(row, "container_tag", "none"),
        ", ".join(row.pythons),
        ", ".join(row.operating_systems),
        ", ".join(row.families),
    ]


def _installed(release: str) -> List[str]:
    row = next(row for row in RELEASES if row.release == release)
    return [release, row.date, row.driver, row.runtime, row.collectives, row.tools, row.compiler]


def _sources() -> str:
    repositories = dict.fromkeys(row.source_repo for row in RELEASES if not row.venv_has_vllm and row.source_repo)
    return " or ".join("`%s`" % repository for repository in repositories)


def _value(row: SdkRelease, name: str, absent: str = "none") -> str:
    value = getattr(row, name)
    if value is not None:
        return str(value)
    return "not known" if name in row.unknown else absent


def _table(head: Sequence[str], rows: List[List[str]]) -> List[str]:
    lines = [list(head), ["---"] * len(head), *rows]
    return ["| %s |" % " | ".join(line) for line in lines]


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Write the page to the file that the one argument names."""
    (path,) = sys.argv[1:] if arguments is None else arguments
    Path(path).write_text(release_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
