# SPDX-License-Identifier: Apache-2.0
"""What a container of a deployment's image may do on a host: the evidence of acceptance's checks of containers."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Sequence

from ansible_collections.trainyard.neuron.plugins.module_utils.serving import container, oci

NAME = "trainyard-accept"
#: A start from an image that nothing has run from yet unpacks it.
TIMEOUT_S = 600
#: As a replica's unit runs it: the engine makes the container's control group below the unit's own.
UNIT = ("systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--property=Delegate=yes")
#: Runs inside: opens each device, and says what the process may do.
PROGRAM = """
import errno, json, os, sys
found = {}
for path in sys.argv[1:]:
    try:
        os.close(os.open(path, os.O_RDWR))
        found[path] = ""
    except OSError as error:
        found[path] = errno.errorcode.get(error.errno, "?")
with open("/proc/self/status") as file:
    status = dict(line.rstrip().split(":", 1) for line in file if ":" in line)
said = {"devices": found, "capabilities": status["CapEff"].strip(), "no_new_privileges": status["NoNewPrivs"].strip()}
print(json.dumps(said))
"""


def container_trial(engine: str, image: str, devices: Path, unit: Sequence[str] = UNIT) -> Dict[str, Any]:
    """Return what a process in a container saw of the devices and of its own rights.

    Args:
        engine: ``podman`` or ``docker``.
        image: the deployment's, which is not pulled for this.
        devices: directory of the device files.
        unit: what the command line runs under.
    """
    if not shutil.which(engine):
        return {"skipped": "%s is not on the host: provision first" % Path(engine).name}
    paths = [str(path) for path in sorted(devices.glob("neuron[0-9]*"))]
    try:
        if _run([engine, "image", "inspect", image]).returncode != 0:
            return {"skipped": "the image is not on the host: provision first"}
        asked = ["python3", "-c", PROGRAM, *paths]
        argv = oci.command(engine, NAME, image, asked, (), (), container.rights(paths))
        done = _run([*unit, *argv])
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"failed": "%s: %s" % (type(error).__name__, str(error)[:200])}
    lines: List[bytes] = done.stdout.splitlines() or [b""]
    try:
        said = json.loads(lines[-1].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        said = None
    return {**(said if isinstance(said, dict) else {}), "status": done.returncode}


def _run(argv: Sequence[str]) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip
