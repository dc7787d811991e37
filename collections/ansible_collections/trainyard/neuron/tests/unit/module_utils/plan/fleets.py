# SPDX-License-Identifier: Apache-2.0
"""Inventories to plan, as small as a test needs them."""

from __future__ import annotations

from typing import Any

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.plan import plan_fleet
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError

LLAMA_REVISION = "6f6073b423013f6a7d4d9f39144961bfbfbc386b"


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
    found: dict[str, Any] = {"trainyard_instance_type": "trn2.48xlarge", "ansible_host": "192.0.2.1", **variables}
    for item in deployments:
        found["trainyard_deployment_" + str(item["name"]).replace("-", "_")] = item
    return {key: value for key, value in found.items() if value is not ...}


def plan(hosts: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return the plan of some hosts."""
    return plan_fleet({"hosts": hosts, **more}).to_dict()


def problems(hosts: dict[str, Any], **more: Any) -> list[str]:
    """Return what is wrong with some hosts, a line each."""
    try:
        plan_fleet({"hosts": hosts, **more})
    except PlanError as error:
        return error.lines()
    return []
