# SPDX-License-Identifier: Apache-2.0
"""System packages of the Neuron SDK: what is installed, at which version, held or not, and bound to which repository.

The wanted state is the same for apt and dnf; a `Manager` says how its package manager is asked and told. Nothing here
changes a host: `sdk_release` reads by it, and `sdk_packages` runs Ansible's own modules with what it returns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import urlsplit

Run = Callable[[List[str]], Tuple[int, str, str]]

#: One of Ansible's modules, and its arguments.
Step = Tuple[str, Dict[str, Any]]

#: Names that Neuron's repository is the only source of, as globs.
BOUND_NAMES = ("aws-neuron*",)

#: Name of the repository's entry, its key and its preferences on a host.
ENTRY = "trainyard-neuron"


#: What stands for Neuron's own public repository, of whatever package manager a host has.
PUBLIC = "neuron"

#: The repository's signing key, below its address.
PUBLIC_KEY = "GPG-PUB-KEY-AMAZON-AWS-NEURON.PUB"


@dataclass(frozen=True)
class Source:
    """The repository that serves the packages; an empty address: the machine image's packages are taken as they are."""

    address: str = ""
    key: str = ""
    suite: str = ""

    def of_host(self, public: str, os_release: str) -> Source:
        """Return the repository for a host: with the address, key and suite that were left to be found.

        Args:
            public: address of Neuron's public repository for the host's package manager.
            os_release: text of the host's /etc/os-release, whose code name is the suite.
        """
        if not self.address:
            return self
        is_public = self.address in (PUBLIC, public)
        address = public if is_public else self.address
        key = self.key or ("%s/%s" % (public, PUBLIC_KEY) if is_public else "")
        named = re.search(r'^VERSION_CODENAME="?([A-Za-z0-9._-]+)', os_release, re.MULTILINE)
        return Source(address, key, self.suite or (named.group(1) if named else ""))


@dataclass(frozen=True)
class Installed:
    """One package as it is: its version, and whether upgrades are kept from it."""

    version: str
    held: bool = False


@dataclass(frozen=True)
class Changes:
    """What is to be done: packages to bring to a version (any where it is empty), to hold, and to set free again."""

    install: Mapping[str, str] = field(default_factory=dict)
    hold: Tuple[str, ...] = ()
    free: Tuple[str, ...] = ()
    #: Whether the repository's entry is to go.
    forget: bool = False

    def __bool__(self) -> bool:
        return bool(self.install or self.hold or self.free or self.forget)


def same_version(found: Optional[str], wanted: Optional[str]) -> bool:
    """Return whether an installed version is the table's, which leaves out build suffixes (`2.25.57.0-166c7a468`)."""
    if wanted is None:
        return True
    return found is not None and re.fullmatch(re.escape(wanted) + r"([-+~._].*)?", found) is not None


def changes(installed: Mapping[str, Installed], wanted: Mapping[str, str]) -> Changes:
    """Return what brings packages to their wanted versions and keeps them there."""
    names = sorted(wanted)
    wrong = {name: wanted[name] for name in names if not _is(installed, name, wanted[name])}
    return Changes(wrong, tuple(name for name in names if name in wrong or not installed[name].held))


def _is(installed: Mapping[str, Installed], name: str, version: str) -> bool:
    return name in installed and same_version(installed[name].version, version)


def freed(installed: Mapping[str, Installed], forget: bool = False) -> Changes:
    """Return what lets the system's upgrades reach held packages again; `forget`: the repository is known here."""
    return Changes(free=tuple(sorted(name for name, package in installed.items() if package.held)), forget=forget)


#: Exact versions, up or down: driver and runtime of different releases do not work together.
APT_GET = (
    *("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "--yes", "--quiet=2"),
    *("--allow-downgrades", "--allow-change-held-packages", "--option=DPkg::Lock::Timeout=60"),
    *("--option=Dpkg::Options::=--force-confdef", "--option=Dpkg::Options::=--force-confold"),
)


class Apt:
    """Debian and Ubuntu."""

    name = "apt"
    program = "dpkg-query"
    public = "https://apt.repos.neuron.amazonaws.com"
    headers = "linux-headers-%s"
    preferences_path = "/etc/apt/preferences.d/" + ENTRY
    repository_path = "/etc/apt/sources.list.d/" + ENTRY + ".sources"

    def read(self, run: Run, names: Sequence[str]) -> Dict[str, Installed]:
        """Return those of the packages that are installed."""
        if not names:
            return {}
        form = "${Package} ${db:Status-Status} ${db:Status-Want} ${Version}\n"
        _status, output, _errors = run(["dpkg-query", "--show", "--showformat", form, *names])
        lines = [line.split() for line in output.splitlines()]
        return {
            words[0]: Installed(words[3], held=words[2] == "hold")
            for words in lines
            if len(words) == 4 and words[1] == "installed"
        }

    def preferences(self, source: Source) -> str:
        """Return the preferences that let Neuron's names come from Neuron's repository and from nowhere else."""
        names = " ".join(BOUND_NAMES)
        return (
            "# Neuron's names come from Neuron's repository alone, whatever version another one has.\n"
            f'Package: {names}\nPin: origin "{urlsplit(source.address).hostname or ""}"\nPin-Priority: 990\n\n'
            f"Package: {names}\nPin: release *\nPin-Priority: -1\n"
        )

    def repository_steps(self, source: Source) -> List[Step]:
        """Return what makes the repository known."""
        # What the repository's module imports. It can install that itself only from ansible-core 2.21 on.
        tools = {"name": ["python3-debian"], "state": "present", "update_cache": True}
        repository = {
            "name": ENTRY,
            "types": ["deb"],
            "uris": [source.address],
            "suites": [source.suite],
            "components": ["main"],
            "signed_by": source.key or None,
        }
        return [
            ("ansible.builtin.apt", {**tools, "install_recommends": False}),
            ("ansible.builtin.deb822_repository", repository),
            ("ansible.builtin.apt", {"update_cache": True}),
        ]

    def install_steps(self, versions: Mapping[str, str]) -> List[Step]:
        """Return what brings packages to their versions, up or down."""
        # Ansible's module takes the candidate alone. The first preference that fits decides over that, here the
        # repository's, so it is always the newest; the command finds any version that is named.
        packages = [*APT_GET, *(f"{name}={version}*" if version else name for name, version in versions.items())]
        return [("ansible.builtin.command", {"argv": packages})]

    def hold_steps(self, hold: Sequence[str], free: Sequence[str] = ()) -> List[Step]:
        """Return what keeps the system's upgrades from packages, and lets them reach others again."""
        return [
            ("ansible.builtin.dpkg_selections", {"name": name, "selection": selection})
            for selection, names in (("hold", hold), ("install", free))
            for name in names
        ]

    def forget_steps(self) -> List[Step]:
        """Return what forgets the repository."""
        return [("ansible.builtin.deb822_repository", {"name": ENTRY, "state": "absent"})]


class Dnf:
    """Amazon Linux and Rocky. Reading is tested against recorded output; the steps never ran on such a host."""

    name = "dnf"
    program = "rpm"
    public = "https://yum.repos.neuron.amazonaws.com"
    headers = "kernel-devel-%s"
    preferences_path = ""
    repository_path = "/etc/yum.repos.d/" + ENTRY + ".repo"

    def read(self, run: Run, names: Sequence[str]) -> Dict[str, Installed]:
        """Return those of the packages that are installed."""
        if not names:
            return {}
        _status, output, _errors = run(["rpm", "--query", "--queryformat", "%{NAME} %{VERSION}-%{RELEASE}\n", *names])
        lines = [line.split() for line in output.splitlines()]
        locked = self._locked(run)
        return {
            words[0]: Installed(words[1], held=words[0] in locked)
            for words in lines
            # Of a package that is not there rpm prints a sentence.
            if len(words) == 2 and words[0] in names
        }

    def _locked(self, run: Run) -> List[str]:
        """Return the names in dnf's version lock, whose lines are `name-epoch:version-release.*`."""
        _status, output, _errors = run(["dnf", "--quiet", "--cacheonly", "versionlock", "list"])
        entries = [re.fullmatch(r"(.+)-\d+:[^-]+-[^-]+", line.strip()) for line in output.splitlines()]
        return [entry.group(1) for entry in entries if entry]

    def preferences(self, source: Source) -> str:
        """Return nothing: the repository's own priority binds its names."""
        del source
        return ""

    def repository_steps(self, source: Source) -> List[Step]:
        """Return what makes the repository known."""
        repository = {
            "name": ENTRY,
            "description": "AWS Neuron",
            "baseurl": [source.address],
            "gpgcheck": True,
            "gpgkey": [source.key],
            # A package of a repository with a better priority hides all others of its name.
            "priority": "1",
        }
        plugin = {"name": ["python3-dnf-plugin-versionlock"], "state": "present"}
        return [("ansible.builtin.yum_repository", repository), ("ansible.builtin.dnf", plugin)]

    def install_steps(self, versions: Mapping[str, str]) -> List[Step]:
        """Return what brings packages to their versions, up or down."""
        packages = {
            "name": [f"{name}-{version}*" if version else name for name, version in versions.items()],
            "state": "present",
            "allow_downgrade": True,
            "disable_plugin": ["versionlock"],
        }
        return [("ansible.builtin.dnf", packages)]

    def hold_steps(self, hold: Sequence[str], free: Sequence[str] = ()) -> List[Step]:
        """Return what keeps the system's upgrades from packages, and lets them reach others again."""
        return [
            ("community.general.dnf_versionlock", {"name": list(names), "state": state})
            for state, names in (("present", hold), ("absent", free))
            if names
        ]

    def forget_steps(self) -> List[Step]:
        """Return what forgets the repository."""
        return [("ansible.builtin.yum_repository", {"name": ENTRY, "state": "absent"})]


#: By name, in the order in which a host is looked at.
MANAGERS: Dict[str, Any] = {"apt": Apt(), "dnf": Dnf()}


def manager_of(which: Callable[[str], Optional[str]]) -> Any:
    """Return the package manager of this host; that of Debian where none is found, whose absence its calls then say."""
    return next((manager for manager in MANAGERS.values() if which(manager.program)), MANAGERS["apt"])
