# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.inventory import (
    MOST_VALUES,
    TooLargeError,
    collect,
    fleet_input,
    plain,
    read_model_configs,
)


class Broken(Mapping[str, Any]):
    """A host whose variables are templated when they are read, and one of them cannot be."""

    def __getitem__(self, key: str) -> Any:
        if key == "trainyard_address":
            raise ValueError("'nowhere' is undefined")
        return {"trainyard_data_dir": "/data"}[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("trainyard_address", "trainyard_data_dir"))

    def __len__(self) -> int:
        return 2


def test_only_the_planners_variables_are_collected() -> None:
    hostvars = {"a": {"ansible_host": "10.0.0.1", "ansible_password": "x", "trainyard_data_dir": "/d", "other": 1}}
    assert fleet_input(hostvars, ["a"], [])["hosts"] == {"a": {"ansible_host": "10.0.0.1", "trainyard_data_dir": "/d"}}


def test_of_a_key_only_what_tells_it_from_another_is_collected() -> None:
    def given(key: str) -> dict[str, Any]:
        return fleet_input({"a": {"vllm_endpoint_api_key": key}}, ["a"], [])["hosts"]["a"]

    assert given("s3cret") != given("another")
    assert "s3cret" not in json.dumps(given("s3cret"))
    assert given("") == {"credentials": ""}


@pytest.mark.parametrize(
    ("registered", "expected"),
    [
        ({"changed": False, "failed": False, "topology": {"devices": [1]}}, {"a": {"devices": [1]}}),
        (
            {"changed": False, "failed": False, "topology": {"devices": [], "online_cpus": "0"}},
            {"a": {"devices": [], "online_cpus": "0"}},
        ),
        ({"changed": False, "unreachable": True, "msg": "no route"}, {}),
        ({"changed": False, "skipped": True}, {}),
        ([{"neuron_device": 0}], {"a": [{"neuron_device": 0}]}),
        (None, {}),
    ],
)
def test_what_a_host_reported_is_used_and_a_host_that_was_not_reached_is_not(registered: Any, expected: Any) -> None:
    assert fleet_input({"a": {"trainyard_topology": registered}}, ["a"], [])["topologies"] == expected


def test_what_hosts_said_in_this_run_goes_before_what_their_variables_say() -> None:
    hostvars = {name: {"trainyard_topology": {"devices": [name]}} for name in ("a", "b")}
    found = fleet_input(hostvars, ["a", "b"], [], reports={"a": {"devices": ["asked"]}})["topologies"]
    assert found == {"a": {"devices": ["asked"]}, "b": {"devices": ["b"]}}


def test_a_report_that_is_larger_than_any_host_is_that_hosts_problem() -> None:
    with pytest.raises(PlanError) as caught:
        fleet_input({"a": {}}, ["a"], [], reports={"a": {"devices": list(range(MOST_VALUES + 1))}})
    assert [(problem.host, problem.variable) for problem in caught.value.problems] == [("a", "trainyard_topology")]


def test_results_that_a_run_registered_are_no_variables() -> None:
    hostvars = {"a": {"trainyard_anything": {"changed": False, "failed": False}}}
    assert fleet_input(hostvars, ["a"], [])["hosts"] == {"a": {}}


def test_a_template_that_fails_is_told_with_its_variable_and_host() -> None:
    with pytest.raises(PlanError) as caught:
        fleet_input({"a": Broken(), "b": Broken()}, ["a", "b"], [])
    assert [problem.host for problem in caught.value.problems] == ["a", "b"]
    assert "trainyard_address" in str(caught.value)
    assert "'nowhere' is undefined" in str(caught.value)


def test_a_name_that_is_no_host_is_told() -> None:
    with pytest.raises(PlanError, match="no host of the inventory"):
        fleet_input({}, ["a"], [])


def test_routers_that_serve_nothing_are_read_for_their_port() -> None:
    hostvars = {"a": {}, "gateway": {"trainyard_router_port": 9090}}
    assert fleet_input(hostvars, ["a"], ["gateway"])["other_variables"] == {"gateway": {"trainyard_router_port": 9090}}


def test_clients_that_serve_nothing_are_read_for_their_address() -> None:
    found = fleet_input({"a": {}, "load": {"ansible_host": "10.0.0.9"}}, ["a"], ["a"], clients=["load", "a"])
    assert found["clients"] == ["load", "a"]
    assert found["other_variables"] == {"load": {"ansible_host": "10.0.0.9"}}


def test_values_become_plain() -> None:
    class Tagged(str):
        __slots__ = ()

    found = plain({Tagged("a"): (Tagged("b"), True, 1, 1.5, None)})
    assert found == {"a": ["b", True, 1, 1.5, None]}
    assert type(next(iter(found))) is str
    assert type(found["a"][0]) is str
    assert found["a"][1] is True


def test_config_files_are_found_by_repository_and_revision(tmp_path: Path) -> None:
    path = tmp_path / "org" / "name" / "v1" / "config.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    models = [("org/name", "v1"), ("org/name", "v2")]
    assert read_model_configs(str(tmp_path), models) == {"org/name@v1": {"model_type": "llama"}}
    path.write_text("{", encoding="utf-8")
    with pytest.raises(PlanError, match="cannot be read"):
        read_model_configs(str(tmp_path), models)


class Templated(dict[str, Any]):
    """A host's variables, one of which does something when it is read."""

    def __getitem__(self, key: str) -> Any:
        value = super().__getitem__(key)
        return value() if callable(value) else value


def endless() -> None:
    while True:
        pass


@pytest.mark.parametrize("work", [endless, lambda: "x" * (1 << 40), lambda: ["x"] * (1 << 40)])
def test_a_template_that_takes_too_much_is_named_and_stopped(work: Any) -> None:
    hostvars = {"a": Templated(ansible_host="192.0.2.1", trainyard_data_dir=work)}
    with pytest.raises(PlanError) as caught:
        fleet_input(hostvars, ["a"], [])
    (problem,) = caught.value.problems
    assert (problem.host, problem.variable) == ("a", "trainyard_data_dir")


def test_what_a_child_raises_or_returns_comes_back() -> None:
    assert fleet_input({"a": {"trainyard_x": {"since": 5}}}, ["a"], [])["hosts"]["a"]["trainyard_x"] == {"since": 5}
    with pytest.raises(PlanError, match="no host of the inventory"):
        fleet_input({}, ["a"], [])


def doubled(times: int) -> Any:
    value: Any = [1]
    for _ in range(times):
        value = [value, value]
    return value


def circle() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value", [doubled(40), circle(), "x" * (1 << 21), 1 << 2000], ids=["laughs", "circle", "text", "bits"]
)
def test_aliases_that_multiply_are_refused_with_their_variable(value: Any) -> None:
    with pytest.raises(TooLargeError):
        plain(value)
    with pytest.raises(PlanError, match="trainyard_redeploy"):
        fleet_input({"a": {"trainyard_redeploy": value}}, ["a"], [])


def test_an_expression_over_a_roll_is_not_templated_before_it() -> None:
    hostvars = {"a": Templated(trainyard_elb_target_id=endless)}
    assert fleet_input(hostvars, ["a"], [])["hosts"] == {"a": {}}


def test_settings_of_roles_are_judged_with_the_plan() -> None:
    hostvars = {"a": {"load_balancer_keys": [], "benchmark_objective": {}, "load_balancer_port": 1}}
    assert fleet_input(hostvars, ["a"], [])["hosts"]["a"] == {"load_balancer_keys": [], "benchmark_objective": {}}
    assert collect({"a": {"load_balancer_keys": [{"name": "x", "sha256": "plain"}]}}, ["a"], [])["problems"]
