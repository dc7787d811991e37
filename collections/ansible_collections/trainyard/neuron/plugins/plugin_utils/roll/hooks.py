# SPDX-License-Identifier: Apache-2.0
"""What the task files of a user read of each replica, whatever kind of hook they are. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Dict, Mapping


@dataclass(frozen=True)
class HookReplica:
    """One row of `roll_hook_replicas`.

    Attributes:
        id: the replica's id in the fleet, ``host:name``.
        name: its name on its host.
        host: the inventory name of its host.
        address: where routers reach it.
        port: the port of its server.
        url: both as a URL.
        served_name: what clients ask the routers for.
    """

    id: str
    name: str
    host: str
    address: str
    port: int
    url: str
    served_name: str

    @classmethod
    def of(cls, host: str, row: Mapping[str, Any]) -> HookReplica:
        """Return the row of a replica, from its entry in the plan or from a roll's move.

        Args:
            host: the inventory name of its host.
            row: what has the other words.
        """
        return cls(host=host, **{field.name: row[field.name] for field in fields(cls) if field.name != "host"})

    def to_dict(self) -> Dict[str, Any]:
        """Return the JSON-ready form."""
        return dict(vars(self))
