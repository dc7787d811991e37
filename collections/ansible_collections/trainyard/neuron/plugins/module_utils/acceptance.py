# SPDX-License-Identifier: Apache-2.0
"""What a host says of its Neuron devices, as it says it: the evidence that acceptance judges. Nothing is changed."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from pathlib import Path
from typing import Any, Dict, List, Optional

from ansible_collections.trainyard.neuron.plugins.module_utils.serving.slices import CORE_VARIABLES, environment_of
from ansible_collections.trainyard.neuron.plugins.module_utils.storage.volume import IMAGE_MOUNT, IMAGE_UNIT
from ansible_collections.trainyard.neuron.plugins.module_utils.watch.devices import folders, read_value

STAGES = ("look", "device")

#: No command is waited for longer, and no more of its output is taken.
COMMAND_TIMEOUT_S, MOST_BYTES = 20, 4 << 20
SYSFS = Path("/sys")
#: Where units are, of the host's own and of its packages.
UNIT_PLACES = ("etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
#: Counters that every driver of ours has, at a device and at a core.
_OF_A_DEVICE = ("mem_ecc_uncorrected", "sram_ecc_uncorrected")
_OF_A_CORE = "stats/other_info/reset_fail_count/total"


def command(argv: List[str]) -> Dict[str, Any]:
    """Return a command's exit status and what it printed; status None and the reason where it does not run."""
    try:
        done = subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"status": None, "out": "", "err": str(error)[:500]}
    return {
        "status": done.returncode,
        "out": done.stdout[:MOST_BYTES].decode("utf-8", "replace"),
        "err": done.stderr[:500].decode("utf-8", "replace"),
    }


def first_line(argv: List[str]) -> Dict[str, Any]:
    """Return the first line of a command that goes on, which is ended then; as `command`."""
    try:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError as error:
        return {"status": None, "out": "", "err": str(error)[:500]}
    end = threading.Timer(COMMAND_TIMEOUT_S, process.kill)
    end.start()
    try:
        line = process.stdout.readline(MOST_BYTES) if process.stdout else b""
    finally:
        end.cancel()
        process.kill()
        process.communicate()
    said = "" if line else "it printed nothing within %d s" % COMMAND_TIMEOUT_S
    return {"status": 0 if line else None, "out": line.decode("utf-8", "replace"), "err": said}


def device_nodes(directory: Path) -> List[int]:
    """Return the numbers of the devices below a directory of device files."""
    try:
        names = [entry.name for entry in directory.iterdir()]
    except OSError:
        return []
    found = [re.match(r"neuron(\d{1,4})$", name) for name in names]
    return sorted(int(match.group(1)) for match in found if match)


def rights(directory: Path, numbers: List[int]) -> Dict[str, str]:
    """Return the permission bits of devices' files, as chmod writes them."""
    found = {}
    for number in numbers:
        try:
            found[str(number)] = "%04o" % ((directory / ("neuron%d" % number)).stat().st_mode & 0o7777)
        except OSError:
            continue
    return found


def image_volume(root: Path) -> Dict[str, Any]:
    """Return what is there of the volume that a machine image makes: its unit's state, and whether it is mounted."""
    asked = command(["systemctl", "--root=" + str(root), "is-enabled", IMAGE_UNIT])
    try:
        mounts = (root / "proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        mounts = ""
    mounted = any(line.split(" ")[1:2] == [IMAGE_MOUNT] for line in mounts.splitlines())
    there = any((root / place / IMAGE_UNIT).exists() for place in UNIT_PLACES)
    return {"unit": there, "state": asked["out"].strip()[:50], "mounted": mounted}


def process_of(pid: Any) -> Dict[str, Any]:
    """Return whether a process lives, and which cores it says it was given; nothing else of it is taken."""
    if isinstance(pid, bool) or not isinstance(pid, int) or pid < 1:
        return {"alive": False, "cores": None}
    said = environment_of(pid)
    cores = [said[name] for name in CORE_VARIABLES if said.get(name)]
    return {"alive": Path("/proc/%d" % pid).exists(), "cores": cores[0] if cores else None}


def counters(sysfs: Path) -> Dict[str, bool]:
    """Return for each device of sysfs whether the counters that are watched are numbers there."""
    found = {}
    for number, folder in folders(sysfs):
        paths = [folder / "stats/hardware" / name for name in _OF_A_DEVICE] + [folder / "neuron_core0" / _OF_A_CORE]
        values = [read_value(path) for path in paths]
        found[str(number)] = all(value is not None and value.isdigit() for value in values)
    return found


def evidence(
    stages: List[str],
    tools: Path,
    devices: Path,
    instance_type: Optional[str],
    pids_of: Any,
    sysfs: Path = SYSFS,
    root: Path = Path("/"),
) -> Dict[str, Any]:
    """Return what the chosen stages judge.

    Args:
        stages: of `STAGES`.
        tools: directory of `neuron-ls` and `neuron-monitor`.
        devices: directory of the device files.
        instance_type: what the host is known to be.
        pids_of: takes the text of `neuron-ls --json-output`, returns the processes that it names.
        sysfs: where the kernel shows its devices.
        root: of the host's files.
    """
    listed = command([str(tools / "neuron-ls"), "--json-output"])
    found: Dict[str, Any] = {"instance_type": instance_type, "neuron_ls": listed}
    if "look" in stages:
        found["neuron_ls_table"] = command([str(tools / "neuron-ls")])
    if "device" in stages:
        found["device_nodes"] = device_nodes(devices)
        found["rights"] = rights(devices, found["device_nodes"])
        found["image_volume"] = image_volume(root)
        found["sysfs"] = counters(sysfs)
        found["monitor"] = first_line([str(tools / "neuron-monitor")])
        found["processes"] = {str(pid): process_of(pid) for pid in pids_of(listed["out"])}
        found["effective_user"] = os.geteuid()
    return found
