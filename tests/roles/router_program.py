# SPDX-License-Identifier: Apache-2.0
"""The HAProxy that tests of the router run: the machine's own, or its distribution's, unpacked and not installed."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from trainyard.lab.cache import cache_dir, locked, write

_SEARCHED = "/usr/sbin:/usr/local/sbin:/sbin"


def _unpacked() -> str:
    """A program that runs HAProxy from packages in the cache; empty where they cannot be had."""
    root = cache_dir() / "haproxy"
    program = root / "run"
    with locked("haproxy"):
        if program.is_file() or shutil.which("apt-get") is None:
            return str(program) if program.is_file() else ""
        (root / "packages" / "partial").mkdir(parents=True, exist_ok=True)
        fetch = ["apt-get", "-qq", "--yes", "--no-install-recommends", "--download-only", "-o", "Debug::NoLocking=1"]
        fetch += ["-o", f"Dir::Cache::archives={root / 'packages'}", "install", "haproxy"]
        if subprocess.run(fetch, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode:
            return ""
        for package in (root / "packages").glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", package, root], check=True)
        folders = ":".join(str(path) for path in (*root.glob("usr/lib/*-linux-gnu*"), *root.glob("lib/*-linux-gnu*")))
        script = f'#!/bin/sh\nLD_LIBRARY_PATH={folders} exec {root}/usr/sbin/haproxy "$@"\n'
        if subprocess.run([root / "usr/sbin/haproxy", "-v"], env={"LD_LIBRARY_PATH": folders}, check=False).returncode:
            return ""
        write(program, script, 0o755)
    return str(program)


HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path=_SEARCHED) or _unpacked()
needs_haproxy = pytest.mark.skipif(not HAPROXY, reason="haproxy is not installed, and its packages cannot be had")
