# SPDX-License-Identifier: Apache-2.0
"""A pre-release by the steps of docs/releasing.md, in a clone that no tag leaves; nothing of the checkout changes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from release.version import Version, version_of

#: Who releases there, as git and ssh-keygen want it.
WHO = "rehearsal@example"


class RehearsalError(Exception):
    """A step failed, or left something else than the page says."""


@dataclass(frozen=True)
class Rehearsal:
    """A clone in which a release is made.

    Attributes:
        clone: the clone.
        tools: where antsibull-changelog is.
        key: an SSH key that signs tag and digests; its public half is beside it.
    """

    clone: Path
    tools: Path
    key: Path

    def run(self, *words: str, stdin: bytes = b"") -> str:
        """Run a step; what it printed.

        Raises:
            RehearsalError: it failed.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        done = subprocess.run(words, cwd=self.clone, env=kept, input=stdin, capture_output=True, check=False)
        if done.returncode:
            raise RehearsalError(f"{' '.join(words)}: {(done.stderr or done.stdout).decode(errors='replace').strip()}")
        return done.stdout.decode()

    def git(self, *words: str) -> str:
        """Run git as who releases."""
        settings = {
            "user.name": "Rehearsal",
            "user.email": WHO,
            "gpg.format": "ssh",
            "user.signingkey": f"{self.key}.pub",
            "gpg.ssh.allowedSignersFile": str(self.signers),
        }
        given = (word for name, value in settings.items() for word in ("-c", f"{name}={value}"))
        return self.run("git", *given, *words)

    @property
    def signers(self) -> Path:
        """Who may sign, as ssh-keygen reads it."""
        return self.key.with_name("signers")


def rehearse(root: Path, folder: Path, tools: Path) -> Iterator[str]:
    """Make the next pre-release of a checkout's commit in a clone of it; a line about each step that came out.

    Args:
        root: the checkout.
        folder: an empty directory, or one that is made.
        tools: where antsibull-changelog is.

    Raises:
        RehearsalError: with the step.
    """
    folder.mkdir(parents=True, exist_ok=True)
    here = Rehearsal(folder / "clone", tools, folder / "key")
    subprocess.run(["git", "clone", "--quiet", str(root), str(here.clone)], check=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", WHO, "-f", str(here.key)], check=True)
    public = here.key.with_name("key.pub").read_text(encoding="utf-8")
    here.signers.write_text(f"{WHO} {public}", encoding="utf-8")
    version = _next(here)
    yield from _written(here, version)
    here.git("add", "--all")
    here.git("commit", "--quiet", "--message", f"Release {version.semantic}")
    here.git("tag", "-s", f"v{version.semantic}", "--message", f"Release {version.semantic}")
    here.git("verify-tag", f"v{version.semantic}")
    yield f"the tag v{version.semantic} has a signature that is good"
    yield from _made(here, version, folder)
    if here.git("status", "--porcelain"):
        raise RehearsalError(f"files of the clone differ from the tag: {here.git('status', '--porcelain')}")


def _next(here: Rehearsal) -> Version:
    base = tomllib.loads((here.clone / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    taken = re.findall(rf"^v{re.escape(base)}-rc\.(\d+)$", here.git("tag", "--list"), re.MULTILINE)
    return version_of(f"{base}-rc.{1 + max(map(int, taken), default=0)}", 0)


def _written(here: Rehearsal, version: Version) -> Iterator[str]:
    """Collect the fragments into the changelog, and take the release's notes from there."""
    fragments = sorted((here.clone / "changelogs/fragments").glob("*.yml"))
    if not fragments:
        raise RehearsalError("there is no fragment: nothing that an operator would notice has changed")
    said = [line for path in fragments for line in _lines(path)]
    here.run(str(here.tools / "antsibull-changelog"), "release", "--version", version.semantic)
    left = [path.name for path in fragments if path.exists()]
    if left:
        raise RehearsalError(f"fragments were not emptied: {', '.join(left)}")
    notes = here.run(sys.executable, "-m", "release.notes", version.semantic)
    count = len(re.findall(r"^\* ", notes, re.MULTILINE))
    if count != len(said):
        raise RehearsalError(f"the notes have {count} lines, the fragments had {len(said)}")
    yield f"{len(fragments)} fragments made the changelog's part of {version.semantic}, and its notes of {count} lines"


def _lines(fragment: Path) -> Iterator[str]:
    for entry in yaml.safe_load(fragment.read_text(encoding="utf-8")).values():
        # A release's summary is a paragraph, and no entry of a list.
        yield from () if isinstance(entry, str) else entry


def _made(here: Rehearsal, version: Version, folder: Path) -> Iterator[str]:
    """Make what is published twice, sign the digests, and look at it as who installs it."""
    first, second = folder / "first", folder / "second"
    for output in (first, second):
        here.run(sys.executable, "-m", "release", "--output", str(output))
    files = sorted(path.name for path in first.iterdir())
    archive, wheel = f"trainyard-neuron-{version.semantic}.tar.gz", f"trainyard-{version.python}-py3-none-any.whl"
    if files != sorted(["SHA256SUMS", archive, wheel]):
        raise RehearsalError(f"dist has {', '.join(files)}")
    if any((first / name).read_bytes() != (second / name).read_bytes() for name in files):
        raise RehearsalError("the same commit made other bytes")
    with tarfile.open(first / archive) as tar:
        manifest = yaml.safe_load(tar.extractfile("MANIFEST.json").read())  # type: ignore[union-attr]
    with zipfile.ZipFile(first / wheel) as zipped:
        about = zipped.read(f"trainyard-{version.python}.dist-info/METADATA").decode()
    inside = (manifest["collection_info"]["version"], *re.findall(r"^Version: (.+)$", about, re.MULTILINE))
    if inside != (version.semantic, version.python):
        raise RehearsalError(f"inside they say {', '.join(inside)}")
    yield f"{archive} and {wheel} say so inside, too, and were made twice of the same bytes"
    sums = first / "SHA256SUMS"
    here.run("ssh-keygen", "-Y", "sign", "-q", "-n", "trainyard-release", "-f", str(here.key), str(sums))
    known = ("-f", str(here.signers), "-I", WHO, "-n", "trainyard-release", "-s", f"{sums}.sig")
    here.run("ssh-keygen", "-Y", "verify", *known, stdin=sums.read_bytes())
    done = subprocess.run(["sha256sum", "--check", "--quiet", sums.name], cwd=first, capture_output=True, check=False)
    if done.returncode:
        raise RehearsalError(f"SHA256SUMS is not of these files: {done.stdout.decode()}")
    yield "the signature of SHA256SUMS is good, and so are the digests in it"
