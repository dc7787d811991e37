# SPDX-License-Identifier: Apache-2.0
"""Role monitoring with the real Prometheus: it takes what the role writes, and an alert goes out."""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

from tests.programs import program
from tests.roles.prometheus_program import (
    PROMETHEUS,
    PROMTOOL,
    Answers,
    command,
    contents,
    free_port,
    needs_prometheus,
    running,
    serving,
    written,
)
from tests.roles.render import render, variables

AMTOOL = program("amtool", "prometheus-alertmanager")
pytestmark = needs_prometheus
PASSWORD = "open sesame"
HASH = "$2b$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW"
PAGE = 'trainyard_neuron_ecc_events_total{device="3",kind="sram_uncorrected"} 1\n'


@pytest.fixture
def host() -> Iterator[int]:
    """A host with a broken device, as Prometheus asks it."""
    with serving(PAGE) as port:
        yield port


@pytest.fixture
def alertmanager() -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """What Prometheus sends alerts to, in the place of Alertmanager: its port, and what came."""
    told: list[dict[str, Any]] = []

    class Handler(Answers):
        def do_POST(self) -> None:  # noqa: N802 (its library names it)
            told.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

    with serving(handler=Handler) as port:
        yield port, told


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, str]:
    key, chain = tmp_path / "own-key.pem", tmp_path / "own-chain.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    argv += ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*argv, "-keyout", key, "-out", chain], check=True, capture_output=True)
    return {"monitoring_certificate": chain.read_text(), "monitoring_certificate_key": key.read_text()}


def answers(client: httpx.Client, path: str, limit_s: float = 60.0) -> Any:
    """What a program answers once it is up, and what it is asked about is there."""
    ends = time.monotonic() + limit_s
    while time.monotonic() < ends:
        with contextlib.suppress(httpx.TransportError):
            found = client.get(path)
            if found.status_code == 200 and (rows := found.json()):
                return rows
        time.sleep(0.5)
    pytest.fail(f"{path}: nothing within {limit_s:g} s")


def test_an_alert_goes_from_a_host_to_alertmanager(
    tmp_path: Path, host: int, alertmanager: tuple[int, list[dict[str, Any]]], certificate: dict[str, str]
) -> None:
    """With TLS and a password: who has none is told nothing."""
    target = {"targets": [f"127.0.0.1:{host}"], "labels": {"job": "trainyard-hosts", "host": "h1"}}
    given: dict[str, Any] = {
        **certificate,
        "monitoring_users": {"ann": HASH},
        "monitoring_port": free_port(),
        "monitoring_alerts_port": alertmanager[0],
        "monitoring_scrape_interval_s": 1,
        "monitoring_targets": [target],
    }
    written(tmp_path, **given)
    for kind, name in (("config", "prometheus.json"), ("web-config", "web.json")):
        done = subprocess.run([PROMTOOL, "check", kind, tmp_path / name], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    trusted = ssl.create_default_context(cafile=str(tmp_path / "certificate.pem"))
    url = f"https://127.0.0.1:{given['monitoring_port']}"
    argv = command("trainyard-prometheus.service.j2", PROMETHEUS, tmp_path, **given)
    with (
        running(argv, tmp_path / "prometheus.log"),
        httpx.Client(base_url=url, verify=trusted, auth=("ann", PASSWORD), timeout=20) as client,
    ):
        ends = time.monotonic() + 120
        while not (rows := [row for row in alertmanager[1] if row["labels"]["alertname"] == "UncorrectableECC"]):
            assert time.monotonic() < ends, (tmp_path / "prometheus.log").read_text()
            time.sleep(0.5)
        assert rows[0]["labels"]["host"] == "h1"
        assert rows[0]["labels"]["severity"] == "page"
        assert rows[0]["annotations"]["summary"] == "Device 3 of h1 has memory errors that cannot be corrected"
        assert rows[0]["annotations"]["runbook_url"].endswith("docs/alerts.md#uncorrectableecc")
        up = answers(client, "/api/v1/query?query=up")["data"]["result"]
        assert [row["metric"]["job"] for row in up] == ["trainyard-hosts"], "the target's own job"
        refused = httpx.get(f"{url}/api/v1/query?query=up", verify=trusted, timeout=20)
        assert refused.status_code == 401
        foreign = client.get("/api/v1/query?query=up", headers={"Origin": "https://elsewhere.example"})
        assert "access-control-allow-origin" not in foreign.headers, "no page of another site may read it"


def test_without_a_word_it_is_the_hosts_own() -> None:
    text = render("monitoring", "trainyard-prometheus.service.j2")
    assert "--web.listen-address=127.0.0.1:9090 " in text
    assert "--web.listen-address=127.0.0.1:9093 " in render("monitoring", "trainyard-alertmanager.service.j2")
    assert contents()["web.json"] == {}
    assert contents()["alertmanager.json"]["receivers"] == [{"name": "nobody"}]


@pytest.mark.skipif(not AMTOOL, reason="amtool is not installed, and its package cannot be had")
def test_receivers_are_taken_as_they_are(tmp_path: Path) -> None:
    hook = {"name": "rulebook", "webhook_configs": [{"url": "http://127.0.0.1:5050/alerts"}]}
    routes = [{"receiver": "rulebook", "matchers": ['finding!=""']}]
    found = written(tmp_path, monitoring_receivers=[hook], monitoring_routes=routes)["alertmanager.json"]
    assert (found["route"]["receiver"], found["route"]["routes"]) == ("rulebook", routes)
    done = subprocess.run([AMTOOL, "check-config", tmp_path / "alertmanager.json"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("given", "near"), [({}, True), ({"monitoring_address": "10.0.0.5"}, False), ({"monitoring_address": "::1"}, True)]
)
def test_it_knows_what_is_near(given: dict[str, str], near: bool) -> None:
    known = variables("monitoring", **given)
    assert Templar(loader=DataLoader(), variables=known).template(known["__monitoring_is_near"]) is near


def test_a_certificate_without_its_key_is_none(certificate: dict[str, str]) -> None:
    for name in certificate:
        assert contents(**{name: certificate[name]})["web.json"] == {}
    assert contents(**certificate)["web.json"]["tls_server_config"] == {
        "cert_file": "certificate.pem",
        "key_file": "key.pem",
    }
