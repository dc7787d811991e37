# SPDX-License-Identifier: Apache-2.0
"""Fetches what a bundle holds. What is whole is never fetched again, what is half there is gone on with."""

from __future__ import annotations

import fnmatch
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from trainyard.bundle.contents import PART, BundleError
from trainyard.bundle.wanted import Checkpoint

from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import manifest as results  # isort: skip

#: A hub may answer late while it looks a file up, and sends steadily then; seconds.
TIMEOUT = httpx.Timeout(60.0, connect=20.0)
_CHUNK = 1 << 20
_TRIES = 5


@dataclass(frozen=True)
class Hub:
    """A model hub.

    Attributes:
        endpoint: its address.
        token: a credential for gated models, empty for none.
        say: hears a line for each file.
    """

    endpoint: str
    token: str = ""
    say: Callable[[str], None] = lambda _: None

    def fetch(self, checkpoint: Checkpoint, folder: Path, exclude: Sequence[str]) -> None:
        """Bring a checkpoint into a directory, every file checked by what the hub says of it.

        Raises:
            BundleError: the hub does not give it, or gives something else.
        """
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            with httpx.Client(headers=headers, timeout=TIMEOUT, follow_redirects=True) as client:
                for row in self._files(client, checkpoint):
                    if not any(fnmatch.fnmatch(row["path"], pattern) for pattern in exclude):
                        self._file(client, checkpoint, row, folder)
        except (httpx.HTTPError, OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise BundleError(f"{checkpoint.repo} at {checkpoint.revision}: {error or type(error).__name__}") from error

    def _files(self, client: httpx.Client, checkpoint: Checkpoint) -> Iterator[dict[str, Any]]:
        url: str | None = f"{self.endpoint.rstrip('/')}/api/models/{checkpoint.repo}/tree/{checkpoint.revision}"
        url = f"{url}?recursive=true"
        while url:
            answer = client.get(url).raise_for_status()
            yield from (row for row in answer.json() if row["type"] == "file")
            more = answer.links.get("next", {}).get("url")
            url = str(httpx.URL(url).join(more)) if more else None
            # The token goes to the hub, and to nobody that an answer names.
            if url and _origin(url) != _origin(self.endpoint):
                raise BundleError(f"{checkpoint.repo}: the hub says that its list goes on elsewhere: {url[:200]!r}")

    def _file(self, client: httpx.Client, checkpoint: Checkpoint, row: dict[str, Any], folder: Path) -> None:
        name = str(row["path"])
        target = folder / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise BundleError(f"{checkpoint.repo}: the hub names a file outside of it: {name!r}")
        if target.exists():
            return
        part = target.with_name(target.name + PART)
        part.parent.mkdir(parents=True, exist_ok=True)
        url = f"{self.endpoint.rstrip('/')}/{checkpoint.repo}/resolve/{checkpoint.revision}/{quote(name)}"
        size = int(row["size"])
        for turn in range(_TRIES):
            try:
                _append(client, url, part, size)
                break
            except httpx.TransportError:
                if turn == _TRIES - 1:
                    raise
        expected = (row.get("lfs") or {}).get("oid") or row["oid"]
        found = results.hash_file(part) if row.get("lfs") else _git_id(part)
        if part.stat().st_size != size or found != expected:
            part.unlink()
            raise BundleError(f"{checkpoint.repo}: {name} is not what the hub says it is; it was thrown away")
        part.replace(target)
        self.say(f"{checkpoint.repo}: {name}, {size:,} bytes")


def _origin(url: str) -> tuple[str, str, int | None]:
    known = httpx.URL(url)
    return known.scheme, known.host, known.port


def _append(client: httpx.Client, url: str, part: Path, size: int) -> None:
    """Fetch what a file still lacks."""
    there = part.stat().st_size if part.exists() else 0
    if there >= size and part.exists():
        return
    headers = {"Range": f"bytes={there}-"} if there else {}
    with client.stream("GET", url, headers=headers) as answer:
        answer.raise_for_status()
        # Whoever ignores the range sends the file from its beginning.
        with part.open("ab" if answer.status_code == httpx.codes.PARTIAL_CONTENT else "wb") as file:
            for chunk in answer.iter_bytes(_CHUNK):
                file.write(chunk)
                if file.tell() > size:
                    # It is thrown away: a disk is no measure of what a hub may send.
                    return


def _git_id(path: Path) -> str:
    """Return what git calls a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def wheels(lock: Path, folder: Path, python: str = "", platforms: Sequence[str] = ()) -> None:
    """Bring the wheels of a lock into a directory, each by its hash, by pip and its own settings.

    Args:
        lock: a file of requirements with hashes.
        folder: where to; what is there is not fetched again.
        python: the version of another machine's Python, `3.10`; empty for this one's.
        platforms: its platforms, as pip has them.

    Raises:
        BundleError: pip did not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps"]
    argv += ["--requirement", str(lock), "--dest", str(folder)]
    if python:
        argv += ["--only-binary", ":all:", "--python-version", python]
        argv += [word for platform in platforms for word in ("--platform", platform)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise BundleError(f"wheels of {lock.name}: {' '.join(lines[-2:])}")


def image(reference: str, folder: Path) -> None:
    """Bring a container image into a directory, as its registry has it, by skopeo.

    Args:
        reference: `registry/name@sha256:...`.
        folder: the directory of all images.

    Raises:
        BundleError: skopeo is not here, or did not.
    """
    target = folder / way_of(reference)
    if target.exists():
        return
    part = target.with_name(target.name + PART)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    skopeo("copy", "--all", "--preserve-digests", f"docker://{reference}", f"dir:{part}")
    part.replace(target)


def way_of(reference: str) -> str:
    """Return the directory of an image below that of all images: its name without the registry, and its digest."""
    name, _, digest = reference.partition("@sha256:")
    return f"{name.split('/', 1)[-1]}/{digest}"


def skopeo(*words: str) -> None:
    """Run skopeo.

    Raises:
        BundleError: it is not here, or failed.
    """
    program = shutil.which("skopeo")
    if not program:
        raise BundleError("skopeo is not installed: it copies container images by their digests; install it")
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BundleError(f"skopeo {words[0]}: {' '.join(done.stderr.split())[-400:]}")
