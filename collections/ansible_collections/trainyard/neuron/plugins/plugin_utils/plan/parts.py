# SPDX-License-Identifier: Apache-2.0
"""What a plan has of a host, a checkpoint, an artifact and a router's server: declared once, and read by these words.

A replica is declared in `module_utils/serving/replica.py`, which hosts run as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from ansible_collections.trainyard.neuron.plugins.module_utils.serving import shape
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.replica import FurtherWeights, ReplicaPlan
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.router_access import Access


@dataclass(frozen=True)
class Sender:
    """The host from which something goes to another one.

    Attributes:
        host: its inventory name.
        address: where it is reached.
        path: what it sends.
        turn: how many others it serves first.
    """

    host: str
    address: str
    path: str
    turn: int


@dataclass(frozen=True)
class Monitor:
    """Where the metrics of a host's devices are, and those of the host itself.

    Attributes:
        port: of the devices.
        host_port: of the host itself: its replicas, its lock, its kernel.
        clients: addresses and networks that may read them.
    """

    port: int
    url: str
    host_port: int
    host_url: str
    clients: Tuple[str, ...]


@dataclass(frozen=True)
class ReachRule:
    """Who may reach some ports of a host from elsewhere.

    Attributes:
        what: what listens there.
        from_: addresses and networks; `from` in a plan.
    """

    what: str
    ports: Tuple[int, ...]
    from_: Tuple[str, ...]


@dataclass(frozen=True)
class Reach:
    """Who may reach a host from elsewhere; everybody else is refused.

    Attributes:
        open: whether the inventory opens the replicas to anybody.
        rules: who may reach which ports.
        further: addresses and networks that the role admits to replicas and agents as well.
    """

    open: bool
    rules: Tuple[ReachRule, ...]
    further: Tuple[str, ...]


@dataclass(frozen=True)
class SdkSource:
    """Where the source of a release's vLLM is.

    Attributes:
        needed: whether the release's environment is built from it.
        pythons: versions of Python that the release's packages are made for, oldest first.
    """

    repo: str
    ref: str
    commit: Optional[str]
    requirements: Optional[str]
    needed: bool
    pythons: Tuple[str, ...]


@dataclass(frozen=True)
class SdkEntry:
    """A row of the SDK table as a host is to have it.

    Attributes:
        packages: version of each package of the distribution.
        versions: of what its environment or image has.
        source: of its vLLM, None where it is packaged.
    """

    release: str
    generation: str
    runtime: str
    venv: Optional[str]
    image: Optional[str]
    packages: Mapping[str, Any]
    versions: Mapping[str, Any]
    source: Optional[SdkSource]


@dataclass
class WeightsPlan:
    """A checkpoint that a host is to have.

    Attributes:
        id: its name in units and files.
        source: where it comes from, with `uri` where that is a bucket.
        trust: formats that run code and are taken all the same.
        path: where it is on the host.
        sender: the host that it comes from where it goes from host to host.
    """

    id: str
    repo: str
    revision: str
    source: str
    uri: Optional[str]
    path: str
    trust: Tuple[str, ...] = ()
    sender: Optional[Sender] = None

    def to_dict(self) -> Dict[str, Any]:
        """Return the JSON-ready form."""
        return _said(self, only_if_said=("trust",))


@dataclass(frozen=True)
class ArtifactInputs:
    """What a compiled model follows from, of which its digest is.

    Attributes:
        version: of the form of these inputs.
        weights: repository and revision.
        sdk: what traces and compiles.
        settings: of the engine.
        environment: variables that reach the compiler.
    """

    version: int
    weights: Mapping[str, str]
    model_type: Optional[str]
    sdk: Mapping[str, Any]
    family: str
    logical_nc_config: int
    settings: Mapping[str, Any]
    environment: Mapping[str, str]


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
        files: what the command reads and the job writes into `work_dir` before: path -> content.
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
    files: Mapping[str, str] = field(default_factory=dict)
    compile_host: Optional[str] = None
    sender: Optional[Sender] = None

    def to_dict(self) -> Dict[str, Any]:
        """Return the JSON-ready form."""
        return _said(self, only_if_said=("more_weights", "options", "files"))


@dataclass(frozen=True)
class HostMemory:
    """Estimates for one host, in bytes.

    Attributes:
        loads_at_once: how many of its replicas may load at the same time, 0 where not one can.
        bytes_per_load: what the largest of them takes while it loads.
        disk_bytes: weights and artifacts, once everything is there.
        disk_peak_bytes: the same while the largest artifact is made.
    """

    loads_at_once: int
    bytes_per_load: int
    disk_bytes: int
    disk_peak_bytes: int


@dataclass(frozen=True)
class TravellingFile:
    """What goes to a host with its plan, for its replicas to read.

    Attributes:
        name: of the file in /etc/vllm/files, with a digest of its content.
    """

    name: str
    content: str


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
        files: what travels with the plan and replicas read.
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
    monitor: Optional[Monitor]
    sdk: Sequence[SdkEntry]
    weights: Sequence[WeightsPlan]
    artifacts: Sequence[ArtifactPlan]
    replicas: Sequence[ReplicaPlan]
    spares: Sequence[ReplicaPlan]
    memory: Optional[HostMemory]
    loads_at_once: int
    reach: Optional[Reach] = None
    files: Tuple[TravellingFile, ...] = ()

    def to_dict(self) -> Dict[str, Any]:
        """Return the JSON-ready form, as `docs/schemas/plan.schema.json` describes it."""
        return _said(self, only_if_said=("files",))


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
        return server_words(self)


def server_words(server: Union[RouterServer, ReplicaPlan]) -> Dict[str, Any]:
    """Return what a router has to know of a replica, or of a router behind it: the words of `RouterServer`."""
    values = {word.name: getattr(server, word.name, word.default) for word in fields(RouterServer)}
    return {name: value for name, value in values.items() if value or name not in ("spare", "router")}


@dataclass(frozen=True)
class RouterModel:
    """A model with the servers that a router has for it.

    Attributes:
        aliases: further names that clients may ask for.
    """

    name: str
    servers: Tuple[Union[RouterServer, ReplicaPlan], ...]
    aliases: Tuple[str, ...] = ()

    def to_dict(self) -> Dict[str, Any]:
        """Return the JSON-ready form."""
        said = {"aliases": list(self.aliases)} if self.aliases else {}
        return {"name": self.name, "servers": [server_words(server) for server in self.servers], **said}


@dataclass(frozen=True)
class RouterReach(Access):
    """Who may reach a router of the plan.

    Attributes:
        before: addresses of the routers of the fleet, all of whose requests come from one address each.
    """

    before: Tuple[str, ...] = ()


@dataclass(frozen=True)
class RouterPart:
    """What a router is to be."""

    port: int
    models: Tuple[RouterModel, ...]
    access: RouterReach


@dataclass(frozen=True)
class LoadHost:
    """A host that sends load."""

    name: str
    address: str


@dataclass(frozen=True)
class MeasuredReplica(ReplicaPlan):
    """A replica that a benchmark measures, with its host: inventory name, instance type, NeuronCores a logical one."""

    host: str = ""
    instance_type: str = ""
    logical_nc_config: int = 0


@dataclass(frozen=True)
class BenchmarkPart:
    """What to measure of a deployment, in one run.

    Attributes:
        mix: which of its mixes of names this run asks for, from 0.
        label: what the run is called after.
        url: where the load goes.
        tokenizer: where it is, on `tokenizer_host` where those that send do not have it.
        load: what is sent, in the inventory's words.
        hosts: those that serve the deployment.
    """

    deployment: str
    mix: int
    label: str
    model: str
    url: str
    tokenizer: str
    tokenizer_host: str
    load: Mapping[str, Any]
    load_hosts: Tuple[LoadHost, ...]
    hosts: Tuple[str, ...]
    replicas: Tuple[MeasuredReplica, ...]


#: Words of a part under which another part stands, or a list of them.
WITHIN: Mapping[Any, Mapping[str, Any]] = {
    HostPlan: {
        "artifacts": ArtifactPlan,
        "memory": HostMemory,
        "monitor": Monitor,
        "reach": Reach,
        "replicas": ReplicaPlan,
        "sdk": SdkEntry,
        "spares": ReplicaPlan,
        "weights": WeightsPlan,
    },
    ArtifactPlan: {"inputs": ArtifactInputs, "more_weights": FurtherWeights, "sender": Sender},
    WeightsPlan: {"sender": Sender},
    ReplicaPlan: {"more_weights": FurtherWeights},
    Reach: {"rules": ReachRule},
    SdkEntry: {"source": SdkSource},
    RouterPart: {"access": RouterReach, "models": RouterModel},
    RouterModel: {"servers": RouterServer},
    BenchmarkPart: {"load_hosts": LoadHost, "replicas": MeasuredReplica},
    MeasuredReplica: {"more_weights": FurtherWeights},
}

#: Words of a part under which there are names of a few kinds -> those names.
NAMES: Mapping[Any, Mapping[str, Sequence[str]]] = {
    SdkEntry: {"versions": ("neuronx-cc", "nxdi", "vllm", "vllm-neuron")},
    ArtifactInputs: {
        "weights": ("repo", "revision"),
        "sdk": ("release", "generation", "compiler", "nxdi", "plugin"),
    },
}


def slips_of(host: str, part: Mapping[str, Any]) -> List[str]:
    """Return what of a host's part nobody knows or is of another kind, a sentence each with the nearest word.

    Args:
        host: its inventory name.
        part: what a plan has of it.
    """
    return _slips(HostPlan, part, "the plan of {0}: ".format(host))


def slips_of_router(router: str, part: Mapping[str, Any]) -> List[str]:
    """Return what of a router's part nobody knows or is of another kind, a sentence each with the nearest word.

    Args:
        router: its inventory name.
        part: what a plan has of it.
    """
    return _slips(RouterPart, part, "the plan of router {0}: ".format(router))


def slips_of_benchmark(part: Mapping[str, Any]) -> List[str]:
    """Return what of a benchmark nobody knows or is of another kind, a sentence each with the nearest word."""
    return _slips(BenchmarkPart, part, "the plan's benchmark of {0}: ".format(part.get("deployment")))


def _slips(kind: Any, part: Any, within: str) -> List[str]:
    """Return the slips of a part and of all that stand in it."""
    if not isinstance(part, Mapping):
        return ["{0}wanted are words with values, found is {1!r:.80}".format(within, part)]
    found = shape.problems(kind, part, within=within)
    for word, inner in WITHIN.get(kind, {}).items():
        value = part.get(word)
        if value is None:
            continue
        rows = value if isinstance(value, (list, tuple)) else [value]
        many = isinstance(value, (list, tuple))
        for index, row in enumerate(rows):
            found += _slips(inner, row, "{0}{1}{2}.".format(within, word, "[%d]" % index if many else ""))
    for word, known in NAMES.get(kind, {}).items():
        found += shape.unknown(part.get(word) or {}, known, "{0}{1}.".format(within, word))
    return found + (_option_slips(part["options"], within + "options.") if part.get("options") else [])


def _option_slips(options: Mapping[str, Any], within: str) -> List[str]:
    """Return the slips of what a deployment asks of its model beside its shape."""
    # Few deployments ask for anything, and a worker compiles what it loads of a collection anew in every run.
    from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan import deployment, model_options

    found = shape.unknown(options, model_options.OPTIONS, within)
    kinds: Dict[str, Any] = {
        "lora": model_options.Lora,
        "speculation": model_options.Speculation,
        "quantization": model_options.Quantization,
        "tools": model_options.Tools,
        "adapters": model_options.Adapter,
        "model": deployment.ModelRef,
        "checkpoint": deployment.ModelRef,
    }

    def look(part: Mapping[str, Any], within: str) -> None:
        for word, value in part.items():
            rows = value if isinstance(value, (list, tuple)) else [value]
            for row in rows:
                if word in kinds and isinstance(row, Mapping):
                    found.extend(shape.unknown(row, kinds[word].__dataclass_fields__, "{0}{1}.".format(within, word)))
                    look(row, "{0}{1}.".format(within, word))

    look(options, within)
    return found


def _said(part: Any, only_if_said: Sequence[str] = ()) -> Dict[str, Any]:
    """Return a part's words with their values, without those that say nothing and stand there only if they do."""
    values = {shape.spelled(word.name): getattr(part, word.name) for word in fields(part)}
    return {name: plain_of(value) for name, value in values.items() if value or name not in only_if_said}


def plain_of(value: Any) -> Any:
    """Return the JSON-ready form of parts, and of lists and mappings of them."""
    # Nearly every value is one of these, and the questions below take ten times as long.
    if value.__class__ in (str, int, bool):
        return value
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if is_dataclass(value):
        return _said(value)
    if isinstance(value, Mapping):
        return {name: plain_of(item) for name, item in value.items()}
    return [plain_of(item) for item in value] if isinstance(value, (tuple, list)) else value
