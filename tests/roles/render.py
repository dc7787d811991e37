# SPDX-License-Identifier: Apache-2.0
"""Render a role's template as the role does, with no host: defaults, vars, then the variables of the case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.trainyard.neuron.plugins.filter import router_access
from ansible_collections.trainyard.neuron.plugins.plugin_utils.rendering import Renderer

ROOT = Path(__file__).parents[2]


def variables(role: str, **given: Any) -> dict[str, Any]:
    """The role's variables, and what its task shares, with those of the case on top."""
    loader = DataLoader()
    merged: dict[str, Any] = {"ansible_managed": "Managed by trainyard: changes made here are lost."}
    for part in ("defaults", "vars"):
        path = ROOT / "roles" / role / part / "main.yml"
        if path.is_file():
            merged |= loader.load_from_file(str(path), trusted_as_template=True) or {}
    tasks = ROOT / "roles" / role / "tasks/configure.yml"
    for task in loader.load_from_file(str(tasks), trusted_as_template=True) if tasks.is_file() else []:
        told = task.get("trainyard.neuron.file_tree", {})
        merged |= told.get("names", {}) | told.get("lists", {})
    return merged | given


def render(role: str, template: str, **given: Any) -> str:
    """The text of one template of a role."""
    known = variables(role, **given)
    templar = Templar(loader=DataLoader(), variables=known)
    # Ansible finds a collection's filters when its loader brought the collection, which pytest did here.
    for name, function in router_access.FilterModule().filters().items():
        templar._engine.environment.filters[f"trainyard.neuron.{name}"] = function
    search = [ROOT / "roles" / role / "templates", ROOT / "templates"]
    return Renderer(search, frozenset(known), lambda name: templar.template(known[name])).render(template)


def replica(index: int = 0, **given: Any) -> dict[str, Any]:
    """A replica as the plan gives it; the fields that matter here."""
    first = 32 * index
    port = 8000 + index
    row: dict[str, Any] = yaml.safe_load(
        f"""
        name: tiny-llama-{index}
        id: lab-1:tiny-llama-{index}
        deployment: tiny-llama
        index: {index}
        unit: vllm@tiny-llama-{index}.service
        cores: {first}-{first + 31}
        core_count: 32
        devices: {list(range(8 * index, 8 * index + 8))}
        numa_nodes: [0, 1]
        cpus: 0-39,48-87
        address: 10.89.0.2
        port: {port}
        agent_port: {port + 1000}
        url: http://10.89.0.2:{port}
        sdk_release: 2.23.0
        generation: nxdi_v0
        runtime: venv
        venv: /opt/venv
        image: null
        weights_path: /data/weights/tiny/1
        artifact_path: /data/artifacts/abc
        served_name: tiny/llama
        max_num_seqs: 4
        max_model_len: 8192
        release: 0123456789ab
        argv: [/opt/venv/bin/python, -m, vllm.entrypoints.openai.api_server, --port, "{port}"]
        environment: {{NEURON_RT_VISIBLE_CORES: "{first}-{first + 31}"}}
        """
    )
    return row | given


def model(name: str = "tiny/llama", *replicas: dict[str, Any]) -> dict[str, Any]:
    """A model of the router, as the plan gives it."""
    keys = ("id", "address", "port", "agent_port", "max_num_seqs")
    servers = [{key: row[key] for key in keys} for row in replicas or (replica(0), replica(1))]
    return {"name": name, "servers": servers}
