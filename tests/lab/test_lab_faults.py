# SPDX-License-Identifier: Apache-2.0
"""`trainyard lab fault HOST KIND`, from the command to what a client, the tools and the next start see on a real lab.

One test a kind; reboot, stop-start, network-cut, disk-full and hub-429 are in test_lab_containers.py. The server is
started as it is, without a role around it: what roles make of a fault is tested with them.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.lab.sim_support import TINY_MODEL
from tests.stand_in import Lab, stand_in

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("lab-faults")]

VENV = "/opt/aws_neuronx_venv_pytorch_2_6_nxd_inference/bin"
REPLICA = ("--replica", "tiny-0")
# Each start has a unit of its own: one with a process left in it, as these faults leave them, cannot be started again.
UNITS = (f"replica-{number}.service" for number in itertools.count(1))
ITL_MS = 20
COMPILE = (
    f"{VENV}/inference_demo --model-type llama --task-type causal-lm run --model-path /data/model --prompt x "
    "--tp-degree 32 --batch-size 4 --seq-len 1024 --max-context-length 1024 --torch-dtype bfloat16 --compile-only "
    "--is-continuous-batching --ctx-batch-size 1"
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    speed = json.dumps({"kind": "fixed", "ttft_ms": 50, "itl_ms": ITL_MS})
    with stand_in("faults", 1, "--time-scale", "0", "--latency", speed) as made:
        on(made, "mkdir -p /data/model")
        on(made, f"echo '{json.dumps(TINY_MODEL)}' > /data/model/config.json")
        yield made


@pytest.fixture(autouse=True)
def healed(lab: Lab) -> Iterator[None]:
    yield
    lab.fault("lab-1", "clear")
    lab.fault("services", "clear")
    on(lab, "systemctl kill --signal=KILL 'replica-*'; systemctl reset-failed 'replica-*'; true")
    eventually(lambda: not busy(lab), "cores are free")


def on(lab: Lab, command: str) -> str:
    """What a line of shell prints on the host, as root."""
    return lab.trainyard("lab", "ssh", "--name", lab.name, "lab-1", f"sudo sh -c {quoted(command)}").strip()


def quoted(text: str) -> str:
    """A word for the shell there."""
    return "'" + text.replace("'", "'\\''") + "'"


def eventually(check: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.3)
    return found


def busy(lab: Lab) -> list[int]:
    found = json.loads(on(lab, "/opt/aws/neuron/bin/neuron-ls -j"))
    return [device["neuron_device"] for device in found if device["neuron_processes"]]


def start(lab: Lab, *variables: str) -> str:
    """Start a replica of the first recipe; does not wait. Its unit."""
    unit = next(UNITS)
    names = ("NEURON_PROCESS_TAG=tiny-0", "NEURON_RT_VISIBLE_CORES=0-31", *variables)
    given = " ".join(f"--setenv={name}" for name in names)
    server = f"{VENV}/python -m vllm.entrypoints.openai.api_server --model /data/model --max-num-seqs 4"
    server += " --max-model-len 1024 --tensor-parallel-size 32 --device neuron --use-v2-block-manager --port 8000"
    on(lab, f"systemd-run --quiet --unit={unit} --property=KillMode=process {given} {server}")
    return unit


def status(lab: Lab, path: str = "/health") -> str:
    return on(lab, f"curl -s -o /dev/null -m 5 -w '%{{http_code}}' http://127.0.0.1:8000{path} || true")


def ready(lab: Lab, *variables: str) -> str:
    unit = start(lab, *variables)
    eventually(lambda: status(lab) == "200", "the replica answers")
    return unit


def ended(lab: Lab, unit: str) -> str:
    """Wait for the server's end; its log."""
    eventually(lambda: on(lab, f"systemctl is-active {unit} || true") in ("failed", "inactive"), "the end")
    return log(lab, unit)


def log(lab: Lab, unit: str) -> str:
    return on(lab, f"journalctl --unit {unit} --output cat --lines 80")


def seconds_of(lab: Lab, tokens: int) -> float:
    """How long a completion takes, in seconds, as curl on the host sees it."""
    body = json.dumps({"prompt": "x", "max_tokens": tokens, "ignore_eos": True})
    url = "http://127.0.0.1:8000/v1/completions"
    form = f"curl -s -o /dev/null -m 60 -w '%{{time_total}}' -H 'Content-Type: application/json' -d '{body}' {url}"
    return float(on(lab, form))


def test_engine_crash_ends_the_server_at_the_next_request(lab: Lab) -> None:
    """V0 notices a dead engine when a request meets it (vLLM's MQLLMEngine)."""
    unit = ready(lab)
    lab.fault("lab-1", "engine-crash", *REPLICA)
    eventually(lambda: not busy(lab), "the crash frees the cores")
    assert status(lab) in ("500", "000")
    assert "Finished server process" in ended(lab, unit)


def test_server_sigkill_leaves_the_engine_and_the_cores_held(lab: Lab) -> None:
    """vllm#55510: SIGKILL of the API server leaves its engine alive."""
    ready(lab)
    lab.fault("lab-1", "server-sigkill", *REPLICA)
    eventually(lambda: status(lab) == "000", "the port is free")
    assert busy(lab) == list(range(8))
    start_again = f"NEURON_RT_VISIBLE_CORES=0-31 {COMPILE.split()[0]} --help > /dev/null; echo $?"
    assert on(lab, start_again) == "0"
    assert "NeuronCore(s) not available - Requested:nc0-nc31 Available:0" in ended(lab, start(lab))
    lab_pids = on(lab, "cd / && PYTHONPATH=/usr/lib/trainyard-lab python3 -m neuron_sim owners")
    on(lab, f"kill -9 {json.loads(lab_pids)['0'][0]}")


def test_hang_keeps_health_at_200_and_generates_nothing_until_cleared(lab: Lab) -> None:
    ready(lab)
    lab.fault("lab-1", "hang", *REPLICA)
    body = json.dumps({"prompt": "x", "max_tokens": 2})
    ask = f"curl -s -o /dev/null -m 3 -w '%{{http_code}}' -H 'Content-Type: application/json' -d '{body}' "
    assert on(lab, f"{ask} http://127.0.0.1:8000/v1/completions || true") == "000"
    assert status(lab) == "200"
    lab.fault("lab-1", "clear")
    assert seconds_of(lab, 2) < 3


def test_slow_tokens_take_their_factor(lab: Lab) -> None:
    ready(lab)
    whole = seconds_of(lab, 40)
    lab.fault("lab-1", "slow-tokens", *REPLICA, "--factor", "5")
    time.sleep(0.5)
    assert seconds_of(lab, 40) > 3 * whole


def test_device_reset_failure_fails_every_start_until_the_hardware_is_another(lab: Lab) -> None:
    """Troubleshooting guide: tdrv_init_wait_ncs_ready; a restart does not clear it."""
    lab.fault("lab-1", "device-reset-failure", "--device", "2")
    assert "Failed to reset nd 2" in ended(lab, start(lab))
    lab.fault("lab-1", "reboot")
    assert "Failed to reset nd 2" in ended(lab, start(lab))
    lab.fault("lab-1", "stop-start")
    assert on(lab, "ls /data") == ""
    on(lab, "mkdir -p /data/model")
    on(lab, f"echo '{json.dumps(TINY_MODEL)}' > /data/model/config.json")
    ready(lab)


def test_broken_hardware_can_be_cleared_after_a_reboot(lab: Lab) -> None:
    lab.fault("lab-1", "device-reset-failure", "--device", "2")
    lab.fault("lab-1", "reboot")
    lab.fault("lab-1", "clear")
    ready(lab)


def test_uncorrectable_hbm_error_ends_the_engine_and_is_counted(lab: Lab) -> None:
    """Troubleshooting guide: uncorrectable HBM error; sysfs counts it."""
    unit = ready(lab)
    lab.fault("lab-1", "hbm-error", "--device", "3")
    eventually(lambda: not busy(lab), "the engine ends")
    assert "Uncorrectable HBM memory error is detected" in log(lab, unit)
    counter = "/run/neuron-sim/sys/devices/virtual/neuron_device/neuron3/stats/hardware/mem_ecc_uncorrected"
    assert on(lab, f"cat {counter}") == "1"


def test_cores_not_released_refuse_the_next_start_of_any_user(lab: Lab) -> None:
    """aws-neuron-sdk#1338, twice: also of an engine that had replaced another."""
    for _ in range(2):
        unit = ready(lab)
        lab.fault("lab-1", "cores-not-released", *REPLICA)
        on(lab, f"systemctl stop {unit}")
        assert busy(lab) == list(range(8))
        assert "NeuronCore(s) not available" in ended(lab, start(lab, "USER=nobody"))
        claim = "NEURON_RT_VISIBLE_CORES=0-31 NEURON_PROCESS_TAG=other"
        server = f"{VENV}/python -m vllm.entrypoints.openai.api_server --model /data/model --device neuron --port 8001"
        refused = on(lab, f"chmod -R a+rX /data && sudo -u nobody env {claim} {server} -tp 32 2>&1 || true")
        assert "NeuronCore(s) not available" in refused
        lab.fault("lab-1", "clear")
        eventually(lambda: not busy(lab), "cores are free")


def test_truncated_artifact_stops_the_next_start(lab: Lab) -> None:
    """torch raises on a cut model.pt, and the loaders do not catch it."""
    on(lab, f"mkdir -p /data/tmp && BASE_COMPILE_WORK_DIR=/data/tmp/a {COMPILE} --compiled-model-path /data/artifact")
    lab.fault("lab-1", "truncate-artifact", "--path", "/data/artifact")
    assert "PytorchStreamReader failed reading zip archive" in ended(
        lab, start(lab, "NEURON_COMPILED_ARTIFACTS=/data/artifact")
    )


def test_truncated_weights_stop_the_next_start(lab: Lab) -> None:
    """safetensors holds the file against its header."""
    header = json.dumps({"a": {"dtype": "BF16", "shape": [64], "data_offsets": [0, 128]}})
    write = (
        f"import pathlib; h = {header.encode()!r}; "
        "pathlib.Path('/data/model/model.safetensors').write_bytes(len(h).to_bytes(8, 'little') + h + bytes(128))"
    )
    on(lab, f"python3 -c {quoted(write)}")
    try:
        lab.fault("lab-1", "truncate-weights", "--path", "/data/model")
        assert "SafetensorError" in ended(lab, start(lab))
    finally:
        on(lab, "rm /data/model/model.safetensors")


def s3(lab: Lab) -> Any:
    shared = lab.inventory["all"]["vars"]
    return boto3.client(
        "s3",
        endpoint_url=shared["lab_s3_url"],
        region_name="us-east-1",
        aws_access_key_id="lab",
        aws_secret_access_key="lab",
        config=Config(retries={"total_max_attempts": 1}),
    )


def test_s3_5xx_is_answered_for_so_many_requests(lab: Lab) -> None:
    lab.fault("services", "s3-5xx", "--count", "1")
    with pytest.raises(ClientError, match="SlowDown"):
        s3(lab).list_buckets()
    assert s3(lab).list_buckets()["Buckets"]


def test_s3_slow_waits_before_every_answer(lab: Lab) -> None:
    lab.fault("services", "s3-slow", "--seconds", "1")
    began = time.monotonic()
    s3(lab).list_buckets()
    assert time.monotonic() - began >= 1


def test_ec2_shows_the_hosts_and_a_stopped_one_as_stopped(lab: Lab) -> None:
    shared = lab.inventory["all"]["vars"]
    ec2 = boto3.client(
        "ec2",
        endpoint_url=shared["lab_s3_url"],
        region_name="us-east-1",
        aws_access_key_id="lab",
        aws_secret_access_key="lab",
    )

    def seen() -> tuple[str, str, str]:
        (row,) = ec2.describe_instances()["Reservations"]
        (item,) = row["Instances"]
        return item["InstanceType"], item["PrivateIpAddress"], item["State"]["Name"]

    assert seen() == ("trn2.48xlarge", lab.address("lab-1"), "running")
    lab.fault("lab-1", "stop")
    assert seen()[2] == "stopped"
    lab.fault("lab-1", "start")
    assert seen()[2] == "running"
    on(lab, "mkdir -p /data/model")
    on(lab, f"echo '{json.dumps(TINY_MODEL)}' > /data/model/config.json")
