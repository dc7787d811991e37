# SPDX-License-Identifier: Apache-2.0
"""A stand-in host whose requests the real vllm-router directs, with HAProxy before and behind it."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.lab_plays import changes
from tests.stand_in import Lab, stand_in

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("vllm-router")]

UNIT = "trainyard-vllm-router@trainyard-tiny-llama.service"
KEY = "sk-of-the-replicas"
REPLICAS = {"tensor_parallel_size": 16, "data_parallel_size": 4}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    given = {
        "trainyard_overrides": {"tiny-llama": REPLICAS},
        "vllm_endpoint_api_key": KEY,
        "load_balancer_upstream_key": KEY,
        "load_balancer_backend": "vllm_router",
    }
    with stand_in("prefix", 1, **given) as made:
        made.pace(ttft_ms=20, itl_ms=20)
        made.play("site.yml", "--skip-tags=benchmark")
        yield made


def ask(lab: Lab, prompt: str, tokens: int = 5) -> httpx.Response:
    body = {"model": "trainyard/tiny-llama", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": True}
    return httpx.post(f"http://{lab.router_address}:8080/v1/completions", json=body, timeout=60)


def routed(lab: Lab, since: float) -> list[dict[str, Any]]:
    """The router's log since a moment."""
    text = lab.on("lab-1", f"journalctl -u haproxy.service -o cat --no-pager --since=@{int(since)}")
    return [json.loads(line) for line in text.splitlines() if line.startswith('{"time"')]


def replicas(lab: Lab, since: float) -> list[str]:
    return [row["replica"] for row in routed(lab, since) if row["path"] == "/v1/completions"]


def direct(lab: Lab) -> str:
    """The state of vllm-router, as HAProxy sees it."""
    metrics = httpx.get(f"http://{lab.router_address}:8405/metrics", timeout=10).text
    rows = [line for line in metrics.splitlines() if line.startswith("haproxy_server_status") and "chooser-" in line]
    return next((row for row in rows if 'server="vllm-router",state="UP"' in row), "").rpartition(" ")[2]


def wait_until_it_directs(lab: Lab) -> None:
    deadline = time.monotonic() + 60
    while direct(lab) != "1":
        assert time.monotonic() < deadline, "vllm-router did not come up"
        time.sleep(0.5)


@contextmanager
def load(lab: Lab, outcomes: list[tuple[float, str]]) -> Iterator[None]:
    """Eight clients that ask one thing after another; when each was answered, and how."""
    over = threading.Event()

    def client(number: int) -> None:
        while not over.is_set():
            try:
                answer = ask(lab, f"client {number} says the same again and again", 20)
                kind = (
                    "ok"
                    if answer.text.rstrip().endswith("data: [DONE]")
                    else f"{answer.status_code} {answer.text[:200]}"
                )
            except httpx.HTTPError as error:
                kind = repr(error)
            outcomes.append((time.time(), kind))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(3)
        yield
        time.sleep(3)
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_what_begins_alike_goes_to_one_replica_and_the_log_names_it(lab: Lab) -> None:
    wait_until_it_directs(lab)
    began = time.time()
    beginning = "You are a helpful assistant of the railway. " * 20
    for number in range(6):
        assert ask(lab, f"{beginning} {number}").status_code == 200
    assert len(set(replicas(lab, began))) == 1
    assert set(replicas(lab, began)) <= {f"lab-1:tiny-llama-{index}" for index in range(4)}


def test_a_drain_under_load_loses_nothing_and_the_replica_gets_nothing(lab: Lab) -> None:
    outcomes: list[tuple[float, str]] = []
    began = time.time()
    with load(lab, outcomes):
        busy = Counter(replicas(lab, began)).most_common(1)[0][0]
        lab.on("lab-1", f"/usr/local/lib/trainyard/router drain {busy} --timeout-s 60")
        drained = time.time()
        time.sleep(3)
        status = lab.on("lab-1", "/usr/local/lib/trainyard/router status")
    assert Counter(kind for _, kind in outcomes) == {"ok": len(outcomes)}
    assert next(line for line in status.splitlines() if line.startswith(busy)).split()[2] == "drain"
    assert busy not in replicas(lab, drained + 1)
    assert len(set(replicas(lab, drained + 1))) > 1
    lab.on("lab-1", f"/usr/local/lib/trainyard/router ready {busy}")


def test_without_vllm_router_requests_go_on(lab: Lab) -> None:
    outcomes: list[tuple[float, str]] = []
    with load(lab, outcomes):
        lab.on("lab-1", f"systemctl stop {UNIT}")
        stopped = time.time()
        time.sleep(3)
        lab.on("lab-1", f"systemctl start {UNIT}")
    # It finishes its streams before it ends, and what comes then goes past it.
    assert Counter(kind for _, kind in outcomes) == {"ok": len(outcomes)}
    assert sum(at > stopped for at, _ in outcomes) > 8
    wait_until_it_directs(lab)


def test_a_second_run_changes_nothing(lab: Lab) -> None:
    assert changes(lab.play("playbooks/serve.yml")) == 0


def test_a_replica_that_goes_is_told_to_it_while_it_runs(lab: Lab) -> None:
    def process() -> str:
        return lab.on("lab-1", f"systemctl show -P MainPID {UNIT}")

    before = process()
    lab.variables["trainyard_overrides"] = {"tiny-llama": {**REPLICAS, "data_parallel_size": 3}}
    lab.play("playbooks/serve.yml")
    known = json.loads(lab.on("lab-1", "curl -s http://127.100.255.1:8600/list_workers"))["urls"]
    assert sorted(known) == [f"http://127.100.0.{number}:8600" for number in (1, 2, 3)]
    assert process() == before
    assert ask(lab, "still there").status_code == 200


def test_the_way_back_leaves_no_unit(lab: Lab) -> None:
    lab.variables["load_balancer_backend"] = "haproxy"
    lab.play("playbooks/serve.yml")
    assert ask(lab, "still there").status_code == 200
    assert lab.on("lab-1", f"systemctl is-active {UNIT} || true") == "inactive"
    assert lab.on("lab-1", "ls /etc/systemd/system /etc/haproxy/trainyard | grep -c vllm-router || true") == "0"
