# SPDX-License-Identifier: Apache-2.0
"""Which packages and users a role still lacks on a host, found without the package manager: one short call.

Asking Ansible's own modules costs a module run each, and the package manager's reads all of its lists.
"""

from __future__ import annotations

import fnmatch
import pwd
import subprocess
from typing import List, Mapping, Sequence

QUERY = ("dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status} ${Version}\\n")


def missing_packages(wanted: Sequence[str]) -> List[str]:
    """Packages of the list that are not installed, or not in the version asked for (``name=3.0.*``)."""
    if not wanted:
        return []
    names = [row.partition("=")[0] for row in wanted]
    try:
        done = subprocess.run([*QUERY, *names], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    except FileNotFoundError:
        return list(wanted)
    rows = [line.split() for line in done.stdout.decode("utf-8", "replace").splitlines()]
    installed = {row[0]: row[2] for row in rows if len(row) == 3 and row[1] == "installed"}
    return [row for row in wanted if not _fits(installed, *row.partition("=")[::2])]


def _fits(installed: Mapping[str, str], name: str, version: str) -> bool:
    return name in installed and (not version or fnmatch.fnmatchcase(installed[name], version))


def wrong_users(wanted: Sequence[Mapping[str, str]]) -> List[Mapping[str, str]]:
    """Users of the list that are not there, or have another home or shell."""
    return [row for row in wanted if not _is_there(row)]


def _is_there(row: Mapping[str, str]) -> bool:
    try:
        found = pwd.getpwnam(row["name"])
    except KeyError:
        return False
    return (found.pw_dir, found.pw_shell) == (row["home"], row["shell"])
