# SPDX-License-Identifier: Apache-2.0
"""Writes the table of docs/ports.md, who reaches what, from the plan of inventory/trn2.

python docs/ports.py            writes
python docs/ports.py --check    fails, with a diff, where the page is not current
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "collections"), str(ROOT / "src")]

from trainyard.plan_command import plan_or_exit  # noqa: E402

PAGE = ROOT / "docs/ports.md"
INVENTORY = ROOT / "inventory/trn2"
BEGIN, END = "<!-- Ports: written by docs/ports.py from the plan of inventory/trn2 -->", "<!-- End of ports -->"

#: What each kind of port is, and where its number comes from.
KINDS = {
    "replicas": ("the deployment's `port` + i", "completions, `/metrics`, `/health`"),
    "agents": ("1000 above the replica's", "the probe's word to HAProxy: up, draining or down"),
    "device metrics": (
        "`trainyard_monitor_port` and one above",
        "`/metrics` of the devices, and of the host",
    ),
}


def table(plan: dict[str, Any]) -> str:
    """Who reaches which port of each host of a plan, and of its routers."""
    names = {host["address"]: name for name, host in plan["hosts"].items()}
    names |= {access["address"]: name for name, access in plan["router"]["access"].items()}
    lines = ["| to | port | number | from | what for |", "| --- | --- | --- | --- | --- |"]
    for name, host in plan["hosts"].items():
        for rule in host["reach"]["rules"]:
            number, what = KINDS[rule["what"]]
            ports = ", ".join(str(port) for port in rule["ports"])
            who = [f"{names[address]} ({address})" if address in names else address for address in rule["from"]]
            senders = ", ".join([*who, *host["reach"]["further"]]) or "nobody else; name them in `trainyard_monitors`"
            lines.append(f"| {name} | {ports} | {number} | {senders} | {rule['what']}: {what} |")
    for name, access in plan["router"]["access"].items():
        port = plan["router"]["own"].get(name, plan["router"])["port"]
        lines.append(f"| {name} | {port} | `trainyard_router_port` | {access['requests']} | requests of clients |")
        lines.append(
            f"| {name} | {access['metrics_port']} | `load_balancer_metrics_port` | {access['metrics']} |"
            " `/metrics` and `/health` of the router |"
        )
    return "\n".join(lines)


def wanted() -> str:
    """What the page is to be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    head = "The plan of the shipped inventory, `inventory/trn2`, says:"
    return f"{before}{BEGIN}\n\n{head}\n\n{table(plan_or_exit([str(INVENTORY)]))}\n\n{END}{rest.partition(END)[2]}"


def main(argv: list[str] | None = None) -> int:
    """Entry point; 1 if `--check` found that the page is not current."""
    parser = argparse.ArgumentParser(description="Write who reaches what into docs/ports.md.")
    parser.add_argument("--check", action="store_true", help="change nothing, fail where something would change")
    check = parser.parse_args(argv).check
    found, current = PAGE.read_text(encoding="utf-8"), wanted()
    if found == current:
        return 0
    if not check:
        PAGE.write_text(current, encoding="utf-8")
        return 0
    lines = (text.splitlines(keepends=True) for text in (found, current))
    sys.stdout.writelines(difflib.unified_diff(*lines, str(PAGE), "current"))
    return 1


if __name__ == "__main__":
    sys.exit(main())
