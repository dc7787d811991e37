# SPDX-License-Identifier: Apache-2.0
"""The pages that Prometheus shows of a fleet: a real one fills them in, from what a stand-in fleet says."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.trainyard.neuron.plugins.filter.watch_console import watch_console
from ansible_collections.trainyard.neuron.plugins.module_utils.watch.devices import HARDWARE_ERRORS
from ansible_collections.trainyard.neuron.plugins.module_utils.watch.page import Page
from ansible_collections.trainyard.neuron.plugins.plugin_utils.watch import consoles

from lab.neuron_sim.metrics import Metrics
from tests.roles.prometheus_program import PROMETHEUS, command, free_port, needs_prometheus, running, serving, written
from tests.watch.test_rules import OTHERS, SERIES, VLLM, rules, series_of

ROUTER = """
haproxy_frontend_http_responses_total{{proxy="openai",code="2xx"}} {0}
haproxy_frontend_http_responses_total{{proxy="openai",code="5xx"}} 0
haproxy_backend_current_queue{{proxy="model-m"}} 0
"""
OF = {"deployment": "d", "replica": "d-0"}


def replica_page(tokens: int) -> str:
    """What a simulated vLLM says after some tokens."""
    engine = Metrics("m", (0, 13, 0), 1024)
    engine.running, engine.cache_usage, engine.generation_tokens = 3, 0.25, tokens
    for _ in range(tokens):
        engine.ttft.observe(0.2)
        engine.itl.observe(0.02)
        engine.queue.observe(0.0)
    return engine.render()


def host_page() -> str:
    """What a host says of itself: a replica that is up, one that starts, and a device with an error."""
    page = Page()
    for name, state in (("d-0", "active"), ("<b>d-1</b>", "activating")):
        of = {"deployment": "d", "replica": name}
        page.say("trainyard_replica_info", 1, cores="0-15", release="r1", sdk="2.27.0", artifact_digest="a", **of)
        page.say("trainyard_replica_state", 1, state=state, **of)
        page.say("trainyard_replica_restarts_total", 0, **of)
        page.say("trainyard_replica_start_seconds", 61, **of)
    page.say("trainyard_replica_phase", 1, deployment="d", replica="<b>d-1</b>", phase="loading weights")
    page.say("trainyard_replica_starting_seconds", 90, deployment="d", replica="<b>d-1</b>")
    page.say("trainyard_neuron_devices", 16)
    page.say("trainyard_neuron_ecc_events_total", 1, device="3", kind="sram_uncorrected")
    page.say("trainyard_neuron_hw_errors_total", 0, device="3", kind=HARDWARE_ERRORS[0])
    page.say("trainyard_neuron_reset_failures_total", 0, device="3")
    page.say("trainyard_lock_held", 1, verb="redeploy")
    page.say("trainyard_fence_closed", 1)
    page.say("trainyard_filesystem_used_ratio", 0.5, mount="/data")
    page.say("trainyard_capacity_block_end_timestamp_seconds", time.time() + 2 * 86400)
    return page.text()


def rows(html: str) -> dict[str, list[list[str]]]:
    """The cells of each table, by its title."""
    found = {}
    for title, text in re.findall(r"<h2>([^<]*)</h2>(.*?)(?=<h2>|</body>)", html, re.S):
        lines = re.findall(r"<tr[^>]*>(.*?)</tr>", text, re.S)[1:]
        found[title] = [[re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<td>(.*?)</td>", row)] for row in lines]
    return found


@contextlib.contextmanager
def watched_fleet(folder: Path) -> Iterator[dict[str, str]]:
    """Every page of a small fleet, once Prometheus has looked at all of it, by name."""
    given: dict[str, Any] = {"monitoring_port": free_port(), "monitoring_scrape_interval_s": 1}
    with serving(replica_page(100)) as replica, serving(ROUTER.format(1)) as router, serving(host_page()) as host:
        of = (("trainyard-replicas", replica, OF), ("trainyard-routers", router, {}), ("trainyard-hosts", host, {}))
        given["monitoring_targets"] = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"job": job, "host": "h1", **more}} for job, port, more in of
        ]
        written(folder, **given)
        argv = command("trainyard-prometheus.service.j2", PROMETHEUS, folder, **given)
        with (
            running(argv, folder / "log"),
            httpx.Client(base_url=f"http://127.0.0.1:{given['monitoring_port']}") as it,
        ):
            found: dict[str, list[list[str]]] = {}
            ends = time.monotonic() + 120
            while not (found.get("Alerts") and found["Replicas"][-1][6] == "0"):
                assert time.monotonic() < ends, (found, (folder / "log").read_text()[-2000:])
                time.sleep(1)
                try:
                    answer = it.get("/consoles/fleet.html")
                except httpx.TransportError:
                    continue
                if answer.status_code == 503:
                    continue
                assert answer.status_code == 200, answer.text
                found = rows(answer.text)
            others = {name: it.get(f"/consoles/{name}.html").raise_for_status().text for name in consoles.PAGES}
            yield {**others, "fleet": answer.text}


@needs_prometheus
def test_the_page_says_what_the_fleet_does(tmp_path: Path) -> None:
    """Every cell of a replica, a router and a host that say all there is has a value."""
    with watched_fleet(tmp_path) as pages:
        html = pages["fleet"]
    found = rows(html)
    assert set(pages) == set(consoles.PAGES)
    assert rows(pages["device"])["Memory errors by kind"] == [["h1", "3", "sram_uncorrected", "1"]]
    assert rows(pages["deployment"])["In flight of a replica"] == [["h1", "d-0", "3"]]
    starting = rows(pages["roll"])["How long replicas have been starting"]
    assert sorted(starting) == [["h1", "&lt;b&gt;d-1&lt;/b&gt;", "1m 30s"], ["h1", "d-0", "0s"]]
    assert found["Alerts"] == [["page", "UncorrectableECC", "h1", "", "", "3"]]
    assert re.search(r'<tr class="page">\s*<td>page</td>\s*<td><a href="https://github.com/', html)
    assert "docs/alerts.md#uncorrectableecc" in html
    starting, up = found["Replicas"]
    assert starting[:5] == ["d", "&lt;b&gt;d-1&lt;/b&gt;", "h1", "activating", "loading weights"]
    assert up[:8] == ["d", "d-0", "h1", "active", "-", "3", "0", "25%"]
    assert up[11:] == ["1m 1s", "0", "0-15", "r1", "2.27.0"]
    assert found["Routers"][0][:2] == ["h1", "1"]
    assert found["Routers"][0][4] == "0"
    (host_row,) = found["Hosts and devices"]
    assert host_row[:9] == ["h1", "1", "16", "1", "0", "0", "redeploy", "1", "50%"]
    assert host_row[9].startswith("1d 23h 59m")


def test_every_series_of_a_page_is_one_that_somebody_says() -> None:
    recorded = {rule.get("record") for group in rules.rule_groups({})["groups"] for rule in group["rules"]}
    asked = set().union(*map(series_of, consoles.queries()))
    assert asked - {*recorded, *SERIES, *OTHERS, *(f"vllm:{name}" for name in VLLM), "ALERTS", "sort_desc"} == set()
    assert "trainyard:kv_usage_ratio" in asked


def test_a_page_that_there_is_not_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="no page 'fleets': did you mean 'fleet'"):
        watch_console("fleets")
