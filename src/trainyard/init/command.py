# SPDX-License-Identifier: Apache-2.0
"""`trainyard init DIR`: asks for what its flags leave open, plans the result, and only then writes it."""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from trainyard.init.files import Fleet, Host, files_of, hosts
from trainyard.init.recipes import Recipe, RecipeError, recipe_of, recipes
from trainyard.paths import COLLECTIONS, INSTALLED, ROOT, called

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]")
#: What a text may be that goes into YAML as it is, and how that is said.
_TEXTS = {
    "--user": (r"[a-z_][a-z0-9_.-]*", "no name of a user"),
    "--instance-type": (r"[a-z0-9-]+\.[a-z0-9]+", "no type of an instance, such as trn2.48xlarge"),
    "--store": (r"(s3:/|)(/[A-Za-z0-9._-]+)+/?", "neither s3://bucket/prefix nor an absolute path"),
}

#: Stands for the hosts of EC2 where the plan is tried: nobody has this address.
_STAND_IN = Host("ec2-host", "10.0.0.1")


class InitError(Exception):
    """What was given cannot be; one line for each reason."""


def read_hosts(given: Sequence[str], flag: str) -> list[Host]:
    """Return hosts from `NAME=ADDRESS`.

    Raises:
        InitError: what of them is wrong, all of it.
    """
    found, wrong = [], []
    for text in given:
        name, sign, address = text.partition("=")
        if not sign or not _NAME.fullmatch(name):
            wrong.append(
                f"{flag} {text}: give NAME=ADDRESS, such as trn2-a=10.0.0.11 (a name: letters, digits and . _ -)"
            )
            continue
        if not _is_address(address):
            wrong.append(f"{flag} {text}: {address!r} is neither an address nor a host name")
        found.append(Host(name, address))
    if wrong:
        raise InitError("\n".join(wrong))
    return found


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        # A name has a letter: 10.0.0.256 is a slip and no name.
        return bool(_NAME.fullmatch(text)) and any(letter.isalpha() for letter in text)
    return True


def _one_each(*groups: Sequence[Host]) -> list[str]:
    """Return what is said twice and differently: a name with two addresses, an address with two names."""
    addresses: dict[str, str] = {}
    names: dict[str, str] = {}
    wrong = []
    for host in (host for group in groups for host in group):
        if addresses.setdefault(host.name, host.address) != host.address:
            wrong.append(f"{host.name} has two addresses, {addresses[host.name]} and {host.address}")
        if names.setdefault(host.address, host.name) != host.name:
            wrong.append(f"{host.address} has two names, {names[host.address]} and {host.name}: one host cannot be two")
    for group in groups:
        twice = sorted({host.name for host in group if sum(one.name == host.name for one in group) > 1})
        wrong += [f"{name} is given twice" for name in twice]
    return list(dict.fromkeys(wrong))


def fleet_of(
    recipe: Recipe,
    host: Sequence[str],
    router: Sequence[str],
    client: Sequence[str],
    region: Sequence[str],
    single: bool | None,
    user: str,
    instance_type: str,
    store: str,
) -> Fleet:
    """Return what the flags say; arguments as `init` has them.

    Raises:
        InitError: every reason why it cannot be.
    """
    wrong: list[str] = []
    read: list[list[Host]] = []
    for given, flag in ((host, "--host"), (router, "--router"), (client, "--client")):
        try:
            read.append(read_hosts(given, flag))
        except InitError as error:
            wrong.append(str(error))
            read.append([])
    wrong += [
        f"--region {name}: no name of a region, such as us-east-2" for name in region if not _REGION.fullmatch(name)
    ]
    if region and (host or router or client):
        wrong.append("--region reads the hosts from EC2 by their tags: leave --host, --router and --client out")
    if not region and not host:
        wrong.append("no host: give --host NAME=ADDRESS for each that serves, or --ec2 --region REGION")
    if single and (len(host) > 1 or router or client):
        wrong.append(
            "--single is one host that serves, routes and benchmarks: give one --host, no --router, no --client"
        )
    wrong += _one_each(*read)
    for flag, text in (("--user", user), ("--instance-type", instance_type), ("--store", store)):
        pattern, rule = _TEXTS[flag]
        wrong += [] if not text or re.fullmatch(pattern, text) else [f"{flag} {text!r}: {rule}"]
    if wrong:
        raise InitError("\n".join(wrong))
    hosts_found, routers, clients = read
    return Fleet(recipe, hosts_found, routers, clients, tuple(region), user, instance_type, store)


def write(fleet: Fleet, directory: Path) -> None:
    """Write an inventory beside its place, plan it, and put it there: what cannot be planned is not written.

    Raises:
        InitError: the plan has problems, which it prints, or the place cannot be written.
    """
    from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError
    from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.plan import plan_fleet

    from trainyard.plan_command import InventoryError, read_fleet

    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    except OSError as error:
        raise InitError(f"{directory} cannot be written: {error.strerror}") from error
    try:
        for path, text in files_of(fleet, directory).items():
            made.joinpath(path).parent.mkdir(parents=True, exist_ok=True)
            made.joinpath(path).write_text(text, encoding="utf-8")
        tried = made / "hosts.yml"
        if fleet.regions:
            stand_in = Fleet(fleet.recipe, [_STAND_IN])
            tried.write_text(hosts(stand_in), encoding="utf-8")
        plan_fleet(read_fleet([str(tried)], "neuron", "router"))
        if fleet.regions:
            tried.unlink()
        made.chmod(0o755)
        if directory.exists():
            directory.rmdir()
        made.rename(directory)
    except PlanError as error:
        raise InitError(f"nothing was written; {error}") from error
    except (InventoryError, OSError) as error:
        raise InitError(f"nothing was written: {error}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _ask(
    flags: dict[str, object], recipe: str, host: list[str], region: list[str], ec2: bool
) -> tuple[str, list[str], list[str]]:
    """Return recipe, hosts and regions, asking for what the flags leave open; with no terminal nothing is asked."""
    if not recipe:
        for name, one in recipes().items():
            typer.echo(f"  {name:32} {one.instance_type:14} {one.about}")
        recipe = typer.prompt("Which of these recipes", default=next(iter(recipes())))
        recipe_of(recipe)
    if ec2 and not region:
        region = typer.prompt("In which regions of EC2 (with spaces between)", default="us-east-2").split()
    if not ec2 and not host:
        host = _ask_hosts("The hosts that serve, as NAME=ADDRESS with spaces between")
        if len(host) > 1 and flags["single"] is None and not flags["router"]:
            flags["router"] = _ask_hosts("The host that takes requests, as NAME=ADDRESS", host[0])
    return recipe, host, region


def _ask_hosts(question: str, default: str | None = None) -> list[str]:
    return str(typer.prompt(question, default=default)).split()


def init(
    directory: Annotated[
        Path, typer.Argument(resolve_path=True, metavar="DIR", help="Where the inventory is written; new, or empty.")
    ],
    recipe: Annotated[
        str, typer.Option(help="What the hosts serve: a deployment of inventory/trn2 or inventory/recipes.")
    ] = "",
    host: Annotated[
        list[str] | None, typer.Option(metavar="NAME=ADDRESS", help="A host that serves; repeatable.")
    ] = None,
    router: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=ADDRESS", help="A host that takes requests; without it the first that serves."),
    ] = None,
    client: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=ADDRESS", help="A host that sends a benchmark's load; without it the routers."),
    ] = None,
    single: Annotated[
        bool | None, typer.Option("--single/--fleet", help="One host that serves, routes and benchmarks; or several.")
    ] = None,
    ec2: Annotated[bool, typer.Option("--ec2", help="Find the hosts in EC2, by the tag trainyard.")] = False,
    region: Annotated[list[str] | None, typer.Option(help="Region of EC2; repeatable; implies --ec2.")] = None,
    user: Annotated[str, typer.Option(help="Whom Ansible logs in as.")] = "ubuntu",
    instance_type: Annotated[str, typer.Option(help="Of the hosts that serve; without it the recipe's.")] = "",
    store: Annotated[
        str, typer.Option(help="Where compiled models are kept: s3://bucket/prefix, or a shared path.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON; ask nothing.")] = False,
) -> None:
    """Write an inventory for your hosts: asks for what is not given, reaches no host, and says what comes next."""
    errors = Console(stderr=True, highlight=False)
    try:
        _refuse_taken(directory)
        if recipe:
            recipe_of(recipe)
        flags: dict[str, object] = {"single": single, "router": router}
        hosts_given, regions = list(host or ()), list(region or ())
        ec2 = ec2 or bool(regions)
        if at_a_terminal() and not as_json:
            recipe, hosts_given, regions = _ask(flags, recipe, hosts_given, regions, ec2)
        elif not recipe:
            raise InitError(f"no recipe: give --recipe, one of {', '.join(recipes())}")
        if ec2 and not regions:
            raise InitError("no region: give --region, such as us-east-2, once for each")
        asked = flags["router"]
        routers = [str(one) for one in asked] if isinstance(asked, list) else []
        chosen = recipe_of(recipe)
        fleet = fleet_of(chosen, hosts_given, routers, client or (), regions, single, user, instance_type, store)
        write(fleet, directory)
    except (InitError, RecipeError) as error:
        errors.print("[red]error[/]: ", end="")
        errors.print(str(error), soft_wrap=True, markup=False)
        raise typer.Exit(2) from error
    if as_json:
        files = sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())
        typer.echo(json.dumps({"directory": str(directory), "recipe": fleet.recipe.name, "files": files}, indent=2))
    for line in next_steps(fleet, directory):
        typer.echo(line, err=as_json)
    if INSTALLED:
        typer.echo(settings_beside(Path.cwd()), err=as_json)


def settings_beside(folder: Path, source: Path = ROOT / "ansible.cfg", carried: Path = COLLECTIONS) -> str:
    """Write Ansible's settings where there are none, and return a line about them; a checkout has its own.

    Args:
        folder: where `ansible-playbook` will be called.
        source: the settings to write.
        carried: where the collection is looked for last, after the places where `ansible-galaxy` installs one.
    """
    file = folder / "ansible.cfg"
    text = source.read_text(encoding="utf-8")
    searched = f"collections_path = collections:~/.ansible/collections:/usr/share/ansible/collections:{carried}"
    text = re.sub(r"^collections_path = .*$", lambda _: searched, text, count=1, flags=re.MULTILINE)
    text = re.sub(r"^roles_path = .*\n", "", text, flags=re.MULTILINE)
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(text)
    except FileExistsError:
        return f"{file} was left as it is; {source} has the settings that the playbooks are tried with."
    except OSError as error:
        return (
            f"{file} cannot be written ({error.strerror}); {source} has the settings that the playbooks are tried with."
        )
    return f"{file} has Ansible's settings; call the commands from there."


def at_a_terminal() -> bool:
    """Return whether somebody can be asked."""
    return sys.stdin.isatty()


def _refuse_taken(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise InitError(f"{directory} is a file: name a new directory")
    if directory.is_dir() and any(directory.iterdir()):
        raise InitError(f"{directory} is not empty, and nothing in it is overwritten: name a new directory")


def next_steps(fleet: Fleet, directory: Path) -> list[str]:
    """Return what is to be done now, a line each."""
    source = directory / fleet.source
    here = Path.cwd()
    if (here == ROOT or INSTALLED) and source.is_relative_to(here):
        source = source.relative_to(here)
    lines = [f"{directory} serves {fleet.recipe.name}: {fleet.recipe.about}.", ""]
    if fleet.regions:
        lines += [f"Give the instances the tag trainyard = {fleet.recipe.name}, and one of them also: router client"]
    elif not fleet.routers:
        lines += [f"{fleet.hosts[0].name} routes and sends the benchmark's load as well."]
    if fleet.recipe.gated:
        lines += ["The model is gated: accept its licence on the hub, then  export HF_TOKEN=hf_..."]
    steps = {
        f"trainyard plan -i {source}": "seconds; reaches no host",
        f"ansible-playbook {called('preflight')} -i {source}": "under a minute; changes nothing",
        f"ansible-playbook {called('site')} -i {source}": "an hour or more, most of it one compile",
    }
    width = max(map(len, steps))
    lines += ["Next:"] + ([] if here == ROOT or INSTALLED else [f"  cd {ROOT}"])
    return lines + [f"  {command:{width}}  # {cost}" for command, cost in steps.items()]
