# SPDX-License-Identifier: Apache-2.0
"""The image of a lab host: made from the machine's own package sources, or on a base image, once for each recipe."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from trainyard.lab.cache import Say, Stopwatch, digest, locked
from trainyard.lab.errors import LabError
from trainyard.lab.podman import Podman
from trainyard.lab.sources import apt_proxies, of_machine
from trainyard.paths import ROOT

#: The name of every image that the lab makes; the tag is the digest of the recipe.
REPOSITORY = "localhost/trainyard/lab-host"
RECIPE_DIR = ROOT / "lab" / "image"
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")

_CHANGES = ('CMD ["/sbin/init"]', "STOPSIGNAL SIGRTMIN+3", "ENV container=podman")


@dataclass(frozen=True)
class Recipe:
    """Everything that an image depends on."""

    base_image: str
    codename: str
    sources: str
    packages: tuple[str, ...]
    setup: str
    ca_bundle: bytes

    @property
    def tag(self) -> str:
        """The image's full name; another recipe has another."""
        total = digest(
            self.base_image, self.codename, self.sources, " ".join(self.packages), self.setup, self.ca_bundle, *_CHANGES
        )
        return f"{REPOSITORY}:{total[:12]}"


def recipe() -> Recipe:
    """The recipe for this machine.

    Raises:
        LabError: no base image is named and the machine's sources cannot make one.
    """
    base = os.environ.get("TRAINYARD_LAB_BASE_IMAGE", "")
    codename, sources = ("", []) if base else of_machine()
    names = (RECIPE_DIR / "packages.txt").read_text(encoding="utf-8").splitlines()
    return Recipe(
        base_image=base,
        codename=codename,
        sources="".join(f"{source.line()}\n" for source in sources),
        packages=tuple(name for name in names if name and not name.startswith("#")),
        setup=(RECIPE_DIR / "setup.sh").read_text(encoding="utf-8"),
        ca_bundle=CA_BUNDLE.read_bytes() if CA_BUNDLE.exists() else b"",
    )


def ensure(podman: Podman, say: Say) -> str:
    """Return the image's name, making it first where it is missing.

    Raises:
        LabError: a step failed; nothing is left but the cache's lock file.
    """
    wanted = recipe()
    if podman.succeeds("image", "exists", wanted.tag):
        return wanted.tag
    with locked("image", say):
        if podman.succeeds("image", "exists", wanted.tag):
            return wanted.tag
        watch = Stopwatch()
        if wanted.base_image:
            say(f"making the host image on {wanted.base_image} (once)")
            _build_on_base(podman, wanted)
        else:
            say(f"making the host image from this machine's {wanted.codename} packages (once, about two minutes)")
            _bootstrap(podman, wanted, say)
        say(f"host image made in {watch.seconds:.0f} s")
    return wanted.tag


def _bootstrap(podman: Podman, wanted: Recipe, say: Say) -> None:
    """Make the image with mmdebstrap, straight into podman's storage."""
    with tempfile.TemporaryDirectory(prefix="trainyard-image-") as folder:
        sources = Path(folder) / "sources.list"
        sources.write_text(wanted.sources, encoding="utf-8")
        errors = Path(folder) / "errors"
        command = [*podman.machine.privilege(), *_mmdebstrap(wanted, sources)]
        half = f"{wanted.tag}-unfinished"
        changes = [word for change in _CHANGES for word in ("--change", change)]
        with errors.open("wb") as error_file:
            maker = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=False
            )
            taker = subprocess.Popen(
                podman.command("import", "--quiet", *changes, "-", half),
                env=podman.environment, stdin=maker.stdout, stdout=subprocess.DEVNULL, stderr=error_file,
            )  # fmt: skip
            try:
                last = _follow(maker, say)
                failed = maker.wait() or taker.wait()
            finally:
                for process in (maker, taker):
                    if process.poll() is None:
                        process.terminate()
                        process.wait()
        if failed:
            podman.succeeds("image", "rm", "--force", half)
            words = " / ".join(last) or errors.read_text(encoding="utf-8", errors="replace").strip()
            raise LabError(f"the host image could not be made: {words}; nothing was kept, run the command again")
        podman.run("tag", half, wanted.tag)
        podman.run("untag", half, half)


def _follow(maker: subprocess.Popen[bytes], say: Say) -> list[str]:
    """Pass on mmdebstrap's progress while it works; return its last error lines."""
    assert maker.stdout and maker.stderr  # noqa: S101 - both are pipes
    maker.stdout.close()  # podman holds the other end; an early end of podman must reach mmdebstrap
    errors: deque[str] = deque(maxlen=3)
    for raw in maker.stderr:
        line = raw.decode(errors="replace").strip()
        if line.startswith("I: ") and not line.endswith("..."):
            continue
        if line.startswith("I: "):
            say(f"  {line[3:].rstrip('.')}")
        elif line.startswith("E: "):
            errors.append(line[3:])
    return list(errors)


def _mmdebstrap(wanted: Recipe, sources: Path) -> list[str]:
    """The command that writes the image's root as a tar file to its standard output."""
    apt = ['Apt::Install-Recommends "false"', 'Acquire::Retries "3"', 'Acquire::Languages "none"', *apt_proxies()]
    hooks = []
    if wanted.ca_bundle:
        hooks.append(f"copy-in {shlex.quote(str(CA_BUNDLE))} /etc/ssl/certs")
    own = Path("/usr/local/share/ca-certificates")
    if own.is_dir() and any(own.iterdir()):
        hooks.append(f"copy-in {shlex.quote(str(own))} /usr/local/share")
    hooks += [
        f"copy-in {shlex.quote(str(RECIPE_DIR / 'setup.sh'))} /tmp",
        'chroot "$1" sh -eu /tmp/setup.sh',
        'rm "$1/tmp/setup.sh"',
    ]
    return [
        "mmdebstrap",
        "--variant=minbase",
        "--mode=root",
        "--format=tar",
        f"--include={','.join(wanted.packages)}",
        *(f"--aptopt={option.rstrip(';')}" for option in apt),
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale", "info")),
        *(f"--customize-hook={hook}" for hook in hooks),
        wanted.codename,
        "-",
        str(sources),
    ]


def _build_on_base(podman: Podman, wanted: Recipe) -> None:
    """Make the image on a base image that podman can pull."""
    with tempfile.TemporaryDirectory(prefix="trainyard-image-") as folder:
        context = Path(folder)
        files = {
            "Containerfile": _containerfile(wanted).encode(),
            "setup.sh": wanted.setup.encode(),
            "ca-certificates.crt": wanted.ca_bundle,
            "90lab": "".join(f"{line}\n" for line in apt_proxies()).encode(),
        }
        for name, content in files.items():
            (context / name).write_bytes(content)
        podman.run("build", "--quiet", "--tag", wanted.tag, "--file", str(context / "Containerfile"), folder)


def _containerfile(wanted: Recipe) -> str:
    """The steps on a base image: the packages, this machine's certificates where it has any, and the common set-up."""
    bundle = "cp /tmp/ca-certificates.crt /etc/ssl/certs/ && " if wanted.ca_bundle else ""
    packages = " ".join(wanted.packages)
    return (
        f"FROM {wanted.base_image}\n"
        "USER root\n"
        "COPY 90lab /etc/apt/apt.conf.d/90lab\n"
        "COPY setup.sh ca-certificates.crt /tmp/\n"
        "RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "
        f"{packages} && rm -rf /var/lib/apt/lists/* && {bundle}sh -eu /tmp/setup.sh && "
        "rm /tmp/setup.sh /tmp/ca-certificates.crt\n" + "".join(f"{change}\n" for change in _CHANGES)
    )
