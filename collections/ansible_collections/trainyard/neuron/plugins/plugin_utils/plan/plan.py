# SPDX-License-Identifier: Apache-2.0
"""From an inventory to a fleet's plan: the one place where cores, CPUs, ports, paths, digests and names are decided."""

from __future__ import absolute_import, annotations, division, print_function

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError, Problem, did_you_mean
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.ranges import format_ranges
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.releases import (
    SdkRelease,
    find_release,
    release_problems,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.topology import Topology
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.replica import ReplicaPlan
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan import checks, identity, reach
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.artifact import (
    artifact_digest,
    artifact_inputs,
    expected,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import (
    AGENT_PORT_OFFSET,
    PREFIX,
    Deployment,
    ModelRef,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.fan_out import fan_out
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.fit import GIB, ConfigError, ModelShape
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.generations import (
    argument_problems,
    argument_warnings,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.known_models import known_config
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.memory import (
    HostMemory,
    deployment_fit,
    host_memory,
    memory_problems,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.model_options import (
    OPTIONS,
    compiled_models,
    further_models,
    served_names,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.placement import (
    CpuMap,
    CpuShare,
    Placement,
    Request,
    Slice,
    cores_of_devices,
    devices_of,
    numa_nodes,
    place,
    spare_slices,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.rendering import render_compile, render_serve
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.router_access import router_access
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.routers import Tiers, server_of, shares, tiers_of
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.variables import (
    READ,
    Host,
    HostReader,
    read_variables,
)

__metaclass__ = type

#: Version of the plan's shape, `docs/schemas/plan.schema.json`.
VERSION = 1

LOOPBACK = "127.0.0.1"

#: Families of operating systems whose releases are known to work or not to work with a release of the SDK.
JUDGED_SYSTEMS = ("ubuntu", "amazon", "rocky")
ROUTER_PORT, DEFAULT_ROUTER_PORT = "trainyard_router_port", 8080

#: What a deployment's further replica is called in place of its index.
SPARE = "spare"

#: The field of a deployment's `benchmark` that says how many clients send; the others are the load itself.
LOAD_HOSTS = "load_hosts"


@dataclass(frozen=True)
class FleetPlan:
    """A fleet's plan; `to_dict` is what roles, playbooks and `trainyard plan --json` read."""

    hosts: Mapping[str, Mapping[str, Any]]
    router: Mapping[str, Any]
    benchmarks: Sequence[Mapping[str, Any]] = ()
    warnings: Tuple[Problem, ...] = ()

    def to_dict(self) -> Dict[str, Any]:
        """Return the JSON-ready form."""
        return {
            "version": VERSION,
            "hosts": {name: _host_dict(host) for name, host in self.hosts.items()},
            "router": dict(self.router),
            "benchmarks": [dict(benchmark) for benchmark in self.benchmarks],
            "warnings": [warning.to_dict() for warning in self.warnings],
        }


def _host_dict(host: Mapping[str, Any]) -> Dict[str, Any]:
    rows = {kind: [replica.to_dict() for replica in host[kind]] for kind in ("replicas", "spares")}
    return {**host, **rows}


def plan_fleet(fleet_input: Mapping[str, Any]) -> FleetPlan:
    """Plan a fleet.

    Args:
        fleet_input: `hosts` (name -> its inventory variables), `routers` (names of the hosts that balance),
            `topologies` (name -> what the host reported, absent where it was not asked), and optionally
            `clients` (names of the hosts that send load, which read the replicas' own counters),
            `problems` (of what was judged when it was read),
            `other_variables` (name -> variables of routers and clients that serve nothing themselves) and
            `model_configs` (repo@revision -> the checkpoint's config.json; published models are known without).

    Returns:
        The plan; the same for any order of the input.

    Raises:
        PlanError: with every problem of every host.
    """
    return _Planner(fleet_input).plan()


class _Planner:
    """One run of the planner.

    What is alike between hosts is computed once: equal deployments and topologies are one object, which the reader
    sees to, so their identity is a key.
    """

    def __init__(self, fleet_input: Mapping[str, Any]) -> None:
        self._raw: Mapping[str, Mapping[str, Any]] = fleet_input.get("hosts") or {}
        self._routers = sorted(fleet_input.get("routers") or ())
        self._clients = sorted(fleet_input.get("clients") or ())
        self._other_variables: Mapping[str, Any] = fleet_input.get("other_variables") or {}
        self._reported: Mapping[str, Any] = fleet_input.get("topologies") or {}
        self._tiers = Tiers((), ())
        self._reader = HostReader()
        self._beside_read: Dict[str, Dict[str, Any]] = {}
        self._problems: List[Problem] = list(fleet_input.get("problems") or ())
        self._warnings: List[Problem] = []
        self._placements: Dict[Any, Placement] = {}
        self._cpu_maps: Dict[Any, CpuMap] = {}
        self._artifacts: Dict[Any, Tuple[str, Dict[str, Any]]] = {}
        self._model_configs: Mapping[str, Any] = fleet_input.get("model_configs") or {}
        self._slices: Dict[Any, Dict[str, Any]] = {}
        self._memories: Dict[Any, HostMemory] = {}
        self._hbm: Dict[Any, Optional[int]] = {}
        self._shapes: Dict[ModelRef, Optional[ModelShape]] = {}
        self._unread: Dict[ModelRef, str] = {}
        self._with_configs: Dict[int, Tuple[Deployment, Deployment]] = {}
        self._judged: Dict[Any, Tuple[Optional[SdkRelease], List[Problem], List[Problem]]] = {}

    def plan(self) -> FleetPlan:
        """Plan all hosts, then what they share."""
        if not self._raw:
            rule = "has no host to plan for"
            raise PlanError([Problem("", "inventory group neuron", [], rule, "put the Trainium hosts into it")])
        hosts = self._read()
        self._read_beside()
        self._read_routers()
        self._problems += checks.served_name_problems(hosts)
        self._problems += checks.checkpoint_problems(hosts)
        planned = {host.name: self._host(host) for host in hosts}
        self._check_identities(planned)
        self._add_reach(hosts, planned)
        router = self._router(hosts, planned)
        benchmarks = self._benchmarks(hosts, planned, router)
        if self._problems:
            raise PlanError(self._problems)
        _elect_compile_hosts(planned)
        _name_senders(planned)
        return FleetPlan(planned, router, benchmarks, tuple(_unique(self._warnings)))

    def _read(self) -> List[Host]:
        reader = self._reader
        hosts = []
        for name in sorted(self._raw):
            host, problems, warnings = reader.read(name, self._raw[name], self._reported.get(name))
            self._problems += problems
            self._warnings += warnings
            if host is not None:
                hosts.append(self._with_config(host))
        self._check_overrides(hosts, reader)
        return hosts

    def _read_beside(self) -> None:
        """Read the routers and clients that serve nothing themselves."""
        for name in sorted(self._other_variables):
            if name not in self._raw:
                self._beside_read[name], problems = self._reader.beside(name, self._other_variables[name] or {})
                self._problems += problems

    def _read_routers(self) -> None:
        serving = [name for name, raw in self._raw.items() if any(raw[key] for key in raw if key.startswith(PREFIX))]
        variables = {name: self._beside(name) for name in self._routers}
        self._tiers, problems = tiers_of(self._routers, variables, serving)
        self._problems += problems

    def _check_overrides(self, hosts: Sequence[Host], reader: HostReader) -> None:
        """An override of a deployment that nobody has is a slip."""
        known = {deployment.name for host in hosts for deployment in host.deployments} | reader.overridden
        for name in sorted(self._raw):
            overrides = self._raw[name].get("trainyard_overrides")
            if not isinstance(overrides, Mapping):
                continue
            for key in sorted(set(overrides) - known, key=str):
                fix = did_you_mean(str(key), known) or "name a deployment"
                path = "trainyard_overrides.%s" % key
                self._problems.append(Problem(name, path, overrides[key], "no host has this deployment", fix))

    def _host(self, host: Host) -> Dict[str, Any]:
        releases = self._releases(host)
        placement = self._place(host, releases)
        found = checks.host_problems(host, releases, _ports(host, placement), balances=host.name in self._routers)
        for variable, degree in host.refused:
            found += checks.tensor_parallel_problems(degree, variable, host.topology)
        self._problems += [problem.on(host.name) for problem in found]
        if not host.deployments:
            rule = "serves nothing: it has no trainyard_deployment_<name>"
            self._warnings.append(Problem(host.name, "inventory", host.name, rule, "put it into a deployment's group"))
        if any(problem.host == host.name for problem in self._problems):
            return {}
        replicas = self._replicas(host, releases, placement)
        spares = self._spares(host, releases, placement)
        memory = self._host_memory(host, releases, placement)
        return {
            "name": host.name,
            "address": host.address,
            "instance_type": host.topology.instance_type,
            "logical_nc_config": host.topology.logical_nc_config,
            "topology_source": host.topology.source,
            "reserved_cores": format_ranges(host.reserved_cores),
            "quarantined_devices": list(host.quarantined_devices),
            "data_dir": host.data_dir,
            "monitor": _monitor(host),
            "sdk": _sdk_entries(host, releases),
            "weights": _weights(host),
            "artifacts": self._host_artifacts(host, releases),
            "replicas": replicas,
            "spares": spares,
            "memory": memory,
            # Where not one load fits by the estimate, which was warned of, one at a time has the best chance.
            "loads_at_once": max(1, memory["loads_at_once"]) if memory else 0,
        }

    def _releases(self, host: Host) -> Dict[str, SdkRelease]:
        """Find the SDK row of each deployment, and say what is wrong with deployments on this host."""
        rows = {}
        for deployment in host.deployments:
            row, problems, warnings = self._judge(deployment, host)
            if row is not None:
                rows[deployment.name] = row
            self._problems += [problem.on(host.name) for problem in problems]
            self._warnings += [warning.on(host.name) for warning in warnings]
        return rows

    def _judge(self, deployment: Deployment, host: Host) -> Tuple[Optional[SdkRelease], List[Problem], List[Problem]]:
        """Return a deployment's SDK row, its problems and its warnings on such a host, whoever else is there."""
        key = (id(deployment), id(host.topology), host.operating_system)
        if key not in self._judged:
            where = checks.variable_of(deployment)
            problems = checks.deployment_problems(deployment, host.topology)
            row = None
            wrong, warnings = _release_problems(deployment, host, where)
            if not wrong:
                row = find_release(deployment.sdk_release, deployment.generation)
                problems += argument_problems(deployment, row, where)
                fitting, costs = self._memory_problems(deployment, row, host.topology, where)
                problems, warnings = problems + fitting, warnings + costs
                if not problems:
                    warnings += argument_warnings(deployment, row, where) + checks.traps(deployment)
                    warnings += checks.program_warnings(deployment, deployment.model_config)
            self._judged[key] = (row, problems + wrong, warnings)
        return self._judged[key]

    def _memory_problems(
        self, deployment: Deployment, row: SdkRelease, topology: Topology, where: str
    ) -> Tuple[List[Problem], List[Problem]]:
        """Return what does not fit, and what it costs; of a model that nobody knows nothing is said."""
        shape = self._shape(deployment.model)
        if shape is None:
            return [], [self._unknown_size(deployment.model, where)]
        degrees, draft = topology.legal_tensor_parallel, self._draft(deployment)
        return memory_problems(deployment, row, shape, topology.hbm_bytes_per_core, where, degrees, draft)

    def _draft(self, deployment: Deployment) -> Optional[ModelShape]:
        """Return the shape of the model that guesses ahead, None where there is none or nobody knows it."""
        return None if deployment.speculation is None else self._shape(deployment.speculation.model)

    def _shape(self, model: ModelRef) -> Optional[ModelShape]:
        """Return a model's shape, from its config.json where it was given, else by its published name."""
        if model not in self._shapes:
            given = self._model_configs.get(_model_key(model), known_config(model.repo))
            try:
                self._shapes[model] = None if given is None else ModelShape.from_config(given)
            except ConfigError as error:
                # The engine may know more architectures than this: what cannot be told is not refused.
                self._shapes[model], self._unread[model] = None, str(error)
        return self._shapes[model]

    def _unknown_size(self, model: ModelRef, where: str) -> Problem:
        """Return that nothing is said of a model's memory, and what would change that."""
        rule = "has no size that is known here, so nothing is said of memory, heads and length"
        if model in self._unread:
            return Problem("", where + ".model.repo", model.repo, rule, "read config.json: %s" % self._unread[model])
        fix = "give %s/%s/config.json below --model-configs DIR, or fetch it by trainyard plan --hub %s" % (
            model.repo,
            model.revision,
            "https://huggingface.co",
        )
        return Problem("", where + ".model.repo", model.repo, rule + ", and quantized weights are not seen", fix)

    def _with_config(self, host: Host) -> Host:
        """Return a host with its models' config.json files in its deployments, equal deployments still one object."""
        if not self._model_configs:
            return host
        return replace(host, deployments=tuple(self._configured(item) for item in host.deployments))

    def _configured(self, deployment: Deployment) -> Deployment:
        config = self._model_configs.get(_model_key(deployment.model))
        if not isinstance(config, Mapping):
            return deployment
        key = id(deployment)
        if key not in self._with_configs:
            self._with_configs[key] = (deployment, replace(deployment, model_config=config))
        return self._with_configs[key][1]

    def _host_memory(self, host: Host, releases: Mapping[str, SdkRelease], placement: Placement) -> Any:
        """Return the estimates of a host's memory and disk, None where a model or the host's memory is not known."""
        shapes = {item.name: self._shape(item.model) for item in host.deployments}
        if host.topology.memory_bytes is None or not all(shapes.values()):
            return None
        replicas, artifacts = [], {}
        for item in host.deployments:
            shape = shapes[item.name]
            if shape is None:
                continue
            replicas += [(item, releases[item.name], shape)] * len(placement.slices[item.name])
            artifacts[self._artifact(item, releases[item.name], host.topology)[0]] = (item, shape)
        key = (id(host.topology), tuple(id(item) for item, _row, _shape in replicas))
        if key not in self._memories:
            self._memories[key] = host_memory(replicas, list(artifacts.values()), host.topology.memory_bytes)
        memory = self._memories[key]
        if replicas and not memory.loads_at_once:
            rule = "a load takes an estimated %.0f GiB of host memory" % (memory.bytes_per_load / GIB)
            value = "%.0f GiB" % (host.topology.memory_bytes / GIB)
            fix = "use a larger host, or compile with save_sharded_checkpoint"
            self._warnings.append(Problem(host.name, "host memory", value, rule, fix))
        return asdict(memory)

    def _place(self, host: Host, releases: Mapping[str, SdkRelease]) -> Placement:
        """Lay the slices of the deployments that are right in themselves."""
        requests = self._requests(host, releases)
        key = (id(host.topology), requests, host.reserved_cores, host.quarantined_devices)
        if key not in self._placements:
            self._placements[key] = place(host.topology, requests, _blocked(host))
        placement = self._placements[key]
        already = {problem.variable for problem in self._problems if problem.host == host.name}
        for refusal in placement.refusals:
            deployment = _by_name(host, refusal.name)
            path = "%s.%s" % (checks.variable_of(deployment), refusal.field)
            if path not in already:
                value = format_ranges(deployment.cores) if refusal.field == "cores" else deployment.data_parallel_size
                self._problems.append(Problem(host.name, path, value, refusal.rule, refusal.fix))
        return placement

    def _requests(self, host: Host, releases: Mapping[str, SdkRelease]) -> Tuple[Request, ...]:
        """Return what the deployments that are right in themselves want of a host."""
        return tuple(
            Request(item.name, item.tensor_parallel_size, item.data_parallel_size, item.cores)
            for item in host.deployments
            if item.tensor_parallel_size in host.topology.legal_tensor_parallel and item.name in releases
        )

    def _artifact(self, deployment: Deployment, release: SdkRelease, topology: Topology) -> Tuple[str, Dict[str, Any]]:
        key = (id(deployment), topology.logical_nc_config, topology.family)
        if key not in self._artifacts:
            inputs = artifact_inputs(deployment, release, topology.logical_nc_config, topology.family)
            self._artifacts[key] = (artifact_digest(inputs), inputs)
        return self._artifacts[key]

    def _host_artifacts(self, host: Host, releases: Mapping[str, SdkRelease]) -> List[Dict[str, Any]]:
        """Return the host's artifacts, one for all deployments that share a digest."""
        found: Dict[str, Dict[str, Any]] = {}
        for deployment in sorted(host.deployments, key=lambda item: item.name):
            release = releases[deployment.name]
            digest, inputs = self._artifact(deployment, release, host.topology)
            if digest in found:
                found[digest]["deployments"].append(deployment.name)
                continue
            path, work_dir = artifact_path(host.data_dir, digest), "%s/compile/%s" % (host.data_dir, digest)
            rendered = render_compile(
                deployment,
                release,
                weights_path=weights_path(host.data_dir, deployment.model),
                artifact_path=path,
                work_dir=work_dir,
                logical_nc_config=host.topology.logical_nc_config,
            )
            found[digest] = {
                "digest": digest,
                "path": path,
                "weights": weights_id(deployment.model),
                "weights_path": weights_path(host.data_dir, deployment.model),
                "sdk_release": release.release,
                "generation": release.generation,
                "deployments": [deployment.name],
                "compile_host": None,
                "runtime": deployment.runtime,
                "image": _sdk_entry(release, deployment, host)["image"],
                "sender": None,
                "argv": list(rendered.argv),
                "environment": dict(rendered.environment),
                "mode": rendered.mode,
                "work_dir": work_dir,
                "inputs": inputs,
                **_if_said("more_weights", _more_weights(compiled_models(deployment), host.data_dir)),
                **_if_said("options", _options(deployment)),
            }
        return [found[digest] for digest in sorted(found)]

    def _cpu_map(self, host: Host) -> Optional[CpuMap]:
        if host.cpu_pinning == "none":
            return None
        key = (id(host.topology), host.cpu_pinning)
        if key not in self._cpu_maps:
            self._cpu_maps[key] = CpuMap(host.topology, reserve_proxy=host.cpu_pinning == "proxy")
        return self._cpu_maps[key]

    def _replicas(self, host: Host, releases: Mapping[str, SdkRelease], placement: Placement) -> List[ReplicaPlan]:
        replicas = []
        for name in sorted(placement.slices):
            deployment = _by_name(host, name)
            for index, piece in enumerate(placement.slices[name]):
                replicas.append(self._replica(host, deployment, releases[name], index, piece))
        return sorted(replicas, key=lambda replica: (replica.devices[0], replica.port))

    def _spares(self, host: Host, releases: Mapping[str, SdkRelease], placement: Placement) -> List[ReplicaPlan]:
        """Return one more replica for each deployment that the host has a free slice, a free port and the memory for.

        They serve only while a roll needs them (see `roll.plan`): nothing of the plan depends on which of them run.
        """
        requests = self._requests(host, releases)
        taken = {core for pieces in placement.slices.values() for piece in pieces for core in piece.cores}
        slices = spare_slices(host.topology, requests, taken | set(_blocked(host)))
        ports = checks.taken_ports(host, _ports(host, placement), balances=host.name in self._routers)
        found = []
        for name in sorted(slices):
            deployment = _by_name(host, name)
            count = len(placement.slices[name])
            port = checks.free_port(deployment.port + count, ports)
            if port is None or not self._holds_one_more(host, releases[name], deployment):
                continue
            ports |= {port, port + AGENT_PORT_OFFSET}
            seat = ("%s-%s" % (name, SPARE), port)
            spare = self._replica(host, deployment, releases[name], count, slices[name], seat)
            found.append(replace(spare, spare=True))
        return found

    def _holds_one_more(self, host: Host, release: SdkRelease, deployment: Deployment) -> bool:
        """Return whether a host's memory takes the load of one more replica; it does where nobody knows either."""
        shape = self._shape(deployment.model)
        if host.topology.memory_bytes is None or shape is None:
            return True
        more = host_memory([(deployment, release, shape)], [], host.topology.memory_bytes)
        return more.loads_at_once > 0

    def _slice(self, host: Host, piece: Slice) -> Dict[str, Any]:
        """Return what follows from a slice's place on such a host."""
        key = (id(host.topology), host.cpu_pinning, piece)
        if key not in self._slices:
            cpu_map = self._cpu_map(host)
            share = cpu_map.of(piece.cores) if cpu_map else CpuShare(())
            devices = devices_of(host.topology, piece.cores)
            self._slices[key] = {
                "cores": format_ranges(piece.cores),
                "devices": [device.index for device in devices],
                "numa_nodes": numa_nodes(devices),
                "cpus": format_ranges(share.cpus),
                "proxy_cpus": format_ranges(share.proxy_cpus),
            }
        return self._slices[key]

    def _replica(
        self,
        host: Host,
        deployment: Deployment,
        release: SdkRelease,
        index: int,
        piece: Slice,
        seat: Optional[Tuple[str, int]] = None,
    ) -> ReplicaPlan:
        """Return a replica; `seat`: name and port where they do not follow from its index."""
        where = self._slice(host, piece)
        digest, _inputs = self._artifact(deployment, release, host.topology)
        name, port = seat or ("%s-%d" % (deployment.name, index), deployment.port + index)
        # Where nobody else has to reach it, nobody else can.
        alone = self._routes_alone(host.name) and set(self._clients) <= {host.name}
        address = LOOPBACK if alone else host.address
        rendered = render_serve(
            deployment,
            release,
            placement={
                "cores": where["cores"],
                "core_count": piece.width,
                "port": port,
                "address": address,
                "proxy_cpus": where["proxy_cpus"],
                "logical_nc_config": host.topology.logical_nc_config,
            },
            weights_path=weights_path(host.data_dir, deployment.model),
            artifact_path=artifact_path(host.data_dir, digest),
            replica_name=name,
        )
        entry = _sdk_entry(release, deployment, host)
        return ReplicaPlan(
            name=name,
            id="%s:%s" % (host.name, name),
            deployment=deployment.name,
            index=index,
            unit="vllm@%s.service" % name,
            cores=where["cores"],
            core_count=piece.width,
            devices=tuple(where["devices"]),
            numa_nodes=tuple(where["numa_nodes"]),
            cpus=where["cpus"],
            proxy_cpus=where["proxy_cpus"],
            address=address,
            port=port,
            agent_port=port + AGENT_PORT_OFFSET,
            url=_url(address, port),
            sdk_release=release.release,
            generation=release.generation,
            runtime=deployment.runtime,
            venv=entry["venv"],
            image=entry["image"],
            weights=weights_id(deployment.model),
            weights_path=weights_path(host.data_dir, deployment.model),
            more_weights=tuple(_more_weights(further_models(deployment), host.data_dir)),
            artifact=digest,
            artifact_path=artifact_path(host.data_dir, digest),
            served_name=deployment.served_name,
            served_aliases=tuple(served_names(deployment)[1:]),
            options=_options(deployment),
            max_num_seqs=deployment.max_num_seqs,
            max_model_len=deployment.max_model_len,
            hbm_bytes_needed=self._hbm_bytes(deployment, release, host.topology),
            hbm_bytes_available=host.topology.hbm_bytes_per_core * piece.width,
            argv=tuple(rendered.argv),
            environment=dict(rendered.environment),
            compiled=expected(deployment, release, host.topology.logical_nc_config),
            credentials=host.credentials or "",
        ).released()

    def _hbm_bytes(self, deployment: Deployment, release: SdkRelease, topology: Topology) -> Optional[int]:
        """Estimate the device memory of a replica in bytes, None for a model that is not known."""
        key = (id(deployment), topology.hbm_bytes_per_core)
        if key not in self._hbm:
            shape = self._shape(deployment.model)
            self._hbm[key] = None
            if shape is not None:
                draft = self._draft(deployment)
                fit = deployment_fit(deployment, release, shape, topology.hbm_bytes_per_core, draft)
                self._hbm[key] = fit.needed * deployment.tensor_parallel_size
        return self._hbm[key]

    def _router(self, hosts: Sequence[Host], planned: Mapping[str, Mapping[str, Any]]) -> Dict[str, Any]:
        """Collect the servers of each model for the routers, and find the routers' port."""
        models: Dict[str, List[Dict[str, Any]]] = {}
        aliases: Dict[str, List[str]] = {}
        # The spares last: what counts a model's servers through has the same numbers with them and without.
        for kind in ("replicas", "spares"):
            for name, host in planned.items():
                for replica in host.get(kind, ()):
                    models.setdefault(replica.served_name, []).append(server_of(name, replica))
                    aliases[replica.served_name] = list(replica.served_aliases)
        tiers = self._tiers
        rows = [
            {"name": name, "servers": models[name], **({"aliases": aliases[name]} if aliases[name] else {})}
            for name in sorted(models)
        ]
        port = self._router_port(tiers.inner, hosts)
        facing = self._router_port(tiers.outer, hosts) if tiers.outer else port
        addresses = {name: self._address_of(name, hosts) for name in self._routers}
        return {
            "port": port,
            "urls": [_url(addresses[name], facing) for name in tiers.facing],
            "names": list(tiers.inner),
            "models": rows,
            "own": shares(tiers, rows, addresses, port, facing),
            "access": {
                name: self._access(name, addresses[name], [addresses[outer] for outer in tiers.outer])
                for name in self._routers
            },
        }

    def _access(self, name: str, address: str, before: List[str]) -> Dict[str, Any]:
        """Return who may reach a router, and complain of what must not be reached so.

        Args:
            name: the router.
            address: where others reach it.
            before: addresses of the routers of the fleet, all of whose requests come from one address each.
        """
        access, problems = router_access(self._beside(name), address)
        self._problems += [problem.on(name) for problem in problems]
        return dict(access.to_dict(), before=before if name in self._tiers.inner else [])

    def _routes_alone(self, name: str) -> bool:
        """Tell whether nobody but the router of this very host sends requests to its replicas."""
        return self._tiers.inner == (name,) or (bool(self._tiers.outer) and name in self._tiers.inner)

    def _address_of(self, name: str, hosts: Sequence[Host]) -> str:
        """Return where others reach a router or a client, which may serve nothing itself."""
        for host in hosts:
            if host.name == name:
                return host.address
        given = self._beside(name)
        return str(given.get("trainyard_address") or given.get("ansible_host") or name)

    def _router_port(self, names: Sequence[str], hosts: Sequence[Host]) -> int:
        """Return the port of routers that stand side by side."""
        ports: Dict[int, List[str]] = {}
        by_name = {host.name: host for host in hosts}
        for name in names:
            port = (
                by_name[name].router_port
                if name in by_name
                else self._beside(name).get(ROUTER_PORT, DEFAULT_ROUTER_PORT)
            )
            ports.setdefault(port, []).append(name)
        if len(ports) > 1:
            rule = "all routers must listen on one port: %s" % ", ".join(
                "%s has %s" % (names[0], port) for port, names in sorted(ports.items(), key=str)
            )
            fix = "set it once, in group_vars/all"
            self._problems.append(Problem("", ROUTER_PORT, sorted(ports, key=str), rule, fix))
        return min((port for port in ports if isinstance(port, int)), default=DEFAULT_ROUTER_PORT)

    def _check_identities(self, planned: Mapping[str, Mapping[str, Any]]) -> None:
        """Judge names and addresses of every host that serves, routes or sends."""
        names = list(dict.fromkeys([*sorted(self._raw), *self._routers, *self._clients]))
        seats = []
        for name in names:
            variables = self._beside(name)
            reported = self._reported.get(name)
            rows: Sequence[ReplicaPlan] = planned.get(name, {}).get("replicas", ())
            met = len(names) > 1 or any(row.address != LOOPBACK for row in rows)
            seats.append(identity.seat(name, variables, met, reported, serves=name in self._raw))
        problems, warnings = identity.problems_of(seats)
        self._problems += problems
        self._warnings += warnings

    def _add_reach(self, hosts: Sequence[Host], planned: Mapping[str, Dict[str, Any]]) -> None:
        """Say of each host who may reach it: those that route to it, send load or read metrics."""
        clients = [self._address_of(name, hosts) for name in self._clients]
        # Below routers of the fleet, a host's replicas are its own router's alone.
        balancing = () if self._tiers.outer else self._tiers.inner
        routers = [self._address_of(name, hosts) for name in balancing]
        for host in hosts:
            found = planned[host.name]
            if not found:
                continue
            found["reach"] = {
                "open": host.open_to_everybody,
                "rules": reach.rules_of(found, routers, clients, host.monitors),
                "further": list(host.further),
            }
            beyond = any(row.address != LOOPBACK for row in found["replicas"])
            self._warnings += reach.warnings_of(host.name, found["reach"], beyond)

    def _beside(self, name: str) -> Mapping[str, Any]:
        """Return the variables that are right of a host which may serve nothing itself."""
        if name not in self._beside_read:
            self._beside_read[name] = read_variables(self._raw.get(name) or {})[0]
        given = self._other_variables.get(name) or self._raw.get(name) or {}
        return {**{key: given[key] for key in given if key not in READ}, **self._beside_read[name]}

    def _benchmarks(
        self, hosts: Sequence[Host], planned: Mapping[str, Mapping[str, Any]], router: Mapping[str, Any]
    ) -> List[Dict[str, Any]]:
        """Return what to measure: for each deployment its load, who sends it where, and which replicas will answer."""
        found: Dict[str, Dict[str, Any]] = {}
        for host in hosts:
            for replica in planned[host.name].get("replicas", ()):
                deployment = _by_name(host, replica.deployment)
                entry = found.get(deployment.name)
                if entry is None:
                    found[deployment.name] = entry = {
                        "deployment": deployment.name,
                        "model": replica.served_name,
                        "url": router["urls"][0] if router["urls"] else replica.url,
                        "tokenizer": replica.weights_path,
                        "load": {name: value for name, value in deployment.benchmark.items() if name != LOAD_HOSTS},
                        "load_hosts": self._load_hosts(deployment, hosts),
                        "hosts": [],
                        "replicas": [],
                    }
                entry["replicas"].append(dict(replica.to_dict(), host=host.name))
                if host.name not in entry["hosts"]:
                    entry["hosts"].append(host.name)
        for entry in found.values():
            begins = entry["load_hosts"][0]["name"] if entry["load_hosts"] else ""
            # The hosts that serve have the tokenizer with the weights; a load host beside them gets a copy.
            entry["tokenizer_host"] = "" if begins in entry["hosts"] else entry["hosts"][0]
        return [found[name] for name in sorted(found)]

    def _load_hosts(self, deployment: Deployment, hosts: Sequence[Host]) -> List[Dict[str, str]]:
        """Return who sends: as many clients as the load wants, those that serve nothing first."""
        wanted, known = deployment.benchmark.get(LOAD_HOSTS, 1), len(self._clients)
        where = "%s.benchmark.%s" % (checks.variable_of(deployment), LOAD_HOSTS)
        if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
            self._problems.append(
                Problem("", where, wanted, "must be a whole number from 1", "give how many hosts send")
            )
            return []
        if wanted > max(1, known):
            rule = "the inventory group client has %d" % known
            self._problems.append(Problem("", where, wanted, rule, "put more hosts into it, or lower it"))
        serving = {host.name for host in hosts}
        names = sorted(self._clients, key=lambda name: (name in serving, name))
        return [{"name": name, "address": self._address_of(name, hosts)} for name in names[:wanted]]


def _release_problems(deployment: Deployment, host: Host, where: str) -> Tuple[List[Problem], List[Problem]]:
    """Return why a release cannot serve on a host, and what is only undocumented there.

    A system of a family that AWS documents, or one that is known not to work, is judged; another one may work.
    """

    def asked(operating_system: Optional[str]) -> List[Problem]:
        return release_problems(
            deployment.sdk_release,
            deployment.generation,
            family=host.topology.family,
            runtime=deployment.runtime,
            operating_system=operating_system,
            where=where,
        )

    without = asked(None)
    of_system = [problem for problem in asked(host.operating_system) if problem not in without]
    if (host.operating_system or "").split("-")[0] in JUDGED_SYSTEMS:
        return without + of_system, []
    return without, of_system


def _monitor(host: Host) -> Optional[Dict[str, Any]]:
    """Return where the metrics of a host's devices are, None where they are not wanted."""
    if host.monitor_port is None:
        return None
    url = _url(host.address, host.monitor_port) + "/metrics"
    return {"port": host.monitor_port, "url": url, "clients": sorted({*host.monitors, *host.device_monitors})}


def _url(address: str, port: int) -> str:
    return "http://%s:%d" % ("[%s]" % address if ":" in address else address, port)


def _blocked(host: Host) -> Dict[int, str]:
    """Return the cores that nobody gets, and why."""
    blocked = dict.fromkeys(cores_of_devices(host.topology, host.quarantined_devices), "quarantined devices")
    blocked.update(dict.fromkeys(host.reserved_cores, "reserved cores"))
    return blocked


def _ports(host: Host, placement: Placement) -> Dict[str, List[int]]:
    """Return the ports of each deployment's replicas, by the deployment's name."""
    return {
        name: [_by_name(host, name).port + index for index in range(len(slices))]
        for name, slices in placement.slices.items()
    }


def _by_name(host: Host, name: str) -> Deployment:
    return next(deployment for deployment in host.deployments if deployment.name == name)


def _if_said(name: str, value: Any) -> Dict[str, Any]:
    """Return a word of the plan with its value, nothing where it says nothing."""
    return {name: value} if value else {}


def _more_weights(models: Sequence[ModelRef], data_dir: str) -> List[Dict[str, str]]:
    """Return further checkpoints that have to be there."""
    return [{"id": weights_id(model), "path": weights_path(data_dir, model)} for model in models]


def _options(deployment: Deployment) -> Dict[str, Any]:
    """Return what a deployment asks of its model beside its shape, in the inventory's words; nothing for nothing."""
    found = {}
    for name in OPTIONS:
        value = getattr(deployment, name)
        if value not in (None, (), {}):
            found[name] = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    return dict(json.loads(json.dumps(found)))


def _model_key(model: ModelRef) -> str:
    return "%s@%s" % (model.repo, model.revision)


def weights_id(model: ModelRef) -> str:
    """Return a name for a checkpoint that is safe in units and files: `meta-llama-llama-3.3-70b-6f6073b42301`."""
    slug = re.sub(r"[^a-z0-9.]+", "-", model.repo.lower()).strip("-.")
    return "%s-%s" % (slug, model.revision[:12])


def weights_path(data_dir: str, model: ModelRef) -> str:
    """Return where a checkpoint is on a host; the same on every host, since compiled models remember it."""
    return "%s/weights/%s/%s" % (data_dir, model.repo, model.revision)


def artifact_path(data_dir: str, digest: str) -> str:
    """Return where an artifact is on a host."""
    return "%s/artifacts/%s" % (data_dir, digest)


def _sdk_entry(release: SdkRelease, deployment: Deployment, host: Host) -> Dict[str, Any]:
    """Return the row as a host's plan carries it, its image by the digest that the host's variables give it."""
    entry = release.entry(deployment.runtime)
    if entry["image"]:
        entry["image"] = host.images.get(entry["image"], entry["image"])
    return entry


def _sdk_entries(host: Host, releases: Mapping[str, SdkRelease]) -> List[Dict[str, Any]]:
    found = {}
    for deployment in host.deployments:
        entry = _sdk_entry(releases[deployment.name], deployment, host)
        found[(entry["release"], entry["generation"], entry["runtime"])] = entry
    return [found[key] for key in sorted(found)]


def _weights(host: Host) -> List[Dict[str, Any]]:
    found = {}
    wanted = [model for item in host.deployments for model in (item.model, *further_models(item))]
    for model in wanted:
        found[weights_id(model)] = {
            "id": weights_id(model),
            "repo": model.repo,
            "revision": model.revision,
            "source": model.source,
            "uri": model.uri,
            **({"trust": list(model.trust)} if model.trust else {}),
            "path": weights_path(host.data_dir, model),
            "sender": None,
        }
    return [found[key] for key in sorted(found)]


def _elect_compile_hosts(planned: Mapping[str, Mapping[str, Any]]) -> None:
    """Name one host for each digest, so that a fleet compiles once; the work is spread over the hosts."""
    holders: Dict[str, List[str]] = {}
    for name, host in planned.items():
        for artifact in host["artifacts"]:
            holders.setdefault(artifact["digest"], []).append(name)
    load: Dict[str, int] = dict.fromkeys(planned, 0)
    elected = {}
    for digest in sorted(holders):
        elected[digest] = min(holders[digest], key=lambda name: (load[name], name))
        load[elected[digest]] += 1
    for host in planned.values():
        for artifact in host["artifacts"]:
            artifact["compile_host"] = elected[artifact["digest"]]


def _name_senders(planned: Mapping[str, Mapping[str, Any]]) -> None:
    """Name for each checkpoint and artifact of a host the host that it comes from where it goes from host to host.

    The first to have an artifact is the host that compiles it. The first to have a checkpoint is a host that compiles
    from it, and the next are the others that do: what waits longest begins first.
    """
    compiles: Dict[str, List[str]] = {}
    for name, host in planned.items():
        for artifact in host["artifacts"]:
            if artifact["compile_host"] == name:
                compiles.setdefault(artifact["weights"], []).append(name)
                compiles.setdefault(artifact["digest"], []).append(name)
    entries: Dict[str, Dict[str, Dict[str, Any]]] = {}
    for name, host in planned.items():
        for entry in host["weights"]:
            entries.setdefault(entry["id"], {})[name] = entry
        for entry in host["artifacts"]:
            entries.setdefault(entry["digest"], {})[name] = entry
    for identifier, by_host in entries.items():
        first = [name for name in dict.fromkeys(compiles.get(identifier, ())) if name in by_host]
        order = first + [name for name in by_host if name not in first]
        for name, leg in fan_out(order[:1], order[1:]).items():
            by_host[name]["sender"] = {
                "host": leg.sender,
                "address": planned[leg.sender]["address"],
                "path": by_host[leg.sender]["path"],
                "turn": leg.turn,
            }


def _unique(problems: Iterable[Problem]) -> List[Problem]:
    """Drop what was said before of the same host."""
    return list({(problem.host, str(problem)): problem for problem in problems}.values())
