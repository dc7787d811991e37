# SPDX-License-Identifier: Apache-2.0
"""`trainyard plan`: the fleet's plan from an inventory, with no host reached."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from trainyard.paths import COLLECTIONS, ROOT

#: Left of a warning and of an error; colour alone would not survive a pipe.
WARNING, ERROR = "warning", "error"


class InventoryError(Exception):
    """The inventory cannot be read."""


@cache
def open_inventory(sources: tuple[str, ...]) -> tuple[Any, Any]:
    """Return Ansible's inventory of some sources and its host variables, templated when they are read.

    Raises:
        InventoryError: nothing could be parsed.
    """
    os.environ.setdefault("ANSIBLE_CONFIG", str(ROOT / "ansible.cfg"))
    # Ansible reads its configuration when it is imported.
    from ansible.errors import AnsibleError
    from ansible.inventory.manager import InventoryManager
    from ansible.parsing.dataloader import DataLoader
    from ansible.plugins.loader import init_plugin_loader
    from ansible.vars.hostvars import HostVars
    from ansible.vars.manager import VariableManager

    try:
        init_plugin_loader([str(COLLECTIONS)])
        loader = DataLoader()
        inventory = InventoryManager(loader=loader, sources=list(sources))
        variables = VariableManager(loader=loader, inventory=inventory)
    except AnsibleError as error:
        raise InventoryError(str(error)) from error
    return inventory, HostVars(inventory, variables, loader)


def read_inventory(sources: list[str], group: str, router_group: str) -> dict[str, Any]:
    """Return the planner's input from an inventory, read as ansible-playbook would read it.

    Args:
        sources: inventory files, directories or scripts, as after `-i`.
        group: group of the hosts that serve.
        router_group: group of the hosts that balance.

    Raises:
        InventoryError: nothing could be parsed, or the group has no host.
        PlanError: variables that cannot be templated.
    """
    # Before Ansible's loader knows the collection: it does not find the rest of a package that it did not load itself.
    from ansible_collections.trainyard.neuron.plugins.module_utils.plan.inventory import fleet_input

    inventory, variables = open_inventory(tuple(sources))
    hosts = [host.name for host in inventory.get_hosts(group)] if group in inventory.groups else []
    if not hosts:
        raise InventoryError(f"no host in the group {group!r} of {', '.join(sources)}")
    routers = [host.name for host in inventory.get_hosts(router_group)] if router_group in inventory.groups else []
    return fleet_input(variables, hosts, routers)


def host_tables(plan: dict[str, Any]) -> Iterator[tuple[str, Table]]:
    """Yield for each host of a plan a heading and the table of its replicas."""
    for name, host in plan["hosts"].items():
        sdk = ", ".join(f"SDK {row['release']} {row['generation']} {row['runtime']}" for row in host["sdk"])
        heading = f"[bold]{name}[/]  {host['instance_type']}  LNC {host['logical_nc_config']}  {host['address']}  {sdk}"
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("REPLICA", "CORES", "DEVICES", "NUMA", "CPUS", "PORT", "ARTIFACT"):
            table.add_column(title, no_wrap=title != "CPUS", overflow="fold")
        for replica in host["replicas"]:
            table.add_row(
                replica["name"],
                replica["cores"],
                _ranges(replica["devices"]),
                _ranges(replica["numa_nodes"]) or "-",
                replica["cpus"] or "any",
                str(replica["port"]),
                replica["artifact"][:12],
            )
        yield heading, table


def _ranges(numbers: list[int]) -> str:
    from ansible_collections.trainyard.neuron.plugins.module_utils.plan.ranges import format_ranges

    return str(format_ranges(numbers))


def summary(plan: dict[str, Any]) -> str:
    """Return one line about a plan: replicas, hosts, what is compiled, where it is reached."""
    hosts = plan["hosts"].values()
    replicas = [replica for host in hosts for replica in host["replicas"]]
    digests = {artifact["digest"] for host in hosts for artifact in host["artifacts"]}
    names = ", ".join(model["name"] for model in plan["router"]["models"])
    return (
        f"{len(replicas)} replicas on {len(plan['hosts'])} hosts, {len(digests)} artifacts to compile once each; "
        f"the router on port {plan['router']['port']} offers {names or 'nothing'}"
    )


def plan_or_exit(inventory: list[str], group: str = "neuron", router_group: str = "router") -> dict[str, Any]:
    """Return the plan of an inventory, for a command.

    Raises:
        typer.Exit: with 1 where the plan has problems, with 2 where the inventory cannot be read; both are told.
    """
    from ansible_collections.trainyard.neuron.plugins.module_utils.plan.plan import plan_fleet
    from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError

    errors = Console(stderr=True, highlight=False)
    missing = [source for source in inventory if not Path(source).exists() and "," not in source]
    if missing:
        errors.print(f"[red]{ERROR}[/]: no inventory at {', '.join(missing)}", soft_wrap=True)
        raise typer.Exit(2)
    try:
        return dict(plan_fleet(read_inventory(inventory, group, router_group)).to_dict())
    except InventoryError as error:
        errors.print(f"[red]{ERROR}[/]: {error}", soft_wrap=True, markup=True)
        raise typer.Exit(2) from error
    except PlanError as error:
        errors.print(f"[red]{ERROR}[/]: ", end="")
        errors.print(str(error), soft_wrap=True, markup=False)
        raise typer.Exit(1) from error


def plan(
    inventory: Annotated[list[str], typer.Option("--inventory", "-i", help="Inventory file, directory or script.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole plan as JSON.")] = False,
    group: Annotated[str, typer.Option(help="Inventory group of the hosts that serve.")] = "neuron",
    router_group: Annotated[str, typer.Option(help="Inventory group of the routers.")] = "router",
) -> None:
    """Show what would run where: replicas, cores, CPUs, ports, artifacts. No host is touched."""
    errors = Console(stderr=True, highlight=False)
    found = plan_or_exit(inventory, group, router_group)
    if as_json:
        typer.echo(json.dumps(found, indent=2, sort_keys=True))
        return
    console = Console(highlight=False)
    for heading, table in host_tables(found):
        console.print(heading, soft_wrap=True)
        console.print(table)
        console.print()
    console.print(summary(found), soft_wrap=True)
    for warning in found["warnings"]:
        errors.print(
            f"[yellow]{WARNING}[/]: {warning['host']}: {warning['variable']}: {warning['rule']}. Fix: {warning['fix']}",
            soft_wrap=True,
        )
