# SPDX-License-Identifier: Apache-2.0
"""`trainyard init` writes an inventory that plans, for every recipe and every shape of a fleet, or nothing at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from typer.testing import CliRunner, Result

from trainyard.cli import app
from trainyard.init.command import InitError, read_hosts
from trainyard.init.files import Fleet, Host, files_of
from trainyard.init.recipes import OTHERS, recipes
from trainyard.paths import ROOT
from trainyard.plan_command import read_fleet

#: What somebody has, as flags; `sole` hosts route and send for themselves.
SHAPES = {
    "one host": ["--single", "--host", "a=10.0.0.11"],
    "two hosts, one of which routes": ["--host", "a=10.0.0.11", "--host", "b=10.0.0.12"],
    "a fleet": ["--fleet", "--host", "a=10.0.0.11", "--host", "b=10.0.0.12", "--router", "gw=10.0.0.10"],
    "load from elsewhere": ["--host", "a=fd00::11", "--router", "gw=10.0.0.10", "--client", "load=10.0.0.9"],
}


def init(*arguments: object, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, ["init", *map(str, arguments)], input=typed)


def planned(source: Path) -> dict[str, Any]:
    plan: dict[str, Any] = plan_fleet(read_fleet([str(source)], "neuron", "router")).to_dict()
    return plan


def validator(name: str) -> Draft202012Validator:
    folder = ROOT / "docs/schemas"
    schemas = {path.name: json.loads(path.read_text()) for path in folder.glob("*.json")}
    registry = Registry().with_resources((key, Resource.from_contents(value)) for key, value in schemas.items())
    return Draft202012Validator(schemas[name], registry=registry)


def test_every_deployment_that_comes_with_the_toolkit_is_a_recipe() -> None:
    names = {"llama-3-3-70b", "qwen3-32b", *(path.stem for path in OTHERS.glob("*.yml"))}
    assert set(recipes()) == names
    assert len(names) >= 18


def pairs() -> Iterator[tuple[str, str]]:
    """Every shape with the two recipes of the shipped fleet, and every other recipe with one shape, in turn."""
    for at, name in enumerate(recipes()):
        yield from ((name, shape) for number, shape in enumerate(SHAPES) if at < 2 or (at + number) % len(SHAPES) == 0)


@pytest.mark.parametrize(("name", "shape"), list(pairs()))
def test_every_recipe_in_every_shape_is_planned_without_a_word_of_warning(
    tmp_path: Path, name: str, shape: str
) -> None:
    made = init(tmp_path / "fleet", "--recipe", name, *SHAPES[shape])
    assert made.exit_code == 0, made.output
    plan = planned(tmp_path / "fleet")
    recipe = recipes()[name]
    serving = {part.partition("=")[0] for flag, part in pairwise(SHAPES[shape]) if flag == "--host"}
    assert set(plan["hosts"]) == serving
    assert {host["instance_type"] for host in plan["hosts"].values()} == {recipe.instance_type}
    assert all(host["replicas"] for host in plan["hosts"].values())
    of_addresses = [one for one in plan["warnings"] if "address" in one["rule"] or "inventory" in one["variable"]]
    assert of_addresses == []
    # What the recipe itself has: its own plan, with the host's name changed.
    own = planned(ROOT / "inventory/recipes" / f"{name}.yml") if (OTHERS / f"{name}.yml").exists() else None
    if own:
        (there,), here = own["hosts"].values(), plan["hosts"][min(serving)]
        assert [one["digest"] for one in there["artifacts"]] == [one["digest"] for one in here["artifacts"]]
        assert len(there["replicas"]) == len(here["replicas"])


def test_each_file_names_a_schema_that_is_there_and_that_takes_it(tmp_path: Path) -> None:
    schemas = {name: validator(f"{name}.schema.json") for name in ("inventory", "hosts")}
    for recipe in recipes().values():
        made = files_of(Fleet(recipe, [Host("a", "10.0.0.1")], [Host("gw", "fd00::1")]), tmp_path)
        assert f"group_vars/{recipe.group}/deployment.yml" in made
        for path, text in made.items():
            first, second = text.splitlines()[:2]
            assert first == "---"
            mark, _, schema = second.partition("$schema=")
            assert mark == "# yaml-language-server: "
            assert Path(schema).is_file()
            found = schemas[Path(schema).name.partition(".")[0]].iter_errors(yaml.safe_load(text))
            assert [error.message for error in found] == [], path


def test_a_schema_notices_what_an_editor_is_to_mark() -> None:
    hosts = validator("hosts.schema.json")
    assert list(hosts.iter_errors({"all": {"host": {"a": None}}}))
    assert list(hosts.iter_errors({"all": {"hosts": {"a": {"trainyard_router_port": "no port"}}}}))
    assert not list(hosts.iter_errors({"all": {"hosts": {"a": {"ansible_host": "10.0.0.1"}}}}))


def test_within_the_checkout_the_way_to_the_schema_is_relative() -> None:
    made = files_of(Fleet(recipes()["qwen3-32b"], [Host("a", "10.0.0.1")]), ROOT / "inventory/mine")
    assert "$schema=../../docs/schemas/hosts.schema.json\n" in made["hosts.yml"]
    assert "$schema=../../../../docs/schemas/inventory.schema.json\n" in made["group_vars/neuron/host.yml"]


def test_hosts_of_ec2_are_found_by_tags_in_the_regions_asked_for(tmp_path: Path) -> None:
    made = init(tmp_path / "fleet", "--recipe", "qwen3-32b", "--region", "us-west-2", "--region", "ap-south-2")
    assert made.exit_code == 0, made.output
    said = yaml.safe_load((tmp_path / "fleet/aws_ec2.yml").read_text())
    shipped = yaml.safe_load((ROOT / "inventory/trn2/aws_ec2.yml").read_text())
    assert said == {**shipped, "regions": ["us-west-2", "ap-south-2"]}
    assert not (tmp_path / "fleet/hosts.yml").exists()
    assert f"-i {tmp_path / 'fleet/aws_ec2.yml'}" in made.output
    assert "trainyard = qwen3-32b" in made.output


def test_what_is_asked_for_is_in_the_files_and_the_rest_is_a_comment(tmp_path: Path) -> None:
    given = ["--user", "ec2-user", "--store", "s3://models/compiled", "--instance-type", "trn2u.48xlarge"]
    made = init(tmp_path / "fleet", "--recipe", "llama-3-3-70b", *SHAPES["one host"], *given)
    assert made.exit_code == 0, made.output
    assert "export HF_TOKEN" in made.output
    values = {}
    for path in (tmp_path / "fleet/group_vars").rglob("*.yml"):
        values |= yaml.safe_load(path.read_text())
    assert values["ansible_user"] == "ec2-user"
    assert values["model_compile_store"] == "s3://models/compiled"
    assert values["trainyard_instance_type"] == "trn2u.48xlarge"
    init(tmp_path / "other", "--recipe", "qwen3-32b", *SHAPES["one host"])
    text = "".join(path.read_text() for path in (tmp_path / "other").rglob("*.yml"))
    for commented in ("# model_compile_store:", "# model_weights_hub_endpoint:", "# ansible_ssh_common_args:"):
        assert f"\n{commented}" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--recipe", "qwen3-32"], ["no recipe 'qwen3-32'", "did you mean 'qwen3-32b'?"]),
        (["--recipe", "zzz"], ["one of llama-3-3-70b, qwen3-32b"]),
        ([], ["no recipe", "--recipe", "qwen3-8b"]),
        (["--recipe", "qwen3-8b"], ["--host NAME=ADDRESS", "--ec2"]),
        (["--recipe", "qwen3-8b", "--ec2"], ["no region", "us-east-2"]),
        (["--recipe", "qwen3-8b", "--host", "10.0.0.1"], ["--host 10.0.0.1: give NAME=ADDRESS"]),
        (["--recipe", "qwen3-8b", "--host", "a=10.0.0.256", "--router", "b"], ["'10.0.0.256'", "--router b: give"]),
        (["--recipe", "qwen3-8b", "--host", "a=10.0.0.1", "--host", "a=10.0.0.2"], ["two addresses"]),
        (["--recipe", "qwen3-8b", "--host", "a=10.0.0.1", "--router", "b=10.0.0.1"], ["two names, a and b"]),
        (["--recipe", "qwen3-8b", "--host", "a=10.0.0.1", "--host", "a=10.0.0.1"], ["a is given twice"]),
        (["--recipe", "qwen3-8b", "--single", "--host", "a=10.0.0.1", "--host", "b=10.0.0.2"], ["--single is one"]),
        (["--recipe", "qwen3-8b", "--region", "us-east", "--host", "a=10.0.0.1"], ["us-east:", "leave --host"]),
        (["--recipe", "qwen3-8b", "--host", "a=10.0.0.1", "--store", "s3:"], ["--store 's3:'"]),
        (["--recipe", "qwen3-8b", "--host", "a=10.0.0.1", "--user", "a: b"], ["--user 'a: b'"]),
        (["--recipe", "qwen3-8b", "--host", "all=10.0.0.1"], ["nothing was written", "name of a group"]),
        (["--recipe", "qwen3-32b", "--host", "a=10.0.0.1", "--instance-type", "trn2.3xlarge"], ["nothing was", "16"]),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_its_own_words_and_nothing_is_written(
    tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    refused = init(tmp_path / "fleet", *arguments)
    assert refused.exit_code == 2, refused.output
    for word in words:
        assert word in refused.output
    assert "Traceback" not in refused.output
    assert list(tmp_path.iterdir()) == []


def test_every_slip_of_the_flags_is_told_at_once() -> None:
    with pytest.raises(InitError) as refused:
        read_hosts(["a", "b=10.0.0.1", "c=10.0.0.300", "-d=10.0.0.4"], "--host")
    assert len(str(refused.value).splitlines()) == 3


def test_a_directory_with_something_in_it_is_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    folder.mkdir()
    assert init(folder, "--recipe", "qwen3-8b", *SHAPES["one host"]).exit_code == 0
    before = {path: path.read_bytes() for path in folder.rglob("*.yml")}
    refused = init(folder, "--recipe", "qwen3-32b", *SHAPES["one host"])
    assert refused.exit_code == 2
    assert "is not empty" in refused.output
    assert {path: path.read_bytes() for path in folder.rglob("*.yml")} == before
    (tmp_path / "file").write_text("")
    assert "is a file" in init(tmp_path / "file", "--recipe", "qwen3-8b", *SHAPES["one host"]).output


def test_at_a_terminal_it_asks_for_what_no_flag_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainyard.init.command.at_a_terminal", lambda: True)
    made = init(tmp_path / "fleet", typed="qwen3-8b\na=10.0.0.1 b=10.0.0.2\ngw=10.0.0.3\n")
    assert made.exit_code == 0, made.output
    plan = planned(tmp_path / "fleet")
    assert sorted(plan["hosts"]) == ["a", "b"]
    assert plan["router"]["names"] == ["gw"]
    assert plan["router"]["models"][0]["name"] == "Qwen/Qwen3-8B"
    made = init(tmp_path / "cloud", "--ec2", typed="qwen3-8b\nus-west-2 us-east-2\n")
    assert made.exit_code == 0, made.output
    assert yaml.safe_load((tmp_path / "cloud/aws_ec2.yml").read_text())["regions"] == ["us-west-2", "us-east-2"]
    refused = init(tmp_path / "typo", typed="qwen-8b\n")
    assert refused.exit_code == 2
    assert "did you mean" in refused.output
