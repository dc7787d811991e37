# SPDX-License-Identifier: Apache-2.0
"""The fence's rules in a kernel: who gets through, who does not, and what a flush costs. Needs root, nft and ip."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.programs import program
from tests.roles.render import ROOT, render, replica

NFT = program("nft", "nftables")

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(not NFT or not shutil.which("ip"), reason="nft or ip is not installed and cannot be had"),
]

PORT, AGENT, METRICS = 8000, 9000, 9400
ROUTER, STRANGER, HOST = "10.1.0.2", "10.2.0.2", ("10.1.0.1", "10.2.0.1")
ROUTER_6, STRANGER_6, HOST_6 = "fd01::2", "fd02::2", ("fd01::1", "fd02::1")
MONITOR = "10.2.0.3"
#: Where EC2, ECS and EKS give an instance credentials of its role.
METADATA = ("169.254.169.254", "169.254.170.2", "169.254.170.23", "fd00:ec2::254", "fd00:ec2::23")

LISTEN = """
import socket, sys, time
kept = []
for address, port in [(a, int(p)) for a, _, p in (word.rpartition("/") for word in sys.argv[1:])]:
    link = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    link.bind((address, port))
    link.listen()
    kept.append(link)
print("ready", flush=True)
time.sleep(3600)
"""
CONNECT = """
import os, socket, sys
source, address, port, user = sys.argv[1:]
if int(user):
    os.setuid(int(user))
link = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
link.settimeout(20)
if source:
    link.bind((source, 0))
try:
    link.connect((address, int(port)))
    print("through")
except OSError as error:
    print(type(error).__name__)
"""
# The program with its paths below a directory of the test's own.
FENCE = """
import sys
from pathlib import Path
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import fence
root = Path(sys.argv[1])
fence.RULES, fence.LOADED, fence.STATE = root / "fence.nft", root / "loaded", root / "state.json"
fence.PARTS, fence.ROOT = root / "parts", root
fence.NFT = sys.argv[2]
sys.exit(fence.main(sys.argv[3:]))
"""


class Net:
    """A host's network with a router on one side and strangers on the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names = {name: f"fence-{os.getpid()}-{name}" for name in ("host", "router", "stranger")}
        self.nft = NFT
        self._listener: subprocess.Popen[str] | None = None

    def on(self, name: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["ip", "netns", "exec", self.names[name], *words]
        return subprocess.run(command, capture_output=True, text=True, check=check, env=ENVIRONMENT)

    def up(self) -> None:
        for name in self.names.values():
            subprocess.run(["ip", "netns", "add", name], check=True)
        for name in self.names:
            self.on(name, "ip", "link", "set", "lo", "up")
        sides = {"router": ([ROUTER], ROUTER_6), "stranger": ([STRANGER, MONITOR], STRANGER_6)}
        for index, (name, (addresses, address_6)) in enumerate(sides.items()):
            ends = (f"f{os.getpid() % 99999}h{index}", f"f{os.getpid() % 99999}p{index}")
            peer = ["type", "veth", "peer", "name", ends[1], "netns", self.names[name]]
            self.on("host", "ip", "link", "add", ends[0], *peer)
            self._address("host", ends[0], [HOST[index]], HOST_6[index])
            self._address(name, ends[1], addresses, address_6)
        for address in METADATA:
            more = ["nodad"] if ":" in address else []
            self.on("host", "ip", "address", "add", address, "dev", "lo", *more)
        ports = [f"{address}/{port}" for address in ("0.0.0.0", "::") for port in (PORT, AGENT, METRICS, 22)]  # noqa: S104
        listen = [sys.executable, "-c", LISTEN.replace("link.bind", ONLY_6 + "    link.bind"), *ports]
        command = ["ip", "netns", "exec", self.names["host"], *listen]
        self._listener = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._listener.stdout
        assert self._listener.stdout.readline() == "ready\n"

    def _address(self, name: str, link: str, addresses: list[str], address_6: str) -> None:
        for address in addresses:
            self.on(name, "ip", "address", "add", f"{address}/24", "dev", link)
        self.on(name, "ip", "address", "add", f"{address_6}/64", "dev", link, "nodad")
        self.on(name, "ip", "link", "set", link, "up")

    def down(self) -> None:
        if self._listener:
            self._listener.kill()
            self._listener.communicate()
        for name in self.names.values():
            subprocess.run(["ip", "netns", "delete", name], check=False)

    def connects(self, name: str, address: str, port: int, source: str = "", user: int = 0) -> str:
        """What becomes of a connection: `through`, or the name of the error."""
        return self.on(name, sys.executable, "-c", CONNECT, source, address, str(port), str(user)).stdout.strip()

    def write(self, **given: Any) -> None:
        # `nobody` in the place of the servers' user, whom this machine does not have.
        shared = {"vllm_endpoint_replicas": [replica(0)], "vllm_endpoint_user": "nobody", **given}
        rules = render("vllm_endpoint", "fence.nft.j2", **shared).replace("/etc/trainyard/fence", f"{self.root}/parts")
        (self.root / "fence.nft").write_text(rules)

    def stage(self, release: str, **entry: Any) -> Path:
        """A release on the host with one replica of these ports."""
        path = self.root / "releases" / release / "tiny-llama-0.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(entry))
        return path

    def fence(self, verb: str) -> subprocess.CompletedProcess[str]:
        return self.on("host", *self.program(verb), check=False)

    def program(self, verb: str) -> list[str]:
        return [sys.executable, "-c", FENCE, str(self.root), self.nft, verb]

    def load(self, **given: Any) -> None:
        self.write(**given)
        done = self.fence("load")
        assert (done.returncode, done.stderr) == (0, "")


ONLY_6 = "link.family == socket.AF_INET6 and link.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)\n"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "collections")}
REACH = [
    {"what": "replicas", "ports": [PORT], "from": [ROUTER, ROUTER_6, MONITOR]},
    {"what": "agents", "ports": [AGENT], "from": [ROUTER]},
    {"what": "device metrics", "ports": [METRICS], "from": [MONITOR]},
]
NOBODY = 65534


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    made = Net(tmp_path)
    try:
        made.up()
        yield made
    finally:
        made.down()


def test_those_of_the_plan_get_through_and_nobody_else(net: Net) -> None:
    # Without a fence everything would get through: what follows is the fence's doing.
    assert net.connects("stranger", HOST[1], PORT) == "through"
    net.load(vllm_endpoint_reach=REACH)
    refused = "ConnectionRefusedError"
    assert net.connects("router", HOST[0], PORT) == "through"
    assert net.connects("router", HOST_6[0], PORT) == "through"
    assert net.connects("router", HOST[0], AGENT) == "through"
    assert net.connects("router", HOST[0], METRICS) == refused
    for port in (PORT, AGENT, METRICS):
        assert net.connects("stranger", HOST[1], port) == refused
        assert net.connects("stranger", HOST_6[1], port) == refused
    assert net.connects("stranger", HOST[1], PORT, MONITOR) == "through"
    assert net.connects("stranger", HOST[1], METRICS, MONITOR) == "through"
    assert net.connects("stranger", HOST[1], AGENT, MONITOR) == refused
    # What is no port of the toolkit's is no business of the fence.
    assert net.connects("stranger", HOST[1], 22) == "through"


def test_the_host_reaches_its_own_replicas_by_every_address(net: Net) -> None:
    net.load(vllm_endpoint_reach=REACH)
    for address in ("127.0.0.1", "::1", *HOST, *HOST_6):
        for port in (PORT, AGENT, METRICS):
            assert net.connects("host", address, port) == "through"


def test_with_nobody_named_it_is_closed(net: Net) -> None:
    net.load()
    for port in (PORT, AGENT):
        assert net.connects("router", HOST[0], port) == "ConnectionRefusedError"
    assert net.connects("host", HOST[0], PORT) == "through"
    # A spare that does not run yet is guarded too.
    net.load(vllm_endpoint_replicas=[], vllm_endpoint_spares=[replica(0)])
    assert net.connects("stranger", HOST[1], PORT) == "ConnectionRefusedError"


def test_further_clients_are_let_in_and_open_is_open(net: Net) -> None:
    net.load(vllm_endpoint_clients=["10.2.0.0/30", ROUTER_6])
    assert net.connects("stranger", HOST[1], PORT) == "through"
    assert net.connects("stranger", HOST[1], AGENT) == "through"
    assert net.connects("router", HOST_6[0], PORT) == "through"
    assert net.connects("router", HOST[0], PORT) == "ConnectionRefusedError"
    net.load(vllm_endpoint_reach=REACH, vllm_endpoint_open_to_everybody=True)
    assert net.connects("stranger", HOST[1], PORT) == "through"


def test_servers_do_not_reach_the_credentials_of_their_host(net: Net) -> None:
    net.load(vllm_endpoint_reach=REACH)
    for address in METADATA:
        assert net.connects("host", address, 22, user=NOBODY) == "ConnectionRefusedError"
        assert net.connects("host", address, 22) == "through"
    assert net.connects("host", HOST[0], 22, user=NOBODY) == "through"
    net.load(vllm_endpoint_reach=REACH, vllm_endpoint_metadata_access=True)
    assert net.connects("host", "169.254.169.254", 22, user=NOBODY) == "through"


def test_what_another_role_keeps_from_its_user_is_part_of_the_fence(net: Net) -> None:
    """The compiler's user: its role writes a part, and takes it away with the user."""
    daemon = pwd.getpwnam("daemon").pw_uid
    net.load(vllm_endpoint_metadata_access=True)
    assert net.connects("host", METADATA[0], 22, user=daemon) == "through"
    parts = net.root / "parts"
    parts.mkdir()
    (parts / "compile.nft").write_text(render("model_compile", "fence.nft.j2", __model_compile_user="daemon"))
    assert "is not what was loaded" in net.fence("check").stderr
    assert net.fence("hold").returncode == 0
    for address in METADATA:
        assert net.connects("host", address, 22, user=daemon) == "ConnectionRefusedError"
        assert net.connects("host", address, 22, user=NOBODY) == "through"
        assert net.connects("host", address, 22) == "through"
    assert net.fence("check").returncode == 0
    (parts / "compile.nft").unlink()
    assert net.fence("hold").returncode == 0
    assert net.connects("host", METADATA[0], 22, user=daemon) == "through"


MOVED = [{**row, "ports": [port + 1 for port in row["ports"]]} for row in REACH[:2]]
REFUSED = "ConnectionRefusedError"


def test_where_ports_move_the_old_ones_stay_fenced(net: Net) -> None:
    """Old replicas serve until they are stopped, and an older release may come back."""
    net.stage("old", port=PORT, agent_port=AGENT)
    net.load(vllm_endpoint_reach=REACH)
    net.stage("new", port=PORT + 1, agent_port=AGENT + 1)
    moved = replica(0, port=PORT + 1, agent_port=AGENT + 1)
    net.load(vllm_endpoint_replicas=[moved], vllm_endpoint_reach=MOVED, vllm_endpoint_clients=["10.2.0.4"])
    for port in (PORT, AGENT):
        assert net.connects("stranger", HOST[1], port) == REFUSED
        assert net.connects("stranger", HOST_6[1], port) == REFUSED
        assert net.connects("router", HOST[0], port) == "through"
        assert net.connects("host", HOST[0], port) == "through"
    assert net.connects("router", HOST_6[0], PORT) == "through"
    assert net.connects("router", HOST_6[0], AGENT) == REFUSED
    assert net.connects("stranger", HOST[1], PORT, MONITOR) == "through"
    assert net.connects("stranger", HOST[1], AGENT, MONITOR) == REFUSED
    assert net.fence("check").returncode == 0


def test_a_port_stays_fenced_while_something_listens_that_has_no_release_any_more(net: Net) -> None:
    gone, never = net.stage("old", port=PORT, agent_port=AGENT), net.stage("older", port=PORT + 7)
    net.load(vllm_endpoint_reach=REACH)
    gone.unlink()
    never.unlink()
    assert net.fence("check").returncode == 0, "a release that went is no drift"
    for _ in range(2):
        net.load(vllm_endpoint_replicas=[replica(0, port=PORT + 1, agent_port=AGENT + 1)], vllm_endpoint_reach=MOVED)
        for port in (PORT, AGENT):
            assert net.connects("stranger", HOST[1], port) == REFUSED
    sets = net.on("host", net.nft, "list", "table", "inet", "trainyard").stdout
    assert str(PORT + 7) not in sets


def test_a_release_whose_ports_were_not_loaded_is_drift(net: Net) -> None:
    net.load(vllm_endpoint_replicas=[replica(0, port=PORT + 1, agent_port=AGENT + 1)])
    assert net.connects("stranger", HOST[1], PORT) == "through"
    for index, port in enumerate(["8000", True, 0, 65536, None, -1, 8e3]):
        net.stage(f"broken-{index}", port=port)
    assert net.fence("check").returncode == 0
    net.stage("old", port=PORT)
    assert "whose ports were not loaded" in net.fence("check").stderr
    assert net.fence("hold").returncode == 0
    assert net.connects("stranger", HOST[1], PORT) == REFUSED


@pytest.mark.parametrize(
    ("tampered", "says"),
    [
        (["flush", "ruleset"], "is gone"),
        (["delete", "chain", "inet", "trainyard", "replicas"], "not those that were loaded"),
        (["insert", "rule", "inet", "trainyard", "replicas", "tcp", "dport", "8000", "accept"], "not those"),
    ],
)
def test_drift_is_seen_and_repaired(net: Net, tampered: list[str], says: str) -> None:
    net.load(vllm_endpoint_reach=REACH)
    assert net.fence("check").returncode == 0
    net.on("host", net.nft, *tampered)
    assert net.connects("stranger", HOST[1], PORT) == "through"
    looked = net.fence("check")
    assert (looked.returncode, says in looked.stderr) == (1, True)
    # To look changes nothing.
    assert net.connects("stranger", HOST[1], PORT) == "through"
    held = net.fence("hold")
    assert (held.returncode, says in held.stdout) == (0, True)
    assert net.connects("stranger", HOST[1], PORT) == "ConnectionRefusedError"
    assert net.fence("check").returncode == 0
    assert net.fence("hold").stdout == ""


def test_rules_that_were_written_and_not_loaded_are_drift(net: Net) -> None:
    """A run that ends between the file and the reload leaves the kernel with the rules of before."""
    net.load(vllm_endpoint_clients=["10.2.0.0/24"])
    net.write(vllm_endpoint_reach=REACH)
    assert "is not what was loaded" in net.fence("check").stderr
    (net.root / "loaded").unlink()
    assert "nobody knows" in net.fence("check").stderr


def test_a_fence_that_cannot_be_loaded_says_why_and_leaves_the_one_before(net: Net) -> None:
    net.load(vllm_endpoint_reach=REACH)
    (net.root / "fence.nft").write_text("table inet trainyard { chain replicas { tcp dport 8000 acept } }\n")
    done = net.fence("load")
    assert done.returncode == 1
    for word in ("no replica starts without it", "acept", "Next: nft -c -f", "systemctl restart trainyard-fence"):
        assert word in done.stderr
    assert net.connects("stranger", HOST[1], PORT) == "ConnectionRefusedError"
    (net.root / "fence.nft").unlink()
    gone = net.fence("load")
    assert gone.returncode == 1
    assert "run the serve playbook" in gone.stderr


def test_without_nft_nothing_is_taken_for_closed(net: Net) -> None:
    net.load(vllm_endpoint_reach=REACH)
    net.nft = "/nowhere/nft"
    for verb in ("check", "hold", "load"):
        done = net.fence(verb)
        assert (done.returncode, "/nowhere/nft" in done.stderr, "Traceback" in done.stderr) == (1, True, False)


def test_the_watch_loads_it_again_whenever_it_is_flushed(net: Net) -> None:
    net.load(vllm_endpoint_reach=REACH)
    command = ["ip", "netns", "exec", net.names["host"], *net.program("watch")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as watch:
        try:
            deadline = time.monotonic() + 60
            while not (net.root / "state.json").exists():
                assert time.monotonic() < deadline
            for _ in range(3):
                net.on("host", net.nft, "flush", "ruleset")
                assert watch.stdout
                assert "is gone; loaded again" in watch.stdout.readline()
                assert net.connects("stranger", HOST[1], PORT) == "ConnectionRefusedError"
        finally:
            watch.kill()
    assert "repaired" in net.fence("status").stdout
