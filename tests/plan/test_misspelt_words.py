# SPDX-License-Identifier: Apache-2.0
"""A word that nobody knows is refused with the nearest one: in a plan, a replica's file, a settings dictionary."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.plan import settings as schemas
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.fields import Schema
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import settings
from ansible_collections.trainyard.neuron.plugins.plugin_utils import run_plan
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.parts import RouterReach
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.router_access import Access
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.plan.fleets import deployment, host
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.plan.fleets import plan as planned

Path_ = tuple[Any, ...]

#: Under these words stand names that are not ours: of variables, packages, settings of the engine, weights of modules.
OPEN = ("environment", "packages", "settings", "compiled", "buckets", "load")

LORA = {"adapters": [{"name": "one", "repo": "o/one", "revision": "1" * 40}], "max_rank": 8}


@pytest.fixture(scope="module")
def plan() -> dict[str, Any]:
    """A plan in which every part has something: two hosts, metrics of devices, memory, adapters, a load."""
    item = deployment(benchmark={"load_hosts": 1, "requests": 7}, lora=LORA)
    hosts = {
        name: host(item, trainyard_monitor_port=9400, ansible_host=f"10.0.0.{number}")
        for number, name in enumerate(("a", "b"), 1)
    }
    topology = {"devices": [], "online_cpus": "0-191", "memory_bytes": 2 << 40}
    return planned(hosts, routers=["a", "b"], clients=["c"], topologies=dict.fromkeys(hosts, topology))


def words_of(part: Any, here: Path_ = ()) -> Iterator[Path_]:
    """Where each word of ours stands in some data, one row of a list standing for all."""
    if isinstance(part, Mapping):
        for key, value in part.items():
            yield (*here, key)
            # A replica's adapters stand there by their names.
            if key not in OPEN and not (key == "adapters" and isinstance(value, Mapping)):
                yield from words_of(value, (*here, key))
    elif isinstance(part, list) and part:
        yield from words_of(part[0], (*here, 0))


def misspelt(part: Any, word: Path_) -> tuple[Any, str]:
    """The data with one word misspelt, and the misspelling."""
    changed = copy.deepcopy(part)
    inner = changed
    for step in word[:-1]:
        inner = inner[step]
    slip = f"{word[-1][:-1]}_x" if len(word[-1]) > 3 else f"{word[-1]}_"
    inner[slip] = inner.pop(word[-1])
    return changed, slip


def refusals(part: Any, read: Callable[[Any], Any], error: type[Exception], depth: int = 0) -> list[str]:
    """Read the data with each of its words misspelt in turn, those below a depth; what was wrong about a refusal."""
    found = []
    for word in (word for word in words_of(part) if len(word) > depth):
        changed, slip = misspelt(part, word)
        try:
            read(changed)
        except error as refused:
            # Another word may be as near, and a word of two letters has no near one.
            near = len(word[-1]) <= 3 or "meant is perhaps" in str(refused)
            if f"{slip} is no word that is known" not in str(refused) or not near:
                found.append(f"{word}: {refused}")
        else:
            found.append(f"{word}: {slip} was taken")
    return found


def test_every_word_of_a_hosts_part(plan: dict[str, Any], tmp_path: Path) -> None:
    def read(part: Any) -> None:
        run_plan.write({**plan, "hosts": {"b": part}}, tmp_path / "plan")
        run_plan.RunPlan(tmp_path / "plan").host("b")

    part = plan["hosts"]["b"]
    read(part)
    assert {word[0] for word in words_of(part)} >= {"monitor", "sdk", "memory", "reach", "artifacts", "replicas"}
    assert len(list(words_of(part))) > 100
    assert refusals(part, read, run_plan.RunPlanError) == []


def test_every_word_of_a_routers_part(plan: dict[str, Any], tmp_path: Path) -> None:
    def read(part: Any) -> None:
        router = {**plan["router"], "models": part["models"], "access": {"a": part["access"]}}
        run_plan.write({**plan, "router": router}, tmp_path / "plan")
        run_plan.RunPlan(tmp_path / "plan").router("a")

    part = {"models": plan["router"]["models"], "access": plan["router"]["access"]["a"]}
    read(part)
    assert len(list(words_of(part))) > 15
    # The two words above are the test's own, of files that are put together.
    assert refusals(part, read, run_plan.RunPlanError, depth=1) == []


def test_every_word_of_a_benchmark(plan: dict[str, Any], tmp_path: Path) -> None:
    def read(part: Any) -> None:
        run_plan.write({**plan, "benchmarks": [part]}, tmp_path / "plan")
        run_plan.RunPlan(tmp_path / "plan").benchmarks("c")

    read(plan["benchmarks"][0])
    assert refusals(plan["benchmarks"][0], read, run_plan.RunPlanError) == []


def test_every_word_of_a_replicas_file(plan: dict[str, Any]) -> None:
    def read(part: Any) -> None:
        settings.parse(json.dumps(part))

    gate = {field.name: field.default for field in dataclasses.fields(settings.Gate)}
    probe = {field.name: field.default for field in dataclasses.fields(settings.Limits)}
    part = {**plan["hosts"]["b"]["replicas"][0], "needs_key": True, "gate": gate, "probe": probe}
    # What these say is in the command already: no program of a host reads them.
    part.pop("options", None)
    read(part)
    assert refusals(part, read, settings.ServingError) == []


def test_every_field_of_every_settings_dictionary() -> None:
    known = {name: value for name, value in vars(schemas).items() if isinstance(value, Schema)}
    assert len(known) > 5
    for name, schema in known.items():
        for field in schema.fields:
            slip = f"{field}x"
            _values, problems = schema.read({slip: 1})
            told = [problem for problem in problems if slip in str(problem)]
            assert told, (name, field)
            assert any("did you mean" in str(problem) for problem in told), (name, field, told)


def test_a_routers_reach_has_the_words_of_what_judges_it() -> None:
    words = [field.name for field in dataclasses.fields(RouterReach)]
    assert words == [*(field.name for field in dataclasses.fields(Access)), "before"]
