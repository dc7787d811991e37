# SPDX-License-Identifier: Apache-2.0
"""Who may reach a router: what it listens on, whose requests it takes there, and what it may not be left without."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Sequence, Tuple, Union

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.fields import BadValueError, whole_number
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem

_Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

ADDRESS, METRICS_ADDRESS = "load_balancer_address", "load_balancer_metrics_address"
METRICS_PORT, DEFAULT_METRICS_PORT = "load_balancer_metrics_port", 8405
VIRTUAL, NETWORKS, KEYS, TLS = (
    "load_balancer_virtual_address",
    "load_balancer_private_networks",
    "load_balancer_keys",
    "load_balancer_tls",
)
OPEN, METRICS_OPEN = "load_balancer_open_to_everybody", "load_balancer_metrics_open_to_everybody"

#: The role's variables that say who may reach a router.
VARIABLES = (ADDRESS, METRICS_ADDRESS, METRICS_PORT, VIRTUAL, NETWORKS, KEYS, TLS, OPEN, METRICS_OPEN)

LOOPBACK = ("127.0.0.0/8", "::1/128")

#: Networks that nobody reaches from the internet: RFC 1918, link-local (RFC 3927), unique local (RFC 4193).
PRIVATE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7", "fe80::/10")

#: Networks of examples (RFC 5737, RFC 3849): an inventory that is still to be filled in can be planned.
_EXAMPLES = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")

EVERYWHERE = "*"
_ANY = (EVERYWHERE, "0.0.0.0", "::")  # noqa: S104 - compared with, and never listened on
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")

#: What an address reaches.
_SELF, _NEAR, _ALL, _NAMED, _WRONG = "loopback", "private", "everywhere", "name", "wrong"


@dataclass(frozen=True)
class Access:
    """Who may reach one router, and where.

    Attributes:
        address: where it is to listen for requests, as it was given.
        metrics_address: the same for its metrics.
        metrics_port: port of its metrics.
        addresses: what it listens on for requests; the loopback is among them.
        metrics_addresses: what it listens on for its metrics.
        private_networks: whose requests it takes where it takes only those of private networks.
        private_only: it takes requests from those networks alone, whatever it listens on.
        metrics_private_only: the same of its metrics.
        requests: who that is, in words.
        metrics: who reads its metrics, in words.
    """

    address: str
    metrics_address: str
    metrics_port: int
    addresses: Tuple[str, ...]
    metrics_addresses: Tuple[str, ...]
    private_networks: Tuple[str, ...]
    private_only: bool
    metrics_private_only: bool
    requests: str
    metrics: str

    def to_dict(self) -> Dict[str, Any]:
        """Return the JSON-ready form."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def router_access(variables: Mapping[str, Any], default: str) -> Tuple[Access, List[Problem]]:
    """Judge who may reach a router.

    Beyond the loopback and private addresses a router asks for keys, and for TLS where its address is public, unless
    the inventory says that it is open. What it listens on is no proof of who can reach it (a cloud translates public
    addresses), so a router without keys and TLS takes requests from private networks alone.

    Args:
        variables: the role's variables of the router, those of `VARIABLES` that are set.
        default: where others reach it: what it listens on where the variables do not say.

    Returns:
        Who may reach it, and what may not be so.
    """
    problems: List[Problem] = []
    networks = _networks(variables.get(NETWORKS), problems)
    words = {name: _flag(variables, name, problems) for name in (OPEN, METRICS_OPEN)}
    keys = variables.get(KEYS) or ()
    has_keys = isinstance(keys, Sequence) and not isinstance(keys, str) and len(keys) > 0
    if keys and not has_keys:
        problems.append(Problem("", KEYS, None, "must be a list of keys", "write a row for each: name and sha256"))
    has_tls = variables.get(TLS, "off") not in ("off", False, None, "")
    # Metrics, which ask for no key, are not where the internet is unless somebody says so.
    near = "127.0.0.1" if _reach(default, networks) == _ALL else default
    listens = {
        ADDRESS: _listens(variables, ADDRESS, default),
        METRICS_ADDRESS: _listens(variables, METRICS_ADDRESS, near),
    }
    virtual = str(variables.get(VIRTUAL) or "").partition("/")[0]
    for name, address in [*listens.items(), *([(VIRTUAL, virtual)] if virtual else [])]:
        kind = _reach(address, networks)
        if kind == _WRONG:
            rule = "must be an address, a host name, or * for all addresses"
            problems.append(Problem("", name, address, rule, "give the private address of the router"))
        elif kind == _ALL and name == METRICS_ADDRESS:
            problems += _metrics_problem(name, address, words[METRICS_OPEN])
        elif kind == _ALL:
            problems += _requests_problem(name, address, has_keys, has_tls, words[OPEN])
    return (
        Access(
            address=listens[ADDRESS],
            metrics_address=listens[METRICS_ADDRESS],
            metrics_port=_port(variables, problems),
            addresses=_binds(listens[ADDRESS], virtual, networks),
            metrics_addresses=_binds(listens[METRICS_ADDRESS], "", networks),
            private_networks=tuple(str(network) for network in _parse(LOOPBACK) + networks),
            private_only=not words[OPEN] and not (has_keys and has_tls),
            metrics_private_only=not words[METRICS_OPEN],
            requests=_who(_reach(listens[ADDRESS], networks), has_keys, has_tls, words[OPEN], bool(virtual)),
            metrics=_who(_reach(listens[METRICS_ADDRESS], networks), False, False, words[METRICS_OPEN], False),
        ),
        problems,
    )


def not_its_own(access: Access, default: str, own: Sequence[str]) -> List[Problem]:
    """Return what a router is to listen on alone and does not have.

    Args:
        access: who may reach it.
        default: where others reach it; whether that is the host's own is asked of every host.
        own: the addresses that the host says it has, none where it was not asked.
    """
    problems = []
    places = (
        (ADDRESS, access.address, access.addresses),
        (METRICS_ADDRESS, access.metrics_address, access.metrics_addresses),
    )
    for name, address, listens in places if own else ():
        if address == default or address not in listens or address in _ANY:
            continue
        ip = ipaddress.ip_address(address)
        if not ip.is_loopback and str(ip) not in own:
            rule = "is no address of the router, which has %s: HAProxy could not listen there" % ", ".join(own)
            problems.append(Problem("", name, address, rule, "give its own, or leave it out"))
    return problems


def _listens(variables: Mapping[str, Any], name: str, default: str) -> str:
    given = variables.get(name)
    return default if given is None or given == "" else str(given)


def _port(variables: Mapping[str, Any], problems: List[Problem]) -> int:
    given = variables.get(METRICS_PORT, DEFAULT_METRICS_PORT)
    try:
        return int(whole_number(1, 65535)(given))
    except BadValueError as bad:
        problems.append(Problem("", METRICS_PORT, given, bad.rule, bad.fix))
        return DEFAULT_METRICS_PORT


def _flag(variables: Mapping[str, Any], name: str, problems: List[Problem]) -> bool:
    given = variables.get(name, False)
    if not isinstance(given, bool):
        problems.append(Problem("", name, given, "must be true or false, and no string", "write it without quotes"))
    return given is True


def _networks(given: Any, problems: List[Problem]) -> List[_Network]:
    if given is None:
        return _parse(PRIVATE)
    rows = given if isinstance(given, (list, tuple)) else [given]
    found = []
    for row in rows:
        try:
            network = ipaddress.ip_network(str(row))
        except ValueError as error:
            problems.append(Problem("", NETWORKS, row, "is no network: %s" % error, "write it like 10.0.0.0/8"))
            continue
        if network.prefixlen == 0:
            rule = "is every address there is, and none of them is private by that"
            problems.append(Problem("", NETWORKS, row, rule, "if that is meant, say %s: true" % OPEN))
            continue
        found.append(network)
    return found


def _parse(rows: Sequence[str]) -> List[_Network]:
    return [ipaddress.ip_network(row) for row in rows]


def _reach(address: str, networks: Sequence[_Network]) -> str:
    """Tell what an address reaches."""
    if address in _ANY:
        return _ALL
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        looks_like_one = re.fullmatch(r"[0-9.]+", address) or ":" in address
        return _NAMED if _NAME.fullmatch(address) and not looks_like_one else _WRONG
    if any(ip in network for network in _parse(LOOPBACK)):
        return _SELF
    return _NEAR if any(ip in network for network in [*networks, *_parse(_EXAMPLES)]) else _ALL


def _binds(address: str, virtual: str, networks: Sequence[_Network]) -> Tuple[str, ...]:
    """Return what is listened on.

    An address that is not the host's own cannot be listened on, and neither can a virtual one while another router has
    it. So what may be that is listened for everywhere, and who is answered is decided by where a request comes from.
    """
    kind = _reach(address, networks)
    if kind not in (_SELF, _NEAR) or virtual:
        return (EVERYWHERE,)
    return (address,) if kind == _SELF else (address, "127.0.0.1")


def _requests_problem(name: str, address: str, has_keys: bool, has_tls: bool, is_open: bool) -> List[Problem]:
    public = address not in _ANY
    lacks = ([] if has_keys else ["keys (%s)" % KEYS]) + ([] if has_tls or not public else ["TLS (%s)" % TLS])
    if is_open or not lacks:
        return []
    rule = "is reached from beyond the private networks, and the router has no %s" % " and no ".join(lacks)
    fix = "give them, have it listen on its private address (%s), or say %s: true" % (
        "trainyard_address" if name == ADDRESS else name,
        OPEN,
    )
    return [Problem("", name, address, rule, fix)]


def _metrics_problem(name: str, address: str, is_open: bool) -> List[Problem]:
    if is_open:
        return []
    rule = "is reached from beyond the private networks, and metrics ask for no key"
    fix = "have them on the private address, or say %s: true" % METRICS_OPEN
    return [Problem("", name, address, rule, fix)]


def _who(kind: str, has_keys: bool, has_tls: bool, is_open: bool, virtual: bool) -> str:
    """Say in words who is answered."""
    keyed = "with a key" + (" and TLS" if has_tls else ", in clear text") if has_keys else ""
    if kind == _SELF and not virtual:
        return "programs of its own host" + (" " + keyed if keyed else "")
    if is_open:
        return ("everybody who reaches it " + keyed).strip()
    if has_keys and has_tls:
        return "everybody with a key, over TLS"
    return ("private networks " + keyed).strip()
