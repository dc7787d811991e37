# SPDX-License-Identifier: Apache-2.0
"""Inventories that people wrote, whose addresses are not the hosts': refused while nothing has been paid for."""

from __future__ import annotations

import copy
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet

from trainyard.paths import ROOT
from trainyard.plan_command import read_fleet

DEPLOYMENT: dict[str, Any] = {
    "name": "m",
    "model": {
        "repo": "meta-llama/Llama-3.3-70B-Instruct",
        "revision": "0123456789abcdef0123456789abcdef01234567",
    },
    "sdk_release": "2.27.0",
    "generation": "nxdi_v1",
    "tensor_parallel_size": 32,
    "max_num_seqs": 4,
    "max_model_len": 4096,
    "port": 8000,
    "data_parallel_size": 2,
}


def inventory(folder: Path, gateway: str = "192.0.2.10", **host: Any) -> Path:
    serving = {"trainyard_instance_type": "trn2.48xlarge", "trainyard_deployment_m": DEPLOYMENT, **host}
    children = {"neuron": {"hosts": {"h1": serving}}, "router": {"hosts": {"gw": {"ansible_host": gateway}}}}
    path = folder / "inventory.yml"
    path.write_text(yaml.safe_dump({"all": {"children": children}}))
    return path


def test_an_instance_id_of_ssm_is_no_address(tmp_path: Path) -> None:
    given = {"ansible_host": "i-0123456789abcdef0", "ansible_connection": "amazon.aws.aws_ssm"}
    path = inventory(tmp_path, **given)
    done = subprocess.run(["trainyard", "plan", "-i", str(path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is an instance id" in done.stderr
    assert "set trainyard_address to the private address" in done.stderr
    path = inventory(tmp_path, trainyard_address="10.0.0.5", **given)
    done = subprocess.run(["trainyard", "plan", "-i", str(path)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["h1", "gw"])
def test_a_public_address_is_compared_with_what_the_reached_host_has(tmp_path: Path, name: str) -> None:
    path = inventory(tmp_path, gateway="203.0.113.9" if name == "gw" else "10.0.0.9", ansible_host="203.0.113.7")
    given = read_fleet([str(path)], "neuron", "router")
    plan_fleet(copy.deepcopy(given))  # as nobody was asked, it may be true
    given["topologies"] = {name: {"devices": [], "addresses": ["10.0.1.7"]}}
    with pytest.raises(PlanError) as refused:
        plan_fleet(given)
    (problem,) = refused.value.problems
    assert problem.host == name
    assert "is no address of the host, which has 10.0.1.7" in problem.rule
    assert "set trainyard_address to its private address: 10.0.1.7" in problem.fix
