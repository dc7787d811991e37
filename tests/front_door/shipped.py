# SPDX-License-Identifier: Apache-2.0
"""The shipped inventory for a lab's hosts: `inventory/trn2` with its addresses changed and a token given, nothing else.

python -m tests.front_door.shipped NAME        writes .lab/NAME/inventory
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

from trainyard.paths import ROOT

SHIPPED = ROOT / "inventory" / "trn2"
#: Hosts of the shipped inventory, by the lab's.
HOSTS = {"lab-1": "192.0.2.11", "lab-2": "192.0.2.12", "lab-3": "192.0.2.10"}
TOKEN = "hf_lab"
LOAD = {"requests": 12, "concurrency": 2, "mean_input_tokens": 200, "mean_output_tokens": 32, "stddev_input_tokens": 0}


def write(folder: Path, addresses: dict[str, str]) -> Path:
    """Copy the inventory into a lab's folder for its hosts; return it.

    Args:
        folder: of the lab.
        addresses: of its hosts, by name.
    """
    target = folder / "inventory"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(SHIPPED, target)
    hosts = target / "hosts.yml"
    text = hosts.read_text(encoding="utf-8")
    for name, shipped in HOSTS.items():
        text = text.replace(f"{{ansible_host: {shipped}}}", f"{{ansible_host: {addresses[name]}}}")
    hosts.write_text(text, encoding="utf-8")
    (target / "group_vars/all/token.yml").write_text(f"---\nmodel_weights_hub_token: {TOKEN}\n", encoding="utf-8")
    return target


def beside(*deployments: str) -> dict[str, object]:
    """What a run in a lab is told beside an inventory with these deployments.

    No setting of a fleet: what a lab measured is never called Trainium's, and is short.
    """
    loads = {name: {"benchmark": LOAD} for name in deployments}
    found: dict[str, object] = {"benchmark_provenance": "simulated", "trainyard_overrides": loads}
    if client() != "llmperf":
        # Nobody has a source for the lab's GitHub: the next client.
        found["benchmark_client"] = client()
    return found


def client() -> str:
    """What measures: LLMPerf, as the inventory has it, where its source is at hand."""
    return "llmperf" if os.environ.get("TRAINYARD_LLMPERF_SOURCE") else "llmeter"


def main() -> None:
    """Write it for the lab that the command line names."""
    folder = ROOT / ".lab" / sys.argv[1]
    lab = json.loads((folder / "lab.json").read_text(encoding="utf-8"))
    write(folder, lab["hosts"])


if __name__ == "__main__":
    main()
