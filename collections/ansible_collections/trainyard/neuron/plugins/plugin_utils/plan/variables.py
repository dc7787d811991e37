# SPDX-License-Identifier: Apache-2.0
"""One host as the inventory describes it: its variables, read and checked, and its deployments."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.capacity.block_end import end_of
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.fields import (
    HIDDEN,
    BadValueError,
    BadValuesError,
    Field,
    Kind,
    core_list,
    images_by_digest,
    mapping,
    number,
    one_of,
    optional,
    read_fields,
    switch,
    text,
    whole_number,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem, did_you_mean
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.settings import (
    CANARY,
    GOLDEN,
    HEAL,
    HOOKS,
    KEYS,
    OBJECTIVE,
    PROMPTS,
    REDEPLOY,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.topology import (
    INSTANCE_TYPES,
    Topology,
    TopologyError,
    parse_topology,
    table_topology,
    with_host_facts,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan import pinned_images
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import (
    PREFIX,
    Deployment,
    parse_deployment,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.inventory import (
    KEY_INPUT,
    PIP_INDEX,
    SOURCE_COMMITS,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.reach import (
    FURTHER,
    FURTHER_MONITORS,
    MONITORS,
    OPEN,
    networks,
    open_to_everybody,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import IMAGE_REGISTRY
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.routers import OVER, REPLICAS, ROUTERS

#: How the CPUs of a host are given to its replicas: `numa` gives each its cores' share of their node, `proxy` keeps a
#: sixth of them for the runtime's proxy threads as AWS does on trn2.48xlarge, `none` pins nothing.
CPU_PINNING = ("numa", "proxy", "none")

#: What it means is judged in `identity`, with the other hosts.
_ADDRESS = re.compile(r"[A-Za-z0-9.:-]+")
#: Directories that units do not see as they are (homes, temporary ones), that a start empties, or of the system.
_NO_DATA = ("home", "root", "tmp", "var/tmp", "run", "var/run", "proc", "sys", "dev", "boot", "usr", "etc")
_DIRECTORY = re.compile(r"(/[A-Za-z0-9._-]+)+")
_SEEN_BY_UNITS = re.compile(r"(?!/(?:%s)(?:/|$))(?:/[A-Za-z0-9._-]+)+" % "|".join(_NO_DATA))
_TYPE = re.compile(r"[a-z0-9.-]+")
_PORT = whole_number(1, 65535)

#: How far above the port of the devices' metrics those of the host itself are.
HOST_METRICS_OFFSET = 1
_LINE = text(re.compile(r"[^\x00-\x1f\x7f]+"), "must be one line without control characters", "remove them")


_NETWORKS = Kind(networks, "list of addresses or networks", {"type": ["array", "null"], "items": {"type": "string"}})


_ARN = {"type": "string", "pattern": "^arn:[^ ]+$"}


def _target_groups(value: Any) -> Dict[str, str]:
    """Check a mapping of served names to the ARNs of their target groups."""
    found = mapping(value)
    wrong = [
        BadValueError("must be the ARN of a target group", "`aws elbv2 describe-target-groups` prints it", name, arn)
        for name, arn in found.items()
        if not isinstance(arn, str) or not re.fullmatch(_ARN["pattern"], arn)
    ]
    if wrong:
        raise BadValuesError(wrong)
    return found


def _data_dir(value: Any) -> str:
    """Check where weights and artifacts go: a directory that is the same to every unit, and is there after a start."""
    found = str(_ABSOLUTE(value))
    if not _SEEN_BY_UNITS.fullmatch(found):
        rule = "is not seen by the units that fetch and serve (ProtectHome, PrivateTmp), or is the system's own"
        raise BadValueError(rule, "choose another, such as /data: not below /%s" % ", /".join(_NO_DATA))
    return found


_ABSOLUTE = text(_DIRECTORY, "must be an absolute path of letters, digits and . _ -", "choose another", "absolute path")


def _environment(value: Any) -> Dict[str, str]:
    found = mapping(value)
    wrong = [
        BadValueError("must be text or a number", "quote it", key, HIDDEN)
        for key, item in found.items()
        if isinstance(item, bool) or not isinstance(item, (str, int, float))
    ]
    if wrong:
        raise BadValuesError(wrong)
    return {key: str(item) for key, item in found.items()}


_COMMIT = {"type": "string", "pattern": "^[0-9a-f]{40}$"}


def _commits(value: Any) -> Dict[str, str]:
    found = mapping(value)
    wrong = [
        BadValueError("must be a commit: 40 hex digits", "`git ls-remote` prints it", key, item)
        for key, item in found.items()
        if not isinstance(item, str) or not re.fullmatch(_COMMIT["pattern"], item)
    ]
    if wrong:
        raise BadValuesError(wrong)
    return {key: str(item) for key, item in found.items()}


def _overrides(value: Any) -> Dict[str, Any]:
    found = {} if value is None else value
    if not isinstance(found, Mapping) or not all(
        isinstance(key, str) and isinstance(item, Mapping) for key, item in found.items()
    ):
        raise BadValueError("must map deployments to fields", "write {deployment: {field: value}}")
    return dict(found)


def _moment(value: Any) -> Any:
    try:
        if value != "ec2":
            end_of(value)
    except ValueError as error:
        raise BadValueError(str(error), "write 2026-11-30T11:30:00Z, or ec2 for what EC2 says") from error
    return value


_FIELDS: Dict[str, Field] = {
    "trainyard_instance_type": Field(
        optional(text(_TYPE, "must be an EC2 instance type", "fix it", "EC2 instance type")),
        about="what to plan for while the host is not asked",
        example="trn2.48xlarge",
    ),
    "trainyard_logical_nc_config": Field(
        optional(whole_number(1)),
        about="physical cores of a logical one: 2 or 1 on trn2, 1 elsewhere; without it the family's",
        example=2,
    ),
    "trainyard_address": Field(
        optional(text(_ADDRESS, "must be an address or a host name", "give the private address", "address", 253)),
        about="where the router and the replicas meet; without it `ansible_host`",
        example="10.0.0.5",
    ),
    "trainyard_reserved_cores": Field(
        core_list, default=(), about="cores that no replica and no spare gets", example="48-63"
    ),
    "trainyard_quarantined_devices": Field(
        core_list, default=(), about="devices that are out; each costs the slices that touch it", example=[5]
    ),
    "trainyard_data_dir": Field(
        Kind(_data_dir, _ABSOLUTE.words, {**_ABSOLUTE.json, "pattern": "^(?:%s)$" % _SEEN_BY_UNITS.pattern}),
        default="/data",
        about="weights and artifacts",
        example="/data",
    ),
    "trainyard_cpu_pinning": Field(
        one_of(CPU_PINNING),
        default="numa",
        about="`numa`: the cores' share of their node; `proxy`: a sixth kept for the runtime's proxy threads, as AWS "
        "does; `none` pins nothing",
        example="proxy",
    ),
    "trainyard_router_port": Field(_PORT, default=8080, about="where clients reach the router", example=8080),
    "trainyard_router_metrics_port": Field(
        optional(_PORT), about="port of the router's metrics, which no replica may have", example=8405
    ),
    OVER: Field(
        one_of((REPLICAS, ROUTERS)),
        default=REPLICAS,
        about="on a router that serves nothing, `routers`: it balances over the routers of the hosts",
        example=ROUTERS,
    ),
    "trainyard_monitor_port": Field(
        optional(whole_number(1, 65535 - HOST_METRICS_OFFSET)),
        about="where Prometheus finds the metrics of the devices, and one above it those of the host itself; no "
        "replica may have either; without it there are none",
        example=9400,
    ),
    "trainyard_images": Field(
        images_by_digest,
        default={},
        about="for `runtime: container`: the SDK table's name and tag of an image, and what hosts pull; without it the "
        "first run asks `trainyard_image_registry`, and keeps the answer in `trainyard_images_file`",
        example={"pytorch-inference-vllm-neuronx:0.9.1": "public.ecr.aws/neuron/image@sha256:" + "0" * 64},
    ),
    "trainyard_image_registry": Field(
        text(
            re.compile(r"([A-Za-z0-9][A-Za-z0-9.:_/-]*[A-Za-z0-9])?"),
            "must be a registry's name, and what of a path all images there share",
            "write it without https:// and without a slash at its end",
            "name of a registry, or nothing",
        ),
        default=IMAGE_REGISTRY,
        about="what stands before the SDK table's names of images: the registry, or a mirror of it; empty: the images "
        "are on every host already",
        example="registry.example.net/mirror",
    ),
    pinned_images.VARIABLE: Field(
        text(
            re.compile(r"(/[^\x00-\x1f\x7f]+)?"),
            "must be an absolute path",
            "begin it with /",
            "absolute path, or nothing",
        ),
        default="",
        about="where the digests of images are kept that nothing else gives; empty: `trainyard_images.txt` beside the "
        "inventory",
        example="/srv/fleet/trainyard_images.txt",
    ),
    "trainyard_as_far_as_possible": Field(
        switch(),
        default=False,
        about="a run goes on without the hosts that do not answer, and says which",
        example=True,
    ),
    "trainyard_overrides": Field(
        Kind(_overrides, "mapping of deployments to fields", {"type": ["object", "null"]}),
        default={},
        about="merged over the deployments last: for `-e` and sweeps",
        example={"llama-3-3-70b": {"port": 8100}},
    ),
    MONITORS: Field(
        _NETWORKS, default=(), about="addresses and networks that read metrics of the host", example=["10.0.9.0/24"]
    ),
    OPEN: Field(
        Kind(open_to_everybody, "true or false", {"type": "boolean"}),
        default=False,
        about="the replicas are reached by whoever reaches the host",
        example=True,
    ),
    FURTHER: Field(
        _NETWORKS, default=(), about="who reaches replicas beside those that the plan knows", example=["10.0.7.5"]
    ),
    FURTHER_MONITORS: Field(
        _NETWORKS, default=(), about="who reads the metrics of the devices alone", example=["10.0.7.6"]
    ),
}

#: What the planner reads itself.
READ = frozenset(_FIELDS)

#: What the planner judges and does not read: playbooks do, later. Roles' variables that a client's access or a
#: result's soundness hangs on are judged with them.
JUDGED: Dict[str, Field] = {
    REDEPLOY.name: Field(REDEPLOY.kind, about="how a roll replaces replicas", example={"at_once": 2}),
    CANARY.name: Field(
        CANARY.kind, about="how much worse than its peers the first replica may be", example={"ttft_ratio": 2}
    ),
    "trainyard_canary_prompts": Field(
        PROMPTS,
        default=list(GOLDEN),
        about="prompts whose greedy completions are compared",
        example=["The capital of France is"],
    ),
    HOOKS.name: Field(HOOKS.kind, about="task files of yours that a roll runs", example={"before": ["tell.yml"]}),
    HEAL.name: Field(HEAL.kind, about="how much healing may do by itself", example={"actions_per_hour": 1}),
    "trainyard_history_file": Field(
        text(
            re.compile(r"(/[^\x00-\x1f\x7f]+)?"),
            "must be an absolute path",
            "begin it with /",
            "absolute path, or nothing",
        ),
        default="",
        about="where rolls and healing are written down, and healing counts its own actions; empty: "
        "`trainyard_history.txt` beside the inventory",
        example="/srv/fleet/trainyard_history.txt",
    ),
    "trainyard_aws_environment": Field(
        Kind(_environment, "mapping of variables to text", {"type": "object"}),
        default={},
        secret=True,
        about="environment of what talks to AWS: endpoint, region, credentials",
        example={"AWS_DEFAULT_REGION": "us-east-1"},
    ),
    "trainyard_capacity_block_end": Field(
        Kind(_moment, "ISO time with its zone, or `ec2`", {"type": ["string", "null"]}),
        about="end of the host's capacity block: work that would not be over 45 minutes before is refused or "
        "shortened; `ec2` asks EC2 for the block of `capacity_reservation_id`, anew at each step",
        example="2026-12-01T11:30:00Z",
    ),
    "trainyard_capacity_block_start": Field(
        Kind(_moment, "ISO time with its zone, or `ec2`", {"type": ["string", "null"]}),
        about="start of the host's capacity block, from which on it costs",
        example="2026-11-30T11:30:00Z",
    ),
    "trainyard_price_per_host_hour_usd": Field(
        optional(number(0, 10000)),
        about="what an hour of the host costs: status says what the block has cost so far, a report what the run did",
        example=35.7608,
    ),
    "trainyard_elb_target_groups": Field(
        Kind(_target_groups, "mapping of served names to ARNs", {"type": "object", "additionalProperties": _ARN}),
        about="for the hooks of ELB: the target group of each served name",
        example={"llama-70b": "arn:aws:elasticloadbalancing:..."},
    ),
    "trainyard_results_dir": Field(
        _LINE, about="directory on the controller for the results of benchmarks", example="/srv/results"
    ),
    "trainyard_benchmark": Field(_LINE, about="the one deployment to measure", example="llama-3-3-70b"),
    "trainyard_only": Field(_LINE, about="pattern of the hosts that a run is for", example="trn2-a"),
    "trainyard_take_over": Field(
        _LINE,
        about="the run whose lock is taken over, or several with commas between",
        example="20261130T101500-1a2b3c",
    ),
    "trainyard_teardown_data": Field(
        switch(),
        default=False,
        about="`teardown.yml` also removes weights, artifacts and the data volume",
        example=True,
    ),
    PIP_INDEX: Field(
        text(
            re.compile(r"((https?|file)://[!-~]+)?"),
            "must be an address",
            "begin it with https://",
            "address, or nothing",
        ),
        default="https://pip.repos.neuron.amazonaws.com",
        about="Neuron's Python package index; empty: vLLM is in every environment already, and nothing is built",
        example="https://pip.example.net/neuron",
    ),
    SOURCE_COMMITS: Field(
        Kind(_commits, "mapping of `owner/name@ref` to commits", {"type": "object", "additionalProperties": _COMMIT}),
        default={},
        about="commits to build vLLM at, where the SDK table has none or another one is wanted",
        example={"aws-neuron/upstreaming-to-vllm@2.26.1": "0" * 40},
    ),
    "benchmark_objective": Field(
        Kind(lambda value: {} if value == {} else OBJECTIVE.given(value), "mapping", OBJECTIVE.to_json(), OBJECTIVE),
        default={},
        about="what a request must keep to be good; empty is no objective",
        example={"time_to_first_token_ms": 2000},
    ),
}

#: Variables of the name's space that playbooks give each other; the planner only knows that they exist.
OTHER_VARIABLES = frozenset(
    {
        "trainyard_accept",
        "trainyard_accepted",
        "trainyard_asks",
        "trainyard_begun",
        "trainyard_compiles_next",
        "trainyard_done",
        "trainyard_drained",
        "trainyard_drained_elsewhere",
        "trainyard_elb_target_id",
        "trainyard_evacuated",
        "trainyard_evacuation",
        "trainyard_hand_over",
        "trainyard_leaving",
        "trainyard_logs",
        "trainyard_alerts",
        "trainyard_answers",
        "trainyard_devices",
        "trainyard_dry",
        "trainyard_failed",
        "trainyard_finding",
        "trainyard_findings",
        "trainyard_healing",
        "trainyard_placed",
        "trainyard_llmperf",
        "trainyard_replicas",
        "trainyard_replicas_after",
        "trainyard_results",
        "trainyard_roll",
        "trainyard_roll_begun",
        "trainyard_roll_done",
        "trainyard_roll_planned",
        "trainyard_roll_ready",
        "trainyard_roll_result",
        "trainyard_roll_verb",
        "trainyard_saved",
        "trainyard_seen",
        "trainyard_topology",
        "trainyard_tried",
        "trainyard_turn",
        "trainyard_verb",
        "trainyard_watched",
    }
)

#: Every variable that an inventory may give a host, beside its deployments.
VARIABLES: Dict[str, Field] = {
    **_FIELDS,
    **JUDGED,
    # Judged where it is read: the planner is told how many there are.
    "load_balancer_keys": Field(
        KEYS, default=[], about="API keys that clients may use", example=[{"name": "team-a", "sha256": "0" * 64}]
    ),
}

#: Ports that something beside the replicas may have on a host, by the variable that gives them.
OTHER_PORTS = ("trainyard_router_metrics_port", "trainyard_monitor_port")

#: What a host says in its report of devices that healing took out.
SHUNNED = "shunned_devices"

#: How like a known variable an unknown one must be to be taken for a slip; below it, it may be somebody's own.
SLIP_LIKENESS = 0.85


@dataclass(frozen=True)
class Host:
    """A host that serves, with everything read.

    Attributes:
        other_ports: variable and port of what listens beside the replicas.
        images: name and tag of a container image in the SDK table -> the reference by digest that hosts pull.
        image_registry: what stands before those names where nothing gives a digest yet; empty for none.
        operating_system: such as `ubuntu-24.04`; None where the host was not asked.
        refused: variable and tensor parallel degree of the deployments that could not be read, so that this much of
            them can still be judged with the rest.
        credentials: what tells the replicas' API key from another; empty where they ask for none.
        monitors: addresses and networks that read metrics.
        open_to_everybody: whether the replicas are to be reached by whoever reaches the host.
        further: addresses and networks that the role admits beside those that the plan knows.
        device_monitors: those that read the metrics of the devices alone.
        shunned_devices: those that healing took out, as the host itself says.
    """

    name: str
    address: str
    topology: Topology
    reserved_cores: Tuple[int, ...]
    quarantined_devices: Tuple[int, ...]
    data_dir: str
    images: Mapping[str, str]
    image_registry: str
    cpu_pinning: str
    router_port: int
    monitor_port: Optional[int]
    other_ports: Tuple[Tuple[str, int], ...]
    operating_system: Optional[str]
    deployments: Tuple[Deployment, ...]
    refused: Tuple[Tuple[str, Any], ...] = ()
    credentials: str = ""
    #: What vLLM is built at, by `owner/name@ref`; None where nothing is built.
    source_commits: Optional[Mapping[str, str]] = None
    monitors: Tuple[str, ...] = ()
    open_to_everybody: bool = False
    further: Tuple[str, ...] = ()
    device_monitors: Tuple[str, ...] = ()
    shunned_devices: Tuple[int, ...] = ()


def _other_ports(values: Mapping[str, Any]) -> Tuple[Tuple[str, int], ...]:
    """Return variable and port of what listens on a host beside its replicas."""
    found = [(key, values[key]) for key in OTHER_PORTS if values[key] is not None]
    if values["trainyard_monitor_port"] is not None:
        host_port = values["trainyard_monitor_port"] + HOST_METRICS_OFFSET
        found.append(("the host's metrics (trainyard_monitor_port + %d)" % HOST_METRICS_OFFSET, host_port))
    return tuple(found)


def _pinned(raw: Mapping[str, Any], registry: str) -> Dict[str, str]:
    """Return name and tag -> reference by digest of the images that the fleet has pinned from a registry."""
    found = {}
    for reference, digest in (raw.get(pinned_images.INPUT) or {}).items():
        if registry and reference.startswith(registry + "/"):
            found[reference[len(registry) + 1 :]] = pinned_images.by_digest(reference, digest)
    return found


def _source_commits(raw: Mapping[str, Any]) -> Optional[Dict[str, str]]:
    """Return the commits that a host's variables give; None where it builds nothing."""
    if raw.get(PIP_INDEX, True) in ("", None):
        return None
    given = raw.get(SOURCE_COMMITS)
    return {str(key): str(value) for key, value in given.items()} if isinstance(given, Mapping) else {}


class HostReader:
    """Reads hosts; what many hosts share, such as group variables, is read once."""

    def __init__(self) -> None:
        self._parsed: Dict[str, Tuple[Optional[Deployment], List[Problem]]] = {}
        self._known = (frozenset(_FIELDS) | frozenset(JUDGED) | OTHER_VARIABLES) - {FURTHER, FURTHER_MONITORS}
        self._judged: Dict[str, List[Problem]] = {}
        self._topologies: Dict[Topology, Topology] = {}
        self.overridden: Set[str] = set()

    def read(
        self, name: str, raw: Mapping[str, Any], reported: Any
    ) -> Tuple[Optional[Host], List[Problem], List[Problem]]:
        """Read one host.

        Args:
            name: its inventory name.
            raw: its variables.
            reported: what the host said of its topology, None where it was not asked.

        Returns:
            The host where it can be planned, the problems and the warnings.
        """
        values, problems = read_variables(raw)
        warnings: List[Problem] = []
        problems += self._judge(raw)
        self._names(raw, problems, warnings)
        deployments, refused = self._deployments(raw, problems)
        topology = _topology(values, reported, problems, warnings)
        if topology is not None:
            topology = self._topologies.setdefault(topology, topology)
        address = values.get("trainyard_address") or str(raw.get("ansible_host") or name)
        problems, warnings = [p.on(name) for p in problems], [w.on(name) for w in warnings]
        if topology is None or any(key not in values for key in _FIELDS):
            return None, problems, warnings
        return (
            Host(
                name=name,
                address=address,
                topology=topology,
                reserved_cores=values["trainyard_reserved_cores"],
                quarantined_devices=values["trainyard_quarantined_devices"],
                data_dir=values["trainyard_data_dir"],
                images={**_pinned(raw, values["trainyard_image_registry"]), **values["trainyard_images"]},
                image_registry=values["trainyard_image_registry"],
                cpu_pinning=values["trainyard_cpu_pinning"],
                router_port=values["trainyard_router_port"],
                monitor_port=values["trainyard_monitor_port"],
                other_ports=_other_ports(values),
                operating_system=_operating_system(reported),
                deployments=tuple(deployments),
                refused=tuple(refused),
                credentials=str(raw.get(KEY_INPUT) or ""),
                source_commits=_source_commits(raw),
                monitors=values[MONITORS],
                open_to_everybody=values[OPEN],
                further=values[FURTHER],
                device_monitors=values[FURTHER_MONITORS],
                shunned_devices=_shunned(reported, topology),
            ),
            problems,
            warnings,
        )

    def read_other(self, name: str, raw: Mapping[str, Any]) -> Tuple[Dict[str, Any], List[Problem]]:
        """Read the variables of a host that only balances or sends load.

        Args:
            name: its inventory name.
            raw: its variables.

        Returns:
            The values that are right, by variable, and the problems.
        """
        values, problems = read_variables(raw)
        problems += self._judge(raw)
        self._names(raw, problems, [])
        return values, [problem.on(name) for problem in problems]

    def _judge(self, raw: Mapping[str, Any]) -> List[Problem]:
        """Return what is wrong with settings that playbooks read later; equal ones are judged once."""
        found: List[Problem] = []
        for key in raw:
            if key not in JUDGED:
                continue
            known = key + same(raw[key])
            if known not in self._judged:
                _values, problems = read_fields({key: raw[key]}, {key: JUDGED[key]}, "")
                self._judged[known] = _bare(problems)
            found += self._judged[known]
        return found

    def _names(self, raw: Mapping[str, Any], problems: List[Problem], warnings: List[Problem]) -> None:
        """Notice variables that nobody reads: near a known name it is a slip, else it is only mentioned."""
        for key in raw:
            if not key.startswith("trainyard_") or key.startswith(PREFIX) or key in self._known:
                continue
            slip = _slip(key, self._known)
            rule = "is no variable of trainyard"
            if slip:
                problems.append(Problem("", key, raw[key], rule, "did you mean '%s'?" % slip))
            else:
                warnings.append(Problem("", key, raw[key], rule, "remove it, or give it a prefix of your own"))

    def _deployments(
        self, raw: Mapping[str, Any], problems: List[Problem]
    ) -> Tuple[List[Deployment], List[Tuple[str, Any]]]:
        overrides = raw.get("trainyard_overrides") or {}
        if not isinstance(overrides, Mapping) or not all(isinstance(item, Mapping) for item in overrides.values()):
            overrides = {}  # which was told when it was read
        found: List[Deployment] = []
        refused: List[Tuple[str, Any]] = []
        for variable in sorted(key for key in raw if key.startswith(PREFIX)):
            if raw[variable] is None:
                continue  # the documented way to take a group's deployment off one host
            deployment, wrong = self._parse(variable, raw[variable], overrides)
            problems += wrong
            if deployment is not None:
                found.append(deployment)
            elif isinstance(raw[variable], Mapping):
                refused.append((variable, raw[variable].get("tensor_parallel_size")))
        return found, refused

    def _parse(
        self, variable: str, raw: Any, overrides: Mapping[str, Any]
    ) -> Tuple[Optional[Deployment], List[Problem]]:
        name = raw.get("name") if isinstance(raw, Mapping) else None
        change = overrides.get(name) if isinstance(name, str) else None
        if change is not None:
            self.overridden.add(str(name))
            raw = merge(raw, change)
        key = variable + same(raw)
        if key not in self._parsed:
            self._parsed[key] = parse_deployment(raw, variable)
        return self._parsed[key]


def read_variables(raw: Mapping[str, Any]) -> Tuple[Dict[str, Any], List[Problem]]:
    """Return what the planner itself reads of a host's variables, and what is wrong with it."""
    values, problems = read_fields({key: raw[key] for key in raw if key in _FIELDS}, _FIELDS, "")
    return values, _bare(problems)


def _bare(problems: List[Problem]) -> List[Problem]:
    """Return problems of variables that stand in nothing: without the dot before their names."""
    return [Problem("", p.variable.lstrip("."), p.value, p.rule, p.fix) for p in problems]


def same(value: Any) -> str:
    """Return a text that only equal values share, whatever they hold."""
    try:
        return json.dumps(value, sort_keys=True, default=repr)
    except (TypeError, ValueError):
        return repr(value)  # keys that have no order among each other


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> Dict[str, Any]:
    """Return `base` with `change` over it; mappings merge, everything else replaces."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _slip(name: str, known: Iterable[str]) -> str:
    """Return the known variable that a name most likely means, compared without the prefix that all share."""
    bare = {key[len("trainyard_") :]: key for key in known}
    near = difflib.get_close_matches(name[len("trainyard_") :], sorted(bare), n=1, cutoff=SLIP_LIKENESS)
    if near:
        return bare[near[0]]
    return PREFIX + "<name>" if difflib.get_close_matches(name[: len(PREFIX)], [PREFIX], n=1, cutoff=0.9) else ""


def _topology(
    values: Mapping[str, Any], reported: Any, problems: List[Problem], warnings: List[Problem]
) -> Optional[Topology]:
    """Return the host's topology, from what it reported or else from the table."""
    if "trainyard_instance_type" not in values or "trainyard_logical_nc_config" not in values:
        return None
    kind, lnc = values["trainyard_instance_type"], values["trainyard_logical_nc_config"]
    try:
        if _has_devices(reported):
            topology = parse_topology(reported, kind, lnc)
        elif kind is not None:
            topology = with_host_facts(table_topology(kind, lnc), reported or {})
        else:
            rule = "must be given: the host named no devices, so its cores are unknown"
            fix = "set it, such as trn2.48xlarge, or let the preflight reach a host that has neuron-ls"
            problems.append(Problem("", "trainyard_instance_type", None, rule, fix))
            return None
    except TopologyError as error:
        variable, value = {
            "instance_type": ("trainyard_instance_type", kind),
            "logical_nc_config": ("trainyard_logical_nc_config", lnc),
            "report": ("trainyard_topology", "(what the host reported)"),
        }[error.about]
        fix = did_you_mean(str(kind), INSTANCE_TYPES) if error.about == "instance_type" else ""
        problems.append(Problem("", variable, value, str(error), fix or "correct it, or leave it to the table"))
        return None
    for sentence in topology.disagreements:
        fix = "trust the host, or correct trainyard_instance_type and trainyard_logical_nc_config"
        warnings.append(Problem("", "trainyard_instance_type", kind, sentence, fix))
    return topology


def _has_devices(reported: Any) -> bool:
    """Tell a report of devices from what a host without `neuron-ls` can say of itself."""
    if isinstance(reported, Mapping):
        return bool(reported.get("devices"))
    return bool(reported)


def _shunned(reported: Any, topology: Topology) -> Tuple[int, ...]:
    """Return the devices that healing took out, of those that the host has."""
    said = reported.get(SHUNNED) if isinstance(reported, Mapping) else None
    known = {device.index for device in topology.devices}
    return tuple(sorted(known.intersection(item for item in said if isinstance(item, int)))) if said else ()


def _operating_system(reported: Any) -> Optional[str]:
    """Return `ubuntu-24.04` where the host said it."""
    if isinstance(reported, Mapping) and isinstance(reported.get("operating_system"), str):
        return str(reported["operating_system"])
    return None
