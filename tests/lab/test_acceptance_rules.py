# SPDX-License-Identifier: Apache-2.0
"""Each rule of the stand-in switched off, one at a time: the check of its name differs, and no other does.

For every generation whose check judges the rule. `TRAINYARD_RULES` names some of them, for a table of those alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils import acceptance

from lab.neuron_sim import faults
from lab.neuron_sim.rules import RULES
from tests.lab.acceptance_support import LATENCY, RELEASES, accepted, add_weights
from tests.lab.sim_support import SimHost

pytestmark = pytest.mark.lab

#: Rules that only one generation has; the plugin has all others.
OF_NATIVE = ("graphs-are-kept", "forbidden-compile")
OF_V0 = ("heads-divide", "model-length")
#: Rules that the generations keep in ways of their own.
OF_EACH = ("silent-start", "slice-start", "sigterm-streams", "engine-death", "cut-weights", "load-memory", "start-log")
WANTED = os.environ.get("TRAINYARD_RULES", "").split(",") if os.environ.get("TRAINYARD_RULES") else list(RULES)


def generation_of(rule: str) -> str:
    return "native" if rule in OF_NATIVE else "nxdi_v0" if rule in OF_V0 else "nxdi_v1"


CASES = [(generation_of(rule), rule) for rule in WANTED]
CASES += [(name, rule) for name in ("nxdi_v0", "native") for rule in OF_EACH if rule in WANTED]
CASES.append(("nxdi_v0", "empty-artifact-variable"))


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, SimHost]]:
    made = {}
    for generation, release in RELEASES.items():
        place = tmp_path_factory.mktemp(generation)
        made[generation] = SimHost(place, sdk_releases=[release], latency=LATENCY, sharded=False)
        add_weights(made[generation])
    yield made
    for host in made.values():
        host.stop()


@pytest.mark.parametrize("generation", RELEASES)
def test_with_every_rule_on_nothing_differs(hosts: dict[str, SimHost], generation: str) -> None:
    found = accepted(hosts[generation])
    assert {name: one["seen"] for name, one in found.items() if one["outcome"] == acceptance.DIFFERS} == {}
    passed = [one for one in found.values() if one["outcome"] == acceptance.PASSED]
    assert len(passed) >= {"nxdi_v0": 64, "nxdi_v1": 68, "native": 55}[generation]


@pytest.mark.parametrize(("generation", "rule"), CASES)
def test_a_rule_that_is_off_is_told_by_its_check_alone(
    hosts: dict[str, SimHost], tmp_path: Path, generation: str, rule: str
) -> None:
    host = hosts[generation]
    if rule == "compile-ranks":
        host = SimHost(tmp_path, sdk_releases=[RELEASES[generation]], latency=LATENCY, sharded=True)
        add_weights(host)
    try:
        faults.inject(host.config, "rule-off", rule=rule)
        found = accepted(host)
    finally:
        faults.clear(host.config)
    assert [name for name, one in found.items() if one["outcome"] == acceptance.DIFFERS] == [rule], {
        name: one["seen"] for name, one in found.items() if one["outcome"] == acceptance.DIFFERS
    }
