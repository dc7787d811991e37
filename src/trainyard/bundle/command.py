# SPDX-License-Identifier: Apache-2.0
"""`trainyard bundle`: what a fleet needs from outside, fetched here, carried, checked and installed there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from trainyard import vault
from trainyard.paths import COLLECTIONS, ROOT
from trainyard.plan_command import plan_or_exit, refuse, use_vault

from trainyard.bundle import contents, fetch, install  # isort: skip
from trainyard.bundle.contents import BundleError  # isort: skip
from trainyard.bundle.wanted import Checkpoint, wanted_of  # isort: skip

from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import sdk_table  # isort: skip

app = typer.Typer(help="What a fleet needs from outside: create, verify, install.", no_args_is_help=True)

#: Hosts are Linux machines of the Neuron families.
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
Folder = Annotated[Path, typer.Argument(help="The bundle's directory.")]
Signers = Annotated[Path | None, typer.Option("--signers", help="File of those who may sign, ssh-keygen's own format.")]
Identity = Annotated[str, typer.Option("--identity", help="Who is to have signed, as that file names them.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")]


def _say(line: str) -> None:
    typer.echo(line, err=True)


@app.command()
def create(
    folder: Folder,
    inventory: Annotated[list[str], typer.Option("--inventory", "-i", help="Inventory file, directory or script.")],
    hub: Annotated[str, typer.Option(help="Model hub to fetch checkpoints from.")] = "https://huggingface.co",
    exclude: Annotated[list[str] | None, typer.Option(help="Files of checkpoints that stay away.")] = None,
    host_python: Annotated[list[str] | None, typer.Option(help="Versions of the hosts' Python.")] = None,
    add: Annotated[list[Path] | None, typer.Option(help="A further file or directory; may be repeated.")] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Leave out: weights, images or wheels.")] = None,
    key: Annotated[Path | None, typer.Option(help="Key of SSH to sign with.")] = None,
    as_json: AsJson = False,
    vault_id: vault.VaultIds = None,
    vault_password_file: vault.VaultFiles = None,
    ask_vault_pass: vault.AskVault = False,
) -> None:
    """Fetch what an inventory's plan needs into a directory. Given again, it goes on where it was broken off."""
    left_out = set(skip or ())
    if left_out - {"weights", "images", "wheels"}:
        raise refuse(f"--skip {', '.join(sorted(left_out))}: there are weights, images and wheels")
    use_vault(vault_id, vault_password_file, ask_vault_pass)
    plan = plan_or_exit(list(inventory))
    wanted = wanted_of(plan)
    if wanted.unpinned and "images" not in left_out:
        raise refuse(
            f"{', '.join(wanted.unpinned)} has no digest yet: a fleet's first run asks the registry and keeps it "
            "beside the inventory; or set trainyard_images, or leave images out by --skip images",
            1,
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if "weights" not in left_out:
            source = fetch.Hub(hub, os.environ.get("HF_TOKEN", ""), _say)
            for checkpoint in wanted.checkpoints:
                source.fetch(checkpoint, folder / checkpoint.way, exclude or ["original/*"])
        if "images" not in left_out:
            for reference in wanted.images:
                fetch.image(reference, folder / "images")
        if "wheels" not in left_out:
            _wheels(folder / "wheels", host_python or ["3.10", "3.12"])
        for path in add or ():
            _added(path, folder / "files")
        about = about_of(plan, wanted.checkpoints, () if "images" in left_out else wanted.images)
        document = contents.write(folder, about)
        if key:
            contents.sign(folder, key)
    except BundleError as error:
        raise refuse(str(error), 1) from error
    for line in wanted.elsewhere:
        _say(f"not in the bundle, for the plan takes it from a place of yours: {line}")
    _summed(folder, document, ["signed" if key else "not signed: --key FILE signs it"], as_json)


@app.command()
def verify(folder: Folder, signers: Signers = None, identity: Identity = "", as_json: AsJson = False) -> None:
    """Check who signed a bundle, and every file of it against the manifest."""
    document, lines = _checked(folder, signers, identity)
    _summed(folder, document, lines, as_json)


@app.command("install")
def install_bundle(
    folder: Folder,
    to: Annotated[Path, typer.Option("--to", help="Directory that every host sees under the same path.")],
    registry: Annotated[str, typer.Option(help="Registry to bring images into, as registry.example/mirror.")] = "",
    signers: Signers = None,
    identity: Identity = "",
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Install although nobody's signature is checked.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what came where as JSON.")] = False,
) -> None:
    """Verify a bundle, bring what it holds to where the fleet takes it from, and write the variables for that."""
    if signers is None and not unsigned:
        raise refuse("whose signature is to be on it? --signers FILE and --identity NAME, or --unsigned")
    document, _lines = _checked(folder, signers, identity)
    if document["images"] and not registry:
        _say(f"{len(document['images'])} images stay in the bundle: --registry REGISTRY brings them into one")
    try:
        came = install.copied(folder, document, to, _say)
        if registry:
            install.pushed(folder, document, registry, _say)
    except BundleError as error:
        raise refuse(str(error), 1) from error
    path = install.write_variables(install.variables(document, to.resolve(), registry), to)
    wheels = to / "wheels" if (to / "wheels").is_dir() else None
    if as_json:
        found = {"files": came, "directory": str(to), "variables": str(path), "wheels": str(wheels) if wheels else None}
        typer.echo(json.dumps(found, indent=2))
    typer.echo(f"{came} files came to {to}. Give every run of the fleet: -e @{path}", err=as_json)
    if wheels:
        ways = f"PIP_NO_INDEX=1 PIP_FIND_LINKS={wheels}"
        typer.echo(f"For the controller and, in /etc/pip.conf, the hosts: {ways}", err=as_json)


def about_of(plan: Mapping[str, Any], checkpoints: Sequence[Checkpoint], images: Sequence[str]) -> dict[str, Any]:
    """Return what a manifest says beside its files."""
    ways = {checkpoint.way: checkpoint.repo for checkpoint in checkpoints}
    deployments = {}
    for host in plan["hosts"].values():
        known = {row["path"]: Checkpoint(row["repo"], row["revision"]).way for row in host["weights"]}
        for artifact in host["artifacts"]:
            of_it = {row["deployment"] for row in host["replicas"] if row["artifact"] == artifact["digest"]}
            way = known.get(artifact["weights_path"], "")
            deployments.update({name: way for name in of_it if way in ways})
    names = {(row.release, row.generation): row.image for row in sdk_table()}
    rows = [row for host in plan["hosts"].values() for row in host["sdk"] if row["image"] in images]
    named = {names[row["release"], row["generation"]]: row["image"] for row in rows}
    return {"models": ways, "deployments": deployments, "images": list(images), "image_names": named}


def _checked(folder: Path, signers: Path | None, identity: str) -> tuple[dict[str, Any], Sequence[str]]:
    """Return the manifest of a bundle that is what it says; the signature first, for all else is read by it."""
    try:
        lines = contents.signers_of(folder, signers, identity)
        document = contents.read(folder)
        wrong = contents.differences(folder, document)
    except BundleError as error:
        raise refuse(str(error), 1) from error
    if wrong:
        more = f"\nand {len(wrong) - 20} more" if len(wrong) > 20 else ""
        raise refuse("\n".join(wrong[:20]) + more, 1)
    return document, lines


def _wheels(folder: Path, pythons: Sequence[str]) -> None:
    """Fetch what the controller and the hosts install from an index of Python."""
    if (ROOT / "requirements.txt").exists():
        fetch.wheels(ROOT / "requirements.txt", folder)
    for python in pythons:
        fetch.wheels(_host_tools(), folder, python, PLATFORMS)


def _host_tools() -> Path:
    way = "roles/host_tools/files/tools-requirements.txt"
    beside = COLLECTIONS / "ansible_collections/trainyard/neuron" / way
    return beside if beside.exists() else ROOT / way


def _added(path: Path, folder: Path) -> None:
    target = folder / path.resolve().name
    try:
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}") from error


def _summed(folder: Path, document: Mapping[str, Any], lines: Sequence[str], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(document, indent=1, sort_keys=True))
    size = sum(row["size"] for row in document["files"])
    _say(f"{folder}: {len(document['files'])} files, {size / 2**30:.2f} GiB, every one as its manifest says.")
    for line in lines:
        _say(line)
