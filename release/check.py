# SPDX-License-Identifier: Apache-2.0
"""`python -m release.check`: what Galaxy, Automation Hub and Ansible's own tests say of what `make dist` makes."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import yaml

from release.__main__ import ROOT, make
from release.collection import CORES
from release.rehearsal import RehearsalError, rehearse
from release.rulebook import answers
from release.version import version_of

#: Where the tools are that need an environment of their own (release/requirements.txt).
TOOLS = ROOT / "build" / "check-venv" / "bin"
#: In place of get-pip.py, which ansible-test fetches from an address that a closed network does not reach.
GET_PIP = """\
import subprocess
import sys

words = [word for word in sys.argv[1:] if word not in ("--no-setuptools", "--no-wheel")]
subprocess.run([sys.executable, "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
sys.exit(subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *words]).returncode)
"""


def pips_of_ansible_test(library: Path) -> set[str]:
    """Return the versions of pip that ansible-test installs into its environments, as its own source says."""
    source = library / "ansible_test/_internal/python_requirements.py"
    return set(re.findall(r"\bpip='([0-9.]+)'", source.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class Core:
    """An ansible-core with its ansible-test: the version, the program, and where its modules are."""

    version: str
    program: Path
    library: Path


def core_here() -> Core:
    """Return the one that the toolkit's own environment has."""
    found = version("ansible-core").rsplit(".", 1)[0]
    return Core(found, Path(sys.executable).with_name("ansible-test"), Path(sysconfig.get_path("purelib")))


def cores(path: str) -> tuple[list[Core], list[str]]:
    """Return an ansible-core of each version that is promised, its newest patch; those for which there is no Python.

    One that the environment here has not is installed into an environment of its own.
    """
    own, found, without = core_here(), [], []
    for wanted, pythons in CORES.items():
        if wanted == own.version:
            found.append(own)
            continue
        home = ROOT / "build" / f"core-{wanted}"
        if not (home / "bin/ansible-test").exists():
            programs = (shutil.which(f"python{one}", path=path) for one in pythons)
            python = next((program for program in programs if program), None)
            if python is None:
                without.append(f"{wanted} (Python {', '.join(pythons)})")
                continue
            subprocess.run([python, "-m", "venv", "--clear", str(home)], check=True)
            pip = [str(home / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, f"ansible-core~={wanted}.0"], check=True)
        (library,) = home.glob("lib/python3*/site-packages")
        found.append(Core(wanted, home / "bin/ansible-test", library))
    return found, without


def unpacked(archive: Path, folder: Path) -> Path:
    """Return the collection where ansible-test wants it: unpacked, beside those that it needs, known to git."""
    home = folder / "ansible_collections/trainyard/neuron"
    home.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        tar.extractall(home, filter="data")
    # Copies: of a place inside a checkout antsibull-docs takes what git knows there, and .venv it does not know.
    others = Path(sysconfig.get_path("purelib")) / "ansible_collections"
    about = json.loads((home / "MANIFEST.json").read_text(encoding="utf-8"))["collection_info"]
    for name in about["dependencies"]:
        way = Path(*name.split("."))
        shutil.copytree(others / way, home.parents[1] / way, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    # What ansible-test reads as changed or ignored it asks git for.
    for words in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *words], cwd=home, check=True)
    return home


def run(what: str, words: Sequence[str], folder: Path, **environment: str) -> bool:
    """Run one check, its output as it comes; whether it was content."""
    sys.stdout.write(f"==> {what}\n")
    sys.stdout.flush()
    return subprocess.run(words, cwd=folder, env={**os.environ, **environment}, check=False).returncode == 0


def sound(path: str) -> str:
    """Return a search path without the directories that name a Python which does not run, as a version manager's.

    ansible-test takes each version that it finds a name of.
    """

    def runs(program: Path) -> bool:
        return subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode == 0

    folders = [Path(folder) for folder in path.split(os.pathsep) if folder]
    return os.pathsep.join(str(folder) for folder in folders if all(map(runs, folder.glob("python3.[0-9]*[0-9]"))))


def sanity(archive: Path, folder: Path, tests: Sequence[str]) -> bool:
    """Have ansible-test of each ansible-core that is promised look at the unpacked collection.

    A version for which this machine has no Python is named and left out.
    """
    path = sound(os.environ["PATH"])
    found, without = cores(path)
    content = [_sane(core, archive, folder / f"core-{core.version}", tests, path) for core in found]
    for one in without:
        sys.stdout.write(f"==> ansible-test sanity of {one}: no such Python here, left out\n")
    return all(content)


def _sane(core: Core, archive: Path, folder: Path, tests: Sequence[str], path: str) -> bool:
    home = unpacked(archive, folder)
    cache = folder / "home/.ansible/test/cache"
    cache.mkdir(parents=True)
    for pip in pips_of_ansible_test(core.library):
        (cache / f"get_pip_{pip.replace('.', '_')}.py").write_text(GET_PIP, encoding="utf-8")
    chosen = [word for name in tests for word in ("--test", name)]
    words = [str(core.program), "sanity", "--color", "no", *chosen]
    ways = f"{core.program.parent}{os.pathsep}{path}"
    return run(f"ansible-test sanity of {core.version}", words, home, HOME=str(folder / "home"), PATH=ways)


def importer(archive: Path, folder: Path) -> bool:
    """Have galaxy-importer read the archive, as Galaxy and Automation Hub do when it is uploaded."""
    settings = folder / "galaxy-importer.cfg"
    # Its own run of ansible-test needs docker; `sanity` is that run.
    settings.write_text("[galaxy-importer]\nCHECK_CHANGELOG = True\nRUN_ANSIBLE_TEST = False\n", encoding="utf-8")
    words = [str(TOOLS / "python"), "-m", "galaxy_importer.main", str(archive)]
    path = f"{TOOLS}:{os.environ['PATH']}"
    return run("galaxy-importer", words, folder, GALAXY_IMPORTER_CONFIG=str(settings), PATH=path)


def changelog(folder: Path) -> bool:
    """Have antsibull-changelog read the fragments and write a release in a copy, and its notes be made of that."""
    copied = folder / "changelog"
    shutil.copytree(ROOT / "changelogs", copied / "changelogs")
    program = str(TOOLS / "antsibull-changelog")
    lint = run("antsibull-changelog lint", [program, "lint"], copied)
    words = [program, "release", "--version", "9.9.9-rc.1", "--date", "2000-01-01"]
    if not (run("antsibull-changelog release, in a copy", words, copied) and lint):
        return False
    said = [sys.executable, "-m", "release.notes", "9.9.9-rc.1", "--changelog", str(copied / "CHANGELOG.md")]
    return run("the notes of that release", said, ROOT)


def prerelease(folder: Path) -> bool:
    """Have the next pre-release made in a clone by the documented steps."""
    sys.stdout.write("==> a pre-release, in a clone\n")
    try:
        for line in rehearse(ROOT, folder / "prerelease", TOOLS):
            sys.stdout.write(f"{line}\n")
    except RehearsalError as error:
        sys.stdout.write(f"ERROR: {error}\n")
        return False
    return True


def pages(archive: Path, folder: Path) -> bool:
    """Have antsibull-docs read every plugin's, role's and playbook's documentation."""
    home = unpacked(archive, folder / "docs")
    # It asks for the collections by `ansible-galaxy collection list`, which looks here first.
    words = [str(TOOLS / "antsibull-docs"), "lint-collection-docs", "--plugin-docs", "--skip-rstcheck"]
    words += ["--validate-collection-refs", "dependent", "."]
    path = f"{TOOLS}:{os.environ['PATH']}"
    return run("antsibull-docs", words, home, ANSIBLE_COLLECTIONS_PATH=str(folder / "docs"), PATH=path)


def environment(archive: Path, folder: Path) -> bool:
    """Have ansible-builder write the recipe of the execution environment, with the archive in it."""
    tree = folder / "environment"
    (tree / "dist").mkdir(parents=True)
    for name in ("execution-environment.yml", "requirements.yml"):
        shutil.copy(ROOT / name, tree / name)
    shutil.copy(archive, tree / "dist" / archive.name)
    words = [str(TOOLS / "ansible-builder"), "create", "--context", str(tree / "context")]
    if not run("ansible-builder create", words, tree, PATH=f"{TOOLS}:{os.environ['PATH']}"):
        return False
    recipe = (tree / "context/Containerfile").read_text(encoding="utf-8")
    carried = tree / "context/_build/collections" / archive.name
    return carried.read_bytes() == archive.read_bytes() and "COPY _build/collections" in recipe


def rulebook(folder: Path) -> bool:
    """Have ansible-rulebook take the rulebook, and Alertmanager's messages run its playbook."""
    sys.stdout.write("==> ansible-rulebook\n")
    sys.stdout.flush()
    ours = ROOT / "collections/ansible_collections/trainyard/neuron/extensions/eda/rulebooks/heal.yml"
    return answers(ours, TOOLS / "ansible-rulebook", folder / "rulebook")


def dashboards(folder: Path) -> bool:
    """Have Grafana's own foundation SDK read the dashboards."""
    ours = ROOT / "collections/ansible_collections/trainyard/neuron/extensions/grafana/dashboards"
    return run("grafana-foundation-sdk", [str(TOOLS / "python"), str(ROOT / "release/grafana.py"), str(ours)], folder)


def main() -> int:
    """Run the checks that were named, or all; 1 where one was not content."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "checks",
        nargs="*",
        help="importer, changelog, dashboards, environment, pages, prerelease, rulebook, sanity; without any, all",
    )
    parser.add_argument(
        "--sanity-test", action="append", default=[], help="only this one of ansible-test's; repeatable"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trainyard-check-") as scratch:
        folder = Path(scratch)
        base = yaml.safe_load((ROOT / "collections/ansible_collections/trainyard/neuron/galaxy.yml").read_text("utf-8"))
        archive = make(ROOT, folder / "dist", version_of(str(base["version"]), 0))[0]
        checks: dict[str, Callable[[], bool]] = {
            "importer": lambda: importer(archive, folder),
            "changelog": lambda: changelog(folder),
            "prerelease": lambda: prerelease(folder),
            "environment": lambda: environment(archive, folder),
            "pages": lambda: pages(archive, folder),
            "rulebook": lambda: rulebook(folder),
            "dashboards": lambda: dashboards(folder),
            "sanity": lambda: sanity(archive, folder, given.sanity_test),
        }
        unknown = sorted(set(given.checks) - set(checks))
        if unknown:
            parser.error(f"there is no check {', '.join(unknown)}; there are {', '.join(checks)}")
        content = {name: check() for name, check in checks.items() if not given.checks or name in given.checks}
    for name, well in content.items():
        sys.stdout.write(f"{name}: {'clean' if well else 'FAILED'}\n")
    return 0 if all(content.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
