# SPDX-License-Identifier: Apache-2.0
"""From an inventory to a fleet's plan: the one place where cores, CPUs, ports, paths, digests and names are decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import PlanError, Problem, did_you_mean
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.ranges import format_ranges
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.topology import Topology
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.replica import ReplicaPlan
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan import checks, identity, mixes, reach
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import (
    PREFIX,
    Deployment,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.fit import GIB
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.generations import (
    argument_problems,
    argument_warnings,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.host_parts import (
    LOOPBACK,
    HostParts,
    blocked_cores,
    deployment_of,
    ports_of,
    requests_of,
    sdk_entry,
    shunned_cores,
    url_of,
    weights_of,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.memory import (
    host_memory,
    memory_problems,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.model_shapes import ModelShapes
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.parts import (
    HostMemory,
    HostPlan,
    Monitor,
    Reach,
    RouterModel,
    RouterReach,
    SdkEntry,
    SdkSource,
    plain_of,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.placement import (
    Placement,
    place,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import (
    SdkRelease,
    find_release,
    release_problems,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.router_access import not_its_own, router_access
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.routers import Tiers, shares, tiers_of
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.shared_work import elect_compile_hosts, name_senders
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.variables import (
    HOST_METRICS_OFFSET,
    READ,
    Host,
    HostReader,
    read_variables,
)

#: Version of the plan's shape, `docs/schemas/plan.schema.json`.
VERSION = 1

#: Families of operating systems whose releases are known to work or not to work with a release of the SDK.
JUDGED_SYSTEMS = ("ubuntu", "amazon", "rocky")
ROUTER_PORT, DEFAULT_ROUTER_PORT = "trainyard_router_port", 8080


@dataclass(frozen=True)
class FleetPlan:
    """A fleet's plan; `to_dict` is what roles, playbooks and `trainyard plan --json` read."""

    hosts: Mapping[str, HostPlan]
    router: Mapping[str, Any]
    benchmarks: Sequence[Mapping[str, Any]] = ()
    warnings: Tuple[Problem, ...] = ()

    def to_dict(self) -> Dict[str, Any]:
        """Return the JSON-ready form."""
        return {
            "version": VERSION,
            "hosts": {name: host.to_dict() for name, host in self.hosts.items()},
            "router": dict(self.router),
            "benchmarks": [dict(benchmark) for benchmark in self.benchmarks],
            "warnings": [warning.to_dict() for warning in self.warnings],
        }


def plan_fleet(fleet_input: Mapping[str, Any]) -> FleetPlan:
    """Plan a fleet.

    Args:
        fleet_input: `hosts` (name -> its inventory variables), `routers` (names of the hosts that balance),
            `topologies` (name -> what the host reported, absent where it was not asked), and optionally
            `clients` (names of the hosts that send load, which read the replicas' own counters),
            `monitors` (names of the hosts that read metrics),
            `problems` (of what was judged when it was read),
            `other_variables` (name -> variables of routers and clients that serve nothing themselves) and
            `model_configs` (repo@revision -> the checkpoint's config.json; published models are known without),
            `files` (path on the controller -> content, of the chat templates that deployments name).

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
        self._monitors = sorted(fleet_input.get("monitors") or ())
        self._other_variables: Mapping[str, Any] = fleet_input.get("other_variables") or {}
        self._reported: Mapping[str, Any] = fleet_input.get("topologies") or {}
        self._tiers = Tiers((), ())
        self._reader = HostReader()
        self._others_read: Dict[str, Dict[str, Any]] = {}
        self._problems: List[Problem] = list(fleet_input.get("problems") or ())
        self._warnings: List[Problem] = list(fleet_input.get("warnings") or ())
        self._placements: Dict[Any, Placement] = {}
        self._memories: Dict[Any, HostMemory] = {}
        self._shapes = ModelShapes(fleet_input.get("model_configs") or {}, fleet_input.get("files") or {})
        self._parts = HostParts(self._shapes, self._routers, self._is_alone)
        self._judged: Dict[Any, Tuple[Optional[SdkRelease], List[Problem], List[Problem]]] = {}

    def plan(self) -> FleetPlan:
        """Plan all hosts, then what they share."""
        if not self._raw:
            rule = "has no host to plan for"
            raise PlanError([Problem("", "inventory group neuron", [], rule, "put the Trainium hosts into it")])
        hosts = self._read()
        self._read_others()
        self._read_routers()
        self._problems += checks.served_name_problems(hosts)
        self._problems += checks.checkpoint_problems(hosts)
        found = {host.name: self._host(host) for host in hosts}
        planned = {name: host for name, host in found.items() if host is not None}
        self._check_identities(planned)
        self._add_reach(hosts, planned)
        router = self._router(hosts, planned)
        benchmarks = self._benchmarks(hosts, planned, router)
        if self._problems:
            raise PlanError(self._problems)
        elect_compile_hosts(planned)
        name_senders(planned)
        return FleetPlan(planned, router, benchmarks, tuple(_unique(self._warnings)))

    def _read(self) -> List[Host]:
        reader = self._reader
        hosts = []
        for name in sorted(self._raw):
            host, problems, warnings = reader.read(name, self._raw[name], self._reported.get(name))
            self._problems += problems
            self._warnings += warnings
            if host is not None:
                hosts.append(self._shapes.with_config(host))
        self._check_overrides(hosts, reader)
        return hosts

    def _read_others(self) -> None:
        """Read the routers, clients and monitors that serve nothing themselves."""
        for name in sorted(self._other_variables):
            if name not in self._raw:
                self._others_read[name], problems = self._reader.read_other(name, self._other_variables[name] or {})
                self._problems += problems

    def _read_routers(self) -> None:
        serving = [name for name, raw in self._raw.items() if any(raw[key] for key in raw if key.startswith(PREFIX))]
        variables = {name: self._variables_of(name) for name in self._routers}
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

    def _host(self, host: Host) -> Optional[HostPlan]:
        """Plan a host; None where something is wrong with it."""
        releases = self._releases(host)
        placement = self._place(host, releases)
        found = checks.host_problems(host, releases, ports_of(host, placement), balances=host.name in self._routers)
        for variable, degree in host.refused:
            found += checks.tensor_parallel_problems(degree, variable, host.topology)
        self._problems += [problem.on(host.name) for problem in found]
        if not host.deployments:
            rule = "serves nothing: it has no trainyard_deployment_<name>"
            self._warnings.append(Problem(host.name, "inventory", host.name, rule, "put it into a deployment's group"))
        if any(problem.host == host.name for problem in self._problems):
            return None
        replicas = self._parts.replicas(host, releases, placement)
        spares = self._parts.spares(host, releases, placement)
        memory = self._host_memory(host, releases, placement)
        return HostPlan(
            name=host.name,
            address=host.address,
            instance_type=host.topology.instance_type,
            logical_nc_config=host.topology.logical_nc_config,
            topology_source=host.topology.source,
            reserved_cores=format_ranges(host.reserved_cores),
            quarantined_devices=tuple(sorted({*host.quarantined_devices, *host.shunned_devices})),
            data_dir=host.data_dir,
            monitor=_monitor(host),
            sdk=_sdk_entries(host, releases),
            weights=weights_of(host),
            artifacts=self._parts.artifacts(host, releases),
            files=self._parts.files([*replicas, *spares]),
            replicas=replicas,
            spares=spares,
            memory=memory,
            # Where not one load fits by the estimate, which was warned of, one at a time has the best chance.
            loads_at_once=max(1, memory.loads_at_once) if memory else 0,
        )

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
                broken = self._shapes.config_problems(deployment, where)
                problems += broken + [
                    one
                    for one in argument_problems(deployment, row, where)
                    if one.variable not in [said.variable for said in broken]
                ]
                fitting, costs = self._memory_problems(deployment, row, host.topology, where)
                problems, warnings = problems + fitting, warnings + costs
                problems += mixes.mix_problems(deployment, where)
                if not problems:
                    warnings += argument_warnings(deployment, row, where) + checks.traps(deployment)
                    warnings += checks.program_warnings(deployment, deployment.model_config)
                    warnings += checks.core_warnings(row, host.topology)
            self._judged[key] = (row, problems + wrong, warnings)
        return self._judged[key]

    def _memory_problems(
        self, deployment: Deployment, row: SdkRelease, topology: Topology, where: str
    ) -> Tuple[List[Problem], List[Problem]]:
        """Return what does not fit, and what it costs; of a model that nobody knows nothing is said."""
        shape = self._shapes.shape(deployment.model)
        if shape is None:
            return [], [self._shapes.unknown_size(deployment.model, where)]
        degrees, draft = topology.legal_tensor_parallel, self._shapes.draft(deployment)
        return memory_problems(deployment, row, shape, topology.hbm_bytes_per_core, where, degrees, draft)

    def _host_memory(
        self, host: Host, releases: Mapping[str, SdkRelease], placement: Placement
    ) -> Optional[HostMemory]:
        """Return the estimates of a host's memory and disk, None where a model or the host's memory is not known."""
        shapes = {item.name: self._shapes.shape(item.model) for item in host.deployments}
        if host.topology.memory_bytes is None or not all(shapes.values()):
            return None
        replicas, artifacts = [], {}
        for item in host.deployments:
            shape = shapes[item.name]
            if shape is None:
                continue
            replicas += [(item, releases[item.name], shape)] * len(placement.slices[item.name])
            artifacts[self._parts.artifact(item, releases[item.name], host.topology)[0]] = (item, shape)
        key = (id(host.topology), tuple(id(item) for item, _row, _shape in replicas))
        if key not in self._memories:
            self._memories[key] = host_memory(
                replicas, list(artifacts.values()), host.topology.memory_bytes, self._shapes.shape
            )
        memory = self._memories[key]
        if replicas and not memory.loads_at_once:
            rule = "a load takes an estimated %.0f GiB of host memory" % (memory.bytes_per_load / GIB)
            value = "%.0f GiB" % (host.topology.memory_bytes / GIB)
            fix = "use a larger host, or compile with save_sharded_checkpoint"
            self._warnings.append(Problem(host.name, "host memory", value, rule, fix))
        return memory

    def _place(self, host: Host, releases: Mapping[str, SdkRelease]) -> Placement:
        """Lay the slices of the deployments that are right in themselves."""
        requests = requests_of(host, releases)
        key = (id(host.topology), requests, host.reserved_cores, host.quarantined_devices, host.shunned_devices)
        if key not in self._placements:
            self._placements[key] = place(host.topology, requests, blocked_cores(host), shunned_cores(host))
        placement = self._placements[key]
        self._warn_of_shunned(host, placement)
        already = {problem.variable for problem in self._problems if problem.host == host.name}
        for refusal in placement.refusals:
            deployment = deployment_of(host, refusal.name)
            path = "%s.%s" % (checks.variable_of(deployment), refusal.field)
            if path not in already:
                value = format_ranges(deployment.cores) if refusal.field == "cores" else deployment.data_parallel_size
                self._problems.append(Problem(host.name, path, value, refusal.rule, refusal.fix))
        return placement

    def _warn_of_shunned(self, host: Host, placement: Placement) -> None:
        """Say which replicas stay on a device that healing took out, for want of room."""
        out = shunned_cores(host)
        stay = [
            "%s-%d" % (name, index)
            for name, slices in sorted(placement.slices.items())
            for index, piece in enumerate(slices)
            if out.intersection(piece.cores)
        ]
        if stay:
            rule = "healing took it out, and there is no free slice for %s" % ", ".join(stay)
            value = format_ranges(host.shunned_devices)
            self._warnings.append(Problem(host.name, "device", value, rule, "replace the host"))

    def _router(self, hosts: Sequence[Host], planned: Mapping[str, HostPlan]) -> Dict[str, Any]:
        """Collect the servers of each model for the routers, and find the routers' port."""
        models: Dict[str, List[ReplicaPlan]] = {}
        aliases: Dict[str, List[str]] = {}
        # The spares last: what counts a model's servers through has the same numbers with them and without.
        rows = [replica for host in planned.values() for replica in host.replicas]
        rows += [spare for host in planned.values() for spare in host.spares]
        for replica in rows:
            models.setdefault(replica.served_name, []).append(replica)
            aliases[replica.served_name] = list(replica.served_aliases)
        tiers = self._tiers
        served = [RouterModel(name, tuple(models[name]), tuple(aliases[name])) for name in sorted(models)]
        port = self._router_port(tiers.inner, hosts)
        facing = self._router_port(tiers.outer, hosts) if tiers.outer else port
        addresses = {name: self._address_of(name, hosts) for name in self._routers}
        return {
            "port": port,
            "urls": [url_of(addresses[name], facing) for name in tiers.facing],
            "names": list(tiers.inner),
            "models": plain_of(served),
            "own": plain_of(shares(tiers, served, addresses, port, facing)),
            "access": {
                name: plain_of(self._access(name, addresses[name], [addresses[outer] for outer in tiers.outer]))
                for name in self._routers
            },
        }

    def _access(self, name: str, address: str, before: List[str]) -> RouterReach:
        """Return who may reach a router, and complain of what must not be reached so.

        Args:
            name: the router.
            address: where others reach it.
            before: addresses of the routers of the fleet, all of whose requests come from one address each.
        """
        access, problems = router_access(self._variables_of(name), address)
        reported = self._reported.get(name)
        own = reported.get("addresses") if isinstance(reported, Mapping) else None
        problems += not_its_own(access, address, own or ())
        self._problems += [problem.on(name) for problem in problems]
        return RouterReach(**vars(access), before=tuple(before if name in self._tiers.inner else ()))

    def _routes_alone(self, name: str) -> bool:
        """Tell whether nobody but the router of this very host sends requests to its replicas."""
        return self._tiers.inner == (name,) or (bool(self._tiers.outer) and name in self._tiers.inner)

    def _is_alone(self, name: str) -> bool:
        """Tell whether nobody but a host itself has to reach its replicas, so that nobody else can."""
        return self._routes_alone(name) and {*self._clients, *self._monitors} <= {name}

    def _address_of(self, name: str, hosts: Sequence[Host]) -> str:
        """Return where others reach a router or a client, which may serve nothing itself."""
        for host in hosts:
            if host.name == name:
                return host.address
        given = self._variables_of(name)
        return str(given.get("trainyard_address") or given.get("ansible_host") or name)

    def _router_port(self, names: Sequence[str], hosts: Sequence[Host]) -> int:
        """Return the port of routers that stand side by side."""
        ports: Dict[int, List[str]] = {}
        by_name = {host.name: host for host in hosts}
        for name in names:
            port = (
                by_name[name].router_port
                if name in by_name
                else self._variables_of(name).get(ROUTER_PORT, DEFAULT_ROUTER_PORT)
            )
            ports.setdefault(port, []).append(name)
        if len(ports) > 1:
            rule = "all routers must listen on one port: %s" % ", ".join(
                "%s has %s" % (names[0], port) for port, names in sorted(ports.items(), key=str)
            )
            fix = "set it once, in group_vars/all"
            self._problems.append(Problem("", ROUTER_PORT, sorted(ports, key=str), rule, fix))
        return min((port for port in ports if isinstance(port, int)), default=DEFAULT_ROUTER_PORT)

    def _check_identities(self, planned: Mapping[str, HostPlan]) -> None:
        """Judge names and addresses of every host that serves, routes or sends."""
        names = list(dict.fromkeys([*sorted(self._raw), *self._routers, *self._clients, *self._monitors]))
        seats = []
        for name in names:
            variables = self._variables_of(name)
            reported = self._reported.get(name)
            rows = planned[name].replicas if name in planned else ()
            met = len(names) > 1 or any(row.address != LOOPBACK for row in rows)
            seats.append(identity.seat(name, variables, met, reported, serves=name in self._raw))
        problems, warnings = identity.problems_of(seats)
        self._problems += problems
        self._warnings += warnings

    def _add_reach(self, hosts: Sequence[Host], planned: Mapping[str, HostPlan]) -> None:
        """Say of each host who may reach it: those that route to it, send load or read metrics."""
        clients = [self._address_of(name, hosts) for name in self._clients]
        # Below routers of the fleet, a host's replicas are its own router's alone.
        balancing = () if self._tiers.outer else self._tiers.inner
        routers = [self._address_of(name, hosts) for name in balancing]
        monitors = {self._address_of(name, hosts) for name in self._monitors}
        for host in hosts:
            found = planned.get(host.name)
            if found is None:
                continue
            if found.monitor:
                readers = sorted({*found.monitor.clients, *monitors} - {host.address})
                found.monitor = replace(found.monitor, clients=tuple(readers))
            rules = reach.rules_of(found, routers, clients, [*host.monitors, *monitors])
            found.reach = Reach(host.open_to_everybody, tuple(rules), tuple(host.further))
            beyond = any(row.address != LOOPBACK for row in found.replicas)
            self._warnings += reach.warnings_of(host.name, found.reach, beyond)

    def _variables_of(self, name: str) -> Mapping[str, Any]:
        """Return the variables that are right of a host which may serve nothing itself."""
        if name not in self._others_read:
            self._others_read[name] = read_variables(self._raw.get(name) or {})[0]
        given = self._other_variables.get(name) or self._raw.get(name) or {}
        return {**{key: given[key] for key in given if key not in READ}, **self._others_read[name]}

    def _benchmarks(
        self, hosts: Sequence[Host], planned: Mapping[str, HostPlan], router: Mapping[str, Any]
    ) -> List[Dict[str, Any]]:
        """Return what to measure, a run each: a deployment's load, who sends it where, which replicas will answer."""
        found: Dict[str, Dict[str, Any]] = {}
        for host in hosts:
            for replica in planned[host.name].replicas if host.name in planned else ():
                deployment = deployment_of(host, replica.deployment)
                entry = found.get(deployment.name)
                if entry is None:
                    found[deployment.name] = entry = {
                        "deployment": deployment.name,
                        "model": replica.served_name,
                        "url": router["urls"][0] if router["urls"] else replica.url,
                        "tokenizer": replica.weights_path,
                        "mixes": mixes.of_deployment(deployment),
                        "load": {
                            name: value for name, value in deployment.benchmark.items() if name not in mixes.NOT_SENT
                        },
                        "load_hosts": self._load_hosts(deployment, hosts),
                        "hosts": [],
                        "replicas": [],
                    }
                of_host = {
                    "host": host.name,
                    "instance_type": host.topology.instance_type,
                    "logical_nc_config": host.topology.logical_nc_config,
                }
                entry["replicas"].append({**replica.to_dict(), **of_host})
                if host.name not in entry["hosts"]:
                    entry["hosts"].append(host.name)
        for entry in found.values():
            begins = entry["load_hosts"][0]["name"] if entry["load_hosts"] else ""
            # The hosts that serve have the tokenizer with the weights; a load host beside them gets a copy.
            entry["tokenizer_host"] = "" if begins in entry["hosts"] else entry["hosts"][0]
        return [run for name in sorted(found) for run in mixes.runs_of(found[name])]

    def _load_hosts(self, deployment: Deployment, hosts: Sequence[Host]) -> List[Dict[str, str]]:
        """Return who sends: as many clients as the load wants, those that serve nothing first."""
        wanted, known = deployment.benchmark.get(mixes.LOAD_HOSTS, 1), len(self._clients)
        where = "%s.benchmark.%s" % (checks.variable_of(deployment), mixes.LOAD_HOSTS)
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


def _monitor(host: Host) -> Optional[Monitor]:
    """Return where the metrics of a host's devices are, None where they are not wanted."""
    if host.monitor_port is None:
        return None
    host_port = host.monitor_port + HOST_METRICS_OFFSET
    url, host_url = (url_of(host.address, port) + "/metrics" for port in (host.monitor_port, host_port))
    clients = tuple(sorted({*host.monitors, *host.device_monitors}))
    return Monitor(host.monitor_port, url, host_port, host_url, clients)


def _sdk_entries(host: Host, releases: Mapping[str, SdkRelease]) -> List[SdkEntry]:
    found = {}
    for deployment in host.deployments:
        entry = sdk_entry(releases[deployment.name], deployment, host)
        row = SdkEntry(**{**entry, "source": SdkSource(**entry["source"])})
        found[(row.release, row.generation, row.runtime)] = row
    return [found[key] for key in sorted(found)]


def _unique(problems: Iterable[Problem]) -> List[Problem]:
    """Drop what was said before of the same host."""
    return list({(problem.host, str(problem)): problem for problem in problems}.values())
