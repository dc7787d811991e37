# SPDX-License-Identifier: Apache-2.0
"""What is marked on a host while it makes way for a change: that it left rotation, that its monitor was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, List, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.serving.settings import LEAVING

#: Holds the driver as replicas do and serves no request: it is stopped for a change of the driver, and started after.
MONITOR = "trainyard-monitor.service"
MONITOR_STOPPED = Path("/run/trainyard/monitor-stopped")

Run = Callable[[List[str]], Tuple[int, str, str]]


def is_paused() -> bool:
    """Return whether this host was taken out of service here, or its monitor stopped."""
    return LEAVING.exists() or MONITOR_STOPPED.exists()


def stop_monitor(run: Run) -> bool:
    """Stop the monitor of the devices and note that it is to be started again; returns whether it ran."""
    if run(["systemctl", "is-active", "--quiet", MONITOR])[0] != 0:
        return False
    run(["systemctl", "stop", MONITOR])
    MONITOR_STOPPED.parent.mkdir(parents=True, exist_ok=True)
    MONITOR_STOPPED.touch()
    return True


def start_monitor(run: Run) -> bool:
    """Start the monitor of the devices where it was stopped here; returns whether it was."""
    if not MONITOR_STOPPED.exists():
        return False
    run(["systemctl", "start", MONITOR])
    MONITOR_STOPPED.unlink()
    return True


def return_to_service(mark: Path = LEAVING) -> bool:
    """Let replicas of this host answer routers again; returns whether they did not."""
    if not mark.exists():
        return False
    mark.unlink()
    return True


def resume(run: Run) -> bool:
    """Undo what was done to make way for a change; returns whether there was anything."""
    paused = is_paused()
    start_monitor(run)
    return_to_service(LEAVING)
    return paused
