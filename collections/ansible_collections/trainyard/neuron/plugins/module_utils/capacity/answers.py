# SPDX-License-Identifier: Apache-2.0
"""Whether a launched host answers by SSH, and what to do where it does not.

A host runs minutes before anything on it answers. What is asked for is the line that an SSH server says first; a key
is not needed for it.
"""

from __future__ import annotations

import errno
import socket
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

PORT = 22
ASKED_FOR_S = 3.0
MOST_BYTES = 255
#: Why a host does not answer, and what helps.
SILENT = (
    "nothing comes back: it still boots, or its security group lets SSH in from elsewhere (trainium_launch_ssh_from), "
    "or there is no way from this machine to its network"
)
NO_WAY = (
    "this machine has no way to its network: run where there is one, or reach hosts by SSM (without "
    "trainium_launch_public_key)"
)
NO_SERVER = "it runs, and no SSH server listens yet; `aws ec2 get-console-output --latest` says how far its start is"
NO_SSH = "something answers there that is no SSH server"
NO_ADDRESS = "EC2 gave it no address"

Ask = Callable[[str], str]


def why_silent(address: str, port: int = PORT, asked_for_s: float = ASKED_FOR_S) -> str:
    """Why no SSH server answers at an address this moment; empty where one does."""
    try:
        with socket.create_connection((address, port), timeout=asked_for_s) as connection:
            said = connection.recv(MOST_BYTES)
    except socket.timeout:
        return SILENT
    except OSError as error:
        if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
            return NO_WAY
        # One that closes at once is a server that starts or has no room.
        return NO_SERVER
    if not said:
        return NO_SERVER
    return "" if said.startswith(b"SSH-") else NO_SSH


def reasons(hosts: Sequence[Tuple[str, Sequence[str]]], ask: Ask = why_silent) -> Dict[str, str]:
    """Why hosts do not answer, by their names; those that do are left out.

    Args:
        hosts: a name and its addresses; one that answers is enough.
        ask: replaces `why_silent`.
    """
    found = {}
    for name, addresses in hosts:
        said = [ask(address) for address in addresses if address] or [NO_ADDRESS]
        if "" not in said:
            found[name] = said[0]
    return found


def checks(rows: Sequence[Mapping[str, Any]]) -> Dict[str, str]:
    """EC2's own checks of instances, by their ids, for a person: ``system ok, instance impaired``, and its events."""
    found = {}
    for row in rows:
        said: List[str] = [
            "{0} {1}".format(word.lower(), row["{0}Status".format(word)].get("Status", "unknown"))
            for word in ("System", "Instance")
            if row.get("{0}Status".format(word))
        ]
        said += ["event {0}".format(event["Code"]) for event in row.get("Events") or [] if event.get("Code")]
        found[row["InstanceId"]] = ", ".join(said)
    return found
