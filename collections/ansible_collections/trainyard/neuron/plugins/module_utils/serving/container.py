# SPDX-License-Identifier: Apache-2.0
"""A replica whose vLLM is in a container image: the same unit, with podman or docker as its main process.

The container gets every device, since the core numbers of the plan are the host's and the runtime counts the devices
that it sees; that a replica keeps to its slice is the runtime's doing, as on the host. It gets the weights and the
artifact read-only, and the host's network, since the plan gave it a port. `oci.py` says what is corrected of the image.
Of the run-time directory it gets what a server itself writes and nothing else: the rest is root's, who acts upon it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import List, Mapping, Sequence, Tuple

from . import adapters, oci
from .settings import SCRATCH_VARIABLES, Replica, ServingError

COMMAND_TIMEOUT_S = 60
DEVICES = Path("/dev")
#: What a server keeps of root's: images and checkpoints hold files of other users that root is used to read.
CAPABILITIES = ("DAC_OVERRIDE",)
# Variables of the unit that are the toolkit's own or the engine's, and so belong into the container.
OWN_VARIABLES = ("SPT_NOENV", "TRAINYARD_RELEASE", "TRAINYARD_REPLICA", "VLLM_API_KEY")


def devices() -> List[str]:
    """The host's Neuron devices, in the order of their numbers."""
    return sorted((str(path) for path in DEVICES.glob("neuron[0-9]*")), key=lambda path: (len(path), path))


def name_of(replica: Replica) -> str:
    """The container's name."""
    return "vllm-" + replica.name


def rights(paths: Sequence[str]) -> List[str]:
    """Options of the engine for what a container may do: the devices, and what it keeps of root's."""
    options: List[str] = []
    for capability in CAPABILITIES:
        options += ["--cap-add", capability]
    for path in paths:
        options += ["--device", path]
    return options


def command(replica: Replica, passed: Sequence[str]) -> Tuple[str, ...]:
    """The whole command line that becomes the unit's main process.

    Args:
        replica: what to run; its argv is the container's command.
        passed: names of the variables that the container gets. Their values are not in the command line.
    """
    options = rights(devices())
    if replica.container_cpus and not oci.is_podman(replica.container_engine):
        # Docker's containers are no children of the unit and inherit no affinity from it.
        options += ["--cpuset-cpus", replica.container_cpus]
    more = [(str(row.get("path") or ""), "ro") for row in replica.more_weights]
    more += [(path, "ro") for path in replica.files]
    if replica.adapters:
        more.append((str(adapters.view_of(replica)), "ro"))
    read = ((replica.weights_path, "ro"), *more, (replica.artifact_path, _artifact_mode(replica)))
    volumes = [(path, mode) for path, mode in read if path] + [(path, "rw") for path in _written(replica)]
    return oci.command(
        replica.container_engine, name_of(replica), replica.image or "", replica.argv, volumes, passed, options
    )


def _written(replica: Replica) -> List[str]:
    """Directories of the replica's own that its server writes in."""
    named = [replica.environment.get(variable, "") for variable in SCRATCH_VARIABLES]
    return [path for path in named if replica.scratch in Path(os.path.normpath(path)).parents]


def _artifact_mode(replica: Replica) -> str:
    return "rw" if replica.generation == "native" else "ro"


def passed_variables(replica: Replica, environment: Mapping[str, str]) -> List[str]:
    """Names of the variables that a container gets: those of its configuration, and the toolkit's own."""
    return sorted(name for name in {*replica.environment, *OWN_VARIABLES} if name in environment)


def check(replica: Replica) -> None:
    """Refuse a start without the engine or the image, and clear away what an earlier start left.

    Raises:
        ServingError: the engine or the image is missing.
    """
    if not shutil.which(replica.container_engine):
        raise ServingError("{0} is not installed; run the provision playbook".format(replica.container_engine))
    if _run(replica.container_engine, "image", "inspect", replica.image or "").returncode != 0:
        raise ServingError("the image {0} is not on this host; run the provision playbook".format(replica.image))
    remove(replica)


def remove(replica: Replica) -> None:
    """Remove the replica's container if there is one, running or not: a client that was killed leaves it behind."""
    _run(replica.container_engine, "rm", "--force", name_of(replica))


def _run(*words: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            list(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServingError("{0}: {1}".format(" ".join(words[:3]), error)) from error
