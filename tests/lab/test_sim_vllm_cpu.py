# SPDX-License-Identifier: Apache-2.0
"""The real vLLM behind a Neuron command line: what it is started with, and that the claim goes with it."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.neuron_sim import vllm_cpu
from lab.neuron_sim.settings import ServeSettings
from tests.lab.sim_support import SimHost, eventually

# Stands where the environment has vLLM's command: says how it was called, and starts a child that closes its files.
RECORDER = """
import json, os, subprocess, sys, time
print(json.dumps({"argv": sys.argv[1:], "environment": dict(os.environ)}), flush=True)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=True)
time.sleep(60)
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SimHost]:
    venv = tmp_path / "vllm-cpu/bin"
    venv.mkdir(parents=True)
    (venv / "python").symlink_to(sys.executable)
    (venv / "vllm").write_text(RECORDER)
    with SimHost(tmp_path, engine="vllm-cpu", vllm_cpu_venv=str(tmp_path / "vllm-cpu")) as made:
        yield made


def test_command_line_is_translated_and_the_claim_survives(host: SimHost) -> None:
    """Nothing of Neuron reaches the CPU; names, address and lengths do; the unit's variables stay visible."""
    variables = {"TRAINYARD_RELEASE": "abc", "VLLM_NEURON_FRAMEWORK": "neuronx-distributed-inference"}
    overrides = '{"on_device_sampling_config": {"do_sample": true, "global_topk": 64}}'
    extra = ("--served-model-name", "tiny", "--override-neuron-config", overrides, "--num-gpu-blocks-override", "5")
    server = host.serve_v0(*extra, env=variables)
    called = json.loads(eventually(lambda: [line for line in server.log.splitlines() if line.startswith("{")])[0])
    assert called["argv"] == [
        *("serve", str(host.model), "--host", "127.0.0.1", "--port", str(server.port)),
        *("--served-model-name", "tiny", "--max-model-len", "8192", "--max-num-seqs", "4"),
        *("--enforce-eager", "--dtype", "float32"),
        # The defaults of the release that is posed as, which the vLLM behind it may not share.
        *("--generation-config", "auto", "--uvicorn-log-level", "info", "--response-role", "assistant"),
    ]
    environment = called["environment"]
    assert environment["TRAINYARD_RELEASE"] == "abc" and "VLLM_NEURON_FRAMEWORK" not in environment
    assert environment["OMP_NUM_THREADS"] == "1" and environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert host.busy_devices() == list(range(8))
    eventually(lambda: len(host.owner_pids()) == 2)
    server.process.kill()
    server.wait_exit()
    assert host.busy_devices() == list(range(8))


def test_a_request_without_an_adapter_finds_a_slot_that_is_always_empty() -> None:
    """vLLM on the CPU takes the last slot's weights for it, where another request of the batch has an adapter."""
    adapters = {"support": "/w/support", "sql": "/w/sql", "chat": "/w/chat"}
    wanted = ServeSettings("r", "0.16.0", "/w/tiny", ("tiny",), "", 8000, 16, 4, 1024, adapters=adapters, max_loras=2)
    argv = vllm_cpu.arguments(argparse.Namespace(max_lora_rank=8, max_cpu_loras=2), wanted)
    given = dict(itertools.pairwise(argv))
    assert given["--max-loras"] == given["--max-cpu-loras"] == "4"
    assert given["--max-lora-rank"] == "8"
    assert argv[argv.index("--lora-modules") + 1 :] == [f"{name}={path}" for name, path in adapters.items()]


def test_artifact_rules_hold_before_the_real_vllm_starts(host: SimHost) -> None:
    """The same bring-up as with the simulated engine; a slice whose first request would die is refused here."""
    server = host.serve_v0(cores="4-11", tp=8)
    assert server.wait_exit() == 1
    assert "Recompiling..." in server.log and "Collective operation REDUCE_SCATTER" in server.log
