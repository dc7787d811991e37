# SPDX-License-Identifier: Apache-2.0
"""SDK releases as a host shows them: paths of the DLAMI, package versions, the line of vLLM.

The rows are those of the toolkit's own SDK table (``plugin_utils/plan/sdk_releases.json`` of the collection, which the
lab mounts beside this package): a host that poses as a release has exactly what the plan expects of it. Only the path
of environments that the table does not know is made up here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

V0, V1, NATIVE = "nxdi_v0", "nxdi_v1", "native"

# The 2.23.0 branch of the fork was cut between upstream's 0.8.5 and 0.9.0 and carries no version of its own.
_UNVERSIONED_FORK = "0.8.5"
_DATA = Path("collections/ansible_collections/trainyard/neuron/plugins/plugin_utils/plan/sdk_releases.json")


@dataclass(frozen=True)
class Release:
    """One row of the SDK matrix.

    Attributes:
        name: the SDK's version, ``2.23.0``.
        key: what a lab's configuration calls the row: the name, or ``name:generation`` for a row that is no default.
        generation: which line of vLLM serves in this release's environment.
        venv: where the DLAMI puts it.
        driver, runtime, collectives, tools: versions of the system packages.
        compiler, nxdi, vllm, plugin: versions inside the environment; ``nxdi`` is empty where NxDI is gone.
        venv_has_vllm: whether the machine image's environment brings vLLM.
    """

    name: str
    key: str
    generation: str
    venv: str
    driver: str
    runtime: str
    collectives: str
    tools: str
    compiler: str
    nxdi: str
    vllm: str
    plugin: str
    venv_has_vllm: bool = True

    @property
    def tools_version(self) -> tuple[int, ...]:
        """Version of aws-neuronx-tools, comparable."""
        return version(self.tools)

    @property
    def vllm_version(self) -> tuple[int, ...]:
        """Version of vLLM, comparable."""
        return version(self.vllm)

    @property
    def nxdi_minor(self) -> int:
        """7 for NxDI 0.7.14366; 0 where there is none."""
        return version(self.nxdi)[1] if self.nxdi else 0

    @property
    def packages(self) -> dict[str, str]:
        """The host's packages by name."""
        return {
            "aws-neuronx-dkms": self.driver,
            "aws-neuronx-runtime-lib": self.runtime,
            "aws-neuronx-collectives": self.collectives,
            "aws-neuronx-tools": self.tools,
        }


def version(text: str) -> tuple[int, ...]:
    """``2.23.9.0`` as numbers; what is no number counts as 0."""
    return tuple(int(part) if part.isdigit() else 0 for part in text.split("+")[0].split("-")[0].split("."))


def _table() -> list[dict[str, Any]]:
    """The rows of the collection's table, each with its release's packages."""
    here = Path(__file__).resolve().parent.parent
    beside = here / _DATA.name
    text = (beside if beside.is_file() else here.parent / _DATA).read_text(encoding="utf-8")
    return [{**entry, **serving} for entry in json.loads(text)["releases"] for serving in entry["serving"]]


def _environment_path(row: dict[str, Any], vllm: str) -> str:
    if row["venv"]:
        return str(row["venv"])
    return "/opt/aws_neuronx_venv_pytorch_inference_vllm_" + str(row["plugin"] or vllm).replace(".", "_")


def _release(row: dict[str, Any]) -> Release:
    vllm = row["vllm"] or _UNVERSIONED_FORK
    return Release(
        name=row["release"],
        key=row["release"] if row["default"] else f"{row['release']}:{row['generation']}",
        generation=row["generation"],
        venv=_environment_path(row, vllm),
        driver=row["driver"],
        runtime=row["runtime"],
        collectives=row["collectives"],
        tools=row["tools"],
        compiler=row["compiler"],
        nxdi=row["nxdi"] or "",
        vllm=vllm,
        plugin=row["plugin"] or "",
        venv_has_vllm=bool(row["venv_has_vllm"]),
    )


@lru_cache(maxsize=1)
def releases() -> dict[str, Release]:
    """The whole table by key, oldest first."""
    return {release.key: release for release in map(_release, _table())}


def release(key: str) -> Release:
    """The table's row of that key.

    Raises:
        ValueError: there is no such row.
    """
    try:
        return releases()[key]
    except KeyError:
        raise ValueError(f"SDK release {key!r}: the lab knows {', '.join(releases())}") from None


def installed(keys: tuple[str, ...]) -> list[Release]:
    """The rows that a host with these releases has environments of.

    A release comes with every environment that its machine image has: that of its other generation as well, where that
    one is at another path.
    """
    rows: dict[str, Release] = {}
    for key in keys:
        first = release(key)
        rows[first.venv] = first
    for row in releases().values():
        if row.name in {chosen.name for chosen in rows.values()}:
            rows.setdefault(row.venv, row)
    return list(rows.values())


def of_host(keys: tuple[str, ...]) -> Release:
    """The row whose driver, runtime and tools a host with these releases has: the newest, since it has one of each.

    This is also what the toolkit installs where several releases share a host.
    """
    return max((release(key) for key in keys), key=lambda row: (version(row.name), row.driver))
