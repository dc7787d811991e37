# SPDX-License-Identifier: Apache-2.0
"""A core belongs to live processes and to nobody else."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from lab.neuron_sim import ownership
from tests.lab.sim_support import SimHost, eventually


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimHost]:
    with SimHost(tmp_path_factory.mktemp("host"), latency={"kind": "fixed", "ttft_ms": 1, "itl_ms": 1}) as host:
        yield host


@pytest.fixture
def host(installed: SimHost) -> Iterator[SimHost]:
    yield installed
    installed.stop()


def test_second_claimant_gets_the_runtimes_own_error(host: SimHost) -> None:
    """Neuron runtime troubleshooting guide: NeuronCore(s) not available."""
    host.serve_v0(cores="0-31").wait_ready()
    second = host.serve_v0(cores="16-47")
    assert second.wait_exit() == 1
    assert "NRT:nrt_allocate_neuron_cores NeuronCore(s) not available - Requested:nc16-nc47 Available:16" in second.log


def test_disjoint_slices_serve_side_by_side(host: SimHost) -> None:
    host.serve_v0(cores="0-31").wait_ready()
    host.serve_v0(cores="32-63").wait_ready()
    assert host.busy_devices() == list(range(16))
    assert len(host.owner_pids()) == 2


def test_only_the_devices_of_the_slice_are_busy(host: SimHost) -> None:
    host.serve_v0(cores="8-11", tp=4).wait_ready()
    assert host.busy_devices() == [2]


def test_sigkilled_server_leaves_its_engine_alive_and_the_cores_held(host: SimHost) -> None:
    """vllm-project/vllm#55510: the port is free, the engine process stays and holds the accelerator."""
    server = host.serve_v0().wait_ready()
    (engine,) = host.owner_pids()
    server.process.kill()
    server.wait_exit()
    assert server.request("/health")[0] == 0
    assert host.owner_pids() == {engine}
    assert host.serve_v0().wait_exit() == 1
    os.kill(engine, signal.SIGTERM)
    eventually(lambda: not host.busy_devices())
    host.serve_v0().wait_ready()


def test_sigterm_frees_the_cores(host: SimHost) -> None:
    server = host.serve_v0().wait_ready()
    server.process.terminate()
    assert server.wait_exit() == 0
    assert host.busy_devices() == []


def test_cores_outside_the_instance_are_refused(host: SimHost) -> None:
    """Troubleshooting guide: more cores than the instance has."""
    server = host.serve_v0(cores="48-79")
    assert server.wait_exit() == 1
    assert "Could not find VNC id 79" in server.log


def test_cores_with_a_gap_are_refused(host: SimHost) -> None:
    """Configuration guide: NEURON_RT_VISIBLE_CORES must be contiguous."""
    server = host.serve_v0(cores="0-15,17-32")
    assert server.wait_exit() == 1
    assert "not contiguous" in server.log


def test_num_cores_takes_the_first_free_run(host: SimHost) -> None:
    """Configuration guide: NEURON_RT_NUM_CORES lets the runtime choose among the free cores."""
    host.serve_v0(cores="0-7", tp=8).wait_ready()
    host.serve_v0(cores="", tp=8, env={"NEURON_RT_NUM_CORES": "8"}).wait_ready()
    assert host.busy_devices() == [0, 1, 2, 3]


def test_a_child_that_closed_every_descriptor_still_holds_the_claim(host: SimHost) -> None:
    """A claim lives as long as any process that carries it (the real engine is spawned without inherited files)."""
    claim = ownership.claim(host.config, 64, default_count=4)
    child = host.start("/bin/sleep", "60", port=1, env=claim.environment())
    claim.release()
    assert host.owner_pids() == {child.process.pid}
    child.process.kill()
    child.wait_exit()
    assert host.owner_pids() == set()


@pytest.mark.parametrize(
    ("text", "cores"), [("0", (0,)), ("0-3", (0, 1, 2, 3)), ("3-5,6", (3, 4, 5, 6)), ("8,9", (8, 9))]
)
def test_core_lists_are_read_as_the_runtime_reads_them(text: str, cores: tuple[int, ...]) -> None:
    """Configuration guide: single, range or list."""
    assert ownership.parse_cores(text) == cores


@pytest.mark.parametrize("text", ["", "a", "3-1", "0,2", "4,3"])
def test_other_core_lists_are_refused(text: str) -> None:
    with pytest.raises(ownership.CoreSelectionError):
        ownership.parse_cores(text)
