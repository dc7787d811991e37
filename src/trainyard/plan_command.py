# SPDX-License-Identifier: Apache-2.0
"""`trainyard plan`: the fleet's plan from an inventory, with no host reached."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from trainyard import extra_vars, vault
from trainyard.paths import COLLECTIONS, ROOT
from trainyard.plan_diff import AskError, Change, ask_hosts, changes
from trainyard.plan_picture import MADE, fleet_picture
from trainyard.written import write_or_exit

#: What Ansible may take to parse an inventory, processor seconds: a thousand hosts take a few.
INVENTORY_CPU_S = 20

#: The collection's reader of inventories, in whose place Ansible's own can be.
OWN_YAML = "trainyard.neuron.yaml"

#: Left of a warning and of an error; colour alone would not survive a pipe.
WARNING, ERROR = "warning", "error"


class InventoryError(Exception):
    """The inventory cannot be read."""


def open_inventory(sources: tuple[str, ...]) -> tuple[Any, Any]:
    """Return Ansible's inventory of some sources and its host variables, templated when they are read.

    Variables of the command line win, as in a playbook.

    Raises:
        InventoryError: nothing could be parsed.
    """
    return _opened(sources, extra_vars.given())


@cache
def _opened(sources: tuple[str, ...], _variables: tuple[str, ...]) -> tuple[Any, Any]:
    """Return what `open_inventory` does, once for the same words."""
    os.environ.setdefault("ANSIBLE_CONFIG", str(ROOT / "ansible.cfg"))
    # Ansible reads its configuration when it is imported.
    from ansible import constants
    from ansible.errors import AnsibleError
    from ansible.inventory.manager import InventoryManager
    from ansible.parsing.dataloader import DataLoader
    from ansible.plugins.loader import init_plugin_loader
    from ansible.utils.collection_loader import AnsibleCollectionConfig
    from ansible.vars.hostvars import HostVars
    from ansible.vars.manager import VariableManager

    # This process has the collection from Python, where Ansible finds no plugin. What reads here has its time bounded.
    constants.INVENTORY_ENABLED = ["yaml" if name == OWN_YAML else name for name in constants.INVENTORY_ENABLED]
    said = io.StringIO()

    class Variables(HostVars):  # type: ignore[misc]  # ansible-core ships no types
        """Files of variables are read with the first host: a vault that stays shut, or YAML that is none."""

        def raw_get(self, host_name: str) -> Any:
            try:
                return super().raw_get(host_name)
            except AnsibleError as error:
                raise InventoryError(why_unread(str(error), "")) from error

    try:
        # Ansible tells at length what each of its plugins made of a source; where none can read it, one line is enough.
        with contextlib.redirect_stderr(said):
            if not AnsibleCollectionConfig.collection_finder:
                init_plugin_loader([str(COLLECTIONS)])
            loader = DataLoader()
            vault.unlock(loader)
            extra_vars.tell_ansible(loader)
            inventory = InventoryManager(loader=loader, sources=list(sources))
            variables = VariableManager(loader=loader, inventory=inventory)
    except (vault.VaultError, extra_vars.ExtraVarsError) as error:
        raise InventoryError(str(error)) from error
    except AnsibleError as error:
        raise InventoryError(why_unread(str(error), said.getvalue())) from error
    sys.stderr.write(said.getvalue())
    return inventory, Variables(inventory, variables, loader)


def why_unread(error: str, said: str) -> str:
    """Return in one line why a source could not be read.

    Args:
        error: Ansible's own last words, which name the source.
        said: what it printed before, with the reason of each plugin that tried.
    """
    reasons = re.findall(r"Failed to parse inventory with 'auto' plugin: (.+)", said)
    text = ": ".join([" ".join(error.split()), *(reason.strip() for reason in reasons[:1])])
    if "credentials" in text.lower():
        text += "; give AWS credentials, such as AWS_PROFILE=<profile>, `aws sso login`, or a role of this machine"
    return with_vault_fix(text)


def with_vault_fix(text: str) -> str:
    """Return why something was not read, with what to do about it where that is a vault that stays shut."""
    if "vault" not in text.lower():
        return text
    return text.rstrip(".") + "; give its password: --vault-password-file FILE, --vault-id LABEL@FILE, --ask-vault-pass"


def read_inventory(sources: list[str], group: str, router_group: str, model_configs: str = "") -> dict[str, Any]:
    """Return the planner's input from an inventory, read as ansible-playbook would read it.

    Args:
        sources: inventory files, directories or scripts, as after `-i`.
        group: group of the hosts that serve.
        router_group: group of the hosts that balance.
        model_configs: directory with `<repo>/<revision>/config.json` of checkpoints, empty for none.

    Raises:
        InventoryError: nothing could be parsed, or the group has no host.
        PlanError: variables that cannot be templated.
    """
    # Before Ansible's loader knows the collection: it does not find the rest of a package that it did not load itself.
    from ansible.errors import AnsibleError
    from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.inventory import bounded_input, collect

    def read(say: Callable[..., None]) -> dict[str, Any]:
        say("", INVENTORY_CPU_S)
        try:
            return gather(say)
        except AnsibleError as error:
            raise InventoryError(why_unread(str(error), "")) from error

    def gather(say: Callable[..., None]) -> dict[str, Any]:
        inventory, variables = open_inventory(tuple(sources))
        hosts = [host.name for host in inventory.get_hosts(group)] if group in inventory.groups else []
        if not hosts:
            raise InventoryError(f"no host in the group {group!r} of {', '.join(sources)}")
        routers = [host.name for host in inventory.get_hosts(router_group)] if router_group in inventory.groups else []
        clients = [host.name for host in inventory.get_hosts("client")] if "client" in inventory.groups else []
        monitors = [host.name for host in inventory.get_hosts("monitor")] if "monitor" in inventory.groups else []
        return collect(variables, hosts, routers, model_configs, clients, say, monitors=monitors)

    return bounded_input(read)


def host_tables(plan: dict[str, Any]) -> Iterator[tuple[str, Table]]:
    """Yield for each host of a plan a heading and the table of its replicas."""
    for name, host in plan["hosts"].items():
        sdk = ", ".join(f"SDK {row['release']} {row['generation']} {row['runtime']}" for row in host["sdk"])
        heading = f"[bold]{name}[/]  {host['instance_type']}  LNC {host['logical_nc_config']}  {host['address']}  {sdk}"
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("REPLICA", "CORES", "DEVICES", "NUMA", "CPUS", "PORT", "HBM GiB", "ARTIFACT"):
            justify: Literal["left", "right"] = "right" if title in ("PORT", "HBM GiB") else "left"
            table.add_column(title, no_wrap=title != "CPUS", overflow="fold", justify=justify)
        for replica in [*host["replicas"], *host["spares"]]:
            table.add_row(
                replica["name"],
                replica["cores"],
                _ranges(replica["devices"]),
                _ranges(replica["numa_nodes"]) or "-",
                replica["cpus"].replace(",", ", ") or "any",  # so that a line breaks between runs
                str(replica["port"]),
                _memory(replica),
                replica["artifact"][:12],
            )
        yield heading, table


#: A terminal with fewer columns gets lines in place of a table, which would cut its cells there.
TABLE_COLUMNS = 76


def print_replicas(console: Console, table: Table) -> None:
    """Print the table of a host's replicas, on a narrow terminal a few lines for each, nothing of it cut."""
    if console.width >= TABLE_COLUMNS:
        console.print(table)
        return
    titles = [str(column.header) for column in table.columns]
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        console.print(f"[bold]{cells[0]}[/]", soft_wrap=True)
        for title, cell in zip(titles[1:], cells[1:], strict=True):
            console.print(f"  {title.lower()}: {cell}", soft_wrap=True)


def reach_line(host: dict[str, Any]) -> str:
    """Return one line about a host: who may reach what of it from elsewhere."""
    reach = host["reach"]
    if reach["open"]:
        return "open to anybody who reaches the host (trainyard_replicas_open_to_everybody)"
    found = []
    for rule in reach["rules"]:
        further = [] if rule["what"] == "device metrics" else reach["further"]
        who = ", ".join([*rule["from"], *further]) or "the host itself alone"
        found.append(f"{rule['what']} ({_ranges(rule['ports'])}): {who}")
    return "reached by  " + "; ".join(found) if found else "reached by nobody"


def _memory(replica: dict[str, Any]) -> str:
    """Return estimated need and what there is, in GiB of all its cores together; no need for an unknown model."""
    needed = "-" if replica["hbm_bytes_needed"] is None else f"~{replica['hbm_bytes_needed'] / 2**30:.0f}"
    return f"{needed}/{replica['hbm_bytes_available'] / 2**30:.0f}"


def diff_table(found: list[Change]) -> Table:
    """Return what would happen to each replica as a table."""
    colours = {"start": "green", "restart": "yellow", "stop": "red", "keep": "dim", "unknown": "magenta"}
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("HOST", "REPLICA", "ACTION", "WHY"):
        table.add_column(title, overflow="fold")
    for change in found:
        table.add_row(change.host, change.replica, f"[{colours[change.action]}]{change.action}[/]", change.why)
    return table


def fetch_model_configs(hub: str, directory: Path, models: list[tuple[str, str]]) -> None:
    """Fetch the config.json of models from a hub into a directory; those that are there are left alone.

    Raises:
        InventoryError: the hub does not give one.
    """
    import httpx
    from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.inventory import model_config_path

    token = os.environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    for repo, revision in models:
        path = model_config_path(str(directory), repo, revision)
        if path.exists():
            continue
        try:
            url = f"{hub.rstrip('/')}/{repo}/resolve/{revision}/config.json"
            answer = httpx.get(url, headers=headers, follow_redirects=True, timeout=30).raise_for_status()
        except httpx.HTTPError as error:
            raise InventoryError(f"config.json of {repo} at {revision}: {error}") from error
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(answer.content)


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


def reached_by(plan: dict[str, Any]) -> list[str]:
    """Return a line for each router about who may reach it."""
    router = plan["router"]
    lines = []
    for name, access in router["access"].items():
        port = router["own"].get(name, router)["port"]
        lines.append(
            f"{name} takes requests on port {port} from {access['requests']}; "
            f"its metrics on port {access['metrics_port']} are for {access['metrics']}"
        )
    return lines


def to_be_pinned(plan: dict[str, Any]) -> list[str]:
    """Return a line for each container image whose digest is not known yet."""
    from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan import pinned_images

    kept = f"kept in {pinned_images.NAME} beside the inventory"
    return [
        f"{image} has no digest yet: the first run asks its registry, from the hosts; what it says is {kept}"
        for image in pinned_images.missing(plan)
    ]


def use_vault(ids: list[str] | None, files: list[Path] | None, ask: bool) -> None:
    """Keep how the vault's passwords are had; arguments as `vault.use`.

    Raises:
        typer.Exit: with 2 where one cannot be had, which is told.
    """
    try:
        vault.use(ids, files, ask)
    except vault.VaultError as error:
        raise refuse(str(error)) from error


def plan_or_exit(inventory: list[str], group: str = "neuron", router_group: str = "router") -> dict[str, Any]:
    """Return the plan of an inventory, for a command that reaches no host for it.

    Raises:
        typer.Exit: with 1 where the plan has problems, with 2 where the inventory cannot be read; both are told.
    """
    return planned_or_exit(lambda: read_fleet(inventory, group, router_group), inventory)[1]


def there_or_exit(inventory: Sequence[str]) -> None:
    """Go on where every source of an inventory is there; a list of hosts, which has a comma, is no file.

    Raises:
        typer.Exit: with 2 where one is not, which is told by the name that was given.
    """
    missing = [source for source in inventory if not Path(source).exists() and "," not in source]
    if missing:
        raise refuse(f"no inventory at {', '.join(missing)}")


def planned_or_exit(read: Callable[[], dict[str, Any]], inventory: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the planner's input and the plan; typer.Exit as `plan_or_exit`."""
    from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
    from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet

    there_or_exit(inventory)
    try:
        given = read()
        return given, plan_fleet(given).to_dict()
    except (InventoryError, AskError) as error:
        raise refuse(str(error)) from error
    except PlanError as error:
        raise refuse(str(error), 1) from error


def topology_of(plan: dict[str, Any], given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the topology that each host of a plan was planned on, from the same input."""
    from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.variables import HostReader

    reader, found = HostReader(), {}
    for name in plan["hosts"]:
        host, _problems, _warnings = reader.read(name, given["hosts"][name], given["topologies"].get(name))
        if host is not None:
            found[name] = host.topology.to_dict()
    return found


def read_fleet(
    inventory: list[str], group: str, router_group: str, model_configs: Path | None = None, hub: str = ""
) -> dict[str, Any]:
    """Return the planner's input with the models' config.json files that are at hand.

    Args:
        inventory: as `read_inventory`, also the groups.
        group: group of the hosts that serve.
        router_group: group of the hosts that balance.
        model_configs: their directory; None for the one where fetched files are kept.
        hub: address of a model hub to fetch missing ones from, empty for none.

    Raises:
        InventoryError: as `read_inventory`, or the hub does not give one.
        PlanError: as `read_inventory`.
    """
    from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.inventory import (
        default_model_configs,
        models_of,
        read_model_configs,
    )

    directory = model_configs or Path(default_model_configs())
    given = read_inventory(inventory, group, router_group, str(directory))
    if hub:
        models = models_of(given["hosts"].values())
        fetch_model_configs(hub, directory, models)
        given["model_configs"] = read_model_configs(str(directory), models)
    return given


def _gather(
    inventory: list[str], group: str, router_group: str, model_configs: Path | None, hub: str, diff: bool
) -> dict[str, Any]:
    """Return the planner's input, with what the hosts and the hub say where they are asked."""
    given = read_fleet(inventory, group, router_group, model_configs, hub)
    if diff:
        answers = ask_hosts(inventory, group, "trainyard.neuron.topology_info")
        given["topologies"].update({name: answer["topology"] for name, answer in answers.items()})
    return given


def plan(
    inventory: Annotated[list[str], typer.Option("--inventory", "-i", help="Inventory file, directory or script.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole plan as JSON.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="Ask the hosts what runs, and show what would change.")] = False,
    svg: Annotated[Path | None, typer.Option(help="Write a picture of devices, links and slices.")] = None,
    group: Annotated[str, typer.Option(help="Inventory group of the hosts that serve.")] = "neuron",
    router_group: Annotated[str, typer.Option(help="Inventory group of the routers.")] = "router",
    model_configs: Annotated[
        Path | None, typer.Option(help="Directory with <repo>/<revision>/config.json of models, to estimate memory.")
    ] = None,
    hub: Annotated[str, typer.Option(help="Fetch missing config.json files from this model hub.")] = "",
    variables: extra_vars.ExtraVars = None,
    vault_id: vault.VaultIds = None,
    vault_password_file: vault.VaultFiles = None,
    ask_vault_pass: vault.AskVault = False,
) -> None:
    """Show what would run where: replicas, cores, CPUs, ports, memory, artifacts. Only --diff reaches a host."""
    use_vault(vault_id, vault_password_file, ask_vault_pass)
    extra_vars.use(variables)
    given, found = planned_or_exit(lambda: _gather(inventory, group, router_group, model_configs, hub, diff), inventory)
    if svg:
        write_or_exit(svg, fleet_picture(found, topology_of(found, given)), lambda old: MADE.encode() in old)
    if as_json:
        typer.echo(json.dumps(found, indent=2, sort_keys=True))
        return
    _show(found, given)
    if diff:
        Console(highlight=False).print(diff_table(changes(found, _running(inventory, group))))


def _running(inventory: list[str], group: str) -> dict[str, dict[str, Any]]:
    """Return the replicas that each host runs, by host; hosts that did not answer are left out."""
    try:
        answers = ask_hosts(inventory, group, "trainyard.neuron.replica_info", become=True)
    except AskError as error:
        raise refuse(str(error)) from error
    return {name: answer["replicas"] for name, answer in answers.items()}


def refuse(message: str, code: int = 2) -> typer.Exit:
    """Print an error and return the exit; 1 is a plan that cannot be, 2 an input that cannot be read."""
    console = Console(stderr=True, highlight=False)
    console.print(f"[red]{ERROR}[/]: ", end="")
    console.print(message, soft_wrap=True, markup=False)
    return typer.Exit(code)


def forecast_lines(plan: dict[str, Any], given: dict[str, Any]) -> list[str]:
    """Return a line for each deployment of a plan about what is to be expected of it; none where nothing can be told.

    Args:
        plan: the fleet's plan.
        given: the planner's input, for the models' config.json files.
    """
    # Their package loads no faster than the planner, and only pages for people need it.
    from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast import planned
    from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.calibration import published
    from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.figures import forecast

    calibration, lines = published(), []
    for name in planned.deployments_of(plan):
        try:
            setup = planned.setup_of(plan, name, given.get("model_configs") or {}, calibration.values)
        except planned.NoForecastError:
            continue
        load = planned.load_of(plan, name)
        if planned.too_long(setup, load):
            continue
        found = forecast(setup, load, calibration)
        first, token, made = (
            "{low:,.0f} to {high:,.0f}".format(**found[figure])
            for figure in ("time_to_first_token_p50_ms", "time_per_output_token_p50_ms", "output_tokens_per_s")
        )
        lines.append(
            f"forecast of {name}: first token {first} ms, {token} ms a token, {made} tokens/s with "
            f"{load.input_tokens:g} tokens in and {load.output_tokens:g} out ({found['provenance']}, not measured)"
        )
    return lines


def block_lines(given: dict[str, Any]) -> list[str]:
    """Return a line for each capacity block of the planner's input: until when, what remains, what it has cost."""
    # Only pages for people need it, as above.
    from ansible_collections.trainyard.neuron.plugins.plugin_utils import block_times

    now, hosts = block_times.now_utc(), given["hosts"]
    return [block.line(now) for block in block_times.blocks_of(hosts, sorted(hosts))]


def _show(found: dict[str, Any], given: dict[str, Any]) -> None:
    """Print a plan for people: a table for each host, a few lines about all, then the warnings."""
    console, errors = Console(highlight=False), Console(stderr=True, highlight=False)
    for (heading, table), host in zip(host_tables(found), found["hosts"].values(), strict=True):
        console.print(heading, soft_wrap=True)
        print_replicas(console, table)
        console.print(reach_line(host), soft_wrap=True, markup=False, style="dim")
        console.print()
    about = [*forecast_lines(found, given), *block_lines(given), *reached_by(found), *to_be_pinned(found)]
    for line in [summary(found), *about]:
        console.print(line, soft_wrap=True, markup=False)
    for warning in found["warnings"]:
        errors.print(f"[yellow]{WARNING}[/]: ", end="")
        text = "{host}: {variable}: {rule}. Fix: {fix}".format(**warning)
        errors.print(text, soft_wrap=True, markup=False)
