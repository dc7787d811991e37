# SPDX-License-Identifier: Apache-2.0
"""Podman, called the way this machine needs it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from typing import Any, BinaryIO

from trainyard.lab.cache import cache_dir, digest, write
from trainyard.lab.errors import LabError
from trainyard.lab.machine import Machine

_QUIET = ("failed to connect to syslog",)


class Podman:
    """Runs podman commands; every answer is text, every failure a LabError that shows podman's own words."""

    def __init__(self, machine: Machine) -> None:
        """Prepare the call; the cache gets the containers.conf that the machine may need."""
        self.machine = machine
        self._prefix = machine.prefix()
        self._environment = dict(os.environ)
        conf = machine.containers_conf()
        if conf is not None:
            # Not in the lab's folder: podman still reads it while it cleans up behind a container, when that has gone.
            path = cache_dir() / f"containers-{digest(conf)[:8]}.conf"
            if not path.exists():
                write(path, conf)
            self._environment["CONTAINERS_CONF"] = str(path)

    def command(self, *words: str) -> list[str]:
        """The full command line of a podman command.

        runc is named where it is there: crun raises a limit that not every root may raise.
        """
        runtime = ["--runtime", self.machine.runtime] if self.machine.runtime else []
        return [*self._prefix, "podman", *runtime, *words]

    @property
    def environment(self) -> dict[str, str]:
        """The environment that goes with `command`."""
        return self._environment

    def run(self, *words: str, check: bool = True, stdin: BinaryIO | int = subprocess.DEVNULL) -> str:
        """Run `podman *words`, return its standard output.

        Raises:
            LabError: it failed and `check` is true.
        """
        result = subprocess.run(
            self.command(*words), env=self._environment, stdin=stdin, capture_output=True, text=True, check=False
        )
        if result.returncode and check:
            errors = [line for line in result.stderr.splitlines() if not any(quiet in line for quiet in _QUIET)]
            raise LabError(f"podman {words[0]} failed ({result.returncode}): {' / '.join(errors[-3:])}")
        return result.stdout

    def succeeds(self, *words: str) -> bool:
        """Whether `podman *words` ends with 0."""
        result = subprocess.run(
            self.command(*words), env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        return result.returncode == 0

    def json(self, *words: str) -> Any:
        """The JSON answer of `podman *words`; an empty answer is an empty list."""
        return json.loads(self.run(*words) or "[]")

    def containers(self, lab: str) -> dict[str, dict[str, Any]]:
        """The containers of a lab (running or not) by name, as `podman ps` describes them."""
        found = self.json("ps", "--all", "--filter", f"label=trainyard.lab={lab}", "--format", "json")
        return {row["Names"][0]: row for row in found}

    def remove(self, names: Sequence[str]) -> None:
        """Remove containers with their anonymous volumes; names that are gone already are no error."""
        words = ("rm", "--force", "--ignore", "--volumes", "--time", "2", *names)
        # podman stumbles over a container that ends by itself between its look and its SIGKILL; the next look is right.
        if names and not self.succeeds(*words):
            self.run(*words)
