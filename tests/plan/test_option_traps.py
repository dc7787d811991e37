# SPDX-License-Identifier: Apache-2.0
"""Each trap of the documentation that a plan can see (`option_traps.yml`) is refused or warned of, and only there."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import parse_deployment
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.known_models import known_config
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import find_release
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.traps import trap_warnings

from trainyard.paths import ROOT

TRAPS = yaml.safe_load(Path(__file__).with_name("option_traps.yml").read_text(encoding="utf-8"))
SEEN = [trap for trap in TRAPS if "elsewhere" not in trap]
MODEL = {"repo": "meta-llama/Llama-3.1-8B-Instruct", "revision": "0" * 40}


def answer(trap: dict[str, Any], fields: dict[str, Any], config: dict[str, Any] | None) -> tuple[bool, list[str]]:
    """Whether the plan of a deployment with these fields is refused, and what it says."""
    raw = {
        "name": "m",
        "model": MODEL,
        "sdk_release": trap.get("release", "2.32.0"),
        "generation": trap.get("generation"),
        "tensor_parallel_size": 8,
        "max_num_seqs": 4,
        "max_model_len": 4096,
        "port": 8000,
        **copy.deepcopy(fields),
    }
    host = {
        "ansible_host": "10.0.0.1",
        "trainyard_instance_type": trap.get("instance", "trn2.48xlarge"),
        "neuron_venv_pip_index": "",
        "trainyard_logical_nc_config": trap.get("lnc"),
        "trainyard_deployment_m": raw,
    }
    given: dict[str, Any] = {"hosts": {"h": host}, "routers": ["h"]}
    if config is not None:
        model = raw["model"]
        given["model_configs"] = {f"{model['repo']}@{model['revision']}": {**known_config(model["repo"]), **config}}
    try:
        plan = plan_fleet(given).to_dict()
    except PlanError as error:
        return True, error.lines()
    return False, [f"{one['variable']}: {one['rule']}. Fix: {one['fix']}" for one in plan["warnings"]]


@pytest.mark.parametrize("trap", SEEN, ids=[f"{trap['fact']} ({trap.get('release', '')})"[:70] for trap in SEEN])
def test_a_trap_of_the_documentation_is_refused_or_warned_of(trap: dict[str, Any]) -> None:
    refused, said = answer(trap, trap.get("fields", {}), trap.get("config"))
    assert refused is trap.get("refused", False), (trap["fact"], said)
    assert any(trap["says"] in line for line in said), (trap["fact"], said)
    assert not any("Traceback" in line for line in said)


@pytest.mark.parametrize("trap", SEEN, ids=[f"{trap['fact']} ({trap.get('release', '')})"[:70] for trap in SEEN])
def test_a_deployment_without_it_is_not_told_of_it(trap: dict[str, Any]) -> None:
    if {"instance", "lnc"} & set(trap) or (set(trap.get("fields", {})) == {"model"} and "config" not in trap):
        pytest.skip("the trap is the host or the model itself")
    fields = trap.get("fields", {})
    kept = {name: fields[name] for name in ("model", "runtime", "tensor_parallel_size") if name in fields}
    refused, said = answer(trap, kept, {} if "config" in trap else None)
    assert not refused, said
    assert not any(trap["says"] in line for line in said), said


def test_each_trap_names_its_source_and_a_test_that_is_there() -> None:
    assert len(TRAPS) >= 70
    facts = [(trap["fact"], trap.get("release")) for trap in TRAPS]
    assert len(set(facts)) == len(facts)
    for trap in TRAPS:
        assert trap["of"]
        if "elsewhere" not in trap:
            find_release(trap.get("release", "2.32.0"), trap.get("generation"))
            continue
        file, _, name = trap["elsewhere"].partition("::")
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), trap


def replica(**fields: Any) -> dict[str, Any]:
    raw = {"name": "m", "model": MODEL, "sdk_release": "2.32.0", "tensor_parallel_size": 8, "max_num_seqs": 4,
           "max_model_len": 4096, "port": 8000, **fields}  # fmt: skip
    host = {
        "ansible_host": "10.0.0.1",
        "trainyard_instance_type": "trn2.48xlarge",
        "neuron_venv_pip_index": "",
        "trainyard_deployment_m": raw,
    }
    plan = plan_fleet({"hosts": {"h": host}, "routers": ["h"]}).to_dict()
    return dict(plan["hosts"]["h"]["replicas"][0])


def additional(argv: list[str]) -> dict[str, Any]:
    return dict(json.loads(argv[argv.index("--additional-config") + 1]))


def test_sampling_is_always_said_natively() -> None:
    assert additional(replica()["argv"])["neuron_config"]["on_device_sampling_config"] == {}


def test_language_model_only_is_said_at_the_top_level() -> None:
    said = additional(replica(neuron_config={"mm_language_model_only": True})["argv"])
    assert said["mm_language_model_only"] is True
    assert "mm_language_model_only" not in said["neuron_config"]


@pytest.mark.parametrize(("every", "warned"), [(5, True), (None, False)])
def test_lines_that_are_no_events_are_warned_of(every: int | None, warned: bool) -> None:
    """vLLM 0.29 has the option, whose release has no environment that the table knows."""
    raw = {"name": "m", "model": MODEL, "sdk_release": "2.33.0", "tensor_parallel_size": 8, "max_num_seqs": 4,
           "max_model_len": 4096, "port": 8000, "engine_args": {"sse-keep-alive-interval": every}}  # fmt: skip
    deployment, problems = parse_deployment(raw, "m")
    assert deployment is not None, problems
    found = trap_warnings(deployment, find_release("2.33.0"), "m")
    assert any("sends lines that are no events" in one.rule for one in found) == warned
