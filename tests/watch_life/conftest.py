# SPDX-License-Identifier: Apache-2.0
"""A watched lab under one load: what the tests of the scenario `watch` share, and the table that they end with."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.roll.conftest import BASE, LabFleet, Run

PROMETHEUS, ALERTMANAGER, ROUTER_METRICS = 9090, 9093, 8405
REPLICAS = 4
TABLE: list[str] = []
"""What is printed at the end, whoever swallows output."""


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table last."""
    if TABLE:
        terminalreporter.write_line("")
        for line in TABLE:
            terminalreporter.write_line(line)


@dataclass
class Row:
    """What became of one fault; times in seconds since it was made, None where it did not come to that."""

    fault: str
    began_s: float
    alert: str = "none"
    alert_s: float | None = None
    restored_s: float | None = None
    by: str = ""
    told: str = ""
    ended_s: float = 0.0


@dataclass
class Watched:
    """The lab, its Prometheus and Alertmanager, and what was seen so far."""

    fleet: LabFleet
    host: str
    urls: dict[int, str]
    rows: list[Row] = field(default_factory=list)
    account: dict[str, Any] = field(default_factory=dict)

    def alerts(self, severity: str = "", **labels: str) -> list[dict[str, Any]]:
        """Alerts that fire at Prometheus, those of a severity and with these labels."""
        data = httpx.get(f"{self.urls[PROMETHEUS]}/api/v1/alerts", timeout=20).raise_for_status().json()["data"]
        wanted = {**labels, **({"severity": severity} if severity else {})}
        return [
            row
            for row in data["alerts"]
            if row["state"] == "firing" and all(row["labels"].get(key) == value for key, value in wanted.items())
        ]

    def told(self, **labels: str) -> list[dict[str, Any]]:
        """Alerts that Alertmanager has."""
        rows: list[dict[str, Any]] = httpx.get(f"{self.urls[ALERTMANAGER]}/api/v2/alerts", timeout=20).json()
        return [row for row in rows if all(row["labels"].get(key) == value for key, value in labels.items())]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What Prometheus answers to a query."""
        answer = httpx.get(f"{self.urls[PROMETHEUS]}/api/v1/query", params={"query": expression}, timeout=20)
        found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]["result"]
        return found

    def pages(self) -> list[str]:
        """Names of the alerts that would wake somebody."""
        return sorted({row["labels"]["alertname"] for row in self.alerts("page")})

    def up(self) -> int:
        """Replicas that the router sends requests to."""
        text = httpx.get(f"{self.urls[ROUTER_METRICS]}/metrics", timeout=20).text
        rows = [line for line in text.splitlines() if line.startswith("haproxy_server_status{")]
        return sum('state="UP"' in row and row.endswith(" 1") and "tiny-llama-" in row for row in rows)

    def fault(self, *words: str) -> None:
        """Make a fault on the host."""
        self.fleet.fault(self.host, *words)

    def heal(self, finding: dict[str, Any] | None = None, *more: str) -> Run:
        """Heal what Alertmanager says, or what is given."""
        return self.fleet.run("heal", {"trainyard_finding": finding} if finding else {}, *more)

    def placed(self) -> dict[str, tuple[str, str]]:
        """Cores and artifact of each replica, as its host tells Prometheus."""
        rows = [row["metric"] for row in self.query("trainyard_replica_info")]
        return {row["replica"]: (row["cores"], row["artifact_digest"]) for row in rows}

    @contextlib.contextmanager
    def row(self, fault: str) -> Iterator[Row]:
        """Measure one fault: its row is kept, whatever becomes of it."""
        row = Row(fault, time.time())
        self.rows.append(row)
        try:
            yield row
        finally:
            row.ended_s = time.time()

    def until(self, question: Callable[[], Any], timeout_s: float, what: str) -> Any:
        """Wait until a question is answered with something; the answer."""
        end = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if answer := question():
                    return answer
            if time.monotonic() > end:
                pytest.fail(f"not within {timeout_s:.0f} s: {what}; alerts: {self.pages()}, up: {self.up()}")
            time.sleep(0.5)

    def alerted(self, row: Row, timeout_s: float, **labels: str) -> dict[str, Any]:
        """Wait for an alert, and note it."""
        found: dict[str, Any] = self.until(lambda: self.alerts(**labels), timeout_s, f"alert {labels}")[0]
        row.alert, row.alert_s = found["labels"]["alertname"], time.time() - row.began_s
        row.told = found["annotations"]["summary"]
        return found

    def restored(self, row: Row, by: str, timeout_s: float = 180.0) -> None:
        """Wait until every replica is in rotation, and note it."""
        self.until(lambda: self.up() == REPLICAS, timeout_s, "every replica in rotation")
        row.restored_s, row.by = time.time() - row.began_s, by

    def lost(self, row: Row) -> int:
        """Requests that ended without their whole answer while a fault was the last that had been made."""
        begun = sorted(one.began_s for one in self.rows if one.began_s > row.began_s)
        until_s = begun[0] if begun else float("inf")
        ends = [one["sent_at"] + one["took_s"] for one in self.account["requests"] if one["kind"] != "ok"]
        return sum(row.began_s <= end_s < until_s for end_s in ends)


def forwarded(fleet: LabFleet, host: str, folder: Path) -> tuple[subprocess.Popen[bytes], dict[int, str]]:
    """The monitor's own ports on this machine's loopback, by SSH, as an operator has them."""
    inventory = fleet.inventory()
    shared, mine = inventory["all"]["vars"], inventory["_meta"]["hostvars"][host]
    ports = {}
    for port in (PROMETHEUS, ALERTMANAGER, ROUTER_METRICS):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports[port] = free.getsockname()[1]
    ways = [word for port, here in ports.items() for word in ("-L", f"127.0.0.1:{here}:127.0.0.1:{port}")]
    argv = ["ssh", "-N", "-o", "ExitOnForwardFailure=yes", "-i", shared["ansible_ssh_private_key_file"]]
    argv += [*json.loads(json.dumps(shared["ansible_ssh_common_args"])).replace("'", "").split(), *ways]
    with (folder / "ssh.log").open("w") as log:
        process = subprocess.Popen(
            [*argv, f"{shared['ansible_user']}@{mine['ansible_host']}"], stdin=subprocess.DEVNULL, stderr=log
        )
    return process, {port: f"http://127.0.0.1:{here}" for port, here in ports.items()}


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """The lab that TRAINYARD_LAB names, served and watched by `site.yml` before, under a load until the last test."""
    folder = tmp_path_factory.mktemp("watched")
    variables = json.loads(Path(os.environ["TRAINYARD_WATCH_VARIABLES"]).read_text(encoding="utf-8"))
    settings = {**BASE, **variables, "trainyard_redeploy": {"canary_s": 10, "soak_s": 1, "drain_deadline_s": 60}}
    fleet = LabFleet(folder, settings, (f"--inventory={os.environ['TRAINYARD_WATCH_MONITORED']}",))
    inventory = fleet.inventory()
    host = inventory["router"]["hosts"][0]
    tunnel, urls = forwarded(fleet, host, folder)
    found = Watched(fleet, host, urls)
    router = f"http://{inventory['_meta']['hostvars'][host]['ansible_host']}:8080"
    try:
        found.until(lambda: len(found.query("up == 1")) >= REPLICAS + 3, 120, "every target is asked")
        with fleet.load(router, closed=4, rate=0.5, longest_s=4.0, gap_limit_s=5.0) as account:
            yield found
        found.account = account
        TABLE.extend(table_of(found))
    finally:
        tunnel.terminate()
        tunnel.wait(10)


def table_of(watched: Watched) -> list[str]:
    """The table of all faults, in Markdown."""
    lines = [
        "What was seen of each fault (simulated; one host of four replicas; seconds since the fault):",
        "",
        "| fault | alert | after, s | restored after, s | by | requests lost | what a person was told |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in watched.rows:
        times = ["-" if value is None else f"{value:.0f}" for value in (row.alert_s, row.restored_s)]
        cells = [row.fault, row.alert, *times, row.by, str(watched.lost(row)), row.told or "nothing"]
        lines.append("| " + " | ".join(cells) + " |")
    sent, lost = watched.account["sent"], watched.account["sent"] - watched.account["ok"]
    return [*lines, "", f"{sent} requests in all, {lost} of them lost."]
