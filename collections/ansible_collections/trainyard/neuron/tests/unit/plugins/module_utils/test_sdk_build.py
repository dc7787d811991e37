# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils import bound_install, sdk, sdk_build

REPO, REF = "aws-neuron/fork", "releases/v2.23.0-v0"
VENV = "/opt/venv"


class Host:
    """Runs git for real and notes what pip was to do."""

    def __init__(self) -> None:
        self.pip: list[tuple[list[str], dict[str, str]]] = []

    def __call__(self, argv: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
        if argv[0] != "git":
            self.pip.append((argv, environment))
            return 0, "", ""
        result = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, **environment})
        return result.returncode, result.stdout, result.stderr


def row(requirements: str = "requirements/neuron.txt") -> dict[str, Any]:
    return {
        "release": "2.23.0",
        "versions": {"neuronx-cc": "2.18.121.0", "nxdi": "0.3.5591", "vllm": None},
        "source": {"repo": REPO, "ref": REF, "requirements": requirements, "needed": True},
    }


@pytest.fixture
def upstream(tmp_path: Path) -> tuple[str, str]:
    """A repository with the fork's branch; its base address and the branch's commit."""
    root = tmp_path / "upstream" / REPO
    (root / "requirements").mkdir(parents=True)
    (root / "requirements" / "neuron.txt").write_text("neuronx-cc\n")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-C", str(root)]
    for words in (["init", "-q", "-b", REF], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    subprocess.run([*git, "config", "uploadpack.allowAnySHA1InWant", "true"], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    return (tmp_path / "upstream").as_uri(), commit


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What was to be installed with bound names."""
    calls: list[list[str]] = []

    def install(python: str, requirements: list[str], *_: object) -> list[object]:
        calls.append([python, *requirements])
        return []

    monkeypatch.setattr(bound_install, "install", install)
    return calls


def sources(upstream: tuple[str, str], tmp_path: Path, **change: Any) -> sdk_build.Sources:
    base = {"base": upstream[0], "neuron_index": "https://index.example", "commits": {f"{REPO}@{REF}": upstream[1]}}
    return sdk_build.Sources(**{**base, "folder": tmp_path / "src", **change})


def test_requirements_of_the_branch_are_installed_bound_and_with_the_releases_compiler(
    upstream: tuple[str, str], tmp_path: Path, asked: list[list[str]]
) -> None:
    host = Host()
    sdk_build.build(row(), VENV, sources(upstream, tmp_path), host)
    ((python, flag, path, *pins),) = asked
    assert (python, flag) == (f"{VENV}/bin/python", "--requirement")
    assert Path(path).read_text() == "neuronx-cc\n"
    assert pins == ["neuronx-cc==2.18.121.0.*", "neuronx-distributed-inference==0.3.5591.*"]
    ((argv, environment),) = host.pip
    assert argv[:4] == [f"{VENV}/bin/python", "-m", "pip", "install"]
    assert "--no-deps" in argv
    assert environment["VLLM_TARGET_DEVICE"] == "neuron"


def test_file_that_the_tutorial_names_is_not_in_this_branch(
    upstream: tuple[str, str], tmp_path: Path, asked: list[list[str]]
) -> None:
    with pytest.raises(sdk.SdkError, match=r"has no requirements-neuron\.txt; found: requirements/neuron\.txt"):
        sdk_build.build(row("requirements-neuron.txt"), VENV, sources(upstream, tmp_path), Host())
    assert asked == []


def test_source_without_a_pinned_commit_is_refused_and_the_present_one_is_told(
    upstream: tuple[str, str], tmp_path: Path
) -> None:
    with pytest.raises(sdk.SdkError, match=f"which is {upstream[1]} now"):
        sdk_build.check_out(row(), sources(upstream, tmp_path, commits={}), Host())


def test_commit_stays_when_the_branch_moves(upstream: tuple[str, str], tmp_path: Path) -> None:
    root = tmp_path / "upstream" / REPO
    (root / "requirements" / "neuron.txt").write_text("something-else\n")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-C", str(root)]
    subprocess.run([*git, "commit", "-q", "-a", "-m", "two"], check=True)
    checkout = sdk_build.check_out(row(), sources(upstream, tmp_path), Host())
    assert (checkout / "requirements" / "neuron.txt").read_text() == "neuronx-cc\n"


def test_without_an_index_nothing_is_built(upstream: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(sdk.SdkError, match="set neuron_venv_pip_index"):
        sdk_build.build(row(), VENV, sources(upstream, tmp_path, neuron_index=""), Host())
    assert not (tmp_path / "src").exists()


def test_environment_that_has_vllm_needs_no_build(tmp_path: Path) -> None:
    info = tmp_path / "lib" / "python3.10" / "site-packages" / "vllm-0.7.2.dist-info"
    assert sdk_build.needed(row(), tmp_path)
    info.mkdir(parents=True)
    assert not sdk_build.needed(row(), tmp_path)
