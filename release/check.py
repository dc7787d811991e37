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
from pathlib import Path

import yaml

from release.__main__ import ROOT, make
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


def pips_of_ansible_test() -> set[str]:
    """Return the versions of pip that ansible-test installs into its environments, as its own source says."""
    source = Path(sysconfig.get_path("purelib")) / "ansible_test/_internal/python_requirements.py"
    return set(re.findall(r"\bpip='([0-9.]+)'", source.read_text(encoding="utf-8")))


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
    """Have ansible-test look at the unpacked collection."""
    home = unpacked(archive, folder / "sanity")
    cache = folder / "home/.ansible/test/cache"
    cache.mkdir(parents=True)
    for version in pips_of_ansible_test():
        (cache / f"get_pip_{version.replace('.', '_')}.py").write_text(GET_PIP, encoding="utf-8")
    chosen = [word for name in tests for word in ("--test", name)]
    words = [str(Path(sys.executable).with_name("ansible-test")), "sanity", "--color", "no", *chosen]
    return run("ansible-test sanity", words, home, HOME=str(folder / "home"), PATH=sound(os.environ["PATH"]))


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
        help="importer, changelog, dashboards, environment, pages, rulebook, sanity; without any, all",
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
