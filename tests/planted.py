# SPDX-License-Identifier: Apache-2.0
"""Looks for a secret that a test has planted, in every kind of place where one could come to light on a host."""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterable

from tests.stand_in import Lab

#: Run as root on a host; prints what was found, by kind. The words come in a file, or the search would find itself.
SEARCH = """
import glob, json, os, pathlib, pwd, subprocess, sys
words = [bytes.fromhex(word) for word in sys.argv[1:]]
path = pathlib.Path("/dev/shm/words")
path.touch(mode=0o600)
path.write_bytes(b"\\n".join(words) + b"\\n")
def has(data):
    return any(word in data for word in words)
def read(name):
    try:
        return pathlib.Path(name).read_bytes()
    except OSError:
        return b""
def printed(*argv):
    return subprocess.run(argv, capture_output=True).stdout
skip = ["--exclude-dir=" + name for name in ("proc", "sys", "dev", "trainyard-lab")]
files = printed("grep", "-rlaF", "--devices=skip", *skip, "-f", str(path), "/").decode().split()
processes = [entry for entry in glob.glob("/proc/[0-9]*")]
print(json.dumps({
    "file": {name: oct(os.stat(name).st_mode & 0o777)[2:] for name in files if os.path.exists(name)},
    "journal": [line.decode(errors="replace")[:200] for line in
        printed("journalctl", "--no-pager", "--all", "--output=short").splitlines() if has(line)],
    "unit": [line.decode(errors="replace")[:200] for line in
        printed("systemctl", "show", "--all", "--no-pager", "*").splitlines() if has(line)],
    "command line": [read(entry + "/comm").decode().strip() for entry in processes if has(read(entry + "/cmdline"))],
    "environment": sorted({pwd.getpwuid(os.stat(entry).st_uid).pw_name for entry in processes
        if has(read(entry + "/environ"))}),
}))
path.unlink()
"""

#: systemd's copy of a credential, in memory, for the unit that it belongs to.
RUN_TIME = "/run/credentials/"


def spellings(secret: str) -> list[str]:
    """A secret as it is, and as a module's arguments may have it."""
    return [secret, base64.b64encode(secret.encode()).decode().rstrip("=")]


def places(lab: Lab, host: str, secret: str) -> dict[str, list[str]]:
    """Where a host has a secret: files as `MODE PATH`, lines of the journal and of units, programs, users; none empty.

    Args:
        lab: the lab.
        host: the host's name.
        secret: what was planted.
    """
    packed = base64.b64encode(SEARCH.encode()).decode()
    words = " ".join(word.encode().hex() for word in spellings(secret))
    found = json.loads(lab.on(host, f"echo {packed} | base64 -d | python3 - {words}"))
    kept = {path: mode for path, mode in found.pop("file").items() if not path.startswith(RUN_TIME)}
    # Each release has a directory of its own.
    files = sorted(f"{mode} {re.sub('/releases/[0-9a-f]{12}/', '/releases/ID/', path)}" for path, mode in kept.items())
    return {kind: lines for kind, lines in {"file": files, **found}.items() if lines}


def printed(texts: Iterable[str], secret: str) -> list[str]:
    """What stands before a secret in what Ansible printed, wherever it did; empty where it did not."""
    return [
        text[max(0, text.find(word) - 200) : text.find(word)]
        for text in texts
        for word in spellings(secret)
        if word in text
    ]


def plant(lab: Lab, host: str, secret: str) -> str:
    """Put a secret where none belongs, in each kind of place; what Ansible printed, which has it too."""
    quoted = shlex.quote(secret)
    lab.on(host, f"umask 077; echo {quoted} > /var/tmp/left-behind; logger {quoted}")
    # One process that shows it to every user, one that shows it to its own, and a unit that names it.
    start = "systemd-run --quiet --collect --unit"
    lab.on(host, f"{start} planted-word sh -c 'sleep 600; : {quoted}'")
    lab.on(host, f"{start} planted-variable --setenv=PLANTED={quoted} sleep 600")
    return lab.on(host, f"echo {quoted}")


def take_away(lab: Lab, host: str) -> None:
    """End what `plant` left, but for the journal."""
    lab.on(host, "systemctl stop planted-word planted-variable; rm -f /var/tmp/left-behind")
