# SPDX-License-Identifier: Apache-2.0
"""What the machine under the lab allows, and how podman has to be called on it.

Two obstacles of small virtual machines are found here and answered without touching the machine's own settings:
cgroup controllers on the old hierarchy (podman gets a private mount namespace that shows only cgroup v2), and a root
without CAP_SYS_RESOURCE (podman gets rlimits that an ordinary process may set).
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainyard.lab.errors import LabError

Cgroups = Literal["v2", "hybrid", "v1"]

_CAP_SYS_RESOURCE = 24
#: What `sudo` must hand on: podman's settings, and the way out to the package sources.
_KEPT = ("CONTAINERS_CONF", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")

#: Replaces the cgroup view of one command: it vanishes with the command, the machine's own view stays as it is.
_PURE_CGROUP2 = """
mount --make-rprivate /sys
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec "$@"
"""

#: Debian's and Ubuntu's names of what the lab needs, each with a program that shows it is there.
PACKAGES = {
    "podman": "podman",
    "runc": "runc",
    "mmdebstrap": "mmdebstrap",
    "iptables": "iptables",
    "newuidmap": "uidmap",
    "ssh": "openssh-client",
    "unshare": "util-linux",
    "ip": "iproute2",
}
#: Podman's network helpers are not on PATH; any of the paths will do.
HELPERS = {
    "netavark": ("/usr/lib/podman/netavark", "/usr/libexec/podman/netavark"),
    "aardvark-dns": ("/usr/lib/podman/aardvark-dns", "/usr/libexec/podman/aardvark-dns"),
}


@dataclass(frozen=True)
class Machine:
    """The facts of this machine that decide how containers are started."""

    root: bool
    sudo: bool
    cgroups: Cgroups
    may_raise_limits: bool
    nofile_hard: int
    nproc_max: int
    apparmor: bool
    runtime: str | None

    @property
    def rootless(self) -> bool:
        """Whether there is neither root nor sudo."""
        return not self.root and not self.sudo

    def privilege(self) -> list[str]:
        """Command words that make a command run as root, empty where it does already or cannot."""
        return ["sudo", "--non-interactive", f"--preserve-env={','.join(_KEPT)}"] if self.sudo else []

    def prefix(self) -> list[str]:
        """Command words to put before `podman`."""
        words = self.privilege()
        if self.cgroups != "v2":
            words += ["unshare", "--mount", "--propagation", "unchanged", "sh", "-euc", _PURE_CGROUP2, "sh"]
        return words

    def containers_conf(self) -> str | None:
        """The containers.conf that this machine needs, or None where podman's own defaults work."""
        if self.may_raise_limits:
            return None
        files, processes = self.nofile_hard, self.nproc_max
        return (
            "# Written by `trainyard lab up`: root may not raise its limits on this machine.\n"
            "[containers]\n"
            f'default_ulimits = ["nofile={files}:{files}", "nproc={processes}:{processes}"]\n'
            "pids_limit = 0\n"
        )

    def refusal(self) -> str | None:
        """Why no lab can run here, in one line, or None."""
        if self.rootless:
            return (
                "without root podman keeps its networks out of this machine's reach, and Ansible could not log in: "
                "run as root, or allow `sudo` without a password"
            )
        return None


def cgroups_of(mounts: str) -> Cgroups:
    """Say which cgroup hierarchy /proc/mounts shows: `v2` alone, `v1`, or both (`hybrid`)."""
    types = {fields[2] for line in mounts.splitlines() if len(fields := line.split()) > 2}
    if "cgroup" not in types:
        return "v2"
    return "hybrid" if "cgroup2" in types else "v1"


def may_raise_limits_of(status: str) -> bool:
    """Whether /proc/self/status shows CAP_SYS_RESOURCE in the bounding set."""
    for line in status.splitlines():
        if line.startswith("CapBnd:"):
            return bool(int(line.split()[1], 16) >> _CAP_SYS_RESOURCE & 1)
    return False


def detect() -> Machine:
    """Read the facts of this machine; starts at most one program (`sudo -n true`)."""
    root = os.geteuid() == 0
    sudo = not root and _sudo_works()
    nproc_hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    pid_max = int(Path("/proc/sys/kernel/pid_max").read_text(encoding="ascii"))
    apparmor = Path("/sys/module/apparmor/parameters/enabled")
    return Machine(
        root=root,
        sudo=sudo,
        cgroups=cgroups_of(Path("/proc/mounts").read_text(encoding="utf-8")),
        may_raise_limits=may_raise_limits_of(Path("/proc/self/status").read_text(encoding="ascii")),
        nofile_hard=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        nproc_max=pid_max if nproc_hard == resource.RLIM_INFINITY else min(nproc_hard, pid_max),
        apparmor=apparmor.exists() and apparmor.read_text(encoding="ascii").strip() == "Y",
        runtime=shutil.which("runc", path=_path_with_sbin()),
    )


def _sudo_works() -> bool:
    """Whether `sudo` runs a command without asking."""
    if shutil.which("sudo") is None:
        return False
    return subprocess.run(["sudo", "--non-interactive", "true"], capture_output=True, check=False).returncode == 0


def _path_with_sbin() -> str:
    """PATH with the folders of system programs, which an ordinary user's PATH lacks on Debian."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def missing_packages() -> list[str]:
    """Debian package names of what the lab needs and this machine lacks."""
    path = _path_with_sbin()
    missing = [package for program, package in PACKAGES.items() if shutil.which(program, path=path) is None]
    missing += [name for name, places in HELPERS.items() if not any(Path(place).exists() for place in places)]
    return missing


def install(packages: list[str], machine: Machine) -> None:
    """Install Debian packages, or say in one line what a person has to install.

    Raises:
        LabError: there is no apt-get, no right to use it, or it failed.
    """
    wanted = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise LabError(
            f"the lab needs {wanted}; this machine has no apt-get, so install them with its own package manager"
        )
    apt = [*machine.privilege(), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    apt += ["-o", "DPkg::Lock::Timeout=300"]
    # Another vendor's source that is away fails the update and matters to nobody here; what counts is the next step.
    subprocess.run([*apt, "update"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    result = subprocess.run(
        [*apt, "install", "--yes", "--no-install-recommends", *packages],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode:
        last = (result.stderr.strip() or result.stdout.strip()).splitlines()[-1:]
        raise LabError(f"apt-get could not install {wanted}: {' '.join(last)}; install them and run the command again")
