# SPDX-License-Identifier: Apache-2.0
"""The last hour of a capacity block: what is still possible when, and whether work fits before it.

EC2 begins to terminate a block's instances half an hour before its end. All moments count from the end, which is read
anew at each step, because an extension moves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Optional

#: Seconds before the end: the last chance to extend, the start of leaving, EC2's warning, an unpaid extension fails,
#: instances begin to vanish. Source: the EC2 user guide on capacity blocks.
LAST_EXTENSION_S = 60 * 60
EVACUATE_S = 45 * 60
WARNING_S = 40 * 60
UNPAID_EXTENSION_S = 35 * 60
TERMINATION_S = 30 * 60


@dataclass(frozen=True)
class Phase:
    """Where in its life a block is.

    Args:
        name: ``scheduled``, ``serving``, ``extend_or_leave``, ``leaving``, ``vanishing`` or ``over``.
        says: what that means to a person.
        next_in_s: seconds to the next phase; none where there is none.
    """

    name: str
    says: str
    next_in_s: Optional[float]


def phase(now: datetime, start: datetime, end: datetime) -> Phase:
    """Where a block is in its life."""
    to_start, left = (start - now).total_seconds(), (end - now).total_seconds()
    if to_start > 0:
        return Phase("scheduled", "has not begun", to_start)
    if left > LAST_EXTENSION_S:
        return Phase("serving", "serves", left - LAST_EXTENSION_S)
    if left > EVACUATE_S:
        return Phase("extend_or_leave", "can be extended no more; replicas leave soon", left - EVACUATE_S)
    if left > TERMINATION_S:
        return Phase("leaving", "replicas drain, artifacts and results are saved", left - TERMINATION_S)
    if left > 0:
        return Phase("vanishing", "EC2 terminates its instances", left)
    return Phase("over", "is over", None)


def end_of(value: Any) -> Optional[datetime]:
    """Read an end, or a start, as an inventory or EC2 gives it: ISO text or a moment; nothing for no block.

    Raises:
        ValueError: it is no moment, or names no time zone, and then nobody knows which hour is meant.
    """
    if value in (None, ""):
        return None
    found = value
    if not isinstance(found, datetime):
        text = str(value)
        try:
            found = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith(("Z", "z")) else text)
        except ValueError as error:
            raise ValueError("must be an ISO time") from error
    if found.tzinfo is None:
        raise ValueError("must name its time zone")
    if not 2000 <= found.year < 9999:
        raise ValueError("must be a time of a block")
    return found.astimezone(timezone.utc)


def time_for_work_s(now: datetime, end: datetime) -> float:
    """Seconds that work on a block's hosts may take from now on, before its replicas begin to leave; 0 for none."""
    return max((end - now).total_seconds() - EVACUATE_S, 0.0)


def countdown(seconds: float) -> str:
    """A time that is left, as a person reads it: ``2 d 3 h``, ``3 h 05 min``, ``12 min``, ``over``."""
    if seconds <= 0:
        return "over"
    minutes = int(seconds // 60)
    days, hours = divmod(minutes // 60, 24)
    if days:
        return "{0} d {1} h".format(days, hours)
    if hours:
        return "{0} h {1:02d} min".format(hours, minutes % 60)
    return "{0} min".format(minutes)


def too_late(what: str, takes_s: float, now: datetime, end: datetime) -> Optional[str]:
    """Why work may not begin; none where it fits.

    Args:
        what: the work, as ``the compile of llama``.
        takes_s: how long it is expected to take, at most.
        now: with a time zone.
        end: the block's end, with a time zone.
    """
    left_s = time_for_work_s(now, end)
    if takes_s <= left_s:
        return None
    leaving = end - timedelta(seconds=EVACUATE_S)
    return (
        "{0} takes up to {1}, and the capacity block leaves {2}: its replicas begin to leave at {3:%Y-%m-%d %H:%M} "
        "UTC, {4} minutes before its end. Extend the block (playbooks/extend.yml), or take less".format(
            what, countdown(takes_s), countdown(left_s), leaving, EVACUATE_S // 60
        )
    )
