# SPDX-License-Identifier: Apache-2.0
"""The rules of the hardware that the stand-in models, each with a name, and each can be switched off.

With a rule off the host behaves otherwise in that one thing. What relies on the rule has to notice: that is how
`trainyard accept` is held to be able to tell, before it ever sees a real host.
"""

from __future__ import annotations

from .config import HostConfig

#: Name of each rule -> what holds while it is on.
RULES: dict[str, str] = {
    # neuron-ls and neuron-monitor
    "neuron-ls-json": "neuron-ls ends with status 0",
    "neuron-ls-fields": "numa_node is text, memory_size a number",
    "neuron-ls-header": "the table's header has the instance type",
    "devices-and-cores": "neuron-ls names the LNC that its core counts follow from",
    "device-memory": "each device has the family's memory",
    "links": "a link is named at both its ends",
    "numa": "the CPUs of a NUMA node are the same at each of its devices",
    "core-numbers": "cores are counted through",
    "device-nodes": "each device has its file",
    "device-rights": "any user may open a device's file",
    "image-volume": "dlami-nvme.service of the machine image can be enabled and disabled",
    "sysfs-counters": "each device has its counters",
    "holders-live": "a process that neuron-ls names lives",
    "holders-cores": "a process is listed at the devices of its cores alone",
    "slice-is-held": "a process is listed at every device of its cores",
    "neuron-monitor": "neuron-monitor has as many devices as neuron-ls",
    "monitor-tag": "neuron-monitor names a runtime by NEURON_PROCESS_TAG",
    "monitor-memory": "neuron-monitor has the device memory of a runtime",
    # compiling
    "compile-status": "a compile that succeeds ends with status 0",
    "compile-order": "neuron_config.json is written before model.pt",
    "compile-settings": "neuron_config.json has what the command said",
    "compile-ranks": "pre-sharded weights are one file a rank",
    "compile-failure": "a compile that fails ends with another status than 0, and leaves no model.pt",
    "compile-options": "an option that the release lacks ends the command with status 2",
    # starting
    "silent-start": "nothing answers before the engine is up",
    "start-log": "the log names the phases of a start",
    "artifact-is-loaded": "a complete artifact is loaded and nothing is compiled",
    "load-memory": "a start takes no more of the host's memory than weights and interpreters",
    "side-by-side": "two engines on slices of their own start at the same time",
    "wrong-artifact": "a path without an artifact is compiled into",
    "no-artifact-variable": "without the variable a start compiles below the model",
    "empty-artifact-variable": "an empty variable is set for V0, and unset for the plugin",
    "artifact-without-graphs": "an artifact without model.pt is compiled again",
    "cut-artifact": "a cut model.pt ends the start",
    "cut-weights": "a cut checkpoint ends the start",
    "moved-weights": "an artifact remembers the path of its weights",
    "too-few-cores": "an artifact for more cores than are visible ends the start",
    "ignored-overrides": "the plugin says that it ignores overrides on an artifact",
    "graphs-are-kept": "the native engine marks a graph that it has compiled",
    "forbidden-compile": "the native engine can be told to end rather than compile",
    # refusals
    "cores-busy": "a core belongs to one process",
    "cores-outside": "cores that the instance lacks end the start",
    "cores-gap": "cores with a gap end the start",
    "slice-start": "a slice starts at a multiple of its size",
    "heads-divide": "V0 and native refuse heads that do not divide",
    "topology-degree": "the runtime refuses a degree that the topology lacks",
    "port-taken": "a port that is taken ends the start",
    "serve-options": "an option that the release lacks ends the command with status 2",
    "model-is-positional": "vllm serve refuses the model as an option",
    "prefix-needs-blocks": "the plugin refuses prefix caching without a block size",
    "model-length": "V0 and native refuse a longer sequence than the model's",
    # serving
    "health": "a server that is up answers /health with 200",
    "served-name": "/v1/models has the served name",
    "api-key": "requests below /v1 need the key",
    "token-count": "usage counts the tokens that were asked for",
    "greedy": "temperature 0 gives the same text each time",
    "stream-end": "a stream ends with its usage and [DONE]",
    "metric-names": "the metrics have the names that are read",
    "metric-counts": "the counters count what was sent",
    "left-client": "a request whose client leaves is ended",
    "long-request": "a request longer than the compiled length ends the engine",
    # containers
    "container-devices": "a device's file can be opened, by a container that is given it too",
    "container-rights": "a container has the rights that it is given, and no others",
    # ending
    "sigterm-streams": "SIGTERM cuts streams, or lets them end with --shutdown-timeout",
    "stop-status": "a server that is told to stop ends with status 0",
    "stop-frees": "a server that has ended holds no core",
    "engine-death": "a server notices that its engine died, and ends",
    "death-status": "such a server ends with status 0",
    "killed-server": "the engine of a server that was killed keeps the cores",
    "hanging-engine": "/health is 200 while the engine hangs",
    "reset-failures": "a start resets its cores, and counts no reset that failed",
    # replacing one by one
    "drain-ends": "running and waiting are 0 again once the last client has its answer",
    "neighbour-streams": "streams of a server go on while another one of the host ends and starts",
    "same-after-restart": "temperature 0 gives the same text at each replica, and after a restart",
}


def holds(host: HostConfig, rule: str) -> bool:
    """Whether a rule is on, which each is unless somebody switched it off."""
    if rule not in RULES:
        raise KeyError(rule)
    return not (host.run_dir / "faults" / f"rule-off-{rule}.json").exists()
