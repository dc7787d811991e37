# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import phases

# As the Neuron runtime's troubleshooting guide and NxDI print them.
KNOWN = [
    (
        "ERROR NRT:nrt_allocate_neuron_cores NeuronCore(s) not available - Requested:nc1-nc1 Available:0",
        "fix",
        "in use",
    ),
    ("ERROR NRT:nrt_init Unable to determine Neuron Driver version. Please check aws-neuron-dkms", "fix", "driver"),
    ("This Neuron Runtime (compatibility id: X) is not compatible with the installed aws-neuron-dkms", "fix", "driver"),
    ("NEFF version mismatch supported: 1.1 received: 2.0", "fix", "another SDK release"),
    ("Error opening libnccom.so, cannot use collective operations!", "fix", "collectives"),
    ("TDRV:log_dev_mem Failed to allocate 4.000GB (alignment: none) on ND 0:NC 4", "fix", "does not fit"),
    ("TDRV:tdrv_init_wait_ncs_ready Failed to reset nd 3 nc_map 0xff timeout (result=-110)", "replace", "reset"),
    ("NEURON_HW_ERR=SRAM_UNCORRECTABLE_ERROR instance-id=i nd-id=0 action=TERMINATE_INSTANCE", "replace", "SRAM"),
    ("Uncorrectable HBM memory error is detected", "replace", "HBM"),
    ("(FATAL-RT-UNDEFINED-STATE) execution timeout (30000 ms) on Neuron Device 0 NC 0", "retry", "did not finish"),
    ("neuronx-cc compilation failed with 70", "retry", "compiler"),
    ("Unable to find precompiled artifacts from /data/x. Recompiling...", "fix", "began to compile"),
    ("Collective operation REDUCE_SCATTER on 8 cores is currently not supported", "fix", "topology"),
    ("nrt_execute status=1003 message=Numerical Error", "fix", "no numbers"),
]


@pytest.mark.parametrize(("line", "kind", "word"), KNOWN)
def test_known_errors_have_a_class_a_cause_and_a_next_step(line: str, kind: str, word: str) -> None:
    diagnosis = phases.diagnose(["INFO before", line, "INFO after"])
    assert diagnosis
    assert diagnosis.kind == kind
    assert word in diagnosis.cause
    assert diagnosis.action
    assert diagnosis.around == ("INFO before", line, "INFO after")


@pytest.mark.parametrize(
    "line",
    [
        "INFO 11-22 00:44:26 metrics.py: Avg prompt throughput: 12.0 tokens/s, Running: 3 reqs",
        'INFO: 127.0.0.1:0 - "POST /v1/completions HTTP/1.1" 200 OK',
        "trainyard: ready after 1 s: 8 tokens",
        "status=100 is no runtime status of ours",
    ],
)
def test_ordinary_lines_are_no_errors(line: str) -> None:
    assert phases.diagnose([line]) is None


def test_the_gravest_class_wins_then_the_first_line() -> None:
    retry, fix, replace = KNOWN[9][0], KNOWN[5][0], KNOWN[7][0]
    found = phases.diagnose([retry, fix, "x", replace, fix])
    assert found
    assert (found.kind, found.line) == ("replace", replace)
    found = phases.diagnose([retry, fix, KNOWN[3][0]])
    assert found
    assert found.line == fix


def test_a_start_is_followed_phase_by_phase() -> None:
    progress = phases.Progress()
    seen = []
    for line in (
        "INFO Initializing an LLM engine (v0.7.2)",
        "Loading safetensors checkpoint shards:  43% Completed | 13/30",
        "INFO:Neuron:Done Sharding weights in 12.1",
        "Warming up the model, bucket 3/8",
        "an unrelated line",
        "INFO:     Application startup complete.",
    ):
        progress = phases.follow(progress, line)
        seen.append(str(progress))
    assert seen == [
        "initialising",
        "loading weights 13/30",
        "sharding weights",
        "warm-up 3/8",
        "warm-up 3/8",
        "serving",
    ]
    assert str(phases.follow(progress, "loading weights 7%")) == "loading weights 7 %"
