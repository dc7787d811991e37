# SPDX-License-Identifier: Apache-2.0
"""Build vLLM into the environment of a release whose image brings none: the fork or the plugin, at one commit.

The result's directory keeps what was installed and from where; the environment is the image's own and changes in place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Tuple

from . import bound_install, job, manifest, names, progress

#: What a source is built with where the environment is new; a machine image's has them.
BUILD_TOOLS = ("setuptools", "setuptools-scm", "wheel", "packaging")

#: What the fork's build reads to leave out the kernels of other devices.
TARGET = {"VLLM_TARGET_DEVICE": "neuron"}


def run_command(argv: List[str], environment: Dict[str, str]) -> Tuple[int, str, str]:
    """Run a command with further environment variables; its absence is a status as the shell has it."""
    merged = {**os.environ, **environment}
    try:
        result = subprocess.run(argv, capture_output=True, text=True, check=False, env=merged)
    except OSError as error:
        return 127, "", str(error)
    return result.returncode, result.stdout, result.stderr


def run(spec: Dict[str, Any], report: progress.Progress, call: bound_install.Run = run_command) -> Dict[str, Any]:
    """Build what `spec` names and return the manifest of the directory that tells about it.

    `spec`: id, path, inputs {repo, ref, commit, requirements, pins, venv, and python where the environment is to be
    made with it}, base (what stands before `owner/name` in a repository's address), neuron_index, general_index (empty
    for pip's default), sources (where checkouts are kept).

    Raises:
        job.JobError: the source lacks its requirements file, the set cannot be bound, or a command failed.
    """
    inputs, final = spec["inputs"], Path(spec["path"])
    staging = manifest.staging_of(final)
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    if inputs.get("python"):
        report.phase(f"making {inputs['venv']} with {inputs['python']}")
        _must(call, [inputs["python"], "-m", "venv", inputs["venv"]], {}, inputs)
    report.phase(f"checking out {inputs['repo']} at {inputs['commit'][:12]}")
    checkout = check_out(inputs, spec["base"], Path(spec["sources"]), call)
    requirements = requirements_of(checkout, inputs)
    report.phase("resolving and installing what it requires")
    python = f"{inputs['venv']}/bin/python"
    indexes = (spec["neuron_index"], spec["general_index"])
    try:
        wanted = ["--requirement", str(requirements), *inputs["pins"], *(BUILD_TOOLS if inputs.get("python") else ())]
        bound_install.install(python, wanted, *indexes, call, staging)
    except bound_install.BindingError as error:
        raise _failed(inputs, str(error)) from error
    report.phase("building and installing it")
    argv = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", str(checkout)]
    _must(call, argv, {**bound_install.indexes(*indexes), **TARGET}, inputs)
    bound_install.guard(Path(inputs["venv"]), spec["neuron_index"])
    (staging / "source.txt").write_text(f"{inputs['repo']} {inputs['commit']}\n", encoding="utf-8")
    made = {"requirements": str(requirements.relative_to(checkout))}
    described = manifest.build(staging, "build", spec["id"], inputs, made)
    manifest.publish(staging, final, described)
    return described


def requirements_of(checkout: Path, inputs: Dict[str, Any]) -> Path:
    """Return the requirements file of a source's branch, which each branch keeps elsewhere.

    Raises:
        job.JobError: it is not there; with those that are.
    """
    try:
        path = names.inside(checkout, inputs["requirements"], f"{inputs['repo']} at {inputs['commit'][:12]}")
    except names.BadNameError as error:
        raise _failed(inputs, str(error)) from error
    if path.is_file():
        return path
    found = sorted(str(entry.relative_to(checkout)) for entry in checkout.rglob("*neuron*.txt"))
    found = [name for name in found if "requirements" in name]
    raise _failed(inputs, f"{inputs['ref']} has no {inputs['requirements']}; found: {', '.join(found) or 'none'}")


def check_out(inputs: Dict[str, Any], base: str, folder: Path, call: bound_install.Run) -> Path:
    """Return a checkout of a source at its commit; one that is there already is taken.

    Raises:
        job.JobError: git failed.
    """
    address = f"{base.rstrip('/')}/{inputs['repo']}"
    checkout = folder / f"{inputs['repo'].replace('/', '-')}-{inputs['commit'][:12]}" / "source"
    done = checkout.parent / ".complete"
    if not done.exists():
        shutil.rmtree(checkout.parent, ignore_errors=True)
        checkout.mkdir(parents=True)
        git = ["git", "-C", str(checkout)]
        fetch = ["fetch", "--quiet", "--depth", "1", address, inputs["commit"]]
        for words in (["init", "--quiet"], fetch, ["checkout", "--quiet", "FETCH_HEAD"]):
            _must(call, [*git, *words], {"GIT_TERMINAL_PROMPT": "0"}, inputs)
        done.touch()
    return checkout


def _failed(inputs: Dict[str, Any], cause: str) -> job.JobError:
    return job.JobError(
        f"vLLM from {inputs['repo']}@{inputs['ref']}: {cause}",
        f"{inputs['venv']} may have some of what it requires; no release uses it yet",
        "correct what the message names, then run again",
    )


def _must(call: bound_install.Run, argv: List[str], environment: Dict[str, str], inputs: Dict[str, Any]) -> None:
    status, output, errors = call(argv, environment)
    if status != 0:
        raise _failed(inputs, f"`{' '.join(argv)}` failed: {' '.join((errors or output).split())[-1500:]}")
