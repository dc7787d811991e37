# SPDX-License-Identifier: Apache-2.0
"""Every compile command of every golden, and of both recipes in every release, read by `inference_demo`'s own parser.

Runs where TRAINYARD_NXDI_SOURCE names a clone of aws-neuron/neuronx-distributed-inference, whose code is no part of
this repository. `lab/option_tables.py` builds the parser, in a process for each ref, since upstream's modules stay.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.versions import version_number
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.generations import argument_problems, render_compile
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import (
    SdkRelease,
    find_release,
    sdk_table,
)

from lab.neuron_sim import vllm_options
from tests.plan import test_recipes
from tests.plan.test_commands_are_accepted import RECIPES
from trainyard.paths import ROOT

CLONE = os.environ.get("TRAINYARD_NXDI_SOURCE", "")
real = pytest.mark.skipif(not CLONE, reason="TRAINYARD_NXDI_SOURCE names no clone of NxDI")

#: NxDI's version -> the commit that the stand-in's table of its options is of.
REFS = {
    version_number(path.stem.partition("-")[2])[:2]: json.loads(path.read_text())["source"]["commit"]
    for path in vllm_options.TABLES.glob("inference_demo-*.json")
}


def ref_of(row: SdkRelease) -> str:
    """The commit whose parser reads a release's commands: its own, or the last public one before."""
    wanted = version_number(str(row.nxdi))[:2]
    return str(REFS[max(version for version in REFS if version <= wanted)])


def commands() -> dict[str, list[tuple[str, list[str]]]]:
    """Commit -> what is compiled there: a name, and the arguments behind the program."""
    found: dict[str, list[tuple[str, list[str]]]] = {}
    for path in test_recipes.RECIPES:
        (host,) = test_recipes.planned(path)["hosts"].values()
        (artifact,), golden = host["artifacts"], json.loads((test_recipes.GOLDENS / f"{path.stem}.json").read_text())
        if artifact["mode"] == "run":
            row = find_release(artifact["sdk_release"], artifact["generation"])
            found.setdefault(ref_of(row), []).append((path.stem, golden["compile"]["argv"][1:]))
    for row in sdk_table():
        for deployment in RECIPES if row.generation != "native" and row.venv else ():
            if argument_problems(deployment, row):
                continue
            made = render_compile(
                deployment, row, weights_path="/w", artifact_path="/a", work_dir="/s", logical_nc_config=2
            )
            name = f"{deployment.name}-{row.release}-{row.generation}"
            found.setdefault(ref_of(row), []).append((name, list(made.argv[1:])))
    return found


COMMANDS = commands()


def test_goldens_and_recipes_have_commands_for_several_versions() -> None:
    assert len(COMMANDS) >= 4
    names = [name for rows in COMMANDS.values() for name, _argv in rows]
    assert "llama-3-3-70b-lora" in names
    assert "qwen3-32b-draft" in names
    assert len(names) >= 20


@real
@pytest.mark.parametrize("ref", sorted(COMMANDS), ids=lambda ref: ref[:7])
def test_upstreams_own_parser_takes_every_compile_command(ref: str) -> None:
    wrong = [["misspelt", [*COMMANDS[ref][0][1], "--max-lora-rang", "8"]]]
    done = subprocess.run(
        [sys.executable, "-m", "lab.option_tables", "accepts", CLONE, ref, "-"],
        input=json.dumps([*COMMANDS[ref], *wrong]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout)
    assert "--max-lora-rang" in said.pop("misspelt"), "a parser that takes anything proves nothing"
    assert said == {}


@real
def test_the_releases_of_the_table_have_their_sources() -> None:
    assert find_release("2.28.1").nxdi is not None
    for ref in COMMANDS:
        subprocess.run(["git", "-C", CLONE, "cat-file", "-e", f"{ref}^{{commit}}"], check=True)
