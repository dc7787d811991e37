# SPDX-License-Identifier: Apache-2.0
"""How many replicas of a host load at the same time: a load takes up to a checkpoint of memory, serving takes little.

The places are marks in the run-time directories of the replicas, which systemd removes with the service: a start that
is killed leaves none. So the limit holds at boot, after a crash and in a roll alike, whoever starts the units.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import Callable, Iterator, List, Optional

from . import layout, settings, trusted
from .settings import Replica

POLL_S = 1.0
MARK = "loading"
#: systemd's own limit of a step is put off while it waits, in microseconds.
PATIENCE = "EXTEND_TIMEOUT_USEC=60000000"


def loading(besides: str) -> List[str]:
    """Names of the replicas that load now, without one."""
    marks = settings.RUNTIME.glob("*/" + MARK)
    return sorted(mark.parent.name for mark in marks if mark.parent.name != besides)


def take(replica: Replica, notify: Callable[[str], None], sleep: Optional[Callable[[float], None]] = None) -> None:
    """Wait for a place among those that load, and take it.

    Args:
        replica: what is to be started; ``loads_at_once`` of 0 is no limit.
        notify: gets a line of status for ``systemctl status`` while it waits.
        sleep: for tests.
    """
    if not replica.loads_at_once or not replica.scratch.is_dir():
        return
    while True:
        with _alone():
            others = loading(replica.name)
            if len(others) < replica.loads_at_once:
                trusted.write_text(replica.scratch / MARK, "")
                return
        notify("waits for its turn to load: {0} first, for want of memory\n{1}".format(", ".join(others), PATIENCE))
        (sleep or time.sleep)(POLL_S)


def give_back(replica: Replica) -> None:
    """The load is over."""
    try:
        (replica.scratch / MARK).unlink()
    except FileNotFoundError:
        return


@contextmanager
def _alone() -> Iterator[None]:
    """One replica at a time looks for a place.

    The lock is the directory itself: a file in it could be a link that its user made and root would open.
    """
    lock = os.open(layout.STATE, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
