#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module side of ``trainyard.neuron.sdk_release``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sdk_release
short_description: The releases of the Neuron SDK that a host serves with
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Compares the system packages with the rows of the SDK table, finds the Python environment of each row, compares its
    packages, and runs the commands that are needed later once, to see that they work.
  - Driver and runtime of different releases do not work together, so packages of other versions are an error, or are
    brought to the right version and held where O(apt_source) is given (by the action plugin of the same name, with
    C(ansible.builtin.apt)).
  - The driver is not touched while processes hold it.
options:
  releases:
    description: Rows of the SDK table, as a host's plan lists them.
    type: list
    elements: dict
    required: true
  apt_source:
    description: Address of the repository that serves the Neuron packages. Empty means that nothing is installed.
    type: str
    default: ""
  apt_key:
    description: Address of that repository's signing key, or the key itself. Needed with O(apt_source).
    type: str
    default: ""
  apt_suite:
    description: Suite of the repository; the code name of the host's distribution where empty.
    type: str
    default: ""
  pip_index:
    description:
      - Address of Neuron's package index, for releases whose vLLM is built into the environment of the machine image.
      - Empty means that nothing is built.
    type: str
    default: ""
  general_index:
    description: Address of the index for all other Python packages; pip's default where empty.
    type: str
    default: ""
  source_base:
    description: What stands before C(owner/name) in the address of a source repository.
    type: str
    default: https://github.com
  source_commits:
    description: The commit that each source is built at, by C(owner/name@ref).
    type: dict
    default: {}
  allow_drift:
    description: Report packages and environments of other versions as warnings instead of errors.
    type: bool
    default: false
attributes:
  check_mode:
    description: Reports what differs and installs nothing. The SDK's commands are not run.
    support: full
  diff_mode:
    description: Versions of system packages before and after.
    support: full
"""

EXAMPLES = r"""
- name: The SDK releases are here and work
  trainyard.neuron.sdk_release:
    releases:
      - release: 2.27.0
        generation: nxdi_v1
        runtime: venv
        venv: /opt/aws_neuronx_venv_pytorch_inference_vllm
        packages: {aws-neuronx-dkms: 2.25.4.0}
        versions: {vllm: 0.11.0}
"""

RETURN = r"""
venvs:
  description: The environment of each release, by release and generation.
  returned: success
  type: dict
  sample: {"2.27.0 nxdi_v1": "/opt/aws_neuronx_venv_pytorch_inference_vllm"}
packages:
  description: Installed Neuron packages.
  returned: success
  type: dict
install:
  description: Packages to be installed, each C(name=version*); the action plugin reacts to it.
  returned: when packages differ and O(apt_source) is given
  type: list
  elements: str
"""

from pathlib import Path
from typing import Any, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils import sdk, sdk_build

ARGUMENT_SPEC: Dict[str, Dict[str, Any]] = {
    "releases": {"type": "list", "elements": "dict", "required": True},
    "apt_source": {"type": "str", "default": ""},
    "apt_key": {"type": "str", "default": "", "no_log": False},
    "apt_suite": {"type": "str", "default": ""},
    "pip_index": {"type": "str", "default": ""},
    "general_index": {"type": "str", "default": ""},
    "source_base": {"type": "str", "default": "https://github.com"},
    "source_commits": {"type": "dict", "default": {}},
    "allow_drift": {"type": "bool", "default": False},
}

NOTES = Path("/var/lib/trainyard/sdk")


def package_lines(packages: Dict[str, str]) -> str:
    """Return one line for each package."""
    return "".join(f"{name} {version}\n" for name, version in sorted(packages.items()))


def settle(module: AnsibleModule, problems: List[str]) -> None:
    """Fail with all problems at once, or warn where drift is allowed."""
    if problems and not module.params["allow_drift"]:
        module.fail_json(
            msg="; ".join(problems) + ". Nothing was changed; neuron_venv_allow_drift=true goes on all the same"
        )
    for problem in problems:
        module.warn(problem)


def packages(module: AnsibleModule, run: sdk.Run, root: sdk.Root) -> Tuple[Dict[str, str], Dict[str, str]]:
    """Return installed packages and those to be changed."""
    wanted = sdk.wanted_packages(module.params["releases"])
    installed = sdk.installed_packages(run, sorted(wanted))
    changes = sdk.package_changes(installed, wanted)
    if not module.params["apt_source"]:
        drifted = {name: version for name, version in changes.items() if name in installed}
        settle(
            module,
            [
                f"{name} {installed[name]} is installed, the SDK release has {version}: use the machine image of that "
                "release, or set neuron_venv_apt_source to have it installed"
                for name, version in drifted.items()
            ],
        )
        return installed, {}
    users = sdk.driver_users(root)
    if sdk.DRIVER in changes and users and sdk.DRIVER in installed:
        raise sdk.SdkError(
            f"the driver would change from {installed[sdk.DRIVER]} to {changes[sdk.DRIVER]} while it is held {users} "
            "time(s): drain and stop the replicas of this host first (playbooks/teardown.yml --limit)"
        )
    return installed, changes


def sources(module: AnsibleModule) -> sdk_build.Sources:
    """Return where a build takes source and packages from."""
    return sdk_build.Sources(
        base=module.params["source_base"],
        neuron_index=module.params["pip_index"],
        general_index=module.params["general_index"],
        commits=module.params["source_commits"],
    )


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, required_by={}, supports_check_mode=True, required_together=[])

    def run(argv: List[str]) -> Tuple[int, str, str]:
        try:
            status, output, errors = module.run_command(argv, handle_exceptions=False)
        except OSError as error:
            return 127, "", str(error)
        return int(status), str(output), str(errors)

    def in_environment(argv: List[str], environment: Dict[str, str]) -> Tuple[int, str, str]:
        status, output, errors = module.run_command(argv, environ_update=environment)
        return int(status), str(output), str(errors)

    root = sdk.Root()
    try:
        installed, changes = packages(module, run, root)
        diff = {
            "before": package_lines({name: installed.get(name, "absent") for name in changes}),
            "after": package_lines(changes),
        }
        if changes and not module.check_mode:
            install = [f"{name}={version}*" for name, version in changes.items()]
            module.exit_json(
                changed=False, install=install, hold=sorted(changes), diff=diff, venvs={}, packages=installed
            )
        venvs, problems, built = {}, [], []
        for row in module.params["releases"]:
            if row["runtime"] != "venv":
                continue
            venv = sdk.find_venv(row, root)
            venvs[f"{row['release']} {row['generation']}"] = venv
            if sdk_build.needed(row, root.at(venv)):
                built.append(f"vLLM of SDK {row['release']} into {venv}")
                if not module.check_mode:
                    sdk_build.build(row, venv, sources(module), in_environment)
            problems += sdk.version_problems(row, sdk.table_versions(root.at(venv)))
            if not module.check_mode:
                sdk.verify(row, venv, run, root, NOTES)
        settle(module, problems)
        diff["after"] += "".join(f"build {line}\n" for line in built)
        module.exit_json(changed=bool(changes or built), venvs=venvs, packages=installed, diff=diff)
    except (OSError, KeyError, sdk.SdkError) as error:
        module.fail_json(msg=f"{error}. Nothing was changed")


if __name__ == "__main__":
    main()
