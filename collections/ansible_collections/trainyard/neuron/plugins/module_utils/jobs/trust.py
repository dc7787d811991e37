# SPDX-License-Identifier: Apache-2.0
"""Trust between two hosts for one job: one line of an `authorized_keys` file that lets its key read one result.

The line runs one program whatever its client asks for, forwards nothing, has no terminal, and expires by itself. The
receiver has it removed when it is done; the private key is made on the receiver, never leaves it, and goes with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator, List

from . import manifest

#: How long a line holds when nobody removes it, seconds: a job that takes longer asks for a new one when it resumes.
HOLDS_S = 24 * 3600.0

#: What runs on the sender. Nothing of it needs to be secret, and its user needs no right but to read results.
PROGRAM = (
    "/usr/bin/env",
    "PYTHONPATH=/usr/local/lib/trainyard",
    "/opt/trainyard/tools/bin/python",
    "-B",
    "-m",
    "trainyard_jobs.program",
    "send",
)

#: What makes a line ours; stands where a key has its comment.
MARK = "trainyard-job"

_LINE = re.compile(
    rf'restrict,expiry-time="(?P<expires>\d+)",command="(?P<command>[^"]*)" '
    rf"(?P<key>\S+ \S+) {MARK} job=(?P<job>\S+) receiver=(?P<receiver>\S+) turn=(?P<turn>\d+)"
)

#: A public key as `ssh-keygen` writes it, without its comment.
_KEY = re.compile(r"(ssh|ecdsa|sk)-[a-z0-9@.-]+ [A-Za-z0-9+/]+=*")


@dataclass(frozen=True)
class Grant:
    """One receiver's leave to read one result."""

    #: Name of the job, `<kind>-<id>`.
    job: str
    #: Directory of the result on the sender.
    path: str
    receiver: str
    turn: int
    public_key: str

    def line(self, now_s: float) -> str:
        """Return the line of `authorized_keys`.

        Raises:
            ValueError: a value that would break out of the line.
        """
        key = " ".join(self.public_key.split()[:2])
        if not _KEY.fullmatch(key):
            raise ValueError(f"{self.public_key!r} is not a public key")
        for value in (self.job, self.path, self.receiver):
            if not re.fullmatch(r"[A-Za-z0-9_./:@+-]+", value):
                raise ValueError(f"{value!r} cannot be part of a key's options")
        command = shlex.join([*PROGRAM, self.job, self.path, self.receiver])
        expires = time.strftime("%Y%m%d%H%M", time.localtime(now_s + HOLDS_S))  # sshd reads local time
        return (
            f'restrict,expiry-time="{expires}",command="{command}" '
            f"{key} {MARK} job={self.job} receiver={self.receiver} turn={self.turn}"
        )


class AuthorizedKeys:
    """A user's `authorized_keys`; lines that are not ours are never touched."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def lines(self) -> List[str]:
        """Return all lines, empty where there is no file."""
        try:
            return self._path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []

    def ahead_of(self, job: str, receiver: str) -> int:
        """Return how many receivers of a job have an earlier turn and are not done."""
        turns = {match["receiver"]: int(match["turn"]) for match in self._ours() if match["job"] == job}
        mine = turns.get(receiver, 0)
        return sum(turn < mine for turn in turns.values())

    def grant(self, wanted: Grant, now_s: float) -> None:
        """Let a receiver read; replaces what it was granted for this job before, and drops what has expired."""
        line = wanted.line(now_s)
        self._change(lambda lines: [*_without(lines, wanted.job, wanted.receiver, now_s), line])

    def revoke(self, job: str, receiver: str, now_s: float) -> None:
        """Take a receiver's leave back, and drop what has expired."""
        self._change(lambda lines: _without(lines, job, receiver, now_s))

    def _ours(self) -> List["re.Match[str]"]:
        return [match for match in map(_LINE.fullmatch, self.lines()) if match]

    def _change(self, edit: Callable[[List[str]], List[str]]) -> None:
        folder = self._path.parent
        if not folder.is_dir():
            folder.mkdir(mode=0o700)
        with _held(folder):
            before = self.lines()
            after = edit(before)
            if after != before:
                manifest.write_atomically(self._path, "".join(f"{line}\n" for line in after), mode=0o600)


def _without(lines: List[str], job: str, receiver: str, now_s: float) -> List[str]:
    """Return the lines that stay when a receiver's leave ends."""
    now = time.strftime("%Y%m%d%H%M", time.localtime(now_s))

    def stays(line: str) -> bool:
        match = _LINE.fullmatch(line)
        return match is None or not ((match["job"], match["receiver"]) == (job, receiver) or match["expires"] < now)

    return [line for line in lines if stays(line)]


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep others out: the controller grants for several receivers at once."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def of_this_user() -> AuthorizedKeys:
    """Return the file of the user that this process runs as."""
    return AuthorizedKeys(Path.home() / ".ssh" / "authorized_keys")
