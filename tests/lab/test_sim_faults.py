# SPDX-License-Identifier: Apache-2.0
"""Faults that are switched while everything runs."""

from __future__ import annotations

import fcntl
import http.client
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.neuron_sim import faults, sysfs
from tests.lab.sim_support import Server, SimHost, eventually

REPLICA = {"NEURON_PROCESS_TAG": "tiny-0"}
COMPILE = [
    *("--torch-dtype", "bfloat16", "--tp-degree", "32", "--batch-size", "4", "--seq-len", "8192"),
    *("--on-device-sampling", "--compile-only", "--prompt", "x"),
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimHost]:
    latency = {"kind": "fixed", "ttft_ms": 5, "itl_ms": 2}
    with SimHost(tmp_path_factory.mktemp("host"), latency=latency) as host:
        yield host


@pytest.fixture
def host(installed: SimHost) -> Iterator[SimHost]:
    yield installed
    faults.clear(installed.config)
    installed.stop()


def fault(host: SimHost, *argv: str) -> str:
    """The administrator's command, as the lab calls it."""
    result = host.run(sys.executable, "-m", "lab.neuron_sim", "fault", "--root", host.root, *argv)
    assert result.returncode == 0, result.stderr
    return str(result.stdout)


def seconds_for(server: Server, tokens: int) -> float:
    started = time.monotonic()
    server.json("/v1/completions", {"prompt": "x", "max_tokens": tokens})
    return time.monotonic() - started


def compile_model(host: SimHost, name: str, **env: str) -> Any:
    argv = ["--model-path", str(host.model), "--compiled-model-path", str(host.root / name), *COMPILE]
    command = host.venv() / "inference_demo"
    return host.run(command, "--model-type", "llama", "--task-type", "causal-lm", "run", *argv, env=env or None)


def test_engine_crash_frees_the_cores_and_hits_one_replica(host: SimHost) -> None:
    host.serve_v0(cores="0-31", env=REPLICA).wait_ready()
    other = host.serve_v0(cores="32-63", env={"NEURON_PROCESS_TAG": "tiny-1"}).wait_ready()
    fault(host, "engine-crash", "--replica", "tiny-0")
    eventually(lambda: host.busy_devices() == list(range(8, 16)))
    assert other.request("/health")[0] == 200


def test_server_sigkill_leaves_the_engine(host: SimHost) -> None:
    server = host.serve_v0(env=REPLICA).wait_ready()
    fault(host, "server-sigkill", "--replica", "tiny-0")
    assert server.wait_exit() == -9
    assert host.busy_devices() == list(range(8))


def tokens_read(server: Server) -> float:
    page = server.request("/metrics")[1]
    (line,) = re.findall(r"^vllm:prompt_tokens_total\S* (\S+)$", page, flags=re.MULTILINE)
    return float(line)


def test_hang_keeps_health_at_200_and_sends_no_token(host: SimHost) -> None:
    """vllm#24207 and others: only a completion tells."""
    server = host.serve_v0(env=REPLICA).wait_ready()
    before = tokens_read(server)
    fault(host, "hang", "--replica", "tiny-0")
    assert server.request("/health")[0] == 200
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=0.5)
    body = json.dumps({"prompt": "x", "max_tokens": 1})
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    with pytest.raises(TimeoutError):
        connection.getresponse()
    # A prompt that nobody reads is no progress: else every new request would hide the stall.
    assert tokens_read(server) == before
    connection.close()
    fault(host, "clear", "--only", "hang")
    assert server.json("/v1/completions", {"prompt": "x", "max_tokens": 1})
    assert tokens_read(server) > before


def test_slow_tokens_slow_down_one_replica_by_the_factor(host: SimHost) -> None:
    server = host.serve_v0(env=REPLICA).wait_ready()
    fault(host, "slow-tokens", "--replica", "tiny-0", "--factor", "20")
    time.sleep(0.5)
    assert seconds_for(server, 10) > 9 * 0.002 * 20
    assert "slow-tokens" in fault(host, "list")


def test_wrong_tokens_change_what_one_replica_says_and_not_whether_it_repeats_itself(host: SimHost) -> None:
    def said(server: Server) -> str:
        body = {"prompt": "x", "max_tokens": 8, "temperature": 0}
        return str(server.json("/v1/completions", body)["choices"][0]["text"])

    server = host.serve_v0(env=REPLICA).wait_ready()
    sound = said(server)
    fault(host, "wrong-tokens", "--replica", "tiny-0")
    assert said(server) == said(server) != sound
    fault(host, "clear", "--only", "wrong-tokens")
    assert said(server) == sound


def test_device_that_fails_to_reset_stops_every_start_on_it_and_no_other(host: SimHost) -> None:
    """Disaggregation tutorial: restarting does not clear it. The driver counts it in sysfs, as alerts have it."""
    counter = sysfs.device_directory(host.config, 2) / "neuron_core0/stats/other_info/reset_fail_count/total"
    before = int(counter.read_text())
    fault(host, "device-reset-failure", "--device", "2")
    assert int(counter.read_text()) == before + 1
    for _ in range(2):
        server = host.serve_v0(cores="8-11", tp=4)
        assert server.wait_exit() == 1
        assert "tdrv_init_wait_ncs_ready Failed to reset nd 2 nc_map 0xf timeout (result=-110)" in server.log
    host.serve_v0(cores="12-15", tp=4).wait_ready()


def test_uncorrectable_hbm_error_ends_the_engine_and_is_counted(host: SimHost) -> None:
    """Troubleshooting guide: the text, and mem_ecc_uncorrected in sysfs."""
    server = host.serve_v0(env=REPLICA).wait_ready()
    fault(host, "hbm-error", "--replica", "tiny-0")
    eventually(lambda: not host.busy_devices())
    assert "Uncorrectable HBM memory error is detected" in server.log
    assert "Please terminate this instance" in server.log
    counter = sysfs.device_directory(host.config, 0) / "stats/hardware/mem_ecc_uncorrected"
    assert counter.read_text() == "1\n"
    assert host.serve_v0().wait_exit() == 1


def test_reboot_repairs_what_is_repairable_and_nothing_else(host: SimHost) -> None:
    """Troubleshooting guide: reload or reboot for a repairable error, a new instance for the others."""
    fault(host, "repairable-hbm-error", "--device", "0")
    fault(host, "sram-error", "--device", "1")
    shutil.rmtree(host.config.run_dir / "faults")  # what a boot finds: /run is empty
    assert [fault.kind for fault in faults.active(host.config)] == ["sram-error"]
    assert "NEURON_HW_ERR=SRAM_UNCORRECTABLE_ERROR" in (host.config.run_dir / "kernel.log").read_text()


def test_what_is_cleared_is_repaired_and_counts_no_error_any_more(host: SimHost) -> None:
    """The same device, with its own serial number: a reboot replaces nothing."""
    directory = sysfs.device_directory(host.config, 0)
    counter, serial = directory / "stats/hardware/mem_ecc_repairable_uncorrected", directory / "info/serial_number"
    own, before = serial.read_text(), int(counter.read_text())
    fault(host, "repairable-hbm-error", "--device", "0")
    assert int(counter.read_text()) == before + 1
    fault(host, "clear")
    assert int(counter.read_text()) == 0 and serial.read_text() == own


def test_cores_that_are_not_released_stay_held_after_the_engine(host: SimHost) -> None:
    """aws-neuron-sdk#1338."""
    server = host.serve_v0(env=REPLICA).wait_ready()
    fault(host, "cores-not-released", "--replica", "tiny-0")
    assert len(host.owner_pids()) == 1
    server.process.terminate()
    server.wait_exit()
    assert host.busy_devices() == list(range(8))
    refused = host.serve_v0()
    assert refused.wait_exit() == 1
    assert "NeuronCore(s) not available" in refused.log
    fault(host, "clear", "--only", "cores-not-released")
    eventually(lambda: not host.busy_devices())


def test_cores_of_a_replaced_engine_stay_held_for_every_user(host: SimHost) -> None:
    """aws-neuron-sdk#1338: the driver holds them, so whoever comes finds them taken, whatever processes it may read."""
    for _ in range(2):
        server = host.serve_v0(env=REPLICA).wait_ready()
        fault(host, "cores-not-released", "--replica", "tiny-0")
        server.process.terminate()
        server.wait_exit()
        for core in (0, 31):
            with (host.config.run_dir / "cores" / str(core)).open() as lock, pytest.raises(BlockingIOError):
                # What a claimant sees that may not read the environment of another user's process.
                eventually_locked(lock.fileno())
        fault(host, "clear", "--only", "cores-not-released")
        eventually(lambda: not host.busy_devices())


def eventually_locked(descriptor: int) -> None:
    """Ask for the lock until somebody has it; raises then."""

    def free() -> bool:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return False

    eventually(free, 2.0)


def test_truncated_artifact_stops_the_server_instead_of_being_compiled_again(host: SimHost) -> None:
    """torch raises RuntimeError on a cut file, which the loaders do not catch."""
    assert compile_model(host, "cut").returncode == 0
    fault(host, "truncate-artifact", "--path", str(host.root / "cut"))
    server = host.serve_v0(env={"NEURON_COMPILED_ARTIFACTS": str(host.root / "cut")})
    assert server.wait_exit() == 1
    assert "PytorchStreamReader failed reading zip archive" in server.log and "Recompiling" not in server.log


def test_truncated_weights_stop_the_server(host: SimHost) -> None:
    """safetensors checks sizes against the header."""
    header = json.dumps({"a": {"dtype": "BF16", "shape": [64], "data_offsets": [0, 128]}}).encode()
    weights = host.model / "model.safetensors"
    weights.write_bytes(len(header).to_bytes(8, "little") + header + bytes(128))
    try:
        assert compile_model(host, "whole").returncode == 0
        fault(host, "truncate-weights", "--path", str(host.model))
        server = host.serve_v0(env={"NEURON_COMPILED_ARTIFACTS": str(host.root / "whole")})
        assert server.wait_exit() == 1 and "SafetensorError" in server.log
    finally:
        weights.unlink()


def test_full_disk_leaves_an_incomplete_artifact_and_an_honest_status(host: SimHost) -> None:
    fault(host, "disk-full")
    result = compile_model(host, "full")
    assert result.returncode == 1 and "No space left on device" in result.stderr
    assert (host.root / "full/neuron_config.json").exists()


def test_failed_compile_is_cached_until_told_to_retry(host: SimHost) -> None:
    """Neuron persistent cache: failures are kept; --retry_failed_compilation compiles again."""
    cache = {"NEURON_COMPILE_CACHE_URL": str(host.root / "graphs")}
    fault(host, "compile-failure")
    assert compile_model(host, "a", **cache).returncode == 1
    fault(host, "clear")
    again = compile_model(host, "a", **cache)
    assert again.returncode == 1 and "Got a cached failed neff" in again.stderr
    retried = compile_model(host, "a", **cache, NEURON_CC_FLAGS="--retry_failed_compilation")
    assert retried.returncode == 0
    assert "Using a cached neff" in compile_model(host, "b", **cache).stdout


def test_compile_out_of_memory_is_killed_without_a_word(host: SimHost) -> None:
    """neuronx-distributed#53: `Killed` while graphs are made."""
    fault(host, "compile-oom")
    result = compile_model(host, "oom")
    assert result.returncode == -9 and "Error" not in result.stderr


def test_two_compiles_in_one_work_directory_break_the_first(tmp_path: Path) -> None:
    """NxDI: BASE_COMPILE_WORK_DIR must be unique for each compile that runs at the same time."""
    with SimHost(tmp_path, time_scale=0.02) as host:
        two_compiles(host)


def two_compiles(host: SimHost) -> None:
    argv = [host.venv() / "inference_demo", "--model-type", "llama", "--task-type", "causal-lm", "run"]
    argv += ["--model-path", host.model, *COMPILE]
    first = host.start(*argv, "--compiled-model-path", host.root / "one", port=1)
    eventually(lambda: "Generating HLOs" in first.log)
    second = host.start(*argv, "--compiled-model-path", host.root / "two", "--fused-qkv", port=2)
    assert first.wait_exit() == 1 and "FileNotFoundError" in first.log
    assert second.wait_exit() == 0
    assert not (host.root / "one/model.pt").exists() and (host.root / "two/model.pt").exists()


def test_fault_without_a_target_is_an_error(host: SimHost) -> None:
    result = host.run(sys.executable, "-m", "lab.neuron_sim", "fault", "--root", host.root, "engine-crash")
    assert result.returncode == 2 and "no engine of replica (any) holds cores here" in result.stderr
