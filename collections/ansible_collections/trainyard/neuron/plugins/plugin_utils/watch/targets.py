# SPDX-License-Identifier: Apache-2.0
"""What Prometheus has to ask, from the plan: nobody keeps a list of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Dict, List
from urllib.parse import urlsplit

#: Names of the jobs, which the rules ask for.
REPLICAS, DEVICES, HOSTS, ROUTERS = "trainyard-replicas", "trainyard-devices", "trainyard-hosts", "trainyard-routers"
_LOOPBACK = "127.0.0.1"
_EVERYWHERE = ("*", "0.0.0.0", "::")  # noqa: S104 - compared with, and never listened on


def targets(
    hosts: Mapping[str, Mapping[str, Any]], routers: Mapping[str, Mapping[str, Any]], here: str = ""
) -> List[Dict[str, Any]]:
    """Return a plan's targets, in the form of Prometheus' file_sd: an entry for each.

    Spares are left out: they serve only while a roll needs them, and would be missed all the other time.

    Args:
        hosts: the part of each serving host, by its name.
        routers: who may reach each router, by its name: `access` of a router's part.
        here: the host that asks. Its own exporters it asks over the loopback, from which they always take it.
    """
    found = []
    for name, host in hosts.items():
        for replica in host["replicas"]:
            labels = {"deployment": replica["deployment"], "replica": replica["name"]}
            found.append(_target(REPLICAS, urlsplit(replica["url"]).netloc, host=name, **labels))
        if host["monitor"]:
            for job, port, url in ((DEVICES, "port", "url"), (HOSTS, "host_port", "host_url")):
                own = f"{_LOOPBACK}:{host['monitor'][port]}"
                address = own if name == here else urlsplit(host["monitor"][url]).netloc
                found.append(_target(job, address, host=name))
    for name, access in routers.items():
        address = access["metrics_address"]
        if address in _EVERYWHERE:
            address = hosts[name]["address"] if name in hosts else access["address"]
        if address not in _EVERYWHERE:
            found.append(_target(ROUTERS, _netloc(address, access["metrics_port"]), host=name))
    return found


def _target(job: str, address: str, **labels: str) -> Dict[str, Any]:
    return {"targets": [address], "labels": {"job": job, **labels}}


def _netloc(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
