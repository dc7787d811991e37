# SPDX-License-Identifier: Apache-2.0
"""What the controller has hosts asked, by what of a run comes."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.action.topology_info import benchmarks_too, watch_too


@pytest.mark.parametrize(
    ("given", "comes"),
    [
        ({}, True),
        ({"tags": ["all"], "skip_tags": []}, True),
        ({"tags": ["all"], "skip_tags": ["benchmark"]}, False),
        ({"tags": ["serve", "benchmark"]}, True),
        ({"tags": ["serve"]}, False),
        ({"tags": ["tagged"]}, True),
        ({"tags": ["benchmark"], "skip_tags": ["benchmark"]}, False),
    ],
)
def test_what_a_benchmark_needs_is_asked_where_the_run_comes_to_it(given: dict[str, Any], comes: bool) -> None:
    assert benchmarks_too(given) is comes


@pytest.mark.parametrize(
    ("verb", "asks", "given", "comes"),
    [
        ("", "all", {}, True),
        ("", "reach", {}, False),
        ("", "load", {}, False),
        ("site", "all", {}, True),
        ("site", "all", {"tags": ["serve"]}, True),
        ("site", "all", {"tags": ["monitoring"]}, True),
        ("site", "all", {"tags": ["provision"]}, False),
        ("site", "all", {"skip_tags": ["serve"]}, False),
        ("site", "all", {"skip_tags": ["benchmark"]}, True),
        ("serve", "all", {"skip_tags": ["monitoring"]}, False),
        ("redeploy", "all", {}, False),
        ("teardown", "reach", {}, True),
    ],
)
def test_hosts_that_watch_are_asked_where_the_run_comes_to_them(
    verb: str, asks: str, given: dict[str, Any], comes: bool
) -> None:
    assert watch_too(verb, asks, given) is comes
