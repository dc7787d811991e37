# SPDX-License-Identifier: Apache-2.0
"""The lab's hosts as instances of the EC2 stand-in: what asks EC2 for a fleet finds the hosts that there are.

Told by PUT of a JSON list of `{"id", "name", "address", "instance_type", "state"}` to `/_lab/hosts`; an instance that
is not in the list is terminated. Instances that somebody launched are none of these.
"""

from __future__ import annotations

import json
from typing import Any

HOSTS_PATH = "/_lab/hosts"
REGION = "us-east-1"
ACCOUNT = "123456789012"
_FIELDS = ("id", "name", "address", "instance_type", "state")
_STATES = {"running": 16, "stopped": 80}


def read(text: bytes) -> list[dict[str, str]]:
    """Read the list of hosts.

    Raises:
        ValueError: not such a list.
    """
    given: Any = json.loads(text or b"[]")
    if not isinstance(given, list):
        raise ValueError("hosts are a JSON list")
    for host in given:
        if not isinstance(host, dict) or sorted(host) != sorted(_FIELDS) or host["state"] not in _STATES:
            raise ValueError(f"a host is an object of {', '.join(_FIELDS)}; its state is {' or '.join(_STATES)}")
    return given


_known: dict[str, dict[str, str]] = {}


def known() -> dict[str, dict[str, str]]:
    """The hosts of the list, by their addresses."""
    return dict(_known)


def apply(hosts: list[dict[str, str]]) -> None:
    """Bring the instances to what the list says."""
    _known.clear()
    _known.update({host["address"]: host for host in hosts})
    from moto.ec2.models import ec2_backends

    backend = ec2_backends[ACCOUNT][REGION]
    reservations = backend.reservations.values()
    instances = [instance for reservation in reservations for instance in reservation.instances]
    known = {instance.id: instance for instance in instances if getattr(instance, "is_lab_host", False)}
    for host in hosts:
        instance = known.pop(host["id"], None) or _launch(backend, host)
        instance._state.name, instance._state.code = host["state"], _STATES[host["state"]]
        instance.instance_type = host["instance_type"]
    gone = [identifier for identifier, instance in known.items() if instance._state.name != "terminated"]
    if gone:
        backend.terminate_instances(gone)


def _launch(backend: Any, host: dict[str, str]) -> Any:
    """A new instance with the host's own id and address."""
    image = next(iter(backend.amis))
    reservation = backend.run_instances(
        image_id=image,
        count=1,
        user_data=None,
        security_group_names=[],
        instance_type=host["instance_type"],
        is_instance_type_default=False,
    )
    (instance,) = reservation.instances
    instance.id = host["id"]
    instance.is_lab_host = True
    instance.nics[0].private_ip_address = host["address"]
    for address in instance.nics[0].private_ip_addresses:
        address["PrivateIpAddress"] = host["address"]
    backend.create_tags([instance.id], {"Name": host["name"]})
    return instance
