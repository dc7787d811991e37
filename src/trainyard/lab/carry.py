# SPDX-License-Identifier: Apache-2.0
"""What a lab host takes over from this machine to fetch packages: certificates, proxies, package indexes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from trainyard.lab.image import CA_BUNDLE
from trainyard.lab.sources import apt_proxies

_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
#: Variables that name a certificate bundle; the bundle itself is part of the image.
_CERTIFICATES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PIP = (
    "index-url",
    "extra-index-url",
    "find-links",
    "trusted-host",
    "timeout",
    "default-timeout",
    "retries",
    "no-index",
)


@dataclass(frozen=True)
class Carried:
    """Settings of this machine, in the forms in which a host takes them."""

    environment: dict[str, str] = field(default_factory=dict)
    pip: dict[str, list[str]] = field(default_factory=dict)
    apt: list[str] = field(default_factory=list)

    def folders(self) -> list[Path]:
        """Local folders that the pip settings point into; a host sees them at the same path."""
        found = [
            local for value in (*self.pip.get("find-links", []), *self.index_urls()) if (local := local_path(value))
        ]
        return sorted({path for path in found if path.is_dir()})

    def index_urls(self) -> list[str]:
        """The main index, where one is set, and the extra ones."""
        return [*self.pip.get("index-url", []), *self.pip.get("extra-index-url", [])]

    def mounts(self) -> list[str]:
        """Podman options that show the folders, read-only, at their own paths.

        An index's folder is shown whole with its neighbours: its pages link to files outside of it.
        """
        roots = {path if str(path) in self.pip.get("find-links", []) else path.parent for path in self.folders()}
        return [word for root in sorted(roots) for word in ("--volume", f"{root}:{root}:ro")]

    def pip_conf(self) -> str:
        """The settings as a pip.conf."""
        lines = ["[global]"]
        if self.environment.get("PIP_CERT"):
            lines.append(f"cert = {self.environment['PIP_CERT']}")
        lines += [f"{name} = {' '.join(values)}" for name, values in self.pip.items()]
        return "\n".join(lines) + "\n"

    def uv_options(self) -> list[str]:
        """The settings as options of `uv pip`, which reads no pip.conf."""
        options = [word for url in self.pip.get("index-url", [])[:1] for word in ("--index-url", url)]
        options += [word for url in self.pip.get("extra-index-url", []) for word in ("--extra-index-url", url)]
        options += [word for url in self.pip.get("find-links", []) for word in ("--find-links", url)]
        # Every file is held to a hash of the lock, so it does not matter which index has it.
        return [*options, "--index-strategy", "unsafe-best-match"]


def local_path(value: str) -> Path | None:
    """The folder that a find-links or index setting names, where it is a local one."""
    if value.startswith("file:"):
        return Path(unquote(urlsplit(value).path))
    return Path(value) if value.startswith("/") else None


def parse_pip_config(shown: str) -> dict[str, list[str]]:
    """Read `pip config list`; where a setting comes twice the environment's wins, as it does in pip."""
    values: dict[str, list[str]] = {}
    for scope in ("global", "install", ":env:"):
        for name, value in re.findall(rf"^{re.escape(scope)}\.([a-z-]+)='(.*)'$", shown, re.MULTILINE):
            if name in _PIP:
                values["timeout" if name == "default-timeout" else name] = value.replace("\\n", " ").split()
    return values


def carried_from(environment: Mapping[str, str], pip_config: str, apt: list[str], *, bundle: bool) -> Carried:
    """Choose what is carried over; pure.

    Args:
        environment: this machine's environment variables.
        pip_config: what `pip config list` printed.
        apt: apt's proxy settings.
        bundle: whether the image has this machine's certificate bundle.
    """
    chosen = {name: environment[name] for name in _PROXIES if environment.get(name)}
    if bundle:
        chosen |= dict.fromkeys(_CERTIFICATES, str(CA_BUNDLE))
    return Carried(chosen, parse_pip_config(pip_config), apt)


@cache
def carried() -> Carried:
    """What this machine has to carry over."""
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return carried_from(os.environ, pip.stdout, apt_proxies(), bundle=CA_BUNDLE.exists())
