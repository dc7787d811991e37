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
    + r"(?:(?:ERROR|FATAL)\s+(?:NRT|TDRV|NMGR|KMGR|HAL|NCFW|ENC)\b|\(FATAL-RT|NEURON_HW_ERR=)"
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

# Within a class the first rule that matches a line wins, so what is more specific comes first.
RULES = (
    _rule(r"NEURON_HW_ERR=SRAM|SRAM_UNCORRECTABLE", "replace", "the device's SRAM is defective", REPLACE),
    _rule(r"[Hh]ang on [Cc]ompute", "replace", "the device hangs in hardware", REPLACE),
    _rule(r"status=(1202|1203)\b|DMA_ABORT", "replace", "the device's hardware failed", REPLACE),
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
        r"NeuronCore\(s\) not available|nrt_allocate_neuron_cores|status=1005\b",
        "fix",
        "the cores are in use by another process",
        "`/opt/aws/neuron/bin/neuron-ls` names it; end it",
    ),
    _rule(r"Unable to determine Neuron Driver version", "fix", "the Neuron driver is not loaded", PROVISION),
    _rule(
        r"requires Neuron Driver version|is not compatible with the installed aws-neuron-dkms",
        "fix",
        "the driver is older than the runtime needs",
        PROVISION,
    ),
    _rule(
        r"NEFF version mismatch|status=10\b",
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
        r"not contiguous|Could not open the nd\d|Could not find VNC id|cannot determine the number of available Neuron"
        r"|No neuron device available|status=9\b",
        "fix",
        "the slice asks for cores that the process does not see",
        "compare the plan's cores with `/opt/aws/neuron/bin/neuron-ls`; a container needs every device of its slice",
    ),
    _rule(
        r"Collective operation .* not supported|Unsupported topology|status=1200\b",
        "fix",
        "the slice's size or its start does not fit the topology",
        "a slice starts at a multiple of its size: `trainyard plan` shows it",
    ),
    _rule(
        r"Failed to allocate .* on ND|nrt_tensor_allocate status=4|Allocation Failure",
        "fix",
        "the model does not fit the device memory of its cores",
        "raise tensor_parallel_size, or lower max_num_seqs or max_model_len",
    ),
    _rule(
        r"status=11\b|FAIL_HOST_MEM_ALLOC|MemoryError|Out of memory: Killed|oom-kill",
        "fix",
        "the host ran out of memory while loading",
        "set vllm_endpoint_loads_at_once to fewer",
    ),
    _rule(
        r"status=1003\b|Numerical Error",
        "fix",
        "the model computed no numbers (NaN)",
        "compile without the newest kernels",
    ),
    _rule(r"[Aa]ddress already in use", "fix", "the port is taken", "`ss -ltnp` names the program"),
    _rule(
        r"max_model_len .* (larger|greater) than|ValueError: .*max_model_len",
        "fix",
        "the settings contradict the model or the artifact",
        "run the preflight playbook",
    ),
    _rule(r"failed with 70\b", "retry", "the compiler failed as it sometimes does under load", AGAIN),
    _rule(r"execution timeout \(\d+ ms\)|status=5\b", "retry", "the device did not finish an execution", AGAIN),
    _rule(r"status=(101|1204)\b", "retry", "the execution unit has to be set up again", AGAIN),
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
        if served and not _RUNTIME.match(line):
            continue
        for pattern, kind, cause, action in RULES:
            if pattern.search(line):
                around = tuple(cut[max(0, index - CONTEXT_LINES) : index + CONTEXT_LINES + 1])
                found.append((SEVERITY.index(kind), index, Diagnosis(kind, cause, action, line.strip(), around)))
                break
    return min(found, key=lambda row: row[:2])[2] if found else None
