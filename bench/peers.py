# SPDX-License-Identifier: Apache-2.0
"""Programs of others that a bench compares with, in a folder that goes away with it.

What is installed is taken as it is. The rest is fetched with the ordinary clients: a Python program into an environment
of its own, a Debian package unpacked and not installed, so that no service starts. Where that fails the bench runs
without, and says so.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path


def from_pypi(requirement: str, program: str, folder: Path) -> str:
    """Path of a Python program; empty, with the reason on standard error, where there is none to be had."""
    if found := shutil.which(program):
        return found
    home = folder / program
    venv.create(home, with_pip=True)
    return _made([str(home / "bin/pip"), "install", "--quiet", requirement], home, f"bin/{program}")


def from_debian(package: str, program: str, folder: Path) -> str:
    """Path of a program of a Debian package (``usr/sbin/nginx``); as `from_pypi`."""
    if found := shutil.which(Path(program).name):
        return found
    home = folder / package
    home.mkdir()
    script = f"apt-get --quiet=2 download {package} && dpkg-deb --extract {package}_*.deb ."
    return _made(["sh", "-ec", script], home, program)


def _made(command: list[str], home: Path, program: str) -> str:
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    if done.returncode == 0 and (home / program).is_file():
        return str(home / program)
    last = (done.stderr.strip().splitlines() or ["it brought no such program"])[-1]
    print(f"without {home.name}: {last}", file=sys.stderr)
    return ""
