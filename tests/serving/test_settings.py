# SPDX-License-Identifier: Apache-2.0
"""What a host takes for a replica's configuration: the plan's words and the role's, and nothing else."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import hypothesis
import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import settings, shape
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.settings import Replica, ServingError
from hypothesis import given
from hypothesis import strategies as st

from tests.roles.render import render, replica
from tests.roles.test_vllm_endpoint import GOLDEN_CASES, planned


def written(**changes: Any) -> dict[str, Any]:
    """A configuration as the role writes it, with changes."""
    text = render("vllm_endpoint", "replica.json.j2", item=replica(0))
    return dict(json.loads(text)) | changes


def refusal(raw: Any) -> str:
    with pytest.raises(ServingError) as refused:
        settings.parse(raw if isinstance(raw, str) else json.dumps(raw), "/etc/vllm/current/a-0.json")
    return str(refused.value)


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_every_word_that_the_plan_and_the_role_write_is_known(case: str) -> None:
    for row in planned(*GOLDEN_CASES[case]):
        text = render("vllm_endpoint", "replica.json.j2", item=row | {"spare": True, "credentials": "0123"})
        assert settings.parse(text).name == row["name"]


@pytest.mark.parametrize(
    ("slip", "nearest"),
    [
        ({"need_key": True}, "need_key is no word that is known, meant is perhaps needs_key"),
        ({"agentport": 9000}, "agentport is no word that is known, meant is perhaps agent_port"),
        ({"xyzzy": 1}, "xyzzy is no word that is known;"),
        ({"gate": {"promt": "x"}}, "gate.promt is no word that is known, meant is perhaps prompt"),
        ({"probe": {"stall": 5}}, "probe.stall is no word that is known, meant is perhaps stall_s"),
    ],
)
def test_a_word_that_is_not_known_is_refused_with_the_nearest(slip: dict[str, Any], nearest: str) -> None:
    said = refusal(written(**slip))
    assert nearest in said
    assert said.startswith("/etc/vllm/current/a-0.json is not usable: ")
    assert said.endswith("; run the serve playbook for this host")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"needs_key": "no"}, "needs_key is 'no', wanted is true or false"),
        ({"needs_key": 1}, "needs_key is 1, wanted is true or false"),
        ({"agent_port": "9000"}, "agent_port is '9000', wanted is a whole number from 0"),
        ({"agent_port": True}, "agent_port is True"),
        ({"loads_at_once": -1}, "loads_at_once is -1"),
        ({"settle_timeout_s": float("inf")}, "settle_timeout_s is inf, wanted is a number from 0"),
        ({"probe": {"stall_s": float("nan")}}, "probe.stall_s is nan"),
        ({"argv": "vllm serve"}, "argv is 'vllm serve', wanted is a list of texts"),
        ({"argv": [1]}, "argv is [1]"),
        ({"environment": {"A": 1}}, "environment is {'A': 1}, wanted is texts by name"),
        ({"name": None}, "name is missing"),
        ({"url": "a\0b"}, "url is 'a\\x00b', wanted is a text"),
        ({"gate": [1]}, "gate is [1], wanted are settings by name"),
        ({"gate": False}, "gate is False, wanted are settings by name"),
    ],
)
def test_a_value_of_another_kind_is_refused_and_said(change: dict[str, Any], said: str) -> None:
    assert said in refusal(written(**change))


def test_every_problem_is_told_at_once() -> None:
    said = refusal(written(need_key=True, argv=None, cores=5, gate={"promt": 1, "max_tokens": "8"}))
    for word in ("need_key is no word", "argv is missing", "cores is 5", "gate.promt", "gate.max_tokens is '8'"):
        assert word in said


@pytest.mark.parametrize("text", ["", "{", '{"name": "a', "null", "[]", "3", "\0", '"x"', "[" * 100_000])
def test_what_is_no_configuration_at_all_is_refused_by_its_files_name(text: str) -> None:
    assert refusal(text).startswith("/etc/vllm/current/a-0.json is not usable: it ")


def test_every_field_has_a_kind_that_is_judged() -> None:
    for kind in (Replica, settings.Gate, settings.Limits):
        unknown = {entry.name for entry in dataclasses.fields(kind) if entry.type not in shape.KINDS}
        assert unknown <= {"gate", "probe"}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)


WRITTEN = written()


@hypothesis.settings(deadline=None)
@given(st.dictionaries(st.sampled_from([*Replica.__dataclass_fields__, "need_key", "port"]), JSON, max_size=6))
def test_any_change_is_taken_or_refused_and_never_a_traceback(changes: dict[str, Any]) -> None:
    try:
        seen = settings.parse(json.dumps(WRITTEN | changes))
    except ServingError:
        return
    assert isinstance(seen.needs_key, bool)
    assert "need_key" not in changes


@pytest.mark.parametrize("url", ["http://10.0.0.1:8000s", "http://10.0.0.1:99999", "http://[10.0.0.1:8000"])
def test_an_address_without_a_port_that_there_is_is_refused(url: str) -> None:
    with pytest.raises(settings.ServingError, match="url is"):
        settings.parse(json.dumps({"name": "a", "argv": ["/x"], "url": url, "cores": "0-3", "served_name": "m"}))


@pytest.mark.parametrize("number", [10**400, float("inf"), float("nan"), -1])
def test_a_limit_that_is_no_time_is_refused(number: float) -> None:
    given = {"name": "a", "argv": ["/x"], "url": "http://h:1", "cores": "0-3", "served_name": "m"}
    with pytest.raises(settings.ServingError, match="timeout_s"):
        settings.parse(json.dumps({**given, "gate": {"timeout_s": number}}))
