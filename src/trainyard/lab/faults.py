# SPDX-License-Identifier: Apache-2.0
"""Faults on demand: of a host as a machine, of the network between hosts, of the services.

What goes wrong inside the Neuron stand-in (an engine that crashes, cores that stay held, a file that is cut) is its own
command's business: a kind that is not listed here is passed to it, on the host.
"""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trainyard.lab import network
from trainyard.lab.errors import LabError
from trainyard.lab.fleet import INSIDE, Fleet
from trainyard.lab.state import SERVICES

#: Where the Neuron stand-in notes broken hardware, which another instance does not have.
_BROKEN_HARDWARE = "/var/lib/neuron-sim/faults"
_CHAIN = "TRAINYARD-LAB"
_FULL = "/run/trainyard-lab-full"
#: Shows a folder's content on top of a file system with no byte left: reads work, writes end with "no space left".
_FILL = f"""
mkdir -p {_FULL} && mountpoint -q {_FULL} || mount -t tmpfs -o size=1m tmpfs {_FULL}
mkdir -p {_FULL}/upper {_FULL}/work "$1"
mount -t overlay overlay -o "lowerdir=$1,upperdir={_FULL}/upper,workdir={_FULL}/work" "$1"
printf '%s\\n' "$1" > {_FULL}/where
head -c 2M /dev/zero > {_FULL}/fill || true
"""
_DRAIN = f"""
mountpoint -q {_FULL} || exit 0
umount --lazy "$(cat {_FULL}/where)"
umount --lazy {_FULL}
"""
_MODULES = "/sys/module"
#: Says of the driver, as a kernel that goes on with it would, the version that is installed now. Over with a boot.
_HOLD_DRIVER = f"""
mountpoint -q {_MODULES} && exit 0
version=$(dpkg-query --show --showformat '${{Version}}' aws-neuronx-dkms)
mount -t tmpfs -o size=1m,mode=755 tmpfs {_MODULES}
mkdir {_MODULES}/neuron
printf '%s\\n' "$version" > {_MODULES}/neuron/version
"""
_LET_DRIVER_GO = f"! mountpoint -q {_MODULES} || umount --lazy {_MODULES}"
#: A folder's content goes, the folder stays: it may be a mount point.
_WIPE = 'find "$1" -mindepth 1 -delete'


@dataclass(frozen=True)
class Details:
    """What a fault may be told beside its kind."""

    replica: str | None = None
    path: str | None = None
    peer: str | None = None
    count: int = -1
    seconds: float = 1.0
    device: int | None = None
    factor: float | None = None
    rule: str | None = None


#: Faults of the services: which one, and what it is told.
_SERVICE_KINDS: dict[str, tuple[str, Callable[[Details], dict[str, Any]]]] = {
    "hub-429": ("hub", lambda d: {"status": 429, "count": d.count, "retry_after_s": max(1, int(d.seconds))}),
    "hub-5xx": ("hub", lambda d: {"status": 503, "count": d.count}),
    "hub-slow": ("hub", lambda d: {"delay_s": d.seconds, "bytes_per_s": 256_000}),
    "hub-cut": ("hub", lambda d: {"cut_after_bytes": 1 << 19, "count": d.count}),
    "s3-5xx": ("aws", lambda d: {"status": 503, "count": d.count}),
    "s3-slow": ("aws", lambda d: {"delay_s": d.seconds}),
}

SERVICE_KINDS = tuple(_SERVICE_KINDS)
HOST_KINDS = ("reboot", "stop", "start", "stop-start", "network-cut", "disk-full", "driver-held")


class Faults:
    """Switches faults of one lab on and off."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.lab, self.podman = fleet, fleet.lab, fleet.podman

    def inject(self, target: str, kind: str, details: Details) -> str:
        """Switch a fault on (or, with the kind `clear`, all off); return what is so now, in one line.

        Args:
            target: a host's name, or `services`.
            kind: one of HOST_KINDS or SERVICE_KINDS, `clear`, or a kind of the Neuron stand-in.
            details: what goes with it.

        Raises:
            LabError: no such target or kind, or it could not be done.
        """
        if target == SERVICES:
            return self._services(kind, details)
        if target not in self.lab.hosts:
            raise LabError(f"no host {target!r}: there are {', '.join(self.lab.hosts)} and {SERVICES}")
        actions: dict[str, Callable[[str, Details], str]] = {
            "reboot": self._reboot,
            "stop": self._stop,
            "start": self._start,
            "stop-start": self._stop_start,
            "network-cut": self._cut,
            "disk-full": self._fill,
            "driver-held": self._hold_driver,
            "clear": self._clear,
        }
        action = actions.get(kind)
        return action(target, details) if action else self._inside(target, kind, details)

    def _exec(self, host: str, script: str, *arguments: str) -> str:
        """Run a shell script as root on a host."""
        return self.podman.run("exec", self.lab.container(host), "sh", "-euc", script, "sh", *arguments)

    def _reboot(self, host: str, details: Details) -> str:
        """Restart the host; /data stays, as it does on an instance that reboots."""
        # Not `podman restart`: in a mount namespace of its own it takes the container's root for mounted when it is
        # not.
        self._stop(host, details)
        self._switch_on(host)
        self.fleet.wait()
        return f"{host} rebooted"

    def _stop(self, host: str, details: Details) -> str:
        """Switch the host off."""
        del details
        with network.namespaces(self.podman):
            self.podman.run("stop", "--time", "10", self.lab.container(host))
        self.fleet.tell_ec2()
        return f"{host} is off"

    def _switch_on(self, host: str) -> None:
        """Start the host's container."""
        with network.namespaces(self.podman):
            self.podman.run("start", self.lab.container(host))

    def _start(self, host: str, details: Details) -> str:
        """Switch the host on, on other hardware: its instance store is empty, its devices are whole."""
        self._switch_on(host)
        path = details.path or "/data"
        for emptied in (path, _BROKEN_HARDWARE):
            if self._exists(host, emptied):
                self._exec(host, _WIPE, emptied)
        self.fleet.wait()
        return f"{host} is on, {path} is empty"

    def _stop_start(self, host: str, details: Details) -> str:
        """Stop and start the instance."""
        self._stop(host, details)
        return self._start(host, details)

    def _exists(self, host: str, path: str) -> bool:
        """Whether a path is there on a host."""
        return self.podman.succeeds("exec", self.lab.container(host), "test", "-e", path)

    def _iptables(self, host: str, *words: str, check: bool = True) -> bool:
        """Run this machine's iptables in a host's network (the host need not have one); whether it did."""
        pid = self.podman.run("inspect", "--format", "{{.State.Pid}}", self.lab.container(host)).strip()
        command = [*self.podman.machine.privilege(), "nsenter", "--target", pid, "--net", "iptables", "--wait", *words]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise LabError(f"the network of {host} could not be changed: {done.stderr.strip()}")
        return done.returncode == 0

    def _cut(self, host: str, details: Details) -> str:
        """Drop every packet between the host and its peers; the machine under the lab still reaches it."""
        peers = [details.peer] if details.peer else [name for name in self.lab.hosts if name != host]
        unknown = [peer for peer in peers if peer not in self.lab.hosts]
        if unknown or not peers:
            raise LabError(f"no host {', '.join(unknown) or 'but this one'} to cut {host} off from")
        if self._iptables(host, "-N", _CHAIN, check=False):
            for chain in ("INPUT", "OUTPUT"):
                self._iptables(host, "-I", chain, "-j", _CHAIN)
        for peer in peers:
            for side in ("-s", "-d"):
                self._iptables(host, "-A", _CHAIN, side, self.lab.hosts[peer], "-j", "DROP")
        return f"{host} and {', '.join(peers)} do not reach each other"

    def _fill(self, host: str, details: Details) -> str:
        """Leave no byte on a path's file system."""
        path = details.path or "/data"
        self._exec(host, _FILL, path)
        return f"{path} on {host} is full"

    def _hold_driver(self, host: str, details: Details) -> str:
        """Have the kernel keep the driver that it has, whatever is installed, until the host boots."""
        del details
        self._exec(host, _HOLD_DRIVER)
        return f"the kernel of {host} keeps its driver until it boots"

    def _clear(self, host: str, details: Details) -> str:
        """Heal the host's network and disk, have it let go of its driver, and switch the stand-in's faults off."""
        del details
        for words in (("-D", "INPUT", "-j"), ("-D", "OUTPUT", "-j"), ("-F",), ("-X",)):
            self._iptables(host, *words, _CHAIN, check=False)
        self._exec(host, _DRAIN)
        self._exec(host, _LET_DRIVER_GO)
        self._inside(host, "clear", Details())
        return f"{host} has no faults"

    def _inside(self, host: str, kind: str, details: Details) -> str:
        """Pass a fault to the Neuron stand-in on the host."""
        words = [kind]
        for name in ("replica", "device", "factor", "path", "rule"):
            value = getattr(details, name)
            words += [f"--{name}", str(value)] if value is not None else []
        environment = ["--env", f"PYTHONPATH={INSIDE}", "--env", "PYTHONDONTWRITEBYTECODE=1"]
        command = self.podman.command(
            "exec", *environment, self.lab.container(host), "python3", "-m", "neuron_sim", "fault"
        )
        done = subprocess.run(
            [*command, *words],
            env=self.podman.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise LabError(f"{kind} on {host}: {lines[-1] if lines else done.returncode}")
        return done.stdout.strip()

    def _services(self, kind: str, details: Details) -> str:
        """Set or clear a fault of a service."""
        if kind == "clear":
            for url in (self.lab.hub_url, self.lab.aws_url):
                _send(url, "DELETE", {})
            return "the services have no faults"
        if kind not in _SERVICE_KINDS:
            raise LabError(f"no fault {kind!r} of {SERVICES}; there are {', '.join(SERVICE_KINDS)}, clear")
        service, make = _SERVICE_KINDS[kind]
        _send(self.lab.hub_url if service == "hub" else self.lab.aws_url, "PUT", make(details))
        return f"{kind} of {SERVICES}"


def _send(url: str, method: str, fault: dict[str, Any]) -> None:
    """Tell a service its fault."""
    request = urllib.request.Request(f"{url}/_lab/fault", json.dumps(fault).encode(), method=method)  # noqa: S310
    try:
        urllib.request.urlopen(request, timeout=30).close()  # noqa: S310 - the lab's own address
    except urllib.error.URLError as error:
        raise LabError(f"the services do not answer: {error}; `trainyard lab up` starts them") from error
