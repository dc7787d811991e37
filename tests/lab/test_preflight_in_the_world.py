# SPDX-License-Identifier: Apache-2.0
"""What preflight asks of the outside world, asked of the lab's: real names, TLS and tokens."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils import host_packages
from ansible_collections.trainyard.neuron.plugins.module_utils.preflight import signing, sources

from lab.services import ec2, metadata
from tests.lab import test_lab_world as world
from trainyard.lab import fleet
from trainyard.lab.state import BUCKET

lab, served, outside, inside = world.lab, world.served, world.outside, world.inside
LLAMA = world.LLAMA
KEYS = {"AWS_ACCESS_KEY_ID": "lab", "AWS_SECRET_ACCESS_KEY": "lab", "AWS_DEFAULT_REGION": "us-east-2"}


def ask(kind: str, url: str, **more: Any) -> tuple[str, str]:
    found = sources.ask({"what": "it", "kind": kind, "url": url, **more})
    return found["problem"], found["detail"]


@pytest.mark.usefixtures("inside")
def test_packages_and_wheels_are_found_in_their_very_versions() -> None:
    base = f"{host_packages.Apt.public}/dists/jammy/main/binary-amd64"
    assert ask("packages", base, packages={"aws-neuronx-tools": "2.23.9.0"}) == ("", "")
    assert ask("packages", base, packages={"aws-neuronx-tools": "2.24"}) == ("version", "aws-neuronx-tools=2.24")
    index = "https://pip.repos.neuron.amazonaws.com/neuronx-cc/"
    assert ask("page", index, texts=[f"neuronx_cc-{LLAMA.compiler}"]) == ("", "")


@pytest.mark.usefixtures("inside")
def test_a_source_is_there_as_git_will_ask_for_it() -> None:
    url = f"https://github.com/{LLAMA.source_repo}/info/refs?service=git-upload-pack"
    assert ask("page", url) == ("", "")


@pytest.mark.usefixtures("inside")
def test_every_model_of_the_lab_is_there_and_the_gated_with_a_token_alone() -> None:
    for name, revision, access, _kind in fleet.STAND_INS:
        url = f"https://huggingface.co/{name}/resolve/{revision}/config.json"
        if access == "gated":
            assert ask("checkpoint", url)[0] == "gated"
        assert ask("checkpoint", url, token="hf_any") == ("", ""), name


@pytest.mark.usefixtures("inside")
def test_an_image_is_asked_for_with_the_token_that_the_registry_gives_to_anybody() -> None:
    digest = world.registry.asked([f"public.ecr.aws/neuron/vllm:{world.TAG}"])
    (found,) = digest.values()
    assert ask("image", f"public.ecr.aws/neuron/vllm@{found.get('digest', found)}") == ("", "")


@pytest.mark.usefixtures("inside")
def test_the_store_takes_what_the_fleet_compiles() -> None:
    keys = {"region_name": "us-east-2", "aws_access_key_id": "lab", "aws_secret_access_key": "lab"}
    where = {"LocationConstraint": "us-east-2"}
    boto3.client("s3", **keys).create_bucket(Bucket=BUCKET, CreateBucketConfiguration=where)
    given = {"environment": KEYS, "reads": f"artifacts/{'0' * 64}/manifest.json"}
    for writes in (True, False):
        assert ask("store", f"s3://{BUCKET}/artifacts", writes=writes, **given) == ("", "")
    assert ask("store", "s3://no-such-bucket/artifacts", writes=False, **given) == ("missing", "NoSuchBucket")


@pytest.fixture
def instance() -> Iterator[str]:
    server = metadata.serve("127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_an_instance_has_its_role_s_credentials(instance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    found = signing.credentials({"AWS_EC2_METADATA_SERVICE_ENDPOINT": instance}, sources.fetch)
    assert found is not None
    assert (found.access, found.region) == ("LABROLE", ec2.REGION)
