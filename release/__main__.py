# SPDX-License-Identifier: Apache-2.0
"""`python -m release`: the collection's archive and the command's wheel, in dist/."""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import tempfile
import tomllib
from pathlib import Path

from release import collection, wheel
from release.version import Version, VersionError, version_here, version_of

ROOT = Path(__file__).resolve().parents[1]


def make(root: Path, output: Path, version: Version) -> list[Path]:
    """Build both and their digests into a directory, in which others of theirs are removed; return what was made.

    Raises:
        CollectionError: something of the tree cannot be published as it is.
        WheelError: the wheel cannot be built.
    """
    # Files of a commit that has no tag are found by its name.
    found = re.search(r"\+g([0-9a-f]+)", version.semantic)
    ref = found[1] if found else f"v{version.semantic.partition('+')[0]}"
    output.mkdir(parents=True, exist_ok=True)
    for old in [*output.glob("trainyard-*.whl"), *output.glob("trainyard-neuron-*.tar.gz")]:
        old.unlink()
    with tempfile.TemporaryDirectory(prefix="trainyard-dist-") as scratch:
        staged, sources = Path(scratch) / "collection", Path(scratch) / "wheel"
        collection.stage(root, staged, version, ref)
        archive = collection.build(staged, output, version)
        wheel.stage(root, sources, archive, version, ref)
        made = [archive, wheel.build(sources, output, version)]
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in made]
    (output / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    return [*made, output / "SHA256SUMS"]


def main() -> int:
    """Build, and print the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=ROOT / "dist", help="the directory (dist)")
    parser.add_argument("--version", help="MAJOR.MINOR.PATCH[-rc.N], for sources without git; else that of the tag")
    given = parser.parse_args()
    base = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    try:
        version = version_of(given.version, 0) if given.version else version_here(ROOT, base)
        made = make(ROOT, given.output, version)
    except (VersionError, collection.CollectionError, wheel.WheelError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for path in made:
        sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
