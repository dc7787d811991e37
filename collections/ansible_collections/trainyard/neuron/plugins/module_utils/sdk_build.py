# SPDX-License-Identifier: Apache-2.0
"""Which releases of a host need vLLM built into their environment, and the job (kind `build`) that does it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils import sdk
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import bound_install, manifest
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import layout

#: Where the records of builds are, one directory a build, and the checkouts that they were made from.
BUILDS = "/opt/trainyard/builds"
SOURCES = "/opt/trainyard/src"

Run = Callable[[List[str]], Tuple[int, str, str]]


@dataclass(frozen=True)
class Sources:
    """Where source and packages come from.

    Attributes:
        base: what stands before `owner/name` in the address of a repository.
        commits: commits in place of those of the table, by `owner/name@ref`.
        neuron_index: address of Neuron's package index; empty means that nothing is built.
        general_index: address of the index for all other names; empty for pip's default.
    """

    base: str
    neuron_index: str
    general_index: str = ""
    commits: Dict[str, str] = field(default_factory=dict)


def needed(row: Dict[str, Any], venv: Path) -> bool:
    """Return whether a release's vLLM has to be built into its environment and is not there yet."""
    source = row.get("source") or {}
    return bool(source.get("needed")) and "vllm" not in bound_install.distributions(venv)


def job_of(row: Dict[str, Any], venv: str, sources: Sources, run: Run, python: str = "") -> Dict[str, Any]:
    """Return the job that builds a release's vLLM into its environment; with `python` it makes the environment first.

    Raises:
        sdk.SdkError: no index or no commit is given.
    """
    source = row["source"]
    if not sources.neuron_index:
        raise sdk.SdkError(
            f"vLLM of SDK {row['release']} is not in {venv} and must be built from {source['repo']}: set "
            "neuron_venv_pip_index to Neuron's package index, or use an image that has it"
        )
    commit = _commit(source, sources, run)
    name = f"{row['release']}-{row['generation']}-{commit[:12]}"
    return {
        "kind": "build",
        "id": name,
        "path": f"{BUILDS}/{name}",
        "inputs": {
            **{key: source[key] for key in ("repo", "ref", "requirements")},
            "commit": commit,
            "venv": venv,
            "pins": [f"{sdk.DISTRIBUTIONS[key]}=={version}.*" for key, version in _pins(row)],
            **({"python": python} if python else {}),
        },
        "spec": {
            "base": sources.base,
            "neuron_index": sources.neuron_index,
            "general_index": sources.general_index,
            "sources": SOURCES,
        },
    }


def _pins(row: Dict[str, Any]) -> List[Tuple[str, str]]:
    """Return the compiler's and NxDI's versions: what the source asks for must not move them."""
    versions = row["versions"]
    return [(key, versions[key]) for key in ("neuronx-cc", "nxdi") if versions.get(key)]


def _commit(source: Dict[str, Any], sources: Sources, run: Run) -> str:
    """Return the pinned commit of a source.

    Raises:
        sdk.SdkError: none is pinned; with the present one.
    """
    name = f"{source['repo']}@{source['ref']}"
    pinned = sources.commits.get(name) or source.get("commit")
    if pinned:
        return str(pinned)
    _status, output, _errors = run(["git", "ls-remote", f"{sources.base.rstrip('/')}/{source['repo']}", source["ref"]])
    now = output.split()[0] if output.split() else "not found"
    raise sdk.SdkError(
        f"no commit is pinned for {name}, which is {now} now: look at it, then set neuron_venv_source_commits: "
        f"{{'{name}': '{now}'}}"
    )


def lost_records(jobs: List[Dict[str, Any]], root: sdk.Root) -> List[Path]:
    """Return records of builds that their environments no longer have: a new image came, or somebody removed them."""
    return [path for path in (root.at(job["path"]) / manifest.NAME for job in jobs) if path.exists()]


def guard_changes(venv: str, neuron_index: str, root: sdk.Root) -> Dict[str, str]:
    """Return the files by which pip inside an environment is kept from the general index and that are not as wanted."""
    wanted = bound_install.guard_files(root.at(venv), neuron_index)
    return {str(path): text for path, text in wanted.items() if _text(path) != text}


def _text(path: Path) -> Optional[str]:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def unused(releases: List[Dict[str, Any]], root: sdk.Root) -> List[Path]:
    """Return records and checkouts of builds that no wanted release and no release of a replica uses any more."""
    used = {str(row["venv"]) for row in releases if row.get("venv")} | venvs_in_use(root)
    records, kept, left = [], set(), set()
    for folder in sorted(root.at(BUILDS).glob("*/")):
        found = _record(folder)
        if not found:
            continue
        commit = str(found["inputs"].get("commit", ""))[:12]
        if found["inputs"].get("venv") in used:
            kept.add(commit)
        else:
            records.append(folder)
            left.add(commit)
    # A checkout without any record is that of a build which runs now, or of one that failed and goes on from it.
    checkouts = sorted(root.at(SOURCES).glob("*/"))
    return records + [path for path in checkouts if path.name.rpartition("-")[2] in left - kept]


def _record(folder: Path) -> Optional[Dict[str, Any]]:
    try:
        return manifest.read(folder)
    except manifest.ManifestError:
        return None


def venvs_in_use(root: sdk.Root) -> Set[str]:
    """Return the environments that releases of replicas on this host name, those to go back to among them."""
    found = set()
    for path in layout.staged_entries(root.at(str(layout.ROOT))):
        found.add(str(layout.entry_of(path).get("venv")))
    return found
