# SPDX-License-Identifier: Apache-2.0
"""What one fault costs, fault by fault, under a steady load that accounts for every request.

Each test is one row of the table in docs/serving.md: a request may fail only if it was at the replica that failed, that
replica leaves rotation within its bound, and it comes back alone or stays out and says why. With `UPDATE_TABLES=1` the
rows are written into that page. Two stand-in hosts, four replicas each; every fault has a replica of its own, since
systemd gives up on one after five starts in an hour.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.stand_in import Lab, stand_in
from trainyard.paths import ROOT

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("serving-faults")]

PAGE = ROOT / "docs" / "serving.md"
TOKEN_S = 0.02
#: The standing probe's limits here; the page says how its bounds follow from them.
PROBE = {"stall_s": 5, "idle_s": 10, "silent_s": 3, "deadline_s": 3, "restarts": 3, "window_s": 3600}
#: The router asks a server and its agent every second, and the probe looks every second.
NOTICED_S = 3.0
STALLED_S = PROBE["stall_s"] + NOTICED_S
BACK_S = 60.0
GIVEN_UP_S = 180.0
#: The rows of the table.
ORDER = [
    "SIGKILL of the server",
    "SIGKILL of the engine",
    "SIGKILL of both",
    "engine hangs",
    "device fault (HBM)",
    "port squatter",
    "slow replica (10 times)",
    "router reload",
    "router restart",
    "SIGKILL of the router's worker",
    "router stopped for 3 s",
    "1,000 requests at once",
    "unit restarted by hand",
    "data volume read-only",
    "/run full",
    "probe stopped for 15 s",
    "journald stopped",
    "fence flushed",
    "serve.yml in mid-roll",
]


SHAPE = {"tensor_parallel_size": 16, "data_parallel_size": 4}
VARIABLES = {"trainyard_overrides": {"tiny-llama": SHAPE}, "vllm_endpoint_probe": PROBE}


@dataclass
class Row:
    """One fault and what it cost."""

    fault: str
    sent: int
    failed: int
    elsewhere: int
    out_after_s: float | None
    bound_s: float | None
    end: str

    def cells(self) -> list[str]:
        out = "stays" if self.out_after_s is None else f"{self.out_after_s:.1f} s (bound {self.bound_s:.0f} s)"
        return [self.fault, f"{self.failed} of {self.sent}", str(self.elsewhere), out, self.end]


class Rotation(threading.Thread):
    """Reads ten times a second which servers the router sends requests to, from its metrics."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.seen: list[tuple[float, set[str]]] = []
        self.over = threading.Event()

    def run(self) -> None:
        with httpx.Client(timeout=2.0) as client:
            while not self.over.wait(0.1):
                try:
                    text = client.get(self.url).text
                except httpx.HTTPError:
                    continue
                up = re.findall(r'haproxy_server_status\{.*server="([^"]+)",state="UP"\} 1', text)
                self.seen.append((time.time(), set(up)))

    def now(self) -> set[str]:
        return self.seen[-1][1] if self.seen else set()

    def out_since(self, server: str, after: float) -> float | None:
        """Time at which a server was first seen out of rotation after a moment."""
        return next((at for at, up in self.seen if at >= after and server not in up), None)


@dataclass
class Fleet:
    """The lab, its router, and what this run has found so far."""

    lab: Lab
    rotation: Rotation
    folder: Path
    rows: list[Row] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{self.lab.router_address}:8080"

    def unit(self, server: str, verb: str = "show") -> str:
        host, name = server.split(":")
        return self.lab.on(host, f"systemctl {verb} vllm@{name}.service --no-pager || true")

    def property(self, server: str, name: str) -> str:
        host, replica = server.split(":")
        return self.lab.on(host, f"systemctl show -P {name} vllm@{replica}.service")

    def processes(self, server: str) -> tuple[str, list[str]]:
        """Process id of the server, and those of the rest of its unit: its engine."""
        host, name = server.split(":")
        group = f"/sys/fs/cgroup$(systemctl show -P ControlGroup vllm@{name}.service)/cgroup.procs"
        main = self.property(server, "MainPID")
        return main, [pid for pid in self.lab.on(host, f"cat {group}").split() if pid != main]

    def kill(self, host: str, pids: list[str], then: str = "") -> float:
        """SIGKILL processes of a host; the moment, which the way to the host is no part of."""
        return float(self.lab.on(host, f"date +%s.%N; kill -9 {' '.join(pids)}; {then}").split()[0])

    def fault(self, host: str, kind: str, replica: str) -> float:
        """Switch a lasting fault of the simulator on; the moment at which it was."""
        self.lab.fault(host, kind, "--replica", replica)
        folders = "/run/neuron-sim/faults /var/lib/neuron-sim/faults"
        return float(self.lab.on(host, f"stat -c %.Y $(find {folders} -name '{kind}*.json' 2>/dev/null)"))

    def routed(self, since: float) -> dict[str, dict[str, Any]]:
        """Where each request went, by its id, from the router's log."""
        router = self.lab.inventory["router"]["hosts"][0]
        text = self.lab.on(router, f"journalctl -u haproxy.service -o cat --no-pager --since=@{int(since) - 1}")
        rows = [json.loads(line) for line in text.splitlines() if line.startswith('{"time"')]
        return {row["id"]: row for row in rows}

    def wait(self, question: Callable[[], bool], limit_s: float, what: str) -> float:
        began = time.monotonic()
        while not question():
            assert time.monotonic() - began < limit_s, f"not within {limit_s:.0f} s: {what}"
            time.sleep(0.2)
        return time.monotonic() - began


class Load:
    """`tests.roll.load` as a process of its own, and its requests when it is over."""

    def __init__(self, fleet: Fleet, gap_limit_s: float = 2.0) -> None:
        self.out = fleet.folder / f"requests-{time.monotonic_ns()}.jsonl"
        command = [sys.executable, "-m", "tests.roll.load", f"--url={fleet.url}", "--model=trainyard/tiny-llama"]
        pace = ["--closed=12", "--rate=2", f"--per-token-s={TOKEN_S}", "--shortest-s=0.2", "--longest-s=4"]
        limits = [f"--gap-limit-s={gap_limit_s}", "--first-limit-s=5", f"--requests-out={self.out}"]
        self.began = time.time()
        self.process = subprocess.Popen([*command, *pace, *limits], cwd=ROOT, stdout=subprocess.DEVNULL)

    def end(self) -> list[dict[str, Any]]:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        return [json.loads(line) for line in self.out.read_text().splitlines()]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with stand_in("faults", 2, **VARIABLES) as lab:
        lab.pace(ttft_ms=40, itl_ms=TOKEN_S * 1000)
        lab.play("site.yml", "--skip-tags=benchmark")
        rotation = Rotation(f"http://{lab.router_address}:8405/metrics")
        rotation.start()
        made = Fleet(lab, rotation, tmp_path_factory.mktemp("faults"))
        made.wait(lambda: len(rotation.now()) == 8, 30, "all eight replicas are in rotation")
        yield made
        rotation.over.set()
        rotation.join()
        if os.environ.get("UPDATE_TABLES"):
            write_table(made.rows)


def write_table(rows: list[Row]) -> None:
    """Put the rows between the marks of the page; those of faults that this run did not make stay."""
    head = ["fault", "requests that failed", "of these not at the replica", "leaves rotation", "afterwards"]
    begin, end = "<!-- faults: simulated -->", "<!-- end -->"
    before, _, rest = PAGE.read_text().partition(begin)
    there, _, after = rest.partition(end)
    cells = {line.split(" | ")[0].removeprefix("| "): line for line in there.strip().splitlines()[2:]}
    cells |= {row.fault: "| " + " | ".join(row.cells()) + " |" for row in rows}
    top = ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head))]
    lines = top + [cells[fault] for fault in sorted(cells, key=ORDER.index)]
    PAGE.write_text(before + begin + "\n" + "\n".join(lines) + "\n" + end + after)


def told(requests: list[dict[str, Any]], log: dict[str, dict[str, Any]]) -> str:
    """Requests with what the router says of them, a line each."""
    return "\n".join(f"{json.dumps(request)}\n    {json.dumps(log.get(request['request_id']))}" for request in requests)


def at_victim(request: dict[str, Any], log: dict[str, dict[str, Any]], victim: str, died: tuple[float, float]) -> bool:
    """Whether a request that failed was at the replica that did."""
    if row := log.get(request["request_id"]):
        return bool(row["replica"] == victim)
    # On a connection that served a request before, HAProxy closes without an answer and without a line when a server
    # breaks off before its first byte, for the client to try again. Only the victim broke off, and only then.
    silent = "without sending a response" in request["error"]
    return silent and request["sent_at"] < died[1] and request["sent_at"] + request["took_s"] > died[0]


def judge(
    fleet: Fleet, fault: str, victim: str, requests: list[dict[str, Any]], died: tuple[float, float], **row: Any
) -> Row:
    """Count what failed, and hold that it was at the victim."""
    log = fleet.routed(requests[0]["sent_at"])
    failed = [request for request in requests if request["kind"] != "ok"]
    elsewhere = [request for request in failed if not at_victim(request, log, victim, died)]
    assert len(requests) > 30, "the load proved nothing"
    assert elsewhere == [], told(elsewhere, log)
    made = Row(fault, len(requests), len(failed), len(elsewhere), end=row.pop("end"), **row)
    fleet.rows.append(made)
    return made


def strike(
    fleet: Fleet, fault: str, victim: str, bound_s: float, hit: Callable[[], float], returns: bool = True
) -> tuple[Row, str]:
    """Let a fault happen under load; the row, and `systemctl status` at the end.

    Args:
        fleet: the lab.
        fault: its name in the table.
        victim: the replica that it hits.
        bound_s: seconds within which that one has to leave rotation.
        hit: makes the fault and returns when it was there, by the clock that all hosts share.
        returns: whether the replica comes back alone.
    """
    restarts = int(fleet.property(victim, "NRestarts"))
    load = Load(fleet)
    time.sleep(3.0)
    try:
        began = hit()
        fleet.wait(lambda: fleet.rotation.out_since(victim, began) is not None, bound_s + 2, f"{victim} is out")
        out_after_s = (fleet.rotation.out_since(victim, began) or 0.0) - began
        if returns:
            fleet.wait(lambda: victim in fleet.rotation.now(), BACK_S, f"{victim} is back")
            end = f"returns alone after {time.time() - began:.0f} s"
        else:
            fleet.wait(lambda: fleet.property(victim, "ActiveState") == "failed", GIVEN_UP_S, f"{victim} gives up")
            end = "stays out, with the reason"
        time.sleep(2.0)
    finally:
        requests = load.end()
    status = fleet.unit(victim, "status")
    assert out_after_s <= bound_s
    assert (victim in fleet.rotation.now()) == returns
    if returns:
        assert int(fleet.property(victim, "NRestarts")) == restarts + 1, "restarted once, not in a storm"
    died = (began, began + out_after_s)
    row = judge(fleet, fault, victim, requests, died, out_after_s=out_after_s, bound_s=bound_s, end=end)
    return row, status


def mend(fleet: Fleet, victim: str) -> None:
    """What an operator does when the cause is gone."""
    host, name = victim.split(":")
    fleet.lab.on(host, f"systemctl reset-failed vllm@{name}.service; systemctl start --no-block vllm@{name}.service")
    fleet.wait(lambda: victim in fleet.rotation.now(), BACK_S, f"{victim} is back")


def test_sigkill_of_the_server(fleet: Fleet) -> None:
    victim = "lab-1:tiny-llama-0"
    main, _ = fleet.processes(victim)
    strike(fleet, "SIGKILL of the server", victim, NOTICED_S, lambda: fleet.kill("lab-1", [main]))


def test_sigkill_of_the_engine(fleet: Fleet) -> None:
    victim = "lab-1:tiny-llama-1"
    _, engine = fleet.processes(victim)
    strike(fleet, "SIGKILL of the engine", victim, 6.0, lambda: fleet.kill("lab-1", engine))


def test_sigkill_of_both(fleet: Fleet) -> None:
    victim = "lab-1:tiny-llama-2"
    main, engine = fleet.processes(victim)
    strike(fleet, "SIGKILL of both", victim, NOTICED_S, lambda: fleet.kill("lab-1", [main, *engine]))


def test_hang(fleet: Fleet) -> None:
    victim = "lab-1:tiny-llama-3"
    _, status = strike(fleet, "engine hangs", victim, STALLED_S, lambda: fleet.fault("lab-1", "hang", "tiny-llama-3"))
    assert "active (running)" in status
    assert "ended by the standing probe: stalled" in fleet.lab.on("lab-1", "journalctl -u vllm@tiny-llama-3 -o cat")


def test_device_fault(fleet: Fleet) -> None:
    victim = "lab-2:tiny-llama-0"
    _, status = strike(
        fleet, "device fault (HBM)", victim, 6.0, lambda: fleet.fault("lab-2", "hbm-error", "tiny-llama-0"),
        returns=False,
    )  # fmt: skip
    assert "replace: the device's HBM is defective" in status
    fleet.lab.fault("lab-2", "clear")
    mend(fleet, victim)


def test_port_squatter(fleet: Fleet) -> None:
    victim = "lab-2:tiny-llama-1"
    main, _ = fleet.processes(victim)
    # It answers 200 to everything, as a forgotten server would.
    answer = "HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}"
    # What is left of the server may hold the port for a moment: it waits for it, and is there before the restart.
    squat = (
        "import socket, time\ns = None\nwhile not s:\n try:\n"
        '  s = socket.create_server(("' + fleet.lab.address("lab-2") + '", 8001))\n'
        " except OSError:\n  time.sleep(0.05)\n"
        'while True:\n c = s.accept()[0]; c.recv(65536); c.sendall(b"' + answer + '"); c.close()'
    )
    fleet.lab.on("lab-2", f"printf '%s' '{squat}' > /run/squat.py")
    squats = "systemd-run --unit=squat --quiet python3 /run/squat.py"
    _, status = strike(
        fleet, "port squatter", victim, NOTICED_S, lambda: fleet.kill("lab-2", [main], then=squats), returns=False
    )
    assert "port 8001 is taken by another program" in status
    fleet.lab.on("lab-2", "systemctl stop squat.service")
    mend(fleet, victim)


def test_slow_replica(fleet: Fleet) -> None:
    victim, peers = "lab-2:tiny-llama-2", 7
    load = Load(fleet)
    began = time.time()
    fleet.lab.fault("lab-2", "slow-tokens", "--replica", "tiny-llama-2", "--factor", "10")
    time.sleep(15.0)
    requests = load.end()
    fleet.lab.fault("lab-2", "clear")
    log = fleet.routed(began)
    at_victim = [row for row in log.values() if row["replica"] == victim]
    others = [row for row in log.values() if row["replica"] not in (victim, "<NOSRV>")]
    share = len(at_victim) / (len(others) / peers)
    judge(
        fleet, "slow replica (10 times)", victim, requests, (began, began),
        out_after_s=None, bound_s=None, end=f"gets {share:.0%} of the requests of a peer",
    )  # fmt: skip
    assert share < 0.5


def test_router_restart(fleet: Fleet) -> None:
    router = fleet.lab.inventory["router"]["hosts"][0]
    load = Load(fleet)
    time.sleep(3.0)
    fleet.lab.on(router, "systemctl reload haproxy.service")
    time.sleep(2.0)
    reloaded = load.end()
    assert [request for request in reloaded if request["kind"] != "ok"] == []
    fleet.rows.append(Row("router reload", len(reloaded), 0, 0, None, None, "nothing notices"))
    before = fleet.rotation.now()
    load = Load(fleet)
    time.sleep(3.0)
    began = time.time()
    fleet.lab.on(router, "systemctl restart haproxy.service")
    over = time.time()
    time.sleep(3.0)
    requests = load.end()
    failed = [request for request in requests if request["kind"] != "ok"]
    # What it had under way goes with it, and nothing else: what came later was served.
    late = [row for row in failed if row["sent_at"] > over or row["sent_at"] + row["took_s"] < began]
    assert late == [], f"restarted from {began} to {over}\n{told(late, fleet.routed(began))}"
    assert fleet.rotation.now() == before
    fleet.rows.append(Row("router restart", len(requests), len(failed), 0, None, None, "serves again within a second"))


def disturb(
    fleet: Fleet,
    fault: str,
    hit: Callable[[], None],
    heal: Callable[[], None],
    seconds: float,
    end: str,
    **allowed: Any,
) -> list[dict[str, Any]]:
    """Let something happen that is no replica's fault, for some seconds, under load; every replica serves afterwards.

    Args:
        fleet: the lab.
        fault: its name in the table.
        hit: makes it.
        heal: undoes it; called however the test goes.
        seconds: how long it lasts.
        end: what the table says of afterwards, and of what an operator sees.
        allowed: `failed`, which of the requests may fail, none by default; `gap_limit_s`, how long a stream may pause.
    """
    before = fleet.rotation.now()
    assert len(before) == 8
    load = Load(fleet, allowed.get("gap_limit_s", 2.0))
    time.sleep(3.0)
    try:
        hit()
        time.sleep(seconds)
    finally:
        heal()
    fleet.wait(lambda: fleet.rotation.now() == before, BACK_S, "every replica is in rotation")
    time.sleep(2.0)
    requests = load.end()
    failed = [request for request in requests if request["kind"] != "ok"]
    assert len(requests) > 30, "the load proved nothing"
    may = allowed.get("failed", lambda _request: False)
    unexplained = [request for request in failed if not may(request)]
    assert unexplained == [], told(unexplained, fleet.routed(requests[0]["sent_at"]))
    fleet.rows.append(Row(fault, len(requests), len(failed), 0, None, None, end))
    return requests


def test_sigkill_of_the_routers_worker(fleet: Fleet) -> None:
    router = fleet.lab.inventory["router"]["hosts"][0]
    struck: list[float] = []

    def hit() -> None:
        # The master's children are its workers; the newest serves.
        kill = "pkill -9 --newest --parent $(systemctl show -P MainPID haproxy.service)"
        struck.append(float(fleet.lab.on(router, f"date +%s.%N; {kill}").split()[0]))

    def cut(request: dict[str, Any]) -> bool:
        return bool(request["sent_at"] < struck[0] + 3 and request["sent_at"] + request["took_s"] > struck[0])

    end = "systemd starts it again within 3 s; its journal and `systemctl status haproxy` name the signal"
    disturb(fleet, "SIGKILL of the router's worker", hit, lambda: None, 3.0, end, failed=cut)
    # Between the lines of the requests.
    said = fleet.lab.on(
        router, f"journalctl -u haproxy.service -o cat --no-pager --since=@{int(struck[0])} | grep -v '^{{'"
    )
    assert re.search(r"Killed|SIGKILL|signal 9|code 137", said), said


def test_router_stopped_for_3_seconds(fleet: Fleet) -> None:
    router = fleet.lab.inventory["router"]["hosts"][0]
    workers = "--parent $(systemctl show -P MainPID haproxy.service)"
    # In one line: what lies between two is longer on a busy machine.
    stopped = f"pkill -STOP {workers}; sleep 3; pkill -CONT {workers}"
    end = "streams pause and go on; the log has their times"
    disturb(
        fleet,
        "router stopped for 3 s",
        lambda: _quiet(fleet.lab.on(router, stopped)),
        lambda: _quiet(fleet.lab.on(router, f"pkill -CONT {workers}")),
        0.0,
        end,
        gap_limit_s=6.0,
    )


def _quiet(_output: str) -> None:
    """What a command printed is of no use."""


def test_1000_requests_at_once(fleet: Fleet) -> None:
    before = fleet.rotation.now()
    body = {"model": "trainyard/tiny-llama", "prompt": "Say it.", "max_tokens": 8, "temperature": 0}
    limits = httpx.Limits(max_connections=None)
    answers: list[int] = []

    async def ask() -> None:
        async with httpx.AsyncClient(limits=limits, timeout=180) as client:
            sent = [client.post(f"{fleet.url}/v1/completions", json=body) for _ in range(1000)]
            answers.extend(answer.status_code for answer in await asyncio.gather(*sent))

    asyncio.run(ask())
    assert len(answers) == 1000
    assert set(answers) == {200}, Counter(answers)
    fleet.wait(lambda: fleet.rotation.now() == before, BACK_S, "every replica is in rotation")
    fleet.rows.append(
        Row("1,000 requests at once", 1000, 0, 0, None, None, "they wait in the router; its metrics show the queue")
    )


def test_unit_restarted_by_hand(fleet: Fleet) -> None:
    victim = "lab-2:tiny-llama-3"
    load = Load(fleet)
    time.sleep(3.0)
    began = float(fleet.lab.on("lab-2", "date +%s.%N; systemctl restart vllm@tiny-llama-3.service").split()[0])
    over = time.time()
    fleet.wait(lambda: victim in fleet.rotation.now(), BACK_S, f"{victim} is back")
    time.sleep(2.0)
    end = f"returns alone after {time.time() - began:.0f} s; a roll would have drained it first"
    judge(fleet, "unit restarted by hand", victim, load.end(), (began, over), out_after_s=None, bound_s=None, end=end)


def test_data_volume_read_only(fleet: Fleet) -> None:
    """A volume that the kernel made read-only: what serves has its weights in memory."""
    lab = fleet.lab
    refused: list[str] = []

    def hit() -> None:
        lab.on("lab-1", "mount --bind /data /data && mount -o remount,bind,ro /data")
        refused.append(lab.on("lab-1", "touch /data/x 2>&1 || true"))

    disturb(
        fleet, "data volume read-only", hit, lambda: _quiet(lab.on("lab-1", "umount /data || true")), 5.0,
        "serves on; the next provision or compile fails and names the directory",
    )  # fmt: skip
    assert "Read-only" in refused[0]


def test_run_full(fleet: Fleet) -> None:
    lab = fleet.lab
    size = int(lab.on("lab-1", "df -k --output=size /run | tail -1"))
    # No larger than it is, or it would take the machine's memory.
    shrink = "mount -o remount,size=$(($(df -k --output=used /run | tail -1) + 256))k /run"
    fill = f"{shrink} && (dd if=/dev/zero of=/run/full bs=4k 2>/dev/null; df -k --output=avail /run | tail -1)"
    left: list[str] = []
    disturb(
        fleet, "/run full", lambda: left.append(lab.on("lab-1", fill)),
        lambda: _quiet(lab.on("lab-1", f"rm -f /run/full; mount -o remount,size={size}k /run")), 10.0,
        "serves on and stays in rotation; what the probe cannot write is in its journal",
    )  # fmt: skip
    assert int(left[0].split()[-1]) == 0
    assert lab.on("lab-1", "systemctl is-active trainyard-probe.service") == "active"


def test_probe_stopped_for_15_seconds(fleet: Fleet) -> None:
    lab = fleet.lab
    show = "systemctl show -P NRestarts trainyard-probe.service"
    before = int(lab.on("lab-1", show))
    main = lab.on("lab-1", "systemctl show -P MainPID trainyard-probe.service").strip()
    disturb(
        fleet, "probe stopped for 15 s", lambda: _quiet(lab.on("lab-1", f"kill -STOP {main}")), lambda: None, 15.0,
        "systemd's watchdog starts it again after 10 s, and its journal says so",
    )  # fmt: skip
    assert int(lab.on("lab-1", show)) == before + 1
    assert "Watchdog timeout" in lab.on("lab-1", "journalctl -u trainyard-probe.service -o cat --no-pager -n 50")


def test_journald_stopped(fleet: Fleet) -> None:
    lab = fleet.lab
    units = "systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket"
    disturb(
        fleet, "journald stopped", lambda: _quiet(lab.on("lab-2", f"systemctl stop {units}")),
        lambda: _quiet(lab.on("lab-2", f"systemctl start {units}")), 10.0,
        "serves on; lines of that time are missing, and the probe follows the journal again by itself",
    )  # fmt: skip


def test_fence_flushed(fleet: Fleet) -> None:
    lab = fleet.lab
    disturb(
        fleet, "fence flushed", lambda: _quiet(lab.on("lab-1", "nft flush ruleset")), lambda: None, 5.0,
        "loaded again within a second; `trainyard-fence-watch` says so in its journal",
    )  # fmt: skip
    assert "table inet trainyard" in lab.on("lab-1", "nft list tables")


def test_serve_in_mid_roll(fleet: Fleet) -> None:
    """A second operator, while a roll is under way: refused, and the roll goes on."""
    before = fleet.rotation.now()
    changed = {**VARIABLES, "trainyard_overrides": {"tiny-llama": {**SHAPE, "environment": {"FAULTS_TEST": "1"}}}}
    load = Load(fleet)
    roll = fleet.lab.start(
        "playbooks/redeploy.yml", "--skip-tags=provision,compile", f"--extra-vars={json.dumps(changed)}"
    )
    try:
        fleet.wait(lambda: len(fleet.rotation.now()) < len(before), 300, "the roll has begun")
        second = fleet.lab.start("playbooks/serve.yml")
        said, _ = second.communicate(timeout=300)
        assert second.returncode != 0
        assert "redeploy" in said
        printed, _ = roll.communicate(timeout=1500)
        assert roll.returncode == 0, printed[-3000:]
    finally:
        roll.kill()
        requests = load.end()
    fleet.wait(lambda: fleet.rotation.now() == before, BACK_S, "every replica is in rotation")
    failed = [request for request in requests if request["kind"] != "ok"]
    assert failed == [], told(failed, fleet.routed(requests[0]["sent_at"]))
    end = "refused, with who holds the fleet; the roll goes on"
    fleet.rows.append(Row("serve.yml in mid-roll", len(requests), 0, 0, None, None, end))
