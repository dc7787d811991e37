# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils import sdk, sdk_build
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import bound_install, build, job, progress

REPO, REF = "aws-neuron/fork", "releases/v2.23.0-v0"


class Host:
    """Runs git for real and notes what pip was to do."""

    def __init__(self) -> None:
        self.pip: list[tuple[list[str], dict[str, str]]] = []

    def __call__(self, argv: list[str], environment: dict[str, str] | None = None) -> tuple[int, str, str]:
        if argv[0] != "git":
            self.pip.append((argv, environment or {}))
            return 0, "", ""
        merged = {**os.environ, **(environment or {})}
        result = subprocess.run(argv, capture_output=True, text=True, check=False, env=merged)
        return result.returncode, result.stdout, result.stderr


def row(requirements: str = "requirements/neuron.txt", commit: str | None = None) -> dict[str, Any]:
    return {
        "release": "2.23.0",
        "generation": "nxdi_v0",
        "versions": {"neuronx-cc": "2.18.121.0", "nxdi": "0.3.5591", "vllm": None},
        "source": {"repo": REPO, "ref": REF, "commit": commit, "requirements": requirements, "needed": True},
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


def sources(upstream: tuple[str, str], **change: Any) -> sdk_build.Sources:
    return sdk_build.Sources(**{"base": upstream[0], "neuron_index": "https://index.example", **change})


def a_job(upstream: tuple[str, str], tmp_path: Path, **change: Any) -> dict[str, Any]:
    """The specification of the job of a row, with its directories in a folder of the test's."""
    (tmp_path / "venv").mkdir(exist_ok=True)
    made = sdk_build.job_of(row(commit=upstream[1], **change), str(tmp_path / "venv"), sources(upstream), Host())
    own = {"sources": str(tmp_path / "src"), "path": str(tmp_path / "builds" / made["id"])}
    return {**made, **made["spec"], **own}


def report(tmp_path: Path) -> progress.Progress:
    return progress.Progress(tmp_path / "run" / "report.json")


def test_requirements_of_the_branch_are_installed_bound_and_with_the_releases_compiler(
    upstream: tuple[str, str], tmp_path: Path, asked: list[list[str]]
) -> None:
    host, spec = Host(), a_job(upstream, tmp_path)
    described = build.run(spec, report(tmp_path), host)
    ((python, flag, path, *pins),) = asked
    assert (python, flag) == (str(tmp_path / "venv" / "bin" / "python"), "--requirement")
    assert Path(path).read_text() == "neuronx-cc\n"
    assert pins == ["neuronx-cc==2.18.121.0.*", "neuronx-distributed-inference==0.3.5591.*"]
    ((argv, environment),) = host.pip
    assert argv[1:4] == ["-m", "pip", "install"]
    assert "--no-deps" in argv
    assert environment["VLLM_TARGET_DEVICE"] == "neuron"
    assert described["inputs"]["commit"] == upstream[1]
    assert job.complete_problems(Path(spec["path"]), spec["inputs"]) == []


def test_file_that_the_tutorial_names_is_not_in_this_branch(
    upstream: tuple[str, str], tmp_path: Path, asked: list[list[str]]
) -> None:
    spec = a_job(upstream, tmp_path, requirements="requirements-neuron.txt")
    with pytest.raises(job.JobError, match=r"has no requirements-neuron\.txt; found: requirements/neuron\.txt"):
        build.run(spec, report(tmp_path), Host())
    assert asked == []
    assert not Path(spec["path"]).exists()


def test_source_without_a_pinned_commit_is_refused_and_the_present_one_is_told(upstream: tuple[str, str]) -> None:
    with pytest.raises(sdk.SdkError, match=f"which is {upstream[1]} now"):
        sdk_build.job_of(row(), "/opt/venv", sources(upstream), Host())


def test_commit_of_the_operator_wins_over_that_of_the_table(upstream: tuple[str, str]) -> None:
    own = sources(upstream, commits={f"{REPO}@{REF}": "f" * 40})
    assert sdk_build.job_of(row(commit="0" * 40), "/opt/venv", own, Host())["inputs"]["commit"] == "f" * 40


def test_commit_stays_when_the_branch_moves(upstream: tuple[str, str], tmp_path: Path) -> None:
    root = tmp_path / "upstream" / REPO
    (root / "requirements" / "neuron.txt").write_text("something-else\n")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-C", str(root)]
    subprocess.run([*git, "commit", "-q", "-a", "-m", "two"], check=True)
    spec = a_job(upstream, tmp_path)
    checkout = build.check_out(spec["inputs"], spec["base"], tmp_path / "src", Host())
    assert (checkout / "requirements" / "neuron.txt").read_text() == "neuronx-cc\n"


def test_without_an_index_nothing_is_built(upstream: tuple[str, str]) -> None:
    with pytest.raises(sdk.SdkError, match="set neuron_venv_pip_index"):
        sdk_build.job_of(row(commit=upstream[1]), "/opt/venv", sources(upstream, neuron_index=""), Host())


def test_environment_that_has_vllm_needs_no_build(tmp_path: Path) -> None:
    info = tmp_path / "lib" / "python3.10" / "site-packages" / "vllm-0.7.2.dist-info"
    assert sdk_build.needed(row(), tmp_path)
    info.mkdir(parents=True)
    assert not sdk_build.needed(row(), tmp_path)


def test_old_build_stays_until_no_release_of_the_host_uses_it(
    upstream: tuple[str, str], tmp_path: Path, asked: list[list[str]]
) -> None:
    root = sdk.Root(tmp_path / "host")
    builds, checkouts = root.at(sdk_build.BUILDS), root.at(sdk_build.SOURCES)
    spec = {**a_job(upstream, tmp_path), "path": str(builds / "old"), "sources": str(checkouts)}
    build.run(spec, report(tmp_path), Host())
    (checkout,) = checkouts.iterdir()
    (builds / ".half.partial").mkdir()
    release = root.at("/etc/vllm/releases/one/llama-0.json")
    release.parent.mkdir(parents=True)
    release.write_text(json.dumps({"venv": spec["inputs"]["venv"]}))
    newer = [{**row(), "venv": "/opt/newer"}]
    assert sdk_build.unused([{**row(), "venv": spec["inputs"]["venv"]}], root) == []
    assert sdk_build.unused(newer, root) == []
    release.unlink()
    assert sdk_build.unused(newer, root) == [builds / "old", checkout]
