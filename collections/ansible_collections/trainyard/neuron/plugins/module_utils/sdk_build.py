# SPDX-License-Identifier: Apache-2.0
"""Build vLLM into the environment of a release whose image brings none: the fork or the plugin, at one commit."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List

from ansible_collections.trainyard.neuron.plugins.module_utils import bound_install, sdk

#: What the fork's build reads to leave out the kernels of other devices.
TARGET = {"VLLM_TARGET_DEVICE": "neuron"}


@dataclass(frozen=True)
class Sources:
    """Where source and packages come from.

    Attributes:
        base: what stands before `owner/name` in the address of a repository.
        commits: the commit of each source, by `owner/name@ref`.
        neuron_index: address of Neuron's package index; empty means that nothing is built.
        general_index: address of the index for all other names; empty for pip's default.
        folder: where checkouts are kept.
    """

    base: str
    neuron_index: str
    general_index: str = ""
    commits: Dict[str, str] = field(default_factory=dict)
    folder: Path = Path("/opt/trainyard/src")


def needed(row: Dict[str, Any], venv: Path) -> bool:
    """Return whether a release's vLLM has to be built into its environment and is not there yet."""
    source = row.get("source") or {}
    return bool(source.get("needed")) and "vllm" not in sdk.distributions(venv)


def build(row: Dict[str, Any], venv: str, sources: Sources, run: bound_install.Run) -> None:
    """Check the source out, install what it requires with Neuron's names bound to Neuron's index, and install it.

    Raises:
        sdk.SdkError: no index or no commit is given, the source lacks its requirements file, or a command failed.
    """
    source, what = row["source"], f"vLLM of SDK {row['release']}"
    if not sources.neuron_index:
        raise sdk.SdkError(
            f"{what} is not in {venv} and must be built from {source['repo']}: set neuron_venv_pip_index to Neuron's "
            "package index, or use an image that has it"
        )
    checkout = check_out(row, sources, run)
    requirements = checkout / source["requirements"]
    if not requirements.is_file():
        found = ", ".join(sorted(str(path.relative_to(checkout)) for path in checkout.rglob("requirements*/*neuron*")))
        raise sdk.SdkError(f"{what}: {source['ref']} has no {source['requirements']}; found: {found or 'none'}")
    python = f"{venv}/bin/python"
    pins = [f"{sdk.DISTRIBUTIONS[key]}=={version}.*" for key, version in _pins(row)]
    try:
        bound_install.install(
            python,
            ["--requirement", str(requirements), *pins],
            sources.neuron_index,
            sources.general_index,
            run,
            checkout.parent,
        )
    except bound_install.BindingError as error:
        raise sdk.SdkError(f"{what}: {error}") from error
    argv = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", str(checkout)]
    environment = {**bound_install.indexes(sources.neuron_index, sources.general_index), **TARGET}
    _must(run, argv, environment, what)


def _pins(row: Dict[str, Any]) -> List[tuple[str, str]]:
    """Return the compiler's and NxDI's versions: what the source asks for must not move them."""
    versions = row["versions"]
    return [(key, versions[key]) for key in ("neuronx-cc", "nxdi") if versions.get(key)]


def check_out(row: Dict[str, Any], sources: Sources, run: bound_install.Run) -> Path:
    """Return a checkout of a release's source at its pinned commit; one that is there already is taken.

    Raises:
        sdk.SdkError: no commit is pinned, or git failed.
    """
    source = row["source"]
    name = f"{source['repo']}@{source['ref']}"
    address = f"{sources.base.rstrip('/')}/{source['repo']}"
    commit = sources.commits.get(name)
    if not commit:
        _status, output, _errors = run(["git", "ls-remote", address, source["ref"]], {})
        now = output.split()[0] if output.split() else "not found"
        raise sdk.SdkError(
            f"no commit is pinned for {name}, which is {now} now: look at it, then set neuron_venv_source_commits: "
            f"{{'{name}': '{now}'}}"
        )
    checkout = sources.folder / f"{source['repo'].replace('/', '-')}-{commit[:12]}" / "source"
    done = checkout.parent / ".complete"
    if not done.exists():
        shutil.rmtree(checkout.parent, ignore_errors=True)
        checkout.mkdir(parents=True)
        git = ["git", "-C", str(checkout)]
        fetch = ["fetch", "--quiet", "--depth", "1", address, commit]
        for words in (["init", "--quiet"], fetch, ["checkout", "--quiet", "FETCH_HEAD"]):
            _must(run, [*git, *words], {"GIT_TERMINAL_PROMPT": "0"}, name)
        done.touch()
    return checkout


def _must(run: Callable[..., Any], argv: List[str], environment: Dict[str, str], what: str) -> None:
    status, output, errors = run(argv, environment)
    if status != 0:
        raise sdk.SdkError(f"{what}: `{' '.join(argv)}` failed: {' '.join((errors or output).split())[-1500:]}")
