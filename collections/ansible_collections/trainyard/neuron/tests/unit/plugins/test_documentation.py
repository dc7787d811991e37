# SPDX-License-Identifier: Apache-2.0
"""Every module says what it takes, shows how it is used, and describes what it returns, in words that parse."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

MODULES = sorted((Path(__file__).parents[3] / "plugins" / "modules").glob("[a-z]*.py"))


def sections(path: Path) -> dict[str, str]:
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.targets[0], ast.Name)
        ):
            found[node.targets[0].id] = str(node.value.value)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_is_documented_in_yaml_that_parses(path: Path) -> None:
    said = sections(path)
    documentation = yaml.safe_load(said["DOCUMENTATION"])
    assert documentation["module"] == path.stem
    assert documentation["short_description"]
    assert all(option.get("description") for option in (documentation.get("options") or {}).values())
    assert any(f"trainyard.neuron.{path.stem}" in task for task in yaml.safe_load(said["EXAMPLES"]))
    assert all("description" in value for value in yaml.safe_load(said["RETURN"]).values())
