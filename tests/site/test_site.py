# SPDX-License-Identifier: Apache-2.0
"""What `site.yml` promises of the fleet that it made, asked from outside."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from testinfra.host import Host

from trainyard.paths import ROOT

from .conftest import INVENTORY, MORE, wait_until

pytestmark = pytest.mark.lab

On = Callable[[str], Host]

#: Modules on a host of a run that has nothing to do: each costs it a third of a second of processor time.
MODULE_RUNS = 10


def requests_served(on: On, replica: dict[str, Any]) -> float:
    """Requests that ended at this replica, by its own counter."""
    text = on(replica["host"]).check_output("curl -sf %s/metrics", replica["url"])
    lines = [line for line in text.splitlines() if line.startswith("vllm:request_success_total")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def chat(url: str, model: str, max_tokens: int = 8) -> httpx.Response:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Say something."}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)


def test_each_host_serves_cores_0_31_on_8000_and_32_63_on_8001(replicas: list[dict[str, Any]], on: On) -> None:
    by_host: dict[str, list[tuple[str, int]]] = {}
    for replica in replicas:
        by_host.setdefault(replica["host"], []).append((replica["cores"], replica["port"]))
        unit = on(replica["host"]).service(replica["unit"])
        assert unit.is_running
        assert unit.is_enabled
    for name, served in by_host.items():
        assert sorted(served) == [("0-31", 8000), ("32-63", 8001)], name


def test_the_cores_are_held_by_the_replicas_that_the_plan_gave_them_to(replicas: list[dict[str, Any]], on: On) -> None:
    for name in {replica["host"] for replica in replicas}:
        devices = json.loads(on(name).check_output("/opt/aws/neuron/bin/neuron-ls --json-output"))
        assert len(devices) == 16
        owners = {
            pid: replica["name"] for replica in replicas if replica["host"] == name for pid in pids_of(on, replica)
        }
        holders = {
            device["neuron_device"]: {
                owners.get(process["pid"], "a stranger") for process in device["neuron_processes"]
            }
            for device in devices
        }
        planned = {
            index: {replica["name"]} for replica in replicas if replica["host"] == name for index in replica["devices"]
        }
        assert holders == planned


def pids_of(on: On, replica: dict[str, Any]) -> list[int]:
    """The processes of a replica's unit, as systemd has them."""
    host = on(replica["host"])
    group = host.check_output("systemctl show -P ControlGroup %s", replica["unit"]).strip()
    return [int(pid) for pid in host.check_output(f"cat /sys/fs/cgroup{group}/cgroup.procs").split()]


def test_a_chat_completion_streams_token_by_token(router_url: str, model: str) -> None:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Count."}],
        "max_tokens": 640,  # long enough that a busy client cannot read all of it at once
        "stream": True,
        "ignore_eos": True,
    }
    chunks, arrived = [], []
    with httpx.stream("POST", f"{router_url}/v1/chat/completions", json=body, timeout=60) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                chunks.append(json.loads(line[6:]))
                arrived.append(time.monotonic())
    text = [chunk["choices"][0]["delta"].get("content") for chunk in chunks if chunk["choices"]]
    assert sum(bool(piece) for piece in text) >= 320
    # The real engine takes both processors of a small machine for itself, so its own pieces are large. That a router
    # adds nothing to a pace is held with servers of a known one (tests/roles/test_load_balancer.py).
    pieces = Counter(int(moment / 0.02) for moment in arrived)
    assert len(pieces) >= 8, f"{len(arrived)} chunks in {len(pieces)} pieces over {arrived[-1] - arrived[0]:.2f} s"
    assert max(pieces.values()) <= len(arrived) / 3, "a third of the answer came in one piece"


def test_the_router_spreads_requests_and_every_replicas_own_counter_shows_it(
    router_url: str, model: str, replicas: list[dict[str, Any]], on: On
) -> None:
    before = {replica["id"]: requests_served(on, replica) for replica in replicas}
    count = 4 * len(replicas)
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(chat(router_url, model, 32).status_code)) for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(answers) == {200: count}
    served = {replica["id"]: requests_served(on, replica) - before[replica["id"]] for replica in replicas}
    assert all(value >= 1 for value in served.values()), served
    assert sum(served.values()) >= count


def test_the_fleet_compiled_each_digest_once(fleet: dict[str, Any], on: On) -> None:
    digests = {artifact["digest"] for host in fleet["hosts"].values() for artifact in host["artifacts"]}
    compiled: Counter[str] = Counter()
    for name in fleet["hosts"]:
        logs = on(name).check_output("cat /var/log/trainyard/artifact-*.log")
        compiled[name] = logs.count("Compiling and tracing time")
    assert sum(compiled.values()) == len(digests), compiled
    for name, host in fleet["hosts"].items():
        for artifact in host["artifacts"]:
            assert on(name).file(artifact["path"] + "/model.pt").exists
            assert on(name).file(artifact["path"] + "/manifest.json").exists


def test_a_killed_engine_comes_back_alone_and_no_request_is_sent_to_it_while_it_is_down(
    router_url: str, model: str, replicas: list[dict[str, Any]], on: On
) -> None:
    victim = replicas[0]
    host = on(victim["host"])

    def unit(field: str) -> str:
        return host.check_output("systemctl show -P %s %s", field, victim["unit"]).strip()

    def held_cores() -> bool:
        devices = json.loads(host.check_output("/opt/aws/neuron/bin/neuron-ls --json-output"))
        return any(devices[index]["neuron_processes"] for index in victim["devices"])

    restarts, main_pid = int(unit("NRestarts")), unit("MainPID")
    stop = threading.Event()
    answers: list[tuple[float, int]] = []  # when it was asked, in seconds after the kill, and the status

    def keep_asking() -> None:
        while not stop.is_set():
            asked_s = time.monotonic() - killed_s
            answers.append((asked_s, chat(router_url, model, 4).status_code))
            time.sleep(0.05)

    # The engine is the process that holds the cores: everything in the unit's control group but its main process.
    pids = host.check_output("cat /sys/fs/cgroup%s/cgroup.procs", unit("ControlGroup")).split()
    engines = [pid for pid in pids if pid != main_pid] or [main_pid]
    killed_s = time.monotonic()
    asking = threading.Thread(target=keep_asking)
    asking.start()
    try:
        host.check_output("kill -9 " + " ".join(engines))
        wait_until(lambda: not held_cores(), 30, "the cores are free after the kill")
        down_s = time.monotonic() - killed_s
        wait_until(
            lambda: int(unit("NRestarts")) > restarts and unit("ActiveState") == "active", 240, "systemd restarts it"
        )
    finally:
        stop.set()
        asking.join()
    assert unit("MainPID") != main_pid
    failed = [(round(asked_s, 1), status) for asked_s, status in answers if status != 200]
    # What the engine held, or was handed while it died, is lost with it; nothing that was asked after that may fail.
    assert all(asked_s < down_s for asked_s, _status in failed), (down_s, failed)
    assert sum(asked_s > down_s for asked_s, _status in answers) > 5, "hardly anything was asked while it was down"
    before = requests_served(on, victim)
    wait_until(
        lambda: chat(router_url, model, 4).status_code == 200 and requests_served(on, victim) > before,
        60,
        "the router sends to it again",
    )


def test_a_second_run_changes_nothing_and_restarts_nothing(replicas: list[dict[str, Any]], on: On) -> None:
    def started() -> dict[str, str]:
        show = "systemctl show -P ActiveEnterTimestampMonotonic %s"
        return {replica["id"]: on(replica["host"]).check_output(show, replica["unit"]) for replica in replicas}

    def module_runs(since_s: float) -> dict[str, int]:
        """Modules that Ansible ran on each host since, by the line that each of them leaves in the journal."""
        ask = "journalctl --no-pager --output=cat --since=@%s | grep 'Invoked with' | grep -vc journalctl"
        names = {replica["host"] for replica in replicas}
        return {name: int(on(name).check_output(ask, str(since_s))) for name in names}

    before = started()
    began_s = time.time()
    run = subprocess.run(
        ["ansible-playbook", "site.yml", "-i", str(INVENTORY), *MORE, "--skip-tags", "benchmark"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
    )
    assert run.returncode == 0, run.stdout[-2000:]
    changes = re.findall(r"changed=(\d+)", run.stdout)
    assert changes
    assert set(changes) == {"0"}, run.stdout[-2000:]
    runs = module_runs(began_s)
    assert all(0 < count <= MODULE_RUNS for count in runs.values()), runs
    assert started() == before
