# SPDX-License-Identifier: Apache-2.0
"""The reference page and the JSON schemas are what the schemas say, and the schemas are whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
import yaml
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.fields import Field, Kind, read_fields
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.settings import CANARY, REDEPLOY
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import DEPLOYMENT
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.variables import OTHER_VARIABLES, VARIABLES
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.canary import Thresholds
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.state import Settings
from jsonschema import Draft202012Validator

from docs import reference
from trainyard.paths import ROOT
from trainyard.sweep.spec import SWEEP


def fields() -> Iterator[tuple[str, str, Field]]:
    for fields_of, where in ((DEPLOYMENT.fields, "deployment"), (VARIABLES, ""), (SWEEP.fields, "sweep")):
        for name, spec in fields_of.items():
            yield where, name, spec
        for path, schema in reference.inner(fields_of):
            for name, spec in schema.fields.items():
                yield f"{where}.{path}", name, spec


FIELDS = list(fields())


def test_the_page_and_the_schemas_are_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--check"]) == 0, capsys.readouterr().out + "\nrun: python docs/reference.py"


def test_a_page_that_is_not_current_is_found(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "reference.md"
    old.write_text(reference.page().replace("at_once", "together"), encoding="utf-8")
    monkeypatch.setattr(reference, "wanted", lambda: {old: reference.page()})
    assert reference.main(["--check"]) == 1
    assert "+| `at_once` |" in capsys.readouterr().out
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0


@pytest.mark.parametrize(("where", "name", "spec"), FIELDS, ids=[f"{where}.{name}" for where, name, _ in FIELDS])
def test_every_field_says_what_it_is_and_its_example_and_its_default_are_right(
    where: str, name: str, spec: Field
) -> None:
    assert spec.about, "no meaning"
    assert isinstance(spec.check, Kind), "no kind, so no type and no schema"
    assert spec.example is not None, "no example"
    assert spec.since
    validator = Draft202012Validator(spec.check.json)
    for value in [spec.example] + ([] if spec.default is None else [spec.default]):
        plain = json.loads(json.dumps(value))
        if value is spec.default and plain in ([], {}):
            continue  # what stands for nothing given need not be a way to give nothing
        assert not read_fields({name: plain}, {name: spec}, where)[1]
        validator.validate(plain)


def test_the_records_of_a_roll_begin_with_the_schemas_defaults() -> None:
    assert asdict(Settings()) == REDEPLOY.defaults
    assert asdict(Thresholds()) == CANARY.defaults


def test_no_variable_is_told_twice() -> None:
    assert not set(VARIABLES) & OTHER_VARIABLES
    assert all(f"| `{name}` |" in reference.page() for name in VARIABLES)


def test_the_inventories_that_are_here_are_valid_by_the_schema() -> None:
    validator = Draft202012Validator(reference.inventory_schema())
    files = [path for path in (ROOT / "inventory").rglob("*.yml") if "group_vars" in path.parts]
    read = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in files]
    judged = [one for one in read if isinstance(one, dict) and "{{" not in json.dumps(one)]
    assert len(judged) >= 3
    for variables in judged:
        validator.validate(variables)


@pytest.mark.parametrize(
    "wrong",
    [
        {"trainyard_redeploy": {"at_onec": 1}},
        {"trainyard_canary": {"golden_share": 80}},
        {"trainyard_router_port": 0},
        {"trainyard_deployment_x": {"name": "x"}},
        {"load_balancer_keys": [{"name": "a", "sha256": "plain"}]},
    ],
)
def test_the_schema_refuses_what_the_plan_refuses(wrong: dict[str, Any]) -> None:
    assert not Draft202012Validator(reference.inventory_schema()).is_valid(wrong)
