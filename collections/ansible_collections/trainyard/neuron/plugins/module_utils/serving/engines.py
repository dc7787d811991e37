# SPDX-License-Identifier: Apache-2.0
"""The processes behind a replica's server: who they are, and to know at once when one ends.

A server whose engine was killed goes on to take requests until it notices, which is seconds (vLLM asks its engine's
process every 5 s at most). The kernel tells of an end at once, by a descriptor of the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import threading
from typing import Dict, FrozenSet, List, Optional, Tuple

from . import slices, trusted
from .settings import Replica

MOST_ENGINES = 1024
"""Processes that are followed for one replica; the native plugin has one a core."""


def holding(replica: Replica) -> FrozenSet[int]:
    """Process ids that hold the replica's cores now.

    Raises:
        ServingError: ``neuron-ls`` does not work.
    """
    devices = slices.read_devices(replica.neuron_ls)
    return frozenset(holder.pid for holder in slices.holders(devices, slices.parse_cores(replica.cores)))


def _pids_of(text: str) -> List[int]:
    """Process ids in a gate's record.

    Raises:
        ValueError: it is no such record.
    """
    row = json.loads(text)
    named = row.get("engines", []) if isinstance(row, dict) else None
    if not isinstance(named, list):
        raise ValueError("no record of a gate")
    return [pid for pid in named[:MOST_ENGINES] if isinstance(pid, int) and pid > 1]


class Engines:
    """The engines of one start of a replica, as its gate recorded them."""

    def __init__(self) -> None:
        self._started: Optional[Tuple[int, int]] = None
        self._pids: Dict[int, int] = {}
        self._poll = select.poll()

    def follow(self, replica: Replica) -> None:
        """Take over the engines of a start that passed its gate; leave alone those already followed."""
        path = replica.scratch / "gate.json"
        try:
            status = path.lstat()
            started = (status.st_ino, status.st_mtime_ns)
            if started == self._started:
                return
            pids = _pids_of(trusted.read_text(path))
        except (OSError, ValueError, RecursionError):
            self.close()
            return
        self.close()
        self._started = started
        for pid in pids:
            self._add(pid, replica.name)

    def _add(self, pid: int, name: str) -> None:
        try:
            descriptor = os.pidfd_open(pid)
        except (AttributeError, OSError):
            # Python 3.8 and Linux before 5.3 have none; the server's own silence tells then. A process that has ended
            # already has taken its server along, or another start is under way.
            return
        if slices.environment_of(pid).get("TRAINYARD_REPLICA", name) != name:
            os.close(descriptor)
            return
        self._pids[descriptor] = pid
        self._poll.register(descriptor, select.POLLIN)

    def wait(self, timeout_s: float, over: threading.Event) -> int:
        """Process id of an engine that ended, as soon as it does; 0 if none does within the time.

        Args:
            timeout_s: how long to wait, in seconds.
            over: ends the wait at once where no engine is followed.
        """
        if not self._pids:
            over.wait(timeout_s)
            return 0
        for descriptor, _event in self._poll.poll(timeout_s * 1000):
            pid = self._pids.pop(descriptor)
            self._poll.unregister(descriptor)
            os.close(descriptor)
            return pid
        return 0

    def close(self) -> None:
        """Follow nobody."""
        for descriptor in list(self._pids):
            self._poll.unregister(descriptor)
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._pids.clear()
        self._started = None
