# SPDX-License-Identifier: Apache-2.0
"""The deployments of inventory/recipes: each is planned, fits, is told to its programs, and stays as it was.

Regenerate the goldens with `UPDATE_GOLDENS=1 pytest tests/plan/test_recipes.py`, and read their diff.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import find_release

from lab.neuron_sim import inference_demo_options, sdk, vllm_options
from trainyard.paths import ROOT
from trainyard.sweep import spec

RECIPES = sorted((ROOT / "inventory/recipes").glob("*.yml"))
GOLDENS = Path(__file__).parent / "goldens"


def planned(path: Path) -> dict[str, Any]:
    """The plan of a recipe's own inventory file."""
    inventory = yaml.safe_load(path.read_text())["all"]
    (group,) = inventory["children"]["neuron"]["children"].values()
    variables = {**inventory.get("vars", {}), **group["vars"]}
    hosts = {name: {**variables, **own} for name, own in group["hosts"].items()}
    routers = inventory["children"]["router"]["hosts"]
    given = {
        "hosts": {
            name: {key: value for key, value in own.items() if key.startswith(("trainyard_", "ansible_host"))}
            for name, own in hosts.items()
        },
        "routers": list(routers),
        "other_variables": routers,
    }
    return dict(plan_fleet(given).to_dict())


def test_what_people_run_is_there() -> None:
    names = {path.stem for path in RECIPES}
    assert len(names) >= 14
    page = (ROOT / "inventory/recipes/README.md").read_text()
    assert [name for name in names if f"({name}.yml)" not in page] == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_planned_and_its_programs_take_their_commands(path: Path) -> None:
    plan = planned(path)
    (host,) = plan["hosts"].values()
    (artifact,) = host["artifacts"]
    replica = host["replicas"][0]
    row = find_release(replica["sdk_release"], replica["generation"])
    version = sdk.version(row.vllm or "0.8.5")
    if "-m" in replica["argv"]:
        vllm_options.api_server_parser(version).parse_args(replica["argv"][3:])
    else:
        vllm_options.serve_parser(version).parse_args(replica["argv"][2:])
    if artifact["mode"] == "run":
        inference_demo_options.build_parser(str(row.nxdi)).parse_args(artifact["argv"][1:])
    assert replica["hbm_bytes_needed"] is not None
    assert replica["hbm_bytes_needed"] < replica["hbm_bytes_available"]
    used = sum(one["core_count"] for one in host["replicas"])
    assert used in (64, 32, 8, 4), "a recipe leaves no core of its host but those that no degree reaches"
    golden = {
        "replicas": [[one["name"], one["cores"], one["port"], one["release"]] for one in host["replicas"]],
        "names": [replica["served_name"], *replica.get("served_aliases", [])],
        "weights": [[one["repo"], one["revision"], one["path"]] for one in host["weights"]],
        "artifact": artifact["digest"],
        "compile": {"argv": artifact["argv"], "environment": artifact["environment"]},
        "serve": {"argv": replica["argv"], "environment": replica["environment"]},
        "options": replica.get("options", {}),
        "warnings": [
            f"{one['variable']}: {one['rule']}" for one in plan["warnings"] if "documentation" not in one["rule"]
        ],
    }
    file = GOLDENS / f"{path.stem}.json"
    if os.environ.get("UPDATE_GOLDENS"):
        GOLDENS.mkdir(exist_ok=True)
        file.write_text(json.dumps(golden, indent=1, sort_keys=True) + "\n")
    assert golden == json.loads(file.read_text())


def test_no_two_recipes_share_an_artifact_and_what_is_measured_names_its_source() -> None:
    digests = {path.stem: json.loads((GOLDENS / f"{path.stem}.json").read_text())["artifact"] for path in RECIPES}
    assert len(set(digests.values())) == len(digests)
    for path in RECIPES:
        for line in path.read_text().splitlines():
            if "Measured" in line:
                assert "Measured elsewhere (" in line, (path.name, line)


def test_the_tutorials_experiment_is_a_sweep_that_the_readme_names() -> None:
    path = "sweeps/llama-3-3-70b.yml"
    grid = spec.read(ROOT / path).grid
    assert grid["tensor_parallel_size"] == [64, 32, 16]
    assert grid["max_num_seqs"] == [1, 4]
    assert path in (ROOT / "README.md").read_text()
