# SPDX-License-Identifier: Apache-2.0
"""The parts of a host's plan: its replicas, the spares beside them, and the artifacts that they run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass, replace
from typing import Any, Callable, Collection, Dict, FrozenSet, List, Optional, Sequence, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.ranges import format_ranges
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.topology import Topology
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.replica import ReplicaPlan
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan import checks
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.artifact import (
    artifact_digest,
    artifact_inputs,
    expected,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.deployment import (
    AGENT_PORT_OFFSET,
    Deployment,
    ModelRef,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.memory import deployment_fit, host_memory
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.model_options import (
    OPTIONS,
    adapter_paths,
    compiled_models,
    further_models,
    served_names,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.model_shapes import ModelShapes
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.parts import (
    ArtifactPlan,
    TravellingFile,
    WeightsPlan,
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
    spare_slices,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import SdkRelease
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.rendering import (
    generation_of,
    render_compile,
    render_serve,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.variables import Host

LOOPBACK = "127.0.0.1"

#: What a deployment's further replica is called in place of its index.
SPARE = "spare"


class HostParts:
    """What hosts run; what is alike between them is computed once.

    Args:
        shapes: what is known of the models' sizes.
        routers: names of the hosts that balance.
        is_alone: whether nobody but the host of that name has to reach its replicas.
    """

    def __init__(self, shapes: ModelShapes, routers: Collection[str], is_alone: Callable[[str], bool]) -> None:
        self._shapes = shapes
        self._routers = routers
        self._is_alone = is_alone
        self._cpu_maps: Dict[Any, CpuMap] = {}
        self._artifacts: Dict[Any, Tuple[str, Dict[str, Any]]] = {}
        self._slices: Dict[Any, Dict[str, Any]] = {}
        self._hbm: Dict[Any, Optional[int]] = {}
        self._files: Dict[str, str] = {}

    def artifact(self, deployment: Deployment, release: SdkRelease, topology: Topology) -> Tuple[str, Dict[str, Any]]:
        """Return the digest of what a deployment compiles to on such a host, and the inputs that it is of."""
        key = (id(deployment), topology.logical_nc_config, topology.family)
        if key not in self._artifacts:
            inputs = artifact_inputs(deployment, release, topology.logical_nc_config, topology.family)
            self._artifacts[key] = (artifact_digest(inputs), inputs)
        return self._artifacts[key]

    def artifacts(self, host: Host, releases: Mapping[str, SdkRelease]) -> List[ArtifactPlan]:
        """Return the host's artifacts, one for all deployments that share a digest."""
        found: Dict[str, ArtifactPlan] = {}
        for deployment in sorted(host.deployments, key=lambda item: item.name):
            release = releases[deployment.name]
            digest, inputs = self.artifact(deployment, release, host.topology)
            if digest in found:
                found[digest].deployments.append(deployment.name)
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
            found[digest] = ArtifactPlan(
                digest=digest,
                path=path,
                weights=weights_id(deployment.model),
                weights_path=weights_path(host.data_dir, deployment.model),
                sdk_release=release.release,
                generation=release.generation,
                deployments=[deployment.name],
                runtime=deployment.runtime,
                image=sdk_entry(release, deployment, host)["image"],
                argv=tuple(rendered.argv),
                environment=dict(rendered.environment),
                mode=rendered.mode,
                work_dir=work_dir,
                inputs=inputs,
                more_weights=tuple(_more_weights(compiled_models(deployment), host.data_dir)),
                options=_options(deployment),
                files=dict(rendered.files),
            )
        return [found[digest] for digest in sorted(found)]

    def _cpu_map(self, host: Host) -> Optional[CpuMap]:
        if host.cpu_pinning == "none":
            return None
        key = (id(host.topology), host.cpu_pinning)
        if key not in self._cpu_maps:
            self._cpu_maps[key] = CpuMap(host.topology, reserve_proxy=host.cpu_pinning == "proxy")
        return self._cpu_maps[key]

    def replicas(self, host: Host, releases: Mapping[str, SdkRelease], placement: Placement) -> List[ReplicaPlan]:
        """Return a host's replicas, in the order of their devices."""
        replicas = []
        for name in sorted(placement.slices):
            deployment = deployment_of(host, name)
            for index, piece in enumerate(placement.slices[name]):
                replicas.append(self._replica(host, deployment, releases[name], index, piece))
        return sorted(replicas, key=lambda replica: (replica.devices[0], replica.port))

    def spares(self, host: Host, releases: Mapping[str, SdkRelease], placement: Placement) -> List[ReplicaPlan]:
        """Return one more replica for each deployment that the host has a free slice, a free port and the memory for.

        They serve only while a roll needs them (see `roll.plan`): nothing of the plan depends on which of them run.
        """
        requests = requests_of(host, releases)
        taken = {core for pieces in placement.slices.values() for piece in pieces for core in piece.cores}
        slices = spare_slices(host.topology, requests, taken | set(blocked_cores(host)) | shunned_cores(host))
        ports = checks.taken_ports(host, ports_of(host, placement), balances=host.name in self._routers)
        found = []
        for name in sorted(slices):
            deployment = deployment_of(host, name)
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
        shape = self._shapes.shape(deployment.model)
        if host.topology.memory_bytes is None or shape is None:
            return True
        more = host_memory([(deployment, release, shape)], [], host.topology.memory_bytes, self._shapes.shape)
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
        digest, _inputs = self.artifact(deployment, release, host.topology)
        name, port = seat or ("%s-%d" % (deployment.name, index), deployment.port + index)
        # Where nobody else has to reach it, nobody else can.
        alone = self._is_alone(host.name)
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
        entry = sdk_entry(release, deployment, host)
        self._files.update(rendered.files)
        compiled = generation_of(release).compiler == "inference_demo"
        adapters = adapter_paths(deployment, weights_path(host.data_dir, deployment.model)) if compiled else {}
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
            url=url_of(address, port),
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
            files=tuple(path for path, _content in rendered.files),
            adapters=adapters,
            max_num_seqs=deployment.max_num_seqs,
            max_model_len=deployment.max_model_len,
            hbm_bytes_needed=self._hbm_bytes(deployment, release, host.topology),
            hbm_bytes_available=host.topology.hbm_bytes_per_core * piece.width,
            argv=tuple(rendered.argv),
            environment=dict(rendered.environment),
            compiled=expected(deployment, release, host.topology.logical_nc_config),
            credentials=host.credentials or "",
        ).released()

    def files(self, replicas: Sequence[ReplicaPlan]) -> Tuple[TravellingFile, ...]:
        """Return what travels to a host for its replicas, each file once."""
        paths = sorted({path for replica in replicas for path in replica.files})
        return tuple(TravellingFile(path.rsplit("/", 1)[-1], self._files[path]) for path in paths)

    def _hbm_bytes(self, deployment: Deployment, release: SdkRelease, topology: Topology) -> Optional[int]:
        """Estimate the device memory of a replica in bytes, None for a model that is not known."""
        key = (id(deployment), topology.hbm_bytes_per_core)
        if key not in self._hbm:
            shape = self._shapes.shape(deployment.model)
            self._hbm[key] = None
            if shape is not None:
                draft = self._shapes.draft(deployment)
                fit = deployment_fit(deployment, release, shape, topology.hbm_bytes_per_core, draft)
                self._hbm[key] = fit.needed * deployment.tensor_parallel_size
        return self._hbm[key]


def requests_of(host: Host, releases: Mapping[str, SdkRelease]) -> Tuple[Request, ...]:
    """Return what the deployments that are right in themselves want of a host."""
    return tuple(
        Request(item.name, item.tensor_parallel_size, item.data_parallel_size, item.cores)
        for item in host.deployments
        if item.tensor_parallel_size in host.topology.legal_tensor_parallel and item.name in releases
    )


def url_of(address: str, port: int) -> str:
    """Return the URL of a port at an address, of either family."""
    return "http://%s:%d" % ("[%s]" % address if ":" in address else address, port)


def blocked_cores(host: Host) -> Dict[int, str]:
    """Return the cores that nobody gets, and why."""
    blocked = dict.fromkeys(cores_of_devices(host.topology, host.quarantined_devices), "quarantined devices")
    blocked.update(dict.fromkeys(host.reserved_cores, "reserved cores"))
    return blocked


def shunned_cores(host: Host) -> FrozenSet[int]:
    """Return the cores of the devices that healing took out."""
    return cores_of_devices(host.topology, host.shunned_devices)


def ports_of(host: Host, placement: Placement) -> Dict[str, List[int]]:
    """Return the ports of each deployment's replicas, by the deployment's name."""
    return {
        name: [deployment_of(host, name).port + index for index in range(len(slices))]
        for name, slices in placement.slices.items()
    }


def deployment_of(host: Host, name: str) -> Deployment:
    """Return a host's deployment of this name."""
    return next(deployment for deployment in host.deployments if deployment.name == name)


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


def sdk_entry(release: SdkRelease, deployment: Deployment, host: Host) -> Dict[str, Any]:
    """Return the row as a host's plan carries it, its image by the digest that the host's variables give it."""
    entry = release.entry(deployment.runtime)
    if entry["image"]:
        named = "/".join(filter(None, (host.image_registry, entry["image"])))
        entry["image"] = host.images.get(entry["image"], named)
    return entry


def weights_of(host: Host) -> List[WeightsPlan]:
    """Return the checkpoints that a host is to have, each once."""
    found = {}
    wanted = [model for item in host.deployments for model in (item.model, *further_models(item))]
    for model in wanted:
        found[weights_id(model)] = WeightsPlan(
            id=weights_id(model),
            repo=model.repo,
            revision=model.revision,
            source=model.source,
            uri=model.uri,
            trust=tuple(model.trust),
            path=weights_path(host.data_dir, model),
        )
    return [found[key] for key in sorted(found)]
