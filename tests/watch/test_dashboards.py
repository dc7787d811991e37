# SPDX-License-Identifier: Apache-2.0
"""Grafana's dashboards: current, of queries that Prometheus parses and of series that somebody says."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.watch.page import SERIES
from ansible_collections.trainyard.neuron.plugins.plugin_utils.watch import consoles, dashboards, rules

from tests.watch.test_rules import OTHERS, PROMTOOL, VLLM, needs_promtool, series_of
from trainyard.paths import ROOT

#: Of Prometheus itself.
ALWAYS = {"ALERTS"}


def script() -> Any:
    spec = importlib.util.spec_from_file_location("dashboards_script", ROOT / "docs/dashboards.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_those_of_the_panels() -> None:
    found = script()
    wanted = {path.name: json.loads(text) for path, text in found.wanted().items()}
    assert {path.name: json.loads(path.read_text()) for path in found.FOLDER.glob("*.json")} == wanted
    assert len(wanted) == 5


@needs_promtool
def test_prometheus_parses_every_query(tmp_path: Path) -> None:
    asked = [query for name in dashboards.DASHBOARDS for query in dashboards.queries(name)] + consoles.queries()
    records = [{"record": f"asked:{number}", "expr": query} for number, query in enumerate(asked)]
    file = tmp_path / "asked.json"
    file.write_text(json.dumps({"groups": [{"name": "asked", "rules": records}]}))
    done = subprocess.run([PROMTOOL, "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(asked) > 50


@pytest.mark.parametrize("name", dashboards.DASHBOARDS)
def test_every_series_is_one_that_somebody_says(name: str) -> None:
    found = [rule for group in rules.rule_groups({})["groups"] for rule in group["rules"]]
    recorded = {rule["record"] for rule in found if "record" in rule}
    known = {*recorded, *SERIES, *OTHERS, *ALWAYS, *(f"vllm:{word}" for word in VLLM)}
    for query in dashboards.queries(name):
        assert series_of(query) - known == set(), query
        assert series_of(query), query


@pytest.mark.parametrize("name", dashboards.DASHBOARDS)
def test_no_panel_covers_another_and_each_has_a_choice_for_what_it_asks(name: str) -> None:
    found = dashboards.grafana(name)
    places = [panel["gridPos"] for panel in found["panels"]]
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or abs(one["y"] - other["y"]) >= one["h"], (one, other)
    assert all(place["x"] + place["w"] <= dashboards.COLUMNS for place in places)
    chosen = {row["name"] for row in found["templating"]["list"]}
    asked = {word for word in dashboards.CHOICES if any(f"${word}" in str(panel) for panel in found["panels"])}
    assert asked | {"datasource"} == chosen


def test_prometheus_own_pages_have_the_panels() -> None:
    for name, dashboard in dashboards.DASHBOARDS.items():
        page = consoles.pages()[f"{name}.html"]
        assert dashboard.title in page
        if name != "fleet":
            shown = [panel for panel in dashboard.panels if panel.kind != dashboards.HEAT]
            assert [panel.title for panel in shown if f"<h2>{panel.title}</h2>" not in page] == []
