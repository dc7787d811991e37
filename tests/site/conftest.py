# SPDX-License-Identifier: Apache-2.0
"""The running stand-in fleet, as the plan and the inventory describe it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

from trainyard.paths import ROOT

INVENTORY = ROOT / "inventory" / "lab"

#: Variables beside the lab's, where a scenario has some: what the fleet was made with, a further run is given too.
MORE = [word for path in filter(None, [os.environ.get("TRAINYARD_SITE_PLANTED")]) for word in ("-i", path)]


@pytest.fixture(scope="session")
def inventory() -> dict[str, Any]:
    run = subprocess.run(
        ["ansible-inventory", "-i", str(INVENTORY), "--list"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
    )
    return dict(json.loads(run.stdout))


@pytest.fixture(scope="session")
def fleet() -> dict[str, Any]:
    run = subprocess.run(
        ["trainyard", "plan", "-i", str(INVENTORY), "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(run.stdout))


@pytest.fixture(scope="session")
def replicas(fleet: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**replica, "host": name} for name, host in fleet["hosts"].items() for replica in host["replicas"]]


@pytest.fixture(scope="session")
def on() -> Callable[[str], Host]:
    """A shell on one host, as the operator's SSH reaches it."""

    def connect(name: str) -> Host:
        return testinfra.get_host(f"ansible://{name}?ansible_inventory={INVENTORY}", sudo=True)

    return connect


@pytest.fixture(scope="session")
def router_url(fleet: dict[str, Any], inventory: dict[str, Any]) -> str:
    router = inventory["router"]["hosts"][0]
    address = inventory["_meta"]["hostvars"][router]["ansible_host"]
    return f"http://{address}:{fleet['router']['port']}"


@pytest.fixture(scope="session")
def model(fleet: dict[str, Any]) -> str:
    return str(fleet["router"]["models"][0]["name"])


def wait_until(question: Callable[[], bool], timeout_s: float, what: str) -> float:
    """Seconds until the question was answered with yes; fails after the deadline."""
    start = time.monotonic()
    while not question():
        if time.monotonic() - start > timeout_s:
            pytest.fail(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(0.1)
    return time.monotonic() - start
