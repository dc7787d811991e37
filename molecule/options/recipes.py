#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Two recipes of inventory/recipes as they are, each on a stand-in host: an inventory beside the lab's own.

What a recipe takes from the hub and from a bucket comes from the lab's, whose model stands in for the recipe's.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
#: Host of the lab -> what is served there.
RECIPES = {"lab-1": "llama-3-3-70b-lora", "lab-2": "qwen3-32b-draft"}


def stored(name: str, revision: str) -> dict[str, str]:
    """A checkpoint of the lab's bucket, where `tests/options/checkpoints.py` put it."""
    uri = f"s3://{{{{ lab_bucket }}}}/options/{name}/{revision}"
    return {"repo": f"acme/{name}", "source": "s3", "uri": uri, "revision": revision}


def recipe(name: str) -> tuple[str, dict[str, Any]]:
    """The variable and the deployment of a recipe's own file."""
    inventory = yaml.safe_load((ROOT / f"inventory/recipes/{name}.yml").read_text(encoding="utf-8"))
    (group,) = inventory["all"]["children"]["neuron"]["children"].values()
    ((variable, deployment),) = group["vars"].items()
    return variable, deployment


def instead(deployment: dict[str, Any], adapters: dict[str, str]) -> dict[str, Any]:
    """What of a deployment is another one's in a lab: where checkpoints come from, and what tells the architecture.

    Args:
        deployment: the recipe's.
        adapters: name of each adapter -> its revision in the lab's bucket.
    """
    found: dict[str, Any] = {
        "model": {"repo": "{{ lab_model_repo }}", "revision": "{{ lab_model_revision }}"},
        "served_name": deployment["model"]["repo"],
        "runtime": "venv",
        "neuron_config": {"model_type": "llama"},
    }
    if "speculation" in deployment:
        found["speculation"] = {**deployment["speculation"], "model": stored("draft", "v1")}
    if "lora" in deployment:
        given = [{"name": name, **stored(name, revision)} for name, revision in adapters.items()]
        found["lora"] = {**deployment["lora"], "adapters": given}
    return found


def inventory(adapters: dict[str, str]) -> dict[str, Any]:
    """Variables of the lab's hosts; arguments as `instead`."""
    hostvars: dict[str, dict[str, Any]] = {}
    overrides = {}
    for host, name in RECIPES.items():
        variable, deployment = recipe(name)
        hostvars[host] = {variable: deployment}
        overrides[deployment["name"]] = instead(deployment, adapters)
    # Of each host: what a script says of a group is below the files of the lab's own group_vars.
    shared = {
        "trainyard_deployment_tiny_llama": None,
        "trainyard_overrides": overrides,
        # Nothing is built: a stand-in host has the environment of each release, with its vLLM in it.
        "neuron_venv_pip_index": "",
        # Driver, runtime and tools of the older release come from the lab's own repository.
        "neuron_venv_package_source": "{{ lab_apt_url }}",
        "neuron_venv_package_key": "{{ lab_apt_url }}/key.asc",
    }
    meta = {"hostvars": {host: {**own, **shared} for host, own in hostvars.items()}}
    return {"recipes": {"hosts": list(RECIPES)}, "_meta": meta}


def main() -> int:
    """Print the inventory; TRAINYARD_ADAPTERS has the adapters' revisions as JSON where they are not the first."""
    adapters = json.loads(os.environ.get("TRAINYARD_ADAPTERS") or '{"support": "v1", "sql": "v1"}')
    sys.stdout.write(json.dumps(inventory(adapters), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
