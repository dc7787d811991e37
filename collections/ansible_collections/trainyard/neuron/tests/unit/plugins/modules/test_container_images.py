# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.fields import BadValueError, images_by_digest
from ansible_collections.trainyard.neuron.plugins.modules import container_images

DIGEST = "sha256:" + "0" * 64


class Engine:
    """Remembers what it was asked; has the images that it is told to have."""

    def __init__(self, *images: str) -> None:
        self.images = set(images)

    def __call__(self, argv: list[str]) -> tuple[int, str, str]:
        if argv[1:3] == ["image", "inspect"]:
            return (0, "id", "") if argv[-1] in self.images else (125, "", "no such image")
        if argv[1] == "pull" and argv[-1].startswith("here/"):
            self.images.add(argv[-1])
            return 0, "", ""
        return 125, "", "trying\nError: connection refused\n"


def test_present_images_are_those_that_the_engine_has() -> None:
    assert container_images.present(Engine("a"), "podman", ["a", "b"]) == ["a"]


def test_a_pull_that_fails_ends_with_the_engine_s_last_words() -> None:
    engine = Engine()
    container_images.pull(engine, "podman", f"here/x@{DIGEST}")
    assert f"here/x@{DIGEST}" in engine.images
    with pytest.raises(container_images.ImageError, match=r"Error: connection refused\. Log in to its registry"):
        container_images.pull(engine, "podman", f"there/x@{DIGEST}")


def test_what_has_no_digest_is_not_pulled() -> None:
    container_images.check_names([f"here/x@{DIGEST}"])
    with pytest.raises(container_images.ImageError, match=r"set trainyard_images\['neuron/x:1'\]"):
        container_images.check_names(["neuron/x:1"])


@pytest.mark.parametrize("wrong", ["here/x:1", f"here/x@{DIGEST}0", "@" + DIGEST, 1, None])
def test_images_are_named_by_digest(wrong: Any) -> None:
    assert images_by_digest({"x:1": f"here/x@{DIGEST}"}) == {"x:1": f"here/x@{DIGEST}"}
    with pytest.raises(BadValueError, match="a tag can move"):
        images_by_digest({"x:1": wrong})
    with pytest.raises(BadValueError, match="must map"):
        images_by_digest([])
