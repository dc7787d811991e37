#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module side of ``trainyard.neuron.sdk_release``."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sdk_release
short_description: Judge a host by the releases of the Neuron SDK that it serves with
version_added: "0.1.0"
author:
  - trainyard contributors (@trainyard)
description:
  - Compares the system packages with the rows of the SDK table, finds the Python environment of each row, compares its
    packages, and runs the commands that are needed later once, to see that they work and what version they are.
  - Changes nothing. What differs is returned, for the tasks of a role to mend; what no task may mend is an error.
  - Driver and runtime of different releases do not work together, so packages of other versions are an error where
    O(package_source) does not say what to install them from.
  - Packages are not to change while replicas run on them or processes hold the driver, unless O(in_use=drain).
options:
  releases:
    description: Rows of the SDK table, as a host's plan lists them.
    type: list
    elements: dict
    required: true
  package_source:
    description:
      - Address of the repository that serves the Neuron packages.
      - V(neuron) is Neuron's public one for the host's package manager.
      - Empty means that nothing is installed.
    type: str
    default: ""
  package_key:
    description:
      - Address of that repository's signing key, or the key itself.
      - That of Neuron's public repository is known.
    type: str
    default: ""
  package_suite:
    description: Suite of the repository, for apt; the code name of the host's distribution where empty.
    type: str
    default: ""
  in_use:
    description:
      - What is said when packages must change while replicas of this host use them.
      - V(refuse) fails and says who uses them. V(drain) returns the replicas that have to leave first.
    type: str
    choices: [refuse, drain]
    default: refuse
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
  mended:
    description: Whether what differed was mended before; a driver that the kernel still lacks is then an error.
    type: bool
    default: false
  state:
    description:
      - V(absent) returns what lets the system's upgrades reach the packages again, and what binds names to the
        repository.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment: [trainyard.neuron.fence]
attributes:
  check_mode:
    description: Says the same. The SDK's commands are not run.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
"""

EXAMPLES = r"""
- name: Compare the host with the releases of its plan
  trainyard.neuron.sdk_release:
    releases:
      - release: 2.27.0
        generation: nxdi_v1
        runtime: venv
        venv: /opt/aws_neuronx_venv_pytorch_inference_vllm
        packages: {aws-neuronx-dkms: 2.25.4.0}
        versions: {vllm: 0.11.0}
  register: found
"""

RETURN = r"""
differs:
  description: Whether anything of what follows is to be done.
  returned: success
  type: bool
venvs:
  description: The environment of each release, by release and generation.
  returned: success
  type: dict
  sample: {"2.27.0 nxdi_v1": "/opt/aws_neuronx_venv_pytorch_inference_vllm"}
packages:
  description: Installed Neuron packages.
  returned: success
  type: dict
manager:
  description: The host's package manager, C(apt) or C(dnf).
  returned: success
  type: str
repository:
  description: The RV(ignore:address), RV(ignore:key) and RV(ignore:suite) that packages are installed from.
  returned: success
  type: dict
install:
  description: Packages to bring to a version, by name; to any, where it is empty.
  returned: success
  type: dict
hold:
  description: Packages that the system's upgrades are to leave alone, and do not.
  returned: success
  type: list
  elements: str
free:
  description: Packages that the system's upgrades are to reach again.
  returned: success
  type: list
  elements: str
forget:
  description: Whether the entry of Neuron's repository is to go.
  returned: success
  type: bool
files:
  description: Files to write, or to remove where O(ignore:content) is null, for M(trainyard.neuron.file_tree).
  returned: success
  type: list
  elements: dict
pause:
  description: >-
    The RV(ignore:replicas) that use what is to change, and whether the RV(ignore:monitor) of the devices holds it, for
    M(trainyard.neuron.serving_pause); empty where nobody has to stop.
  returned: success
  type: dict
resume:
  description: Whether the host is out of service for a change that has been made.
  returned: success
  type: bool
builds:
  description: Jobs that build vLLM, for M(trainyard.neuron.jobs).
  returned: success
  type: list
  elements: dict
load:
  description: Whether the kernel is to be given the driver.
  returned: success
  type: bool
tools:
  description: System packages that the builds need and that are missing.
  returned: success
  type: list
  elements: str
reboot:
  description: Whether a reboot brings the installed driver into the kernel and cuts nobody off.
  returned: when another driver is loaded than the one that is installed
  type: bool
"""

import dataclasses
import platform
import shutil
from pathlib import Path
from typing import Any, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils import host_packages, making_way, sdk, sdk_build
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import fence

ARGUMENT_SPEC: Dict[str, Dict[str, Any]] = {
    "releases": {"type": "list", "elements": "dict", "required": True},
    "package_source": {"type": "str", "default": ""},
    "package_key": {"type": "str", "default": "", "no_log": False},
    "package_suite": {"type": "str", "default": ""},
    "in_use": {"type": "str", "choices": ["refuse", "drain"], "default": "refuse"},
    "pip_index": {"type": "str", "default": ""},
    "general_index": {"type": "str", "default": ""},
    "source_base": {"type": "str", "default": "https://github.com"},
    "source_commits": {"type": "dict", "default": {}},
    "allow_drift": {"type": "bool", "default": False},
    "mended": {"type": "bool", "default": False},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "fence": fence.FENCE_OPTION,
}


class Release:
    """One look at a host, and what follows from it."""

    def __init__(self, module: AnsibleModule, root: sdk.Root) -> None:
        self.module = module
        self.params: Dict[str, Any] = module.params
        self.root = root
        self.files: List[Dict[str, Any]] = []
        self.manager = host_packages.manager_of(shutil.which)
        given = host_packages.Source(*(self.params[f"package_{key}"] for key in ("source", "key", "suite")))
        self.source = given.of_host(self.manager.public, _text(root.at("/etc/os-release")))
        self.wanted = sdk.wanted_packages(self.params["releases"])
        self.installed: Dict[str, host_packages.Installed] = self.manager.read(self.run, sorted(self.wanted))

    def run(self, argv: List[str]) -> Tuple[int, str, str]:
        """Run a command; its absence is a status as the shell has it."""
        try:
            status, output, errors = self.module.run_command(argv, handle_exceptions=False)
        except OSError as error:
            return 127, "", str(error)
        return int(status), str(output), str(errors)

    def end(self, changes: host_packages.Changes, **more: Any) -> None:
        """Report what was found; `more` is what packages do not say."""
        found: Dict[str, Any] = {
            "install": changes.install,
            "hold": changes.hold,
            "free": changes.free,
            "forget": changes.forget,
            "files": self.files,
            "leave": [],
            "pause": False,
            "resume": False,
            "builds": [],
            "tools": [],
            "load": False,
            **more,
        }
        differs = any(value for name, value in found.items() if name != "venvs")
        packages = {name: package.version for name, package in self.installed.items()}
        found = {"venvs": {}, "repository": vars(self.source), **found}
        self.module.exit_json(changed=False, differs=differs, packages=packages, manager=self.manager.name, **found)

    def settle(self, problems: List[str]) -> None:
        """Fail with all problems at once, or warn where drift is allowed."""
        if problems and not self.params["allow_drift"]:
            self.module.fail_json(
                msg="; ".join(problems) + ". Nothing was changed; neuron_venv_allow_drift=true goes on all the same"
            )
        for problem in problems:
            self.module.warn(problem)

    def package_changes(self) -> host_packages.Changes:
        """Return what the package manager is to do; without a source, differences are problems."""
        changes = host_packages.changes(self.installed, self.wanted)
        if self.source.address:
            kernel = platform.release()
            if sdk.DRIVER in changes.install and not sdk.headers_are_here(self.root, kernel):
                # Without them the driver's package builds nothing, and says so to nobody.
                first = {self.manager.headers % kernel: ""}
                changes = dataclasses.replace(changes, install={**first, **changes.install})
            return changes
        self.settle(
            [
                f"{name} {self.installed[name].version} is installed, the SDK release has {version}: use the machine "
                "image of that release, or set neuron_venv_package_source to have it installed"
                for name, version in changes.install.items()
                if name in self.installed
            ]
        )
        return host_packages.Changes()

    def versions_to_be(self, changes: host_packages.Changes) -> Dict[str, str]:
        """Return the packages' versions once the changes are carried out."""
        return {**{name: package.version for name, package in self.installed.items()}, **changes.install}

    def users(self, changes: host_packages.Changes) -> Tuple[List[str], List[str]]:
        """Return the replicas that use a package which changes, and the other processes that hold the driver."""
        touched = [name for name in changes.install if name in self.installed]
        if not touched:
            return [], []
        replicas = sdk.running_replicas(self.run)
        if replicas or sdk.DRIVER not in touched:
            return replicas, []
        return replicas, sdk.driver_holders(self.root, apart_from=making_way.MONITOR)

    def leaving(self, changes: host_packages.Changes) -> List[str]:
        """Return the replicas that are to be stopped before packages change.

        Raises:
            sdk.SdkError: somebody uses the packages, and was not to be stopped.
        """
        replicas, others = self.users(changes)
        what = ", ".join(
            f"{name} {self.installed[name].version} -> {version}"
            for name, version in changes.install.items()
            if name in self.installed
        )
        if others:
            raise sdk.SdkError(f"{what}: the driver is held by {', '.join(others)}; stop them first")
        if replicas and self.params["in_use"] == "refuse":
            raise sdk.SdkError(
                f"{what}: {', '.join(replicas)} run on these packages. Have the replicas of one host at a time "
                "taken out of service for it: `trainyard upgrade` does"
            )
        return replicas

    def ask_for_reboot(self, problems: List[str]) -> None:
        """Fail over a driver that the kernel did not let go of, and say whether a reboot cuts nobody off.

        Replicas that are to leave before are returned instead; the next look finds none.
        """
        replicas = sdk.running_replicas(self.run)
        if replicas and self.params["in_use"] == "drain" and not self.module.check_mode:
            self.end(host_packages.Changes(), pause={"replicas": replicas, "monitor": True})
        self.module.fail_json(msg="; ".join(problems), reboot=not replicas)

    def bind(self, wanted: str) -> None:
        """Note that the file that binds Neuron's names to Neuron's repository is not as wanted."""
        path = self.manager.preferences_path and self.root.at(self.manager.preferences_path)
        if path and wanted != (path.read_text(encoding="utf-8") if path.exists() else ""):
            self.note(str(path), wanted)

    def note(self, path: str, text: str = "") -> None:
        """Note a file to be written, or without a text, whatever is there to be removed."""
        self.files.append({"path": path, "content": text} if text else {"path": path, "state": "absent"})

    def present(self) -> None:
        """Compare packages and environments with the releases."""
        changes = self.package_changes()
        versions = self.versions_to_be(changes)
        loaded = None if sdk.DRIVER in changes.install else sdk.loaded_driver(self.root)
        problems = sdk.skew_problems(self.params["releases"], versions, loaded)
        if sdk.stale_driver(versions, loaded) and not self.params["allow_drift"]:
            self.ask_for_reboot(problems)
        self.settle(problems)
        leave = self.leaving(changes)
        if self.source.address:
            self.bind(self.manager.preferences(self.source))
        self.environments(changes, leave)

    def driver_to_load(self, changes: host_packages.Changes) -> bool:
        """Return whether the kernel is to be given the driver, one that it lacks or one that is going to be installed.

        Raises:
            sdk.SdkError: it was, and does not have it.
        """
        if sdk.DRIVER not in self.wanted:
            return False
        if sdk.DRIVER in changes.install:
            return True
        missing = sdk.DRIVER in self.installed and not sdk.driver_is_loaded(self.root)
        if missing and self.params["mended"]:
            kernel = platform.release()
            raise sdk.SdkError(
                f"driver {self.installed[sdk.DRIVER].version} is installed and the kernel does not load it. `modprobe "
                f"neuron` says why, `dkms status` whether it is built for kernel {kernel}; with "
                f"{self.manager.headers % kernel} installed, `dkms autoinstall` builds it"
            )
        return missing

    def environments(self, changes: host_packages.Changes, leave: List[str]) -> None:
        """Look at the environment of each release, and at what must be built."""
        venvs, problems, builds = {}, [], []
        for row in self.params["releases"]:
            if row["runtime"] != "venv":
                continue
            python = self.python_to_make_it(row)
            venv = row["venv"] if python else sdk.find_venv(row, self.root)
            venvs[f"{row['release']} {row['generation']}"] = venv
            if python or sdk_build.needed(row, self.root.at(venv)):
                builds.append(sdk_build.job_of(row, venv, self.sources(), self.run, python))
                continue
            problems += sdk.version_problems(row, sdk.table_versions(self.root.at(venv)))
            self.guard(row, venv)
        self.settle(problems)
        load = self.driver_to_load(changes)
        if not changes and not builds and not self.module.check_mode:
            self.verify(venvs)
        for path in sdk_build.unused(self.params["releases"], self.root) + sdk_build.lost_records(builds, self.root):
            self.note(str(path))
        driver = sdk.DRIVER in changes.install
        self.end(
            changes,
            venvs=venvs,
            pause={"replicas": leave, "monitor": driver} if leave or driver else {},
            resume=not changes and making_way.is_paused(),
            builds=builds,
            load=load,
            tools=self.tools(builds),
        )

    def python_to_make_it(self, row: Dict[str, Any]) -> str:
        """Return the Python to make a release's environment with, empty where it is here or cannot be made.

        Raises:
            sdk.SdkError: it could be made, and the host has no Python for it.
        """
        here = not row["venv"] or sdk.is_venv(self.root.at(row["venv"]))
        if here or not sdk.can_be_made(row, self.params["pip_index"]):
            return ""
        return sdk.python_for(row, shutil.which)

    def tools(self, builds: List[Dict[str, Any]]) -> List[str]:
        """Return the packages that builds need and that are missing: a host that builds nothing needs none of them."""
        git = ["git"] if builds and not shutil.which("git") else []
        used = sorted({job["inputs"]["python"] for job in builds if job["inputs"].get("python")})
        return git + [f"{python}-venv" for python in used if self.run([python, "-c", "import ensurepip"])[0] != 0]

    def verify(self, venvs: Dict[str, str]) -> None:
        """Run the commands of each release that is served from an environment.

        Raises:
            sdk.SdkError: one does not work, or is of another version.
        """
        for row in self.params["releases"]:
            if row["runtime"] == "venv":
                venv = venvs[f"{row['release']} {row['generation']}"]
                sdk.verify(row, venv, self.run, self.root, sdk.NOTES)

    def guard(self, row: Dict[str, Any], venv: str) -> None:
        """Note what keeps pip inside an environment that was built here from the general index, and is not there."""
        if self.params["pip_index"] and (row.get("source") or {}).get("needed"):
            for path, text in sdk_build.guard_changes(venv, self.params["pip_index"], self.root).items():
                self.note(path, text)

    def sources(self) -> sdk_build.Sources:
        """Return where a build takes source and packages from."""
        return sdk_build.Sources(
            base=self.params["source_base"],
            neuron_index=self.params["pip_index"],
            general_index=self.params["general_index"],
            commits=self.params["source_commits"],
        )

    def absent(self) -> None:
        """Find what keeps the system's upgrades from the packages."""
        forget = self.root.at(self.manager.repository_path).exists()
        self.bind("")
        self.end(host_packages.freed(self.installed, forget=forget))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    fence.prove(module)
    try:
        release = Release(module, sdk.Root())
        {"present": release.present, "absent": release.absent}[module.params["state"]]()
    except (OSError, KeyError, sdk.SdkError) as error:
        module.fail_json(msg=f"{error}. Nothing was installed or removed")


if __name__ == "__main__":
    main()
