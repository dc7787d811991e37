# SPDX-License-Identifier: Apache-2.0
"""What a plan has of a host, a checkpoint, an artifact and a router's server: declared once, and read by these words.

A replica is declared in `module_utils/serving/replica.py`, which hosts run as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Dict, List, Optional, Sequence, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.serving import shape
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.replica import ReplicaPlan


@dataclass
class WeightsPlan:
    """A checkpoint that a host is to have.

    Attributes:
        id: its name in units and files.
        source: where it comes from, with `uri` where that is a bucket.
        trust: formats that run code and are taken all the same.
        path: where it is on the host.
        sender: the host that it comes from where it goes from host to host: `host`, `address`, `path`, `turn`.
    """

    id: str
    repo: str
    revision: str
    source: str
    uri: Optional[str]
    path: str
    trust: Tuple[str, ...] = ()
    sender: Optional[Mapping[str, Any]] = None

    def to_dict(self) -> Dict[str, Any]:
        """Return the JSON-ready form."""
        return _said(self, only_if_said=("trust",))


@dataclass
class ArtifactPlan:
    """A compiled model that a host is to have, for all of its deployments that share it.

    Attributes:
        digest: of the inputs that make it.
        path: where it is on the host.
        weights: id of the checkpoint; `more_weights` are those of adapters and drafts.
        deployments: names of those that share it.
        compile_host: the one host of the fleet that compiles it.
        sender: as of `WeightsPlan`.
        argv: the command that compiles it, in `environment`.
        mode: how it is compiled.
        work_dir: where it is compiled.
        options: what is asked of the model beside its shape, in the inventory's words.
    """

    digest: str
    path: str
    weights: str
    weights_path: str
    sdk_release: str
    generation: str
    runtime: str
    image: Optional[str]
    argv: Tuple[str, ...]
    environment: Mapping[str, str]
    mode: str
    work_dir: str
    inputs: Mapping[str, Any]
    deployments: List[str] = field(default_factory=list)
    more_weights: Tuple[Mapping[str, str], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    compile_host: Optional[str] = None
    sender: Optional[Mapping[str, Any]] = None

    def to_dict(self) -> Dict[str, Any]:
        """Return the JSON-ready form."""
        return _said(self, only_if_said=("more_weights", "options"))


@dataclass
class HostPlan:
    """What a serving host is to be.

    Attributes:
        name: its inventory name.
        address: where others reach it.
        topology_source: whether the host said what it has, or a table of instance types did.
        reserved_cores: cores that no replica gets, as ranges; nor one of `quarantined_devices`.
        monitor: where the metrics of its devices are, None where they are not wanted.
        sdk: rows of the SDK releases that it is to have.
        spares: further replicas that serve only while a roll needs them.
        memory: estimates of its memory and disk, None where nobody knows them.
        loads_at_once: replicas that may load at the same time; 0 is all of them.
        reach: who may reach which of its ports.
    """

    name: str
    address: str
    instance_type: str
    logical_nc_config: int
    topology_source: str
    reserved_cores: str
    quarantined_devices: Tuple[int, ...]
    data_dir: str
    monitor: Optional[Mapping[str, Any]]
    sdk: Sequence[Mapping[str, Any]]
    weights: Sequence[WeightsPlan]
    artifacts: Sequence[ArtifactPlan]
    replicas: Sequence[ReplicaPlan]
    spares: Sequence[ReplicaPlan]
    memory: Optional[Mapping[str, Any]]
    loads_at_once: int
    reach: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> Dict[str, Any]:
        """Return the JSON-ready form, as `docs/schemas/plan.schema.json` describes it."""
        return _said(self)


@dataclass(frozen=True)
class RouterServer:
    """A replica as a router sends to it, or a router as the routers of a fleet do.

    Attributes:
        id: of the replica, or the router's name.
        host: the inventory name of its host.
        agent_port: port that answers agent checks; 0 for none.
        max_num_seqs: sequences that it works on at once, of a router those of all replicas behind it.
        spare: it serves only while a roll needs it.
        router: it is a router.
    """

    id: str
    address: str
    port: int
    agent_port: int
    max_num_seqs: int
    host: str
    spare: bool = False
    router: bool = False

    def to_dict(self) -> Dict[str, Any]:
        """Return the JSON-ready form."""
        return _said(self, only_if_said=("spare", "router"))


def slips_of(host: str, part: Mapping[str, Any]) -> List[str]:
    """Return what of a host's part nobody knows or is of another kind, a sentence each with the nearest word.

    Args:
        host: its inventory name.
        part: what a plan has of it.
    """
    found = shape.problems(HostPlan, part, within="the plan of {0}: ".format(host))
    rows = {"replicas": ReplicaPlan, "spares": ReplicaPlan, "weights": WeightsPlan, "artifacts": ArtifactPlan}
    for word, kind in rows.items():
        for index, row in enumerate(part.get(word) or ()):
            found += shape.problems(kind, row, within="the plan of {0}: {1}[{2}].".format(host, word, index))
    return found


def slips_of_router(router: str, part: Mapping[str, Any]) -> List[str]:
    """Return what of a router's servers nobody knows or is of another kind, a sentence each with the nearest word.

    Args:
        router: its inventory name.
        part: what a plan has of it.
    """
    found: List[str] = []
    for model in part.get("models") or ():
        for index, row in enumerate(model["servers"]):
            within = "the plan of router {0}: {1}.servers[{2}].".format(router, model["name"], index)
            found += shape.problems(RouterServer, row, within=within)
    return found


def _said(part: Any, only_if_said: Sequence[str] = ()) -> Dict[str, Any]:
    """Return a part's words with their values, without those that say nothing and stand there only if they do."""
    values = {word.name: getattr(part, word.name) for word in fields(part)}
    return {name: plain_of(value) for name, value in values.items() if value or name not in only_if_said}


def plain_of(value: Any) -> Any:
    """Return the JSON-ready form of parts, and of lists and mappings of them."""
    # Nearly every value is one of these, and the questions below take ten times as long.
    if value.__class__ in (str, int, bool):
        return value
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {name: plain_of(item) for name, item in value.items()}
    return [plain_of(item) for item in value] if isinstance(value, (tuple, list)) else value
