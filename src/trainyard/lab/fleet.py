# SPDX-License-Identifier: Apache-2.0
"""The lab's containers: their files, their start, their end."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainyard.lab import network, vllm_cpu, world
from trainyard.lab.cache import Say, cache_dir, digest, locked, write
from trainyard.lab.carry import carried
from trainyard.lab.errors import LabError
from trainyard.lab.image import CA_BUNDLE
from trainyard.lab.inventory import control_path_dir, ssh_options
from trainyard.lab.machine import detect
from trainyard.lab.podman import Podman
from trainyard.lab.seccomp import profile
from trainyard.lab.state import (
    APT_PORT,
    AWS_PORT,
    BUCKET,
    HUB_PORT,
    MODEL,
    PIP_PORT,
    REGISTRY_PORT,
    SERVICES,
    SOURCES_PORT,
    Lab,
    Paths,
)
from trainyard.paths import ROOT  # makes the next import possible

from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import (  # isort: skip
    TABLE_FILE,
    sdk_table,
)

INSIDE = "/usr/lib/trainyard-lab"
#: What services need beyond podman's defaults: systemd's sandboxes, device nodes, other users' /proc, a firewall.
CAPABILITIES = (
    "SYS_ADMIN",
    "MKNOD",
    "SYS_PTRACE",
    "DAC_READ_SEARCH",
    "NET_ADMIN",
    "NET_RAW",
    "SYS_NICE",
    "AUDIT_WRITE",
)
READY_TIMEOUT_S = 120
#: What others left on hosts of a lab that begins as `left` (`lab/neuron_sim/starts.py`).
TROUBLES = ("half", "held", "unloaded", "no-headers")
#: What the stand-in SDK takes the fork for where the table names no version (`lab/neuron_sim/sdk.py`).
UNVERSIONED_FORK = "0.8.5"
_AT_ONCE = 4


def _ensure(kind: str, script: Path, more: bytes, arguments: Callable[[Path], list[str]]) -> Path:
    """A folder of the cache that a script of the checkout fills, made where it is missing.

    Args:
        kind: the cache's folder for such folders.
        script: what fills it.
        more: what it depends on beside the script; the script's standard input.
        arguments: the script's arguments for a folder.
    """
    folder = cache_dir() / kind / digest(script.read_bytes(), more)[:12]
    if folder.exists():
        return folder
    with locked(kind):
        if folder.exists():
            return folder
        part = folder.with_name(f".unfinished-{folder.name}")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        command = [sys.executable, str(script), *arguments(part)]
        made = subprocess.run(command, input=more, capture_output=True, check=False)
        if made.returncode:
            last = made.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise LabError(f"{script.name} could not fill the cache: {' '.join(last)}")
        part.rename(folder)
    return folder


#: Real models that the hub has as well: the tiny one's bytes, under the repository and the revision of the recipes.
STAND_INS = (
    ("meta-llama/Llama-3.3-70B-Instruct", "6f6073b423013f6a7d4d9f39144961bfbfbc386b", "gated", "llama"),
    ("Qwen/Qwen3-32B", "9216db5781bf21249d130ec9da846c4624c16137", "open", "qwen3"),
)


def ensure_models() -> Path:
    """The models that the hub serves: the tiny one, open and gated, a branch `next` with other weights, stand-ins."""
    script = ROOT / "lab" / "tiny_model.py"
    copies: tuple[str, ...] = ("--gated", f"{MODEL}-gated", "--retrained", f"{MODEL}@next")
    copies += tuple(word for name, *rest in STAND_INS for word in ("--stand-in", ":".join((name, *rest))))

    def arguments(folder: Path) -> list[str]:
        return [str(folder / MODEL), *(word if word.startswith("--") else str(folder / word) for word in copies)]

    return _ensure("models", script, b"\n".join(word.encode() for word in copies), arguments)


def ensure_packages() -> Path:
    """The repository of the Neuron SDK's system packages, all versions that the SDK table names."""
    versions = sorted({item for row in sdk_table() for item in row.packages.items()})
    # Of this machine's kernel nobody else may have the headers.
    versions.append((f"linux-headers-{os.uname().release}", "1.0"))
    return _ensure(
        "apt", ROOT / "lab" / "neuron_packages.py", json.dumps(versions).encode(), lambda folder: [str(folder)]
    )


def ensure_wheels() -> Path:
    """The index of Neuron's Python packages, of all rows of the SDK table that have an environment."""
    rows = [
        {"release": _key(row), "compiler": row.compiler, "nxdi": row.nxdi}
        for row in sdk_table()
        if row.venv is not None
    ]
    return _ensure("wheels", ROOT / "lab" / "neuron_wheels.py", json.dumps(rows).encode(), lambda folder: [str(folder)])


def _key(row: Any) -> str:
    """What the stand-in SDK calls a row of the table."""
    return str(row.release if row.default else f"{row.release}:{row.generation}")


def ensure_sources() -> Path:
    """The lab's GitHub: stand-ins of what vLLM is built from, and LLMPerf where its source is named to us."""
    sources = {
        row.source_commit: {
            "repo": row.source_repo,
            "ref": row.source_ref,
            "commit": row.source_commit,
            "requirements": row.source_requirements,
            "release": _key(row),
            "vllm": row.vllm or UNVERSIONED_FORK,
        }
        for row in reversed(sdk_table())
        if row.source_commit and row.source_requirements and not row.venv_has_vllm
    }
    llmperf = os.environ.get("TRAINYARD_LLMPERF_SOURCE", "")
    is_repository = llmperf and any(Path(llmperf, name).exists() for name in (".git", "HEAD"))
    copies = {"ray-project/llmperf": llmperf} if is_repository else {}
    asked = json.dumps({"sources": list(sources.values()), "copies": copies})
    return _ensure("sources", ROOT / "lab" / "vllm_sources.py", asked.encode(), lambda folder: [str(folder)])


def _make_key(path: Path, comment: str) -> None:
    """An SSH key pair where there is none."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)],
        stdin=subprocess.DEVNULL,
        check=True,
    )


def host_settings(lab: Lab, host: str) -> dict[str, Any]:
    """/etc/trainyard-lab.json of a host: what it is to pose as."""
    return {
        "instance_type": lab.instance_type_of(host),
        "logical_nc_config": lab.logical_nc_config,
        "sdk_releases": lab.sdk_releases,
        "engine": lab.engine,
        "vllm_cpu_venv": vllm_cpu.MOUNT,
        "time_scale": lab.time_scale,
        "instance_id": instance_id(lab, host),
        "latency": lab.latency,
        "start": lab.start,
        "trouble": trouble(lab, host),
        "commits": lab.commits,
    }


#: What an instance was launched with, which it runs once, as root: cloud-init's part of a machine image.
FIRST_RUN = "/var/lib/cloud/instance/user-data"
FIRST_RUN_UNITS = {
    "cloud-final.service": f"""\
[Unit]
Description=What this instance was launched with
ConditionPathExists=!{FIRST_RUN}.ran
After=ssh.service

[Service]
Type=exec
ExecStartPre=/bin/touch {FIRST_RUN}.ran
ExecStart={FIRST_RUN}
TimeoutStartSec=infinity
""",
    "ssh.service.d/10-user-data.conf": "[Unit]\nWants=cloud-final.service\n",
}
NEURON_TYPE = re.compile(r"(trn|inf)\d")


def first_run(lab: Lab, host: str) -> str:
    """The script that a host runs at its first boot; empty where it was launched with none."""
    script = lab.launched.get(host, {}).get("user_data", "")
    return script if script.startswith("#!") else ""


def trouble(lab: Lab, host: str) -> str:
    """What others left on a host of a lab that begins so: one after the other, one of each kind."""
    return TROUBLES[list(lab.hosts).index(host) % len(TROUBLES)] if lab.start == "left" else ""


def instance_id(lab: Lab, host: str) -> str:
    """What a host says its EC2 instance is."""
    if host in lab.launched:
        return host
    return f"i-{digest(lab.id, host)[:17]}"


def containers_conf(limits: str | None) -> str:
    """What a container engine on a host has to know of the lab.

    The stand-in keeps its books of core owners in a folder where a driver keeps them itself, and the commands of the
    stand-in images are the host's: both are shared with every container, as a driver is.
    """
    shared = [
        "/run/neuron-sim:/run/neuron-sim:rw",
        "/run/neuron-sim/container.json:/etc/trainyard-lab.json:ro",
        "/var/lib/neuron-sim:/var/lib/neuron-sim:ro",
        f"{INSIDE}/neuron_sim:{INSIDE}/neuron_sim:ro",
        f"{INSIDE}/{TABLE_FILE.name}:{INSIDE}/{TABLE_FILE.name}:ro",
        "/var/cache/neuron-sim:/var/cache/neuron-sim:ro",
    ]
    head = limits or "[containers]\n"
    return f'{head}volumes = {json.dumps(shared)}\n\n[engine]\nruntime = "runc"\n'


def registries_conf(lab: Lab) -> str:
    """The lab's registry speaks HTTP."""
    return f'[[registry]]\nlocation = "{lab.registry}"\ninsecure = true\n'


def host_files(lab: Lab, host: str) -> dict[str, str]:
    """The files that a host takes over at boot, by path."""
    settings = carried()
    variables = "".join(f'{name}="{value}"\n' for name, value in host_environment().items())
    direct = [f'Acquire::https::Proxy::{name} "DIRECT";' for name in world.names()] if settings.apt else []
    apt = [*settings.apt, *direct, 'Acquire::Retries "3";', 'DPkg::Lock::Timeout "300";']
    return {
        "etc/trainyard-lab.json": json.dumps(host_settings(lab, host), indent=2) + "\n",
        "etc/environment": 'PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"\n' + variables,
        "etc/pip.conf": settings.pip_conf(),
        "etc/apt/apt.conf.d/90lab": "\n".join(apt) + "\n",
        "etc/containers/containers.conf.d/50-lab.conf": containers_conf(detect().containers_conf()),
        "etc/containers/registries.conf.d/50-lab.conf": registries_conf(lab),
    }


def host_environment() -> dict[str, str]:
    """The environment of logins and services: this machine's way out, but not for names that the lab stands in for."""
    found = dict(carried().environment)
    if any(name.lower().endswith("s_proxy") or name.lower() == "http_proxy" for name in found):
        own = ",".join([*world.names(), "169.254.169.254", SERVICES])
        for name in ("no_proxy", "NO_PROXY"):
            found[name] = ",".join(filter(None, [found.get(name), own]))
    return found


def manager_conf() -> str:
    """Systemd's own settings on a host: services see what a login sees, and where pip's general index is."""
    general = carried().pip.get("index-url", [])[:1]
    found = {**host_environment(), **({"PIP_INDEX_URL": general[0]} if general else {})}
    pairs = " ".join(f'"{name}={value}"' for name, value in found.items())
    return f"[Manager]\nDefaultEnvironment={pairs}\n"


def write_files(lab: Lab, files: Paths) -> None:
    """Write everything that the hosts mount, and the list of their keys."""
    _make_key(files.key, f"trainyard lab {lab.name}")
    lab_key = files.key.with_suffix(".pub").read_text(encoding="utf-8")
    write(files.seccomp, profile())
    world.ensure(files, CA_BUNDLE)
    authority = world.ca(files).read_text(encoding="ascii")
    known = []
    for host, address in lab.hosts.items():
        folder = files.host(host)
        key = folder / "ssh" / "ssh_host_ed25519_key"
        _make_key(key, host)
        # An instance lets in the owner of its key pair, and nobody where it has none.
        public = lab.launched[host]["public_key"] if host in lab.launched else lab_key
        own = {"etc/ssh/lab_authorized_keys": public, "usr/local/share/ca-certificates/trainyard-lab.crt": authority}
        for name, text in {**host_files(lab, host), **own}.items():
            write(folder / "files" / name, text)
        if script := first_run(lab, host):
            write(folder / "files" / FIRST_RUN.lstrip("/"), script, 0o755)
            for name, text in FIRST_RUN_UNITS.items():
                write(folder / "units" / name, text)
        write(folder / "boot.sh", world.boot_script(lab))
        write(folder / "manager.conf", manager_conf())
        kind, data = key.with_suffix(".pub").read_text(encoding="utf-8").split()[:2]
        known.append(f"{address},{host} {kind} {data}\n")
    write(files.known_hosts, "".join(known))


def _network_words(lab: Lab, name: str, address: str) -> list[str]:
    """Options that put a container on the lab's network under a name."""
    return ["--network", f"{lab.prefix}:ip={address},alias={name}", "--hostname", name]


def _security_words(podman: Podman, files: Paths) -> list[str]:
    """Options of what a host may do: enough for systemd's sandboxes, and none of the machine's devices."""
    words = ["--security-opt", f"seccomp={files.seccomp}", "--security-opt", "label=disable"]
    if podman.machine.apparmor:
        words += ["--security-opt", "apparmor=unconfined"]
    return [*words, *(word for name in CAPABILITIES for word in ("--cap-add", name))]


def host_command(podman: Podman, lab: Lab, files: Paths, host: str) -> list[str]:
    """Podman's words that start a host."""
    volumes = {
        files.host(host): f"{INSIDE}/host",
        files.host(host) / "manager.conf": "/etc/systemd/system.conf.d/10-lab.conf",
    }
    if NEURON_TYPE.match(lab.instance_type_of(host)):
        volumes[ROOT / "lab" / "neuron_sim"] = f"{INSIDE}/neuron_sim"
        volumes[TABLE_FILE] = f"{INSIDE}/{TABLE_FILE.name}"
    for name in FIRST_RUN_UNITS if first_run(lab, host) else ():
        volumes[files.host(host) / "units" / name] = f"/etc/systemd/system/{name}"
    if lab.vllm_cpu:
        volumes[Path(lab.vllm_cpu)] = vllm_cpu.MOUNT
    return [
        *("run", "--detach", "--name", lab.container(host), "--systemd", "always", "--shm-size", "2g"),
        *_network_words(lab, host, lab.hosts[host]),
        *(word for name in world.names() for word in ("--add-host", f"{name}:{lab.services_address}")),
        *_security_words(podman, files),
        *(word for path, inside in volumes.items() if path.exists() for word in ("--volume", f"{path}:{inside}:ro")),
        # The data volume: a file system of its own, as on the instance, on which a container engine can keep images.
        *_data_words(lab.data_gib),
        *carried().mounts(),
    ]


def _data_words(gib: int) -> list[str]:
    """Podman's words for the data volume; what is planned for a real host's asks for a real host's room."""
    return (
        ["--mount", f"type=tmpfs,destination=/data,tmpfs-size={gib}g,tmpfs-mode=0755"] if gib else ["--volume", "/data"]
    )


def services_command(lab: Lab, files: Paths, served: Served) -> list[str]:
    """Podman's words that start the services: this very Python and its packages, mounted at their own paths."""
    base = Path(sys.base_prefix)
    site = sysconfig.get_path("purelib")
    python = sys.executable
    volumes = [
        f"{ROOT / 'lab' / 'services'}:{INSIDE}/lab/services:ro",
        f"{served.models}:/srv/models:ro",
        f"{served.packages}:/srv/apt:ro",
        f"{served.images}:/srv/images:ro",
        f"{served.wheels}:/srv/wheels:ro",
        f"{served.sources}:/srv/sources:ro",
        f"{world.server(files)}:/srv/server.pem:ro",
        f"{sys.prefix}:{sys.prefix}:ro",
    ]
    if base == Path("/usr"):  # the image has the same one, from the same distribution
        python = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    else:
        volumes.append(f"{base}:{base}:ro")
    return [
        *(
            "run",
            "--detach",
            "--name",
            lab.container(SERVICES),
            "--systemd",
            "false",
            "--entrypoint",
            json.dumps([python]),
        ),
        *_network_words(lab, SERVICES, lab.services_address),
        # For the address at which instances ask what they are.
        *("--cap-add", "NET_ADMIN"),
        *("--env", f"PYTHONPATH={INSIDE}:{site}", "--env", "PYTHONDONTWRITEBYTECODE=1"),
        *(word for volume in volumes for word in ("--volume", volume)),
    ]


def services_arguments(lab: Lab) -> list[str]:
    """The services' own arguments."""
    ports = ["--hub-port", str(HUB_PORT), "--aws-port", str(AWS_PORT), "--apt-port", str(APT_PORT)]
    ports += ["--registry-port", str(REGISTRY_PORT), "--pip-port", str(PIP_PORT), "--sources-port", str(SOURCES_PORT)]
    ports += ["--proxy-port", str(world.PROXY_PORT)]
    folders = ["--models", "/srv/models", "--packages", "/srv/apt", "--images", "/srv/images"]
    folders += ["--wheels", "/srv/wheels", "--sources", "/srv/sources", "--certificate", "/srv/server.pem"]
    machines = ["--with-machines"] if lab.account else []
    return ["-m", "lab.services", *folders, "--bucket", BUCKET, *ports, *machines]


@dataclass(frozen=True)
class Served:
    """What the services serve."""

    models: Path
    packages: Path
    images: Path
    wheels: Path
    sources: Path


class Fleet:
    """The containers of one lab, brought to what the lab says."""

    def __init__(self, podman: Podman, lab: Lab, files: Paths, say: Say) -> None:
        self.podman, self.lab, self.files, self.say = podman, lab, files, say

    def apply(self, served: Served) -> list[str]:
        """Start what is missing, renew what differs, remove what is too much; return the names that started."""
        wanted: dict[str, list[str]] = {}
        arguments = {SERVICES: services_arguments(self.lab)}
        content = {SERVICES: self._services_digest(served)}
        wanted[SERVICES] = services_command(self.lab, self.files, served)
        for host in self.lab.hosts:
            wanted[host] = host_command(self.podman, self.lab, self.files, host)
            content[host] = self._host_digest(host)
        present = self.podman.containers(self.lab.id)
        labels = {name: digest(*words, content[name], self.lab.image) for name, words in wanted.items()}
        self._remove_others(present, {self.lab.container(name): labels[name] for name in wanted})
        jobs = []
        for name, words in wanted.items():
            row = present.get(self.lab.container(name), {})
            same = (row.get("Labels") or {}).get("trainyard.config") == labels[name]
            if same and row.get("State") == "running":
                continue
            if same and row.get("State") in ("exited", "stopped"):
                jobs.append((name, ["start", self.lab.container(name)]))
                continue
            label = self._label_words(name, labels[name])
            jobs.append((name, [*words, *label, self.lab.image, *arguments.get(name, [])]))
        with network.namespaces(self.podman), ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(lambda job: self.podman.run(*job[1]), jobs))
        return [name for name, _ in jobs]

    def add(self, host: str) -> None:
        """Start one host, of which there is nothing yet.

        Raises:
            LabError: podman refused.
        """
        words = host_command(self.podman, self.lab, self.files, host)
        label = self._label_words(host, digest(*words, self._host_digest(host), self.lab.image))
        with network.namespaces(self.podman):
            self.podman.run(*words, *label, self.lab.image)

    def remove(self, hosts: list[str]) -> None:
        """Take hosts away with all that is on them."""
        with network.namespaces(self.podman):
            self.podman.remove([self.lab.container(host) for host in hosts])

    def _host_digest(self, host: str) -> str:
        """What a host is made of."""
        made = [world.ca(self.files).read_text(encoding="ascii"), world.boot_script(self.lab)]
        if host in self.lab.launched:
            made.append(json.dumps(self.lab.launched[host], sort_keys=True))
        return digest(*host_files(self.lab, host).values(), manager_conf(), profile(), *made)

    def _label_words(self, name: str, config: str) -> list[str]:
        """What a container says of itself, as podman's words."""
        labels = {"trainyard.lab": self.lab.id, "trainyard.host": name, "trainyard.config": config}
        return [word for key, value in labels.items() for word in ("--label", f"{key}={value}")]

    def _services_digest(self, served: Served) -> str:
        """What the services are made of."""
        sources = sorted((ROOT / "lab" / "services").glob("*.py"))
        certificate = world.server(self.files).read_bytes()
        return digest(str(served), certificate, *(path.read_bytes() for path in sources), *services_arguments(self.lab))

    def _remove_others(self, present: dict[str, dict[str, Any]], wanted: dict[str, str]) -> None:
        """Remove containers that are too much, half made, or of another recipe."""
        gone = []
        for name, row in present.items():
            same = (row.get("Labels") or {}).get("trainyard.config") == wanted.get(name, "")
            if not same or row.get("State") not in ("running", "exited", "stopped"):
                gone.append(name)
        self.podman.remove(gone)

    def wait(self) -> None:
        """Wait until every host lets its user in and has booted, and the services answer; note the model's revision.

        Raises:
            LabError: something did not become ready in time, with the units that failed.
        """
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            problems = [problem for problem in pool.map(self._wait_host, self.lab.hosts) if problem]
        if problems:
            raise LabError("; ".join(problems))
        self.lab.model_revision = self._revision()
        self.tell_ec2()

    def tell_ec2(self) -> None:
        """Have the EC2 stand-in list the hosts as they are now.

        Raises:
            LabError: it does not answer.
        """
        present = self.podman.containers(self.lab.id)

        def state(host: str) -> str:
            row = present.get(self.lab.container(host), {})
            return "running" if row.get("State") == "running" else "stopped"

        hosts = [
            {
                "id": instance_id(self.lab, host),
                "name": host,
                "address": address,
                "instance_type": self.lab.instance_type,
                "state": state(host),
            }
            for host, address in self.lab.hosts.items()
            if host not in self.lab.launched
        ]
        request = urllib.request.Request(  # noqa: S310 - the lab's own address
            f"{self.lab.aws_url}/_lab/hosts", json.dumps(hosts).encode(), method="PUT"
        )
        try:
            urllib.request.urlopen(request, timeout=60).close()  # noqa: S310
        except urllib.error.URLError as error:
            raise LabError(f"the EC2 stand-in does not take the hosts: {error}") from error

    def ssh(self, host: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command on a host as its user."""
        return subprocess.run(
            [*ssh_command(self.lab, self.files, host, "ConnectTimeout=5", "BatchMode=yes"), *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def _inside(self, host: str, line: str) -> subprocess.CompletedProcess[str]:
        """Run a line of shell as root inside a host's container."""
        return subprocess.run(
            self.podman.command("exec", self.lab.container(host), "sh", "-c", line),
            env=self.podman.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def boots(self, host: str) -> None:
        """Wait until a host has booted.

        Raises:
            LabError: it did not in time, or units failed.
        """
        if problem := self._wait_host(host):
            raise LabError(problem)

    def _wait_host(self, host: str) -> str:
        """Wait for one host; what is wrong with it, or an empty string."""
        end = time.monotonic() + READY_TIMEOUT_S
        last = ""
        look = "systemctl is-system-running --wait; systemctl --failed --plain --no-legend"
        while time.monotonic() < end:
            # The lab has no key to an instance that somebody launched.
            answer = self._inside(host, look) if host in self.lab.launched else self.ssh(host, look)
            state, *failed = answer.stdout.split("\n")
            if state == "running":
                return ""
            if state == "degraded":
                units = ", ".join(line.split()[0] for line in failed if line.split())
                return f"{host}: {units} failed; `trainyard lab ssh {host} journalctl -b` says why"
            last = answer.stderr.strip().splitlines()[-1] if answer.stderr.strip() else state
            time.sleep(0.3)
        return f"{host}: no SSH in {READY_TIMEOUT_S} s ({last})"

    def _revision(self) -> str:
        """The revision that the hub gives the lab's model; waits for both services."""
        end = time.monotonic() + READY_TIMEOUT_S
        while True:
            try:
                with urllib.request.urlopen(f"{self.lab.aws_url}/", timeout=5):  # noqa: S310 - the lab's own address
                    pass
                with urllib.request.urlopen(f"{self.lab.hub_url}/api/models/{MODEL}", timeout=5) as answer:  # noqa: S310
                    return str(json.load(answer)["sha"])
            except (OSError, urllib.error.URLError) as error:
                running = (
                    self.podman.containers(self.lab.id).get(self.lab.container(SERVICES), {}).get("State") == "running"
                )
                if not running or time.monotonic() > end:
                    log = self.podman.run("logs", "--tail", "3", self.lab.container(SERVICES), check=False)
                    raise LabError(f"the services do not answer ({error}): {log.strip()}") from error
                time.sleep(0.3)


def ssh_command(lab: Lab, files: Paths, host: str, *options: str) -> list[str]:
    """The command that logs in to a host as its user."""
    more = [word for option in options for word in ("-o", option)]
    return ["ssh", *more, "-i", str(files.key), *ssh_options(lab, files), f"ubuntu@{lab.hosts[host]}"]


def close_connections(lab: Lab) -> None:
    """End the SSH connections that Ansible keeps open to the lab's hosts."""
    folder = Path(control_path_dir(lab))
    for socket in folder.glob("*") if folder.is_dir() else []:
        subprocess.run(["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "lab"], capture_output=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)
