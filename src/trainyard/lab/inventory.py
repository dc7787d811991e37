# SPDX-License-Identifier: Apache-2.0
"""The lab as an Ansible inventory."""

from __future__ import annotations

import json
from typing import Any

from trainyard.lab.cache import digest, write
from trainyard.lab.state import BUCKET, MODEL, Lab, Paths


def control_path_dir(lab: Lab) -> str:
    """Where Ansible keeps the lab's SSH connections: short (a socket's path has 107 characters), and the lab's own."""
    return f"/tmp/trainyard-ssh-{digest(lab.id)[:12]}"  # noqa: S108 - Ansible makes it with mode 0700


def ssh_options(lab: Lab, files: Paths) -> list[str]:
    """Options with which `ssh` reaches the lab's hosts, and only hosts whose key the lab made."""
    del lab
    return [
        *("-o", f"UserKnownHostsFile={files.known_hosts}"),
        *("-o", "GlobalKnownHostsFile=/dev/null"),
        *("-o", "StrictHostKeyChecking=yes"),
        *("-o", "HostKeyAlgorithms=ssh-ed25519"),
        *("-o", "IdentitiesOnly=yes"),
        *("-o", "IdentityAgent=none"),
        *("-o", "UpdateHostKeys=no"),
    ]


def render(lab: Lab, files: Paths) -> dict[str, Any]:
    """The inventory in the form that Ansible takes from a script: groups, and the variables of every host at once."""
    shared = {
        "ansible_user": "ubuntu",
        "ansible_ssh_private_key_file": str(files.key),
        "ansible_ssh_common_args": " ".join(f"'{word}'" if " " in word else word for word in ssh_options(lab, files)),
        "ansible_control_path_dir": control_path_dir(lab),
        "ansible_python_interpreter": "/usr/bin/python3",
        "trainyard_instance_type": lab.instance_type,
        "trainyard_logical_nc_config": lab.logical_nc_config,
        "lab_name": lab.name,
        "lab_engine": lab.engine,
        "lab_hub_url": lab.hub_url,
        "lab_s3_url": lab.aws_url,
        "lab_bucket": BUCKET,
        "lab_apt_url": lab.apt_url,
        "lab_images": lab.images,
        "trainyard_images_file": str(files.images),
        "trainyard_history_file": str(files.history),
        "lab_model_repo": MODEL,
        "lab_model_revision": lab.model_revision,
    }
    names = lab.own_hosts
    return {
        "all": {"vars": shared},
        "neuron": {"hosts": names},
        "router": {"hosts": names[:1]},
        "client": {"hosts": names[:1]},
        "_meta": {"hostvars": {name: {"ansible_host": lab.hosts[name]} for name in names}},
    }


def save(lab: Lab, files: Paths) -> None:
    """Write the inventory where inventory/lab/hosts.py finds it."""
    write(files.inventory, json.dumps(render(lab, files), indent=2) + "\n")
