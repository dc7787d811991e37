# SPDX-License-Identifier: Apache-2.0
"""A replica has one shape from the planner to the host: all of its words are declared, and no other is taken."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import settings
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.replica import ONLY_IF_SAID, ReplicaPlan
from ansible_collections.trainyard.neuron.plugins.plugin_utils import run_plan
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.parts import (
    ArtifactPlan,
    HostPlan,
    RouterServer,
    WeightsPlan,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import RollError, Target
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.plan import fleets

from trainyard.paths import ROOT

WORDS = {field.name for field in dataclasses.fields(ReplicaPlan)}


@pytest.fixture
def plan() -> dict[str, Any]:
    """The plan of one host with a router."""
    return fleets.plan({"a": fleets.host(fleets.deployment(), trainyard_cpu_pinning="proxy")}, routers=["a"])


def first(plan: dict[str, Any]) -> dict[str, Any]:
    return dict(plan["hosts"]["a"]["replicas"][0])


def test_the_planner_says_every_word_that_is_declared(plan: dict[str, Any]) -> None:
    assert WORDS - set(first(plan)) <= set(ONLY_IF_SAID)
    assert set(first(plan)) <= WORDS


def test_the_schema_of_the_plan_has_the_words_that_are_declared() -> None:
    schema = json.loads((ROOT / "docs/schemas/plan.schema.json").read_text())
    # A benchmark's replicas are of many hosts, and say of which, and of what kind it is.
    beside = {"host", "instance_type", "logical_nc_config"}
    assert set(schema["$defs"]["replica"]["properties"]) == WORDS | beside


@pytest.mark.parametrize(
    ("name", "kind"),
    [("host", HostPlan), ("artifact", ArtifactPlan), ("weights", WeightsPlan), ("server", RouterServer)],
)
def test_the_schema_has_the_words_of_the_other_parts(name: str, kind: type) -> None:
    schema = json.loads((ROOT / "docs/schemas/plan.schema.json").read_text())
    assert set(schema["$defs"][name]["properties"]) == set(kind.__dataclass_fields__)  # type: ignore[attr-defined]


def test_every_part_of_a_plan_is_taken_and_no_misspelt_word_of_it(plan: dict[str, Any], tmp_path: Path) -> None:
    part = plan["hosts"]["a"]
    for row, slip, meant in (
        (part, "loads_at_onc", "loads_at_once"),
        (part["weights"][0], "revison", "revision"),
        (part["artifacts"][0], "compilehost", "compile_host"),
    ):
        row[slip] = 1
        run_plan.write(plan, tmp_path / "plan")
        with pytest.raises(run_plan.RunPlanError, match=f"{slip} is no word that is known, meant is perhaps {meant}"):
            run_plan.RunPlan(tmp_path / "plan").host("a")
        del row[slip]
    run_plan.write(plan, tmp_path / "plan")
    assert run_plan.RunPlan(tmp_path / "plan").host("a") == part


def test_a_misspelt_word_of_a_routers_server_is_refused(plan: dict[str, Any], tmp_path: Path) -> None:
    plan["router"]["models"][0]["servers"][1]["max_num_seq"] = 4
    run_plan.write(plan, tmp_path / "plan")
    with pytest.raises(run_plan.RunPlanError, match=r"servers\[1\].max_num_seq is no .* perhaps max_num_seqs"):
        run_plan.RunPlan(tmp_path / "plan").router("a")


def test_one_setting_goes_the_way_that_the_page_says(tmp_path: Path) -> None:
    item = fleets.deployment(max_num_seqs=3, block_size=None)
    run_plan.write(fleets.plan({"a": fleets.host(item)}, routers=["a"]), tmp_path / "plan")
    parts = run_plan.RunPlan(tmp_path / "plan")
    replica = settings.parse(json.dumps(parts.host("a")["replicas"][0]))
    assert replica.max_num_seqs == 3
    assert replica.argv[replica.argv.index("--max-num-seqs") + 1] == "3"
    assert {server["max_num_seqs"] for model in parts.router("a")["models"] for server in model["servers"]} == {3}


def test_the_way_of_that_setting_is_written_down_as_it_is() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    way = re.findall(
        r"`((?:plugin_utils|module_utils|roles)/[^`]+)`", page.split("## The way of one setting")[1].split("\n## ")[0]
    )
    plugins = ROOT / "collections/ansible_collections/trainyard/neuron/plugins"
    files = {name: (ROOT if name.startswith("roles/") else plugins) / name for name in way}
    assert all(file.is_file() for file in files.values()), files
    planner = plugins / "plugin_utils/plan"
    # A file of the plan that names it passes it on and stands on the page, or judges by it and hands nothing on.
    judges = {"artifact", "checks", "fit", "generation_tables", "generations", "memory", "model_options", "traps"}
    named = {path.stem for path in planner.glob("*.py") if "max_num_seqs" in path.read_text()}
    on_the_page = {file.stem for file in files.values()}
    assert named - judges <= on_the_page, named - judges - on_the_page
    assert not judges - named


def test_what_is_planned_comes_to_the_host_whole(plan: dict[str, Any]) -> None:
    planned = first(plan)
    assert settings.parse(json.dumps(planned)).to_dict() == planned


def test_a_release_follows_from_what_runs_and_from_nothing_else(plan: dict[str, Any]) -> None:
    read = settings.parse(json.dumps(first(plan)))
    assert dataclasses.replace(read, port=1, served_aliases=("b",), spare=True).released().release == read.release
    for change in ({"cpus": "7"}, {"argv": ("x",)}, {"credentials": "k"}, {"image": "i"}):
        assert dataclasses.replace(read, **change).released().release != read.release


@pytest.mark.parametrize(
    ("slip", "meant"), [("agentport", "agent_port"), ("need_key", ""), ("served_nam", "served_name")]
)
def test_a_word_that_nobody_knows_is_refused_at_every_door(
    plan: dict[str, Any], tmp_path: Path, slip: str, meant: str
) -> None:
    planned = {**first(plan), slip: 1}
    wanted = f"{slip} is no word that is known" + (f", meant is perhaps {meant}" if meant else "")
    with pytest.raises(settings.ServingError) as at_the_host:
        settings.parse(json.dumps(planned))
    with pytest.raises(RollError) as in_a_roll:
        Target.from_plan("a", planned)
    plan["hosts"]["a"]["replicas"][0] = planned
    run_plan.write(plan, tmp_path / "plan")
    with pytest.raises(run_plan.RunPlanError) as at_the_lookup:
        run_plan.RunPlan(tmp_path / "plan").host("a")
    for refusal in (at_the_host, in_a_roll, at_the_lookup):
        assert wanted.split(",")[0] in str(refusal.value)
        if meant:
            assert f"meant is perhaps {meant}" in str(refusal.value)


def test_a_container_without_an_image_is_refused(plan: dict[str, Any]) -> None:
    with pytest.raises(settings.ServingError, match="image is missing"):
        settings.parse(json.dumps({**first(plan), "runtime": "container"}))
