# SPDX-License-Identifier: Apache-2.0
"""A container engine for a stand-in that is a directory: a command runs beside it, with the rights that options leave.

A lab's hosts have the real podman; this one knows what is needed to see what a container may do, and no image.
"""

from __future__ import annotations

import os
import subprocess
import sys

from . import rules
from .config import HostConfig

#: Options that have a value of their own after them.
_WITH_VALUE = (
    *("--name", "--pull", "--network", "--ipc", "--entrypoint", "--cap-drop", "--cap-add", "--security-opt"),
    *("--pids-limit", "--cgroups", "--log-driver", "--device", "--volume", "--env", "--ulimit", "--cpuset-cpus"),
)


def main(host: HostConfig, argv: list[str]) -> int:
    """Run the command of ``run``; every image is there."""
    if argv[:2] == ["image", "inspect"]:
        return 0
    if argv[:1] != ["run"]:
        print(f"Error: unrecognized command {' '.join(argv[:1])}", file=sys.stderr)
        return 125
    words, added = argv[1:], []
    while words and words[0].startswith("-"):
        if words[0] == "--cap-add":
            added.append(words[1].lower())
        words = words[2 if words[0] in _WITH_VALUE else 1 :]
    command = words[1:]
    if rules.holds(host, "container-rights"):
        # Only root has what could be taken away.
        bounds = ["--bounding-set", ",".join(["-all", *(f"+{name}" for name in added)]), "--inh-caps", "-all"]
        command = ["setpriv", "--no-new-privs", *(bounds if os.geteuid() == 0 else []), *command]
    return subprocess.run(command, check=False).returncode
