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
import yaml

from tests.roll.conftest import BASE, LabFleet, Run
from tests.stand_in import Lab

PROMETHEUS, ALERTMANAGER, ROUTER_METRICS = 9090, 9093, 8405
HOSTS, REPLICAS = 2, 8
#: Prometheus keeps what it looked at this often, seconds.
STEP_S = 15
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
    lab: Lab
    thresholds: dict[str, Any]
    pages_to: Path | None = None
    began_s: float = field(default_factory=time.time)
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

    def within(self, expression: str, begin_s: float, end_s: float = 0.0) -> list[dict[str, Any]]:
        """The series that an expression had within a time, each with its samples; until now where no end is given."""
        words = {
            "query": expression,
            "start": f"{begin_s:.3f}",
            "end": f"{end_s or time.time():.3f}",
            "step": f"{STEP_S}",
        }
        answer = httpx.get(f"{self.urls[PROMETHEUS]}/api/v1/query_range", params=words, timeout=60)
        found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]["result"]
        return found

    def page(self, name: str) -> str:
        """A page of the fleet, as Prometheus shows it."""
        return httpx.get(f"{self.urls[PROMETHEUS]}/consoles/{name}.html", timeout=60).raise_for_status().text

    def fault(self, *words: str, host: str = "") -> None:
        """Make a fault on the host that routes, or on another."""
        self.fleet.fault(host or self.host, *words)

    def heal(self, finding: dict[str, Any] | None = None, actions: int = 0) -> Run:
        """Heal what Alertmanager says, or what is given; a person may allow so many actions."""
        given: dict[str, Any] = {"trainyard_finding": finding} if finding else {}
        return self.fleet.run(
            "heal", {**given, **({"trainyard_heal": {"actions_per_hour": actions}} if actions else {})}
        )

    def placed(self) -> dict[str, tuple[str, str]]:
        """Cores and artifact of each replica, as its host tells Prometheus."""
        rows = [row["metric"] for row in self.query("trainyard_replica_info")]
        return {f"{row['host']}:{row['replica']}": (row["cores"], row["artifact_digest"]) for row in rows}

    def whole(self) -> None:
        """Wait until every replica is in rotation, as each fault begins."""
        self.until(lambda: self.up() == REPLICAS, 180, "every replica in rotation")

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

    def seen(self, row: Row, **labels: str) -> bool:
        """Note the first alert that fired since a fault, by what Prometheus kept; whether one did."""
        wanted = ",".join(f'{name}=~"{value}"' for name, value in labels.items())
        fired = self.within(f'ALERTS{{alertstate="firing",severity=~"page|warn",{wanted}}}', row.began_s)
        # One that went on firing from before has nothing to do with it.
        fresh = [one for one in fired if one["values"][0][0] > row.began_s + STEP_S / 2]
        if fresh:
            first = min(fresh, key=lambda one: one["values"][0][0])
            row.alert, row.alert_s = first["metric"]["alertname"], first["values"][0][0] - row.began_s
            said = [one for one in self.alerts() if one["labels"]["alertname"] == row.alert]
            row.told = said[0]["annotations"]["summary"] if said else f"{row.alert}, which is over"
        return bool(fresh)

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
    kept = os.environ.get("TRAINYARD_WATCH_PAGES", "")
    lab = Lab(os.environ["TRAINYARD_LAB"])
    thresholds = yaml.safe_load(Path(os.environ["TRAINYARD_WATCH_MONITORED"], "hosts.yml").read_text(encoding="utf-8"))
    found = Watched(
        fleet,
        host,
        urls,
        lab,
        thresholds["monitor"]["vars"]["monitoring_thresholds"],
        Path(kept) if kept else None,
    )
    router = f"http://{inventory['_meta']['hostvars'][host]['ansible_host']}:8080"
    try:
        found.until(lambda: len(found.query("up == 1")) >= REPLICAS + 2 * HOSTS + 1, 120, "every target is asked")
        with fleet.load(router, closed=4, rate=0.5, longest_s=4.0, gap_limit_s=5.0) as account:
            yield found
        found.account = account
        TABLE.extend(table_of(found))
    finally:
        for name in sorted(inventory["_meta"]["hostvars"]):
            fleet.fault(name, "clear")
        tunnel.terminate()
        tunnel.wait(10)


def table_of(watched: Watched) -> list[str]:
    """The table of all faults, in Markdown."""
    lines = [
        "What was seen of each fault (simulated; two hosts of four replicas each; seconds since the fault):",
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
