# SPDX-License-Identifier: Apache-2.0
"""Package indexes made of folders, in the layout of the simple repository API, for pip that must not reach others."""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path


def publish(index: Path, name: str, version: str, requires: str = "", scripts: Mapping[str, str] | None = None) -> None:
    """Put a wheel on an index.

    Args:
        index: the index's folder; its name is what the wheel's module says that it comes from (`ORIGIN`).
        name: distribution.
        version: its version.
        requires: what it depends on.
        scripts: console scripts, name -> the line that they print.
    """
    folder = index / "simple" / re.sub(r"[-_.]+", "-", name).lower()
    folder.mkdir(parents=True, exist_ok=True)
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    requirement = f"Requires-Dist: {requires}\n" if requires else ""
    files = {
        f"{module}.py": f"ORIGIN = {index.name!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requirement}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    points = ""
    for script, says in (scripts or {}).items():
        files[f"{module}.py"] += f"def {script}():\n    print({says!r})\n"
        points += f"{script} = {module}:{script}\n"
    if points:
        files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{points}"
    rows = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text)}")
    files[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,"]) + "\n"
    wheel = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    links = [
        f'<a href="{path.name}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}">{path.name}</a>'
        for path in sorted(folder.glob("*.whl"))
    ]
    (folder / "index.html").write_text("<!DOCTYPE html>\n" + "\n".join(links))
