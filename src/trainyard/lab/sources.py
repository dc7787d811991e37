# SPDX-License-Identifier: Apache-2.0
"""The machine's own package sources, so that the lab's image comes from where the machine's packages come from."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from trainyard.lab.errors import LabError

#: Options of a source that an image needs as well; the rest (languages, targets, arch) is the machine's own business.
_OPTIONS = ("signed-by", "trusted", "check-valid-until", "allow-insecure")


@dataclass(frozen=True)
class Source:
    """One apt source: where, which suite, which components."""

    uri: str
    suite: str
    components: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()

    def line(self) -> str:
        """The source in the one-line form of sources.list(5)."""
        options = " ".join(f"{key}={value}" for key, value in self.options)
        return " ".join(["deb", *([f"[{options}]"] if options else []), self.uri, self.suite, *self.components])


def parse_deb822(text: str) -> Iterator[Source]:
    """Read sources in the paragraph form (`*.sources`), disabled ones left out."""
    for paragraph in re.split(r"\n\s*\n", text):
        fields = _fields(paragraph)
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        options = tuple((key, fields[key]) for key in _OPTIONS if fields.get(key) and " " not in fields[key])
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(uri, suite, tuple(fields.get("components", "").split()), options)


def _fields(paragraph: str) -> dict[str, str]:
    """The fields of one deb822 paragraph by lower-case name; continuation lines are joined by spaces."""
    fields: dict[str, str] = {}
    last = ""
    for line in paragraph.splitlines():
        if line.startswith("#"):
            continue
        if line[:1].isspace() and last:
            fields[last] = f"{fields[last]} {line.strip()}".strip()
        elif ":" in line:
            name, _, value = line.partition(":")
            last = name.strip().lower()
            fields[last] = value.strip()
    return fields


def parse_lines(text: str) -> Iterator[Source]:
    """Read sources in the one-line form (`sources.list`, `*.list`)."""
    for raw in text.splitlines():
        match = re.match(r"^\s*deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<rest>\S+\s+\S+.*)$", raw.split("#")[0])
        if match is None:
            continue
        uri, suite, *components = match["rest"].split()
        given = dict(part.split("=", 1) for part in (match["options"] or "").split() if "=" in part)
        yield Source(uri, suite, tuple(components), tuple((key, given[key]) for key in _OPTIONS if key in given))


def of_distribution(sources: Iterator[Source], codename: str) -> list[Source]:
    """Keep the distribution's own sources; other vendors' repositories have no place in the image."""
    suites = {codename, *(f"{codename}-{pocket}" for pocket in ("updates", "security"))}
    kept: list[Source] = []
    for source in sources:
        key = dict(source.options).get("signed-by", "")
        own_key = not key or bool(re.search(r"/(debian|ubuntu)-archive[^/]*$", key))
        if source.suite in suites and "main" in source.components and own_key and source not in kept:
            kept.append(source)
    return kept


def os_release(text: str) -> Mapping[str, str]:
    """The fields of os-release(5)."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key: value.strip("\"'") for key, value in pairs}


def of_machine(etc: Path = Path("/etc")) -> tuple[str, list[Source]]:
    """The machine's codename and its distribution's sources.

    Raises:
        LabError: not Debian or Ubuntu, or no source of the distribution was found.
    """
    release = os_release((etc / "os-release").read_text(encoding="utf-8"))
    codename = release.get("VERSION_CODENAME", "")
    if not {"debian", "ubuntu"} & {release.get("ID", ""), *release.get("ID_LIKE", "").split()} or not codename:
        raise LabError(
            f"{release.get('PRETTY_NAME', 'this system')} is neither Debian nor Ubuntu, whose packages make the image: "
            "set TRAINYARD_LAB_BASE_IMAGE to a Debian or Ubuntu image that podman can pull"
        )
    if release.get("UBUNTU_CODENAME"):
        codename = release["UBUNTU_CODENAME"]

    def read() -> Iterator[Source]:
        folder = etc / "apt" / "sources.list.d"
        for path in [etc / "apt" / "sources.list", *sorted(folder.glob("*.list")), *sorted(folder.glob("*.sources"))]:
            if path.is_file():
                text = path.read_text(encoding="utf-8", errors="replace")
                yield from (parse_deb822 if path.suffix == ".sources" else parse_lines)(text)

    found = of_distribution(read(), codename)
    if not found:
        raise LabError(
            f"no package source of {codename} in /etc/apt: the lab's image is made from this machine's own sources; "
            "set TRAINYARD_LAB_BASE_IMAGE to an image that podman can pull instead"
        )
    return codename, found


def apt_proxies() -> list[str]:
    """The machine's apt proxy settings as apt.conf lines."""
    try:
        shown = subprocess.run(
            ["apt-config", "dump", "--no-empty", "Acquire"],
            capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"},
        ).stdout  # fmt: skip
    except FileNotFoundError:
        return []
    return [line for line in shown.splitlines() if re.match(r'^Acquire::https?::Proxy "[^"]+";$', line)]
