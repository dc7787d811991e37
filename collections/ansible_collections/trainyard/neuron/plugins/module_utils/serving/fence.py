# SPDX-License-Identifier: Apache-2.0
"""The program ``/usr/local/lib/trainyard/fence``: keeps the rules in force that say who may reach this host's replicas.

``load`` puts the rules of ``/etc/vllm/fence.nft`` into force, with the ports of every release on this host (ports may
move), and notes how the kernel shows them. ``check`` compares that note with what it shows now. ``hold`` loads them
again where they differ (before every start of a replica); ``watch`` does so for as long as the host runs. The kernel's
own words are compared with its own words: no second reading of the file can differ from nft's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

from .layout import ROOT, RULES, entry_of, staged_entries

#: Files below it, called `*.nft`, are included in the rules.
PARTS = Path("/etc/trainyard/fence")
LOADED = Path("/run/trainyard-fence/loaded")
#: The kernel's lists of what listens.
SOCKETS = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
_LISTENS = "0A"
STATE = Path("/run/trainyard-fence-watch/state.json")
TABLE = ("inet", "trainyard")
#: Sets of the table, and the word of a replica's plan entry whose ports are in them.
SETS = (("replicas", "port"), ("agents", "agent_port"))
NFT = "/usr/sbin/nft"
UNIT = "trainyard-fence.service"

COMMAND_TIMEOUT_S = 60
#: How often the rules are looked at where the kernel announces no change.
LOOK_S = 5.0
#: How long an announcement waits for others, and so the least time between two looks.
SETTLE_S = 0.1
#: How long a fence may stay open that cannot be loaded before the replicas behind it are stopped.
OPEN_S = 60.0
#: A watch that has written nothing for so long does not run.
STALE_S = 30.0

#: Of Linux's headers: netfilter's netlink family, and its group that changes of rules are announced to.
_NETLINK_NETFILTER, _GROUP_NFTABLES = 12, 1 << (7 - 1)

Say = Callable[[str], None]


class FenceError(Exception):
    """The rules are not in force: the cause and the next command, for the journal."""


def _run(*words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            list(words),
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(words, 127, "", "{0}: {1}".format(words[0], error))


def shown() -> Optional[str]:
    """The table as the kernel shows it, without counters; None where there is none.

    Raises:
        FenceError: the kernel cannot be asked.
    """
    done = _run(NFT, "--stateless", "list", "table", *TABLE)
    if done.returncode == 0:
        return done.stdout
    if done.returncode == 1 and "No such file" in done.stderr:
        return None
    raise FenceError("the rules in force cannot be read: {0}".format(" ".join(done.stderr.split())))


def _digest() -> str:
    found = hashlib.sha256()
    try:
        for path in [RULES, *sorted(PARTS.glob("*.nft"))]:
            content = path.read_bytes()
            found.update("{0} {1}\n".format(path, len(content)).encode() + content)
        return found.hexdigest()
    except OSError as error:
        raise FenceError("{0}: {1}; run the serve playbook for this host".format(RULES, error.strerror)) from error


def of_releases() -> Dict[str, Set[int]]:
    """The ports that replicas have in the releases on this host, by set."""
    found: Dict[str, Set[int]] = {name: set() for name, _word in SETS}
    for path in staged_entries(ROOT):
        entry = entry_of(path)
        for name, word in SETS:
            port = entry.get(word)
            if type(port) is int and 0 < port < 65536:
                found[name].add(port)
    return found


def listening() -> Set[int]:
    """Ports that something on this host listens on."""
    found = set()
    for path in SOCKETS:
        try:
            rows = [line.split() for line in path.read_text(encoding="ascii").splitlines()[1:]]
        except OSError:
            continue  # no IPv6
        found |= {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == _LISTENS}
    return found


def _noted() -> Optional[Tuple[Dict[str, Any], str]]:
    """What was loaded: the note, and the table as the kernel showed it; None if nobody knows."""
    try:
        head, _newline, table = LOADED.read_text(encoding="utf-8").partition("\n")
        note = json.loads(head)
        return {"digest": str(note["digest"]), **{name: set(note[name]) for name, _word in SETS}}, table
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def holds(name: str, port: int) -> bool:
    """Whether the rules that were loaded last keep strangers from a port; true where this host has no rules.

    Args:
        name: of the set, ``replicas`` or ``agents``.
        port: that is going to be listened on.
    """
    if not RULES.exists():
        return True
    noted = _noted()
    return noted is not None and port in noted[0][name]


def load() -> None:
    """Put the rules into force, in one step of the kernel: there is no moment without a fence.

    Raises:
        FenceError: nft refuses them; what was in force before still is.
    """
    digest, ports, before = _digest(), of_releases(), _noted()
    if before is not None:
        # A replica that is being taken away has no release any more, and serves until it is stopped.
        ports = {name: ports[name] | (before[0][name] & listening()) for name in ports}
    text = 'include "{0}"\n'.format(RULES)
    for name in sorted(name for name in ports if ports[name]):
        elements = ", ".join(map(str, sorted(ports[name])))
        text += "add element {0} {1} {{ {2} }}\n".format(" ".join(TABLE), name, elements)
    done = _run(NFT, "-f", "-", given=text)
    if done.returncode != 0:
        raise FenceError(
            "the fence is not loaded, and no replica starts without it: {0}. "
            "Next: nft -c -f {1}; then systemctl restart {2}".format(" ".join(done.stderr.split()), RULES, UNIT)
        )
    table = shown()
    if table is None:
        raise FenceError("the fence was taken away while it was loaded. Next: systemctl restart {0}".format(UNIT))
    note = {"digest": digest, **{name: sorted(ports[name]) for name in ports}}
    LOADED.parent.mkdir(parents=True, exist_ok=True)
    staged = LOADED.with_name(LOADED.name + ".new")
    staged.write_text(json.dumps(note) + "\n" + table, encoding="utf-8")
    staged.replace(LOADED)


def drift() -> str:
    """What differs between the rules in force and those that were loaded; empty where nothing does.

    Raises:
        FenceError: the kernel cannot be asked, or there is no file of rules.
    """
    table = shown()
    if table is None:
        return "the table {0} is gone".format(" ".join(TABLE))
    before = _noted()
    if before is None:
        return "nobody knows what was loaded"
    note, noted = before
    if note["digest"] != _digest():
        return "{0}, or what it includes of {1}, is not what was loaded".format(RULES, PARTS)
    # More than there is harms nobody: releases go when a roll is over.
    if any(ports - note[name] for name, ports in of_releases().items()):
        return "a release came whose ports were not loaded"
    return "" if table == noted else "the rules in force are not those that were loaded"


def hold() -> str:
    """Load the rules again where they differ; what differed, empty where nothing did.

    Raises:
        FenceError: they cannot be loaded.
    """
    try:
        found = drift()
    except FenceError as error:
        found = str(error)
    if found:
        load()
    return found


class Changes:
    """The kernel's announcements that rules changed; where there are none, the next look comes when it is due."""

    def __init__(self) -> None:
        self._link: Optional[socket.socket] = None
        try:
            self._link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
            self._link.bind((0, _GROUP_NFTABLES))
            self._link.setblocking(False)
        except OSError:
            self._link = None

    def wait(self, limit_s: float) -> None:
        """Return when rules may have changed, or when the time is over."""
        if self._link is None:
            time.sleep(limit_s)
            return
        if not select.select([self._link], [], [], limit_s)[0]:
            return
        time.sleep(SETTLE_S)
        self.forget()

    def forget(self) -> None:
        """Take what was announced until now as seen; what was lost in a full buffer was seen too."""
        while self._link is not None:
            try:
                self._link.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                continue


@dataclass
class Watch:
    """What the standing watch has seen.

    Attributes:
        repaired: how often the rules had to be loaded again.
        last: what was wrong the last time.
        problem: why the fence is open now, empty where it is closed.
        open_since: when it was first found open, by the monotonic clock.
    """

    repaired: int = 0
    last: str = ""
    problem: str = ""
    open_since: float = 0.0

    def look(self, now: float, say: Say) -> bool:
        """Look once and repair; whether the fence has been open for so long that the replicas have to go.

        Args:
            now: the monotonic clock, in seconds.
            say: takes a line for the journal.
        """
        try:
            found = hold()
        except FenceError as error:
            if not self.problem:
                self.open_since = now
            if str(error) != self.problem:
                say("the fence is open: {0}".format(error))
            self.problem = str(error)
            return now - self.open_since > OPEN_S
        if self.problem:
            say("the fence is closed again")
        self.problem = ""
        if found:
            self.repaired += 1
            self.last = found
            say("{0}; loaded again".format(found))
        return False

    def publish(self) -> None:
        """Write down what was seen, for people and for the standing probe."""
        row = {"at": time.time(), "repaired": self.repaired, "last": self.last, "problem": self.problem}
        try:
            staged = STATE.with_name(STATE.name + ".new")
            staged.write_text(json.dumps(row) + "\n", encoding="utf-8")
            staged.replace(STATE)
        except OSError:
            # What is written is for people: a full /run must not keep the rules from being looked after.
            return


def watch(say: Say) -> None:
    """Look after the rules for ever: at once when the kernel announces a change, and every few seconds."""
    changes, seen = Changes(), Watch()
    while True:
        if seen.look(time.monotonic(), say):
            say("open for {0:.0f} s: stopping the replicas, which need {1}".format(OPEN_S, UNIT))
            _run("systemctl", "--no-block", "stop", UNIT)
        seen.publish()
        changes.wait(LOOK_S)


def summary() -> str:
    """One line for people about the fence of this host, which any user may ask for."""
    try:
        row = json.loads(STATE.read_text(encoding="utf-8"))
        age_s = time.time() - float(row["at"])
    except (OSError, ValueError, KeyError, TypeError):
        return "fence: nobody watches it; systemctl status {0} trainyard-fence-watch.service".format(UNIT)
    if age_s > STALE_S:
        return "fence: not looked at for {0:.0f} s; systemctl restart trainyard-fence-watch.service".format(age_s)
    if row.get("problem"):
        return "fence: OPEN: {0}".format(row["problem"])
    times = row.get("repaired", 0)
    return "fence: as loaded" + (", repaired {0} times, last because {1}".format(times, row["last"]) if times else "")


def say(text: str) -> None:
    """A line for the journal, at once."""
    sys.stdout.write("trainyard: {0}\n".format(text))
    sys.stdout.flush()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="fence", description="Keep strangers away from the vLLM replicas of this host.")
    verbs = top.add_subparsers(dest="verb", required=True)
    verbs.add_parser("load", help="put the rules into force")
    verbs.add_parser("check", help="fail where the rules in force are not those that were loaded")
    verbs.add_parser("hold", help="load the rules again where they differ")
    verbs.add_parser("watch", help="hold them for as long as the host runs")
    verbs.add_parser("status", help="one line about the fence")
    return top


def run(verb: str) -> List[str]:
    """Carry out one command; what it has to say.

    Raises:
        FenceError: the rules are not in force.
    """
    if verb == "load":
        load()
    elif verb == "check":
        found = drift()
        if found:
            raise FenceError(found)
    elif verb == "hold":
        found = hold()
        return ["{0}; loaded again".format(found)] if found else []
    elif verb == "status":
        return [summary()]
    else:
        watch(say)
    return []


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point; 1 with the cause on stderr where the rules are not in force."""
    os.environ["LC_ALL"] = "C"
    try:
        for line in run(parser().parse_args(argv).verb):
            say(line)
    except FenceError as error:
        sys.stderr.write("trainyard: {0}\n".format(error))
        return 1
    return 0
