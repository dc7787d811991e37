# SPDX-License-Identifier: Apache-2.0
"""What a server's log lines mean: how far a start has come, and what an error asks for.

The texts are those of the Neuron runtime's troubleshooting guide, of NxDI's loader and of vLLM (SDK 2.23 to 2.33). An
error belongs to one of three classes, since they need different people: ``fix`` (the configuration, by whoever wrote
it), ``retry`` (start again, nothing is broken), ``replace`` (the hardware, by giving the host back).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import List, Optional, Pattern, Sequence, Tuple

CONTEXT_LINES = 2
SEVERITY = ("replace", "fix", "retry")
MAX_LINE = 1024
"""Characters of a line that are looked at: a pattern's time must not grow with what somebody writes into the log."""

# How the engine's lines begin: vLLM V1 puts the process before what its children write, and the message follows the
# prefix of vLLM's own logger, that of Python's plain one, or (a logger without a handler) none.
_PROCESS = r"(?:\([A-Za-z]\w* pid=\d+\) ?)?"
_LOADER = (
    r"(?:WARNING \d\d-\d\d \d\d:\d\d:\d\d \[?(?:[\w./]*/)?neuronx_distributed\w*\.py:\d+\] |"
    r"WARNING:[\w.]*\bneuronx_distributed\w*:)?"
)
_RECOMPILES = re.compile(
    _PROCESS
    + _LOADER
    + r"(?:Unable to find precompiled artifacts from (?P<v1>\S+?)\.|Failed to load the model from (?P<v0>\S+?),?)"
    + r" Recompiling\.\.\.$"
)
# The runtime's own lines, whoever asks for what: its time stamp and its component, or one of its fixed beginnings.
_RUNTIME = re.compile(
    _PROCESS
    + r"(?:\d{4}-\w{3}-\d\d \d\d:\d\d:\d\d[.\d]*\s+\d+:\d+\s+)?"
    + r"(?:(?:ERROR|FATAL)\s+(?:NRT|TDRV|NMGR|KMGR|HAL|NCFW|ENC)\b|\(FATAL-RT|NEURON_HW_ERR=|neuron: NEURON_HW_ERR=)"
)


@dataclass(frozen=True)
class Progress:
    """How far a start is: a phase, and how much of it is done (0 of 0 where the log does not say)."""

    phase: str = "starting"
    done: int = 0
    total: int = 0

    def __str__(self) -> str:
        if self.total == 100:
            return "{0} {1} %".format(self.phase, self.done)
        return "{0} {1}/{2}".format(self.phase, self.done, self.total) if self.total else self.phase


@dataclass(frozen=True)
class Diagnosis:
    """What a log says is wrong.

    Attributes:
        kind: ``fix``, ``retry`` or ``replace``.
        cause: in one sentence.
        action: what to do next, as a command where there is one.
        line: the line that says so.
        around: that line with its neighbours.
    """

    kind: str
    cause: str
    action: str
    line: str
    around: Tuple[str, ...] = ()

    def __str__(self) -> str:
        return "{0}: {1}. Next: {2}. The log says: {3}".format(self.kind, self.cause, self.action, self.line)


def _rule(pattern: str, kind: str, cause: str, action: str) -> Tuple[Pattern[str], str, str, str]:
    return re.compile(pattern), kind, cause, action


REPLACE = "take the host out of the inventory and replace the instance"
RELOAD = "stop every replica and neuron-monitor of the host, then `sudo modprobe -r neuron && sudo modprobe neuron`"
AGAIN = "nothing: systemd starts it again, within its limit"
PROVISION = "run the provision playbook: driver and runtime have to be of one SDK release"

ELSEWHERE = (
    "look for a device that failed: `journalctl -k | grep NEURON_HW_ERR` on each host of the slice; then start again"
)
RESTART_ONCE = "start it once more; if it comes back, take the host out of the inventory and replace the instance"
COMPILE = "run the compile playbook"
PREFLIGHT = "run the preflight playbook"

# What the documentation calls benign, or what only a deployment over several hosts has to care for.
_BENIGN = re.compile(
    r"\(NON-FATAL|- retrying$|DEREG_MR|npid_detach|CUDA driver is a stub library|OFI plugin initNet\(\) failed"
    r"|FI_EFA_FORK_SAFE=1|Unexpected number of CC notifications|No LoRA (CPU )?adapter IDs"
)

# The first rule that matches a line wins, so what is more specific comes first.
RULES = (
    _rule(r"NEURON_HW_ERR=SRAM|SRAM_UNCORRECTABLE", "replace", "the device's SRAM is defective", REPLACE),
    _rule(r"NEURON_HW_ERR=NC_UNC", "replace", "the memory of a core is defective", REPLACE),
    _rule(r"NEURON_HW_ERR=HBM", "replace", "the device's HBM is defective", REPLACE),
    _rule(r"NEURON_HW_ERR=DMA", "replace", "the device's DMA engine failed", REPLACE),
    _rule(
        r"NEURON_HW_ERR=HANG_ON_COLL|suspected hang in collectives|status=1200\b|NRT_EXEC_HW_ERR_COLLECTIVES"
        r"|stuck after all collectives|Hang on [Cc]ollectives",
        "retry",
        "a collective operation hangs, mostly since a device of another core failed",
        ELSEWHERE,
    ),
    _rule(r"NEURON_HW_ERR=", "replace", "the kernel reports that a device failed", REPLACE),
    _rule(r"\] Uncorrectable memory error is detected", "replace", "the device's SRAM is defective", REPLACE),
    _rule(r"[Hh]ang on [Cc]ompute", "replace", "the device hangs in hardware", REPLACE),
    _rule(
        r"status=(6|1202|1203)\b|DMA_ABORT|DMA [RT]X engine \d+ is in an abort state",
        "replace",
        "the device's hardware failed",
        REPLACE,
    ),
    _rule(
        r"status=1205\b|REPAIRABLE_HBM_UE|HBM memory error.*(repair|reload)", "fix", "a repairable HBM error", RELOAD
    ),
    _rule(r"status=1201\b|[Uu]ncorrectable HBM memory error", "replace", "the device's HBM is defective", REPLACE),
    _rule(
        r"tdrv_init_wait_ncs_ready|Failed to reset nd",
        "replace",
        "a device does not come back from its reset, and a restart will not clear that",
        "add the device to trainyard_quarantined_devices, or replace the instance",
    ),
    _rule(
        r"Unable to find precompiled artifacts from|Failed to load the model from .*[Rr]ecompiling",
        "fix",
        "the artifact does not load, and the server began to compile instead",
        "run the compile playbook; the artifact was removed, or made by another SDK release",
    ),
    _rule(
        r"NeuronCore\(s\) not available|nrt_allocate_neuron_cores +NeuronCore|status=1005\b",
        "fix",
        "the cores are in use by another process",
        "`/opt/aws/neuron/bin/neuron-ls` names it; end it",
    ),
    _rule(r"Unable to determine Neuron Driver version", "fix", "the Neuron driver is not loaded", PROVISION),
    _rule(
        r"requires Neuron Driver version|is not compatible with the installed aws-neuron|failed programming the engine"
        r"|SPROT remap destination address",
        "fix",
        "the driver is older than the runtime needs",
        PROVISION,
    ),
    _rule(
        r"NEFF version mismatch|Attempting to load an incompatible model|Unsupported hardware operator code"
        r"|upgrade to latest aws-neuronx-runtime-lib|status=10\b",
        "fix",
        "the artifact is of another SDK release",
        "run the compile playbook",
    ),
    _rule(
        r"Error opening libnccom",
        "fix",
        "the collectives library is missing",
        "install aws-neuronx-collectives: provision",
    ),
    _rule(
        r"Timestamp program stop timeout|Error while waiting for timestamp|Failed to (stop neuron core|end timestamp)"
        r"|One or more engines are running|HAL init failed|Failed to initialize devices|TDRV not initialized",
        "fix",
        "what ran before left a device running",
        RELOAD,
    ),
    _rule(
        r"not contiguous|Could not open the nd\d|Could not find VNC id|cannot determine the number of available Neuron"
        r"|No neuron device available|status=9\b",
        "fix",
        "the slice asks for cores that the process does not see",
        "compare the plan's cores with `/opt/aws/neuron/bin/neuron-ls`; a container needs every device of its slice",
    ),
    _rule(
        r"Collective operation .* not supported|Unsupported topology|status=2 message=Invalid|LOCAL_WORLD_SIZE",
        "fix",
        "the slice's size or its start does not fit the topology",
        "a slice starts at a multiple of its size: `trainyard plan` shows it",
    ),
    _rule(
        r"Failed to allocate .* on ND|nrt_tensor_allocate status=4|Allocation Failure|mc_alloc: device mempool"
        r"|TMPBUF pages requested exceeded|Failed to reserve one tmpbuf|NCC_EVRF009|status=4\b",
        "fix",
        "the model does not fit the device memory of its cores",
        "raise tensor_parallel_size, or lower max_num_seqs or max_model_len",
    ),
    _rule(
        r"KV cache budget.* below minimum",
        "fix",
        "too little device memory is left for the KV cache",
        "raise tensor_parallel_size, or lower max_num_seqs or max_model_len",
    ),
    _rule(
        r"status=11\b|FAIL_HOST_MEM_ALLOC|MemoryError|Out of memory: Killed|oom-kill",
        "fix",
        "the host ran out of memory while loading",
        "set vllm_endpoint_loads_at_once to fewer",
    ),
    _rule(
        r"status=1003\b|Numerical Error|ERROR_SUBTYPE_NUMERICAL|COMPLETED_WITH_NUM_ERR",
        "fix",
        "the model computed no numbers (NaN): what it answered meanwhile may be wrong",
        "compile without the newest kernels, and ask again what was answered since",
    ),
    _rule(
        r"out-of-bound access|Out of bounds access|status=1006\b|NRT_EXEC_OOB|err: 1006\b",
        "fix",
        "a graph was given what lies outside of its tables",
        "report it with the model, the SDK release and the artifact's settings; another request may pass",
    ),
    _rule(r"status=1002\b|NRT_EXEC_BAD_INPUT", "fix", "a graph was given inputs of another shape", COMPILE),
    _rule(
        r"DGE notifications enabled|NQ_OVERFLOW|status=1204\b",
        "fix",
        "a queue of the runtime ran over",
        "set environment.NEURON_RT_ENABLE_DGE_NOTIFICATIONS to 0",
    ),
    _rule(
        r"GPSIMD EXCEPTION",
        "fix",
        "a core was not reset before a program of its own ran",
        "take NEURON_RT_RESET_CORES out of the environment, or set it to 1",
    ),
    _rule(
        r"kv_store_acquire_file_lock",
        "fix",
        "a lock file of another user is in the way",
        "remove /tmp/nrt_kv_store_server.lock",
    ),
    _rule(
        r"No usable listening interface|No interface found in the same subnet",
        "fix",
        "collectives try to meet at a link-local IPv6 address",
        "`sudo sysctl -w net.ipv6.conf.all.disable_ipv6=1`",
    ),
    _rule(
        r"Invalid NCCL_COMM_ID",
        "fix",
        "the address at which ranks meet is a name that does not resolve",
        "use names of at most 63 characters, or an address",
    ),
    _rule(r"Ofi plugin is not installed", "fix", "the installer of EFA did not run", "install EFA on the host"),
    _rule(r"NIXL_ERR_NOT_FOUND|unsupported backend 'LIBFABRIC'", "fix", "a library of NIXL is missing", PROVISION),
    _rule(
        r"module compiled against API version|No module named '|cannot open shared object file",
        "fix",
        "the environment's packages do not fit each other",
        PROVISION,
    ),
    _rule(r"[Aa]ddress already in use", "fix", "the port is taken", "`ss -ltnp` names the program"),
    _rule(
        r"LoRA adapter path .* is not found",
        "fix",
        "an adapter is not on the host",
        "run the provision playbook",
    ),
    _rule(
        r"Multi-lora is not yet supported|compiled model has no lora_config|Must pass speculative_config"
        r"|quantized_checkpoints_path is required|is not supported on TRN2|ep_degree.*enable-expert-parallel"
        r"|Failed to advance FSM|unrecognized arguments|invalid choice:|Request exceeds largest bucket"
        r"|Cannot copy out of meta tensor",
        "fix",
        "the settings ask for what this release or this artifact does not do",
        PREFLIGHT,
    ),
    _rule(
        r"max_model_len .* (larger|greater) than|ValueError: .*max_model_len",
        "fix",
        "the settings contradict the model or the artifact",
        PREFLIGHT,
    ),
    _rule(r"failed with 70\b", "retry", "the compiler failed as it sometimes does under load", AGAIN),
    _rule(
        r"execution timeout \(\d+ ms\).*waiting for execution completion",
        "replace",
        "the device hangs in an execution",
        RESTART_ONCE,
    ),
    _rule(
        r"(execution|inference) timeout \(\d+ ms\)|Missing infer_status notification|status=5\b|err: 5\b",
        "retry",
        "the device did not finish an execution",
        AGAIN,
    ),
    _rule(r"status=(101|1004)\b", "retry", "the execution unit has to be set up again", AGAIN),
    _rule(
        r"status=1206\b|NETWORK_PROXY_FAILURE|connection closed by remote peer|failed neuronBootstrap",
        "retry",
        "ranks lost one another",
        ELSEWHERE,
    ),
    _rule(r"EngineDeadError|MQEngineDeadError|Engine core proc .* died", "retry", "the engine process died", AGAIN),
)

_PERCENT = re.compile(r"(?P<done>\d{1,3})%")
_OF = re.compile(r"(?P<done>\d+)\s*(?:/|of)\s*(?P<total>\d+)")
# In the order of a start, the last first: a line that fits two belongs to the later phase.
PHASES = (
    ("serving", re.compile(r"Application startup complete|Server is ready to serve|Uvicorn running on")),
    ("warm-up", re.compile(r"[Ww]arm(ing)?[ -]?up")),
    (
        "loading weights",
        re.compile(r"[Ll]oading (safetensors|checkpoint|weights|presharded)|[Ff]inished weights loading"),
    ),
    ("sharding weights", re.compile(r"[Ss]harding [Ww]eights|[Dd]one [Ss]harding")),
    ("compiling", re.compile(r"[Cc]ompil(ing|ation)|Generating HLOs|[Rr]ecompiling")),
    ("initialising", re.compile(r"[Ii]nitializing|Started server process|Loading model")),
)


def follow(before: Progress, line: str) -> Progress:
    """The progress after one more line of the log."""
    line = bounded(line)
    for phase, pattern in PHASES:
        if pattern.search(line):
            count = _OF.search(line)
            if count and 0 < int(count["done"]) <= int(count["total"]):
                return Progress(phase, int(count["done"]), int(count["total"]))
            percent = _PERCENT.search(line)
            return Progress(phase, int(percent["done"]), 100) if percent else Progress(phase)
    return before


def bounded(line: str) -> str:
    """As much of a line as is looked at."""
    return line[:MAX_LINE]


def compiles(line: str, artifact: str) -> bool:
    """True for the loader's line by which it says that it will compile, although an artifact was given to it.

    Args:
        line: one line of the server's log, from its beginning.
        artifact: the directory of the artifact; the line names it.
    """
    found = _RECOMPILES.match(bounded(line).rstrip())
    return found is not None and (found["v1"] or found["v0"]).rstrip("/") == artifact.rstrip("/")


def diagnose(lines: Sequence[str], served: bool = False) -> Optional[Diagnosis]:
    """The gravest thing that the lines say, and of that the first; None if they say nothing that is known.

    Args:
        lines: what the server logged in one start.
        served: it has answered clients, who can make it log what they like: then only the runtime's own lines count.
    """
    found: List[Tuple[int, int, Diagnosis]] = []
    cut = [bounded(line) for line in lines]
    for index, line in enumerate(cut):
        if (served and not _RUNTIME.match(line)) or _BENIGN.search(line):
            continue
        for pattern, kind, cause, action in RULES:
            if pattern.search(line):
                around = tuple(cut[max(0, index - CONTEXT_LINES) : index + CONTEXT_LINES + 1])
                found.append((SEVERITY.index(kind), index, Diagnosis(kind, cause, action, line.strip(), around)))
                break
    return min(found, key=lambda row: row[:2])[2] if found else None
