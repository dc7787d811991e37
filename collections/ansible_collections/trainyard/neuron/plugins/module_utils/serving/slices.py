# SPDX-License-Identifier: Apache-2.0
"""Who holds which NeuronCores, from ``neuron-ls --json-output``.

``neuron-ls`` lists processes for each *device*; a process that says in its environment which cores it was given is
counted for those cores only, any other for all cores of the device.
"""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, FrozenSet, List, Optional, Sequence, Set

from .settings import ServingError

CORE_VARIABLES = ("NEURON_RT_VISIBLE_CORES", "NEURON_VISIBLE_DEVICES")
COMMAND_TIMEOUT_S = 30
# Before SDK 2.28 two calls of neuron-ls at the same moment could make one of them fail.
ATTEMPTS = 4

CORE_DIGITS, MOST_CORES = 5, 4096
"""Digits of a core's number, and cores of a device, beyond which it is none."""


@dataclass(frozen=True)
class Holder:
    """A process that uses cores of a slice."""

    pid: int
    command: str
    devices: FrozenSet[int]

    def __str__(self) -> str:
        devices = ", ".join(str(device) for device in sorted(self.devices))
        return "process {0} ({1}) on device {2}".format(self.pid, self.command, devices)


def parse_cores(text: str) -> FrozenSet[int]:
    """``0-3,8`` as a set of numbers; empty for text that is no core list."""
    cores: Set[int] = set()
    try:
        for part in text.split(","):
            first, _, last = part.strip().partition("-")
            if max(len(first), len(last)) > CORE_DIGITS:
                return frozenset()
            cores.update(range(int(first), int(last or first) + 1))
    except ValueError:
        return frozenset()
    return frozenset(cores)


def read_devices(neuron_ls: str) -> List[Dict[str, Any]]:
    """The devices with their processes.

    Raises:
        ServingError: ``neuron-ls`` is missing, keeps failing, or prints no JSON.
    """
    said = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(0.5 * attempt)
        try:
            done = subprocess.run(
                [neuron_ls, "--json-output"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
            if done.returncode == 0:
                devices: List[Dict[str, Any]] = json.loads(done.stdout.decode("utf-8", "replace"))
                return devices
            said = done.stderr.decode("utf-8", "replace").strip() or "exit code {0}".format(done.returncode)
        except (OSError, ValueError, RecursionError, subprocess.TimeoutExpired) as error:
            said = str(error)
    raise ServingError("{0} does not work: {1}".format(neuron_ls, said))


def environment_of(pid: int) -> Dict[str, str]:
    """A process's environment, empty if it may not be read."""
    try:
        raw = Path("/proc/{0}/environ".format(pid)).read_bytes().decode("utf-8", "replace")
    except OSError:
        return {}
    return dict(row.split("=", 1) for row in raw.split("\0") if "=" in row)


def holders(
    devices: Sequence[Dict[str, Any]],
    cores: FrozenSet[int],
    environment: Callable[[int], Dict[str, str]] = environment_of,
) -> List[Holder]:
    """Processes that hold at least one of the cores, sorted by process id.

    Args:
        devices: what ``neuron-ls --json-output`` prints.
        cores: logical cores of the slice.
        environment: gives the environment of a process id.

    Raises:
        ServingError: what was printed is no list of devices.
    """
    try:
        return _holders(devices, cores, environment)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        said = "neuron-ls printed no list of devices ({0}: {1}); run it by hand, and look whether the driver is loaded"
        raise ServingError(said.format(type(error).__name__, error)) from error


def _holders(
    devices: Sequence[Dict[str, Any]], cores: FrozenSet[int], environment: Callable[[int], Dict[str, str]]
) -> List[Holder]:
    found: Dict[int, Holder] = {}
    first = 0
    for device in devices:
        count = min(int(device.get("nc_count", 0)), MOST_CORES)
        # The ids are printed from tools 2.25 on; before that they follow from the order of the devices.
        own = frozenset(device.get("neuroncore_ids") or range(first, first + count))
        first += count
        if not own & cores:
            continue
        for process in device.get("neuron_processes") or []:
            pid = int(process["pid"])
            if _uses(environment(pid), cores):
                before = found[pid].devices if pid in found else frozenset()
                found[pid] = Holder(pid, str(process.get("command", "")), before | {int(device["neuron_device"])})
    return [found[pid] for pid in sorted(found)]


def _uses(environment: Dict[str, str], cores: FrozenSet[int]) -> bool:
    for variable in CORE_VARIABLES:
        given = parse_cores(environment.get(variable, ""))
        if given:
            return bool(given & cores)
    return True


def wait_free(
    neuron_ls: str,
    cores: FrozenSet[int],
    timeout_s: float,
    sleep: Optional[Callable[[float], None]] = None,
) -> List[Holder]:
    """Wait until nobody holds the cores; returns who still does when the time is over (empty: they are free)."""
    pause = sleep or time.sleep
    deadline = time.monotonic() + timeout_s
    while True:
        left = holders(read_devices(neuron_ls), cores)
        if not left or time.monotonic() >= deadline:
            return left
        pause(0.5)
