# SPDX-License-Identifier: Apache-2.0
"""Machines under the instances that the EC2 stand-in launches: which are wanted, and which there are.

A program on the machine under the lab makes them (`trainyard.lab.machines`). It reads the instances that have one by
GET of `/_lab/machines`, and tells by PUT of a JSON list of `{"id", "address"}` which machines are up. An instance is
pending until its machine is up, and has its machine's address from then on. Where nobody makes machines
(`with_machines` is off), an instance runs at once, as moto has it.
"""

from __future__ import annotations

import json
from typing import Any

from lab.services.ec2 import ACCOUNT, REGION

MACHINES_PATH = "/_lab/machines"
_UP = ("pending", "running")
_PENDING, _RUNNING = ("pending", 0), ("running", 16)


class Machines:
    """What is known of the machines.

    Args:
        with_machines: whether launched instances get any.
    """

    def __init__(self, *, with_machines: bool = False) -> None:
        self.with_machines = with_machines
        self.up: dict[str, str] = {}

    def launched(self, instances: list[Any]) -> None:
        """Have new instances wait for their machines."""
        for instance in instances if self.with_machines else ():
            instance.awaits_machine = True
            instance._state.name, instance._state.code = _PENDING

    def wanted(self) -> list[dict[str, str]]:
        """The instances that have a machine or wait for one, and what it is to be."""
        backend = _backend()
        return [
            {
                "id": instance.id,
                "instance_type": instance.instance_type,
                "public_key": _public_key(backend, instance.key_name),
                "user_data": instance.user_data.decode() if instance.user_data else "",
            }
            for instance in _instances(backend)
            if getattr(instance, "awaits_machine", False) and instance.state in _UP
        ]

    def told(self, rows: Any) -> None:
        """Take the list of machines that are up.

        Raises:
            ValueError: not such a list.
        """
        if not isinstance(rows, list) or any(
            not isinstance(row, dict) or set(row) != {"id", "address"} for row in rows
        ):
            raise ValueError("machines are a JSON list of objects of id and address")
        self.up = {str(row["id"]): str(row["address"]) for row in rows}
        for instance in _instances(_backend()):
            address = self.up.get(instance.id)
            if address and getattr(instance, "awaits_machine", False) and instance.state in _UP:
                has_address(instance, address)
                instance._state.name, instance._state.code = _RUNNING

    def hosts(self) -> dict[str, dict[str, str]]:
        """The machines as instances, by their addresses: whom the metadata service answers."""
        found = {}
        for instance in _instances(_backend()) if self.up else ():
            if address := self.up.get(instance.id):
                found[address] = {"id": instance.id, "address": address, "instance_type": instance.instance_type}
        return found


def has_address(instance: Any, address: str) -> None:
    """Give moto's instance the address of its machine."""
    instance.nics[0].private_ip_address = address
    for row in instance.nics[0].private_ip_addresses:
        row["PrivateIpAddress"] = address


def read(text: bytes) -> Any:
    """The JSON of a request."""
    return json.loads(text or b"[]")


def _backend() -> Any:
    from moto.ec2.models import ec2_backends

    return ec2_backends[ACCOUNT][REGION]


def _instances(backend: Any) -> list[Any]:
    return [instance for reservation in list(backend.reservations.values()) for instance in reservation.instances]


def _public_key(backend: Any, name: str | None) -> str:
    """The public key that lets its owner in; empty for an instance without a key pair."""
    pair = backend.key_pairs.get(name or "")
    return pair.public_key if pair else ""
