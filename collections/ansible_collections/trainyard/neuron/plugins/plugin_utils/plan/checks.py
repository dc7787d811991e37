# SPDX-License-Identifier: Apache-2.0
"""What must hold between a deployment, its SDK release and its host before anything is placed."""

from __future__ import annotations

import math
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.problems import Problem
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.ranges import format_ranges
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.topology import Topology
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import (
    AGENT_PORT_OFFSET,
    FILL,
    LAST_PORT,
    PREFIX,
    Deployment,
    ModelRef,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.generation_tables import TRN3_QUANTIZATIONS
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.model_options import (
    further_models,
    served_names,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import NATIVE, SdkRelease
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.variables import Host

#: Settings that are compiled in and that must say what a deployment's field says, where they are given at all.
MIRRORED_SETTINGS = {
    "max_batch_size": "max_num_seqs",
    "tkg_batch_size": "max_num_seqs",
    "max_length": "max_model_len",
    "n_positions": "max_model_len",
}

#: How far above its deployment's replicas a spare's port may be.
PORTS_TRIED = 64

#: So many standard deviations above the mean a benchmark's longest of a thousand requests is to be expected.
TAIL_SIGMAS = 3


def variable_of(deployment: Deployment) -> str:
    """Return the inventory variable that holds a deployment."""
    return PREFIX + deployment.name.replace("-", "_")


def deployment_problems(deployment: Deployment, topology: Topology) -> List[Problem]:
    """Return what a deployment cannot have on such a host, whoever else is there."""
    return [
        *tensor_parallel_problems(deployment.tensor_parallel_size, variable_of(deployment), topology),
        *_pinned_problems(deployment, topology),
        *_mirror_problems(deployment),
        *_number_format_problems(deployment, topology),
    ]


def tensor_parallel_problems(degree: Any, where: str, topology: Topology) -> List[Problem]:
    """Return why a host cannot run a degree; nothing of what is no number, which was said when it was read."""
    legal = topology.legal_tensor_parallel
    if degree in legal or isinstance(degree, bool) or not isinstance(degree, int) or degree < 1:
        return []
    below = [choice for choice in legal if choice < degree]
    near = {max(below)} if below else set()
    near |= {choice for choice in legal if choice > degree and choice == min(c for c in legal if c > degree)}
    rule = "%s with %d cores runs %s" % (topology.instance_type, topology.core_count, ", ".join(map(str, legal)))
    fix = "use %s" % " or ".join(str(choice) for choice in sorted(near))
    return [Problem("", where + ".tensor_parallel_size", degree, rule, fix)]


def _pinned_problems(deployment: Deployment, topology: Topology) -> List[Problem]:
    cores, width, count = deployment.cores, deployment.tensor_parallel_size, deployment.data_parallel_size
    if not cores:
        return []
    path, value = variable_of(deployment) + ".cores", format_ranges(cores)
    missing = set(cores) - set(topology.cores)
    if missing:
        rule = "cores %s do not exist, the host has %s" % (format_ranges(missing), format_ranges(topology.cores))
        return [Problem("", path, value, rule, "choose cores of the host")]
    if count == FILL and len(cores) % width:
        rule = "%d cores are no multiple of tensor_parallel_size %d" % (len(cores), width)
        return [Problem("", path, value, rule, "give whole slices")]
    if count != FILL and len(cores) != int(count) * width:
        rule = "%d cores are given, data_parallel_size %s x tensor_parallel_size %d needs %d" % (
            len(cores),
            count,
            width,
            int(count) * width,
        )
        return [Problem("", path, value, rule, "give exactly as many, or leave cores out")]
    starts = [core for core in cores if core % width == 0]
    if any(core + offset not in cores for core in starts for offset in range(width)) or len(starts) * width != len(
        cores
    ):
        rule = "every slice must be %d contiguous cores from a multiple of %d" % (width, width)
        first = cores[0] // width * width
        return [Problem("", path, value, rule, "begin at %d or %d" % (first, first + width))]
    return []


def _number_format_problems(deployment: Deployment, topology: Topology) -> List[Problem]:
    """Find a format of numbers that the host's accelerator does not compute with."""
    wanted = deployment.neuron_config.get("quantization")
    if wanted not in TRN3_QUANTIZATIONS or topology.family == "trn3":
        return []
    path = variable_of(deployment) + ".neuron_config.quantization"
    rule = "is not supported on %s: only trn3 computes with it" % topology.family.upper()
    return [Problem("", path, wanted, rule, "remove it: %s serves such a model in BF16" % topology.family)]


def core_warnings(release: SdkRelease, topology: Topology) -> List[Problem]:
    """Return what is served on logical cores of another width than the documentation does it on."""
    if release.generation != NATIVE or topology.family != "trn2" or topology.logical_nc_config == 2:
        return []
    rule = "every recipe of the native plugin has logical cores of two physical ones (LNC 2)"
    path = "trainyard_logical_nc_config"
    return [Problem("", path, topology.logical_nc_config, rule, "set it to 2, or leave it out")]


def _mirror_problems(deployment: Deployment) -> List[Problem]:
    """Find settings that are compiled in but differ from the field that the server is started with."""
    problems = []
    for key, field in MIRRORED_SETTINGS.items():
        compiled, served = deployment.neuron_config.get(key), getattr(deployment, field)
        if compiled is None or compiled == served:
            continue
        rule = "is compiled in while the server is started with %s %s, and neither notices" % (field, served)
        path = "%s.neuron_config.%s" % (variable_of(deployment), key)
        problems.append(Problem("", path, compiled, rule, "remove it, %s says it" % field))
    return problems


def host_problems(
    host: Host, releases: Mapping[str, SdkRelease], ports: Mapping[str, Sequence[int]], balances: bool
) -> List[Problem]:
    """Return what the deployments of one host cannot have together.

    Args:
        host: the host.
        releases: the SDK row of each deployment, by the deployment's name.
        ports: the ports of each deployment's replicas, by the deployment's name.
        balances: whether the router is on this host as well.
    """
    return [
        *_reserved_problems(host),
        *_one_driver(host, releases),
        *_source_problems(host, releases),
        *_port_problems(host, ports, balances),
    ]


def _source_problems(host: Host, releases: Mapping[str, SdkRelease]) -> List[Problem]:
    """Find releases whose vLLM is to be built, and of whose source nobody has pinned a commit."""
    problems = []
    for deployment in host.deployments:
        row = releases.get(deployment.name)
        if row is None or host.source_commits is None or deployment.runtime != "venv" or row.venv_has_vllm:
            continue
        name = "%s@%s" % (row.source_repo, row.source_ref)
        if row.source_commit or name in host.source_commits:
            continue
        rule = "vLLM of SDK %s for %s is built from %s, and no commit of it is pinned" % (
            row.release,
            row.generation,
            name,
        )
        fix = (
            "look at `git ls-remote https://github.com/%s %s`, then set neuron_venv_source_commits: {'%s': <commit>}; "
            "or set neuron_venv_pip_index to '' where the environment has its vLLM already"
        ) % (row.source_repo, row.source_ref, name)
        where = variable_of(deployment) + ".sdk_release"
        problems.append(Problem("", where, row.release, rule, fix))
    return problems


def _reserved_problems(host: Host) -> List[Problem]:
    problems = []
    missing = set(host.reserved_cores) - set(host.topology.cores)
    if missing:
        rule = "cores %s do not exist, the host has %s" % (
            format_ranges(missing),
            format_ranges(host.topology.cores),
        )
        value = format_ranges(host.reserved_cores)
        problems.append(Problem("", "trainyard_reserved_cores", value, rule, "name cores of the host"))
    absent = set(host.quarantined_devices) - {device.index for device in host.topology.devices}
    if absent and host.topology.source == "table":
        rule = "devices %s do not exist, the host has 0-%d" % (format_ranges(absent), len(host.topology.devices) - 1)
        value = format_ranges(host.quarantined_devices)
        problems.append(Problem("", "trainyard_quarantined_devices", value, rule, "name devices of the host"))
    return problems


def _one_driver(host: Host, releases: Mapping[str, SdkRelease]) -> List[Problem]:
    """A host has one driver and one runtime, so the deployments on it must come from one release."""
    found = sorted({row.release for row in releases.values()})
    if len(found) < 2:
        return []
    who = ", ".join(
        "%s wants %s" % (deployment.name, releases[deployment.name].release)
        for deployment in host.deployments
        if deployment.name in releases
    )
    last = [item for item in host.deployments if item.name in releases][-1]
    rule = "a host has one Neuron driver, so one SDK release: %s" % who
    return [Problem("", variable_of(last) + ".sdk_release", last.sdk_release, rule, "agree, or use different hosts")]


def taken_ports(host: Host, ports: Mapping[str, Sequence[int]], balances: bool) -> Set[int]:
    """Return every port that somebody has on a host; arguments as `host_problems`."""
    replicas = {port for each in ports.values() for port in each}
    others = {port for _name, port in host.other_ports} | ({host.router_port} if balances else set())
    return others | replicas | {port + AGENT_PORT_OFFSET for port in replicas}


def free_port(first: int, taken: Set[int]) -> Optional[int]:
    """Return the first port from `first` on that is free with its agent's, None where there is none nearby."""
    tried = range(first, min(first + PORTS_TRIED, LAST_PORT + 1))
    return next((port for port in tried if not {port, port + AGENT_PORT_OFFSET} & taken), None)


def _port_problems(host: Host, ports: Mapping[str, Sequence[int]], balances: bool) -> List[Problem]:
    taken: Dict[int, str] = {port: name for name, port in host.other_ports}
    if balances:
        taken[host.router_port] = "trainyard_router_port"
    problems = []
    for deployment in sorted(host.deployments, key=lambda item: item.name):
        clash = ""
        for index, port in enumerate(ports.get(deployment.name, ())):
            for at, what in ((port, "replica"), (port + AGENT_PORT_OFFSET, "agent of replica")):
                mine = "%s %s-%d" % (what, deployment.name, index)
                if at in taken and not clash:
                    clash = "port %d of %s is also that of %s" % (at, mine, taken[at])
                taken.setdefault(at, mine)
        if clash:
            fix = "choose another port; replica i has port + i and its agent %d above" % AGENT_PORT_OFFSET
            problems.append(Problem("", variable_of(deployment) + ".port", deployment.port, clash, fix))
    return problems


def traps(deployment: Deployment) -> List[Problem]:
    """Return warnings: what is legal, and has cost people hours, whatever the generation."""
    found = []
    tail, longest = benchmark_tail_tokens(deployment.benchmark), deployment.max_model_len
    if tail > longest:
        rule = "the benchmark's longest requests have about %d tokens (mean + %d sigma)" % (tail, TAIL_SIGMAS)
        fix = "raise it to %d or more, or shorten the load" % tail
        found.append(Problem("", variable_of(deployment) + ".max_model_len", longest, rule, fix))
    tokenizer = deployment.engine_args.get("tokenizer")
    if isinstance(tokenizer, str) and not tokenizer.startswith("/"):
        rule = "is a name on the hub, which every start of every replica asks, until the hub refuses (HTTP 429)"
        path = variable_of(deployment) + ".engine_args.tokenizer"
        found.append(Problem("", path, tokenizer, rule, "give a local directory, or leave it to the checkpoint"))
    return found


def benchmark_tail_tokens(benchmark: Mapping[str, Any]) -> int:
    """Return the longest request to expect of a benchmark's normal lengths, in tokens of prompt and answer."""
    mean = _number(benchmark, "mean_input_tokens") + _number(benchmark, "mean_output_tokens")
    sigma = _number(benchmark, "stddev_input_tokens") + _number(benchmark, "stddev_output_tokens")
    return math.ceil(mean + TAIL_SIGMAS * sigma)


def _number(values: Mapping[str, Any], key: str) -> float:
    value = values.get(key, 0)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0


def served_name_problems(hosts: Iterable[Host]) -> List[Problem]:
    """Find two models behind one name, and one name with further names on some of its servers alone.

    The router would answer with either, or send a request for an adapter to a server without it.
    """
    first: Dict[str, Tuple[str, Deployment]] = {}
    problems: List[Problem] = []
    told = set()
    for host in hosts:
        for deployment in host.deployments:
            for name in served_names(deployment):
                other = first.setdefault(name, (host.name, deployment))[1]
                same = (other.model.repo, other.model.revision) == (deployment.model.repo, deployment.model.revision)
                if other.served_name != deployment.served_name:
                    same = False
                if (same and served_names(other) == served_names(deployment)) or (name, deployment.name) in told:
                    continue
                told.add((name, deployment.name))
                path = variable_of(deployment) + ".served_name"
                if same:
                    rule = "is also served by deployment %s, with other names beside it" % other.name
                    problems.append(Problem(host.name, path, name, rule, "give both the same aliases and adapters"))
                    continue
                rule = "is also the name of another model, of deployment %s" % other.name
                problems.append(Problem(host.name, path, name, rule, "give each model its own name"))
    return problems


def program_warnings(deployment: Deployment, config: Any) -> List[Problem]:
    """Say of a checkpoint whose config.json asks for the repository's own programs that none of them will be there."""
    programs = config.get("auto_map") if isinstance(config, Mapping) else None
    if not programs or "remote_code" in deployment.model.trust:
        return []
    rule = "asks for programs of its own (auto_map of its config.json), which are not fetched"
    fix = "none is needed if the SDK release knows the model; else read them first, and set model.trust: [remote_code]"
    return [Problem("", variable_of(deployment) + ".model", deployment.model.repo, rule, fix)]


def checkpoint_problems(hosts: Iterable[Host]) -> List[Problem]:
    """Find deployments that name one checkpoint and disagree on where it comes from or on what it may run.

    A checkpoint has one directory on a host and goes from host to host: what one of them allows, all would serve.
    """
    first: Dict[Tuple[str, str], Tuple[Deployment, ModelRef]] = {}
    problems: List[Problem] = []
    told = set()
    for host in hosts:
        for deployment in host.deployments:
            for model in (deployment.model, *further_models(deployment)):
                other, there = first.setdefault((model.repo, model.revision), (deployment, model))
                for key in ("source", "uri", "trust"):
                    mine, theirs = getattr(model, key), getattr(there, key)
                    if mine == theirs or (deployment.name, other.name, key) in told:
                        continue
                    told.add((deployment.name, other.name, key))
                    rule = "is %s in deployment %s, which serves the same checkpoint" % (_shown(theirs), other.name)
                    path = "%s.model.%s" % (variable_of(deployment), key)
                    problems.append(
                        Problem(host.name, path, _shown(mine), rule, "give both the same, or their own revision")
                    )
    return problems


def _shown(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
