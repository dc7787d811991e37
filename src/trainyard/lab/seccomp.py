# SPDX-License-Identifier: Apache-2.0
"""The system call profile of a lab host: podman's own, but CPU and NUMA placement are accepted and have no effect.

A trn2.48xlarge has 192 CPUs on two NUMA nodes. A unit that binds a replica to CPUs 96-143 is right there and could not
start on the machine under the lab; so the calls that bind answer "done", and nothing is bound.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

#: Where distributions keep podman's profile.
PROFILES = (Path("/usr/share/containers/seccomp.json"), Path("/etc/containers/seccomp.json"))
PLACEMENT = ("sched_setaffinity", "set_mempolicy", "mbind", "migrate_pages", "move_pages", "set_mempolicy_home_node")


def without_placement(profile: dict[str, Any]) -> dict[str, Any]:
    """A profile in which the placement calls return 0 without having happened."""
    rules = []
    for rule in profile.get("syscalls", []):
        names = [name for name in rule.get("names", []) if name not in PLACEMENT]
        if names:
            rules.append({**rule, "names": names})
    rules.append({"names": list(PLACEMENT), "action": "SCMP_ACT_ERRNO", "errnoRet": 0, "args": []})
    return {**profile, "syscalls": rules}


def profile() -> str:
    """The profile as JSON; where the distribution has none, everything but placement is allowed."""
    found = next((path for path in PROFILES if path.exists()), None)
    base = (
        json.loads(found.read_text(encoding="utf-8")) if found else {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}
    )
    return json.dumps(without_placement(base), indent=1)
