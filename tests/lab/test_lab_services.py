# SPDX-License-Identifier: Apache-2.0
"""The services beside the hosts, asked by the clients that the roles use."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from tokenizers import Tokenizer

from lab import neuron_image, neuron_packages, tiny_model
from lab.services import aws, hub, registry

REPO = "trainyard/tiny-llama"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for name in (REPO, f"{REPO}-gated"):
        (root / name).mkdir(parents=True)
        tiny_model.make(root / name)
    tiny_model.make(root / f"{REPO}@next", tiny_model.FIRST_SEED + 1)
    (root / f"{REPO}-gated/.gated").touch()
    return root


@pytest.fixture
def hub_url(models: Path) -> Iterator[str]:
    server = hub.serve(models, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def aws_url() -> Iterator[str]:
    server = aws.serve("127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    server.server_close()
    thread.join()


def ask(url: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one request; a redirect is followed, an error status is an answer."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body, names, method=method)  # noqa: S310 - this very process
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def fault(url: str, **fields: float) -> None:
    assert ask(f"{url}/_lab/fault", "PUT", json.dumps(fields).encode())[0] == 200


def download(url: str, folder: Path, *words: str, token: str = "") -> subprocess.CompletedProcess[str]:
    """`hf download` with the lab's hub, as the role runs it."""
    hf = Path(sys.executable).parent / "hf"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": url,
        "HF_HOME": str(folder / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_COLOR": "1",
    }
    if token:
        environment["HF_TOKEN"] = token
    command = [str(hf), "download", *words, "--local-dir", str(folder / "model")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)


def same_files(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.iterdir() if path.is_file() and not path.name.startswith("."))
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_hf_downloads_a_model_by_its_revision(hub_url: str, models: Path, tmp_path: Path) -> None:
    revision = json.loads(ask(f"{hub_url}/api/models/{REPO}")[2])["sha"]
    done = download(hub_url, tmp_path, REPO, "--revision", revision)
    assert done.returncode == 0, done.stderr
    assert same_files(models / REPO, tmp_path / "model")


def test_a_branch_is_another_revision_of_the_same_model(hub_url: str, models: Path, tmp_path: Path) -> None:
    first = json.loads(ask(f"{hub_url}/api/models/{REPO}")[2])["sha"]
    other = json.loads(ask(f"{hub_url}/api/models/{REPO}/revision/next")[2])
    assert other["id"] == REPO
    assert other["sha"] != first
    done = download(hub_url, tmp_path, REPO, "--revision", other["sha"])
    assert done.returncode == 0, done.stderr
    assert same_files(models / f"{REPO}@next", tmp_path / "model")
    assert not same_files(models / REPO, tmp_path / "model")
    assert ask(f"{hub_url}/api/models/{REPO}@next")[0] == 401


def test_hf_is_refused_an_unknown_revision_and_an_unknown_model(hub_url: str, tmp_path: Path) -> None:
    assert "Revision not found" in download(hub_url, tmp_path, REPO, "--revision", "0" * 40).stderr
    status, headers, _ = ask(f"{hub_url}/api/models/nobody/nothing")
    assert (status, headers["X-Error-Code"]) == (401, "RepoNotFound")


def test_a_gated_model_needs_a_token(hub_url: str, tmp_path: Path) -> None:
    refused = download(hub_url, tmp_path, f"{REPO}-gated")
    assert refused.returncode != 0
    assert "requires approval" in refused.stderr
    assert download(hub_url, tmp_path, f"{REPO}-gated", token="hf_lab").returncode == 0


def test_large_files_carry_their_sha256_and_resume(hub_url: str, models: Path) -> None:
    content = (models / REPO / "model.safetensors").read_bytes()
    url = f"{hub_url}/{REPO}/resolve/main/model.safetensors"
    status, headers, rest = ask(url, Range="bytes=1000-")
    assert status == 206
    assert rest == content[1000:]
    assert headers["Content-Range"] == f"bytes 1000-{len(content) - 1}/{len(content)}"
    assert headers["ETag"].strip('"') == hashlib.sha256(content).hexdigest()
    assert ask(url, Range=f"bytes={len(content)}-")[0] == 416


def test_a_cut_download_goes_on_where_it_ended(hub_url: str, models: Path) -> None:
    content = (models / REPO / "model.safetensors").read_bytes()
    url = f"{hub_url}/{REPO}/resolve/main/model.safetensors"
    fault(hub_url, cut_after_bytes=600_000)
    got = b""
    while len(got) < len(content):
        rest = urllib.request.Request(url, headers={"Range": f"bytes={len(got)}-"})  # noqa: S310
        with urllib.request.urlopen(rest, timeout=30) as answer:  # noqa: S310
            part = answer.read(600_000)
        assert part, "the server sent nothing more"
        got += part
    assert got == content


def test_too_many_requests_say_when_to_come_back_and_end(hub_url: str) -> None:
    fault(hub_url, status=429, count=2, retry_after_s=7)
    for _ in range(2):
        status, headers, _body = ask(f"{hub_url}/api/models/{REPO}")
        assert (status, headers["Retry-After"]) == (429, "7")
    assert ask(f"{hub_url}/api/models/{REPO}")[0] == 200


def test_a_fault_that_does_not_exist_is_refused(hub_url: str) -> None:
    status, _, body = ask(f"{hub_url}/_lab/fault", "PUT", b'{"statsu": 429}')
    assert status == 400
    assert b"no fault field 'statsu'" in body


def client(url: str, service: str, attempts: int = 1) -> Any:
    return boto3.client(
        service,
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="lab",
        aws_secret_access_key="lab",
        config=Config(retries={"total_max_attempts": attempts, "mode": "standard"}),
    )


def test_objects_and_instances_and_parameters_are_there(aws_url: str) -> None:
    s3 = client(aws_url, "s3")
    s3.create_bucket(Bucket="artifacts")
    s3.put_object(Bucket="artifacts", Key="digest/model.pt", Body=b"compiled")
    assert s3.get_object(Bucket="artifacts", Key="digest/model.pt")["Body"].read() == b"compiled"
    assert client(aws_url, "ec2").describe_instances()["Reservations"] == []
    assert client(aws_url, "ssm").describe_parameters()["Parameters"] == []


def test_a_store_that_is_busy_once_is_retried_and_one_that_stays_so_is_an_error(aws_url: str) -> None:
    fault(aws_url, status=503, count=1)
    assert client(aws_url, "s3", attempts=3).list_buckets()["ResponseMetadata"]["RetryAttempts"] == 1
    fault(aws_url, status=503)
    with pytest.raises(ClientError, match="SlowDown"):
        client(aws_url, "s3").list_buckets()
    assert ask(f"{aws_url}/_lab/fault", "DELETE")[0] == 200
    client(aws_url, "s3").list_buckets()


def test_the_model_is_the_same_wherever_it_is_made(models: Path, tmp_path: Path) -> None:
    tiny_model.make(tmp_path)
    assert same_files(models / REPO, tmp_path)
    assert hub.read_repository(models, REPO).revision == hub.read_repository(models, f"{REPO}-gated").revision


def test_text_has_one_token_a_character_and_comes_back_unchanged(models: Path) -> None:
    tokenizer = Tokenizer.from_file(str(models / REPO / "tokenizer.json"))
    text = tiny_model.CHARACTERS + "  two  spaces\n"
    ids = tokenizer.encode(text).ids
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode("<|eot_id|>").ids == [tiny_model.vocabulary()["<|eot_id|>"]]


def test_the_model_divides_as_the_recipes_do(models: Path) -> None:
    config = json.loads((models / REPO / "config.json").read_text(encoding="utf-8"))
    for name in ("num_attention_heads", "hidden_size", "intermediate_size", "vocab_size"):
        assert config[name] % 64 == 0
    assert config["num_attention_heads"] % config["num_key_value_heads"] == 0


def test_the_package_repository_has_what_its_signed_summary_says(tmp_path: Path) -> None:
    neuron_packages.make(tmp_path / "apt", [("aws-neuronx-tools", "2.23.9.0"), ("aws-neuronx-dkms", "2.21.37.0")])
    suite = tmp_path / "apt/dists/noble"
    index = (suite / "main/binary-amd64/Packages").read_bytes()
    assert hashlib.sha256(index).hexdigest() in (suite / "Release").read_text(encoding="utf-8")
    entries = [dict(line.split(": ", 1) for line in part.splitlines()) for part in index.decode().strip().split("\n\n")]
    assert [(entry["Package"], entry["Version"]) for entry in entries] == [
        ("aws-neuronx-dkms", "2.21.37.0"),
        ("aws-neuronx-tools", "2.23.9.0"),
    ]
    for entry in entries:
        content = (tmp_path / "apt" / entry["Filename"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["SHA256"]
    assert not list(tmp_path.rglob("*private*"))


def test_weights_are_where_the_header_says(models: Path) -> None:
    data = (models / REPO / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__")
    ends = 0
    for entry in sorted(header.values(), key=lambda one: one["data_offsets"]):
        begin, end = entry["data_offsets"]
        rows, columns = (*entry["shape"], 1)[:2]
        assert (entry["dtype"], begin, end - begin) == ("BF16", ends, rows * columns * 2)
        ends = end
    assert len(data) == 8 + size + ends


def test_ec2_lists_the_hosts_of_the_lab_as_they_are(aws_url: str) -> None:
    """describe_instances with the filters of the inventory plugin: type, private address, state, name."""
    ec2 = boto3.client(
        "ec2", region_name="us-east-1", endpoint_url=aws_url, aws_access_key_id="lab", aws_secret_access_key="lab"
    )
    hosts = [
        {
            "id": f"i-0000000000000000{number}",
            "name": f"lab-{number}",
            "address": f"10.200.0.1{number}",
            "instance_type": "trn2.48xlarge",
            "state": "running",
        }
        for number in (1, 2)
    ]

    def seen(**filters: str) -> dict[str, tuple[str, str, str]]:
        asked = [{"Name": name.replace("_", "-"), "Values": [value]} for name, value in filters.items()]
        found = [item for row in ec2.describe_instances(Filters=asked)["Reservations"] for item in row["Instances"]]
        return {
            item["InstanceId"]: (item["InstanceType"], item["PrivateIpAddress"], item["State"]["Name"])
            for item in found
        }

    assert ask(f"{aws_url}/_lab/hosts", "PUT", json.dumps(hosts).encode())[0] == 200
    assert seen(instance_type="trn2.48xlarge") == {
        "i-00000000000000001": ("trn2.48xlarge", "10.200.0.11", "running"),
        "i-00000000000000002": ("trn2.48xlarge", "10.200.0.12", "running"),
    }
    hosts[1]["state"] = "stopped"
    assert ask(f"{aws_url}/_lab/hosts", "PUT", json.dumps(hosts).encode())[0] == 200
    assert list(seen(instance_state_name="running")) == ["i-00000000000000001"]
    assert ask(f"{aws_url}/_lab/hosts", "PUT", json.dumps(hosts[:1]).encode())[0] == 200
    assert seen(instance_state_name="terminated")["i-00000000000000002"][2] == "terminated"
    status, _, body = ask(f"{aws_url}/_lab/hosts", "PUT", b'[{"id": "i-1"}]')
    assert status == 400 and b"a host is an object of" in body


def test_registry_serves_images_by_tag_and_by_digest(tmp_path: Path) -> None:
    """The pull half of the distribution specification: what `podman pull name@sha256:...` asks for."""
    base, other = neuron_image.Layer(), neuron_image.Layer()
    base.file("/usr/bin/true", b"#!/bin/sh\n", 0o755)
    other.link("/usr/bin/python", "true")
    made = neuron_image.write_image(tmp_path / "neuron/vllm", "1-sdk", [base.done(), other.done()])
    assert made == neuron_image.write_image(tmp_path / "again", "1-sdk", [_layer(base), _layer(other)]), "same bytes"
    server = registry.serve(tmp_path, "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v2"
    try:
        assert ask(f"{url}/")[0] == 200
        status, headers, text = ask(f"{url}/neuron/vllm/manifests/{made}")
        assert (status, headers["Content-Type"]) == (200, neuron_image.MANIFEST)
        assert neuron_image.digest_of(text) == made
        assert ask(f"{url}/neuron/vllm/manifests/1-sdk")[2] == text
        for entry in [json.loads(text)["config"], *json.loads(text)["layers"]]:
            assert neuron_image.digest_of(ask(f"{url}/neuron/vllm/blobs/{entry['digest']}")[2]) == entry["digest"]
        config = json.loads(ask(f"{url}/neuron/vllm/blobs/{json.loads(text)['config']['digest']}")[2])["config"]
        assert config["Entrypoint"] == ["python", "/usr/local/bin/vllm_entrypoint.py"]
        assert "localhost:8080/ping" in config["Healthcheck"]["Test"][1]
        for missing in ("neuron/vllm/manifests/2", "neuron/vllm/blobs/sha256:0", "../../etc/manifests/passwd"):
            assert ask(f"{url}/{missing}")[0] == 404
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _layer(layer: neuron_image.Layer) -> tuple[bytes, str]:
    """The same layer's bytes again."""
    return layer.done()
