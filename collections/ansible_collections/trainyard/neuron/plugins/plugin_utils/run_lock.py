# SPDX-License-Identifier: Apache-2.0
"""A run's side of the fleet's lock: who it is, which hosts gave it their lock, and the proof that each module shows.

What hosts answered lies in files of the controller, in the directory that ansible-core makes for each run, of mode
0700, and takes away at its end: each worker knows it, a run beside this one has another.

A program that makes several runs as one (`trainyard upgrade`, `trainyard sweep`) names itself in the environment. Its
runs are the same to the hosts, and none of them gives the lock back but the last.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible_collections.trainyard.neuron.plugins.module_utils.roll.journal import LEASE_S, Claim, Fence, Holder

OUTER, OVER = "TRAINYARD_RUN", "TRAINYARD_RUN_OVER"
"""Environment: ``ID:PID`` of the program whose part this run is, and whether that program is at its end."""
EVACUATE = "evacuate"
"""The verb that takes any host from any run: what is done there ends with the host, minutes later."""
FENCED = frozenset(
    f"trainyard.neuron.{name}"
    for name in (
        "container_images",
        "device_quarantine",
        "file_tree",
        "instance_store",
        "jobs",
        "python_venv",
        "replica_release",
        "router_server",
        "sdk_release",
        "serving_pause",
        "units",
    )
)
"""Modules that change a serving host or a router, and prove first that they may."""


@dataclass(frozen=True)
class RunLock:
    """What a run knows of its lock.

    Attributes:
        folder: where it is kept.
    """

    folder: Path

    def keep(self, host: str, holder: Mapping[str, Any]) -> None:
        """Remember that a host gave its lock."""
        self._write(host, {"host": host, "renewed_s": time.monotonic(), "holder": dict(holder)})

    def refuse(self, host: str, why: str, holder: Mapping[str, Any] | None) -> None:
        """Remember that a host did not give it, and why."""
        row = {"host": host, "refused": why, "holder": dict(holder) if holder else None}
        self._write(host, row)
        # Apart, so that each host's worker looks at these only.
        self.folder.joinpath("refused").mkdir(mode=0o700, exist_ok=True)
        self._write_text(self.folder / "refused" / self._file_of(host).name, json.dumps(row))

    def refused(self) -> list[dict[str, Any]]:
        """What the hosts answered that did not give it, by name."""
        found = [json.loads(path.read_bytes()) for path in self.folder.glob("refused/*.host")]
        return sorted(found, key=lambda row: str(row["host"]))

    def lose(self, host: str, why: str) -> None:
        """Remember that a module found the lock of a host to be another run's."""
        self._write_text(self._file_of(host).with_suffix(".lost"), f"{host}: {why}")

    def lost(self) -> list[str]:
        """Why this run must not go on, a line for each host that it lost."""
        return sorted(path.read_text(encoding="utf-8") for path in self.folder.glob("*.lost"))

    def forget(self, host: str) -> None:
        """Remember that a host has its lock back."""
        self._file_of(host).unlink(missing_ok=True)

    def said(self, host: str) -> dict[str, Any]:
        """What a host answered; empty if it was not asked or did not answer."""
        try:
            return dict(json.loads(self._file_of(host).read_bytes()))
        except FileNotFoundError:
            return {}

    def holds(self, host: str) -> bool:
        """Whether the host gave this run its lock, and has not got it back."""
        return "renewed_s" in self.said(host)

    def lack(self, host: str) -> None:
        """Remember that a host did not answer when it was asked: nothing is to be changed there."""
        self._write(host, {"host": host})

    def all_said(self) -> list[dict[str, Any]]:
        """What every host answered, by host name."""
        found = [json.loads(path.read_bytes()) for path in self.folder.glob("*.host")]
        return sorted(found, key=lambda row: str(row["host"]))

    def fence(self, host: str) -> Fence | None:
        """What a module has to prove on a host; None where this run asked for no lock."""
        said = self.said(host)
        if "renewed_s" in said:
            return Fence(run_id(), said["holder"]["number"], said["holder"]["lease_s"])
        return Fence(run_id(), 0) if said else None

    def renewed(self, host: str) -> None:
        """Remember that a module has proved the lock just now, which renews it."""
        said = self.said(host)
        if "renewed_s" in said:
            self._write(host, {**said, "renewed_s": time.monotonic()})

    def due(self, host: str, part: float = 8.0) -> bool:
        """Whether more than a part of the time that the lock holds has gone since it was renewed."""
        said = self.said(host)
        return "renewed_s" in said and time.monotonic() - said["renewed_s"] > said["holder"]["lease_s"] / part

    def all_due(self) -> list[str]:
        """Hosts whose lock is due to be renewed."""
        return [row["host"] for row in self.all_said() if self.due(row["host"])]

    def _file_of(self, host: str) -> Path:
        return self.folder / (hashlib.sha256(host.encode()).hexdigest()[:32] + ".host")

    def _write(self, host: str, row: dict[str, Any]) -> None:
        self._write_text(self._file_of(host), json.dumps(row))

    def _write_text(self, path: Path, text: str) -> None:
        """Write a file that other workers read: it is there whole."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)


def current() -> RunLock:
    """The lock of the run that this process works for."""
    return RunLock(Path(constants.DEFAULT_LOCAL_TMP, "trainyard-lock"))


def outer() -> tuple[str, int] | None:
    """Id and process of the program whose part this run is, None if it stands alone."""
    found = re.fullmatch(r"([A-Za-z0-9_-]{1,64}):([0-9]{1,10})", os.environ.get(OUTER, ""))
    return (found[1], int(found[2])) if found else None


def run_id() -> str:
    """Id of this run: that of the program which it is a part of, else what tells its directory from others."""
    given = outer()
    return given[0] if given else Path(constants.DEFAULT_LOCAL_TMP).name.removeprefix("ansible-local-")


def named_runs(given: Any) -> list[str]:
    """Return the runs that a text names, one or several with commas between."""
    return [word.strip() for word in str(given).split(",") if word.strip()]


def claim_of(verb: str, lease_s: float = LEASE_S) -> Claim:
    """Who this run is to a host; to be called in a worker, whose parent is the run."""
    given = outer()
    pid = given[1] if given else os.getppid()
    owner = f"{getpass.getuser()}@{socket.gethostname()}"
    return Claim(run=run_id(), owner=owner, pid=pid, verb=verb, process=process_of(pid), lease_s=lease_s)


def process_of(pid: int) -> str:
    """What tells a process from others with its id, here and elsewhere: ``machine/boot/namespace/start``."""
    machine = _text("/etc/machine-id")
    boot = _text("/proc/sys/kernel/random/boot_id")
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return "/".join((machine, boot, namespace.strip("pid:[]"), _start_of(pid)))


def _start_of(pid: int) -> str:
    """When a process began, in a form that is the same whenever it is asked; empty if it is gone."""
    stat = _text(f"/proc/{pid}/stat")
    if stat:
        return stat.rpartition(")")[2].split()[19]
    asked = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return "-".join(asked.stdout.split()).replace("/", "")


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def dead(holder: Holder, mine: Claim) -> bool:
    """Whether a holder is a run of this user on this controller whose process is gone.

    Another controller's processes cannot be judged from here, nor those of a container beside this one.
    """
    if holder.owner != mine.owner or holder.run == mine.run:
        return False
    now = process_of(holder.pid).split("/")
    if not holder.process:
        return not now[3]
    then = holder.process.split("/")
    if then[:3] == now[:3]:
        return then[3:] != now[3:]
    # The same machine after a boot: nothing of the one before runs.
    return bool(then[0]) and then[0] == now[0] and then[1] != now[1]


class Locking(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Calls a module that takes the lock, and again where the holder is known to be dead."""

    def proof(self, task_vars: dict[str, Any]) -> Fence | None:
        """The proof of a lock that this run holds on the host, None where it holds none."""
        lock, host = current(), self._host(task_vars)
        return lock.fence(host) if lock.holds(host) else None

    def _host(self, task_vars: dict[str, Any]) -> str:
        """The host that the task is about: one host may renew the locks of others."""
        return str(self._task.delegate_to or task_vars["inventory_hostname"])

    def keep(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """Renew the host's lock where that is due; fails where it is lost."""
        lock, host = current(), self._host(task_vars)
        proof = self.proof(task_vars)
        if proof is None or not lock.due(host):
            return {"changed": False}
        arguments = {"state": "kept", "fence": asdict(proof)}
        result: dict[str, Any] = self._execute_module(
            module_name="trainyard.neuron.roll_lock", module_args=arguments, task_vars=task_vars
        )
        _heard(lock, host, result)
        return result

    def take(
        self, module: str, arguments: dict[str, Any], verb: str, task_vars: dict[str, Any], lease_s: float = LEASE_S
    ) -> dict[str, Any]:
        """Run a module with ``claim``; returns its result, whose ``lock`` says who has it, or why it was refused."""
        lock, mine, host = current(), claim_of(verb, lease_s), str(task_vars["inventory_hostname"])
        given = task_vars.get("trainyard_take_over")
        take_over = named_runs(self._templar.template(given)) if given else []
        while True:
            claim = {**asdict(mine), "take_over": take_over}
            result: dict[str, Any] = self._execute_module(
                module_name=module, module_args={**arguments, "claim": claim}, task_vars=task_vars
            )
            told = result.get("lock") or {}
            holder = told.get("holder")
            if not told.get("refused"):
                break
            over = dead(Holder(**holder), mine) or verb == EVACUATE if holder else False
            if not holder or holder["run"] in take_over or not over:
                break
            take_over.append(holder["run"])
        if told.get("refused"):
            lock.refuse(host, told["refused"], holder)
        elif holder and not self._task.check_mode:
            lock.keep(host, holder)
        return result


class Fenced(ActionBase):  # type: ignore[misc]  # ansible-core ships no types
    """Has each module that changes the host prove first that the host's lock is still this run's."""

    def _execute_module(
        self,
        module_name: str | None = None,
        module_args: dict[str, Any] | None = None,
        *arguments: Any,
        task_vars: dict[str, Any] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        name = module_name or self._task.resolved_action or self._task.action
        given = dict(self._task.args if module_args is None else module_args)
        host = str(self._task.delegate_to or (task_vars or {}).get("inventory_hostname", ""))
        lock = current()
        fence = lock.fence(host) if name in FENCED else None
        if fence:
            given["fence"] = asdict(fence)
        result: dict[str, Any] = super()._execute_module(name, given, *arguments, task_vars=task_vars, **more)
        if fence:
            _heard(lock, host, result)
        return result


def _heard(lock: RunLock, host: str, result: Mapping[str, Any]) -> None:
    """Remember what a module found of the lock of a host."""
    if result.get("lock_lost"):
        lock.lose(host, str(result.get("msg", "")))
    elif not result.get("unreachable"):
        lock.renewed(host)


class FencedModule(Fenced):
    """An action that is its module, and no more."""

    _supports_check_mode = True
    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result."""
        super().run(tmp, task_vars)
        return self._execute_module(task_vars=task_vars)
