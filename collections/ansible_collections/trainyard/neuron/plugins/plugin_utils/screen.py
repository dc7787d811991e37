# SPDX-License-Identifier: Apache-2.0
"""What the callback `people` prints, as lines: pure, so that each line can be tested without a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: How many changed things of one task are named; the rest is counted.
NAMED = 3


def duration(seconds: float) -> str:
    """Return a time for people: `4 s`, `2 min 5 s`, `1 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    minutes = whole % 3600 // 60
    return f"{whole // 3600} h {minutes} min" if minutes else f"{whole // 3600} h"


def task_name(name: str) -> str:
    """Return Ansible's `role : task` as people write it."""
    role, colon, task = name.partition(" : ")
    return f"{role}: {task}" if colon else name


def harmless(text: str) -> str:
    """Return a line without what would move a terminal's cursor or colour it: hosts write these lines too."""
    return "".join(letter if letter.isprintable() or letter == "\t" else "?" for letter in text)


def lines_of(message: Any) -> list[str]:
    """Return a message as lines; a list has one line, or more, for each of its items."""
    items = message if isinstance(message, (list, tuple)) else [message]
    return [harmless(line.rstrip()) for item in items for line in str(item).strip("\n").split("\n")]


def message_of(result: Mapping[str, Any]) -> list[str]:
    """Return what a failed result says, as lines: its message, and what a command printed where there is none."""
    if result.get("censored"):
        return ["(hidden: there is a secret in it; the log on the host may say more)"]
    found = lines_of(result["msg"]) if result.get("msg") else []
    # `non-zero return code` alone helps nobody.
    for name in ("stderr", "module_stderr", "stdout"):
        if len(found) < 2 and result.get(name):
            found += lines_of(result[name])[-10:]
    return found or ["(it gave no reason)"]


def things_of(result: Mapping[str, Any]) -> list[str]:
    """Return what a result says that it changed: packages and users, paths, units with what was done to them."""
    things = [str(item) for item in result.get("installed") or []]
    things += [str(path) for path in result.get("changed_paths") or []]
    for unit in result.get("units") or []:
        if isinstance(unit, Mapping) and unit.get("did"):
            things.append(f"{unit.get('name')} ({', '.join(map(str, unit['did']))})")
    return things


def changes(result: Mapping[str, Any], room: int | None = None) -> str:
    """Return what changed in a few words; empty where the result does not say.

    Args:
        result: of a task.
        room: how many columns there are for it; fewer things are named where they would not fit, and at least one.
    """
    things = things_of(result)
    # What runs is what people ask for first.
    units = [thing for thing in things if thing.endswith(")")]
    ordered = units + [thing for thing in things if thing not in units]
    for named in range(min(NAMED, len(things)), 0, -1):
        more = len(things) - named
        text = harmless(", ".join(ordered[:named])) + (f", and {more} more" if more else "")
        if room is None or len(text) <= room:
            return text
    return text if things else ""


def summary(changed: Mapping[str, int], failed: Iterable[str], seconds: float, check: bool) -> str:
    """Return how a stage went.

    Args:
        changed: number of tasks that changed something, by host.
        failed: hosts that failed or were not reached.
        seconds: how long the stage took.
        check: nothing was changed, it was only said what would be.
    """
    lost = sorted(set(failed))
    tasks = sum(changed.values())
    hosts = sum(1 for count in changed.values() if count)
    verb = "to change" if check else "changed"
    words = [f"{tasks} {verb} on {hosts} host{'s' if hosts != 1 else ''}" if tasks else "nothing to change"]
    if lost:
        words.append(f"failed on {', '.join(lost[:5])}{f' and {len(lost) - 5} more' if len(lost) > 5 else ''}")
    return f"{', '.join(words)}, {duration(seconds)}"


def warnings(found: Mapping[str, list[str]]) -> list[str]:
    """Return the warnings of a run as lines.

    Args:
        found: hosts that gave it, in order, by the text of the warning.
    """
    lines = [f"Warnings ({len(found)})"] if found else []
    for text, hosts in found.items():
        shown = [host for host in dict.fromkeys(hosts) if not text.startswith(f"{host}:")]
        whom = f"  ({', '.join(shown[:5])}{f' and {len(shown) - 5} more' if len(shown) > 5 else ''})" if shown else ""
        first, *rest = lines_of(text)
        lines += [f"  ! {first}{whom if not rest else ''}", *(f"    {line}" for line in rest)]
        if rest and whom:
            lines.append(f"   {whom}")
    return lines
