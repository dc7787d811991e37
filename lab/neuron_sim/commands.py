# SPDX-License-Identifier: Apache-2.0
"""The one entry point of every generated command: name, root and release in, exit status out."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from . import config

# Modules are imported only when their command runs: neuron-ls starts in a few hundredths of a second.
_MODULES = {
    "neuron-ls": "neuron_ls",
    "neuron-monitor": "neuron_monitor",
    "neuron-monitor-prometheus.py": "monitor_exporter",
    "neuron-top": "neuron_top",
    "modinfo": "kernel_tools",
    "lsmod": "kernel_tools",
    "modprobe": "kernel_tools",
    "git": "kernel_tools",
    "inference_demo": "inference_demo",
    "podman": "container_engine",
    "vllm": "serve",
    "api_server": "serve",
}


def main(name: str, *, root: str, release: str = "", argv: Sequence[str] | None = None) -> int:
    """Run one command of the stand-in SDK.

    Args:
        name: the command, as the host knows it.
        root: what plays the host's ``/``.
        release: SDK release whose environment the command belongs to; empty for the host's own tools.
        argv: its arguments; default: those of this process.
    """
    host = config.load(root)
    arguments = list(sys.argv[1:] if argv is None else argv)
    module = importlib.import_module(f".{_MODULES[name]}", __package__)
    try:
        if release:
            status: int = module.main(host, arguments, command=name, release=release)
        elif _MODULES[name] == "kernel_tools":
            status = module.main(host, arguments, command=name)
        else:
            status = module.main(host, arguments)
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return 130
    return status
