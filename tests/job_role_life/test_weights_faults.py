# SPDX-License-Identifier: Apache-2.0
"""The role model_weights while the hub, the object store, the disk or a file on it fails, by the faults of the lab."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from huggingface_hub import snapshot_download

from tests.lab_plays import PROVISION, changed_tasks, logs
from tests.stand_in import Lab
from trainyard.paths import ROOT

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.environ.get("TRAINYARD_ROLE") != "model_weights", reason="another role's scenario"),
]

HOSTS = ["lab-1", "lab-2"]
WEIGHTS = "/data/weights"


@pytest.fixture(scope="module")
def lab() -> Lab:
    return Lab(os.environ["TRAINYARD_LAB"])


@pytest.fixture(autouse=True)
def nothing_there_yet(lab: Lab) -> Iterator[None]:
    lab.play(PROVISION, "--tags", "model_weights", "--extra-vars", json.dumps({"model_weights_state": "absent"}))
    lab.on("neuron", "rm -f /var/log/trainyard/weights-*.log")
    yield
    lab.fault("services", "clear")


def complete(lab: Lab) -> None:
    """Both hosts have every file of the manifest, with its sum, and nothing half made."""
    check = (
        "import hashlib, json, pathlib, sys; sys.tracebacklimit = 0; "
        f"found = list(pathlib.Path('{WEIGHTS}').rglob('manifest.json')); assert len(found) == 1, found; "
        "files = json.loads(found[0].read_text())['files']; assert files; "
        "wrong = [row['path'] for row in files if hashlib.sha256((found[0].parent / row['path']).read_bytes())"
        ".hexdigest() != row['sha256']]; assert not wrong, wrong; "
        "beside = [path.name for path in found[0].parent.parent.iterdir() if path != found[0].parent]; "
        "assert not beside, beside; print('complete')"
    )
    for host in HOSTS:
        assert lab.on(host, f'python3 -c "{check}"') == "complete"


def test_a_download_that_is_cut_again_and_again_arrives_in_one_run(lab: Lab) -> None:
    lab.fault("services", "hub-cut", "--count", "3")
    lab.play(PROVISION, "--tags", "model_weights")
    complete(lab)
    assert logs(lab, "weights", HOSTS)["lab-1"].count("fetching from") == 1


@pytest.mark.parametrize("kind", ["hub-429", "hub-5xx"])
def test_a_hub_that_refuses_for_a_while_is_asked_again(lab: Lab, kind: str) -> None:
    lab.fault("services", kind, "--count", "3")
    lab.play(PROVISION, "--tags", "model_weights")
    complete(lab)


def test_an_object_store_that_fails_for_a_while_is_asked_again(lab: Lab, tmp_path: Path) -> None:
    variables = lab.inventory["all"]["vars"]
    repo, revision = variables["lab_model_repo"], variables["lab_model_revision"]
    snapshot_download(repo, revision=revision, endpoint=variables["lab_hub_url"], local_dir=tmp_path)
    service = boto3.client(
        "s3",
        endpoint_url=variables["lab_s3_url"],
        aws_access_key_id="lab",
        aws_secret_access_key="lab",
        region_name="us-east-1",
    )
    service.create_bucket(Bucket="weights")
    for path in (path for path in tmp_path.iterdir() if path.is_file()):
        service.upload_file(str(path), "weights", f"tiny/{path.name}")
    model = {"repo": repo, "source": "s3", "uri": "s3://weights/tiny", "revision": "first"}
    given = ("--extra-vars", json.dumps({"trainyard_overrides": {"tiny-llama": {"model": model}}}))
    lab.fault("services", "s3-5xx", "--count", "3")
    lab.play(PROVISION, "--tags", "model_weights", *given)
    complete(lab)
    lab.play(
        PROVISION, "--tags", "model_weights", *given, "--extra-vars", json.dumps({"model_weights_state": "absent"})
    )


def test_a_full_disk_is_said_and_leaves_nothing_half_made(lab: Lab) -> None:
    lab.fault("lab-2", "disk-full", "--path", "/data")
    argv = lab.command(PROVISION, "--tags", "model_weights")
    refused = subprocess.run(argv, cwd=ROOT, env=lab.environment, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "are free" in refused.stdout or "the disk is full" in refused.stdout, refused.stdout[-3000:]
    assert "free space" in refused.stdout
    lab.fault("lab-2", "clear")
    assert lab.on("lab-2", f"find {WEIGHTS} -name manifest.json 2>/dev/null || true") == ""
    lab.play(PROVISION, "--tags", "model_weights")
    complete(lab)


def test_a_damaged_file_is_found_and_fetched_again_alone(lab: Lab) -> None:
    lab.play(PROVISION, "--tags", "model_weights")
    times = f"cd {WEIGHTS}/*/*/*/ && stat --format='%n %.9Z' * | grep -v manifest"
    damaged = lab.on("lab-2", f"cd {WEIGHTS}/*/*/*/ && ls *.safetensors | head -1")
    lab.on("lab-2", f"truncate --size=-1 {WEIGHTS}/*/*/*/{damaged}")
    before = dict(line.split() for line in lab.on("lab-2", times).splitlines())
    run = lab.play(PROVISION, "--tags", "model_weights")
    assert {host for _task, host in changed_tasks(run)} == {"lab-2"}
    complete(lab)
    after = dict(line.split() for line in lab.on("lab-2", times).splitlines())
    assert {name for name in before if after[name] != before[name]} == {damaged}
