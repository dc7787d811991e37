# SPDX-License-Identifier: Apache-2.0
"""Commands about a module that no kernel here has loaded, and git; other questions go to the real commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from . import ownership, packages
from .config import HostConfig, logical_nc_config
from .hardware import instance_type

_MODULE_BYTES = 1048576


def _real(name: str, argv: list[str]) -> int:
    for directory in ("/usr/sbin", "/sbin", "/usr/bin", "/bin"):
        path = Path(directory) / name
        if path.exists():
            os.execv(path, [name, *argv])  # noqa: S606 - becoming the real command is the point
    print(f"{name}: command not found", file=sys.stderr)
    return 127


def main(host: HostConfig, argv: list[str], *, command: str) -> int:
    """Run ``modinfo``, ``lsmod``, ``modprobe`` or ``git``."""
    if command == "git":
        # A commit's name is that of its content, and a stand-in has another content.
        return _real("git", [host.commits.get(word, word) for word in argv])
    if command == "modprobe" and argv[-1:] == ["neuron"]:
        from . import starts

        if "-r" in argv:
            return 0
        said = "" if host.start == starts.READY else starts.load(host)
        if said:
            print(f"modprobe: {said}", file=sys.stderr)
        return 1 if said else 0
    if command == "modinfo" and argv[-1:] == ["neuron"]:
        field = argv[argv.index("-F") + 1] if "-F" in argv else None
        print(packages.modinfo(host, field), end="")
        return 0
    if command == "lsmod" and not argv:
        kind = instance_type(host.instance_type)
        held = ownership.owners(host, kind.core_count(logical_nc_config(host)))
        users = len({holder.pid for holders in held.values() for holder in holders})
        print(f"{'Module':<20}{'Size':>8}  Used by\n{'neuron':<20}{_MODULE_BYTES:>8}  {users}")
        return 0
    return _real(command, argv)
