# SPDX-License-Identifier: Apache-2.0
"""The execution environment's image, made by ansible-builder, and what runs something in it.

execution-environment.yml is taken as it is. The base image that it names is a public registry's; a build argument names
another one, which is made here from the lab's host image: Debian, where the recipe's own is Red Hat's. It has Python in
an environment of its own, and the collections that the lock brings, which otherwise come from Galaxy.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from release.__main__ import make
from release.version import version_here
from tests.release.test_environment import locked
from trainyard.lab import carry, image, machine
from trainyard.lab.podman import Podman
from trainyard.paths import ROOT

TOOLS = ROOT / "build/check-venv"
BASE = """\
FROM {host_image}
COPY pip.conf /etc/pip.conf
COPY microdnf /usr/bin/microdnf
COPY collections /usr/share/ansible/collections
RUN chmod 0755 /usr/bin/microdnf && python3 -m venv /opt/python
ENV PATH=/opt/python/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
CMD ["bash"]
"""
#: What the recipe and the collections ask of the other distribution's package manager, asked of this one's.
MICRODNF = """\
#!/bin/sh -eu
for word in "$@"; do
    case "$word" in
    install | clean | all | -* | install_weak_deps=0) ;;
    *) dpkg --status "$word" > /dev/null 2>&1 || apt-get install --yes "$word" ;;
    esac
done
"""
#: ansible-navigator wants it, whatever runs in the image.
QUEUES = Path("/dev/mqueue")


def base_image(podman: Podman, folder: Path, tag: str) -> None:
    """Make the image on which the environment is built."""
    context = folder / "base"
    ours = Path(sysconfig.get_path("purelib")) / "ansible_collections"
    for row in yaml.safe_load((ROOT / "requirements.yml").read_text())["collections"]:
        way = Path(*row["name"].split("."))
        to = context / "collections/ansible_collections" / way
        shutil.copytree(ours / way, to, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    (context / "microdnf").write_text(MICRODNF)
    (context / "pip.conf").write_text(carry.carried().pip_conf())
    (context / "Containerfile").write_text(BASE.format(host_image=image.ensure(podman, lambda _: None)))
    podman.run("build", "--network", "host", "--tag", tag, str(context))


def build(podman: Podman, folder: Path, tag: str, path: str) -> None:
    """Have ansible-builder build the environment of a tree that has what its recipe asks for."""
    base_image(podman, folder, f"{tag}-base")
    tree = folder / "tree"
    tree.mkdir()
    for name in ("execution-environment.yml", "requirements.yml"):
        shutil.copy(ROOT / name, tree / name)
    make(ROOT, tree / "dist", version_here(ROOT, "0.1.0"))
    python = podman.run(
        "run", "--rm", f"{tag}-base", "python3", "-c", "import sys; print(*sys.version_info[:2], sep='.')"
    )
    versions = locked(python.strip())
    arguments = {
        "EE_BASE_IMAGE": f"{tag}-base",
        "PYCMD": "/opt/python/bin/python3",
        "PYPKG": "python3",
        "ANSIBLE_INSTALL_REFS": " ".join(f"{name}=={versions[name]}" for name in ("ansible-core", "ansible-runner")),
        "ANSIBLE_GALAXY_CLI_COLLECTION_OPTS": "--offline",
    }
    words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
    more = shlex.join(["--network", "host", *carry.carried().mounts()])
    argv = [str(TOOLS / "bin/ansible-builder"), "build", "--container-runtime", "podman", "--tag", tag, *words]
    argv += ["--extra-build-cli-args", more, "--verbosity", "3"]
    done = subprocess.run(argv, cwd=tree, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]


@dataclass
class Image:
    """The environment's image, what calls podman as this machine needs it, and an empty place to use both from."""

    tag: str
    folder: Path
    path: str

    def call(self, program: str, *words: str, folder: Path | None = None) -> str:
        """Run what runs things in images; it must succeed. ansible-navigator has the settings of the checkout."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))}
        given = {"PATH": self.path, "ANSIBLE_NAVIGATOR_CONFIG": str(ROOT / "ansible-navigator.yml"), "TERM": "dumb"}
        done = subprocess.run(
            [str(TOOLS / "bin" / program), *words],
            cwd=folder or self.folder,
            env={**kept, **given},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout

    def execute(self, command: str) -> str:
        """Run a command in the image by ansible-navigator."""
        words = ("exec", "--execution-environment-image", self.tag, "--container-engine", "podman", "--", command)
        return self.call("ansible-navigator", *words)


@contextlib.contextmanager
def built_in(folder: Path) -> Iterator[Image]:
    """Build the image, which is gone when the block is over."""
    subprocess.run(["make", "--no-print-directory", f"{TOOLS.relative_to(ROOT)}/.ready"], cwd=ROOT, check=True)
    podman = Podman(machine.detect())
    # What calls podman by its name has to call it as this machine needs it.
    program = folder / "bin/podman"
    program.parent.mkdir()
    settings = podman.environment.get("CONTAINERS_CONF")
    export = f"export CONTAINERS_CONF={shlex.quote(settings)}\n" if settings else ""
    itself = str(shutil.which("podman"))  # by its path: by its name it would find this program again
    words = [itself if word == "podman" else word for word in podman.command()]
    program.write_text(f'#!/bin/sh\n{export}exec {shlex.join(words)} "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}:{TOOLS}/bin:{os.environ['PATH']}"
    tag = f"localhost/trainyard/environment-{os.getpid()}"
    privilege, made_here = podman.machine.privilege(), not QUEUES.exists()
    if made_here:
        subprocess.run([*privilege, "mkdir", str(QUEUES)], check=True)
    (folder / "use").mkdir()
    try:
        build(podman, folder, tag, path)
        yield Image(tag, folder / "use", path)
    finally:
        if made_here:
            subprocess.run([*privilege, "rmdir", str(QUEUES)], check=False)
        podman.run("image", "rm", "--force", tag, f"{tag}-base", check=False)
