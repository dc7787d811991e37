# SPDX-License-Identifier: Apache-2.0
"""What a host lacks of its system's own packages and of Python's, and whether those who have them answer it."""

from __future__ import annotations

import configparser
import os
import re
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple
from urllib.parse import urlsplit

from ansible_collections.trainyard.neuron.plugins.module_utils import host_packages, prerequisites, venv

Run = Callable[[List[str]], Tuple[int, str, str]]

#: Where pip finds packages that nobody told it where to find.
PYPI = "https://pypi.org/simple"

#: pip's configuration, as root's pip reads it; a later one counts.
PIP_FILES = ("/etc/pip.conf", "/root/.pip/pip.conf", "/root/.config/pip/pip.conf")

#: Kinds of questions whose answer git fetches later.
_BY_GIT = "info/refs?service=git-upload-pack"


def look(
    questions: Mapping[str, Any], asked: Sequence[Mapping[str, Any]], lacking: Sequence[str], run: Run
) -> Dict[str, Any]:
    """Return `id` (`ubuntu 22.04`), `manager` (`apt`, `dnf` or none), what is `lacking`, and the questions about it.

    Args:
        questions: `system` (packages that roles install) and `venvs` (environments that they make) are read.
        asked: what this host is going to ask for; sources in git need git.
        lacking: packages that are known to be missing.
        run: runs a command.
    """
    names = [*lacking, *prerequisites.missing_packages(list(questions.get("system") or ()))]
    sources: List[Dict[str, Any]] = []
    for wanted in questions.get("venvs") or ():
        if _is_made(wanted, run):
            continue
        sources += [one for one in index(wanted) if one not in sources]
        if run([wanted["python"], "-c", "import ensurepip, venv"])[0] != 0:
            names += wanted["packages"]
    if any(str(one["url"]).endswith(_BY_GIT) for one in asked) and not shutil.which("git"):
        names.append("git")
    if any(one["kind"] == "packages" for one in asked):
        names += prerequisites.missing_packages(["python3-debian"])  # by which Ansible makes a repository known
    names = sorted(set(names))
    manager = next((one.name for one in host_packages.MANAGERS.values() if shutil.which(one.program)), "")
    if names and manager == "apt":
        sources += archives(names, run)
    return {"id": _identity(), "manager": manager, "lacking": names, "sources": sources}


def _is_made(wanted: Mapping[str, Any], run: Run) -> bool:
    """Return whether an environment is there as it is wanted for the Python that this host has."""
    try:
        made = venv.Venv(Path(wanted["path"]), "", wanted["python"], lambda argv, _environment: run(argv))
        current = made.current()
        return current is not None and current == wanted["homes"].get(made.python_version())
    except (OSError, venv.VenvError):
        return False


def index(wanted: Mapping[str, Any], files: Sequence[str] = PIP_FILES) -> List[Dict[str, Any]]:
    """Return the question to the index that pip would ask, none where it was told to ask none.

    Args:
        wanted: an environment, with `index` where its role was given one.
        files: pip's configuration.
    """
    conf = _pip_conf(files)
    given = {
        **conf,
        **{key[4:].lower().replace("_", "-"): text for key, text in os.environ.items() if key[:4] == "PIP_"},
    }
    address = str(wanted.get("index") or given.get("index-url") or PYPI)
    # Their addresses are pip's to know, its authorities too.
    if given.get("no-index") or given.get("proxy") or urlsplit(address).scheme not in ("http", "https"):
        return []
    own = any(given.get(word) for word in ("cert", "trusted-host"))
    what = "the index of Python packages"
    return [{"what": what, "kind": "index", "url": address.rstrip("/") + "/pip/", "own_trust": own}]


def _pip_conf(files: Sequence[str]) -> Dict[str, str]:
    found: Dict[str, str] = {}
    for path in files:
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read_string(Path(path).read_text(encoding="utf-8", errors="replace"))
        except (OSError, configparser.Error):
            continue
        for section in ("global", "install"):
            if parser.has_section(section):
                found.update(parser.items(section))
    return found


def archives(names: Sequence[str], run: Run) -> List[Dict[str, Any]]:
    """Return the questions about packages that apt would fetch: to a file of each archive, else to all archives.

    Args:
        names: packages, each with a version if there has to be one.
        run: runs a command; apt prints what it would fetch, and fetches nothing.
    """
    print_uris = ["apt-get", "install", "--print-uris", "--yes", "--quiet=2", "--no-install-recommends", *names]
    status, output, _errors = run(print_uris)
    nowhere = _nowhere(names, run) if status != 0 else []
    if nowhere:
        others = [name for name in names if name not in nowhere]
        said = ", ".join(nowhere)
        return [
            {"what": "the system's package " + said, "kind": "offered", "url": said},
            *(archives(others, run) if others else []),
        ]
    _status, proxy, _errors = run(["apt-config", "dump", "--format", "%v%n", "Acquire::http::Proxy"])
    if proxy.strip():
        return []  # the way out is apt's own
    _status, own, _errors = run(["apt-config", "dump", "Acquire::https::CAInfo"])
    urls = re.findall(r"^'(https?://[^']+)'", output, re.MULTILINE)
    if status != 0:
        form = "$(REPO_URI) $(RELEASE)"
        _status, output, _errors = run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"])
        rows = sorted({line for line in output.splitlines() if re.match(r"https?://\S+ \S+[^/\s]$", line)})
        urls = ["%s/dists/%s/Release" % (row.split()[0].rstrip("/"), row.split()[1]) for row in rows]
    first = {urlsplit(url).netloc: url for url in reversed(urls)} if status == 0 else {url: url for url in urls}
    what = "the system's package " + ", ".join(names)
    more = {"own_trust": bool(own.strip()), "method": "HEAD"}
    return [{"what": what, "kind": "archive", "url": url, **more} for url in sorted(first.values())]


def _nowhere(names: Sequence[str], run: Run) -> List[str]:
    """Return the packages that no source of this host has; none where a list was never fetched, as on a new host."""
    _status, output, _errors = run(["apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: Packages"])
    lists = [Path(line) for line in output.splitlines() if line.startswith("/")]
    if not lists or not all(path.exists() or any(path.parent.glob(path.name + ".*")) for path in lists):
        return []
    return [name for name in names if not candidate(name, run)]


def candidate(package: str, run: Run) -> str:
    """Return the version that a package has or would get, empty where the host's lists do not know it.

    Args:
        package: its name, or `name=version` with the version that is asked for as a glob.
        run: runs a command.
    """
    name, _, wanted = package.partition("=")
    _status, output, _errors = run(["apt-cache", "policy", name])
    values = dict(re.findall(r"^  (Installed|Candidate): (\S+)$", output, re.MULTILINE))
    there, offered = values.get("Installed", "(none)"), values.get("Candidate", "(none)")
    best = there if there != "(none)" else offered
    if wanted:
        versions = re.findall(r"^ (?:\*\*\*|   ) (\S+) -?\d+$", output, re.MULTILINE)
        best = next((version for version in versions if _globbed(version, wanted)), "(none)")
    return "" if best == "(none)" else best


def _globbed(version: str, wanted: str) -> bool:
    return re.fullmatch(re.escape(wanted).replace(r"\*", ".*"), version) is not None


def _identity() -> str:
    """Return name and version of the system, `ubuntu 22.04`; empty where it does not say."""
    try:
        text = Path("/etc/os-release").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    values = dict(re.findall(r'^(ID|VERSION_ID)="?([^"\n]*)"?$', text, re.MULTILINE))
    return ("%s %s" % (values.get("ID", ""), values.get("VERSION_ID", ""))).strip()
