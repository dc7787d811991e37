# SPDX-License-Identifier: Apache-2.0
"""Roles' variables in an inventory: a slip is told in the plan, hours before its role would have been asked."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan import role_variables
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.inventory import collect, plain
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.role_variables import RoleVariables, options
from hypothesis import given
from hypothesis import strategies as st


def judge(**variables: Any) -> tuple[list[str], list[str]]:
    problems, warnings = RoleVariables(plain, lambda value: value == "a result").judge("trn2-a", variables)
    return [str(one) for one in problems], [str(one) for one in warnings]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("load_balancer_adress", "load_balancer_address"),
        ("load_balancer_key", "load_balancer_keys"),
        ("load_balancer_open_to_everyone", "load_balancer_open_to_everybody"),
        ("model_compile_stor", "model_compile_store"),
        ("vllm_endpoint_apikey", "vllm_endpoint_api_key"),
    ],
)
def test_a_misspelt_variable_of_a_role_is_refused_with_the_nearest(name: str, meant: str) -> None:
    (problem,), warnings = judge(**{name: "x"})
    assert f"did you mean '{meant}'?" in problem and problem.startswith(f"trn2-a: {name} = ") and not warnings


def test_a_name_that_no_role_has_and_that_is_near_to_none_is_told_and_not_refused() -> None:
    problems, (warning,) = judge(benchmark_colour="blue")
    assert not problems and "variables of the role benchmark and is none of them" in warning


def test_a_slip_in_the_role_itself_is_told() -> None:
    problems, (warning,) = judge(model_weight_hub_token="hf_planted")
    assert not problems and "did you mean 'model_weights_hub_token'?" in warning and "planted" not in warning


@pytest.mark.parametrize("name", ["ansible_user", "groups", "rack", "trainyard_adress", "__load_balancer_key", "stage"])
def test_what_is_nobody_s_or_judged_elsewhere_is_left_alone(name: str) -> None:
    assert judge(**{name: "x"}) == ([], [])


def test_what_a_task_registered_is_no_setting() -> None:
    assert judge(load_balancer_adress="a result") == ([], [])


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("load_balancer_queue_timeout_s", "soon", "must be a whole number"),
        ("load_balancer_queue_timeout_s", True, "must be a whole number"),
        ("benchmark_failed_limit", math.nan, "must be a finite number"),
        ("benchmark_failed_limit", math.inf, "must be a finite number"),
        ("benchmark_client", "llmpref", "did you mean 'llmperf'?"),
        ("load_balancer_tls", {"mode": "given"}, "must be one of off, given, self_signed"),
        ("load_balancer_address", ["10.0.0.1"], "must be text"),
        ("load_balancer_open_to_everybody", "perhaps", "must be true or false"),
        ("trainium_launch_hosts", [{"name": "a", "rolls": ["router"]}], "is refused by its role"),
    ],
)
def test_a_value_that_its_role_would_refuse_is_refused_in_the_plan(name: str, value: Any, rule: str) -> None:
    problems, _ = judge(**{name: value})
    assert problems and all(problem.startswith(f"trn2-a: {name} = ") for problem in problems)
    assert rule in problems[0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("load_balancer_queue_timeout_s", "{{ some_timeout }}"),
        ("load_balancer_queue_timeout_s", "300"),
        ("load_balancer_queue_timeout_s", None),
        ("load_balancer_tls", False),  # `off`, as YAML reads it
        ("trainium_launch_hosts", [{"name": "{{ one }}", "rolls": ["{{ word }}"]}]),
    ],
)
def test_what_its_role_would_take_or_only_the_run_can_tell_is_accepted(name: str, value: Any) -> None:
    assert judge(**{name: value}) == ([], [])


@pytest.mark.parametrize("name", ["vllm_endpoint_api_key", "model_weights_hub_token", "model_weights_hub_tokn"])
@pytest.mark.parametrize("value", [["planted"], {"planted": 1}])
def test_no_secret_is_shown(name: str, value: Any) -> None:
    problems, warnings = judge(**{name: value})
    assert problems + warnings and "planted" not in json.dumps(problems + warnings)


def test_what_hosts_share_is_judged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def problems_of(name: str, value: Any) -> list[Any]:
        asked.append(name)
        return []

    monkeypatch.setattr(role_variables, "problems_of", problems_of)
    shared = {"trainium_launch_hosts": [{"name": "a"}], "benchmark_client": "llmperf"}
    hosts = {f"trn2-{index}": {**shared, "ansible_host": f"10.0.0.{index}"} for index in range(100)}
    collect(hosts, hosts, [])
    assert sorted(asked) == sorted(shared)


def test_ansible_s_own_mapping_is_judged_by_what_stands_in_it_and_nothing_is_resolved() -> None:
    from ansible.parsing.dataloader import DataLoader
    from ansible.template import trust_as_template
    from ansible.vars.hostvars import HostVarsVars

    template = trust_as_template("{{ 1 / 0 }}")
    standing = {"benchmark_client": "llmpref", "load_balancer_address": template, "load_balancer_adress": template}
    variables = HostVarsVars(standing, DataLoader(), "a")
    with pytest.raises(Exception, match="ivision"):
        variables["load_balancer_address"]
    found = collect({"a": variables}, ["a"], [])
    assert [one.variable for one in found["problems"]] == ["benchmark_client", "load_balancer_adress"]


def test_the_plan_tells_all_of_them_at_once() -> None:
    found = collect({"a": {"benchmark_client": "llmpref", "load_balancer_adress": "*", "monitoring_me": 1}}, ["a"], [])
    assert [one.variable for one in found["problems"]] == ["benchmark_client", "load_balancer_adress"]
    assert [one.variable for one in found["warnings"]] == ["monitoring_me"]


@given(st.sampled_from(sorted(options())), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
))  # fmt: skip
def test_no_value_of_any_variable_raises(name: str, value: Any) -> None:
    judge(**{name: value})
