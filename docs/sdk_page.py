# SPDX-License-Identifier: Apache-2.0
"""Writes docs/sdk-releases.md from the table of SDK releases.

python docs/sdk_page.py            writes
python docs/sdk_page.py --check    fails, with a diff, where the page is not current
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "collections")]

from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import (  # noqa: E402
    IMAGE_NAME,
    SdkRelease,
    releases,
    sdk_table,
)

PAGE = ROOT / "docs/sdk-releases.md"

_HEAD = """# SDK releases

A deployment names one release of the Neuron SDK (`sdk_release`), and everything that must match follows from that row:
driver, runtime, compiler, vLLM, the environment or the image it runs in. A release that serves in two generations takes
`generation`; the one in **bold** is the default. Adding a release is adding its entry to `sdk_releases.json` in the
collection's `plugins/plugin_utils/plan` ([its schema](schemas/sdk_releases.schema.json)); this page is written from it.

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
    notes = [f"- {row.release}, {row.generation}: {row.note}" for row in sdk_table() if row.note]
    lines = [
        _HEAD,
        *_table(_SERVING, [_serving(row) for row in sdk_table()]),
        "",
        f"Environments are below `{_PREFIX}`; images are `{IMAGE_NAME}`, without their registry. An environment with",
        f"(build) holds no vLLM: it is built there from {_sources()}.",
        _PACKAGES,
        *_table(_INSTALLED, [_installed(release) for release in releases()]),
        "",
        "## Notes",
        "",
        *notes,
    ]
    return "\n".join(lines) + "\n"


def _serving(row: SdkRelease) -> list[str]:
    venv = _value(row, "venv").replace(_PREFIX, "")
    return [
        row.release,
        f"**{row.generation}**" if row.default else row.generation,
        _value(row, "vllm", "fork's branch"),
        _value(row, "plugin", "-"),
        _value(row, "nxdi", "-"),
        venv + ("" if row.venv_has_vllm else " (build)"),
        _value(row, "container_tag", "none"),
        ", ".join(row.pythons),
        ", ".join(row.operating_systems),
        ", ".join(row.families),
    ]


def _installed(release: str) -> list[str]:
    row = next(row for row in sdk_table() if row.release == release)
    return [release, row.date, row.driver, row.runtime, row.collectives, row.tools, row.compiler]


def _sources() -> str:
    repositories = dict.fromkeys(row.source_repo for row in sdk_table() if not row.venv_has_vllm and row.source_repo)
    return " or ".join(f"`{repository}`" for repository in repositories)


def _value(row: SdkRelease, name: str, absent: str = "none") -> str:
    value = getattr(row, name)
    if value is not None:
        return str(value)
    return "not known" if name in row.unknown else absent


def _table(head: Sequence[str], rows: list[list[str]]) -> list[str]:
    lines = [list(head), ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; 1 if `--check` found the page not current."""
    parser = argparse.ArgumentParser(description="Write the page of the SDK releases.")
    parser.add_argument("--check", action="store_true", help="change nothing, fail where something would change")
    check = parser.parse_args(arguments).check
    text, found = release_page(), PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    if not check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    lines = (part.splitlines(keepends=True) for part in (found, text))
    sys.stdout.writelines(difflib.unified_diff(*lines, str(PAGE), "current"))
    return int(found != text)


if __name__ == "__main__":
    sys.exit(main())
