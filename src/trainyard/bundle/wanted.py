# SPDX-License-Identifier: Apache-2.0
"""What of a plan comes from outside the fleet: read from the plan alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Checkpoint:
    """A model of the hub at one revision."""

    repo: str
    revision: str

    @property
    def way(self) -> str:
        """Return where it lies in a bundle."""
        return f"weights/{self.repo}/{self.revision}"


@dataclass(frozen=True)
class Wanted:
    """What a bundle is to hold.

    Attributes:
        checkpoints: of the hub.
        images: container images by digest.
        elsewhere: a line for each thing that the plan takes from a place of the user's.
        unpinned: images that have no digest yet.
    """

    checkpoints: tuple[Checkpoint, ...] = ()
    images: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    unpinned: tuple[str, ...] = field(default=())


def wanted_of(plan: Mapping[str, Any]) -> Wanted:
    """Return what a plan (the form of `FleetPlan.to_dict`) needs, each thing once and in order."""
    weights = [row for host in plan["hosts"].values() for row in host["weights"]]
    images = {row["image"] for host in plan["hosts"].values() for row in host["sdk"] if row["image"]}
    hub = {Checkpoint(row["repo"], row["revision"]) for row in weights if row["source"] == "huggingface"}
    others = {f"{row['repo']}: {row['source']} {row['uri']}" for row in weights if row["source"] != "huggingface"}
    return Wanted(
        tuple(sorted(hub, key=lambda one: one.way)),
        tuple(sorted(image for image in images if "@sha256:" in image)),
        tuple(sorted(others)),
        tuple(sorted(image for image in images if "@sha256:" not in image)),
    )
