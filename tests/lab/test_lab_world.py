# SPDX-License-Identifier: Apache-2.0
"""The outside world under its real names, as the programs that the roles run find it: with TLS, tokens and git."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils import host_packages, registry
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import (
    IMAGE_REGISTRY,
    find_release,
    sdk_table,
)
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.variables import VARIABLES

from lab import neuron_image, neuron_packages, neuron_wheels, tiny_model, vllm_sources
from lab.services import aws, ec2, files, hub, metadata, sources, world
from lab.services import registry as images
from trainyard.lab import fleet
from trainyard.lab import world as lab_world
from trainyard.lab.state import BUCKET, Lab, Paths

LLAMA = find_release("2.23.0")
TAG = "1.0"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the services of a lab serve, as small as it can be."""
    root = tmp_path_factory.mktemp("served")
    neuron_packages.make(root / "apt", [("aws-neuronx-tools", "2.23.9.0")])
    row = {"release": LLAMA.release, "compiler": LLAMA.compiler, "nxdi": LLAMA.nxdi}
    neuron_wheels.make(root / "wheels", [row])
    source = {
        "repo": LLAMA.source_repo,
        "ref": LLAMA.source_ref,
        "commit": LLAMA.source_commit,
        "requirements": LLAMA.source_requirements,
        "release": LLAMA.release,
        "vllm": "0.8.5",
    }
    (root / "sources").mkdir()
    vllm_sources.make(root / "sources", [source], {})
    neuron_image.write_image(root / "images/neuron/vllm", TAG, [])
    for name, revision, access, kind in fleet.STAND_INS:
        tiny_model.make(root / "models" / name, model_type=kind)
        (root / "models" / name / ".revision").write_text(revision)
        if access == "gated":
            (root / "models" / name / ".gated").touch()
    return root


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    made = Paths(tmp_path_factory.mktemp("lab"))
    lab_world.ensure(made, Path("/nowhere"))
    return made


@pytest.fixture(scope="module")
def outside(served: Path, lab: Paths) -> Iterator[dict[str, str]]:
    """The environment in which programs find that world."""
    cloud = aws.serve("127.0.0.1", 0)
    servers = {
        world.APT: files.serve(served / "apt", "127.0.0.1", 0),
        world.PIP: files.serve(served / "wheels", "127.0.0.1", 0),
        world.IMAGES: images.serve(served / "images", "127.0.0.1", 0),
        world.HUB: hub.serve(served / "models", "127.0.0.1", 0),
        world.SOURCES: sources.serve(served / "sources", "127.0.0.1", 0),
        world.METADATA: metadata.serve("127.0.0.1", 0),
    }
    ports = {name: int(server.server_address[1]) for name, server in servers.items()} | {world.CLOUD: cloud.port}
    for server in (*servers.values(), cloud):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    front = world.World(ports, lab_world.server(lab))
    loop = asyncio.new_event_loop()
    task = loop.create_task(front.serve("127.0.0.1", tls_port=0, plain_port=0, proxy_port=0))

    async def until_it_ends() -> None:
        await asyncio.wait([task])
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for one in rest:
            one.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(until_it_ends()), daemon=True)
    thread.start()
    while not front.bound:
        assert thread.is_alive()
    proxy = f"http://127.0.0.1:{front.bound['proxy']}"
    trust = str(lab_world.bundle(lab))
    names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO")
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    yield {
        **kept,
        **dict.fromkeys(names, trust),
        "HTTPS_PROXY": proxy,
        "https_proxy": proxy,
        "PLAIN_PORT": str(front.bound["plain"]),
    }
    loop.call_soon_threadsafe(task.cancel)
    thread.join()
    loop.close()
    for server in (*servers.values(), cloud):
        server.shutdown()
        server.server_close()


@pytest.fixture
def inside(outside: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """This process in that world."""
    # Kept from the first call of a process, with the proxies of then.
    monkeypatch.setattr(urllib.request, "_opener", None)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in outside.items():
        monkeypatch.setenv(name, value)


def run(outside: dict[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, env=outside, capture_output=True, text=True, check=False, timeout=180)


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310 - an https address
        return bytes(answer.read())


def test_the_world_has_the_defaults_of_the_product() -> None:
    """A host of the lab is given nothing that a user would have to find."""
    address = host_packages.Source(host_packages.PUBLIC).of_host(host_packages.Apt.public, "").address
    defaults = [
        address,
        str(VARIABLES["neuron_venv_pip_index"].default),
        "https://github.com",
        "https://huggingface.co",
    ]
    listed = lab_world.names()
    for default in defaults:
        assert default.removeprefix("https://") in listed
    assert IMAGE_REGISTRY in listed
    assert {world.service_of(name) for name in listed} == set(world.NAMES.values()) - {world.METADATA} | {world.CLOUD}


@pytest.mark.parametrize(
    ("name", "service"),
    [
        ("Public.ECR.aws:443", world.IMAGES),
        (f"{BUCKET}.s3.us-east-2.amazonaws.com", world.CLOUD),
        ("s3.amazonaws.com", world.CLOUD),
        ("169.254.169.254", world.METADATA),
        ("pypi.org", None),
        ("evil-huggingface.co", None),
        ("s3.amazonaws.com.example.net", None),
    ],
)
def test_a_name_has_one_service_or_none(name: str, service: str | None) -> None:
    assert world.service_of(name) == service


@pytest.mark.usefixtures("inside")
def test_a_name_that_is_not_of_this_world_is_nowhere() -> None:
    with pytest.raises(urllib.error.URLError, match="Not of this world"):
        read("https://pypi.org/")


@pytest.mark.usefixtures("inside")
def test_who_does_not_trust_the_lab_does_not_speak_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert b"aws-neuronx" in read("https://apt.repos.neuron.amazonaws.com/dists/noble/main/binary-amd64/Packages")
    assert read(f"https://apt.repos.neuron.amazonaws.com/{host_packages.PUBLIC_KEY}").startswith(b"-----BEGIN PGP")
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        read("https://apt.repos.neuron.amazonaws.com/")


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="no apt here")
def test_apt_takes_the_repository_by_the_key_that_it_has(outside: dict[str, str], lab: Paths, tmp_path: Path) -> None:
    for name in ("lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d", "etc/trusted.gpg.d"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "status").touch()
    address = host_packages.Apt.public
    key = tmp_path / "key.asc"
    run(outside, "curl", "--silent", "--fail", "--output", str(key), f"{address}/{host_packages.PUBLIC_KEY}")
    sources = tmp_path / "sources.list"
    sources.write_text(f"deb [arch=amd64 signed-by={key}] {address} noble main\n")
    options = {
        "Dir::State::lists": tmp_path / "lists",
        "Dir::State::status": tmp_path / "status",
        "Dir::Cache": tmp_path / "cache",
        "Dir::Etc": tmp_path / "etc",
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Acquire::https::Proxy": outside["HTTPS_PROXY"],
        "Acquire::https::CaInfo": lab_world.bundle(lab),
        "APT::Sandbox::User": "",
        "APT::Architecture": "amd64",
    }
    given = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    updated = run(outside, "apt-get", *given, "update", "--error-on=any")
    assert updated.returncode == 0, updated.stdout + updated.stderr
    assert "Candidate: 2.23.9.0" in run(outside, "apt-cache", *given, "policy", "aws-neuronx-tools").stdout


@pytest.mark.usefixtures("inside")
def test_the_registry_gives_a_token_and_tells_the_digest(served: Path) -> None:
    wanted = next(path.name for path in (served / "images/neuron/vllm/manifests").glob("sha256:*"))
    assert registry.digest_of(f"{IMAGE_REGISTRY}/neuron/vllm:{TAG}") == wanted
    with pytest.raises(urllib.error.HTTPError, match="401"):
        read(f"https://{IMAGE_REGISTRY}/v2/neuron/vllm/manifests/{TAG}")
    with pytest.raises(registry.RegistryError, match="answers 404"):
        registry.digest_of(f"{IMAGE_REGISTRY}/neuron/vllm:none")


def test_pip_finds_neurons_packages_and_their_command(outside: dict[str, str], tmp_path: Path) -> None:
    index = ("--index-url", "https://pip.repos.neuron.amazonaws.com")
    wanted = f"neuronx-distributed-inference=={LLAMA.nxdi}.*"
    done = run(outside, sys.executable, "-m", "pip", "install", "--target", str(tmp_path), "--no-deps", *index, wanted)
    assert done.returncode == 0, done.stderr
    script = (tmp_path / "bin" / "inference_demo").read_text()
    assert f"main('inference_demo', root=\"/\", release='{LLAMA.release}')" in script


def test_git_gets_the_commit_that_stands_for_the_pinned_one(
    outside: dict[str, str], served: Path, tmp_path: Path
) -> None:
    commits = json.loads((served / "sources/commits.json").read_text())
    address = f"https://github.com/{LLAMA.source_repo}"
    run(outside, "git", "init", "--quiet", str(tmp_path))
    fetch = ("git", "-C", str(tmp_path), "fetch", "--quiet", "--depth", "1", address)
    done = run(outside, *fetch, commits[LLAMA.source_commit])
    assert done.returncode == 0, done.stderr
    shown = run(outside, "git", "-C", str(tmp_path), "show", f"FETCH_HEAD:{LLAMA.source_requirements}").stdout
    assert shown == "neuronx-cc\nneuronx-distributed-inference\n"
    assert run(outside, *fetch, str(LLAMA.source_commit)).returncode != 0, "a content has one name"
    missing = run({**outside, "GIT_TERMINAL_PROMPT": "0"}, "git", "ls-remote", "https://github.com/nobody/nothing")
    assert missing.returncode != 0


def test_the_same_sources_have_the_same_commits(served: Path, tmp_path: Path) -> None:
    source = {
        "repo": LLAMA.source_repo,
        "ref": LLAMA.source_ref,
        "commit": LLAMA.source_commit,
        "requirements": LLAMA.source_requirements,
        "release": LLAMA.release,
        "vllm": "0.8.5",
    }
    vllm_sources.make(tmp_path, [source], {})
    assert (tmp_path / "commits.json").read_text() == (served / "sources/commits.json").read_text()


def test_the_hub_has_the_recipes_models_by_their_revisions(outside: dict[str, str], tmp_path: Path) -> None:
    program = str(Path(sys.executable).parent / "hf")
    for name, revision, access, kind in fleet.STAND_INS:
        target = tmp_path / kind
        words = (program, "download", name, "--revision", revision, "--local-dir", str(target))
        home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        if access == "gated":
            assert "GatedRepo" in run({**outside, **home}, *words).stderr or not (target / "config.json").exists()
        done = run({**outside, **home, "HF_TOKEN": "hf_lab"}, *words)
        assert done.returncode == 0, done.stderr[-2000:]
        assert json.loads((target / "config.json").read_text())["model_type"] == kind
        assert (target / "model.safetensors").stat().st_size > 1 << 20


@pytest.mark.usefixtures("inside")
def test_aws_answers_under_its_own_names() -> None:
    keys = {"aws_access_key_id": "lab", "aws_secret_access_key": "lab", "region_name": "us-east-1"}
    s3 = boto3.client("s3", **keys)
    s3.create_bucket(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key="a/b", Body=b"x" * 100_000)
    assert s3.get_object(Bucket=BUCKET, Key="a/b")["Body"].read() == b"x" * 100_000
    assert boto3.client("ec2", **keys).describe_instances()["Reservations"] == []


def test_an_instance_is_told_what_it_is_only_with_a_token(outside: dict[str, str]) -> None:
    host = {"id": "i-1", "name": "lab-1", "address": "127.0.0.1", "instance_type": "trn2.48xlarge", "state": "running"}
    ec2.apply([host])

    def ask(method: str, path: str, headers: str = "") -> str:
        with socket.create_connection(("127.0.0.1", int(outside["PLAIN_PORT"])), timeout=30) as connection:
            connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: 169.254.169.254\r\n{headers}\r\n".encode())
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()

    assert " 401 " in ask("GET", "/latest/meta-data/instance-type")
    given = ask("PUT", "/latest/api/token", "X-aws-ec2-metadata-token-ttl-seconds: 60\r\n").split("\r\n\r\n")[1]
    token = f"X-aws-ec2-metadata-token: {given}\r\n"
    assert ask("GET", "/latest/meta-data/instance-type", token).endswith("\r\n\r\ntrn2.48xlarge")
    assert ask("GET", "/latest/meta-data/iam/security-credentials/", token).endswith(metadata.ROLE)
    assert " 404 " in ask("GET", "/latest/meta-data/nothing", token)


def test_a_certificate_is_made_once_and_again_when_the_world_grows(lab: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    before = lab_world.server(lab).read_bytes()
    lab_world.ensure(lab, Path("/nowhere"))
    assert lab_world.server(lab).read_bytes() == before
    assert lab_world.server(lab).stat().st_mode & 0o077 == 0
    context = ssl.create_default_context(cafile=str(lab_world.ca(lab)))
    assert context.cert_store_stats()["x509_ca"] == 1
    names = lab_world.names()
    other = Paths(lab.folder / "other")
    monkeypatch.setattr(lab_world, "names", lambda: names[:1])
    lab_world.ensure(other, Path("/nowhere"))
    few = lab_world.server(other).read_bytes()
    monkeypatch.setattr(lab_world, "names", lambda: names)
    lab_world.ensure(other, Path("/nowhere"))
    assert lab_world.server(other).read_bytes() != few


def test_what_a_program_here_needs_to_see_that_world(lab: Paths) -> None:
    made = Lab(name="x", id="0-x", subnet="10.200.7.0/24", hosts={"lab-1": "10.200.7.11"})
    found = lab_world.environment(made, lab)
    assert found["HTTPS_PROXY"] == f"http://10.200.7.2:{lab_world.PROXY_PORT}"
    assert "10.200.7.11" in found["NO_PROXY"]
    assert found["SSL_CERT_FILE"] == str(lab_world.bundle(lab))


def test_every_source_that_a_release_is_built_from_has_a_stand_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TRAINYARD_LLMPERF_SOURCE", raising=False)
    commits = json.loads((fleet.ensure_sources() / "commits.json").read_text())
    built = {row.source_commit for row in sdk_table() if row.source_commit and not row.venv_has_vllm}
    assert set(commits) == built
    assert (fleet.ensure_wheels() / "neuronx-cc").is_dir()
