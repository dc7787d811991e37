# SPDX-License-Identifier: Apache-2.0
"""Several playbooks as one run: the hosts' lock is taken by the first, held between them, and given back at the end."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field

from trainyard.paths import playbook  # makes the planner's imports possible

RUN, OVER = "TRAINYARD_RUN", "TRAINYARD_RUN_OVER"
"""Environment of the playbooks; trainyard.neuron.roll_lock reads it."""
UNLOCK = playbook("unlock")


@dataclass(frozen=True)
class OneRun:
    """What the playbooks of a program have in common.

    Attributes:
        verb: what the program does.
        token: what tells this run of it from others.
        pid: the program's process: while it lives, the lock is nobody else's to take over.
    """

    verb: str
    token: str = field(default_factory=lambda: secrets.token_hex(4))
    pid: int = field(default_factory=os.getpid)

    @property
    def part(self) -> dict[str, str]:
        """Environment of a playbook that is a part of the run."""
        return {RUN: f"{self.verb}-{self.token}:{self.pid}"}

    @property
    def end(self) -> dict[str, str]:
        """Environment of `UNLOCK`, the last one."""
        return {**self.part, OVER: "1"}
