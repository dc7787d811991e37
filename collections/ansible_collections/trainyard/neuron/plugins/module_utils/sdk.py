# SPDX-License-Identifier: Apache-2.0
"""What of a Neuron SDK release is on a host, and what is missing or differs. Used by module `sdk_release`."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.host_packages import same_version
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs.bound_install import distributions
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.versions import pair_rule

Run = Callable[[List[str]], Tuple[int, str, str]]

#: Neuron environments of machine images, below /opt; their names change from release to release.
VENV_NAMES = "aws_neuronx_venv_*"

#: Names of Python distributions behind the names of the SDK table.
DISTRIBUTIONS = {
    "neuronx-cc": "neuronx-cc",
    "nxdi": "neuronx-distributed-inference",
    "vllm": "vllm",
    "vllm-neuron": "vllm-neuron",
}

DRIVER, RUNTIME = "aws-neuronx-dkms", "aws-neuronx-runtime-lib"

#: What worked is noted here, so that it is run once for each state of an environment.
NOTES = Path("/var/lib/trainyard/sdk")

#: How long a command of the SDK may take to say what it is, seconds. Importing torch from a cold disk takes most of it.
VERIFY_TIMEOUT_S = 600


class SdkError(Exception):
    """A release that cannot be used on this host; says what was found and what to do."""


@dataclass(frozen=True)
class Root:
    """What plays the host's `/`; tests point it elsewhere."""

    path: Path = Path("/")

    def at(self, absolute: str) -> Path:
        """Return where a path of the host is."""
        return self.path / absolute.lstrip("/")


@dataclass
class State:
    """One release as it is on the host."""

    release: str
    generation: str
    venv: Optional[str] = None
    versions: Dict[str, str] = field(default_factory=dict)
    problems: List[str] = field(default_factory=list)
    verified: bool = False


def version_key(version: str) -> Tuple[int, ...]:
    """Return a dotted version as numbers, for comparisons."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def wanted_packages(releases: List[Dict[str, Any]]) -> Dict[str, str]:
    """Return one version for each system package: a host has one driver, so the newest of its releases."""
    wanted: Dict[str, str] = {}
    for row in releases:
        for name, version in row["packages"].items():
            if name not in wanted or version_key(version) > version_key(wanted[name]):
                wanted[name] = version
    return wanted


def running_replicas(run: Run) -> List[str]:
    """Return the units of replicas that run, start or stop on this host: of any release, they use its packages."""
    states = "--state=active,activating,reloading,deactivating"
    _status, output, _errors = run(["systemctl", "list-units", "--plain", "--no-legend", states, "vllm@*.service"])
    return sorted(line.split()[0] for line in output.splitlines() if line.split())


def driver_holders(root: Root, apart_from: str = "") -> List[str]:
    """Return the processes that hold a Neuron device open, `name (pid)`: the driver cannot be changed under them.

    Args:
        root: what plays the host's `/`.
        apart_from: a systemd unit whose processes do not count.
    """
    found = {}
    for link in root.at("/proc").glob("[0-9]*/fd/*"):
        try:
            if re.fullmatch(r"/dev/neuron\d+", str(link.readlink())):
                pid = link.parts[-3]
                group = root.at(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")
                if apart_from and f"/{apart_from}" in group:
                    continue
                found[int(pid)] = root.at(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
        except OSError:  # it ended meanwhile
            continue
    return [f"{name} ({pid})" for pid, name in sorted(found.items())]


def loaded_driver(root: Root) -> Optional[str]:
    """Return the version of the driver that the kernel has loaded, None where none is."""
    try:
        return root.at("/sys/module/neuron/version").read_text(encoding="ascii").strip()
    except OSError:
        return None


def driver_is_loaded(root: Root) -> bool:
    """Return whether the kernel has the driver."""
    return root.at("/sys/module/neuron").exists() or root.at("/dev/neuron0").exists()


def headers_are_here(root: Root, kernel: str) -> bool:
    """Return whether a module can be built for a kernel."""
    return root.at("/lib/modules/%s/build" % kernel).exists()


def skew_problems(releases: List[Dict[str, Any]], versions: Dict[str, str], loaded: Optional[str]) -> List[str]:
    """Return why driver and runtime cannot work together, as they are or will be.

    Args:
        releases: rows of the SDK table; that of a container brings its own runtime library.
        versions: the system packages.
        loaded: version of the driver in the kernel, None where none is.
    """
    driver = versions.get(DRIVER)
    problems = []
    for row in releases:
        runtime = row["packages"].get(RUNTIME) if row["runtime"] == "container" else versions.get(RUNTIME)
        rule = pair_rule(driver, runtime)
        if rule:
            problems.append(f"SDK {row['release']}: {rule}")
    if stale_driver(versions, loaded):
        problems.append(
            f"driver {driver} is installed and {loaded} is loaded: unload it when nothing holds it "
            "(modprobe -r neuron; modprobe neuron), or reboot"
        )
    return problems


def stale_driver(versions: Dict[str, str], loaded: Optional[str]) -> bool:
    """Return whether the kernel has another driver loaded than the one that is installed."""
    driver = versions.get(DRIVER)
    return bool(driver and loaded and not same_version(driver, loaded))


def find_venv(row: Dict[str, Any], root: Root) -> str:
    """Return the environment of a release: the one that its row names, or where it names none the only one that fits.

    Raises:
        SdkError: there is none, or several could be meant; with all that were found.
    """
    installed = root.at("/opt").glob(VENV_NAMES)
    found = sorted("/" + str(path.relative_to(root.path)) for path in installed if is_venv(path))
    if row["venv"]:
        if is_venv(root.at(row["venv"])):
            return str(row["venv"])
        raise SdkError(
            f"SDK {row['release']} ({row['generation']}): no environment {row['venv']} on this host; "
            f"found: {', '.join(found) or 'none'}. "
            f"Use the machine image of SDK {row['release']}, or name the right row in sdk_release"
        )
    kind = "nxd_inference" if row["generation"] == "nxdi_v0" else "vllm"
    fitting = [path for path in found if kind in path]
    if len(fitting) == 1:
        return fitting[0]
    raise SdkError(
        f"SDK {row['release']} ({row['generation']}): {len(fitting)} environments could be meant: "
        f"{', '.join(fitting or found) or 'none found'}. "
        "Name the environment in the deployment's SDK row"
    )


def can_be_made(row: Dict[str, Any], pip_index: str) -> bool:
    """Return whether a release's environment can be made where no machine image brought it.

    It can where all that it has comes from package indexes and one pinned source: with NxDI, and a vLLM that is built.
    """
    versions, source = row["versions"], row.get("source") or {}
    known = row["venv"] and versions.get("neuronx-cc") and versions.get("nxdi")
    return bool(pip_index and known and source.get("needed") and source.get("pythons"))


def python_for(row: Dict[str, Any], which: Callable[[str], Optional[str]]) -> str:
    """Return the newest Python of the host that a release's packages are made for, `python3.11`.

    Raises:
        SdkError: there is none.
    """
    wanted = [f"python{version}" for version in reversed(row["source"]["pythons"])]
    for name in wanted:
        if which(name):
            return name
    raise SdkError(
        f"SDK {row['release']} ({row['generation']}): no environment {row['venv']} on this host, and none of the "
        f"Pythons that one can be made with: {', '.join(wanted)}. Use the machine image of that release, or install one"
    )


def is_venv(path: Path) -> bool:
    """Return whether a directory is a Python environment that can run."""
    return (path / "pyvenv.cfg").is_file() and os.access(path / "bin" / "python", os.X_OK)


def table_versions(venv: Path) -> Dict[str, str]:
    """Return the versions of an environment under the names that the SDK table uses."""
    found = distributions(venv)
    return {key: found[name] for key, name in DISTRIBUTIONS.items() if name in found}


def version_problems(row: Dict[str, Any], found: Dict[str, str]) -> List[str]:
    """Return how an environment's packages differ from a release's row."""
    return [
        f"{name} is {found.get(name, 'missing')}, SDK {row['release']} has {wanted}"
        for name, wanted in sorted(row["versions"].items())
        if wanted is not None and not same_version(found.get(name), wanted)
    ]


def checks(row: Dict[str, Any], venv: str) -> List[List[str]]:
    """Return the commands that must work before anything is compiled or served with a release."""
    commands = [[f"{venv}/bin/vllm", "--version"]]
    if row["generation"] in ("nxdi_v0", "nxdi_v1"):
        commands.insert(0, [f"{venv}/bin/inference_demo", "--help"])
    return commands


def fingerprint(venv: Path) -> str:
    """Return a digest that changes with what is installed in an environment."""
    config = (venv / "pyvenv.cfg").read_text(encoding="utf-8", errors="replace")
    return hashlib.sha256(json.dumps([config, sorted(distributions(venv).items())]).encode()).hexdigest()


def verify(row: Dict[str, Any], venv: str, run: Run, root: Root, notes: Path) -> None:
    """Run the release's commands once for each state of its environment; what worked is noted in `notes`.

    Raises:
        SdkError: a command fails; with the last line it said.
    """
    note = notes / f"{row['release']}-{row['generation']}.json"
    state = {"venv": venv, "fingerprint": fingerprint(root.at(venv))}
    if read_note(note) == state:
        return
    for argv in checks(row, venv):
        status, output, errors = run(argv)
        said = ((errors if status else output) or errors or output).strip().splitlines() or ["it said nothing"]
        if status != 0:
            raise SdkError(f"SDK {row['release']}: `{' '.join(argv)}` ended with status {status}: {said[-1]}")
        if argv[-1] == "--version":
            _compare(row, argv, said[-1])
    notes.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(state) + "\n", encoding="utf-8")


def _compare(row: Dict[str, Any], argv: List[str], said: str) -> None:
    """Compare what a program says of itself with the row; its package's metadata may belong to another copy.

    Raises:
        SdkError: it is of another version.
    """
    wanted = row["versions"].get("vllm")
    words = said.split()
    if wanted is not None and not any(same_version(word, wanted) for word in words):
        raise SdkError(f"SDK {row['release']}: `{' '.join(argv)}` says {said!r}, the release has {wanted}")


def read_note(path: Path) -> Dict[str, Any]:
    """Return what was noted, empty where nothing was."""
    try:
        noted = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return noted if isinstance(noted, dict) else {}
