# SPDX-License-Identifier: Apache-2.0
"""Makes a package repository with empty packages of the Neuron SDK's names and versions, signed as the real one is.

The role that installs the SDK can then add a repository, trust its key, install, downgrade and hold with the real apt.
The signing key is made for one repository and kept nowhere: only its public half is written.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Iterable, Mapping
from email.utils import formatdate
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

#: The distributions that ask for it, by code name; all get the same packages.
SUITES = ("jammy", "noble", "bookworm", "trixie")
#: Under which names it has its key: the real repository's, and a short one.
KEYS = ("GPG-PUB-KEY-AMAZON-AWS-NEURON.PUB", "key.asc")
#: What the packages of a kernel's headers begin with. They are the distribution's; where the machine under the lab has
#: another kernel than its distribution, nobody else has them.
HEADERS = "linux-headers-"
_EPOCH = 1_767_225_600  # 2026-01-01: the same repository whenever it is made, but for its key
_ORIGIN = "trainyard lab"
#: These carry the hash of their build behind the version.
_WITH_BUILD = ("aws-neuronx-runtime-lib", "aws-neuronx-collectives")


def debian_version(name: str, version: str) -> str:
    """The version as the package has it."""
    if name in _WITH_BUILD:
        return f"{version}-{hashlib.sha256(f'{name} {version}'.encode()).hexdigest()[:9]}"
    return version


def control(name: str, version: str) -> str:
    """The package's own description of itself."""
    return (
        f"Package: {name}\nVersion: {debian_version(name, version)}\nArchitecture: amd64\nMaintainer: {_ORIGIN}\n"
        f"Section: devel\nPriority: optional\nDescription: stand-in of {name}, empty\n"
    )


def postinst(name: str, version: str) -> str:
    """What the package does when it is installed: on a lab host, what the stand-in makes of it; elsewhere nothing."""
    inside = "/usr/lib/trainyard-lab"
    if name.startswith(HEADERS):
        folder = f"/lib/modules/{name.removeprefix(HEADERS)}/build"
        return f"#!/bin/sh\nmkdir -p {folder} && touch {folder}/Makefile\n"
    return (
        f'#!/bin/sh\n[ "$1" = configure ] && [ -d {inside}/neuron_sim ] || exit 0\n'
        f"exec env PYTHONPATH={inside} PYTHONDONTWRITEBYTECODE=1 python3 -m neuron_sim package {name} {version}\n"
    )


def _tar(files: Mapping[str, bytes]) -> bytes:
    """A compressed tar with these files, the same bytes for the same files."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = len(content), _EPOCH, 0o755 if name == "./postinst" else 0o644
            tar.addfile(entry, io.BytesIO(content))
    return gzip.compress(raw.getvalue(), mtime=0)


def deb(name: str, version: str) -> bytes:
    """An empty Debian package."""
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": _tar(
            {"./control": control(name, version).encode(), "./postinst": postinst(name, version).encode()}
        ),
        "data.tar.gz": _tar({}),
    }
    archive = b"!<arch>\n"
    for member, content in members.items():
        archive += f"{member:<16}{_EPOCH:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        archive += b"\n" * (len(content) % 2)
    return archive


class Signer:
    """An OpenPGP key (RFC 4880, RSA) that lives as long as this object."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
        numbers = self._key.public_key().public_numbers()
        self._body = b"\x04" + _EPOCH.to_bytes(4, "big") + b"\x01" + _number(numbers.n) + _number(numbers.e)
        self._fingerprint = hashlib.sha1(_hashed_key(self._body), usedforsecurity=False).digest()

    def public_key(self) -> str:
        """The armoured public key, with a name that it signed for itself."""
        user = _ORIGIN.encode()
        signed = _hashed_key(self._body) + b"\xb4" + len(user).to_bytes(4, "big") + user
        may_sign = b"\x02\x1b\x02"  # a sub-packet: key flags, "signs data"
        packets = _packet(6, self._body) + _packet(13, user) + self._signature(0x13, signed, may_sign)
        return _armour("PUBLIC KEY BLOCK", packets)

    def sign(self, data: bytes) -> str:
        """An armoured signature beside the data."""
        return _armour("SIGNATURE", self._signature(0x00, data, b""))

    def _signature(self, kind: int, data: bytes, more: bytes) -> bytes:
        """A signature packet: RSA over SHA-256."""
        covered = b"\x05\x02" + _EPOCH.to_bytes(4, "big") + b"\x16\x21\x04" + self._fingerprint + more
        head = bytes([4, kind, 1, 8]) + len(covered).to_bytes(2, "big") + covered
        whole = data + head + b"\x04\xff" + len(head).to_bytes(4, "big")
        value = self._key.sign(whole, padding.PKCS1v15(), hashes.SHA256())
        loose = b"\x09\x10" + self._fingerprint[-8:]
        check = hashlib.sha256(whole).digest()[:2]
        return _packet(2, head + len(loose).to_bytes(2, "big") + loose + check + _number(int.from_bytes(value, "big")))


def _number(value: int) -> bytes:
    """A number as OpenPGP writes it: its length in bits, then its bytes."""
    return value.bit_length().to_bytes(2, "big") + value.to_bytes((value.bit_length() + 7) // 8, "big")


def _hashed_key(body: bytes) -> bytes:
    """A key as its fingerprint and the signatures over it cover it."""
    return b"\x99" + len(body).to_bytes(2, "big") + body


def _packet(tag: int, body: bytes) -> bytes:
    """A packet with a header of the old form and a length of four bytes."""
    return bytes([0x80 | tag << 2 | 2]) + len(body).to_bytes(4, "big") + body


def _armour(what: str, packets: bytes) -> str:
    """Packets as text."""
    register = 0xB704CE
    for byte in packets:
        register ^= byte << 16
        for _ in range(8):
            register = (register << 1) ^ (0x1864CFB if register & 0x800000 else 0)
    text = base64.b64encode(packets).decode()
    lines = "\n".join(text[start : start + 64] for start in range(0, len(text), 64))
    checksum = base64.b64encode((register & 0xFFFFFF).to_bytes(3, "big")).decode()
    return f"-----BEGIN PGP {what}-----\n\n{lines}\n={checksum}\n-----END PGP {what}-----\n"


def make(folder: Path, packages: Iterable[tuple[str, str]]) -> None:
    """Write the repository: `key.asc`, `pool/`, `dists/`."""
    signer = Signer()
    index = ""
    (folder / "pool").mkdir(parents=True)
    for name, version in sorted(set(packages)):
        content = deb(name, version)
        path = f"pool/{name}_{debian_version(name, version)}_amd64.deb"
        (folder / path).write_bytes(content)
        index += control(name, version)
        index += f"Filename: {path}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n\n"
    for suite in SUITES:
        _suite(folder / "dists" / suite, suite, index.encode(), signer)
    for key in KEYS:
        (folder / key).write_text(signer.public_key(), encoding="ascii")


def _suite(folder: Path, suite: str, index: bytes, signer: Signer) -> None:
    """Write one suite's index and its signed summary."""
    name = "main/binary-amd64/Packages"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(index)
    release = (
        f"Origin: {_ORIGIN}\nSuite: {suite}\nCodename: {suite}\nDate: {formatdate(_EPOCH, usegmt=True)}\n"
        f"Architectures: amd64\nComponents: main\nSHA256:\n {hashlib.sha256(index).hexdigest()} {len(index)} {name}\n"
    ).encode()
    (folder / "Release").write_bytes(release)
    (folder / "Release.gpg").write_text(signer.sign(release), encoding="ascii")


def main() -> None:
    """Make the repository of the packages that standard input lists: a JSON array of [name, version]."""
    options = argparse.ArgumentParser(description="Make a repository of empty Neuron packages.")
    options.add_argument("folder", type=Path)
    folder: Path = options.parse_args().folder
    make(folder, [(str(name), str(version)) for name, version in json.load(sys.stdin)])


if __name__ == "__main__":
    main()
