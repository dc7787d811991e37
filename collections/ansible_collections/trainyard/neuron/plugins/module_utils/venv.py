# SPDX-License-Identifier: Apache-2.0
"""A Python environment that is exactly a list of hash-locked requirements. Used by module `python_venv`.

Each list gets a directory of its own, named by its digest, and the wanted path is a link to it: an install that fails
or is cut off leaves the old environment in use, and what runs from the old one goes on.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Callable, Dict, List, Optional, Tuple

#: Written last; an environment without it is a half-made one.
MARKER = ".trainyard-complete"

Run = Callable[[List[str], Dict[str, str]], Tuple[int, str, str]]


class VenvError(Exception):
    """The environment cannot be made; the one in use, if any, is as it was."""


def digest_of(requirements: str, python_version: str) -> str:
    """Return 12 hex digits that name an environment: its requirements, without their comments, and its Python."""
    lines = [line.strip() for line in requirements.splitlines()]
    wanted = "\n".join(line for line in lines if line and not line.startswith("#"))
    return hashlib.sha256(f"{python_version}\n{wanted}".encode()).hexdigest()[:12]


def unhashed(requirements: str) -> List[str]:
    """Return the requirements that carry no hash: each of them could become anything."""
    joined = requirements.replace("\\\n", " ")
    lines = [line.split(" #")[0].strip() for line in joined.splitlines()]
    return [line.split()[0] for line in lines if line and not line.startswith(("#", "-")) and "--hash=" not in line]


class Venv:
    """One environment on this host, reached through the link `path`."""

    def __init__(self, path: Path, requirements: str, python: str, run: Run) -> None:
        self.path = path
        self.requirements = requirements
        self.python = python
        self._run = run

    def python_version(self) -> str:
        """Return `major.minor` of the interpreter that the environment is made from.

        Raises:
            VenvError: there is no such interpreter.
        """
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        status, output, errors = self._call([self.python, "-c", code])
        if status != 0 or not re.fullmatch(r"\d+\.\d+", output.strip()):
            raise VenvError(f"{self.python} is no Python interpreter ({errors.strip() or output.strip()})")
        return output.strip()

    def home(self) -> Path:
        """Return the directory that the wanted requirements live in."""
        return self.path.with_name(f"{self.path.name}-{digest_of(self.requirements, self.python_version())}")

    def current(self) -> Optional[str]:
        """Return the name of the directory that is in use and complete, None where there is none."""
        if not self.path.is_symlink():
            return None
        target = self.path.resolve()
        usable = (target / MARKER).is_file() and os.access(target / "bin" / "python", os.X_OK)
        return target.name if usable else None

    def can_make(self) -> bool:
        """Return whether the interpreter brings what makes environments; Debian ships that apart (python3-venv)."""
        return self._call([self.python, "-c", "import ensurepip, venv"])[0] == 0

    def make(self) -> None:
        """Make the wanted environment, switch to it, and remove those before the previous one.

        Raises:
            VenvError: pip failed; what it said is in the message.
        """
        home = self.home()
        if self.path.exists() and not self.path.is_symlink():
            raise VenvError(f"{self.path} is in the way: not an environment of this toolkit; remove it")
        previous = self.current()
        if not (home / MARKER).is_file():
            self._install(home)
        link = self.path.with_name(f".{self.path.name}.new")
        link.unlink(missing_ok=True)
        link.symlink_to(home.name)
        link.replace(self.path)
        for old in self.homes():
            if old.name not in (home.name, previous):
                shutil.rmtree(old)

    def _install(self, home: Path) -> None:
        shutil.rmtree(home, ignore_errors=True)
        home.parent.mkdir(parents=True, exist_ok=True)
        requirements = home / "requirements.txt"
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        locked = ["--require-hashes", "--only-binary", ":all:", "--requirement", str(requirements)]
        try:
            self._must([self.python, "-m", "venv", str(home)])
            requirements.write_text(self.requirements, encoding="utf-8")
            self._must([*pip, *locked])
        except (OSError, VenvError):
            shutil.rmtree(home, ignore_errors=True)
            raise
        (home / MARKER).write_text("", encoding="utf-8")

    def homes(self) -> List[Path]:
        """Return the directories of all environments made for this path, the half-made ones included."""
        name = re.compile(re.escape(self.path.name) + r"-[0-9a-f]{12}")
        if not self.path.parent.is_dir():
            return []
        return sorted(entry for entry in self.path.parent.iterdir() if name.fullmatch(entry.name))

    def remove(self) -> None:
        """Remove the link and all environments made for it."""
        if self.path.is_symlink():
            self.path.unlink()
        for home in self.homes():
            shutil.rmtree(home)

    def _must(self, argv: List[str]) -> None:
        status, output, errors = self._call(argv)
        if status != 0:
            raise VenvError(f"{' '.join(argv)}: {' '.join((errors or output).split())[-1500:]}")

    def _call(self, argv: List[str]) -> Tuple[int, str, str]:
        # A user's own packages must not shadow what the lock pins.
        return self._run(argv, {"PYTHONNOUSERSITE": "1"})
