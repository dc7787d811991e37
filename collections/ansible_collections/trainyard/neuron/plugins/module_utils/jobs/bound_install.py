# SPDX-License-Identifier: Apache-2.0
"""Install Python packages so that Neuron's names come from Neuron's index and from nowhere else.

Placeholders of the same names stand on the general index, and pip takes whichever has the higher version. So the set is
resolved first, without installing anything; each package of a Neuron name must come from Neuron's index; then exactly
what was resolved is installed, by address and hash, with nothing left to resolve.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple
from urllib.parse import unquote, urlsplit

from . import names

#: Python distributions that are AWS Neuron's. Source: the package lists of the SDK's release notes.
NEURON_NAME = re.compile(r"(.*-)?(lib)?neuron(x|xla)?(-.*)?|nki(-.*)?|libtorch-neuronx-lite")

#: Forms of what an index says, for a line of a requirements file. Sources: PEP 508, PEP 440, RFC 3986.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9.!+_-]+")
_URL = re.compile(r"(https?|file)://[!-~]+")

#: (argv, environment) -> (status, output, errors)
Run = Callable[[List[str], Dict[str, str]], Tuple[int, str, str]]


class BindingError(Exception):
    """The set cannot be installed as it must be; nothing was installed."""


@dataclass(frozen=True)
class Resolved:
    """One package as pip would install it."""

    name: str
    version: str
    url: str
    hashes: Tuple[Tuple[str, str], ...]

    def line(self) -> str:
        """Return the requirement that installs exactly this file."""
        options = "".join(f" --hash={algorithm}:{value}" for algorithm, value in self.hashes)
        return f"{self.name} @ {self.url}{options}"


def canonical(name: str) -> str:
    """Return a distribution's name in the form in which names are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def is_neuron(name: str) -> bool:
    """Return whether a distribution is Neuron's by its name."""
    return NEURON_NAME.fullmatch(canonical(name)) is not None


def indexes(neuron_index: str, general_index: str) -> Dict[str, str]:
    """Return pip's environment with these indexes and no other: what the host's configuration adds does not count."""
    environment = {"PIP_CONFIG_FILE": "/dev/null", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    environment.update({"PIP_EXTRA_INDEX_URL": neuron_index, "PIP_FIND_LINKS": ""})
    if general_index:
        environment["PIP_INDEX_URL"] = general_index
    return environment


def resolve(python: str, requirements: List[str], neuron_index: str, general_index: str, run: Run) -> List[Resolved]:
    """Return what pip would install into the environment of `python`, without installing it.

    Args:
        python: interpreter of the environment.
        requirements: arguments of `pip install`: requirements, or `-r FILE`.
        neuron_index: address of Neuron's index.
        general_index: address of the index for all other names; empty for pip's default.
        run: runs a command.

    Raises:
        BindingError: pip cannot resolve the set, with what it said; or what an index names is no name, address or sum.
    """
    argv = [python, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", *requirements]
    status, output, errors = run(argv, indexes(neuron_index, general_index))
    if status != 0:
        raise BindingError(f"pip cannot resolve {' '.join(requirements)}: {' '.join(errors.split())[-1500:]}")
    return [_resolved(entry) for entry in json.loads(output)["install"]]


def _resolved(entry: Dict[str, Any]) -> Resolved:
    archive = entry["download_info"].get("archive_info", {})
    hashes = archive.get("hashes") or {}
    package = Resolved(
        name=entry["metadata"]["name"],
        version=entry["metadata"]["version"],
        url=entry["download_info"]["url"],
        hashes=tuple(sorted(hashes.items())),
    )
    # An index and the metadata of a wheel chose these, and they become a line of a requirements file.
    for value, form in ((package.name, _NAME), (package.version, _VERSION), (package.url, _URL)):
        if not isinstance(value, str) or not form.fullmatch(value):
            raise BindingError(
                f"pip would install {package.name!r} from {package.url!r}, and {value!r} is no such name"
            )
    for algorithm, value in package.hashes:
        if not re.fullmatch(r"[a-z0-9]+", algorithm) or not re.fullmatch(r"[0-9a-f]+", str(value)):
            raise BindingError(f"{package.name}: the sum {algorithm}:{value!r} is none")
    if archive:
        try:
            names.relative(unquote(urlsplit(package.url).path.rsplit("/", 1)[-1]), package.url)
        except names.BadNameError as error:
            raise BindingError(str(error)) from error
    return package


def unbound(packages: List[Resolved], neuron_index: str) -> List[str]:
    """Return the packages of a Neuron name that come from elsewhere than Neuron's index."""
    home = neuron_index.rstrip("/").rsplit("/simple", 1)[0] + "/"
    return [
        f"{package.name} {package.version} would come from {package.url}"
        for package in packages
        if is_neuron(package.name) and not package.url.startswith(home)
    ]


def install(
    python: str, requirements: List[str], neuron_index: str, general_index: str, run: Run, folder: Path
) -> List[Resolved]:
    """Resolve, check the binding, and install exactly what was resolved; return it.

    The arguments are those of `resolve`, and the folder that keeps the list of what is installed (`resolved.txt`).

    Raises:
        BindingError: the set cannot be resolved, or a Neuron name would come from another index; nothing was installed.
    """
    packages = resolve(python, requirements, neuron_index, general_index, run)
    problems = unbound(packages, neuron_index)
    if problems:
        raise BindingError(
            f"{'; '.join(problems)}: Neuron's names may only come from {neuron_index}. Pin the version that the SDK "
            "release has"
        )
    if not packages:
        return []
    fetched = folder / "fetched"
    environment = indexes(neuron_index, general_index)
    files = {
        package.url: _fetched(python, package, fetched, environment, run) for package in packages if _bare(package)
    }
    packages = [
        replace(package, hashes=_sum_of(files[package.url])) if _bare(package) else package for package in packages
    ]
    # The record has every address; pip gets the very bytes that were fetched to be summed.
    (folder / "resolved.txt").write_text("".join(f"{package.line()}\n" for package in packages), encoding="utf-8")
    local = [replace(one, url=files[one.url].as_uri()) if one.url in files else one for one in packages]
    listing = folder / "install.txt"
    listing.write_text("".join(f"{package.line()}\n" for package in local), encoding="utf-8")
    status, _output, errors = run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", str(listing)], environment
    )
    shutil.rmtree(fetched, ignore_errors=True)
    listing.unlink()
    if status != 0:
        raise BindingError(f"pip cannot install what it resolved: {' '.join(errors.split())[-1500:]}")
    return packages


def _bare(package: Resolved) -> bool:
    """Return whether an index names a file without its sum, which pip then takes with no other file beside it."""
    return not package.hashes


def _fetched(python: str, package: Resolved, folder: Path, environment: Dict[str, str], run: Run) -> Path:
    """Fetch one file as pip would, and return it.

    Raises:
        BindingError: pip cannot.
    """
    argv = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package.line()]
    status, _output, errors = run(argv, environment)
    file = folder / unquote(urlsplit(package.url).path.rsplit("/", 1)[-1])
    if status != 0 or not file.is_file():
        raise BindingError(f"pip cannot fetch {package.url}: {' '.join(errors.split())[-1500:] or 'it left no file'}")
    return file


def _sum_of(file: Path) -> Tuple[Tuple[str, str], ...]:
    total = hashlib.sha256()
    with file.open("rb") as opened:
        for part in iter(lambda: opened.read(1 << 20), b""):
            total.update(part)
    return (("sha256", total.hexdigest()),)


def distributions(venv: Path) -> Dict[str, str]:
    """Return the Python distributions of an environment, by their metadata folders; nothing is imported."""
    found: Dict[str, str] = {}
    for info in sorted(venv.glob("lib/python3*/site-packages/*.dist-info")):
        name, separator, version = info.name[: -len(".dist-info")].rpartition("-")
        if separator:
            found[canonical(name)] = version
    return found


def guard_files(venv: Path, neuron_index: str) -> Dict[Path, str]:
    """Return the files that keep pip inside an environment from taking a Neuron name from a general index.

    Its own configuration names Neuron's index and no other, and wins over what users and the host configure; the Neuron
    packages that are there stay at their versions whatever index a command line adds.
    """
    constraints = venv / "trainyard-constraints.txt"
    lines = "".join(f"{name}=={version}\n" for name, version in sorted(distributions(venv).items()) if is_neuron(name))
    # An empty value takes the place of the one that a user's or the host's configuration has, and counts as none.
    configuration = (
        "# Neuron's index and no other: placeholders of Neuron's names stand on the general one.\n"
        "# For another package give pip its index on the command line: --index-url.\n"
        f"[global]\nindex-url = {neuron_index}\nextra-index-url =\nfind-links =\nconstraint = {constraints}\n"
        f"[install]\nindex-url = {neuron_index}\nextra-index-url =\nfind-links =\n"
        f"[download]\nindex-url = {neuron_index}\nextra-index-url =\nfind-links =\n"
    )
    return {constraints: lines, venv / "pip.conf": configuration}


def guard(venv: Path, neuron_index: str) -> None:
    """Write the files of `guard_files`."""
    for path, text in guard_files(venv, neuron_index).items():
        path.write_text(text, encoding="utf-8")
