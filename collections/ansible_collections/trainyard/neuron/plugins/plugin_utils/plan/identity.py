# SPDX-License-Identifier: Apache-2.0
"""Whether hosts are what they seem: names that files, units and HAProxy take, and one address of its own for each."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple, Union

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem

ADDRESS, CONNECTION = "trainyard_address", "ansible_host"

#: What a host's name may be: it is part of paths, units, HAProxy's servers and the ids of replicas (`host:replica`).
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
NAME_CHARACTERS = 128

#: Names of Ansible's and of the playbooks' own groups: a pattern would mean either.
GROUPS = frozenset({"all", "ungrouped", "neuron", "router", "client"})

_INSTANCE_ID = re.compile(r"m?i-[0-9a-f]{8,17}")

#: Networks for documentation (RFC 5737, RFC 3849): no host has an address there.
EXAMPLE_NETWORKS = tuple(
    ipaddress.ip_network(text) for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
)

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


@dataclass(frozen=True)
class Seat:
    """One host of the fleet, by what the plan takes for it.

    Attributes:
        name: its inventory name.
        address: where others are to reach it.
        variable: the variable that gave the address; empty where it is the inventory name itself.
        met: whether anybody but the host itself has to reach it there.
        own: the addresses that the host says it has; None where it was not asked.
        serves: whether it has replicas, which others connect to; the others connect to them.
    """

    name: str
    address: str
    variable: str
    met: bool
    own: Optional[Tuple[str, ...]] = None
    serves: bool = True


def seat(name: str, variables: Mapping[str, Any], met: bool, reported: Any = None, serves: bool = True) -> Seat:
    """Return what the plan takes for a host.

    Args:
        name: its inventory name.
        variables: its variables.
        met: as `Seat`.
        serves: as `Seat`.
        reported: what it said of itself, if it was asked.
    """
    own = reported.get("addresses") if isinstance(reported, Mapping) else None
    known = tuple(str(item) for item in own) if isinstance(own, (list, tuple)) and own else None
    for variable in (ADDRESS, CONNECTION):
        if variables.get(variable):
            return Seat(name, str(variables[variable]), variable, met, known, serves)
    return Seat(name, name, "", met, known, serves)


def parsed(text: str) -> Optional[Address]:
    """Return an address, None of what is none."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def problems_of(seats: Sequence[Seat]) -> Tuple[List[Problem], List[Problem]]:
    """Return what cannot be true of the hosts of a fleet, and what only will not be.

    Args:
        seats: every host that serves, routes or sends, each once.
    """
    problems: List[Problem] = []
    warnings: List[Problem] = []
    for item in seats:
        problems += _name_problems(item.name)
        wrong = _address_problem(item)
        problems += [wrong] if wrong else []
        address = parsed(item.address)
        if not wrong and item.met and address is not None and any(address in network for network in EXAMPLE_NETWORKS):
            rule = "is an address of documentation, which no host has"
            warnings.append(Problem(item.name, _variable(item), item.address, rule, "give the host's private address"))
    return problems + _shared(seats), warnings + _translated(seats)


def _variable(item: Seat) -> str:
    return item.variable or ADDRESS


def _name_problems(name: str) -> List[Problem]:
    fix = "name it otherwise, such as by its instance id, and keep the address in ansible_host"
    if not NAME.fullmatch(name):
        rule = "must be letters, digits and . _ - behind one of the first two (paths, units and HAProxy have it)"
        return [Problem(name, "inventory name", name, rule, fix)]
    if len(name) > NAME_CHARACTERS:
        rule = "has %d characters; file names and units take %d" % (len(name), NAME_CHARACTERS)
        return [Problem(name, "inventory name", name, rule, fix)]
    if name in GROUPS:
        return [Problem(name, "inventory name", name, "is also the name of a group", fix)]
    return []


def _address_problem(item: Seat) -> Optional[Problem]:
    """Return why others cannot reach a host where the inventory says; nothing of one whom nobody has to reach."""
    variable = _variable(item)
    if _INSTANCE_ID.fullmatch(item.address) and (item.met or item.variable):
        rule = "is an instance id: it connects through SSM, and no program can send to it"
        fix = "set %s to the private address (compose: %s: private_ip_address)" % (ADDRESS, ADDRESS)
        return Problem(item.name, variable, item.address, rule, fix)
    if not item.met:
        return None
    address = parsed(item.address)
    if address is None:
        rule = (
            "is a name, and others must reach the host: fences take addresses, and its own name is often its loopback"
        )
        fix = "set %s to the private address%s" % (ADDRESS, _such_as(item))
        return Problem(item.name, variable, item.address, rule, fix)
    kind = _unusable(address)
    if kind:
        rule = "is %s, and others must reach the host there" % kind
        return Problem(
            item.name, variable, item.address, rule, "set %s to the private address%s" % (ADDRESS, _such_as(item))
        )
    if item.own is not None and str(address) not in item.own:
        rule = "is no address of the host, which has %s: nothing could listen there" % ", ".join(item.own)
        fix = "set %s to its private address%s; ansible_host may stay" % (ADDRESS, _such_as(item))
        return Problem(item.name, variable, item.address, rule, fix)
    return None


def _unusable(address: Address) -> str:
    if address.is_loopback:
        return "the loopback"
    if address.is_unspecified:
        return "every address"
    if address.is_multicast:
        return "a multicast address"
    if address.is_link_local:
        return "a link-local address"
    if str(address) == "255.255.255.255" or (address.is_reserved and not address.is_private):
        return "a reserved address"
    return ""


def _such_as(item: Seat) -> str:
    """Return the address that a host most likely is to be reached at."""
    found = [parsed(text) for text in item.own or ()]
    private = [str(address) for address in found if address is not None and address.is_private]
    return ": %s" % private[0] if private else ""


def _translated(seats: Sequence[Seat]) -> List[Problem]:
    """Return the senders known by a public address, where replicas on private ones will most likely see another."""
    serving = [parsed(item.address) for item in seats if item.serves and item.met]
    private = [address for address in serving if address is not None and address.is_private and not _unusable(address)]
    problems = []
    for item in seats:
        address = parsed(item.address)
        if private and not item.serves and address is not None and address.is_global:
            rule = (
                "is public, and replicas at private addresses (%s) may see another one, which they refuse" % private[0]
            )
            fix = "set %s to the private address; %s may stay" % (ADDRESS, CONNECTION)
            problems.append(Problem(item.name, _variable(item), item.address, rule, fix))
    return problems


def _shared(seats: Sequence[Seat]) -> List[Problem]:
    """Return the addresses that several hosts claim: one would be planned twice, and the others never reached."""
    by_address: Dict[str, List[Seat]] = {}
    for item in seats:
        address = parsed(item.address)
        if address is not None and not _unusable(address):
            by_address.setdefault(str(address), []).append(item)
    problems = []
    for text in sorted(by_address):
        names = [item.name for item in by_address[text]]
        if len(names) > 1:
            rule = "is the address of %s: one host cannot be two" % ", ".join(names)
            fix = "give each its own, or take all but one of the names away"
            problems += [Problem(item.name, _variable(item), text, rule, fix) for item in by_address[text]]
    return problems
