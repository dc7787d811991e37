# SPDX-License-Identifier: Apache-2.0
"""docs/recipes.md is true: each value is what is rendered, and each difference from the sources has its reason."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipe_tables", ROOT / "docs" / "recipe_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def plan(tables: ModuleType) -> dict[str, Any]:
    found: dict[str, Any] = tables.plan_or_exit([str(ROOT / tables.INVENTORY)])
    return found


def test_the_page_is_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "recipe_tables.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_line_holds_and_nothing_that_is_rendered_lacks_one(tables: ModuleType, plan: dict[str, Any]) -> None:
    wrong = [
        text
        for recipe in tables.recipes()
        for text in tables.faults(recipe, tables.Rendered(plan, recipe["deployment"]))
    ]
    assert wrong == []


def test_what_would_be_untrue_is_found(tables: ModuleType, plan: dict[str, Any]) -> None:
    recipe = tables.recipes()[0]
    changed = copy.deepcopy(plan)
    replica = next(
        row
        for host in changed["hosts"].values()
        for row in host["replicas"]
        if row["deployment"] == recipe["deployment"]
    )
    replica["argv"][replica["argv"].index("--max-num-seqs") + 1] = "8"
    replica["argv"] += ["--enable-lora"]
    replica["environment"]["NEURON_NEW"] = "1"
    del replica["environment"]["VLLM_RPC_TIMEOUT"]
    said = "\n".join(tables.faults(recipe, tables.Rendered(changed, recipe["deployment"])))
    for part in (
        "serve:--max-num-seqs is 8",
        "serve:--enable-lora has no line",
        "serve-env:NEURON_NEW has no line",
        "VLLM_RPC_TIMEOUT is None",
    ):
        assert part in said
