# SPDX-License-Identifier: Apache-2.0
"""The role lays out below /etc/vllm what `serving.layout` names, and nobody else in Python spells it."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import layout

REPO = Path(__file__).resolve().parents[2]
PLUGINS = REPO / "collections/ansible_collections/trainyard/neuron/plugins"
ROLE = REPO / "roles/vllm_endpoint"


def _paths(folder: str) -> set[str]:
    tasks = yaml.safe_load((ROLE / "tasks/configure.yml").read_text())
    items = tasks[0]["trainyard.neuron.file_tree"]["items"]
    return {item["path"] for item in items if item["path"].startswith(f"{layout.ROOT}/{folder}")}


def test_the_role_lays_out_what_the_module_names() -> None:
    release = f"{layout.ROOT}/{layout.RELEASES}/{{host_release}}"
    staged = {f"{release}/{{name}}{suffix}" for suffix in layout.FILES}
    assert _paths(layout.RELEASES) == {f"{layout.ROOT}/{layout.RELEASES}", release, f"{release}/api-key", *staged}
    links = {f"{layout.CONFIGURATION}/{{name}}{suffix}" for suffix in layout.FILES}
    assert _paths(layout.CURRENT) == {str(layout.CONFIGURATION), *links}
    assert _paths(layout.PREVIOUS) == {f"{layout.ROOT}/{layout.PREVIOUS}"}
    assert _paths("fence") == {str(layout.RULES)}


def test_what_the_units_read_is_where_the_module_says() -> None:
    unit = (ROLE / "templates/vllm@.service.j2").read_text()
    assert f"EnvironmentFile=-{layout.CONFIGURATION}/%i{layout.ENVIRONMENT}\n" in unit
    assert f"WorkingDirectory={layout.STATE}\n" in unit


def test_no_other_module_spells_the_paths() -> None:
    spelled = re.compile(r"""["'](/etc/vllm|/run/vllm|/var/lib/vllm)(/(releases|current|previous)\b.*)?/?["']""")
    found = [str(path) for path in PLUGINS.rglob("*.py") if spelled.search(path.read_text())]
    assert found == [str(PLUGINS / "module_utils/serving/layout.py")]
