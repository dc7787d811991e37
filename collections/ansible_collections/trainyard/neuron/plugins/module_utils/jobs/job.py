# SPDX-License-Identifier: Apache-2.0
"""What all jobs share: where their files are, how they fail, and room on the disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, List

from . import manifest, progress

#: One JSON file a job, written by the module that starts its unit. Holds no secret.
SPEC_DIR = Path("/etc/trainyard/jobs")

LOG_DIR = Path("/var/log/trainyard")

#: What `systemctl is-active` says of a unit that works.
ACTIVE_STATES = ("active", "activating", "reloading", "deactivating")

#: Name of the credential that carries tokens and keys as a JSON object of environment variables.
CREDENTIAL = "environment"


class JobError(Exception):
    """A job that cannot go on; says what happened, what state it left, and what to do next."""

    def __init__(self, cause: str, left: str, next_step: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.left = left
        self.next_step = next_step


def name_of(kind: str, identifier: str) -> str:
    """Return the name that a job's specification, log and report share."""
    return f"{kind}-{identifier}"


def unit_of(kind: str, identifier: str) -> str:
    """Return the name of the systemd unit that does a job."""
    return f"trainyard-{kind}@{identifier}.service"


def unit_runs(kind: str, identifier: str) -> bool:
    """Return whether the unit of a job works now."""
    argv = ["systemctl", "is-active", unit_of(kind, identifier)]
    answer = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    return answer.stdout.strip() in ACTIVE_STATES


def load_spec(kind: str, identifier: str, spec_dir: Path = SPEC_DIR) -> Dict[str, Any]:
    """Return a job's specification."""
    return dict(json.loads((spec_dir / f"{name_of(kind, identifier)}.json").read_text(encoding="utf-8")))


def load_credentials() -> Dict[str, str]:
    """Return the secret environment that systemd handed to this unit, empty where it handed none."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return {}
    try:
        text = (Path(directory) / CREDENTIAL).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    return {str(key): str(value) for key, value in json.loads(text or "{}").items()}


def require_space(where: Path, need_bytes: int, what: str) -> None:
    """Refuse work that the file system of `where` cannot hold, before a byte of it is written.

    Raises:
        JobError: fewer bytes are free than `need_bytes`.
    """
    free_bytes = shutil.disk_usage(where).free
    if need_bytes > free_bytes:
        raise JobError(
            f"{what} needs {progress.human_bytes(need_bytes)} on {where}, {progress.human_bytes(free_bytes)} are free",
            "nothing was written",
            "free space there (`trainyard artifact gc`, old weights), or point the data directory at a larger volume",
        )


def complete_problems(final: Path, inputs: Dict[str, Any]) -> List[str]:
    """Return why a result directory cannot be taken as it is; empty when it is complete and made from `inputs`."""
    try:
        found = manifest.read(final)
    except manifest.ManifestError as error:
        return [str(error)]
    if found is None:
        return ["half made: no manifest.json"] if final.exists() else ["absent"]
    if found["inputs"] != inputs:
        return [f"made from other inputs: {', '.join(different_keys(found['inputs'], inputs))} differ"]
    return manifest.quick_problems(final, found)


def refuse_unreadable(final: Path, next_step: str) -> None:
    """Refuse to work on a result whose manifest is there and says nothing: what it holds may be all there is of it.

    Raises:
        JobError: with the file, what is lost, and `next_step`; nothing was removed.
    """
    try:
        manifest.read(final)
    except manifest.ManifestError as error:
        raise JobError(
            f"{error}. What it said of {final}, its inputs and the sums of its files, is lost",
            "all files there are as they were",
            next_step,
        ) from error


def different_keys(left: Dict[str, Any], right: Dict[str, Any]) -> List[str]:
    """Return the keys under which two dictionaries differ, sorted."""
    return sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))


def tree_bytes(root: Path) -> int:
    """Return the bytes of all files below a directory, half-written ones included."""
    total = 0
    for folder, _names, files in os.walk(root):
        for name in files:
            try:
                total += (Path(folder) / name).stat().st_size
            except FileNotFoundError:  # renamed by the download between the listing and the look
                continue
    return total


def stored_note(final: Path) -> Path:
    """Return the file beside a result that says in which store it is; no part of the result, so it is not in it."""
    return final.with_name(f".{final.name}.stored")


def stored_in(final: Path) -> str:
    """Return the store that a result is known to be in, empty where none is known."""
    try:
        return stored_note(final).read_text(encoding="utf-8").strip()
    except OSError:
        return ""
