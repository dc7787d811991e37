# SPDX-License-Identifier: Apache-2.0
"""What hosts run is imported by the oldest Python that is promised to them, where the machine has one."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.test_rooms import HOME, IN_THEIR_ENVIRONMENT, OLDEST_PYTHON
from trainyard.paths import ROOT

NAME = "python{}.{}".format(*OLDEST_PYTHON)
IMPORT = """
import importlib, sys
assert sys.version_info[:2] == {version!r}, sys.version
sys.path.insert(0, {collections!r})
for name in {names!r}:
    importlib.import_module(name)
print("imported", len({names!r}))
"""


def interpreter() -> str:
    """The oldest Python, by its name or where pyenv keeps its versions; a name on PATH may be a shim for nothing."""
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for path in [shutil.which(NAME), *map(str, kept.glob(f"{NAME.removeprefix('python')}.*/bin/python"))]:
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return path
    pytest.skip(f"no {NAME} here: only its syntax is held (test_rooms)")


def test_every_program_of_hosts_is_imported_by_the_oldest_python() -> None:
    python = interpreter()
    files = sorted((ROOT / HOME / "plugins/module_utils").rglob("*.py"))
    names = [
        ".".join(path.relative_to(ROOT / "collections").with_suffix("").parts).removesuffix(".__init__")
        for path in files
        if path.parts[-2:] != ("jobs", "program.py") and str(path.relative_to(ROOT)) not in IN_THEIR_ENVIRONMENT
    ]
    script = IMPORT.format(version=OLDEST_PYTHON, collections=str(ROOT / "collections"), names=names)
    done = subprocess.run([python, "-I", "-B", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["imported", str(len(names))]
    assert len(names) > 60
