# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import time
from pathlib import Path

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


ARTIFACT = "/data/artifacts/abc"
SAID_V0 = f"Failed to load the model from {ARTIFACT}, Recompiling..."
SAID_V1 = f"Unable to find precompiled artifacts from {ARTIFACT}. Recompiling..."
LOADER_LINES = [
    # The fork: vLLM's own logger, with brackets from 0.8 on.
    f"WARNING 09-14 02:23:18 neuronx_distributed.py:170] {SAID_V0}",
    f"WARNING 09-14 02:23:18 [neuronx_distributed.py:244] {SAID_V0.replace(',', '')}",
    # The plugin: a logger that is none of vLLM's, in a process whose name V1 puts before each line.
    f"(EngineCore_DP0 pid=272) WARNING:vllm_neuron.worker.neuronx_distributed_model_loader:{SAID_V1}",
    f"(EngineCore_DP0 pid=272) WARNING 12-22 19:08:38 [worker/neuronx_distributed_model_loader.py:226] {SAID_V1}",
    f"(EngineCore_DP0 pid=272) {SAID_V1}",
    SAID_V1,
]


@pytest.mark.parametrize("line", LOADER_LINES)
def test_the_loader_is_heard_when_it_compiles_what_was_given_to_it(line: str) -> None:
    assert phases.compiles(line, ARTIFACT)
    assert not phases.compiles(line, "/data/artifacts/other")


@pytest.mark.parametrize(
    "line",
    [
        f"ERROR 11-30 09:41:46 [serving_chat.py:200] Error with model object='error' message='The model `{SAID_V1}` "
        "does not exist.' type='NotFoundError' param=None code=404",
        f"INFO 11-30 09:41:46 [logger.py:39] Received request cmpl-1: prompt: '{SAID_V1}'",
        f"INFO 11-30 09:41:46 [logger.py:39] {SAID_V1}",
        f'INFO:     10.0.0.9:1 - "GET /{SAID_V1} HTTP/1.1" 404 Not Found',
        f"(APIServer pid=9) ERROR 11-30 09:41:46 [serving_engine.py:197] {LOADER_LINES[0]}",
        f" {SAID_V1}",
        f"{SAID_V1} and more",
    ],
)
def test_what_a_client_makes_a_server_log_is_not_the_loader(line: str) -> None:
    assert not phases.compiles(line, ARTIFACT)


@pytest.mark.parametrize("line", [line for line, _, _ in KNOWN])
def test_no_client_can_make_a_server_that_answers_look_broken(line: str) -> None:
    said = f"ERROR 11-30 09:41:46 [serving_chat.py:200] Error with model message='The model `{line}` does not exist.'"
    assert phases.diagnose([said], served=True) is None


def test_the_runtimes_own_lines_count_at_any_time() -> None:
    own = "2026-Nov-30 09:41:46.000123   123:456   ERROR  NRT:nrt_infer_v2   status=1202 message=NC_UE"
    for line in (own, f"(EngineCore_DP0 pid=272) {own}", "(FATAL-RT-UNDEFINED-STATE) status=1202"):
        found = phases.diagnose(["Error with model `status=1201`", line], served=True)
        assert found
        assert found.line == line


def test_a_long_line_costs_no_more_than_a_short_one() -> None:
    """Each of 39 KB repeats the beginning of a pattern: quadratic, were it read to its end."""
    starts = ("Failed to load the model from ", "max_model_len ", "Failed to allocate ", "1", "Engine core proc ")
    lines = [(start * 40_000)[:39_000] for start in starts]
    began = time.process_time()
    for line in lines:
        phases.follow(phases.Progress(), "Compiling " + line)
        phases.compiles(line, ARTIFACT)
    phases.diagnose(lines)
    assert time.process_time() - began < 2.0


TEXTS = [
    dict(zip(("asks", "word", "text"), line.split(" | ", 2), strict=True))
    for line in Path(__file__).with_name("error_texts.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


@pytest.mark.parametrize("row", TEXTS, ids=lambda row: f"{row['asks']} {row['text'][-60:]}")
def test_a_text_of_the_documentation_is_known_and_a_benign_one_is_no_error(row: dict[str, str]) -> None:
    found = phases.diagnose([row["text"]])
    if row["asks"] == "benign":
        assert found is None, found
        return
    assert found is not None
    assert (found.kind, row["word"] in found.cause) == (row["asks"], True), found


def test_all_five_kinds_of_the_kernel_and_every_status_that_ends_an_execution_are_known() -> None:
    said = "\n".join(row["text"] for row in TEXTS)
    kinds = ("SRAM_UNCORRECTABLE_ERROR", "NC_UNCORRECTABLE_ERROR", "HBM_UNCORRECTABLE_ERROR", "DMA_ERROR",
             "HANG_ON_COLLECTIVES")  # fmt: skip
    assert all(f"NEURON_HW_ERR={kind} " in said for kind in kinds)
    for status in (4, 5, 6, 9, 10, 11, 101, 1002, 1003, 1004, 1005, 1006, 1200, 1201, 1202, 1203, 1204, 1205, 1206):
        assert phases.diagnose([f"RuntimeError: Failed to execute the model status={status} message=x"]), status
    # A kind that a later driver adds is a device that failed as well.
    assert str(phases.diagnose(["neuron: NEURON_HW_ERR=PCIE_ERROR nd-id=0 action=x"])).startswith("replace")
