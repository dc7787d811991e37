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
    packages, and runs the commands that are needed later once, to see that they work and what version they are.
  - Driver and runtime of different releases do not work together, so packages of other versions are an error, or are
    brought to the right version, held, and bound to Neuron's repository where O(package_source) is given (by the action
    plugin of the same name, with the host's package manager).
  - Packages are not touched while replicas run on them or processes hold the driver, unless O(in_use=drain).
  - vLLM is built into an environment that has none by a systemd unit, which outlives the controller (see
    M(trainyard.neuron.jobs)).
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
      - What happens when packages must change while replicas of this host use them.
      - V(refuse) changes nothing and says who uses them. V(drain) takes the replicas of this host out of service first,
        and leaves them stopped.
    type: str
    choices: [refuse, drain]
    default: refuse
  drain_deadline_s:
    description: How long requests may take to end before O(in_use=drain) gives up, seconds.
    type: float
    default: 900
  stop_timeout_s:
    description: How long a replica may take to stop, seconds.
    type: float
    default: 300
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
  state:
    description:
      - V(absent) lets the system's upgrades reach the packages again and takes the repository and what binds names to
        it away. Nothing is uninstalled.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment: [trainyard.neuron.fence]
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
carry_out:
  description: What the package manager is to do; the action plugin reacts to it.
  returned: when packages differ and O(package_source) is given
  type: dict
builds:
  description: Jobs that build vLLM; the action plugin follows them.
  returned: when an environment lacks its vLLM
  type: list
  elements: dict
tools:
  description: System packages that the builds need and that are missing.
  returned: when an environment lacks its vLLM
  type: dict
reboot:
  description: Whether a reboot brings the installed driver into the kernel and cuts nobody off.
  returned: when another driver is loaded than the one that is installed
  type: bool
stopped:
  description: Replicas that were taken out of service for a change of packages. They are started by the next roll.
  returned: when there are any
  type: list
  elements: str
"""

import shutil
from pathlib import Path
from typing import Any, Dict, List, Tuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.trainyard.neuron.plugins.module_utils import host_packages, sdk, sdk_build, units, vacate
from ansible_collections.trainyard.neuron.plugins.module_utils.roll import fence
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.host import Host

ARGUMENT_SPEC: Dict[str, Dict[str, Any]] = {
    "releases": {"type": "list", "elements": "dict", "required": True},
    "package_source": {"type": "str", "default": ""},
    "package_key": {"type": "str", "default": "", "no_log": False},
    "package_suite": {"type": "str", "default": ""},
    "in_use": {"type": "str", "choices": ["refuse", "drain"], "default": "refuse"},
    "drain_deadline_s": {"type": "float", "default": 900},
    "stop_timeout_s": {"type": "float", "default": 300},
    "pip_index": {"type": "str", "default": ""},
    "general_index": {"type": "str", "default": ""},
    "source_base": {"type": "str", "default": "https://github.com"},
    "source_commits": {"type": "dict", "default": {}},
    "allow_drift": {"type": "bool", "default": False},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "fence": fence.FENCE_OPTION,
}

NOTES = Path("/var/lib/trainyard/sdk")

#: Holds the driver as replicas do and serves no request: it is stopped for a change of the driver, and started after.
MONITOR = "trainyard-monitor.service"
MONITOR_STOPPED = Path("/run/trainyard/monitor-stopped")


class Release:
    """One look at a host, and what follows from it."""

    def __init__(self, module: AnsibleModule, root: sdk.Root) -> None:
        self.module = module
        self.params: Dict[str, Any] = module.params
        self.root = root
        self.before: List[str] = []
        self.after: List[str] = []
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

    def end(self, changed: bool, **more: Any) -> None:
        """Report."""
        diff = {"before": "".join(self.before), "after": "".join(self.after)}
        packages = {name: package.version for name, package in self.installed.items()}
        self.module.exit_json(changed=changed, packages=packages, diff=diff, **{"venvs": {}, **more})

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
        return replicas, sdk.driver_holders(self.root, apart_from=MONITOR)

    def make_way(self, changes: host_packages.Changes) -> List[str]:
        """Have nobody use the packages that change; return the replicas that were stopped for it.

        Raises:
            sdk.SdkError: somebody does, and was not to be stopped.
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
        if replicas and not self.module.check_mode:
            why = "the SDK of this host is being changed"
            vacate.vacate(Host(), replicas, why, self.params["drain_deadline_s"], self.params["stop_timeout_s"])
        if sdk.DRIVER in changes.install and not self.module.check_mode:
            self.stop_monitor()
        self.after += [f"stop {unit}\n" for unit in replicas]
        return replicas

    def stop_monitor(self) -> None:
        """Stop the monitor of the devices, where it runs, and note that it is to be started again."""
        if self.run(["systemctl", "is-active", "--quiet", MONITOR])[0] == 0:
            self.run(["systemctl", "stop", MONITOR])
            MONITOR_STOPPED.parent.mkdir(parents=True, exist_ok=True)
            MONITOR_STOPPED.touch()

    def ask_for_reboot(self, problems: List[str]) -> None:
        """Fail over a driver that the kernel did not let go of, and say whether a reboot cuts nobody off.

        Raises:
            vacate.VacateError: replicas were to leave first, and still have requests.
        """
        replicas = sdk.running_replicas(self.run)
        if replicas and self.params["in_use"] == "drain" and not self.module.check_mode:
            why = "this host is about to be rebooted for its driver"
            vacate.vacate(Host(), replicas, why, self.params["drain_deadline_s"], self.params["stop_timeout_s"])
            replicas = []
        self.module.fail_json(msg="; ".join(problems), reboot=not replicas)

    def back_in_service(self) -> bool:
        """Undo what was done to make way, once the packages are as wanted; return whether there was anything."""
        stopped = MONITOR_STOPPED.exists()
        if stopped:
            self.run(["systemctl", "start", MONITOR])
            MONITOR_STOPPED.unlink()
        return vacate.return_to_service() or stopped

    def bind(self, wanted: str) -> bool:
        """Bring the file that binds Neuron's names to Neuron's repository to its content; return whether it changed."""
        path = self.manager.preferences_path and self.root.at(self.manager.preferences_path)
        if not path:
            return False
        found = path.read_text(encoding="utf-8") if path.exists() else ""
        if found == wanted:
            return False
        self.before.append(found)
        self.after.append(wanted)
        if not self.module.check_mode:
            if wanted:
                path.write_text(wanted, encoding="utf-8")
            else:
                path.unlink()
        return True

    def present(self) -> None:
        """Bring packages and environments to the releases."""
        changes = self.package_changes()
        versions = self.versions_to_be(changes)
        loaded = None if sdk.DRIVER in changes.install else sdk.loaded_driver(self.root)
        problems = sdk.skew_problems(self.params["releases"], versions, loaded)
        if sdk.stale_driver(versions, loaded) and not self.params["allow_drift"]:
            self.ask_for_reboot(problems)
        self.settle(problems)
        stopped = self.make_way(changes)
        self.before += [f"{name} {self._is(name)}\n" for name in changes.install]
        self.after += [f"{name} {version}\n" for name, version in changes.install.items()]
        self.after += [f"hold {name}\n" for name in changes.hold]
        bound = bool(self.source.address) and self.bind(self.manager.preferences(self.source))
        if changes and not self.module.check_mode:
            self.end(True, carry_out=as_dict(changes, self.manager.name, self.source), stopped=stopped)
        if not changes and not self.module.check_mode:
            bound = self.back_in_service() or bound
        self.environments(bool(changes) or bound)

    def _is(self, name: str) -> str:
        return self.installed[name].version if name in self.installed else "absent"

    def environments(self, changed: bool) -> None:
        """Look at the environment of each release, and at what must be built."""
        venvs, problems, builds = {}, [], []
        for row in self.params["releases"]:
            if row["runtime"] != "venv":
                continue
            venv = sdk.find_venv(row, self.root)
            venvs[f"{row['release']} {row['generation']}"] = venv
            if sdk_build.needed(row, self.root.at(venv)):
                builds.append(sdk_build.job_of(row, venv, self.sources(), self.run))
                continue
            problems += sdk.version_problems(row, sdk.table_versions(self.root.at(venv)))
            if not self.module.check_mode:
                sdk.verify(row, venv, self.run, self.root, NOTES)
            changed = self.guard(row, venv) or changed
        self.settle(problems)
        self.after += [
            f"build {job['inputs']['repo']}@{job['inputs']['commit']} into {job['inputs']['venv']}\n" for job in builds
        ]
        changed = self.tidy() or changed
        if builds and not self.module.check_mode:
            for job in builds:
                sdk_build.forget_record(job, self.root)
            # Sources are fetched with it, and a host that builds nothing needs it not.
            tools = [] if shutil.which("git") else ["git"]
            self.end(True, venvs=venvs, builds=builds, tools={"manager": self.manager.name, "names": tools})
        self.end(changed or bool(builds), venvs=venvs)

    def guard(self, row: Dict[str, Any], venv: str) -> bool:
        """Keep pip inside an environment that was built here from the general index; return whether it was not."""
        if not self.params["pip_index"] or not (row.get("source") or {}).get("needed"):
            return False
        files = sdk_build.guard_changes(venv, self.params["pip_index"], self.root)
        self.after += [f"{path}\n" for path in files]
        if not self.module.check_mode:
            for path, text in files.items():
                Path(path).write_text(text, encoding="utf-8")
        return bool(files)

    def tidy(self) -> bool:
        """Remove records and checkouts of builds that no release uses; return whether there were any."""
        gone = sdk_build.unused(self.params["releases"], self.root)
        self.before += [f"{path}\n" for path in gone]
        if not self.module.check_mode:
            for path in gone:
                shutil.rmtree(path)
        return bool(gone)

    def sources(self) -> sdk_build.Sources:
        """Return where a build takes source and packages from."""
        return sdk_build.Sources(
            base=self.params["source_base"],
            neuron_index=self.params["pip_index"],
            general_index=self.params["general_index"],
            commits=self.params["source_commits"],
        )

    def absent(self) -> None:
        """Let the system's upgrades reach the packages again."""
        forget = self.root.at(self.manager.repository_path).exists()
        changes = host_packages.freed(self.installed, forget=forget)
        self.before += [f"hold {name}\n" for name in changes.free]
        self.before += [f"{self.manager.repository_path}\n"] if forget else []
        changed = self.bind("") or bool(changes)
        if changes and not self.module.check_mode:
            self.end(True, carry_out=as_dict(changes, self.manager.name, self.source))
        self.end(changed)


def as_dict(changes: host_packages.Changes, manager: str, source: host_packages.Source) -> Dict[str, Any]:
    """Return the form of changes that the action plugin reads."""
    return dict(vars(changes), manager=manager, source=vars(source))


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
    except (OSError, KeyError, sdk.SdkError, vacate.VacateError, units.UnitError) as error:
        module.fail_json(msg=f"{error}. Nothing was installed or removed")


if __name__ == "__main__":
    main()
