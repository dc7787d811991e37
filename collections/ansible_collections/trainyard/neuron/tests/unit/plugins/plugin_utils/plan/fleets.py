# SPDX-License-Identifier: Apache-2.0
"""Inventories to plan, as small as a test needs them."""

from __future__ import annotations

from typing import Any

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet

LLAMA_REVISION = "6f6073b423013f6a7d4d9f39144961bfbfbc386b"

#: What a host has that a case says nothing else of.
ADDRESS = "10.0.0.1"


def deployment(name: str = "llama", **changes: Any) -> dict[str, Any]:
    """Return a deployment that is right on a trn2.48xlarge, with fields changed; a field of `...` is left out."""
    fields: dict[str, Any] = {
        "name": name,
        "model": {"repo": "meta-llama/Llama-3.3-70B-Instruct", "revision": LLAMA_REVISION},
        "sdk_release": "2.23.0",
        "tensor_parallel_size": 32,
        "data_parallel_size": 2,
        "max_num_seqs": 4,
        "max_model_len": 8192,
        "port": 8000,
    }
    fields.update(changes)
    return {key: value for key, value in fields.items() if value is not ...}


def host(*deployments: dict[str, Any], **variables: Any) -> dict[str, Any]:
    """Return a host's variables."""
    found: dict[str, Any] = {"trainyard_instance_type": "trn2.48xlarge", "ansible_host": ADDRESS, **variables}
    for item in deployments:
        found["trainyard_deployment_" + str(item["name"]).replace("-", "_")] = item
    return {key: value for key, value in found.items() if value is not ...}


def apart(hosts: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the planner's input with an address of its own for each host that a case leaves at the common one."""
    found: dict[str, Any] = {}
    count = 0
    for name, variables in sorted(hosts.items()):
        if found and isinstance(variables, dict) and variables.get("ansible_host") == ADDRESS:
            count += 1
            variables = {**variables, "ansible_host": f"10.77.{count // 250}.{count % 250 + 1}"}
        found[name] = variables
    beside = {**more.pop("other_variables", {})}
    for index, name in enumerate([*more.get("routers", ()), *more.get("clients", ())]):
        if name not in found:
            beside.setdefault(name, {"ansible_host": f"10.78.0.{index + 1}"})
    return {"hosts": found, "other_variables": beside, **more}


def plan(hosts: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the plan of some hosts."""
    return plan_fleet(apart(hosts, **more)).to_dict()


def problems(hosts: dict[str, Any], **more: Any) -> list[str]:
    """Return what is wrong with some hosts, a line each."""
    try:
        plan_fleet(apart(hosts, **more))
    except PlanError as error:
        return error.lines()
    return []
