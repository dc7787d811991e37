# SPDX-License-Identifier: Apache-2.0
"""A network of its own for each lab, on addresses that nothing else on this machine uses."""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainyard.lab.cache import digest, locked
from trainyard.lab.errors import LabError
from trainyard.lab.podman import Podman
from trainyard.lab.state import Lab

Network = ipaddress.IPv4Network

#: Private addresses that neither podman's, docker's nor the usual home and office networks begin with.
POOL = Network("10.192.0.0/11")
_NETNS = "/run/netns"


def choose(used: Iterable[Network], seed: str) -> Network:
    """A free /24 of the pool; the same seed tries the same ones first.

    Raises:
        LabError: none is free.
    """
    taken = list(used)
    candidates = list(POOL.subnets(new_prefix=24))
    first = int(digest(seed)[:8], 16) % len(candidates)
    for candidate in candidates[first:] + candidates[:first]:
        if not any(candidate.overlaps(network) for network in taken):
            return candidate
    raise LabError(f"every subnet of {POOL} is in use on this machine")


def routed(routes: list[dict[str, Any]]) -> Iterable[Network]:
    """The networks that `ip -json route` shows; the default route says nothing about what is free."""
    for route in routes:
        destination = str(route.get("dst", ""))
        if re.match(r"^\d", destination):
            yield Network(destination, strict=False)


def _name_servers() -> Iterable[Network]:
    """The name servers' addresses: a lab on top of them would cut the machine's name resolution."""
    path = Path("/etc/resolv.conf")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    for address in re.findall(r"^nameserver\s+(\d+\.\d+\.\d+\.\d+)\s*$", text, re.MULTILINE):
        yield Network(address)


def _used(podman: Podman) -> list[Network]:
    """Every network that this machine or podman knows."""
    shown = subprocess.run(
        ["ip", "-json", "-4", "route", "show", "table", "all"], capture_output=True, text=True, check=False
    )
    used = [*routed(json.loads(shown.stdout or "[]")), *_name_servers()]
    for name in podman.run("network", "ls", "--format", "{{.Name}}").split():
        # Another lab may take its network away between the list and this look; then its addresses are free.
        described = json.loads(podman.run("network", "inspect", name, check=False) or "[]")
        if not described:
            continue
        used += [
            Network(subnet["subnet"]) for subnet in described[0].get("subnets") or [] if ":" not in subnet["subnet"]
        ]
    return used


def ensure(podman: Podman, lab: Lab) -> None:
    """Make the lab's network where it is missing; its subnet is noted in `lab`."""
    with locked("network"):
        if podman.succeeds("network", "exists", lab.prefix):
            lab.subnet = podman.json("network", "inspect", lab.prefix)[0]["subnets"][0]["subnet"]
            return
        used = _used(podman)
        kept = Network(lab.subnet) if lab.subnet else None
        if kept is None or any(kept.overlaps(network) for network in used):
            lab.subnet = str(choose(used, lab.id))
        podman.run("network", "create", "--subnet", lab.subnet, "--label", f"trainyard.lab={lab.id}", lab.prefix)


@contextmanager
def namespaces(podman: Podman) -> Iterator[None]:
    """Hold /run/netns, where podman keeps the containers' network namespaces, in a form that all its calls see.

    Where podman gets a mount namespace of its own (see `machine`), what it mounts there is seen by its next call only
    if the folder is a shared mount; `ip netns` makes it one in just this way. The last to go unmounts it.
    """
    if podman.machine.cgroups == "v2":
        yield
        return
    with locked("netns"):
        privilege = podman.machine.privilege()
        if not _is_shared(Path("/proc/self/mountinfo").read_text(encoding="utf-8"), _NETNS):
            subprocess.run([*privilege, "mkdir", "-p", _NETNS], check=True)
            subprocess.run([*privilege, "mount", "--bind", _NETNS, _NETNS], check=True)
            subprocess.run([*privilege, "mount", "--make-shared", _NETNS], check=True)
        yield
        if not any(Path(_NETNS).iterdir()):
            subprocess.run([*privilege, "umount", _NETNS], check=False, capture_output=True)


def _is_shared(mountinfo: str, path: str) -> bool:
    """Whether a path is a shared mount, by proc(5)'s mountinfo."""
    rows = (line.split() for line in mountinfo.splitlines())
    return any(row[4] == path and any(word.startswith("shared:") for word in row[6 : row.index("-")]) for row in rows)


def remove(podman: Podman, lab_prefix: str) -> None:
    """Remove the lab's network where there is one."""
    if podman.succeeds("network", "exists", lab_prefix):
        podman.run("network", "rm", "--force", lab_prefix)
