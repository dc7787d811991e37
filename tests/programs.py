# SPDX-License-Identifier: Apache-2.0
"""Programs that tests run as hosts do: the machine's own, or its distribution's, unpacked and not installed."""

from __future__ import annotations

import shutil
import subprocess

from trainyard.lab.cache import cache_dir, locked, write

_SEARCHED = "/usr/sbin:/usr/local/sbin:/sbin"


def program(name: str, package: str) -> str:
    """The path of a program; empty where it is not installed and its package cannot be had.

    Args:
        name: the file's name, in a directory of programs.
        package: what has it, in Debian and Ubuntu.
    """
    return shutil.which(name) or shutil.which(name, path=_SEARCHED) or _unpacked(name, package)


def _unpacked(name: str, package: str) -> str:
    root = cache_dir() / package
    script = root / f"run-{name}"
    with locked(package):
        if script.is_file() or shutil.which("apt-get") is None:
            return str(script) if script.is_file() else ""
        (root / "packages" / "partial").mkdir(parents=True, exist_ok=True)
        fetch = ["apt-get", "-qq", "--yes", "--no-install-recommends", "--download-only", "-o", "Debug::NoLocking=1"]
        fetch += ["-o", f"Dir::Cache::archives={root / 'packages'}", "install", package]
        if subprocess.run(fetch, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode:
            return ""
        for archive in (root / "packages").glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", archive, root], check=True)
        folders = ":".join(str(path) for path in (*root.glob("usr/lib/*-linux-gnu*"), *root.glob("lib/*-linux-gnu*")))
        places = (root / folder / name for folder in ("usr/sbin", "sbin", "usr/bin"))
        binary = next((path for path in places if path.is_file()), None)
        if binary is None:
            return ""
        # What lacks a library ends before its own first line.
        started = subprocess.run([binary, "-v"], env={"LD_LIBRARY_PATH": folders}, capture_output=True, check=False)
        if started.returncode == 127:
            return ""
        write(script, f'#!/bin/sh\nLD_LIBRARY_PATH={folders} exec {binary} "$@"\n', 0o755)
    return str(script)
