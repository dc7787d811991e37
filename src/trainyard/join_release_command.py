# SPDX-License-Identifier: Apache-2.0
"""`trainyard join-release`: toolkit and inventory in one signed archive, from which hosts join with no controller."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import re
import subprocess
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
import yaml

from trainyard.paths import INSTALLED, ROOT  # makes the next import possible
from trainyard.written import begins_with, write_or_exit

from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.join import NAMESPACE  # isort: skip

#: What of a checkout a host needs to run a playbook.
PARTS = ("ansible.cfg", "site.yml", "collections", "playbooks", "roles", "templates")
LOCK = "requirements.txt"
NEEDED = "join-requirements.txt"
#: Distributions that a playbook run needs; the lock has what they need in their turn.
ROOTS = ("ansible", "boto3", "httpx", "jinja2", "pydantic", "rich", "typer", "ansible-runner")
LEFT_OUT = re.compile(r"(^|/)(__pycache__|\.git|tests|\.pytest_cache)(/|$)|\.pyc$")


class ReleaseError(ValueError):
    """No release can be made; with the reason."""


def locked_for(lock: str, roots: Iterable[str]) -> str:
    """The lines of a lock that some distributions need, themselves included.

    Args:
        lock: as uv writes it: each requirement with its hashes, and behind ``# via`` who needs it.
        roots: their names.
    """
    blocks = re.findall(r"^\S.*(?:\n[ \t]+.*)*", re.sub(r"^#.*\n", "", lock, flags=re.MULTILINE), re.MULTILINE)
    named = [(re.split(r"[=\[ ;@]", block, maxsplit=1)[0], block) for block in blocks]
    needed_by = {
        name: set(re.findall(r"#\s+(?:via )?([a-z0-9][a-z0-9._-]*)\s*$", block, re.MULTILINE)) for name, block in named
    }
    wanted = set(roots)
    while more := {name for name, users in needed_by.items() if users & wanted} - wanted:
        wanted |= more
    return "".join(f"{block}\n" for name, block in named if name in wanted)


def files_of(root: Path, inventory: Path) -> dict[str, bytes]:
    """What the archive holds, by path.

    Raises:
        ReleaseError: the inventory is no directory.
    """
    if not inventory.is_dir():
        raise ReleaseError(f"{inventory} is no directory: a host takes an inventory directory with it")
    found = {NEEDED: locked_for((root / LOCK).read_text(encoding="utf-8"), ROOTS).encode()}
    for base, top in [*((root / part, part) for part in PARTS), (inventory, "inventory")]:
        for path in [base] if base.is_file() else sorted(base.rglob("*")):
            name = f"{top}/{path.relative_to(base)}" if base.is_dir() else top
            # A link is followed: what it leads to is in the archive.
            if path.is_file() and not LEFT_OUT.search(name):
                found[name] = path.read_bytes()
    return found


def pack(files: dict[str, bytes]) -> bytes:
    """The archive: the same files make the same bytes."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name in sorted(files):
            row = tarfile.TarInfo(name)
            row.size = len(files[name])
            row.mode = 0o755 if files[name].startswith(b"#!") else 0o644
            archive.addfile(row, io.BytesIO(files[name]))
    return gzip.compress(tar.getvalue(), mtime=0)


def is_release(begins: bytes) -> bool:
    """Return whether a file that begins so is such an archive: its first entry is the first of all that are made."""
    with contextlib.suppress(zlib.error):
        head = zlib.decompressobj(wbits=31).decompress(begins, tarfile.BLOCKSIZE)
        return head.startswith(PARTS[0].encode() + b"\0")
    return False


def sign(data: bytes, key: Path) -> tuple[bytes, str]:
    """Return a signature by an SSH key, and the key's public half.

    Raises:
        ReleaseError: ssh-keygen refused.
    """
    argv = ["ssh-keygen", "-Y", "sign", "-q", "-f", str(key), "-n", NAMESPACE]
    done = subprocess.run(argv, input=data, capture_output=True, check=False)
    public = subprocess.run(["ssh-keygen", "-y", "-f", str(key)], capture_output=True, check=False)
    if done.returncode or public.returncode:
        raise ReleaseError(f"{key}: {(done.stderr or public.stderr).decode(errors='replace').strip()}")
    return done.stdout, " ".join(public.stdout.decode().split()[:2])


def join_release(
    inventory: Annotated[
        Path, typer.Option("--inventory", "-i", help="Inventory directory that hosts take with them.")
    ],
    key: Annotated[Path, typer.Option(help="SSH key that signs it, ED25519.")],
    store: Annotated[str, typer.Option(help="Where you put it and its signature: s3://BUCKET/PREFIX.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The archive.")] = Path("trainyard-join.tar.gz"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the variable as JSON.")] = False,
) -> None:
    """Make the signed release from which hosts join their fleet with no controller."""
    if INSTALLED:
        typer.echo("error: a release is made from a checkout", err=True)
        raise typer.Exit(2)
    if output.exists() and not output.is_file():
        typer.echo(f"error: {output} is no file, and its signature is to lie beside it", err=True)
        raise typer.Exit(2)
    try:
        data = pack(files_of(ROOT, inventory))
        signature, signer = sign(data, key)
    except ReleaseError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
    # The signature first: where it cannot be put down, no archive is left without one.
    write_or_exit(output.with_name(f"{output.name}.sig"), signature, begins_with("-----BEGIN SSH SIGNATURE-----"))
    write_or_exit(output, data, is_release)
    digest, place = hashlib.sha256(data).hexdigest(), store.rstrip("/")
    sources = [word for name in ("inventory", "inventory/aws_ec2.yml") for word in ("-i", name)]
    found = {
        "release": f"{place}/{digest}.tar.gz",
        "sha256": digest,
        "signer": signer,
        "lease": f"{place}/joining",
        "playbook": ["site.yml", *sources, "--skip-tags", "benchmark"],
    }
    typer.echo(f"# {output} and {output}.sig go to {found['release']} and {found['release']}.sig", err=True)
    document = {"trainium_launch_join": found}
    text = json.dumps(document, indent=2) + "\n" if as_json else yaml.safe_dump(document, sort_keys=False, width=1000)
    typer.echo(text, nl=False)
