# SPDX-License-Identifier: Apache-2.0
"""Weights from S3 and artifacts from an S3 store, with the real client, while the service misbehaves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import manifest, progress, store, weights
from ansible_collections.trainyard.neuron.tests.unit.plugins.module_utils.jobs.tensor_files import tensors

from lab.services import aws
from lab.services.faults import Fault, Switch
from tests.accounts import empty_account

BUCKET = "fleet"
DIGEST = "ab" * 32


@dataclass
class S3:
    """A running service, its fault, and what is kept there."""

    url: str
    switch: Switch

    def client(self) -> Any:
        return boto3.client("s3", endpoint_url=self.url)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "lab")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    empty_account()
    switch = Switch()
    monkeypatch.setattr(aws, "Switch", lambda: switch)
    server = aws.serve("127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    running = S3(f"http://127.0.0.1:{server.port}", switch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
    running.client().create_bucket(Bucket=BUCKET)
    yield running
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def made(tmp_path: Path) -> Path:
    root = tmp_path / "made"
    root.mkdir()
    (root / "model.safetensors").write_bytes(tensors(5000))
    (root / "config.json").write_text("{}")
    return root


@pytest.mark.parametrize("status", [500, 503])
def test_weights_survive_a_service_that_is_down_for_a_moment(
    service: S3, made: Path, tmp_path: Path, status: int
) -> None:
    for path in made.iterdir():
        service.client().upload_file(str(path), BUCKET, f"m/{path.name}")
    inputs = {"repo": "a/b", "revision": "v1", "source": "s3", "uri": f"s3://{BUCKET}/m", "exclude": []}
    final = tmp_path / "data" / "v1"
    service.switch.set(Fault(status=status, count=3))
    described = weights.run({"id": "m", "path": str(final), "inputs": inputs}, progress.Progress(tmp_path / "r.json"))
    assert service.switch.fault.count == 0
    assert manifest.full_problems(final, described) == []


def test_store_survives_a_service_that_is_down_for_a_moment(service: S3, made: Path, tmp_path: Path) -> None:
    shared = store.open_store(f"s3://{BUCKET}/artifacts")
    described = manifest.build(made, "artifact", DIGEST, {}, {})
    service.switch.set(Fault(status=503, count=3))
    shared.put(DIGEST, made, described, lambda _count: None)
    service.switch.set(Fault(status=500, count=3))
    assert shared.manifest(DIGEST) == described
    service.switch.set(Fault(status=503, count=3))
    shared.get(DIGEST, "model.safetensors", tmp_path / "back", lambda _count: None)
    assert (tmp_path / "back").read_bytes() == (made / "model.safetensors").read_bytes()
    assert service.switch.fault.count == 0


def test_service_that_stays_down_is_an_error_that_names_the_store(service: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    service.switch.set(Fault(status=503))
    with pytest.raises(store.StoreError, match=rf"s3://{BUCKET}/artifacts: .*SlowDown"):
        store.open_store(f"s3://{BUCKET}/artifacts").manifest(DIGEST)
