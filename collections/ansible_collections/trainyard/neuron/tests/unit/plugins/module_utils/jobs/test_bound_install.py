# SPDX-License-Identifier: Apache-2.0
"""Against two real indexes (folders) and the real pip: a placeholder of a Neuron name must not get in."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import bound_install
from ansible_collections.trainyard.neuron.tests.unit.plugins.module_utils.jobs.indexes import publish


def run(argv: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
    result = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    return result.returncode, result.stdout, result.stderr


@pytest.fixture
def neuron(tmp_path: Path) -> str:
    publish(tmp_path / "neuron", "neuronx-cc", "2.18.121.0", "numpy-like")
    return (tmp_path / "neuron" / "simple").as_uri()


@pytest.fixture
def general(tmp_path: Path) -> str:
    publish(tmp_path / "general", "numpy-like", "1.0")
    return (tmp_path / "general" / "simple").as_uri()


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    venv.create(folder, with_pip=True, symlinks=True)
    return folder


@pytest.fixture
def python(fresh: Path, tmp_path: Path) -> str:
    # Making one with pip takes seconds; an interpreter finds its packages beside itself, so a copy works as well.
    shutil.copytree(fresh, tmp_path / "venv", symlinks=True)
    return str(tmp_path / "venv" / "bin" / "python")


def origin(python: str, module: str) -> str:
    return run([python, "-c", f"import {module}; print({module}.ORIGIN)"], {})[1].strip()


def test_each_name_comes_from_its_own_index(python: str, neuron: str, general: str, tmp_path: Path) -> None:
    installed = bound_install.install(python, ["neuronx-cc==2.18.*"], neuron, general, run, tmp_path)
    assert sorted(package.name for package in installed) == ["neuronx-cc", "numpy-like"]
    assert all(package.hashes for package in installed)
    assert origin(python, "neuronx_cc") == "neuron"
    assert origin(python, "numpy_like") == "general"
    assert bound_install.install(python, ["neuronx-cc==2.18.*"], neuron, general, run, tmp_path) == []


def test_an_index_without_sums_is_no_hindrance_beside_one_that_has_them(
    python: str, neuron: str, general: str, tmp_path: Path
) -> None:
    """pip wants a sum of every file as soon as it has one of any."""
    page = tmp_path / "neuron/simple/neuronx-cc/index.html"
    page.write_text(re.sub("#sha256=[0-9a-f]+", "", page.read_text()))
    record = tmp_path / "record"
    record.mkdir()
    installed = bound_install.install(python, ["neuronx-cc==2.18.*"], neuron, general, run, record)
    assert origin(python, "neuronx_cc") == "neuron"
    (wheel,) = (tmp_path / "neuron").rglob("*.whl")
    (package,) = [package for package in installed if package.name == "neuronx-cc"]
    assert package.hashes == (("sha256", hashlib.sha256(wheel.read_bytes()).hexdigest()),)
    assert f"neuronx-cc @ {package.url} --hash=sha256:" in (record / "resolved.txt").read_text()
    assert [path.name for path in record.iterdir()] == ["resolved.txt"]


def test_planted_placeholder_cannot_be_installed(python: str, neuron: str, general: str, tmp_path: Path) -> None:
    publish(tmp_path / "general", "neuronx-cc", "99.0")
    with pytest.raises(bound_install.BindingError, match=r"neuronx-cc 99\.0 would come from file:.*/general/"):
        bound_install.install(python, ["neuronx-cc"], neuron, general, run, tmp_path)
    assert origin(python, "neuronx_cc") == ""


def test_placeholder_that_a_dependency_pulls_in_cannot_be_installed(
    python: str, neuron: str, general: str, tmp_path: Path
) -> None:
    publish(tmp_path / "general", "libneuronxla", "0.5")
    publish(tmp_path / "neuron", "torch-neuronx", "2.6", "libneuronxla")
    with pytest.raises(bound_install.BindingError, match=r"libneuronxla 0\.5 would come from"):
        bound_install.install(python, ["torch-neuronx"], neuron, general, run, tmp_path)
    assert origin(python, "torch_neuronx") == ""


def test_pinned_version_is_taken_beside_a_placeholder(python: str, neuron: str, general: str, tmp_path: Path) -> None:
    publish(tmp_path / "general", "neuronx-cc", "99.0")
    bound_install.install(python, ["neuronx-cc==2.18.121.0"], neuron, general, run, tmp_path)
    assert origin(python, "neuronx_cc") == "neuron"


def test_index_of_the_hosts_own_configuration_does_not_count(
    python: str, neuron: str, general: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "evil", "neuronx-cc", "99.0")
    configuration = tmp_path / "pip.conf"
    configuration.write_text(f"[global]\nextra-index-url = {(tmp_path / 'evil' / 'simple').as_uri()}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configuration))
    bound_install.install(python, ["neuronx-cc"], neuron, general, run, tmp_path)
    assert origin(python, "neuronx_cc") == "neuron"


@pytest.mark.parametrize(
    ("name", "neurons"),
    [
        ("neuronx-cc", True),
        ("neuronx_distributed_inference", True),
        ("libneuronxla", True),
        ("torch-neuronx", True),
        ("vllm-neuron", True),
        ("nki", True),
        ("libtorch-neuronx-lite", True),
        ("aws-neuronx-runtime-discovery", True),
        ("numpy", False),
        ("vllm", False),
        ("neurons-of-somebody", False),
        ("nkinder", False),
    ],
)
def test_neurons_names(name: str, neurons: bool) -> None:
    assert bound_install.is_neuron(name) is neurons


def test_interpreter_without_pip_is_said(neuron: str, general: str, tmp_path: Path) -> None:
    with pytest.raises(bound_install.BindingError, match="cannot resolve"):
        bound_install.resolve(sys.executable, ["nothing-of-this-name"], neuron, general, run)


@pytest.fixture
def guarded(python: str, neuron: str, general: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An environment as a build leaves it, where the user's own pip looks at an index full of placeholders."""
    bound_install.install(python, ["neuronx-cc==2.18.*"], neuron, general, run, tmp_path)
    bound_install.guard(Path(python).parent.parent, neuron)
    for name in ("neuronx-cc", "nki"):
        publish(tmp_path / "general", name, "99.0")
    configuration = tmp_path / "home" / ".config" / "pip" / "pip.conf"
    configuration.parent.mkdir(parents=True)
    configuration.write_text(
        f"[global]\nindex-url = {general}\nextra-index-url = {general}\n"
        f"[install]\nextra-index-url = {general}\n[download]\nextra-index-url = {general}\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in [name for name in os.environ if name.startswith("PIP_") or name == "XDG_CONFIG_HOME"]:
        monkeypatch.delenv(name)
    return python


def pip(python: str, *words: str) -> tuple[int, str]:
    status, output, errors = run([python, "-m", "pip", *words, "--disable-pip-version-check"], {})
    return status, output + errors


def test_pip_itself_finds_no_neuron_name_on_a_general_index(guarded: str, tmp_path: Path) -> None:
    status, said = pip(guarded, "install", "nki")
    assert status != 0, said
    assert "No matching distribution found for nki" in said
    status, said = pip(guarded, "download", "--no-deps", "--dest", str(tmp_path / "got"), "nki")
    assert status != 0, said
    status, said = pip(guarded, "install", "--upgrade", "neuronx-cc")
    assert status == 0, said
    assert origin(guarded, "neuronx_cc") == "neuron"


def test_same_pip_without_the_guard_takes_the_placeholder(guarded: str) -> None:
    for name in ("pip.conf", "trainyard-constraints.txt"):
        (Path(guarded).parent.parent / name).unlink()
    status, said = pip(guarded, "install", "nki")
    assert status == 0, said
    assert origin(guarded, "nki") == "general"


def test_neuron_package_that_is_there_stays_whatever_index_is_added(guarded: str, general: str) -> None:
    status, said = pip(guarded, "install", "--upgrade", "--extra-index-url", general, "neuronx-cc")
    assert status == 0, said
    assert origin(guarded, "neuronx_cc") == "neuron"


def test_other_packages_can_still_be_had_by_naming_their_index(guarded: str, general: str, tmp_path: Path) -> None:
    publish(tmp_path / "general", "something-else", "1.0")
    assert pip(guarded, "install", "something-else")[0] != 0
    status, said = pip(guarded, "install", "--index-url", general, "something-else")
    assert status == 0, said
    assert origin(guarded, "something_else") == "general"
