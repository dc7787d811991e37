# SPDX-License-Identifier: Apache-2.0
"""The manifest of a directory of results: what it was made from, and the SHA-256 of every file.

A result directory (weights, an artifact) is complete when its manifest.json is there and says so: it is written last,
into a
staging directory that then takes the final name. A directory without one is a half-made one, whatever else it holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Union

from . import names

NAME = "manifest.json"
VERSION = 1

SHA256 = re.compile(r"[0-9a-f]{64}")

#: Bookkeeping of the clients that fill a directory; no part of the result.
EXCLUDED_TOP_LEVEL = frozenset({NAME, ".cache", ".locks"})

#: Read size of the hash, bytes: large enough that SHA-256 and not the system call is the cost.
CHUNK_BYTES = 4 * 1024 * 1024

OnBytes = Callable[[int], None]


class ManifestError(Exception):
    """A manifest that cannot be read, or that does not describe its directory."""


def hash_file(path: Path, on_bytes: Optional[OnBytes] = None) -> str:
    """Return the SHA-256 of a file as 64 hex digits; `on_bytes` hears how many bytes each step read."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while True:
            chunk = stream.read(CHUNK_BYTES)
            if not chunk:
                return digest.hexdigest()
            digest.update(chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))


def git_blob_hash(path: Path) -> str:
    """Return the SHA-1 that git gives this file's content: what a model hub states for files outside LFS."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as stream:
        for chunk in iter(lambda: stream.read(CHUNK_BYTES), b""):
            digest.update(chunk)
    return digest.hexdigest()


def list_files(root: Path) -> List[str]:
    """Return the result's files as sorted POSIX paths relative to `root`, bookkeeping left out.

    Raises:
        ManifestError: a symbolic link leads out of the directory, or to nothing: its content is not pinned by being
        here.
    """
    found = []
    for folder, folders, files in os.walk(root):
        relative = Path(folder).relative_to(root)
        if relative == Path():
            folders[:] = [name for name in folders if name not in EXCLUDED_TOP_LEVEL]
            files = [name for name in files if name not in EXCLUDED_TOP_LEVEL]
        for name in [*files, *(name for name in folders if (Path(folder) / name).is_symlink())]:
            if (Path(folder) / name).is_symlink():
                raise ManifestError(f"{Path(folder) / name} is a symbolic link; a result holds its files itself")
            found.append((relative / name).as_posix())
    return sorted(found)


def files_digest(files: Iterable[Dict[str, Any]]) -> str:
    """Return one SHA-256 over the names and sums of all files: the identity of a directory's content."""
    lines = sorted(f"{entry['sha256']}  {entry['path']}\n" for entry in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def describe_files(root: Path, on_bytes: Optional[OnBytes] = None) -> List[Dict[str, Any]]:
    """Return `{path, size, sha256}` of every file of the result, several files at a time."""

    def describe(name: str) -> Dict[str, Any]:
        path = root / name
        return {"path": name, "size": path.stat().st_size, "sha256": hash_file(path, on_bytes)}

    # hashlib lets go of the interpreter lock while it works, so threads are enough to use the cores.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(describe, list_files(root)))


def build(
    root: Path,
    kind: str,
    identifier: str,
    inputs: Dict[str, Any],
    made: Dict[str, Any],
    on_bytes: Optional[OnBytes] = None,
) -> Dict[str, Any]:
    """Return the manifest of what is in `root`; `inputs` says what it was made from, `made` how and where."""
    return of_files(describe_files(root, on_bytes), kind, identifier, inputs, made)


def of_files(
    files: List[Dict[str, Any]], kind: str, identifier: str, inputs: Dict[str, Any], made: Dict[str, Any]
) -> Dict[str, Any]:
    """Return the manifest of files that are described already.

    Raises:
        ManifestError: there is none.
    """
    if not files:
        raise ManifestError(f"{kind} {identifier} has no file")
    return {
        "version": VERSION,
        "kind": kind,
        "id": identifier,
        "inputs": inputs,
        "made": made,
        "files": files,
        "files_digest": files_digest(files),
    }


def parse(text: Union[str, bytes], origin: str) -> Dict[str, Any]:
    """Return a manifest from its JSON text.

    Raises:
        ManifestError: not JSON, of another version, without what a manifest says, or with a file name that is refused.
    """
    try:
        manifest = json.loads(text)
        if not isinstance(manifest, dict):
            raise ManifestError(f"{origin}: not a manifest (it is no JSON object)")
        if manifest["version"] != VERSION:
            raise ManifestError(
                f"{origin}: manifest version {names.shown(manifest['version'])}, this program reads {VERSION}"
            )
        _check_form(manifest, origin)
        if manifest["files_digest"] != files_digest(manifest["files"]):
            raise ManifestError(f"{origin}: the list of files is not the one that was written")
    except names.BadNameError as error:
        raise ManifestError(str(error)) from error
    except KeyError as error:
        raise ManifestError(f"{origin}: not a manifest (it says no {error.args[0]})") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ManifestError(f"{origin}: not a manifest ({type(error).__name__}: {error})") from error
    return manifest


def _check_form(manifest: Dict[str, Any], origin: str) -> None:
    """Refuse a manifest whose parts are not of the kind that all readers take them for.

    Raises:
        ManifestError: such a part.
        KeyError: a part that is not there.
        names.BadNameError: a file name or a size that is refused.
    """
    kinds = {"files": list, "files_digest": str, "inputs": dict, "made": dict, "kind": str, "id": str}
    for key, kind in kinds.items():
        if not isinstance(manifest[key], kind):
            raise ManifestError(f"{origin}: not a manifest ({key} is {names.shown(manifest[key])})")
    for entry in manifest["files"]:
        if not isinstance(entry, dict) or not isinstance(entry["sha256"], str) or not SHA256.fullmatch(entry["sha256"]):
            raise ManifestError(f"{origin}: not a manifest (a file is {names.shown(entry)})")
    names.listing(manifest["files"], origin)


def read(root: Path) -> Optional[Dict[str, Any]]:
    """Return the manifest of a directory, or None where there is none (a half-made directory, or no directory).

    Raises:
        ManifestError: what is there cannot be read as one.
    """
    path = root / NAME
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError as error:
        raise ManifestError(f"{path}: not a manifest (it is a directory)") from error
    return parse(text, str(path))


def dump(manifest: Dict[str, Any]) -> str:
    """Return the JSON text of a manifest, the same for the same content."""
    return json.dumps(manifest, indent=1, sort_keys=True) + "\n"


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that a reader sees the old or the new content, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def quick_problems(root: Path, manifest: Dict[str, Any]) -> List[str]:
    """Return what a look at names and sizes finds wrong; no content is read, so this costs a stat per file."""
    problems = []
    for entry in manifest["files"]:
        try:
            size = (root / entry["path"]).stat().st_size
        except OSError:
            problems.append(f"{entry['path']}: missing")
            continue
        if size != entry["size"]:
            problems.append(f"{entry['path']}: {size} bytes, manifest says {entry['size']}")
    return problems


def full_problems(root: Path, manifest: Dict[str, Any], on_bytes: Optional[OnBytes] = None) -> List[str]:
    """Return what is wrong by content: every file is read and its SHA-256 compared."""
    wrong = {entry_path(problem) for problem in quick_problems(root, manifest)}
    problems = quick_problems(root, manifest)

    def compare(entry: Dict[str, Any]) -> Optional[str]:
        if entry["path"] in wrong:
            return None
        found = hash_file(root / entry["path"], on_bytes)
        return (
            None if found == entry["sha256"] else f"{entry['path']}: SHA-256 {found}, manifest says {entry['sha256']}"
        )

    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        problems.extend(problem for problem in pool.map(compare, manifest["files"]) if problem)
    return problems


def entry_path(problem: str) -> str:
    """Return the file that a line of `quick_problems` or `full_problems` is about."""
    return problem.rsplit(": ", 1)[0]


def staging_of(final: Path) -> Path:
    """Return where a result is made before it takes its final name: beside it, so that the rename is one step."""
    return final.with_name(f".{final.name}.partial")


def publish(staging: Path, final: Path, manifest: Dict[str, Any]) -> None:
    """Write the manifest into the staging directory and give the directory its final name.

    Bookkeeping is removed, data is flushed first, and a half-made directory under the final name is replaced.
    """
    for name in EXCLUDED_TOP_LEVEL - {NAME}:
        shutil.rmtree(staging / name, ignore_errors=True)
    os.sync()
    write_atomically(staging / NAME, dump(manifest))
    if final.exists():
        shutil.rmtree(final)
    staging.rename(final)
    sync_directory(final.parent)


def sync_directory(path: Path) -> None:
    """Flush a directory's entries to disk, so that a rename survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
