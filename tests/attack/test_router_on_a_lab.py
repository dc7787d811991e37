# SPDX-License-Identifier: Apache-2.0
"""Clients that lie, hold on and leave, and a router that crashes with its notes in shreds (simulated engine)."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from tests.lab_plays import changed_tasks
from tests.roles.test_router_attacks import FIELDS, HOSTILE
from tests.stand_in import Lab, stand_in

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("attack-router")]

ROUTER = "/usr/local/lib/trainyard/router"
STATES = "/var/lib/trainyard-router/servers"
SERVER = "lab-1:tiny-llama-0"
#: How long anything may take on a busy machine, seconds; nothing is judged by it but that it comes.
PATIENCE_S = 300.0


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with stand_in("attack-router", 1) as made:
        made.pace(ttft_ms=40, itl_ms=100)
        made.play("site.yml", "--skip-tags=benchmark")
        yield made


def wait_for(what: Callable[[], bool], told: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline, told
        time.sleep(0.5)


def said(lab: Lab, data: bytes) -> bytes:
    """All that the router answers until it closes."""
    parts = []
    link = socket.create_connection((lab.router_address, 8080), timeout=60)
    with link, suppress(ConnectionError):
        link.sendall(data)
        while part := link.recv(65536):
            parts.append(part)
    return b"".join(parts)


def posted(lab: Lab, path: str, body: dict[str, Any], *headers: str) -> int:
    text = json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "Host: x", "Connection: close", "Content-Type: application/json"]
    lines = [*head, f"Content-Length: {len(text)}", *headers, "", ""]
    answer = said(lab, "\r\n".join(lines).encode() + text)
    # Nothing at all where this address has all the places that it may have.
    return int(answer.split(b" ", 2)[1]) if answer else 0


def rows(lab: Lab) -> list[dict[str, str]]:
    """What the router's own program says of each server."""
    head, *lines = lab.on("lab-1", f"{ROUTER} status 2>/dev/null").splitlines()
    return [dict(zip(("server", "model", "state"), line.split()[:3], strict=True)) for line in lines if head]


def state(lab: Lab) -> str:
    return next((row["state"] for row in rows(lab) if row["server"] == SERVER), "")


def serves(lab: Lab) -> bool:
    return posted(lab, "/v1/completions", {"prompt": "x", "max_tokens": 1}) == 200


def test_every_line_of_the_journal_is_one_object_whatever_was_sent(lab: Lab) -> None:
    for data in HOSTILE:
        assert b"<html" not in said(lab, data).lower()
    mark = f"the-last-{time.time_ns()}"
    assert posted(lab, "/v1/completions", {"prompt": "x", "max_tokens": 1}, f"X-Request-Id: {mark}") == 200
    wait_for(lambda: mark in lab.on("lab-1", "journalctl -u haproxy -o cat -n 200"), "the last request is logged")
    lines = lab.on("lab-1", "journalctl -u haproxy -o cat | grep '^{'").splitlines()
    assert len(lines) >= len(HOSTILE)
    assert {frozenset(json.loads(line)) for line in lines} == {frozenset(FIELDS)}


def test_clients_reach_the_api_and_nothing_else_of_a_replica(lab: Lab) -> None:
    adapter = {"lora_name": "x", "lora_path": "/etc"}
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/sleep", "/collective_rpc", "/metrics"):
        assert posted(lab, path, adapter) == 404, path
    name = "Unable to find precompiled artifacts"
    assert posted(lab, "/v1/completions", {"model": name, "prompt": "x"}) == 404
    assert name not in lab.on("lab-1", "journalctl -u 'vllm@*' -o cat -n 400")


def test_it_listens_where_the_plan_says_and_its_units_are_bounded(lab: Lab) -> None:
    listens = set(lab.on("lab-1", "ss -Hltnp | grep haproxy | awk '{print $4}'").split())
    own = lab.router_address
    assert listens == {f"{at}:{port}" for at in (own, "127.0.0.1") for port in (8080, 8405)}
    names = "haproxy 'vllm@tiny-llama-0' trainyard-probe trainyard-fence trainyard-fence-watch"
    shown = lab.on("lab-1", f"systemctl show -p Id,MemoryMax,TasksMax {names}")
    assert shown.count("MemoryMax=") == len(names.split())
    assert "infinity" not in shown


def test_anybody_on_the_host_may_ask_whether_the_router_runs(lab: Lab) -> None:
    """So keepalived's check does without root."""
    asked = "runuser -u nobody -- /usr/bin/systemctl is-active {}.service || true"
    assert lab.on("lab-1", asked.format("haproxy")) == "active"
    assert lab.on("lab-1", asked.format("no-such-unit")) == "inactive"


def test_one_address_takes_neither_the_router_nor_its_memory(lab: Lab) -> None:
    half = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Padding: " + b"p" * 4000
    with ExitStack() as stack:
        for _ in range(1200):
            with suppress(ConnectionError):
                link = socket.create_connection((lab.router_address, 8080), timeout=60)
                stack.enter_context(link).sendall(half)
        health = f"curl -s -o /dev/null -w '%{{http_code}}' http://{lab.router_address}"
        # From the host itself, so another address than the one that holds all it can.
        for path in (":8080/v1/models", ":8405/health", ":8405/metrics"):
            assert lab.on("lab-1", health + path) == "200", path
        taken_kib = sum(map(int, lab.on("lab-1", "ps -o rss= -C haproxy").split()))
        assert taken_kib < 600 * 1024
    wait_for(lambda: serves(lab), "the places are free again")


def test_a_client_that_leaves_frees_the_engine(lab: Lab) -> None:
    body = json.dumps({"prompt": "x", "max_tokens": 600, "ignore_eos": True}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"

    def in_flight() -> int:
        lines = lab.on("lab-1", f"{ROUTER} status 2>/dev/null").splitlines()[1:]
        return sum(int(line.split()[-3]) for line in lines)

    with socket.create_connection((lab.router_address, 8080), timeout=60) as link:
        link.sendall(head.encode() + body)
        wait_for(lambda: in_flight() == 1, "it is worked on")
    began = time.monotonic()
    wait_for(lambda: in_flight() == 0, "the replica is free")
    # The answer would have taken a minute.
    assert time.monotonic() - began < 45


def test_what_an_operator_set_outlives_reload_crash_and_garbage(lab: Lab) -> None:
    try:
        lab.on("lab-1", f"{ROUTER} drain {SERVER}")
        lab.on("lab-1", "systemctl reload haproxy")
        wait_for(lambda: state(lab) == "drain", "the reload kept it")
        assert changed_tasks(lab.play("playbooks/serve.yml")) == set()
        # A crash saves nothing.
        lab.on("lab-1", "systemctl kill --signal=SIGKILL haproxy")
        wait_for(lambda: state(lab) == "drain", "the crash kept it")
        # Garbage is noticed, and the copy is used.
        lab.on("lab-1", f"systemctl stop haproxy; head -c 500 /dev/urandom > {STATES}; systemctl start haproxy")
        wait_for(lambda: state(lab) == "drain", "the garbage cost nothing")
        assert "nothing is lost" in lab.on("lab-1", "journalctl -u haproxy -o cat -n 50")
        # With both in shreds the router starts, and says what is lost until somebody has looked.
        shred = f"for f in {STATES} {STATES}.copy; do head -c 500 /dev/urandom > $f; done"
        lab.on("lab-1", f"systemctl stop haproxy; {shred}; systemctl start haproxy")
        wait_for(lambda: serves(lab), "it starts")
        shown = lab.on("lab-1", f"{ROUTER} status 2>&1")
        assert "which servers were drained" in shown
        assert f"{STATES}.lost" in shown
    finally:
        lab.on("lab-1", f"rm -f {STATES}.lost; {ROUTER} ready {SERVER}")
