#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Compile and serve on a host for its acceptance, on cores that nobody holds."""

from __future__ import annotations

DOCUMENTATION = r"""
module: acceptance_trial
author:
  - trainyard contributors (@trainyard)
version_added: 0.1.0
short_description: Try a deployment on a Neuron host, for its acceptance
description:
  - Compiles and serves a deployment as the plan has it, and with one thing wrong at a time, on free cores and in a
    directory of its own, and returns what was seen. Whatever it started has ended when it returns, and the directory is
    gone.
  - C(trainyard.neuron.acceptance_report) judges it against what the product relies on.
options:
  stages:
    description:
      - C(compile) compiles; C(serve) starts servers, asks them and ends them; C(fault) kills, stops and cuts what it
        started itself; C(roll) replaces two servers one by one under load. Each takes free cores, and time as the
        model's starts and compiles do.
    type: list
    elements: str
    choices: [compile, serve, fault, roll]
    required: true
  replica:
    description: A replica of the host, as the plan has it. Without one only O(image) is tried.
    type: dict
  artifact:
    description: Its artifact, as the plan has it.
    type: dict
  cores_variable:
    description: Variable that names a process's cores.
    type: str
  artifact_variable:
    description: Variable that names the compiled model's directory.
    type: str
  image:
    description: Image of a deployment that runs in a container, of which one is asked what it may do. It is not pulled.
    type: str
  engine:
    description: What runs that container.
    type: str
    choices: [podman, docker]
    default: podman
  load_bytes:
    description: What the plan counts with for a load, of the host's memory. 0 is not known.
    type: int
    default: 0
  directory:
    description: Directory of the trials. It is removed before and after.
    type: path
    required: true
  user:
    description: Who compiles and serves; C(nobody) where there is no such user yet.
    type: str
    required: true
  tools:
    description: Directory of the Neuron tools.
    type: path
    default: /opt/aws/neuron/bin
  devices:
    description: Directory of the device files.
    type: path
    default: /dev
  sysfs:
    description: Where the kernel shows its devices.
    type: path
    default: /sys
  timeout:
    description: Seconds that a start or a compile may take.
    type: int
    default: 5400
attributes:
  check_mode:
    description: Nothing is started.
    support: none
"""

EXAMPLES = r"""
- name: Try the host's first deployment
  trainyard.neuron.acceptance_trial:
    stages: [compile, serve]
    replica: "{{ lookup('trainyard.neuron.plan', 'host').replicas[0] }}"
    artifact: "{{ lookup('trainyard.neuron.plan', 'host').artifacts[0] }}"
    cores_variable: NEURON_RT_VISIBLE_CORES
    artifact_variable: NEURON_COMPILED_ARTIFACTS
    directory: /data/acceptance
    user: vllm
"""

RETURN = r"""
trials:
  description: What was seen, by trial.
  returned: always
  type: dict
"""

from pathlib import Path
from typing import Any, Dict

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils.acceptance_container import container_trial
from ansible_collections.trainyard.neuron.plugins.module_utils.acceptance_trials import (
    TRIED,
    Deployment,
    Trials,
    as_user,
)


def deployment(given: Dict[str, Any]) -> Deployment:
    """Return what is tried.

    Raises:
        KeyError: the plan's part lacks a word.
    """
    replica, artifact = given["replica"], given["artifact"]
    return Deployment(
        generation=replica["generation"],
        serve=tuple(map(str, replica["argv"])),
        environment={name: str(value) for name, value in replica["environment"].items()},
        compile=tuple(map(str, artifact["argv"])),
        compile_environment={name: str(value) for name, value in artifact["environment"].items()},
        model=replica["weights_path"],
        artifact=artifact["path"],
        served_name=replica["served_name"],
        compiled=replica.get("compiled") or {},
        degree=int(replica["core_count"]),
        cores_variable=given["cores_variable"],
        artifact_variable=given["artifact_variable"],
        hbm_bytes=replica.get("hbm_bytes_needed"),
        load_bytes=given["load_bytes"] or None,
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "stages": {"type": "list", "elements": "str", "choices": list(TRIED), "required": True},
            "replica": {"type": "dict"},
            "artifact": {"type": "dict"},
            "cores_variable": {"type": "str"},
            "artifact_variable": {"type": "str"},
            "image": {"type": "str"},
            "engine": {"type": "str", "choices": ["podman", "docker"], "default": "podman"},
            "load_bytes": {"type": "int", "default": 0},
            "directory": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "tools": {"type": "path", "default": "/opt/aws/neuron/bin"},
            "devices": {"type": "path", "default": "/dev"},
            "sysfs": {"type": "path", "default": "/sys"},
            "timeout": {"type": "int", "default": 5400},
        },
        required_one_of=[("replica", "image")],
        required_together=[("replica", "artifact", "cores_variable", "artifact_variable")],
        supports_check_mode=False,
    )
    given = module.params
    if given["image"]:
        seen = container_trial(given["engine"], given["image"], Path(given["devices"]))
        module.exit_json(changed=False, trials={"container": seen})
    try:
        tried = deployment(given)
    except (KeyError, TypeError, AttributeError) as error:
        module.fail_json(msg="the plan's replica or artifact lacks %s; nothing was started" % error)
    if not Path(tried.model).is_dir():
        module.fail_json(msg="no checkpoint at %s; nothing was started. Next: run provision.yml" % tried.model)
    directory = Path(given["directory"])
    tools, devices, sysfs = Path(given["tools"]), Path(given["devices"]), Path(given["sysfs"])
    trials = Trials(tried, directory, tools, devices, float(given["timeout"]), sysfs)
    try:
        found = as_user(given["user"], directory, lambda: trials.run(given["stages"]))
    except OSError as error:
        module.fail_json(msg="%s; what was started has ended" % error)
    module.exit_json(changed=False, trials=found)


if __name__ == "__main__":
    main()
