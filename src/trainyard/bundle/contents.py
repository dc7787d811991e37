# SPDX-License-Identifier: Apache-2.0
"""What a directory that is carried holds: a manifest with the digest of every file, signed by `ssh-keygen -Y sign`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from trainyard.paths import ROOT  # noqa: F401 - makes the collection's imports possible

from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import manifest as results  # isort: skip
from ansible_collections.trainyard.neuron.plugins.plugin_utils.bounded_file import FileError, read_text  # isort: skip

MANIFEST, SIGNATURE = "bundle.json", "bundle.json.sig"
#: What the signature is for; one of another kind of file is none of a bundle.
NAMESPACE = "trainyard-bundle"
VERSION = 1
#: An image as a plan has it pulled.
_IMAGE = re.compile(r"[a-z0-9][a-z0-9.:-]*(/[a-z0-9][a-z0-9._-]*)+@sha256:[0-9a-f]{64}")
#: Ends of names of what is not whole yet.
PART = ".part"


class BundleError(Exception):
    """The bundle cannot be made or used; a line for each reason."""


def described(folder: Path) -> list[dict[str, Any]]:
    """Return `{path, size, sha256}` of every file of a bundle but its manifest.

    Raises:
        BundleError: one is a symbolic link, or is not whole.
    """
    try:
        names = results.list_files(folder)
    except results.ManifestError as error:
        raise BundleError(str(error)) from error
    broken = [name for name in names if name.endswith(PART)]
    if broken:
        raise BundleError(f"{', '.join(broken[:5])} is not whole: create the bundle again, which goes on there")
    kept = [name for name in names if name not in (MANIFEST, SIGNATURE)]
    return [
        {"path": name, "size": (folder / name).stat().st_size, "sha256": results.hash_file(folder / name)}
        for name in kept
    ]


def write(folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write the manifest of what lies in a directory, and return it; a signature of the one before is removed."""
    document = {"version": VERSION, **about, "files": described(folder)}
    (folder / SIGNATURE).unlink(missing_ok=True)
    beside = folder / (MANIFEST + PART)
    beside.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    beside.replace(folder / MANIFEST)
    return document


def read(folder: Path) -> dict[str, Any]:
    """Return the manifest of a bundle.

    Raises:
        BundleError: there is none, or what it says is none.
    """
    try:
        return parsed(read_text(folder / MANIFEST))
    except FileError as error:
        raise BundleError(f"{folder} is no bundle: {error}") from error


def parsed(text: str) -> dict[str, Any]:
    """Return a manifest from its JSON text.

    Raises:
        BundleError: it is none, of another version, or names a file that lies elsewhere.
    """
    try:
        document = dict(json.loads(text))
        if document["version"] != VERSION:
            raise BundleError(f"{MANIFEST} is no manifest of version {VERSION}")
        for row in document["files"]:
            _must_be(isinstance(row["size"], int) and row["size"] >= 0)
            _must_be(re.fullmatch("[0-9a-f]{64}", row["sha256"]) is not None)
            if not _inside(row["path"]):
                raise BundleError(f"{MANIFEST} names a file outside of the bundle: {row['path']!r}")
        for name in ("models", "deployments"):
            _must_be(all(isinstance(word, str) for pair in dict(document[name]).items() for word in pair))
        _must_be(isinstance(document["images"], list) and all(_IMAGE.fullmatch(one) for one in document["images"]))
        named = document.setdefault("image_names", {})
        _must_be(isinstance(named, dict) and all(image in document["images"] for image in named.values()))
        _must_be(set(document["deployments"].values()) <= document["models"].keys())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} is no manifest ({type(error).__name__})") from error
    return document


def _must_be(sound: bool) -> None:
    if not sound:
        raise ValueError


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and name.isprintable()


def differences(folder: Path, document: Mapping[str, Any]) -> list[str]:
    """Return a line for each file that is missing, is another one, or is in no manifest.

    Raises:
        BundleError: one is a symbolic link, or is not whole.
    """
    there = {row["path"]: row for row in described(folder)}
    wanted = {row["path"]: row for row in document["files"]}
    lines = [f"{name}: is missing" for name in sorted(wanted.keys() - there.keys())]
    lines += [f"{name}: is in no manifest" for name in sorted(there.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & there.keys()):
        if there[name]["size"] != wanted[name]["size"]:
            lines.append(f"{name}: has {there[name]['size']} bytes, the manifest says {wanted[name]['size']}")
        elif there[name]["sha256"] != wanted[name]["sha256"]:
            lines.append(f"{name}: holds something else than the manifest says")
    return lines


def sign(folder: Path, key: Path) -> None:
    """Sign the manifest with a key of SSH, asking for its passphrase where it has one.

    Raises:
        BundleError: ssh-keygen did not.
    """
    (folder / SIGNATURE).unlink(missing_ok=True)
    argv = [_keygen(), "-Y", "sign", "-n", NAMESPACE, "-f", str(key), str(folder / MANIFEST)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / SIGNATURE).exists():
        raise BundleError(f"the manifest is not signed: {_said(done)}")


def check_signature(folder: Path, signers: Path, identity: str) -> None:
    """Check who signed the manifest.

    Args:
        folder: the bundle.
        signers: a file of ssh-keygen's ALLOWED SIGNERS.
        identity: who is to have signed, as that file names them.

    Raises:
        BundleError: nobody, somebody else, or another manifest.
    """
    if not (folder / SIGNATURE).is_file():
        raise BundleError(f"{folder} is not signed: {SIGNATURE} is missing")
    argv = [_keygen(), "-Y", "verify", "-n", NAMESPACE, "-f", str(signers), "-I", identity]
    with (folder / MANIFEST).open("rb") as document:
        done = subprocess.run(
            [*argv, "-s", str(folder / SIGNATURE)], stdin=document, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise BundleError(f"the manifest is not signed by {identity}: {_said(done)}")


def signers_of(folder: Path, signers: Path | None, identity: str) -> Sequence[str]:
    """Check the signature where somebody is named who is to have made it; returns a line about it.

    Raises:
        BundleError: it is not theirs.
    """
    if signers is None:
        return ["its signature was not checked: name who may sign by --signers FILE and --identity NAME"]
    check_signature(folder, signers, identity)
    return [f"signed by {identity}"]


def _keygen() -> str:
    found = shutil.which("ssh-keygen")
    if not found:
        raise BundleError("ssh-keygen is not installed: install openssh-client, which signs and checks signatures")
    return found


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stderr or done.stdout).split())[:300] or f"ssh-keygen ended with {done.returncode}"
