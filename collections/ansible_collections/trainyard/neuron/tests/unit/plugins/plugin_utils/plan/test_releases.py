# SPDX-License-Identifier: Apache-2.0
"""The SDK table: every row is whole, its file is judged, names resolve, and pairs that cannot work are refused."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import re
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.versions import pair_rule, version_number
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import (
    TABLE_FILE,
    ReleaseError,
    SdkRelease,
    family_of,
    find_release,
    full_release,
    generations_of,
    nearest,
    read_table,
    release_problems,
    releases,
    sdk_table,
)

ROWS = [pytest.param(row, id=f"{row.release}-{row.generation}") for row in sdk_table()]
VERSION = re.compile(r"\d+(\.\d+)+")


def test_the_table_spans_every_release_and_each_serves_by_default_with_one_generation():
    assert releases()[0] == "2.23.0"
    assert releases()[-1] == "2.33.0"
    assert list(releases()) == sorted(releases(), key=version_number)
    for release in releases():
        assert [row.default for row in sdk_table() if row.release == release].count(True) == 1


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_complete_or_says_what_is_unknown(row: SdkRelease):
    for name in ("driver", "runtime", "collectives", "tools", "compiler"):
        assert VERSION.fullmatch(getattr(row, name)), name
    for name in row.unknown:
        assert not getattr(row, name), name
    if "venv" not in row.unknown:
        assert row.venv.startswith("/opt/aws_neuronx_venv_pytorch_")
    assert (row.nxdi is None) == (row.generation == "native")
    assert row.pythons or "pythons" in row.unknown
    if row.container_tag is not None:
        assert "sdk2." in row.container_tag
        assert row.image == "neuron/pytorch-inference-vllm-neuronx:" + row.container_tag


@pytest.mark.parametrize("row", ROWS)
def test_the_driver_and_runtime_of_a_row_start_together(row: SdkRelease):
    assert pair_rule(row.driver, row.runtime) is None


@pytest.mark.parametrize("row", ROWS)
def test_find_release_returns_each_row(row: SdkRelease):
    assert find_release(row.release, row.generation) is row


def test_versions_never_go_back_from_release_to_release():
    bases = [find_release(release) for release in releases()]
    for earlier, later in itertools.pairwise(bases):
        for name in ("driver", "runtime", "collectives", "tools", "compiler"):
            assert version_number(getattr(earlier, name)) <= version_number(getattr(later, name)), name


@pytest.mark.parametrize(
    ("release", "default", "other"),
    [
        ("2.26.1", "nxdi_v0", "nxdi_v1"),
        ("2.27.0", "nxdi_v1", "nxdi_v0"),
        ("2.31.1", "nxdi_v1", "native"),
    ],
)
def test_a_release_of_two_generations_has_a_default_and_takes_the_other_by_name(release, default, other):
    assert find_release(release).generation == default
    assert find_release(release, other).generation == other
    assert generations_of(release) == (default, other)


def test_the_rows_of_the_two_recipes():
    llama = find_release("2.23.0")
    assert (llama.generation, llama.venv) == ("nxdi_v0", "/opt/aws_neuronx_venv_pytorch_2_6_nxd_inference")
    assert (llama.source_ref, llama.source_requirements) == ("releases/v2.23.0-v0", "requirements/neuron.txt")
    assert llama.entry("venv")["source"]["needed"] is True
    qwen = find_release("2.27.0")
    assert (qwen.generation, qwen.venv) == ("nxdi_v1", "/opt/aws_neuronx_venv_pytorch_inference_vllm")
    assert qwen.container_tag == "0.11.0-neuronx-py312-sdk2.27.0-ubuntu24.04"
    assert qwen.entry("container")["venv"] is None
    assert qwen.entry("container")["image"].endswith(qwen.container_tag)


def test_a_release_may_be_named_without_its_patch_where_there_is_only_one():
    assert full_release("2.23") == "2.23.0"
    with pytest.raises(ReleaseError, match=r"names 2 releases \(2\.27\.0, 2\.27\.1\)"):
        full_release("2.27")


@pytest.mark.parametrize(("release", "near"), [("2.22.0", "2.23.0"), ("2.34.0", "2.33.0"), ("2.29.7", "2.29.1")])
def test_a_release_that_is_not_in_the_table_is_refused_with_its_neighbour(release, near):
    with pytest.raises(ReleaseError) as caught:
        find_release(release)
    assert "is no SDK release of the table (2.23.0 to 2.33.0)" in caught.value.rule
    assert near in caught.value.fix


@pytest.mark.parametrize(
    ("release", "generation", "rule", "fix"),
    [
        ("2.32.0", "nxdi_v1", "only from 2.26.0 to 2.31.1", "use sdk_release 2.31.1 with generation nxdi_v1"),
        ("2.28.0", "nxdi_v0", "only from 2.23.0 to 2.27.1", "use sdk_release 2.27.1 with generation nxdi_v0"),
        ("2.30.0", "native", "only from 2.31.0 on", "use sdk_release 2.31.0 with generation native"),
        ("2.23.0", "nxdi_v1", "only from 2.26.0 to 2.31.1", "use sdk_release 2.26.0 with generation nxdi_v1"),
        ("2.23.0", "v0", "which knows nxdi_v0, nxdi_v1, native only", "choose one of nxdi_v0"),
    ],
)
def test_a_generation_that_does_not_serve_in_a_release_is_refused(release, generation, rule, fix):
    (problem,) = release_problems(release, generation, where="trainyard_deployment_x")
    assert problem.variable == "trainyard_deployment_x.generation"
    assert problem.value == generation
    assert rule in problem.rule
    assert fix in problem.fix


CASES = [
    (
        "native on trn1",
        {"release": "2.32.0", "family": "trn1"},
        ".sdk_release",
        "native of SDK 2.32.0 does not serve on trn1",
        "use sdk_release 2.28.1 with generation nxdi_v1",
    ),
    (
        "native on inf2, chosen by name",
        {"release": "2.31.1", "generation": "native", "family": "inf2"},
        ".generation",
        "made for trn2 and trn3",
        "use sdk_release 2.28.1",
    ),
    (
        "NxDI on inf2 after 2.28",
        {"release": "2.29.0", "family": "inf2"},
        ".sdk_release",
        "supported on trn2 and later from SDK 2.29.0 on",
        "use sdk_release 2.28.1 with generation nxdi_v1",
    ),
    (
        "the fork on trn3",
        {"release": "2.24.1", "family": "trn3"},
        ".sdk_release",
        "does not serve on trn3",
        "use sdk_release 2.29.0 with generation nxdi_v1",
    ),
    (
        "an image that was never published",
        {"release": "2.23.0", "runtime": "container"},
        ".runtime",
        "the image of SDK 2.23.0 for nxdi_v0 was not published",
        "set runtime to venv",
    ),
    (
        "an environment that nobody documented",
        {"release": "2.31.0", "generation": "native"},
        ".runtime",
        "the environment of SDK 2.31.0 for native is not documented",
        "set runtime to container",
    ),
    (
        "neither environment nor image known",
        {"release": "2.33.0", "runtime": "container"},
        ".runtime",
        "is not documented",
        "use sdk_release 2.32.0 with generation native",
    ),
    (
        "Amazon Linux",
        {"release": "2.27.0", "operating_system": "amazon-linux-2023"},
        ".sdk_release",
        "older than the one that vLLM's environments are built for",
        "use a host with ubuntu-24.04",
    ),
    (
        "the old Ubuntu",
        {"release": "2.30.0", "operating_system": "ubuntu-22.04"},
        ".sdk_release",
        "documented for ubuntu-24.04",
        "use sdk_release 2.26.1 with generation nxdi_v1",
    ),
    (
        "the new Ubuntu with an old release",
        {"release": "2.23.0", "operating_system": "ubuntu-24.04"},
        ".sdk_release",
        "documented for ubuntu-22.04",
        "use sdk_release 2.27.0 with generation nxdi_v0",
    ),
    (
        "a driver of another release",
        {"release": "2.27.0", "driver": "2.21.37.0"},
        ".sdk_release",
        "the host has driver 2.21.37.0, and SDK 2.27.0 pairs driver 2.25.4.0 with runtime 2.29.40.0",
        "install driver 2.25.4.0",
    ),
    (
        "an image whose runtime refuses the host's driver",
        {"release": "2.30.0", "runtime": "container", "driver": "2.26.10.0"},
        ".sdk_release",
        "runtime 2.32 and later refuses driver 2.26 and older (driver 2.26.10.0, runtime 2.32.31.0)",
        "install driver 2.28.0.0",
    ),
    (
        "an image whose runtime is too old for the host's driver",
        {"release": "2.27.0", "runtime": "container", "driver": "2.29.0.0"},
        ".sdk_release",
        "driver 2.29 and later needs runtime 2.33 or later",
        "install driver 2.25.4.0",
    ),
]


@pytest.mark.parametrize(("arguments", "field", "rule", "fix"), [case[1:] for case in CASES], ids=[c[0] for c in CASES])
def test_pairs_that_cannot_work_are_refused_with_the_reason_and_a_way_out(arguments, field, rule, fix):
    (problem,) = release_problems(**arguments, where="trainyard_deployment_x")
    assert problem.variable == "trainyard_deployment_x" + field
    assert rule in problem.rule
    assert fix in problem.fix


def test_the_row_that_a_fix_names_works():
    for _name, arguments, _field, _rule, fix in CASES:
        found = re.search(r"use sdk_release (\S+) with generation (\S+)", fix)
        if found is not None:
            again = {key: value for key, value in arguments.items() if key in ("family", "operating_system")}
            assert release_problems(found[1], found[2], **again) == []


def test_an_old_driver_with_a_new_runtime_on_the_host_is_told_twice_over():
    problems = release_problems("2.31.0", driver="2.26.5.0", runtime_lib="2.33.10.0")
    assert [problem.value for problem in problems] == ["2.31.0", "2.31.0"]


def test_an_image_may_run_over_a_newer_driver_and_on_another_system():
    assert (
        release_problems(
            "2.27.0", runtime="container", driver="2.26.10.0", operating_system="amazon-linux-2023", family="trn2"
        )
        == []
    )


def test_what_is_right_has_no_problem():
    assert release_problems("2.23.0", family="trn2", operating_system="ubuntu-22.04", driver="2.21.37.0") == []
    assert release_problems("2.27.0", "nxdi_v1", family="inf2", operating_system="ubuntu-24.04") == []
    assert release_problems("2.32.0", family="trn2") == []


@pytest.mark.parametrize(
    ("instance_type", "family"),
    [("trn2.48xlarge", "trn2"), ("trn2u.48xlarge", "trn2"), ("trn1n.32xlarge", "trn1"), ("inf2.xlarge", "inf2")],
)
def test_the_family_of_an_instance_type(instance_type, family):
    assert family_of(instance_type) == family
    assert family_of("m7i.large") is None


@pytest.mark.parametrize(
    ("text", "number"), [("2.23.0", (2, 23, 0)), ("0.2.2+lts", (0, 2, 2)), ("0.2.1-lts", (0, 2, 1))]
)
def test_version_numbers_ignore_suffixes(text, number):
    assert version_number(text) == number


def test_nearest_prefers_the_older_of_two_at_the_same_distance():
    assert nearest("2.26.0", lambda row: row.release in ("2.25.0", "2.26.1")).release == "2.25.0"
    assert nearest("2.26.0", lambda _row: False) is None


def test_rows_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        sdk_table()[0].driver = "1"


TABLE: dict[str, Any] = json.loads(TABLE_FILE.read_text(encoding="utf-8"))
FIRST, SERVING = TABLE["releases"][0], TABLE["releases"][0]["serving"][0]


def table_with(release: dict[str, Any], serving: dict[str, Any]) -> str:
    """The table as its file has it, its first entry changed; None takes a word away."""
    table = copy.deepcopy(TABLE)
    entry = table["releases"][0]
    for where, changes in ((entry, release), (entry["serving"][0], serving)):
        where.update(changes)
        for name in [name for name, value in changes.items() if value is None]:
            del where[name]
    return json.dumps(table)


def refused(written: str) -> list[str]:
    with pytest.raises(PlanError) as error:
        read_table(written)
    return error.value.lines()


@pytest.mark.parametrize(
    ("release", "serving", "place", "told"),
    [
        ({"drivr": "2.21.37.0"}, {}, "releases[0].drivr", "did you mean 'driver'?"),
        ({}, {"container_tags": "x"}, "releases[0].serving[0].container_tags", "did you mean 'container_tag'?"),
        ({}, {"source": {**SERVING["source"], "comit": ""}}, "serving[0].source.comit", "did you mean 'commit'?"),
        ({"driver": None}, {}, "releases[0].driver", "must be given"),
        ({"driver": "newest"}, {}, "releases[0].driver", "must be a dotted version"),
        ({}, {"generation": "nxdi_v2"}, "serving[0].generation", "must be one of nxdi_v0, nxdi_v1, native"),
        ({}, {"families": ["trn4"]}, "serving[0].families[0]", "must be one of trn1, inf2, trn2, trn3"),
        ({}, {"unknown": ["venv"]}, "2.23.0 nxdi_v0.unknown", "is known"),
        ({}, {"default": False}, "sdk_releases.json 2.23.0", "must have one default generation"),
        ({"serving": [SERVING, SERVING]}, {}, "sdk_releases.json 2.23.0", "must have each generation once"),
        ({"release": "2.99.0"}, {}, "sdk_releases.json", "must have the releases from the oldest on"),
    ],
)
def test_a_row_that_says_something_else_is_refused_with_what_it_should(release, serving, place, told):
    lines = refused(table_with(release, serving))
    assert [line for line in lines if place in line and told in line], lines


def test_every_mistake_of_the_table_is_told_at_once():
    assert len(refused(table_with({"drivr": "1", "date": "May"}, {"vlm": "1"}))) == 3


@pytest.mark.parametrize("written", ["", "[]", "[" * 100_000])
def test_a_file_that_is_no_table_is_refused(written):
    (line,) = refused(written)
    assert line.startswith("sdk_releases.json = ")


def test_the_same_branch_is_at_the_same_commit_in_every_row():
    commits: dict[tuple[Any, Any], set[Any]] = {}
    for row in sdk_table():
        commits.setdefault((row.source_repo, row.source_ref), set()).add(row.source_commit)
    assert [source for source, found in commits.items() if len(found) > 1] == []
