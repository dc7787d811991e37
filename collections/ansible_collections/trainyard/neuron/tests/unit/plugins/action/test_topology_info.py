# SPDX-License-Identifier: Apache-2.0
"""What the controller has hosts asked, by what of a run comes."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.action.topology_info import benchmarks_too


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
