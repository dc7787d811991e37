# SPDX-License-Identifier: Apache-2.0
"""``python3 -m neuron_sim``: make this host a stand-in, or look at one."""

from __future__ import annotations

import argparse
import json
import sys

from . import config, faults, install, ownership, starts
from .hardware import instance_type


def build_parser() -> argparse.ArgumentParser:
    """The administrator's commands."""
    parser = argparse.ArgumentParser(prog="neuron_sim", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--root", default="/", help="directory that plays the host's / (default: /)")
    common.add_argument("--config", default=None, help=f"configuration (default: ROOT{config.CONFIG_PATH})")
    commands.add_parser("install", parents=[common], help="create commands, environments and devices")
    fault = commands.add_parser("fault", parents=[common], help="make a fault, or end one")
    fault.add_argument("kind", choices=(*faults.INSTANT, *faults.LASTING, "clear", "list"))
    fault.add_argument("--replica", default="", help="value of NEURON_PROCESS_TAG (default: every replica)")
    fault.add_argument("--device", type=int, default=-1, help="device number (default: the replica's first)")
    fault.add_argument("--factor", type=float, default=4.0, help="of slow-tokens (default: 4)")
    fault.add_argument("--path", default="", help="file or directory to truncate")
    fault.add_argument("--rule", default="", help="of rule-off: what the host does not keep to")
    fault.add_argument("--only", default="", help="with clear: only faults of this kind")
    package = commands.add_parser("package", parents=[common], help="do what a package does when it is installed")
    package.add_argument("name")
    package.add_argument("number", help="its version, without its build")
    commands.add_parser("owners", parents=[common], help="print which process holds which cores, as JSON")
    return parser


def _owners(host: config.HostConfig) -> None:
    kind = instance_type(host.instance_type)
    table = ownership.owners(host, kind.core_count(config.logical_nc_config(host)))
    print(json.dumps({core: [holder.pid for holder in held] for core, held in table.items() if held}))


def _fault(host: config.HostConfig, options: argparse.Namespace) -> None:
    if options.kind == "list":
        print(json.dumps(faults.describe(host)))
    elif options.kind == "clear":
        print(json.dumps(faults.clear(host, options.only, options.replica)))
    else:
        words = {"replica": options.replica, "device": options.device, "factor": options.factor, "path": options.path}
        words["rule"] = options.rule
        print(faults.inject(host, options.kind, **words))


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0, or 2 with the reason on stderr."""
    options = build_parser().parse_args(argv)
    try:
        host = config.load(options.root, options.config)
        if options.command == "install":
            install.install(host)
        elif options.command == "package":
            starts.configured(host, options.name, options.number)
        elif options.command == "owners":
            _owners(host)
        elif options.command == "fault":
            _fault(host, options)
    except (config.ConfigError, faults.FaultError, ValueError) as error:
        print(f"neuron_sim: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
