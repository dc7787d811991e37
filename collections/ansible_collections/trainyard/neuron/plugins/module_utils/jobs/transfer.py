# SPDX-License-Identifier: Apache-2.0
"""Bring the files of a result into its staging directory, from wherever they are, and believe none without its sum."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Dict, List, Protocol

from . import job, manifest, names, progress

#: How often a file that arrived wrong is fetched again before the job gives up.
REPAIRS = 2


class Source(Protocol):
    """Where the files of a result come from."""

    name: str

    def expected(self) -> List[Dict[str, Any]]:
        """Return `{path, size, and what sums are stated}` of every wanted file."""

    def fetch(self, staging: Path, expected: List[Dict[str, Any]]) -> None:
        """Bring what is not there yet."""

    def forget(self, staging: Path, name: str) -> None:
        """Remove a wrong file, so that it is fetched anew and alone."""


def bring(source: Source, staging: Path, identifier: str, report: progress.Progress) -> List[Dict[str, Any]]:
    """Fill `staging` from a source; return `{path, size, sha256}` of its files, all compared with what the source says.

    What an earlier run brought is kept; what the source does not list is removed.

    Raises:
        JobError: a file name that is refused, no room for it, or files that stay wrong.
    """
    expected = checked(source)
    need = sum(entry["size"] for entry in expected)
    have = job.tree_bytes(staging) if staging.exists() else 0
    job.require_space(staging.parent, need - have, f"{identifier} from {source.name}")
    staging.mkdir(exist_ok=True)
    wrong: Dict[str, str] = {}
    for attempt in range(1 + REPAIRS):
        report.phase(f"fetching from {source.name}", need, job.tree_bytes(staging))
        with _Watch(staging, report):
            source.fetch(staging, expected)
        for stray in set(manifest.list_files(staging)) - {entry["path"] for entry in expected}:
            (staging / stray).unlink()
        report.phase("verifying", need)
        files = manifest.describe_files(staging, report.add)
        wrong = wrong_files(staging, files, expected)
        if not wrong:
            return files
        then = f"fetching it again ({attempt + 1} of {REPAIRS})" if attempt < REPAIRS else "giving up"
        for name, why in wrong.items():
            print(f"{name}: {why}; {then}", flush=True)  # noqa: T201 - the job's log
            source.forget(staging, name)
    first = next(iter(wrong.items()))
    raise job.JobError(
        f"{len(wrong)} file(s) of {source.name} do not match their sums, for example {first[0]}: {first[1]}",
        f"{staging} keeps the files that are right",
        "check the source; run again to fetch the wrong files anew",
    )


def checked(source: Source) -> List[Dict[str, Any]]:
    """Return what a source lists, when every name of it is one of a file below the staging directory.

    Raises:
        JobError: a name that is refused, one that is there twice, or one that is kept for the manifest.
    """
    try:
        expected = names.listing(source.expected(), source.name)
    except names.BadNameError as error:
        raise refused(str(error)) from error
    kept = sorted(entry["path"] for entry in expected if entry["path"].split("/")[0] in manifest.EXCLUDED_TOP_LEVEL)
    if kept:
        raise refused(f"{source.name} lists {', '.join(kept)}, a name that is kept for this program's own files")
    return expected


def refused(cause: str) -> job.JobError:
    """Return the error of a listing that nobody should have written."""
    return job.JobError(
        cause,
        "nothing was fetched, written or removed",
        "ask who may write to that source how the name came there; remove or rename it there, then run again",
    )


def wrong_files(staging: Path, files: List[Dict[str, Any]], expected: List[Dict[str, Any]]) -> Dict[str, str]:
    """Return the files that are missing or differ from what the source states, with the reason."""
    found = {entry["path"]: entry for entry in files}
    wrong = {}
    for entry in expected:
        have = found.get(entry["path"])
        if have is None:
            wrong[entry["path"]] = "missing"
        elif have["size"] != entry["size"]:
            wrong[entry["path"]] = f"{have['size']} bytes instead of {entry['size']}"
        elif entry.get("sha256") and have["sha256"] != entry["sha256"]:
            wrong[entry["path"]] = f"SHA-256 {have['sha256']} instead of {entry['sha256']}"
        elif entry.get("git_sha1") and manifest.git_blob_hash(staging / entry["path"]) != entry["git_sha1"]:
            wrong[entry["path"]] = "its git hash differs from the hub's"
    return wrong


def lacks(staging: Path, entry: Dict[str, Any]) -> bool:
    """Return whether a file is still to be fetched, by its size; its folder is made."""
    target = names.inside(staging, entry["path"], str(staging))
    target.parent.mkdir(parents=True, exist_ok=True)
    return not (target.is_file() and target.stat().st_size == entry["size"])


class _Watch:
    """Reports once a second how much of a staging directory is there, while others fill it."""

    def __init__(self, staging: Path, report: progress.Progress) -> None:
        self._staging = staging
        self._report = report
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._stop.wait(progress.INTERVAL_S):
            self._report.set(job.tree_bytes(self._staging))

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
