# SPDX-License-Identifier: Apache-2.0
"""What the plan says of one replica, declared once for the planner, the role's file, the host's programs and a roll.

The planner makes it, `replica.json` carries it, `settings.Replica` adds what the host itself is told, a roll compares.
Standard library only, since hosts run it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from typing import Any, Dict, List, Mapping, Optional, Tuple

from . import shape

#: Words that stand in a plan only where they say something.
ONLY_IF_SAID = ("served_aliases", "more_weights", "files", "adapters", "options", "compiled", "credentials", "spare")

#: All that a running replica depends on, in the order that its release is the digest of.
RELEASED = ("argv", "environment", "cpus", "cores", "sdk_release", "generation", "runtime", "venv", "image")


@dataclass(frozen=True)
class FurtherWeights:
    """A checkpoint that has to be there beside the model's own: of an adapter or a draft."""

    id: str
    path: str


@dataclass(frozen=True)
class ReplicaPlan:
    """One replica as it is planned.

    Attributes:
        name: on its host, ``<deployment>-<index>``.
        argv: the server's command.
        url: where the server listens.
        cores: its NeuronCores, as ranges.
        served_name: what clients ask for, from the inventory to HAProxy.
        id: in the fleet, ``<host>:<name>``.
        index: which of its deployment's replicas on this host.
        unit: its systemd unit.
        core_count: how many cores these are.
        devices: indexes of the Neuron devices that have them.
        numa_nodes: NUMA nodes of these devices.
        cpus: CPUs of its own, as ranges; empty where it is not pinned.
        proxy_cpus: CPUs of its proxy threads, as ranges.
        address: where routers reach it.
        agent_port: port on which the standing probe answers the router's agent checks.
        runtime: ``venv`` or ``container``.
        venv: the environment of the first, None of the other.
        image: the image of the second, None of the other.
        weights: id of its checkpoint; `more_weights` are those of adapters and drafts.
        artifact: digest of what was compiled for it.
        files: what it reads beside checkpoints, where it lies on the host.
        adapters: name of each adapter that is served at the start -> its directory.
        served_aliases: further names that clients may ask for.
        options: what is asked of the model beside its shape, in the inventory's words.
        max_num_seqs: sequences that it works on at once.
        max_model_len: tokens that a sequence may have.
        hbm_bytes_needed: estimate of its device memory, None of a model that nobody knows.
        hbm_bytes_available: what its cores have.
        compiled: settings that the artifact has to have.
        credentials: what tells its API key from another one.
        spare: it serves only while a roll needs it.
        release: digest of all that the running process depends on: it restarts when this changes, and only then.
    """

    name: str
    argv: Tuple[str, ...]
    url: str
    cores: str
    served_name: str
    id: str = ""
    deployment: str = ""
    index: int = 0
    unit: str = ""
    core_count: int = 0
    devices: Tuple[int, ...] = ()
    numa_nodes: Tuple[int, ...] = ()
    cpus: str = ""
    proxy_cpus: str = ""
    address: str = ""
    port: int = 0
    agent_port: int = 0
    sdk_release: str = ""
    generation: str = ""
    runtime: str = "venv"
    venv: Optional[str] = None
    image: Optional[str] = None
    weights: str = ""
    weights_path: str = ""
    more_weights: Tuple[Mapping[str, str], ...] = ()
    artifact: str = ""
    artifact_path: str = ""
    files: Tuple[str, ...] = ()
    adapters: Mapping[str, str] = field(default_factory=dict)
    served_aliases: Tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    max_num_seqs: int = 1
    max_model_len: int = 0
    hbm_bytes_needed: Optional[int] = None
    hbm_bytes_available: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    compiled: Mapping[str, Any] = field(default_factory=dict)
    credentials: str = ""
    spare: bool = False
    release: str = ""

    @property
    def host(self) -> str:
        """The inventory name of its host."""
        return self.id.rpartition(":")[0]

    def to_dict(self) -> Dict[str, Any]:
        """Return the JSON-ready form, as plans and `replica.json` have it."""
        found: Dict[str, Any] = {}
        for word in fields(ReplicaPlan):
            value = getattr(self, word.name)
            if word.name not in ONLY_IF_SAID or value:
                found[word.name] = _plain(value)
        return found

    def released(self) -> ReplicaPlan:
        """Return the replica with the release that follows from what it runs."""
        parts = [_plain(getattr(self, word)) for word in RELEASED] + ([self.credentials] if self.credentials else [])
        canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
        return replace(self, release=hashlib.sha256(canonical.encode()).hexdigest()[:12])


def unknown_words(raw: Mapping[str, Any], where: str) -> List[str]:
    """Return what of a plan's replica nobody knows or is of another kind, a sentence each.

    Args:
        raw: the replica as a plan has it.
        where: what it is of, for the messages.
    """
    return shape.problems(ReplicaPlan, raw, within=where + ": ")


def _plain(value: Any) -> Any:
    # Nearly every value is one of these, and to ask whether it is a mapping takes ten times as long.
    if value.__class__ in (str, int, bool):
        return value
    if isinstance(value, Mapping):
        return dict(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value
