# SPDX-License-Identifier: Apache-2.0
"""A model with adapters is measured by the names that clients ask for: a run for each mix of them."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet

ADAPTERS = [{"name": name, "repo": f"acme/{name}", "revision": "a" * 40} for name in ("support", "sql", "chat", "code")]


def runs(benchmark: dict[str, Any] | None = None, adapters: int = 2) -> list[dict[str, Any]]:
    """The runs that a plan has of a Llama with so many adapters, on one host."""
    wanted: dict[str, Any] = {
        "name": "m",
        "model": {"repo": "meta-llama/Llama-3.1-8B-Instruct", "revision": "0" * 40},
        "served_name": "llama",
        "aliases": ["llama-8b"],
        "sdk_release": "2.28.0",
        "tensor_parallel_size": 8,
        "max_num_seqs": 4,
        "max_model_len": 4096,
        "port": 8000,
        "benchmark": {"requests": 40, **(benchmark or {})},
    }
    if adapters:
        wanted["lora"] = {"max_loras": adapters, "max_rank": 16, "adapters": ADAPTERS[:adapters]}
    host = {"trainyard_deployment_m": wanted, "trainyard_instance_type": "trn2.48xlarge", "ansible_host": "10.0.0.1"}
    given = {"hosts": {"h": host}, "routers": ["h"], "clients": ["h"], "topologies": {}}
    found: list[dict[str, Any]] = plan_fleet(given).to_dict()["benchmarks"]
    return found


def names(found: list[dict[str, Any]]) -> list[Any]:
    return [run["load"].get("models") for run in found]


def test_a_model_with_adapters_is_measured_by_its_own_name_and_by_all_adapters_in_turn() -> None:
    found = runs()
    assert len(found) == 2
    own, mixed = found
    assert "models" not in own["load"]
    assert mixed["load"]["models"] == ["support", "sql"]
    assert [own["mix"], mixed["mix"]] == [0, 1]
    assert [own["label"], mixed["label"]] == ["m", "m-support-sql"]
    assert own["load"] == {name: value for name, value in mixed["load"].items() if name != "models"}
    assert own["replicas"] == mixed["replicas"]
    assert own["model"] == mixed["model"] == "llama"


def test_a_model_without_adapters_is_measured_once() -> None:
    assert names(runs(adapters=0)) == [None]


def test_each_mix_that_is_asked_for_is_a_run_with_its_names_as_often_as_they_stand_there() -> None:
    mixes = [["llama-8b"], ["sql", "sql", "support"], ["support", "sql", "chat", "code"]]
    found = runs({"adapter_mixes": mixes}, adapters=4)
    assert names(found) == mixes
    assert [run["label"] for run in found] == ["m-llama-8b", "m-sql-support", "m-support-sql-chat-1-more"]
    assert all("adapter_mixes" not in run["load"] for run in found)


@pytest.mark.parametrize(
    ("benchmark", "expected"),
    [
        ({"adapter_mixes": []}, [None]),
        ({"models": ["sql"]}, [["sql"]]),
        ({"adapter_mixes": None}, [None, ["support", "sql"]]),
    ],
)
def test_one_run_where_the_mixes_are_none_or_the_load_names_its_own(
    benchmark: dict[str, Any], expected: list[Any]
) -> None:
    assert names(runs(benchmark)) == expected


@pytest.mark.parametrize(
    ("benchmark", "said"),
    [
        (
            {"adapter_mixes": [["llama"], ["suport"]]},
            """adapter_mixes[1][0] = "suport": is no name that m is served by. Fix: did you mean 'support'?""",
        ),
        (
            {"models": ["marketing"]},
            'benchmark.models[0] = "marketing": is no name that m is served by. Fix: use llama or llama-8b or support',
        ),
        (
            {"models": ["sql"], "adapter_mixes": [["sql"]]},
            'benchmark.models = ["sql"]: is one mix of names, and adapter_mixes has them all',
        ),
        ({"adapter_mixes": [[]]}, "benchmark.adapter_mixes[0]"),
        ({"adapter_mixes": ["sql"]}, "benchmark.adapter_mixes[0]"),
        ({"adapter_mix": [["sql"]]}, "did you mean 'adapter_mixes'?"),
        ({"models": [""]}, "benchmark.models[0]"),
    ],
)
def test_names_that_are_not_served_and_two_ways_to_say_them_are_refused(benchmark: dict[str, Any], said: str) -> None:
    with pytest.raises(PlanError) as error:
        runs(benchmark)
    assert said in str(error.value)
