# SPDX-License-Identifier: Apache-2.0
"""A stranger on the hosts' network, an operator who flushes rules, and a kernel that takes none (simulated engine)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator

import pytest
import yaml

from tests.lab_plays import changed_tasks
from tests.stand_in import Lab, stand_in
from trainyard.lab.machine import detect
from trainyard.lab.podman import Podman
from trainyard.lab.state import load
from trainyard.paths import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("attack-fence")]

SERVE = "playbooks/serve.yml"
PORTS = {"replica": 8000, "agent": 9000, "metrics of the devices": 9400}
REPLICA = "vllm@tiny-llama-0.service"
#: How long anything may take on a busy machine, seconds; nothing is judged by it but that it comes.
PATIENCE_S = 300.0
CONNECT = """
import socket, sys
for word in sys.argv[1:]:
    address, _, port = word.rpartition(":")
    try:
        socket.create_connection((address, int(port)), timeout=30).close()
        print(word, "through")
    except OSError as error:
        print(word, type(error).__name__)
"""
# What a kernel without nf_tables does: the check of a file passes, the load of it does not.
REFUSING = """
mv /usr/sbin/nft /usr/sbin/nft.kept
printf '%s\\n' '#!/bin/sh' '[ "$1" != -f ] || { echo "Error: Could not process rule: Not supported" >&2; exit 1; }' \\
    'exec /usr/sbin/nft.kept "$@"' > /usr/sbin/nft
chmod 0755 /usr/sbin/nft
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with stand_in("attack-fence", 2, trainyard_monitor_port=9400) as made:
        made.play("site.yml", "--skip-tags=benchmark")
        yield made


def stranger(lab: Lab, *targets: str) -> dict[str, str]:
    """What becomes of connections from a container of the lab's network that no plan knows, by target."""
    known = load(lab.name)
    assert known
    words = ("exec", known.container("services"), "python3", "-c", CONNECT)
    lines = Podman(detect()).run(*words, *targets).splitlines()
    return dict(line.split() for line in lines if line)


def everything(lab: Lab, host: str) -> list[str]:
    return [f"{lab.address(host)}:{port}" for port in PORTS.values()]


def refused(lab: Lab, host: str) -> bool:
    return set(stranger(lab, *everything(lab, host)).values()) == {"ConnectionRefusedError"}


def listening(lab: Lab, host: str) -> set[int]:
    """The ports that something listens on: a refusal of any other would say nothing."""
    lines = lab.on(host, "ss -Hltn | awk '{print $4}'").splitlines()
    return {int(line.rpartition(":")[2]) for line in lines}


def invocation(lab: Lab, host: str) -> str:
    return lab.on(host, f"systemctl show --property=InvocationID --value {REPLICA}")


def repaired(lab: Lab, host: str) -> int:
    return int(json.loads(lab.on(host, "cat /run/trainyard-fence-watch/state.json"))["repaired"])


def await_state(lab: Lab, host: str, unit: str, state: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while lab.on(host, f"systemctl is-active {unit} || true") != state:
        assert time.monotonic() < deadline, lab.on(host, f"systemctl status {unit} || true")
        time.sleep(1)


def test_a_stranger_reaches_nothing_and_the_router_its_replicas(lab: Lab) -> None:
    for host in ("lab-1", "lab-2"):
        assert set(PORTS.values()) <= listening(lab, host)
        assert refused(lab, host)
    url = f"http://{lab.address('lab-2')}:8000/health"
    assert lab.on("lab-1", f"curl -sS -o /dev/null -w '%{{http_code}}' {url}") == "200"


def test_it_stays_closed_when_nftables_is_restarted_and_no_replica_restarts(lab: Lab) -> None:
    before, count = invocation(lab, "lab-2"), repaired(lab, "lab-2")
    lab.on("lab-2", "systemctl restart nftables.service")
    deadline = time.monotonic() + PATIENCE_S
    while repaired(lab, "lab-2") == count:
        assert time.monotonic() < deadline
    assert refused(lab, "lab-2")
    assert invocation(lab, "lab-2") == before
    assert "the table inet trainyard is gone" in lab.on("lab-2", "/usr/local/lib/trainyard/fence status")


def test_a_run_sees_that_the_rules_are_gone_and_repairs_them(lab: Lab) -> None:
    before = invocation(lab, "lab-2")
    lab.on("lab-2", "systemctl stop trainyard-fence-watch.service; nft flush ruleset")
    assert "through" in stranger(lab, *everything(lab, "lab-2")).values(), "the flush opened nothing"
    looked = lab.play(SERVE, "--check", "--diff")
    assert [host for _task, host in changed_tasks(looked)] == ["lab-2"]
    assert not refused(lab, "lab-2"), "a check run changed something"
    assert [host for _task, host in changed_tasks(lab.play(SERVE))] == ["lab-2"]
    assert refused(lab, "lab-2")
    assert invocation(lab, "lab-2") == before
    assert changed_tasks(lab.play(SERVE)) == set()


def test_a_rule_that_somebody_slipped_in_is_taken_out_again(lab: Lab) -> None:
    count = repaired(lab, "lab-2")
    lab.on("lab-2", "nft insert rule inet trainyard replicas tcp dport 8000 accept")
    deadline = time.monotonic() + PATIENCE_S
    while repaired(lab, "lab-2") == count:
        assert time.monotonic() < deadline
    assert refused(lab, "lab-2")


def test_neither_servers_nor_compilers_reach_the_credentials_of_their_host(lab: Lab) -> None:
    ask = "curl -sS -m 20 -o /dev/null http://169.254.169.254/latest/meta-data/ 2>&1 || true"
    lab.on("lab-2", "ip address add 169.254.169.254/32 dev lo")
    try:
        lab.on("lab-2", "systemd-run --unit=metadata python3 -m http.server --bind 169.254.169.254 80")
        lab.on(
            "lab-2",
            "for n in $(seq 100); do curl -s -o /dev/null http://169.254.169.254/ && exit; sleep 0.2; done; exit 1",
        )
        for user in ("vllm", "trainyard-compile"):
            assert "curl: (7)" in lab.on("lab-2", f"runuser -u {user} -- {ask}"), user
        assert lab.on("lab-2", ask) == ""
    finally:
        lab.on("lab-2", "systemctl stop metadata; ip address delete 169.254.169.254/32 dev lo")


def test_ports_that_move_open_neither_old_nor_new_ones(lab: Lab) -> None:
    known = yaml.safe_load((ROOT / "inventory/lab/group_vars/all/tiny_llama.yml").read_text())
    deployment = known["trainyard_deployment_tiny_llama"]
    targets = [f"{lab.address('lab-2')}:{port}" for port in (8000, 8001, 8100, 8101, 9000, 9001, 9100, 9101)]
    restarts = ["--extra-vars", json.dumps({"vllm_endpoint_allowed_restarts": 2})]
    for port in (8100, 8000):
        lab.variables["trainyard_deployment_tiny_llama"] = {**deployment, "port": port}
        run = lab.start(SERVE, *restarts)
        output: list[str] = []
        reader = threading.Thread(target=lambda run=run, output=output: output.append(run.communicate()[0]))
        reader.start()
        looks = 0
        while reader.is_alive():
            found = stranger(lab, *targets)
            open_now = sorted(target for target, what in found.items() if what != "ConnectionRefusedError")
            assert not open_now, lab.on(
                "lab-2", "nft list table inet trainyard; ss -Hltn; cat /run/trainyard-fence/loaded"
            )
            looks += 1
        reader.join()
        assert run.returncode == 0, output[0][-4000:]
        assert looks > 3
        assert port in listening(lab, "lab-2")
        assert set(stranger(lab, *targets).values()) == {"ConnectionRefusedError"}
    del lab.variables["trainyard_deployment_tiny_llama"]
    assert changed_tasks(lab.play(SERVE)) == set()


def test_without_a_fence_no_replica_serves_and_it_says_why(lab: Lab) -> None:
    lab.on("lab-2", REFUSING)
    try:
        # What runs behind a fence that cannot be closed again is stopped.
        lab.on("lab-2", "/usr/sbin/nft.kept flush ruleset")
        await_state(lab, "lab-2", REPLICA, "inactive")
        started = lab.on("lab-2", f"systemctl start {REPLICA} 2>&1 || true")
        assert "ependency" in started
        assert lab.on("lab-2", f"systemctl is-active {REPLICA} || true") == "inactive"
        process = lab.start(SERVE)
        output, _ = process.communicate()
        assert process.returncode != 0
        for word in ("no replica starts without it", "Could not process rule: Not supported", "Next: nft -c -f"):
            assert word in output
        assert lab.on("lab-2", f"systemctl is-active {REPLICA} || true") == "inactive"
    finally:
        lab.on("lab-2", "mv /usr/sbin/nft.kept /usr/sbin/nft")
    lab.play(SERVE)
    assert refused(lab, "lab-2")
    url = f"http://{lab.address('lab-2')}:8000/health"
    assert lab.on("lab-1", f"curl -sS -o /dev/null -w '%{{http_code}}' {url}") == "200"


def test_what_stops_the_fence_stops_what_is_behind_it(lab: Lab) -> None:
    lab.on("lab-2", "systemctl stop trainyard-fence.service")
    assert lab.on("lab-2", f"systemctl is-active {REPLICA} || true") == "inactive"
    behind = [f"{lab.address('lab-2')}:{PORTS[what]}" for what in ("replica", "agent")]
    assert set(stranger(lab, *behind).values()) == {"ConnectionRefusedError"}
    lab.play(SERVE)
    assert refused(lab, "lab-2")
