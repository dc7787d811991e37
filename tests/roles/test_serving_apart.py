# SPDX-License-Identifier: Apache-2.0
"""Two stand-in hosts that route: who may reach the replicas, and what becomes of clients when a router ends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.stand_in import Lab, stand_in

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("serving-apart")]

SHAPE = {"trainyard_overrides": {"tiny-llama": {"data_parallel_size": 1}}}
MOVES_WITHIN_S = 6.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with stand_in("apart", 2, **SHAPE) as made:
        first, second = made.address("lab-1"), made.address("lab-2")
        made.variables["load_balancer_virtual_address"] = f"{virtual(made)}/24"
        made.variables["load_balancer_virtual_interface"] = "eth0"
        folder = made.folder
        rows = {
            "lab-1": {"load_balancer_peers": [second], "load_balancer_priority": 110},
            "lab-2": {"load_balancer_peers": [first]},
        }
        (folder / "pair.json").write_text(json.dumps({"router": {"hosts": rows}}))
        made.inventories.append(str(folder / "pair.json"))
        made.play("site.yml", "--skip-tags=benchmark")
        yield made


def virtual(lab: Lab) -> str:
    return lab.address("lab-1").rpartition(".")[0] + ".200"


def reaches(lab: Lab, host: str, address: str, port: int) -> str:
    """What a connection from a host ends with: a status, or curl's number and words; 7 is a refusal, 28 a silence."""
    return lab.on(host, f"curl -sS -m 5 -o /dev/null -w '%{{http_code}}' http://{address}:{port}/health 2>&1 || true")


def test_replicas_are_reachable_from_both_routers_and_from_nobody_else(lab: Lab) -> None:
    first, second = lab.address("lab-1"), lab.address("lab-2")
    for host in ("lab-1", "lab-2"):
        for address in (first, second):
            assert reaches(lab, host, address, 8000) == "200"
    for address in (first, second):
        for port in (8000, 9000):
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"http://{address}:{port}/health", timeout=5)


def holds(lab: Lab, host: str) -> bool:
    return lab.on(host, f"ip -o address show | grep -cF '{virtual(lab)}/' || true") == "1"


def asked(lab: Lab) -> int:
    body = {"model": "trainyard/tiny-llama", "prompt": "x", "max_tokens": 2}
    try:
        return httpx.post(f"http://{virtual(lab)}:8080/v1/completions", json=body, timeout=5).status_code
    except httpx.HTTPError:
        return 0


def test_the_address_goes_to_the_other_router_and_stays_there(lab: Lab) -> None:
    assert (holds(lab, "lab-1"), holds(lab, "lab-2")) == (True, False)
    assert [asked(lab) for _ in range(5)] == [200] * 5
    lab.on("lab-1", "systemctl kill --signal=KILL haproxy.service; systemctl stop haproxy.service")
    began = time.monotonic()
    while asked(lab) != 200:
        assert time.monotonic() - began < MOVES_WITHIN_S
        time.sleep(0.2)
    assert [asked(lab) for _ in range(5)] == [200] * 5
    lab.on("lab-1", "systemctl start haproxy.service")
    time.sleep(4.0)
    assert (holds(lab, "lab-1"), holds(lab, "lab-2")) == (False, True)
    assert [asked(lab) for _ in range(5)] == [200] * 5


def test_a_second_run_changes_nothing(lab: Lab) -> None:
    run = lab.play("playbooks/serve.yml")
    assert {host: row["changed"] for host, row in run["stats"].items() if host != "localhost"} == {
        "lab-1": 0,
        "lab-2": 0,
    }
