# SPDX-License-Identifier: Apache-2.0
"""What the planner renders is what the commands take: two tables, made from different sources, must agree.

The planner renders from the rows of its generations; the stand-in's parsers hold the options of each vLLM and NxDI
version, read from their argument definitions. The recipes are the deployments that `inventory/trn2` offers.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.artifact import disagreements
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import Deployment, parse_deployment
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.generations import (
    Placement,
    argument_problems,
    render_compile,
    render_serve,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import SdkRelease, find_release, sdk_table

from lab.neuron_sim import sdk, vllm_options
from lab.neuron_sim.settings import logs_requests
from tests.lab.sim_support import SimHost

ROOT = Path(__file__).parents[2]
COMPILING = ["2.23.0", "2.24.0", "2.25.0", "2.26.0", "2.27.0"]


def _recipes() -> list[Deployment]:
    found = []
    for path in sorted((ROOT / "inventory/trn2/group_vars").glob("*/*.yml")):
        for name, raw in (yaml.safe_load(path.read_text()) or {}).items():
            if name.startswith("trainyard_deployment_"):
                deployment, problems = parse_deployment(raw, name)
                assert deployment is not None, problems
                found.append(deployment)
    return found


RECIPES = _recipes()
#: NxDI compiles Qwen3 from SDK 2.25 on.
TOO_OLD = [("qwen3-32b", "2.23.0"), ("qwen3-32b", "2.24.0")]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> SimHost:
    return SimHost(tmp_path_factory.mktemp("host"), sdk_releases=[*COMPILING])


def test_both_recipes_are_there() -> None:
    assert sorted(deployment.name for deployment in RECIPES) == ["llama-3-3-70b", "qwen3-32b"]


@pytest.mark.parametrize("row", sdk_table(), ids=lambda row: f"{row.release}-{row.generation}")
@pytest.mark.parametrize("deployment", RECIPES, ids=lambda deployment: deployment.name)
def test_the_server_of_every_release_takes_its_command(deployment: Deployment, row: SdkRelease) -> None:
    deployment = replace(deployment, runtime="venv" if row.venv else "container")
    rendered = render_serve(
        deployment,
        row,
        placement=Placement("0-31", 32, 8000, "127.0.0.1"),
        weights_path="/data/weights/x",
        artifact_path="/data/artifacts/y",
        replica_name="x-0",
    )
    # The fork of 2.23 has no version of its own; the options of its branch are filed under upstream's next.
    vllm = sdk.version(row.vllm or "0.8.5")
    if "-m" in rendered.argv:
        options = vllm_options.api_server_parser(vllm).parse_args(rendered.argv[3:])
        assert options.model == "/data/weights/x"
    else:
        assert rendered.argv[1] == "serve"
        options = vllm_options.serve_parser(vllm).parse_args(rendered.argv[2:])
        assert options.model_tag == "/data/weights/x"
    assert options.tensor_parallel_size == deployment.tensor_parallel_size
    assert options.max_model_len == deployment.max_model_len
    assert options.port == 8000
    assert not logs_requests(options), "prompts would stand in the journal"


def _compile(host: SimHost, deployment: Deployment, row: SdkRelease) -> dict[str, Any]:
    """Run the rendered compilation on the stand-in host and return the neuron_config.json that it wrote."""
    artifact = host.root / f"artifact-{deployment.name}-{row.release}"
    rendered = render_compile(
        deployment,
        row,
        weights_path=str(host.model),
        artifact_path=str(artifact),
        work_dir=str(host.root / "work"),
        logical_nc_config=2,
    )
    program = host.venv(row.release) / Path(rendered.argv[0]).name
    result = host.run(program, *rendered.argv[1:], env=dict(rendered.environment))
    assert result.returncode == 0, result.stderr
    written: dict[str, Any] = json.loads((artifact / "neuron_config.json").read_text())
    return written


@pytest.mark.parametrize(
    ("deployment", "release"),
    [
        pytest.param(deployment, release, id=f"{deployment.name}-{release}")
        for deployment in RECIPES
        for release in COMPILING
        if (deployment.name, release) not in TOO_OLD
    ],
)
def test_an_artifact_agrees_with_the_deployment_that_it_was_compiled_for(
    host: SimHost, deployment: Deployment, release: str
) -> None:
    deployment, row = replace(deployment, runtime="venv"), find_release(release)
    written = _compile(host, deployment, row)
    assert disagreements(written, deployment, row, 2) == []
    longer = replace(deployment, max_model_len=deployment.max_model_len + 1024)
    assert {problem.variable for problem in disagreements(written, longer, row, 2, "x")} >= {"x.max_model_len"}
    wider = replace(deployment, tensor_parallel_size=64)
    assert {problem.variable for problem in disagreements(written, wider, row, 2, "x")} == {"x.tensor_parallel_size"}


@pytest.mark.parametrize(("name", "release"), TOO_OLD)
def test_a_release_that_is_too_old_for_a_model_says_so(name: str, release: str) -> None:
    (deployment,) = (deployment for deployment in RECIPES if deployment.name == name)
    (problem,) = argument_problems(deployment, find_release(release), "x")
    assert problem.variable == "x.model.repo"
    assert problem.fix == "use an SDK release with NxDI 0.5 or later"
