# SPDX-License-Identifier: Apache-2.0
"""The router's whole configuration, kept as golden files, and what single lines of it are for under a real HAProxy.

Regenerate the goldens with `UPDATE_GOLDENS=1 pytest tests/roles/test_router_config.py`, and read their diff.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.roles.render import model, render, replica
from tests.roles.router_program import needs_haproxy
from tests.roles.test_load_balancer import one_model, routed, wait_for
from tests.roles.test_vllm_endpoint import is_as_it_was
from tests.serving.stub import Stub, post, running

KEY = {"name": "team-a", "sha256": hashlib.sha256(b"sk-a").hexdigest(), "requests_per_minute": 60}
#: Each way to run a router that changes more than a line.
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "keys": {
        "load_balancer_keys": [KEY],
        "load_balancer_upstream_key": "sk-upstream",
        "load_balancer_tls": "self_signed",
        "load_balancer_cors_origins": ["https://chat.example"],
        "load_balancer_trusted_clients": ["10.0.0.9"],
    },
    "prefix": {"load_balancer_affinity_prefix_bytes": 512, "load_balancer_slow_start_s": 10},
    "session": {"load_balancer_affinity_header": "x-session"},
    "vllm-router": {"load_balancer_backend": "vllm_router"},
}


@pytest.mark.parametrize("case", CASES)
def test_the_configuration_is_as_it_was(case: str) -> None:
    models = [model("tiny/llama"), model("tiny/other", replica(2)) | {"aliases": ["tiny/alias"]}]
    text = render("load_balancer", "haproxy.cfg.j2", load_balancer_models=models, **CASES[case])
    assert "sk-" not in text
    is_as_it_was(f"haproxy-{case}", text)


@pytest.mark.parametrize("template", ["trainyard.conf.j2", "trainyard-vllm-router@.service.j2", "keepalived.conf.j2"])
def test_what_runs_beside_it_is_as_it_was(template: str) -> None:
    pair = {
        "load_balancer_virtual_interface": "eth0",
        "load_balancer_virtual_address": "10.0.0.9/24",
        "load_balancer_peers": ["10.0.0.2"],
    }
    is_as_it_was(template.removesuffix(".j2"), render("load_balancer", template, **pair))


@pytest.fixture
def stub(request: pytest.FixtureRequest) -> Any:
    with running() as made:
        yield made


@needs_haproxy
def test_a_replica_learns_who_asked_whatever_a_client_says_of_it(tmp_path: Path, stub: Stub) -> None:
    with routed(tmp_path, one_model((stub,))) as front:
        assert post(front.port, {"max_tokens": 1}, **{"X-Forwarded-For": "192.0.2.7"})[0] == 200
    ((_, seen),) = stub.seen
    # The router's word is the last one.
    assert seen.get("x-forwarded-for", "").split(",")[-1].strip() == "127.0.0.1"


@needs_haproxy
def test_the_request_id_of_the_answer_is_that_of_the_replica_and_of_the_log(tmp_path: Path, stub: Stub) -> None:
    with routed(tmp_path, one_model((stub,))) as front:
        _, headers, _, _ = post(front.port, {"max_tokens": 1}, **{"x-request-id": "mine-1"})
        assert headers.get("x-request-id") == "mine-1"
        _, headers, _, _ = post(front.port, {"max_tokens": 1})
        own = headers.get("x-request-id")
        assert own
        wait_for(lambda: f'"id":"{own}"' in front.log.read_text())
    assert [seen.get("x-request-id") for _, seen in stub.seen] == ["mine-1", own]


@needs_haproxy
def test_each_request_of_a_connection_has_its_own_to_the_replica(tmp_path: Path, stub: Stub) -> None:
    """So that connections of a replica are its requests, and none is sent on one that the replica is closing."""
    opened: list[int] = []
    accepts = stub.get_request

    def counted() -> Any:
        link, address = accepts()
        opened.append(address[1])
        return link, address

    stub.get_request = counted  # type: ignore[method-assign]
    with routed(tmp_path, one_model((stub,)), load_balancer_check_interval_ms=3_600_000) as front:
        wait_for(lambda: bool(front.up()))
        before = len(opened)
        link = http.client.HTTPConnection("127.0.0.1", front.port, timeout=20)
        for _ in range(3):
            body = json.dumps({"model": "tiny/llama", "max_tokens": 1})
            link.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            answer = link.getresponse()
            answer.read()
            assert answer.status == 200
        link.close()
        assert len(opened) - before == 3


@needs_haproxy
def test_who_has_no_key_is_told_how_one_is_given(tmp_path: Path, stub: Stub) -> None:
    upper = {**KEY, "sha256": str(KEY["sha256"]).upper()}
    with routed(tmp_path, one_model((stub,)), load_balancer_keys=[upper]) as front:
        status, headers, _, _ = post(front.port, {})
        assert (status, headers.get("www-authenticate")) == (401, "Bearer")
        # A hash is the same in large letters.
        assert post(front.port, {"max_tokens": 1}, Authorization="Bearer sk-a")[0] == 200


@needs_haproxy
def test_a_list_of_models_is_for_who_has_a_key_too(tmp_path: Path, stub: Stub) -> None:
    with routed(tmp_path, one_model((stub,)), load_balancer_keys=[KEY]) as front:
        for path in ("/v1/models", "/version", "/v1/completions", "/v1/chat/completions"):
            link = http.client.HTTPConnection("127.0.0.1", front.port, timeout=20)
            method = "GET" if path in ("/v1/models", "/version") else "POST"
            link.request(method, path, "{}" if method == "POST" else None, {"Content-Type": "application/json"})
            assert link.getresponse().status == 401, path
            link.close()
    assert stub.seen == []


@needs_haproxy
def test_the_socket_of_its_administration_is_not_for_everybody(tmp_path: Path, stub: Stub) -> None:
    with routed(tmp_path, one_model((stub,))) as front:
        assert stat.S_IMODE(front.socket.stat().st_mode) & 0o007 == 0


@needs_haproxy
def test_the_router_s_own_key_takes_the_place_of_whatever_a_client_sends(tmp_path: Path, stub: Stub) -> None:
    stub.key = "inner"
    (tmp_path / "upstream.map").write_text("replicas inner\n")
    with routed(tmp_path, one_model((stub,)), load_balancer_upstream_key="inner") as front:
        statuses: list[int] = []
        given = ({}, {"Authorization": "Bearer other"}, {"Authorization": "Basic b3RoZXI="})
        threads = [
            threading.Thread(
                target=lambda headers=headers: statuses.append(post(front.port, {"max_tokens": 1}, **headers)[0])
            )
            for headers in given
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses == [200, 200, 200]
    assert {seen.get("authorization") for _, seen in stub.seen} == {"Bearer inner"}
