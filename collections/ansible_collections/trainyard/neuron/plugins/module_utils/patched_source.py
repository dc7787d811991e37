# SPDX-License-Identifier: Apache-2.0
"""A foreign source tree at a pinned state, with our own edits: verified before, edited by line, verified after.

An edit names a file and the lines it replaces by number, and carries a digest of those lines instead of their text:
the whole tree is known by its digest, so line numbers cannot drift, and nothing of the foreign source is kept here.
Edits of different patches never touch the same line, so each patch can be left out alone, as its test does.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import names

#: Not part of a source tree: what version control and running it leave behind.
IGNORED = (".git", "__pycache__", ".pytest_cache")

Run = Callable[[List[str]], Tuple[int, str, str]]


class SourceError(Exception):
    """The source cannot be had, is not the pinned one, or does not take the edits. What was there is unchanged."""


@dataclass(frozen=True)
class Edit:
    """Replace lines `first` to `last` (1-based, inclusive; `last` = `first` - 1 inserts before `first`) by `text`."""

    file: str
    first: int
    last: int
    was: str
    text: str
    patch: str


def files_of(root: Path) -> List[Path]:
    """Every regular file below `root` that belongs to the source, sorted by its path; a link is refused."""
    found = []
    for directory, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in IGNORED and not name.endswith(".egg-info"))
        for name in files:
            path = Path(directory) / name
            if path.is_symlink() or not stat.S_ISREG(path.stat().st_mode):
                raise SourceError(f"{path} is no regular file")
            if not name.endswith(".pyc"):
                found.append(path)
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def digest(root: Path) -> str:
    """SHA-256 over the sorted lines `<sha256 of the file>  <path>` of a tree; an empty text where there is none."""
    if not root.is_dir():
        return ""
    total = hashlib.sha256()
    for path in files_of(root):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{content}  {path.relative_to(root).as_posix()}\n".encode())
    return total.hexdigest()


def digest_of_lines(lines: Iterable[str]) -> str:
    """The first 12 hex digits of the SHA-256 of some lines with their ends."""
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:12]


def edits_of(patches: List[Dict[str, Any]]) -> List[Edit]:
    """The edits of all patches; `SourceError` for a patch without a name or a reason, or edits that overlap."""
    edits = []
    for patch in patches:
        if not patch.get("name") or not patch.get("why"):
            raise SourceError(f"a patch needs a name and a reason (why): {sorted(patch)}")
        for edit in patch["edits"]:
            first, _, last = str(edit["lines"]).partition("-")
            inserting = "before" in first
            number = int(first.replace("before", "").strip())
            end = number - 1 if inserting else int(last or number)
            text = edit.get("text") or ""
            # Whoever read the patches from a file may have cut its last line's end off.
            whole = text if not text or text.endswith("\n") else text + "\n"
            edits.append(Edit(edit["file"], number, end, edit.get("was", ""), whole, patch["name"]))
    edits.sort(key=lambda edit: (edit.file, edit.first, edit.last))
    for one, other in zip(edits, edits[1:]):  # noqa: B905, RUF007 - Python 3.9
        if one.file == other.file and other.first <= one.last:
            raise SourceError(f"{one.file}: patches {one.patch} and {other.patch} both change line {other.first}")
    return edits


def apply(root: Path, edits: List[Edit]) -> None:
    """Edit the files, from their ends, so that line numbers stay those of the source."""
    for name in sorted({edit.file for edit in edits}):
        path = root / name
        if not path.is_file():
            raise SourceError(f"{name} is not in the source")
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        for edit in sorted((e for e in edits if e.file == name), key=lambda e: (e.first, e.last), reverse=True):
            replaced = lines[edit.first - 1 : edit.last]
            if digest_of_lines(replaced) != edit.was and not (edit.last < edit.first and not edit.was):
                raise SourceError(
                    f"{name}: patch {edit.patch} expects other text in lines {edit.first} to {edit.last} "
                    f"(found {digest_of_lines(replaced)})"
                )
            lines[edit.first - 1 : edit.last] = [edit.text] if edit.text else []
        path.write_text("".join(lines), encoding="utf-8")


def obtain(source: str, commit: str, to: Path, run: Run) -> None:
    """Put the files of a repository (URL or path), an archive or a directory into the new directory `to`."""
    path = Path(source)
    if path.is_file():
        unpack(path, to)
    elif is_repository(path) or (not path.exists() and "://" in source):
        clone(source, commit, to, run)
    elif path.is_dir():
        shutil.copytree(path, to, ignore=shutil.ignore_patterns(*IGNORED, "*.pyc", "*.egg-info"), symlinks=True)
    else:
        raise SourceError(f"{source} is no URL, no archive, no repository and no directory on this host")


def is_repository(path: Path) -> bool:
    """Whether a directory is a git repository, with a work tree or without."""
    return (path / ".git").exists() or ((path / "HEAD").is_file() and (path / "objects").is_dir())


def clone(source: str, commit: str, to: Path, run: Run) -> None:
    """The files of one commit of a git repository."""
    git = ["git", "-c", "safe.directory=*", "-c", "advice.detachedHead=false"]
    for argv in (
        [*git, "clone", "--quiet", "--no-checkout", source, str(to)],
        [*git, "-C", str(to), "checkout", "--quiet", commit],
    ):
        status, output, errors = run(argv)
        if status != 0:
            raise SourceError(f"{' '.join(argv)} failed: {(errors or output).strip()[-500:]}")
    shutil.rmtree(to / ".git")


def extract(bundle: tarfile.TarFile, to: Path) -> None:
    """The files and directories of a tar archive, all inside; Python 3.11.2 of Debian 12 has no filter for that.

    Raises:
        SourceError: a name leads out of the directory.
    """
    members = [entry for entry in bundle.getmembers() if entry.isfile() or entry.isdir()]
    _inside([entry.name for entry in members], "the archive")
    bundle.extractall(to, members=members)  # noqa: S202 - names and kinds were checked


def unpack(archive: Path, to: Path) -> None:
    """The files of a tar or zip archive; the one directory that hosting services put around them is taken off."""
    to.mkdir()
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as bundle:
                _inside(bundle.namelist(), "the archive")
                bundle.extractall(to)  # noqa: S202 - the names were checked
        else:
            with tarfile.open(archive) as bundle:
                extract(bundle, to)
    except (OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise SourceError(f"{archive} is no archive that can be read: {error}") from error
    entries = list(to.iterdir())
    if len(entries) == 1 and entries[0].is_dir():
        inner = to.with_name(to.name + ".inner")
        entries[0].rename(inner)
        to.rmdir()
        inner.rename(to)


def _inside(given: Iterable[str], origin: str) -> None:
    """Refuse the names of an archive that lead out of it; `./` before and `/` behind one are customary.

    Raises:
        SourceError: with the first such name.
    """
    for name in given:
        plain = name.rstrip("/")
        while plain.startswith("./"):
            plain = plain[2:]
        try:
            if plain not in ("", ".") or name.startswith("/"):
                names.relative(plain if plain not in ("", ".") else name, origin)
        except names.BadNameError as error:
            raise SourceError(str(error)) from error


@dataclass(frozen=True)
class Wanted:
    """What a patched tree is made of."""

    path: Path
    commit: str
    upstream_digest: str
    patches: List[Dict[str, Any]]
    files: Dict[str, str]
    patched_digest: str = ""

    def install(self, source: str, run: Run) -> str:
        """Obtain, verify, edit, verify, and put into place; returns the digest of the result."""
        edits = edits_of(self.patches)
        staged = self.path.with_name(self.path.name + ".new")
        shutil.rmtree(staged, ignore_errors=True)
        staged.parent.mkdir(parents=True, exist_ok=True)
        try:
            obtain(source, self.commit, staged, run)
            self._expect(staged, self.upstream_digest, "the source is not the one that the patches were made for")
            apply(staged, edits)
            for name, content in self.files.items():
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                (staged / name).write_text(content, encoding="utf-8")
            found = digest(staged)
            self._expect(staged, self.patched_digest, "the patches did not give the tree that they should")
            self._switch(staged)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return found

    @staticmethod
    def _expect(root: Path, wanted: str, otherwise: str) -> None:
        found = digest(root)
        if wanted and found != wanted:
            raise SourceError(f"{otherwise}: its digest is {found}, expected {wanted}")

    def _switch(self, staged: Path) -> None:
        old: Optional[Path] = None
        if self.path.exists():
            old = self.path.with_name(self.path.name + ".old")
            shutil.rmtree(old, ignore_errors=True)
            self.path.rename(old)
        staged.rename(self.path)
        if old is not None:
            shutil.rmtree(old)
