# SPDX-License-Identifier: Apache-2.0
"""The plan of a run, in files of the controller: written once, read by parts.

As a fact, every host would carry the plan of all of them, through every worker and back. In files, a worker reads what
its own host needs when it needs it. They lie in the directory that ansible-core makes for each run, of mode 0700, and
takes away at its end; every worker knows it, a run beside this one has another.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible import constants
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import did_you_mean
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.parts import (
    slips_of,
    slips_of_benchmark,
    slips_of_router,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.hooks import HookReplica
from ansible_collections.trainyard.neuron.plugins.plugin_utils.watch.targets import targets

HOSTS, ROUTERS = "hosts", "routers"
FLEET, ROUTER, BENCHMARKS = "fleet.json", "router.json", "benchmarks.json"
IMAGES = "images.json"


class RunPlanError(Exception):
    """This run has no plan, or the plan nothing for a host."""


@dataclass(frozen=True)
class RunPlan:
    """The parts of one plan, read when they are asked for.

    Attributes:
        folder: where they lie.
    """

    folder: Path

    def fleet(self) -> dict[str, Any]:
        """Return what is the whole fleet's: `version`, the `hosts`' names, and the `router` without its parts."""
        return dict(self._read(FLEET))

    def host(self, name: str) -> dict[str, Any]:
        """Return a serving host's part.

        Raises:
            RunPlanError: the plan has no such host, or says what nobody knows.
        """
        try:
            part = dict(self._read(HOSTS, _file_of(name)))
            slips = slips_of(name, part)
            if slips:
                raise RunPlanError("; ".join(slips))
            return part
        except FileNotFoundError:
            known = self.fleet()["hosts"]
            fix = did_you_mean(name, known) or f"it has {', '.join(known[:8])}{' and others' if known[8:] else ''}"
            raise RunPlanError(f"the plan of this run has no host {name}: {fix}") from None

    def hosts(self, names: Iterable[str] | None = None) -> dict[str, dict[str, Any]]:
        """Return the parts of some serving hosts, those of the plan among `names`, or all."""
        known = self.fleet()["hosts"]
        wanted = set(known if names is None else names)
        return {name: self.host(name) for name in known if name in wanted}

    def hook_replicas(self) -> list[dict[str, Any]]:
        """Return every replica of the fleet as the hooks of a roll read it (`roll.hooks`)."""
        hosts = self.hosts().items()
        return [HookReplica.of(name, row).to_dict() for name, part in hosts for row in part["replicas"]]

    def router(self, name: str) -> dict[str, Any]:
        """Return a router's `port`, `models` and `access`: the models that all share, or its own.

        Raises:
            RunPlanError: the plan has no such router, or says of a server what nobody knows.
        """
        try:
            part = {**self._read(ROUTER), **self._read(ROUTERS, _file_of(name))}
            slips = slips_of_router(name, part)
            if slips:
                raise RunPlanError("; ".join(slips))
            return part
        except FileNotFoundError:
            raise RunPlanError(f"the plan of this run has no router {name}: put it into the group router") from None

    def benchmarks(self, client: str) -> list[dict[str, Any]]:
        """Return the benchmarks in which a client sends load."""
        rows = self._read(BENCHMARKS)
        slips = [slip for row in rows for slip in slips_of_benchmark(row)]
        if slips:
            raise RunPlanError("; ".join(slips))
        return [row for row in rows if client in (host["name"] for host in row["load_hosts"])]

    def targets(self, here: str) -> list[dict[str, Any]]:
        """Return what the Prometheus of a host has to ask, in the form of its file_sd. It grows with the fleet."""
        names = self.fleet()["router"]["names"]
        return targets(self.hosts(), {name: self.router(name)["access"] for name in names}, here)

    def _read(self, *parts: str) -> Any:
        try:
            return json.loads(self.folder.joinpath(*parts).read_bytes())
        except FileNotFoundError:
            if not self.folder.exists():
                raise RunPlanError(
                    "this run has no plan: start with playbooks/preflight.yml, or run the playbook without _planned"
                ) from None
            raise


def current() -> RunPlan:
    """Return the plan of the run that this process works for; whether it was made shows when it is read."""
    return RunPlan(Path(constants.DEFAULT_LOCAL_TMP, "trainyard-plan"))


@dataclass(frozen=True)
class Reports:
    """What the planner asks of the hosts of this run, and what they answered.

    Beside the plan and for the same reason: in a registered variable, each report would go through the controller's
    own process, which takes it apart and puts it together value by value several times.

    Attributes:
        folder: where they lie.
    """

    folder: Path

    def keep(self, name: str, answer: Mapping[str, Any]) -> None:
        """Keep what a host answered, in the place of an earlier answer of it."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        path = self.folder / _file_of(name)
        path.unlink(missing_ok=True)
        _write(path, answer)

    def read(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the answers of those hosts of which there is one."""
        found = {}
        for name in names if self.folder.exists() else ():
            with contextlib.suppress(FileNotFoundError):
                found[name] = json.loads(self.folder.joinpath(_file_of(name)).read_bytes())
        return found

    def ask(self, images: list[str]) -> None:
        """Have the hosts ask the registries of these images."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        _write(self.folder / IMAGES, images)

    def asked(self) -> list[str]:
        """Return the images whose registries the hosts are to ask."""
        try:
            return list(json.loads((self.folder / IMAGES).read_bytes()))
        except FileNotFoundError:
            return []

    def forget(self) -> None:
        """Keep none any more, and ask nothing."""
        shutil.rmtree(self.folder, ignore_errors=True)


def reports() -> Reports:
    """Return the reports of the run that this process works for."""
    return Reports(Path(constants.DEFAULT_LOCAL_TMP, "trainyard-reports"))


def before() -> RunPlan:
    """Return the plan that was made of the inventory alone, before any host was asked."""
    return RunPlan(Path(constants.DEFAULT_LOCAL_TMP, "trainyard-plan-before"))


def write(plan: Mapping[str, Any], folder: Path) -> None:
    """Write a plan in parts, in the place of an earlier one of this run.

    Args:
        plan: the form of `FleetPlan.to_dict`.
        folder: where to; nobody else can look into it.
    """
    router = plan["router"]
    shared = {"port": router["port"], "models": router["models"]}
    known = {key: value for key, value in router.items() if key not in ("models", "access")}
    known["own"] = sorted(router["own"])
    known["routers"] = sorted(router["access"])
    new = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    for name in (HOSTS, ROUTERS):
        new.joinpath(name).mkdir(mode=0o700)
    for name, part in plan["hosts"].items():
        _write(new / HOSTS / _file_of(name), part)
    for name, access in router["access"].items():
        _write(new / ROUTERS / _file_of(name), {**router["own"].get(name, {}), "access": access})
    _write(new / ROUTER, shared)
    _write(new / BENCHMARKS, plan["benchmarks"])
    _write(new / FLEET, {"version": plan["version"], "hosts": list(plan["hosts"]), "router": known})
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)


def _file_of(name: str) -> str:
    """Return the file of a host: an inventory may give a host any name, a path too."""
    return hashlib.sha256(name.encode()).hexdigest()[:32] + ".json"


def _write(path: Path, part: Any) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(json.dumps(part))  # json.dump would encode in Python, ten times as long
