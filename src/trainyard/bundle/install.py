# SPDX-License-Identifier: Apache-2.0
"""Brings what a bundle holds to where a fleet takes it from, and says which variables do that."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from trainyard.bundle.contents import PART, BundleError
from trainyard.bundle.fetch import skopeo, way_of

from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import manifest as results  # isort: skip

VARIABLES = "variables.yml"
_HEAD = "# What a fleet takes from a bundle; written by trainyard bundle install. Give it to every run: -e @{path}\n"


def copied(folder: Path, document: Mapping[str, Any], target: Path, say: Callable[[str], None]) -> int:
    """Copy the files of a verified bundle but its images, where they are not there already; returns how many came.

    Raises:
        BundleError: the target cannot be written.
    """
    count = 0
    for row in document["files"]:
        name = str(row["path"])
        if name.startswith("images/"):
            continue
        to = target / name
        try:
            if to.is_file() and to.stat().st_size == row["size"] and results.hash_file(to) == row["sha256"]:
                continue
            to.parent.mkdir(parents=True, exist_ok=True)
            part = to.with_name(to.name + PART)
            shutil.copyfile(folder / name, part)
            if results.hash_file(part) != row["sha256"]:
                raise BundleError(f"{to} did not arrive as it was sent")
            part.replace(to)
        except OSError as error:
            raise BundleError(f"{to}: {error.strerror or error}") from error
        count += 1
        say(name)
    return count


def pushed(folder: Path, document: Mapping[str, Any], registry: str, say: Callable[[str], None]) -> None:
    """Bring the images into a registry.

    Args:
        folder: the bundle.
        document: its manifest.
        registry: `registry.example/mirror`.
        say: hears a line for each.

    Raises:
        BundleError: skopeo is not here, or did not.
    """
    for reference in document["images"]:
        way = way_of(reference)
        name, _, digest = way.rpartition("/")
        # A registry keeps what has a tag; the digest, by which hosts pull, stays what it was.
        skopeo(
            *("copy", "--all", "--preserve-digests", f"dir:{folder / 'images' / way}"),
            f"docker://{registry}/{name}:{digest[:12]}",
        )
        say(f"{registry}/{name}@sha256:{digest}")


def variables(document: Mapping[str, Any], target: Path, registry: str) -> dict[str, Any]:
    """Return what makes a fleet take everything from here: checkpoints pinned by their content, images by digest."""
    found: dict[str, Any] = {}
    overrides = {}
    for deployment, way in sorted(document["deployments"].items()):
        files = [
            {**row, "path": str(row["path"]).removeprefix(f"{way}/")}
            for row in document["files"]
            if str(row["path"]).startswith(f"{way}/")
        ]
        if files:
            model = {"repo": document["models"][way], "source": "path", "uri": str(target / way)}
            overrides[deployment] = {"model": {**model, "revision": results.files_digest(files)}}
    if overrides:
        found["trainyard_overrides"] = overrides
    if document["images"] and registry:
        found["trainyard_image_registry"] = registry
        # By the digests that were verified here: what the registry says of a tag is another's word.
        found["trainyard_images"] = {
            name: f"{registry}/{way_of(image).rpartition('/')[0]}@sha256:{image.rpartition(':')[2]}"
            for name, image in document["image_names"].items()
        }
    return found


def write_variables(found: Mapping[str, Any], target: Path) -> Path:
    """Write variables beside what was installed; returns their file."""
    path = target / VARIABLES
    target.mkdir(parents=True, exist_ok=True)  # where images alone were installed, nothing made it
    path.write_text(f"---\n{_HEAD.format(path=path)}{yaml.safe_dump(dict(found), sort_keys=True)}", encoding="utf-8")
    return path
