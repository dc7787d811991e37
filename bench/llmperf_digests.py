# SPDX-License-Identifier: Apache-2.0
"""Computes the digests in roles/llmperf_patched/vars/main.yml anew, after a patch or our module was changed.

TRAINYARD_LLMPERF_SOURCE=... python bench/llmperf_digests.py
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "collections"))

from ansible_collections.trainyard.neuron.plugins.module_utils import patched_source

ROLE = Path(__file__).parents[1] / "roles/llmperf_patched"
VARS = ROLE / "vars/main.yml"


def inputs_digest() -> str:
    """SHA-256 of what we add to the source; where it changed, the patched tree's digest must be computed again."""
    names = ("files/patches.yml", "files/trainyard_llmperf.py")
    return hashlib.sha256(b"".join((ROLE / name).read_bytes() for name in names)).hexdigest()


def run(argv: list[str]) -> tuple[int, str, str]:
    """Run a command and return its exit status and output."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def unreadable(tree: Path) -> Iterator[str]:
    """What keeps Python from reading a file of the tree, a line each: a patch whose lines are indented as none were."""
    for path in sorted(tree.rglob("*.py")):
        try:
            # Upstream's own escapes are warned of, and are its own.
            with warnings.catch_warnings(action="ignore"):
                ast.parse(path.read_text(encoding="utf-8"))
        except SyntaxError as error:
            yield f"{path.relative_to(tree)}:{error.lineno}: {error.msg}"


def main() -> int:
    """Patch the source in a scratch directory and write the digests."""
    text = VARS.read_text(encoding="utf-8")
    known = yaml.safe_load(text)
    wanted = patched_source.Wanted(
        path=Path(tempfile.mkdtemp()) / "src",
        commit=known["__llmperf_patched_commit"],
        upstream_digest=known["__llmperf_patched_upstream_digest"],
        patches=yaml.safe_load((ROLE / "files/patches.yml").read_text(encoding="utf-8")),
        files={"src/llmperf/trainyard.py": (ROLE / "files/trainyard_llmperf.py").read_text(encoding="utf-8")},
    )
    found = wanted.install(os.environ["TRAINYARD_LLMPERF_SOURCE"], run)
    wrong = list(unreadable(wanted.path))
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    for name, value in (("patched_digest", found), ("inputs_digest", inputs_digest())):
        text = re.sub(rf"(__llmperf_patched_{name}: ).*", rf"\g<1>{value}", text)
    VARS.write_text(text, encoding="utf-8")
    print(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
