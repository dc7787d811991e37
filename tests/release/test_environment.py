# SPDX-License-Identifier: Apache-2.0
"""The execution environment has what is locked, and the collection says what it needs of one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement

from trainyard.paths import COLLECTIONS, ROOT

META = COLLECTIONS / "ansible_collections/trainyard/neuron/meta"
#: Of requirements.txt: name, version and the Pythons that it is for.
LOCKED = re.compile(r"^([a-z0-9-]+)==(\S+)(?: ; (.*?))? \\$", re.MULTILINE)


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def locked(python: str) -> dict[str, str]:
    """The versions that the lock has for a Python, by name."""
    rows = LOCKED.findall((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    here = {"python_full_version": f"{python}.0", "python_version": python}
    return {name: version for name, version, marker in rows if not marker or Marker(marker).evaluate(here)}


def test_the_environment_has_the_locked_versions_of_its_python() -> None:
    given = read(ROOT / "execution-environment.yml")
    needs = given["dependencies"]
    python = needs["python_interpreter"]["package_system"].removeprefix("python")
    assert needs["python_interpreter"]["python_path"] == f"/usr/bin/python{python}"
    versions = locked(python)
    assert needs["ansible_core"]["package_pip"] == f"ansible-core=={versions['ansible-core']}"
    assert needs["ansible_runner"]["package_pip"] == f"ansible-runner=={versions['ansible-runner']}"
    assert (ROOT / needs["galaxy"]).is_file()
    (carried,) = given["additional_build_files"]
    said = "\n".join(given["additional_build_steps"]["append_galaxy"])
    assert carried["src"] == "dist/trainyard-neuron-*.tar.gz"
    assert f"_build/{carried['dest']} /build/{carried['dest']}" in said


def test_the_collection_says_what_it_needs_of_an_environment() -> None:
    needs = read(META / "execution-environment.yml")["dependencies"]
    wanted = [
        Requirement(line)
        for line in (META.parent / needs["python"]).read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    for python in ("3.11", "3.12"):
        versions = locked(python)
        assert [str(one) for one in wanted if not one.specifier.contains(versions[one.name])] == []
    pattern = re.compile(r"^\s*(?:from|import) (boto3|pydantic|httpx|requests)\b", re.MULTILINE)
    files = [path for path in (META.parent / "plugins").rglob("*.py") if "module_utils" not in path.parts]
    imported = {name for path in files for name in pattern.findall(path.read_text(encoding="utf-8"))}
    assert imported == {one.name for one in wanted}
    system = (META.parent / needs["system"]).read_text(encoding="utf-8")
    assert "openssh-clients [platform:rpm]" in system


def test_navigator_is_given_the_image_that_is_built() -> None:
    settings = read(ROOT / "ansible-navigator.yml")["ansible-navigator"]
    (tag,) = read(ROOT / "execution-environment.yml")["options"]["tags"]
    assert settings["execution-environment"]["image"] == f"{tag}:latest"
    assert not settings["playbook-artifact"]["save-as"].startswith("/")
