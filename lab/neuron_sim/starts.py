# SPDX-License-Identifier: Apache-2.0
"""What a host is when the toolkit first comes to it, and what packages and the kernel make of it from then on.

``ready`` is the machine image of the very release, with vLLM in its environment. The others begin as real hosts do:

* ``bare``: the system alone.
* ``image``: a machine image that is a release behind: its driver and packages are older, ``dlami-nvme.service`` has
  made its volume, the environment is there without a vLLM that the release's image does not bring.
* ``left``: as ``image``, and others were at work; ``trouble`` says what they left.

A stand-in package does when it is installed what the real one does: the driver's builds a module for the kernel if its
headers are there, and loads it; the tools' brings ``neuron-ls`` and its kin.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from . import install, packages, sdk, sysfs
from .config import HostConfig
from .hardware import instance_type

READY, BARE, IMAGE, LEFT = "ready", "bare", "image", "left"
#: Half an installation, the driver held by somebody's process, no driver loaded, a kernel without headers.
HALF, HELD, UNLOADED, NO_HEADERS = "half", "held", "unloaded", "no-headers"
TROUBLES = (HALF, HELD, UNLOADED, NO_HEADERS)

DRIVER, TOOLS = "aws-neuronx-dkms", "aws-neuronx-tools"
#: Of what every lab host has, what a machine image brings and the system alone does not.
_OF_AN_IMAGE = ("python3-venv", f"python{sys.version_info.major}.{sys.version_info.minor}-venv")
#: Somebody else's server, on a host that others left behind.
FOREIGN = "old-inference.service"

_FOREIGN_UNIT = """\
[Unit]
Description=A server of those who had this host before
After=neuron-sim.service

[Service]
ExecStart=/usr/bin/python3 -c 'import time; held = open("/dev/neuron0"); time.sleep(10**8)'

[Install]
WantedBy=multi-user.target
"""
_DLAMI_NAME = "dlami-nvme.service"
_DLAMI_UNIT = """\
[Unit]
Description=Mounts the instance store of a Deep Learning AMI

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/mkdir -p /opt/dlami/nvme

[Install]
WantedBy=multi-user.target
"""


def _state(host: HostConfig) -> Path:
    return host.path("/var/lib/neuron-sim/driver")


def headers(host: HostConfig) -> Path:
    """Where the headers of the running kernel are, if they are."""
    return host.path(f"/lib/modules/{os.uname().release}/build")


def built(host: HostConfig) -> str:
    """Version of the module that is built for the kernel, empty where none is."""
    path = _state(host)
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def loaded(host: HostConfig) -> bool:
    """Whether the kernel has the driver."""
    return host.path("/dev/neuron0").exists()


def load(host: HostConfig) -> str:
    """Have the kernel take the driver; what it says where it cannot, empty where it can."""
    if not built(host):
        return f"FATAL: Module neuron not found in directory /lib/modules/{os.uname().release}"
    install.install_devices(host)
    sysfs.create(host)
    return ""


def before(row: sdk.Release) -> dict[str, str]:
    """The packages of the release before a row's; made up where the table begins with it."""
    older = [other for other in sdk.releases().values() if sdk.version(other.driver) < sdk.version(row.driver)]
    if older:
        return max(older, key=lambda other: sdk.version(other.driver)).packages
    return {
        name: re.sub(r"\.(\d+)\..*", lambda match: f".{int(match[1]) - 1}.9.0", number)
        for name, number in row.packages.items()
    }


def begin(host: HostConfig) -> None:
    """Make the host what it is to begin as; at a later boot, what its kernel makes of what is installed by then."""
    note = host.path("/var/lib/neuron-sim/begun")
    if note.exists():
        if built(host) and host.trouble != UNLOADED:
            load(host)
        return
    if host.trouble != NO_HEADERS:
        install.write(headers(host) / "Makefile", "")
    if host.start != BARE:
        _image(host)
    elif str(host.root) == "/":
        subprocess.run(["dpkg", "--purge", *_OF_AN_IMAGE], check=True, capture_output=True)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(host.start + "\n", encoding="utf-8")


def _image(host: HostConfig) -> None:
    row = sdk.of_host(host.sdk_releases)
    old = before(row)
    packages.write_status(host, old)
    _state(host).parent.mkdir(parents=True, exist_ok=True)
    _state(host).write_text(old[DRIVER] + "\n", encoding="utf-8")
    install.install_tools(host)
    for environment in sdk.installed(host.sdk_releases):
        install.install_environment(host, environment, with_vllm=environment.venv_has_vllm)
    image_volume(host)
    if host.trouble == HALF:
        packages.write_status(host, old, half=("aws-neuronx-runtime-lib",))
        for environment in sdk.installed(host.sdk_releases):
            host.path(f"{environment.venv}/pyvenv.cfg").unlink(missing_ok=True)
    if host.trouble == HELD:
        _unit(host, FOREIGN, _FOREIGN_UNIT)
    if host.trouble != UNLOADED:
        load(host)


def image_volume(host: HostConfig, *, lasting: bool = True) -> None:
    """Give the host the unit by which a machine image takes the instance store at boot.

    One that is not lasting has no [Install]: it can be neither enabled nor disabled.
    """
    text = _DLAMI_UNIT if lasting else _DLAMI_UNIT.partition("[Install]")[0]
    _unit(host, _DLAMI_NAME, text)
    if not lasting:
        host.path(f"/etc/systemd/system/multi-user.target.wants/{_DLAMI_NAME}").unlink(missing_ok=True)
    host.path("/opt/dlami/nvme").mkdir(parents=True, exist_ok=True)


def _unit(host: HostConfig, name: str, text: str) -> None:
    """A unit that starts with the system, and now."""
    folder = host.path("/etc/systemd/system")
    install.write(folder / name, text)
    install.link(folder / "multi-user.target.wants" / name, f"/etc/systemd/system/{name}")
    if str(host.root) == "/":
        for words in (("daemon-reload",), ("start", "--no-block", name)):
            subprocess.run(["systemctl", *words], check=False, capture_output=True)


def configured(host: HostConfig, name: str, number: str) -> None:
    """What a package does once its files are there (its ``postinst``).

    Args:
        host: the host.
        name: the package.
        number: its version, without what stands for its build.
    """
    if host.start == READY:
        return
    if name == TOOLS:
        install.install_tools(host)
    if name != DRIVER:
        return
    if not headers(host).exists():
        release = os.uname().release
        print(
            f"Module build for kernel {release} was skipped since the\n"
            f"kernel headers for this kernel do not seem to be installed.",
            file=sys.stderr,
        )
        return
    _state(host).parent.mkdir(parents=True, exist_ok=True)
    _state(host).write_text(number + "\n", encoding="utf-8")
    load(host)


def read(host: HostConfig) -> str:
    """The start as JSON, for people."""
    known = {"start": host.start, "trouble": host.trouble, "built": built(host), "loaded": loaded(host)}
    return json.dumps({**known, "instance_type": instance_type(host.instance_type).name})
