# SPDX-License-Identifier: Apache-2.0
"""What Prometheus asks, from a plan: each address as the plan has it, with the labels that the rules join by."""

from __future__ import annotations

import re
from typing import Any

from ansible_collections.trainyard.neuron.plugins.plugin_utils.watch import rules
from ansible_collections.trainyard.neuron.plugins.plugin_utils.watch.targets import targets

from trainyard.paths import ROOT
from trainyard.plan_command import plan_or_exit


def test_everything_of_the_shipped_fleet_is_asked() -> None:
    plan = plan_or_exit([str(ROOT / "inventory/trn2")])
    found = targets(plan["hosts"], plan["router"]["access"])
    jobs: dict[str, list[dict[str, Any]]] = {}
    for entry in found:
        jobs.setdefault(entry["labels"]["job"], []).append(entry)
    replicas = [replica for host in plan["hosts"].values() for replica in host["replicas"]]
    assert [entry["targets"] for entry in jobs["trainyard-replicas"]] == [
        [replica["url"].removeprefix("http://")] for replica in replicas
    ]
    assert [entry["labels"]["replica"] for entry in jobs["trainyard-replicas"]] == [row["name"] for row in replicas]
    ports = {job: {entry["targets"][0].rpartition(":")[2] for entry in rows} for job, rows in jobs.items()}
    assert ports["trainyard-devices"] == {"9400"}
    assert ports["trainyard-hosts"] == {"9401"}
    assert ports["trainyard-routers"] == {"8405"}
    assert {entry["labels"]["host"] for entry in found} == {*plan["hosts"], *plan["router"]["access"]}


def host(**more: Any) -> dict[str, Any]:
    return {"address": "fd00::1", "replicas": [], "monitor": None, **more}


def test_a_router_is_asked_where_it_can_be_reached() -> None:
    access = {"address": "10.0.0.9", "metrics_address": "*", "metrics_port": 8405}
    assert targets({"a": host()}, {"a": access, "gw": access, "lost": {**access, "address": "*"}}) == [
        {"targets": ["[fd00::1]:8405"], "labels": {"job": "trainyard-routers", "host": "a"}},
        {"targets": ["10.0.0.9:8405"], "labels": {"job": "trainyard-routers", "host": "gw"}},
    ]


def test_a_host_without_exporters_and_spares_is_not_asked_for_them() -> None:
    row = {"name": "d-0", "deployment": "d", "url": "http://10.0.0.1:8000"}
    found = targets({"a": host(replicas=[row], spares=[{**row, "name": "d-spare"}])}, {})
    labels = {"job": "trainyard-replicas", "host": "a", "deployment": "d", "replica": "d-0"}
    assert found == [{"targets": ["10.0.0.1:8000"], "labels": labels}]


def test_a_host_that_watches_itself_asks_over_the_loopback() -> None:
    """From its own address it would be a stranger to its exporters, which admit addresses."""
    urls = {"url": "http://10.0.0.1:9400/metrics", "host_url": "http://10.0.0.1:9401/metrics"}
    monitor = {"port": 9400, "host_port": 9401, **urls}
    hosts = {"a": host(monitor=monitor), "b": host(monitor=monitor)}
    found = {(entry["labels"]["host"], entry["targets"][0]) for entry in targets(hosts, {}, "a")}
    own = {("a", "127.0.0.1:9400"), ("a", "127.0.0.1:9401")}
    assert found == {*own, ("b", "10.0.0.1:9400"), ("b", "10.0.0.1:9401")}


def test_the_rules_ask_for_the_jobs_that_there_are() -> None:
    asked = {job for alert in rules.alerts() for job in re.findall(r'job="([^"]*)"', alert["expr"])}
    assert asked == {"trainyard-replicas", "trainyard-hosts"}
