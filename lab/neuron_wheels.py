# SPDX-License-Identifier: Apache-2.0
"""Makes a Python package index as Neuron's is, with stand-ins of the packages that an environment is made of.

Standard input is JSON, a list of `{"release", "compiler", "nxdi"}`: the rows of the SDK table that have an environment.
The compiler is metadata alone; NxDI brings `inference_demo`, which is the lab's.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_DATE = (2026, 1, 1, 0, 0, 0)

#: A command of a lab host's stand-in SDK, for whatever Python runs it.
COMMAND = """\
# SPDX-License-Identifier: Apache-2.0
import sys

sys.pycache_prefix = "/var/cache/neuron-sim"
sys.path.insert(0, "/usr/lib/trainyard-lab")
from neuron_sim.commands import main

sys.exit(main({name!r}, root="/", release={release!r}))
"""


def wheel(folder: Path, name: str, version: str, scripts: Mapping[str, str]) -> None:
    """Put a wheel on the index; the same bytes for the same content.

    Args:
        folder: the index.
        name: the distribution.
        version: its version.
        scripts: commands that it brings, name -> program.
    """
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    files = {
        f"{module}/__init__.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: lab\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        **{f"{module}-{version}.data/scripts/{command}": f"#!python\n{text}" for command, text in scripts.items()},
    }
    rows = [f"{path},sha256={_digest(text)},{len(text.encode())}" for path, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    place = folder / re.sub(r"[-_.]+", "-", name).lower()
    place.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(place / f"{module}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in files.items():
            entry = zipfile.ZipInfo(path, _DATE)
            entry.external_attr = (0o100755 if "/scripts/" in path else 0o100644) << 16
            archive.writestr(entry, text)


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


def make(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write the index: a folder for each package, with all versions of it."""
    made = set()
    for row in rows:
        demo = {"inference_demo": COMMAND.format(name="inference_demo", release=row["release"])}
        for name, version, scripts in (
            ("neuronx-cc", row["compiler"], {}),
            ("neuronx-distributed-inference", row["nxdi"], demo),
        ):
            if version and (name, version) not in made:
                made.add((name, version))
                wheel(folder, name, version, scripts)


def main() -> None:
    """Make the index of the rows that standard input lists."""
    options = argparse.ArgumentParser(description="Make an index of stand-ins of Neuron's Python packages.")
    options.add_argument("folder", type=Path)
    make(options.parse_args().folder, json.load(sys.stdin))


if __name__ == "__main__":
    main()
