# SPDX-License-Identifier: Apache-2.0
"""What the SDK table says of vLLM's sources is true of the real repositories.

Runs where TRAINYARD_SOURCES names a directory of their clones, `aws-neuron/upstreaming-to-vllm` and
`vllm-project/vllm-neuron`: their code is no part of this repository.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trainyard.neuron.plugins.module_utils import sdk_build
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import build, job
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import SdkRelease, sdk_table

from trainyard.paths import ROOT

CLONES = os.environ.get("TRAINYARD_SOURCES", "")

real = pytest.mark.skipif(not CLONES, reason="TRAINYARD_SOURCES names no directory of the real repositories")

BUILT = [row for row in sdk_table() if not row.venv_has_vllm and row.source_commit]


def inputs_of(row: SdkRelease) -> dict[str, Any]:
    """What the job of a row builds from."""
    sources = sdk_build.Sources(base=CLONES, neuron_index="https://index.example")
    made = sdk_build.job_of(row.entry("venv"), str(row.venv), sources, lambda _argv: (1, "", "not asked"))
    return dict(made["inputs"])


@real
@pytest.mark.parametrize("row", BUILT, ids=lambda row: f"{row.release}-{row.generation}")
def test_source_is_there_at_its_commit_with_its_requirements_file(row: SdkRelease, tmp_path: Path) -> None:
    inputs = inputs_of(row)
    checkout = build.check_out(inputs, Path(CLONES).as_uri(), tmp_path, build.run_command)
    assert (checkout / "setup.py").is_file()
    assert "neuronx-cc" in build.requirements_of(checkout, inputs).read_text(encoding="utf-8")
    head = build.run_command(["git", "-C", str(checkout), "rev-parse", "HEAD"], {})[1].strip()
    assert head == row.source_commit


@real
def test_branch_of_the_recipe_lacks_the_file_that_its_tutorial_names(tmp_path: Path) -> None:
    row = next(row for row in BUILT if row.release == "2.23.0")
    inputs = {**inputs_of(row), "requirements": "requirements-neuron.txt"}
    checkout = build.check_out(inputs, Path(CLONES).as_uri(), tmp_path, build.run_command)
    with pytest.raises(job.JobError, match=r"has no requirements-neuron\.txt; found: requirements/neuron\.txt"):
        build.requirements_of(checkout, inputs)


def test_recipe_s_own_sources_are_pinned_by_commit() -> None:
    commits = {(row.release, row.generation): row.source_commit for row in sdk_table()}
    pinned = [commits["2.23.0", "nxdi_v0"], commits["2.26.0", "nxdi_v1"]]
    llmperf = yaml.safe_load((ROOT / "roles/llmperf_patched/vars/main.yml").read_text(encoding="utf-8"))
    pinned.append(llmperf["__llmperf_patched_commit"])
    assert all(commit and len(commit) == 40 for commit in pinned)
