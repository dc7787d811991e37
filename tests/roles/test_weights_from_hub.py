# SPDX-License-Identifier: Apache-2.0
"""Weights from a model hub with the hub's real client, while the hub misbehaves."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import job, manifest, progress, weights
from ansible_collections.trainyard.neuron.tests.unit.plugins.module_utils.jobs.tensor_files import file_of

from lab.services import hub
from lab.services.faults import Fault

REPOSITORY = "acme/tiny"
#: Large enough that the client writes a part of it before all is there: it writes 10 MiB at a time.
SHARD_BYTES = 40_000_000
CLIENT_STEP_BYTES = 10 * 2**20


@dataclass
class Hub:
    """A running hub, what it was asked for, and how much of each file it sent."""

    url: str
    revision: str
    models: Path
    fault: Any
    handler: Any
    sent: dict[str, int] = field(default_factory=dict)

    def spec(self, final: Path, revision: str = "") -> dict[str, Any]:
        inputs = {"repo": REPOSITORY, "source": "huggingface", "uri": None, "exclude": ["original/*"]}
        return {
            "id": "acme-tiny",
            "path": str(final),
            "endpoint": self.url,
            "max_workers": 2,
            "inputs": {**inputs, "revision": revision or self.revision},
        }


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    root = tmp_path / "models"
    folder = root / REPOSITORY
    (folder / "original").mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "original" / "consolidated.00.pth").write_bytes(b"x" * 1000)
    for number in (1, 2):
        (folder / f"model-{number}.safetensors").write_bytes(file_of(SHARD_BYTES, fill=bytes([number])))
    service = hub.serve(root, "127.0.0.1", 0)
    handler = service.RequestHandlerClass
    url = f"http://127.0.0.1:{service.server_address[1]}"
    running = Hub(url, hub.read_repository(root, REPOSITORY).revision, root, handler.switch, handler)
    stream = handler._stream

    def counted(self: Any, path: Path, first: int, length: int) -> None:
        cut = self.switch.fault.cut_after_bytes
        running.sent[path.name] = running.sent.get(path.name, 0) + (min(length, cut) if cut else length)
        stream(self, path, first, length)

    monkeypatch.setattr(handler, "_stream", counted)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(weights, "HF", Path(sys.executable).parent / "hf")
    thread = threading.Thread(target=service.serve_forever, daemon=True)
    thread.start()
    yield running
    service.shutdown()
    service.server_close()
    thread.join()


@pytest.fixture
def report(tmp_path: Path) -> progress.Progress:
    return progress.Progress(tmp_path / "report.json")


def test_checkpoint_is_verified_against_the_sums_that_the_hub_states(
    server: Hub, tmp_path: Path, report: progress.Progress
) -> None:
    final = tmp_path / "data" / "acme" / "tiny" / server.revision
    described = weights.run(server.spec(final), report)
    assert [entry["path"] for entry in described["files"]] == [
        "config.json",
        "model-1.safetensors",
        "model-2.safetensors",
    ]
    assert sorted(path.name for path in final.iterdir()) == ["config.json", "manifest.json"] + [
        f"model-{number}.safetensors" for number in (1, 2)
    ]
    assert manifest.full_problems(final, described) == []


def test_download_that_keeps_being_cut_goes_on_where_it_was(
    server: Hub, tmp_path: Path, report: progress.Progress
) -> None:
    server.fault.set(Fault(cut_after_bytes=int(SHARD_BYTES * 0.6)))
    final = tmp_path / "data" / server.revision
    weights.run(server.spec(final), report)
    for number in (1, 2):
        # Without resuming it would never have arrived; with it, all that was sent is the file once and little more.
        assert server.sent[f"model-{number}.safetensors"] <= SHARD_BYTES + CLIENT_STEP_BYTES


def test_killed_download_resumes_with_what_it_has(server: Hub, tmp_path: Path, report: progress.Progress) -> None:
    final = tmp_path / "data" / server.revision
    staging = manifest.staging_of(final)
    server.fault.set(Fault(bytes_per_s=20_000_000))
    client = subprocess.Popen(
        [
            weights.HF,
            "download",
            REPOSITORY,
            "--revision",
            server.revision,
            "--local-dir",
            staging,
            "--exclude",
            "original/*",
        ],
        env={"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not staging.exists() or job.tree_bytes(staging) < 2 * CLIENT_STEP_BYTES:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    client.kill()
    client.wait()
    server.fault.set(Fault())
    had = job.tree_bytes(staging)
    time.sleep(0.5)  # the hub still writes into the closed connection for a moment
    server.sent.clear()
    weights.run(server.spec(final), report)
    # What it had includes the client's notes, which are small.
    assert 0 < sum(server.sent.values()) < 2 * SHARD_BYTES - had + 10_000


def test_too_many_requests_are_waited_out_as_long_as_the_hub_asks(
    server: Hub, tmp_path: Path, report: progress.Progress
) -> None:
    final = tmp_path / "data" / server.revision
    server.fault.set(Fault(status=429, count=3, retry_after_s=2))
    began = time.monotonic()
    weights.run(server.spec(final), report)
    # A client that backs off by itself begins below a second.
    assert time.monotonic() - began >= 2.0
    assert server.fault.fault.count == 0
    assert job.complete_problems(final, server.spec(final)["inputs"]) == []


def test_hub_that_is_down_for_a_moment_is_asked_again(server: Hub, tmp_path: Path, report: progress.Progress) -> None:
    final = tmp_path / "data" / server.revision
    server.fault.set(Fault(status=503, count=3))
    weights.run(server.spec(final), report)
    assert server.fault.fault.count == 0
    assert job.complete_problems(final, server.spec(final)["inputs"]) == []


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A volume of its own with room for the model and not much more."""
    sudo = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    where = tmp_path / "volume"
    where.mkdir()
    options = f"size={4 * SHARD_BYTES},uid={os.getuid()}"
    if subprocess.run([*sudo, "mount", "-t", "tmpfs", "-o", options, "tmpfs", where], capture_output=True).returncode:
        pytest.skip("a volume of the test's own needs root, or sudo without a password")
    yield where
    subprocess.run([*sudo, "umount", "--lazy", where], check=True)


def test_client_that_finds_the_disk_full_is_said_to(
    server: Hub, volume: Path, report: progress.Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is room when the download begins; while it runs, somebody else takes it."""
    stream = server.handler._stream

    def taken(handler: Any, path: Path, first: int, length: int) -> None:
        with contextlib.suppress(OSError), (volume / "somebody's").open("ab", buffering=0) as file:
            while True:
                file.write(bytes(CLIENT_STEP_BYTES))
        stream(handler, path, first, length)

    monkeypatch.setattr(server.handler, "_stream", taken)
    final = volume / "data" / server.revision
    with pytest.raises(OSError, match="No space left on device"):
        weights.run(server.spec(final), report)
    assert not final.exists()
    monkeypatch.setattr(server.handler, "_stream", stream)
    (volume / "somebody's").unlink()
    assert manifest.full_problems(final, weights.run(server.spec(final), report)) == []


def test_corrupt_shard_is_fetched_again_alone(server: Hub, tmp_path: Path, report: progress.Progress) -> None:
    final = tmp_path / "data" / server.revision
    weights.run(server.spec(final), report)
    shard = final / "model-2.safetensors"
    shard.write_bytes(b"\0" * SHARD_BYTES)
    (final / manifest.NAME).unlink()
    server.sent.clear()
    described = weights.run(server.spec(final), report)
    assert manifest.full_problems(final, described) == []
    assert server.sent.get("model-1.safetensors", 0) == 0
    assert server.sent["model-2.safetensors"] == SHARD_BYTES


def test_gated_repository_needs_its_token(
    server: Hub, tmp_path: Path, report: progress.Progress, monkeypatch: pytest.MonkeyPatch
) -> None:
    (server.models / REPOSITORY / ".gated").touch()
    final = tmp_path / "data" / server.revision
    with pytest.raises(job.JobError, match="hf download"):
        weights.run(server.spec(final), report)
    assert not final.exists()
    monkeypatch.setenv("HF_TOKEN", "hf_example")
    assert weights.run(server.spec(final), report)["files"]


def test_unknown_revision_is_said_before_anything_is_written(
    server: Hub, tmp_path: Path, report: progress.Progress
) -> None:
    final = tmp_path / "data" / "0000"
    with pytest.raises(job.JobError, match="the hub does not list acme/tiny at 000000000000") as caught:
        weights.run(server.spec(final, revision="0" * 40), report)
    assert "check repository, revision" in caught.value.next_step
    assert list((tmp_path / "data").iterdir()) == []
