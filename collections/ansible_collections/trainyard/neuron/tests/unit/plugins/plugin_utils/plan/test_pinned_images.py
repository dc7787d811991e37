# SPDX-License-Identifier: Apache-2.0
"""Digests of container images: asked once, written beside the inventory, and nobody's to change from then on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan import pinned_images
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.inventory import collect
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.plan.fleets import deployment, host

IMAGE = "neuron/pytorch-inference-vllm-neuronx:0.11.0-neuronx-py312-sdk2.27.0-ubuntu24.04"
REFERENCE = f"public.ecr.aws/{IMAGE}"
ONE, OTHER = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def test_what_is_written_is_read_and_what_is_there_is_never_changed(tmp_path: Path) -> None:
    file = pinned_images.file_of_inventory(str(tmp_path))
    assert pinned_images.read(file) == {}
    pinned_images.add(file, {REFERENCE: ONE})
    first = Path(file).read_text(encoding="utf-8")
    assert first.startswith("# Container images by digest")
    pinned_images.add(file, {REFERENCE: OTHER})
    assert Path(file).read_text(encoding="utf-8") == first
    Path(file).write_text(first.rstrip("\n") + "\n# mine", encoding="utf-8")
    pinned_images.add(file, {REFERENCE: OTHER, "a.b/c:1": OTHER})
    assert pinned_images.read(file) == {REFERENCE: ONE, "a.b/c:1": OTHER}
    assert "# mine\na.b/c:1 " in Path(file).read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == [pinned_images.NAME]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{REFERENCE} sha256:12", "must be registry/name:tag, a space and sha256:<64 hex digits>"),
        (f"{IMAGE.split('/')[1]} {ONE}", "must be registry/name:tag"),
        (f"{REFERENCE} {ONE}\n{REFERENCE} {OTHER}", "says one image twice"),
    ],
)
def test_a_line_that_says_nothing_is_refused(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "file").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(PlanError, match=said):
        pinned_images.read(str(tmp_path / "file"))


def test_where_nothing_can_be_kept_the_line_to_write_is_told(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="set trainyard_images_file"):
        pinned_images.add("", {REFERENCE: ONE})
    with pytest.raises(PlanError, match=f"write the line yourself: {REFERENCE} {ONE}"):
        pinned_images.add(str(tmp_path / "none" / "file"), {REFERENCE: ONE})


def test_one_host_that_was_told_is_enough_and_two_that_disagree_are_refused() -> None:
    told: list[tuple[str, Any]] = [
        ("a", {REFERENCE: {"error": "429"}}),
        ("b", {REFERENCE: {"digest": ONE}}),
        ("c", None),
    ]
    assert pinned_images.answers_of(told) == {REFERENCE: ONE}
    with pytest.raises(PlanError, match=f"hosts are told different images: {ONE} on b, {OTHER} on d"):
        pinned_images.answers_of([*told, ("d", {REFERENCE: {"digest": OTHER}})])
    with pytest.raises(PlanError, match=r"a: trainyard_images.*its digest is not known: 429"):
        pinned_images.answers_of(told[:1])
    with pytest.raises(PlanError, match="its digest is not known"):
        pinned_images.answers_of([("a", {REFERENCE: {"digest": "sha256:0"}})])


def qwen(**values: Any) -> dict[str, Any]:
    item = deployment(
        sdk_release="2.27.0", generation="nxdi_v1", runtime="container", tensor_parallel_size=16, max_model_len=4096
    )
    return host(item, inventory_dir=values.pop("directory", ""), **values)


def image_of(hosts: dict[str, Any], **answers: Any) -> tuple[str, dict[str, Any]]:
    """Return the image that the first host is to pull, and what is new."""
    for name, answer in answers.items():
        result = {"failed": False, "changed": False, "topology": {}, "images": answer}
        hosts[name] = {**hosts[name], "trainyard_topology": result}
    collected = collect(hosts, list(hosts), [])
    plan = plan_fleet(collected).to_dict()
    part = next(iter(plan["hosts"].values()))
    assert part["replicas"][0]["image"] == part["sdk"][0]["image"] == part["artifacts"][0]["image"]
    assert pinned_images.missing(plan) == ([] if "@" in part["sdk"][0]["image"] else [part["sdk"][0]["image"]])
    return part["sdk"][0]["image"], collected["new_images"]


def test_an_image_is_named_by_tag_until_a_registry_was_asked(tmp_path: Path) -> None:
    hosts = {"a": qwen(directory=str(tmp_path))}
    assert image_of(hosts) == (REFERENCE, {})
    file = pinned_images.file_of_inventory(str(tmp_path))
    image, new = image_of(hosts, a={REFERENCE: {"digest": ONE}})
    assert image == f"public.ecr.aws/{IMAGE.split(':')[0]}@{ONE}"
    assert new == {file: {REFERENCE: ONE}}
    pinned_images.add(file, new[file])
    image, new = image_of(hosts, a={REFERENCE: {"digest": OTHER}})
    assert (image.endswith(ONE), new) == (True, {file: {}}), "what is pinned is not what a registry says today"


def test_a_mirror_has_its_own_digests_and_an_inventory_may_name_one(tmp_path: Path) -> None:
    file = tmp_path / "elsewhere.txt"
    pinned_images.add(str(file), {REFERENCE: ONE, f"mirror.example/ecr/{IMAGE}": OTHER})
    mirrored = qwen(trainyard_image_registry="mirror.example/ecr", trainyard_images_file=str(file))
    assert image_of({"a": mirrored})[0] == f"mirror.example/ecr/{IMAGE.split(':')[0]}@{OTHER}"
    given = qwen(trainyard_images={IMAGE: f"own.example/x@{OTHER}"}, trainyard_images_file=str(file))
    assert image_of({"a": given})[0] == f"own.example/x@{OTHER}"


def test_without_a_registry_the_image_is_on_every_host_already() -> None:
    collected = collect({"a": qwen(trainyard_image_registry="")}, ["a"], [])
    plan = plan_fleet(collected).to_dict()
    assert plan["hosts"]["a"]["sdk"][0]["image"] == IMAGE
    assert pinned_images.missing(plan) == []


def test_a_host_adds_no_line_that_nobody_asked_for(tmp_path: Path) -> None:
    lie = {f"a.b/c:1 {OTHER}\nd.e/f:1": {"digest": ONE}, "a.b/c:1": {"digest": ONE}, 1: {"digest": ONE}}
    told = pinned_images.answers_of([("a", {**lie, REFERENCE: {"digest": ONE}})])
    assert told == {"a.b/c:1": ONE, REFERENCE: ONE}
    hosts = {"a": qwen(directory=str(tmp_path))}
    result = {"failed": False, "changed": False, "topology": {}, "images": {REFERENCE: {"digest": ONE}, **lie}}
    hosts["a"]["trainyard_topology"] = result
    collected = collect(hosts, ["a"], [])
    plan = plan_fleet(collected).to_dict()
    (new,) = collected["new_images"].values()
    assert pinned_images.used(plan, new) == {REFERENCE: ONE}
