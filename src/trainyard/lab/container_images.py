# SPDX-License-Identifier: Apache-2.0
"""Stand-ins of the SDK releases' vLLM images, made once from the hosts' own Python, for the lab's registry."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from trainyard.lab.cache import Say, cache_dir, digest, locked
from trainyard.lab.podman import Podman
from trainyard.paths import ROOT  # makes the next import possible

from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import (  # isort: skip
    IMAGE_NAME,
    TABLE_FILE,
    sdk_table,
)

_INSIDE = "/usr/lib/trainyard-lab"
_SOURCES = (ROOT / "lab" / "neuron_image.py", ROOT / "lab" / "neuron_sim" / "install.py", TABLE_FILE)


def tags() -> dict[str, str]:
    """The tag of each published image -> the key of the row of the SDK table that it is of."""
    return {
        row.container_tag: row.release if row.default else f"{row.release}:{row.generation}"
        for row in sdk_table()
        if row.container_tag
    }


def ensure(podman: Podman, image: str, say: Say) -> Path:
    """The folder that the registry serves, made where it is missing.

    Args:
        podman: what runs the maker, in a root of the host image.
        image: the host image.
        say: told when there is something to wait for.

    Raises:
        LabError: podman or the maker failed.
    """
    made_of = digest(image, *(path.read_bytes() for path in _SOURCES))[:12]
    folder = cache_dir() / "images" / made_of
    if folder.exists():
        return folder
    with locked("images", say):
        if folder.exists():
            return folder
        say("making the stand-ins of the container images (once)")
        part = folder.with_name(f".unfinished-{folder.name}")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        volumes = {
            ROOT / "lab" / "neuron_image.py": f"{_INSIDE}/neuron_image.py:ro",
            ROOT / "lab" / "neuron_sim": f"{_INSIDE}/neuron_sim:ro",
            TABLE_FILE: f"{_INSIDE}/{TABLE_FILE.name}:ro",
            part: "/images:rw",
        }
        podman.run(
            *(
                "run",
                "--rm",
                "--network",
                "none",
                "--systemd",
                "false",
                "--entrypoint",
                json.dumps(["/usr/bin/python3"]),
            ),
            *("--env", f"PYTHONPATH={_INSIDE}", "--env", "PYTHONDONTWRITEBYTECODE=1"),
            *("--security-opt", "label=disable"),
            *(word for path, inside in volumes.items() for word in ("--volume", f"{path}:{inside}")),
            image,
            f"{_INSIDE}/neuron_image.py",
            "/images",
            IMAGE_NAME,
            *(f"{key}={tag}" for tag, key in tags().items()),
        )
        part.rename(folder)
    return folder


def references(folder: Path, registry: str) -> dict[str, str]:
    """The SDK table's name of each image -> what to pull: registry, name and digest."""
    digests: dict[str, str] = json.loads((folder / "digests.json").read_text(encoding="utf-8"))
    return {f"{IMAGE_NAME}:{tag}": f"{registry}/{IMAGE_NAME}@{name}" for tag, name in digests.items()}
