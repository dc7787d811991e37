# SPDX-License-Identifier: Apache-2.0
"""Take the replicas of one host out of service from the host itself, without a failed request.

The standing probe answers the routers' agent checks. While the mark that is set here is there it says that the host is
leaving, so routers send nothing new and what is in the engines ends by itself; then the units are stopped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Mapping

from ansible_collections.trainyard.neuron.plugins.module_utils import units
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import metrics
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.host import Host, unit_of
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import trusted
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.settings import LEAVING

POLL_S = 0.5

#: How long routers may take to ask the agent again, seconds. Only after that does an idle engine stay idle.
NOTICE_S = 10.0


class VacateError(Exception):
    """Replicas still have requests; they were not stopped and are back in rotation."""


def vacate(
    host: Host, running: List[str], why: str, deadline_s: float, stop_timeout_s: float, mark: Path = LEAVING
) -> None:
    """Stop the running replicas of this host when the last of their requests has ended.

    Args:
        host: access to the host.
        running: names of the units.
        why: told to routers, and to people who ask them.
        deadline_s: how long requests may take to end.
        stop_timeout_s: how long a stop may take.
        mark: the file by which the probe knows; it stays, and goes with `making_way.return_to_service`.

    Raises:
        VacateError: requests are left at the deadline; nothing was stopped.
        units.UnitError: a unit could not be stopped.
    """
    names = [name for name in host.releases.names() if unit_of(name) in running]
    mark.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    trusted.write_text(mark, why + "\n", 0o644)
    began = host.clock()
    left = _in_flight(host, names)
    while left or host.clock() - began < NOTICE_S:
        if left and host.clock() - began >= deadline_s:
            mark.unlink(missing_ok=True)
            raise VacateError(
                f"{', '.join(f'{name} still has {count:g} requests' for name, count in left.items())} "
                f"{deadline_s:g} s after this host left rotation. They were not stopped and are back in rotation"
            )
        host.sleep(POLL_S)
        left = _in_flight(host, names)
    statuses = host.systemd.show(list(running))
    steps = [
        units.Step(units.Wanted(name=status.name, state="stopped", timeout_s=stop_timeout_s), status, "stop")
        for status in statuses
    ]
    units.carry_out(host.systemd, steps, False, units.Settings(sleep=host.sleep, clock=host.clock))


def _in_flight(host: Host, names: List[str]) -> Mapping[str, float]:
    """Return the requests in the engine of each replica that has any; one that does not answer has none to wait for."""
    found = {}
    for name in names:
        entry: Mapping[str, Any] = host.releases.started(name) or host.releases.current(name)
        text = host.fetch(str(entry.get("url", "")))
        if text is not None and metrics.answers_load(text):
            found[name] = metrics.read(text).in_flight
    return {name: count for name, count in found.items() if count}
