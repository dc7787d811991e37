# SPDX-License-Identifier: Apache-2.0
"""The SDK's system packages as dpkg, modinfo and the kernel's module list show them.

The packages are real entries of dpkg's own database (with nothing in them), so every tool that asks dpkg sees them.
These are the machine image's: they come once, and what is installed over them stays, also when the host boots again.
The kernel module cannot be loaded: ``modinfo`` and ``lsmod`` are wrapped in /usr/local/sbin for the name ``neuron`` and
pass every other question on.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from . import sdk
from .config import HostConfig

_DESCRIPTIONS = {
    "aws-neuronx-dkms": "aws-neuronx driver in DKMS format.",
    "aws-neuronx-runtime-lib": "neuron_runtime built using CMake",
    "aws-neuronx-collectives": "neuron_ccom built using CMake",
    "aws-neuronx-tools": "Neuron profile and debug tools",
}


def debian_version(name: str, number: str) -> str:
    """The version as the packages carry it: runtime and collectives have a build's hash behind it."""
    if name in ("aws-neuronx-runtime-lib", "aws-neuronx-collectives"):
        return f"{number}-{hashlib.sha256(f'{name} {number}'.encode()).hexdigest()[:9]}"
    return number


def _stanza(name: str, number: str, state: str) -> str:
    return (
        f"Package: {name}\nStatus: install ok {state}\nPriority: optional\nSection: devel\nInstalled-Size: 1\n"
        f"Maintainer: lab\nArchitecture: amd64\nVersion: {debian_version(name, number)}\n"
        f"Description: {_DESCRIPTIONS[name]}\n (stand-in of the lab, empty)\n"
    )


def register(host: HostConfig, row: sdk.Release) -> None:
    """Make dpkg know the release's packages, unless it was made to before; others are left as they are."""
    note = host.path("/var/lib/neuron-sim/image.json")
    brought = json.dumps(row.packages, sort_keys=True)
    if note.exists() and note.read_text(encoding="utf-8") == brought:
        return
    write_status(host, row.packages)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(brought, encoding="utf-8")


def write_status(host: HostConfig, wanted_packages: Mapping[str, str], half: Collection[str] = ()) -> None:
    """Write packages into dpkg's database.

    Args:
        host: the host.
        wanted_packages: name -> version.
        half: those that somebody began to install and did not end.
    """
    status = host.path("/var/lib/dpkg/status")
    info = host.path("/var/lib/dpkg/info")
    info.mkdir(parents=True, exist_ok=True)
    text = status.read_text(encoding="utf-8") if status.exists() else ""
    kept = [part for part in re.split(r"\n{2,}", text.strip()) if part and not _is_ours(part)]
    stanzas = kept + [
        _stanza(name, number, "half-configured" if name in half else "installed").rstrip()
        for name, number in wanted_packages.items()
    ]
    wanted = "\n\n".join(stanzas) + "\n\n"
    if wanted != text:
        fresh = status.with_suffix(".neuron-sim")
        fresh.write_text(wanted, encoding="utf-8")
        fresh.replace(status)
    for name in wanted_packages:
        (info / f"{name}.list").write_text("/.\n", encoding="utf-8")
        (info / f"{name}.md5sums").touch()


def _is_ours(stanza: str) -> bool:
    return re.match(r"Package: aws-neuronx-(dkms|runtime-lib|collectives|tools)$", stanza, re.MULTILINE) is not None


def modinfo(host: HostConfig, field: str | None) -> str:
    """What ``modinfo neuron`` prints, or one field of it."""
    row = sdk.of_host(host.sdk_releases)
    fields = {
        "filename": "/lib/modules/stand-in/updates/dkms/neuron.ko",
        "version": row.driver,
        "license": "GPL",
        "description": "Neuron Driver, built from SHA: 0000000000000000000000000000000000000000",
        "name": "neuron",
    }
    if field:
        return fields.get(field, "") + "\n"
    return "".join(f"{name + ':':<16}{value}\n" for name, value in fields.items())


def write_module_state(directory: Path, row: sdk.Release, holders: int) -> None:
    """``/sys/module/neuron``: version, and how many processes hold the driver."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "version").write_text(f"{row.driver}\n", encoding="utf-8")
    (directory / "refcnt").write_text(f"{holders}\n", encoding="utf-8")
    (directory / "initstate").write_text("live\n", encoding="utf-8")
    (directory / "stamp").write_text(f"{int(time.time())}\n", encoding="utf-8")
