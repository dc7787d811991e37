# SPDX-License-Identifier: Apache-2.0
"""Hosts of a fleet as EC2 instances: found by their tags, launched once each, ended only by name.

A host is known by the tags of its instance (fleet and host), within EC2's eventual consistency by its client token: the
token is made of what the host is and of the instances that had its name before, so a killed run's launch is found again
and a replacement is not taken for it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

FLEET_TAG = "trainyard:fleet"
HOST_TAG = "trainyard:host"
ROLES_TAG = "trainyard"
#: Instances that are there or come; the rest have ended, or are ending.
ALIVE = ("pending", "running", "stopping", "stopped")
LEAST_ROOT_GIB = 512
#: Network cards of a type, all with EFA where the type has it; from EC2's own description of its types.
NETWORK_CARDS = {"trn1.32xlarge": 8, "trn1n.32xlarge": 16, "trn2.3xlarge": 1, "trn2.48xlarge": 16, "trn2u.48xlarge": 16}


class LaunchError(ValueError):
    """Hosts cannot be what was asked for; nothing was launched."""


@dataclass(frozen=True)
class Host:
    """One host that is wanted.

    Args:
        name: in the fleet.
        roles: words of the tag ``trainyard``: deployments, ``router``, ``client``.
    """

    name: str
    roles: Tuple[str, ...]


@dataclass(frozen=True)
class Launch:
    """What all hosts of a launch share.

    Args:
        fleet: whose they are.
        image_id: an AMI by its id; never "latest".
        instance_type: of the hosts.
        reservation: the capacity block; empty for on-demand.
        subnet_id: in the block's zone.
        security_group_ids: of their interfaces.
        key_name: an EC2 key pair; empty where hosts are reached by SSM.
        profile_arn: instance profile; empty for none.
        root_device: name of the image's root volume.
        root_gib: its size.
        efa: whether each network card gets an EFA interface.
        public_address: whether a host gets a public address.
        user_data: what a host runs at its first start; empty for nothing.
    """

    fleet: str
    image_id: str
    instance_type: str
    reservation: str
    subnet_id: str
    security_group_ids: Tuple[str, ...]
    key_name: str = ""
    profile_arn: str = ""
    root_device: str = "/dev/sda1"
    root_gib: int = LEAST_ROOT_GIB
    efa: bool = False
    public_address: bool = False
    user_data: str = ""


@dataclass(frozen=True)
class Instance:
    """An instance that carries a fleet's tag.

    Args:
        id: EC2's.
        host: its name in the fleet.
        roles: of its tag.
        state: EC2's word.
        instance_type: of it.
        image_id: it was launched from.
        reservation: block that it is in; empty for none.
        address: private address; empty while it has none.
        public_address: empty where it has none.
    """

    id: str
    host: str
    roles: Tuple[str, ...]
    state: str
    instance_type: str
    image_id: str
    reservation: str
    address: str
    public_address: str = ""

    def as_dict(self) -> Dict[str, Any]:
        """The instance for a module's result."""
        return {**self.__dict__, "roles": list(self.roles)}


@dataclass(frozen=True)
class Change:
    """What brings a fleet's instances to what is wanted.

    Args:
        launch: hosts without an instance, each with the ids of instances that had its name before.
        retag: instance id to the roles that it is to have.
        unwanted: instances whose host is not wanted; named, and never ended by this.
        kept: instances that stay.
    """

    launch: Tuple[Tuple[Host, Tuple[str, ...]], ...]
    retag: Tuple[Tuple[str, Tuple[str, ...]], ...]
    unwanted: Tuple[Instance, ...]
    kept: Tuple[Instance, ...]


def read(row: Mapping[str, Any]) -> Instance:
    """Read one instance of EC2's answer."""
    tags = {tag["Key"]: tag["Value"] for tag in row.get("Tags") or []}
    return Instance(
        id=row["InstanceId"],
        host=tags.get(HOST_TAG, ""),
        roles=tuple(sorted(tags.get(ROLES_TAG, "").split())),
        state=row["State"]["Name"],
        instance_type=row["InstanceType"],
        image_id=row["ImageId"],
        reservation=row.get("CapacityReservationId") or "",
        address=row.get("PrivateIpAddress") or "",
        public_address=row.get("PublicIpAddress") or "",
    )


def problems(launch: Launch, hosts: Sequence[Host]) -> List[str]:
    """Why a launch cannot be, each with what would do."""
    found = []
    names = [host.name for host in hosts]
    found += [
        "hosts: {0} is there {1} times; each host has a name of its own".format(name, names.count(name))
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    if not launch.image_id.startswith("ami-"):
        found.append("image_id: {0!r} is no image's id (ami-...)".format(launch.image_id))
    if launch.root_gib < LEAST_ROOT_GIB:
        found.append(
            "root_gib: {0} is too small; Neuron's images ask for {1} at least".format(launch.root_gib, LEAST_ROOT_GIB)
        )
    if launch.efa and launch.instance_type not in NETWORK_CARDS:
        found.append("efa: {0} has no EFA; types that do: {1}".format(launch.instance_type, ", ".join(NETWORK_CARDS)))
    if launch.efa and launch.public_address:
        found.append("public_address: EC2 gives none to a host with several interfaces; reach it by SSM or a bastion")
    return found


def compare(launch: Launch, hosts: Sequence[Host], found: Sequence[Instance]) -> Change:
    """What is to be done; two instances of one host, or one that differs in what cannot change, are refused.

    Raises:
        LaunchError: says which instances, and what would do.
    """
    wrong: List[str] = []
    to_launch, retag, kept = [], [], []
    alive = [instance for instance in found if instance.state in ALIVE]
    for host in hosts:
        its = [instance for instance in alive if instance.host == host.name]
        if len(its) > 1:
            ids = ", ".join(sorted(instance.id for instance in its))
            wrong.append("host {0} has {1} instances: {2}. End all but one by its id".format(host.name, len(its), ids))
            continue
        if not its:
            before = sorted(instance.id for instance in found if instance.host == host.name)
            to_launch.append((host, tuple(before)))
            continue
        (instance,) = its
        fixed = (
            ("instance_type", instance.instance_type, launch.instance_type),
            ("reservation", instance.reservation, launch.reservation),
        )
        wrong += [
            "host {0} ({1}) has {2} {3!r}, and {4!r} is asked for: end it by its id, or ask for what it is".format(
                host.name, instance.id, *row
            )
            for row in fixed
            if row[1] != row[2]
        ]
        kept.append(instance)
        if instance.roles != tuple(sorted(host.roles)):
            retag.append((instance.id, tuple(sorted(host.roles))))
    if wrong:
        raise LaunchError("; ".join(wrong))
    names = {host.name for host in hosts}
    unwanted = tuple(instance for instance in alive if instance.host not in names)
    return Change(tuple(to_launch), tuple(retag), unwanted, tuple(kept))


def token(launch: Launch, host: Host, before: Sequence[str]) -> str:
    """The client token of a launch: the same for the same host, words and predecessors. 64 characters."""
    words = {**launch.__dict__, "host": host.name, "before": sorted(before)}
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


def interfaces(launch: Launch) -> List[Dict[str, Any]]:
    """Network interfaces of a host: one, and with EFA one more for each card, none of which has an address.

    The layout is EC2's own: card 0 device 0 is a plain interface, card 0 device 1 and device 0 of each other card are
    ``efa-only``.
    """
    shared = {"SubnetId": launch.subnet_id, "Groups": list(launch.security_group_ids), "DeleteOnTermination": True}
    first: Dict[str, Any] = {"NetworkCardIndex": 0, "DeviceIndex": 0, "InterfaceType": "interface", **shared}
    if not launch.efa:
        return [{**first, "AssociatePublicIpAddress": launch.public_address}]
    cards = range(NETWORK_CARDS[launch.instance_type])
    return [first] + [
        {"NetworkCardIndex": card, "DeviceIndex": 0 if card else 1, "InterfaceType": "efa-only", **shared}
        for card in cards
    ]


def request(launch: Launch, host: Host, before: Sequence[str]) -> Dict[str, Any]:
    """The arguments of ``run_instances`` for one host."""
    tags = [
        {"Key": "Name", "Value": "{0}-{1}".format(launch.fleet, host.name)},
        {"Key": FLEET_TAG, "Value": launch.fleet},
        {"Key": HOST_TAG, "Value": host.name},
        {"Key": ROLES_TAG, "Value": " ".join(sorted(host.roles))},
    ]
    root = {"VolumeSize": launch.root_gib, "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}
    asked: Dict[str, Any] = {
        "ImageId": launch.image_id,
        "InstanceType": launch.instance_type,
        "MinCount": 1,
        "MaxCount": 1,
        "ClientToken": token(launch, host, before),
        "NetworkInterfaces": interfaces(launch),
        # Two hops: what runs in a container may ask where the deployment lets it.
        "MetadataOptions": {
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 2,
            "InstanceMetadataTags": "enabled",
        },
        "BlockDeviceMappings": [{"DeviceName": launch.root_device, "Ebs": root}],
        "TagSpecifications": [
            {"ResourceType": kind, "Tags": tags} for kind in ("instance", "volume", "network-interface")
        ],
    }
    if launch.reservation:
        asked["InstanceMarketOptions"] = {"MarketType": "capacity-block"}
        asked["CapacityReservationSpecification"] = {
            "CapacityReservationTarget": {"CapacityReservationId": launch.reservation}
        }
    if launch.key_name:
        asked["KeyName"] = launch.key_name
    if launch.profile_arn:
        asked["IamInstanceProfile"] = {"Arn": launch.profile_arn}
    if launch.user_data:
        asked["UserData"] = launch.user_data
    return asked


def slots_problem(wanted: int, free: int, reservation: str) -> Optional[str]:
    """Why a block cannot take so many hosts; none where it can."""
    if wanted <= free:
        return None
    return "block {0} has {1} free slots and {2} hosts are to be launched: ask for fewer, or buy a larger one".format(
        reservation, free, wanted
    )
