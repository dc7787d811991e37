# SPDX-License-Identifier: Apache-2.0
"""What a deployment allows its checkpoint to run: nothing, unless it says so."""

from __future__ import annotations

from typing import Any

import pytest

from .fleets import LLAMA_REVISION, deployment, host, plan, problems

REPO = "meta-llama/Llama-3.3-70B-Instruct"


def trusting(*trust: Any, **changes: Any) -> dict[str, Any]:
    return deployment(model={"repo": REPO, "revision": LLAMA_REVISION, "trust": list(trust)}, **changes)


def test_nothing_is_allowed_by_default_and_the_plan_carries_what_is() -> None:
    assert "trust" not in plan({"h": host(deployment())})["hosts"]["h"]["weights"][0]
    found = plan({"h": host(trusting("remote_code", "pickle"))})["hosts"]["h"]["weights"][0]
    assert found["trust"] == ["pickle", "remote_code"]


def test_trust_changes_no_digest_and_no_release() -> None:
    plain, allowed = (plan({"h": host(item)})["hosts"]["h"] for item in (deployment(), trusting("pickle")))
    assert [entry["digest"] for entry in plain["artifacts"]] == [entry["digest"] for entry in allowed["artifacts"]]
    assert [entry["release"] for entry in plain["replicas"]] == [entry["release"] for entry in allowed["replicas"]]


@pytest.mark.parametrize("value", ["pickle", True, {"pickle": True}, ["pickel"], [["pickle"]], [None]])
def test_what_is_no_trust_is_refused(value: Any) -> None:
    wrong = deployment(model={"repo": REPO, "revision": LLAMA_REVISION, "trust": value})
    (line,) = problems({"h": host(wrong)})
    assert "trainyard_deployment_llama.model.trust" in line
    assert "must be a list of pickle and remote_code" in line


@pytest.mark.parametrize("name", ["trust-remote-code", "trust_remote_code", "--trust-remote-code"])
def test_a_server_is_not_told_to_run_programs_that_are_not_trusted(name: str) -> None:
    (line,) = problems({"h": host(deployment(engine_args={name: True}))})
    assert "engine_args.trust-remote-code" in line
    assert "model.trust: [remote_code]" in line
    assert problems({"h": host(trusting("remote_code", engine_args={name: True}))}) == []
    assert problems({"h": host(deployment(engine_args={name: False}))}) == []


def test_one_checkpoint_is_not_trusted_by_half() -> None:
    other = trusting("pickle", name="other", port=8100)
    for fleet in (
        {"h": host(deployment(data_parallel_size=1), {**other, "data_parallel_size": 1})},
        {"g": host(deployment()), "h": host(other, ansible_host="192.0.2.2")},
    ):
        (line,) = problems(fleet)
        assert "model.trust" in line
        assert "serves the same checkpoint" in line


def test_a_config_that_asks_for_programs_is_warned_of_and_not_refused() -> None:
    configs = {f"{REPO}@{LLAMA_REVISION}": {**CONFIG, "auto_map": {"AutoConfig": "configuration_x.X"}}}
    said = [item["rule"] for item in plan({"h": host(deployment())}, model_configs=configs)["warnings"]]
    assert any("auto_map" in rule for rule in said)
    said = [item["rule"] for item in plan({"h": host(trusting("remote_code"))}, model_configs=configs)["warnings"]]
    assert not any("auto_map" in rule for rule in said)


CONFIG = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}
