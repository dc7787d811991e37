# SPDX-License-Identifier: Apache-2.0
"""The files of a new inventory, as text by path: what is decided is a value, what is left is a comment beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainyard.init.recipes import FLEET, Recipe
from trainyard.paths import ROOT

SCHEMAS = ROOT / "docs/schemas"


#: Files of the shipped fleet that any fleet has: who takes requests, what measures.
AS_SHIPPED = ("group_vars/all/router.yml", "group_vars/all/benchmark.yml")


@dataclass(frozen=True)
class Host:
    """A host by its name in the inventory and where Ansible connects to."""

    name: str
    address: str


@dataclass(frozen=True)
class Fleet:
    """What somebody has.

    Attributes:
        recipe: what its hosts serve.
        hosts: those that serve; none where EC2 is asked.
        routers: those that take requests; none is the first that serves.
        clients: those that send the load of benchmarks; none is the routers.
        regions: of EC2, where the hosts are found by their tags; empty for hosts written by hand.
        user: whom Ansible logs in as.
        instance_type: of the hosts that serve; empty for the recipe's.
        store: where compiled artifacts are kept, `s3://bucket/prefix` or a shared path; empty for the hosts alone.
    """

    recipe: Recipe
    hosts: Sequence[Host] = ()
    routers: Sequence[Host] = ()
    clients: Sequence[Host] = ()
    regions: Sequence[str] = ()
    user: str = "ubuntu"
    instance_type: str = ""
    store: str = ""

    @property
    def source(self) -> str:
        """The part of the directory that stands behind `-i`: Ansible leaves EC2's file out of a directory."""
        return "aws_ec2.yml" if self.regions else ""


def files_of(fleet: Fleet, directory: Path) -> dict[str, str]:
    """Return the text of each file of an inventory, by its path in it.

    Args:
        fleet: what somebody has.
        directory: where it will be, to which the way to the schemas is found.
    """
    group = fleet.recipe.group
    made = {
        "group_vars/all/connection.yml": _connection(fleet),
        "group_vars/all/hub.yml": _hub(fleet.recipe),
        **{name: _shipped(name) for name in AS_SHIPPED},
        # Where software comes from is comments alone, which stand below what is decided.
        "group_vars/neuron/host.yml": _host(fleet) + "\n" + _shipped("group_vars/neuron/software.yml"),
        f"group_vars/{group}/deployment.yml": fleet.recipe.text,
    }
    found = {}
    for path, text in made.items():
        found[path] = f"---\n{_schema(directory / path, 'inventory')}\n{text.removeprefix('---').lstrip()}"
    if fleet.regions:
        path = "group_vars/neuron/block.yml"
        text = (FLEET / path).read_text(encoding="utf-8").removeprefix("---").lstrip()
        found[path] = f"---\n{_schema(directory / path, 'inventory')}\n{text}"
        found["aws_ec2.yml"] = ec2(fleet.regions, directory)
    else:
        found["hosts.yml"] = f"---\n{_schema(directory / 'hosts.yml', 'hosts')}\n{hosts(fleet)}"
    return found


def _shipped(name: str) -> str:
    """Return the text of a file of the shipped fleet, without the line `---`."""
    return (FLEET / name).read_text(encoding="utf-8").removeprefix("---\n")


def _schema(file: Path, name: str) -> str:
    """Return the line by which editors know what may stand in a file."""
    schema = SCHEMAS / f"{name}.schema.json"
    # Within the checkout the way is relative, so that both can move; elsewhere it would lead through the root.
    way = os.path.relpath(schema, file.parent) if file.is_relative_to(ROOT) else schema
    return f"# yaml-language-server: $schema={way}"


def hosts(fleet: Fleet) -> str:
    """Return the hosts of a fleet written by hand, as Ansible's YAML."""
    written = {host.name for host in fleet.hosts}
    routers = fleet.routers or fleet.hosts[:1]
    lines = [
        "# Names are yours; ansible_host is where Ansible connects to. A host that others reach at another address has",
        "# trainyard_address beside it, the private one.",
        "all:",
        "  children:",
        "    neuron: # every host that serves",
        "      children:",
        f"        {fleet.recipe.group}: # what they serve: group_vars/{fleet.recipe.group}/deployment.yml",
        "          hosts:",
        *(f"            {host.name}: {_reached(host)}" for host in fleet.hosts),
    ]
    for name, what, members in (
        ("router", "where requests come in", routers),
        ("client", "where benchmarks send them from", fleet.clients or routers),
    ):
        lines += [f"    {name}: # {what}", "      hosts:"]
        for host in members:
            lines.append(f"        {host.name}:" + ("" if host.name in written else f" {_reached(host)}"))
            written.add(host.name)
    return "\n".join(lines) + "\n"


def _reached(host: Host) -> str:
    # Quoted where colons would be YAML's.
    return f'{{ansible_host: "{host.address}"}}' if ":" in host.address else f"{{ansible_host: {host.address}}}"


def ec2(regions: Sequence[str], directory: Path) -> str:
    """Return the inventory by EC2's tags, that of the shipped fleet with other regions."""
    text = (FLEET / "aws_ec2.yml").read_text(encoding="utf-8")
    text = text.replace("# The same fleet as EC2 knows it: running", "# The fleet as EC2 knows it: running")
    text = text.replace("inventory/trn2/aws_ec2.yml", str(directory / "aws_ec2.yml"))
    before, _, after = text.partition("regions:\n")
    rest = after.splitlines(keepends=True)
    while rest and rest[0].startswith("  - "):
        rest.pop(0)
    return before + "regions:\n" + "".join(f"  - {region}\n" for region in regions) + "".join(rest)


def _connection(fleet: Fleet) -> str:
    return f"""\
# How the hosts are reached. Neuron's machine images have the user ubuntu; host keys are checked, so know them first
# (ssh-keyscan, or once ssh each of them).
ansible_user: {fleet.user}
ansible_python_interpreter: /usr/bin/python3

# A key of its own:
# ansible_ssh_private_key_file: ~/.ssh/fleet.pem
# Through a bastion (inventory/examples/bastion.yml):
# ansible_ssh_common_args: -o ProxyJump=ec2-user@bastion.example.com
# Without SSH, through Systems Manager (inventory/examples/ssm-connection.yml):
# ansible_connection: amazon.aws.aws_ssm
"""


def _hub(recipe: Recipe) -> str:
    need = (
        "This model is gated: accept its licence on the hub's page of the repository with the account of the token."
        if recipe.gated
        else "This model is open, and an empty token will do; with one the hub lets you fetch more in an hour."
    )
    return f"""\
# {need}
# Here it is taken from this shell (export HF_TOKEN=...), so that it is in no file.
model_weights_hub_token: "{{{{ lookup('ansible.builtin.env', 'HF_TOKEN') }}}}"

# From a vault, from Parameter Store or from Secrets Manager: inventory/examples/secrets-*.yml.
# A mirror of the hub:
# model_weights_hub_endpoint: https://hub.example.com
"""


def _host(fleet: Fleet) -> str:
    kind = fleet.instance_type or fleet.recipe.instance_type
    store = f"model_compile_store: {fleet.store}" if fleet.store else "# model_compile_store: s3://bucket/prefix"
    return f"""\
# What the hosts are, to plan with none at hand; a host that is reached is asked, and wins.
trainyard_instance_type: {kind}
# Weights, compiled models and images are here: the RAID volume over the instance store.
trainyard_data_dir: /data
# Where Prometheus finds the metrics of the devices; no replica gets this port.
trainyard_monitor_port: 9400

# Where compiled models are kept for other hosts and after these: a compile of a large model takes an hour.
{store}

# Whatever is measured on these hosts is said to come from them.
benchmark_provenance: measured on {kind}
"""
