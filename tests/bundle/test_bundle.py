# SPDX-License-Identifier: Apache-2.0
"""What a fleet needs from outside, carried in a directory: fetched from the lab's hub, checked, signed, installed."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.testing import CliRunner, Result

from lab.services import hub
from tests.playbooks.test_preflight import DEPLOYMENT
from trainyard.bundle import contents, fetch
from trainyard.bundle.contents import BundleError
from trainyard.bundle.wanted import Checkpoint, wanted_of
from trainyard.cli import app
from trainyard.plan_command import _opened

REVISION = "a" * 40
FILES = {"config.json": b"{}", "model.safetensors": os.urandom(3 << 20), "original/weights.pth": b"left out"}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("hub")
    model = root / "acme/tiny-llama"
    for name, content in FILES.items():
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(content)
    (model / ".revision").write_text(REVISION)
    server = hub.serve(root, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    model = {"repo": "acme/tiny-llama", "revision": REVISION}
    host = {
        "ansible_host": "10.0.0.1",
        "trainyard_instance_type": "trn2.48xlarge",
        "trainyard_deployment_tiny": {**DEPLOYMENT, "model": model},
    }
    rows: dict[str, Any] = {"neuron": {"hosts": {"h1": host}}, "router": {"hosts": {"h1": {}}}}
    path = tmp_path / "hosts.yml"
    path.write_text(yaml.safe_dump({"all": {"children": rows}}))
    _opened.cache_clear()
    return path


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key of SSH, and beside it the file that says whose it is."""
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    signer = f'ops@example namespaces="trainyard-bundle" {path.with_suffix(".pub").read_text()}'
    (tmp_path / "signers").write_text(signer)
    return path


def call(*words: object) -> Result:
    return CliRunner().invoke(app, ["bundle", *map(str, words)])


def made(folder: Path, inventory: Path, endpoint: str, *more: object) -> Result:
    done = call("create", folder, "-i", inventory, "--hub", endpoint, "--skip", "wheels", "--skip", "images", *more)
    assert done.exit_code == 0, done.output
    return done


def test_what_is_carried_is_signed_verified_and_becomes_the_fleets_checkpoint(
    tmp_path: Path, inventory: Path, endpoint: str, key: Path
) -> None:
    folder, way = tmp_path / "bundle", f"weights/acme/tiny-llama/{REVISION}"
    (tmp_path / "driver.deb").write_bytes(b"deb")
    made(folder, inventory, endpoint, "--key", key, "--add", tmp_path / "driver.deb")
    document = json.loads((folder / "bundle.json").read_text())
    assert [row["path"] for row in document["files"]] == [
        "files/driver.deb",
        f"{way}/config.json",
        f"{way}/model.safetensors",
    ]
    assert document["deployments"] == {"tiny": way}
    signed = ["--signers", tmp_path / "signers", "--identity", "ops@example"]
    done = call("verify", folder, *signed)
    assert done.exit_code == 0, done.output
    assert "signed by ops@example" in done.output
    done = call("install", folder, "--to", tmp_path / "mnt", *signed)
    assert done.exit_code == 0, done.output
    assert "3 files came" in done.output
    assert (tmp_path / "mnt" / way / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    variables = yaml.safe_load((tmp_path / "mnt/variables.yml").read_text())
    model = variables["trainyard_overrides"]["tiny"]["model"]
    assert (model["source"], model["uri"]) == ("path", str(tmp_path / "mnt" / way))
    text = yaml.safe_load(inventory.read_text())
    text["all"]["vars"] = variables
    inventory.write_text(yaml.safe_dump(text))
    _opened.cache_clear()
    plan = json.loads(CliRunner().invoke(app, ["plan", "-i", str(inventory), "--json"]).stdout)
    (weights,) = plan["hosts"]["h1"]["weights"]
    assert (weights["source"], weights["uri"], weights["revision"]) == ("path", model["uri"], model["revision"])
    assert wanted_of(plan).elsewhere == (f"acme/tiny-llama: path {model['uri']}",)
    assert "0 files came" in call("install", folder, "--to", tmp_path / "mnt", *signed).output


@pytest.mark.parametrize("harm", ["other", "longer", "gone", "more", "manifest", "link", "half"])
def test_a_bundle_that_was_tampered_with_is_neither_verified_nor_installed(
    tmp_path: Path, inventory: Path, endpoint: str, key: Path, harm: str
) -> None:
    folder = tmp_path / "bundle"
    made(folder, inventory, endpoint, "--key", key)
    file = next(folder.rglob("config.json"))
    if harm == "other":
        file.write_bytes(b"[]")
    elif harm == "longer":
        file.write_bytes(b"{ }")
    elif harm == "gone":
        file.unlink()
    elif harm == "more":
        file.with_name("modeling.py").write_text("import os")
    elif harm == "manifest":
        file.write_bytes(b"[]")
        document = json.loads((folder / "bundle.json").read_text())
        document["files"] = contents.described(folder)
        (folder / "bundle.json").write_text(json.dumps(document))
    elif harm == "link":
        file.unlink()
        file.symlink_to("/etc/passwd")
    else:
        file.rename(file.with_name("config.json.part"))
    signed = ["--signers", tmp_path / "signers", "--identity", "ops@example"]
    said = {
        "other": "config.json: holds something else",
        "longer": "config.json: has 3 bytes",
        "gone": "config.json: is missing",
        "more": "modeling.py: is in no manifest",
        "manifest": "not signed by ops@example",
        "link": "symbolic link",
        "half": "is not whole",
    }[harm]
    for words in (["verify", folder], ["install", folder, "--to", tmp_path / "mnt"]):
        done = call(*words, *signed)
        assert done.exit_code == 1
        assert said in " ".join(done.output.split())
    assert not (tmp_path / "mnt").exists()


def test_nobody_elses_signature_counts_nor_one_that_was_made_for_something_else(
    tmp_path: Path, inventory: Path, endpoint: str, key: Path
) -> None:
    folder = tmp_path / "bundle"
    made(folder, inventory, endpoint)
    signed = ["--signers", tmp_path / "signers", "--identity", "ops@example"]
    assert "is not signed" in " ".join(call("verify", folder, *signed).output.split())
    subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-n", "file", "-f", str(key), str(folder / "bundle.json")], check=True
    )
    assert call("verify", folder, *signed).exit_code == 1
    contents.sign(folder, key)
    assert call("verify", folder, *signed).exit_code == 0
    assert call("verify", folder, "--signers", tmp_path / "signers", "--identity", "eve@example").exit_code == 1
    assert call("install", folder, "--to", tmp_path / "mnt").exit_code == 2
    assert call("install", folder, "--to", tmp_path / "mnt", "--unsigned").exit_code == 0


@pytest.mark.parametrize("name", ["../outside", "/etc/cron.d/x", ""])
def test_a_manifest_names_files_of_its_bundle_alone(tmp_path: Path, name: str) -> None:
    row = {"path": name, "size": 1, "sha256": "0" * 64}
    about: dict[str, Any] = {"version": 1, "models": {}, "deployments": {}, "images": []}
    (tmp_path / "bundle.json").write_text(json.dumps({**about, "files": [row]}))
    with pytest.raises(BundleError, match="outside of the bundle"):
        contents.read(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"version": 1}', '{"version": 2, "files": []}', '{"version": 1, "files": [1]}']
)
def test_what_is_no_manifest_is_refused_in_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "bundle.json").write_text(text)
    done = call("verify", tmp_path)
    assert done.exit_code == 1
    assert "manifest" in done.output


def test_a_file_that_is_half_there_is_gone_on_with_and_a_whole_one_is_not_fetched_again(
    tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, str]] = []
    append = fetch._append

    def counted(client: Any, url: str, part: Path, size: int) -> None:
        sent.append((part.name, str(part.stat().st_size if part.exists() else 0)))
        append(client, url, part, size)

    monkeypatch.setattr(fetch, "_append", counted)
    half = tmp_path / "model.safetensors.part"
    half.write_bytes(FILES["model.safetensors"][: 1 << 20])
    checkpoint = Checkpoint("acme/tiny-llama", REVISION)
    fetch.Hub(endpoint).fetch(checkpoint, tmp_path, ["original/*"])
    assert sent == [("config.json.part", "0"), ("model.safetensors.part", str(1 << 20))]
    assert (tmp_path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    fetch.Hub(endpoint).fetch(checkpoint, tmp_path, ["original/*"])
    assert len(sent) == 2


def test_a_half_of_something_else_is_thrown_away_and_told(tmp_path: Path, endpoint: str) -> None:
    half = tmp_path / "model.safetensors.part"
    half.write_bytes(b"x" * (1 << 20))
    checkpoint = Checkpoint("acme/tiny-llama", REVISION)
    with pytest.raises(BundleError, match="is not what the hub says it is"):
        fetch.Hub(endpoint).fetch(checkpoint, tmp_path, [])
    assert not half.exists()
    fetch.Hub(endpoint).fetch(checkpoint, tmp_path, [])
    with pytest.raises(BundleError, match="acme/other"):
        fetch.Hub(endpoint).fetch(Checkpoint("acme/other", REVISION), tmp_path, [])


def test_a_hubs_answer_sends_the_token_nowhere_and_fills_no_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    row = {"type": "file", "path": "config.json", "size": 10, "oid": "0" * 40}

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        if "/resolve/" in request.url.path:
            return httpx.Response(200, content=(b"x" * (1 << 20) for _ in range(1 << 20)))
        if request.url.host != "hub.example":
            return httpx.Response(200, json=[])
        to = "https://elsewhere.example/more" if "acme/led" in request.url.path else "/api/more?cursor=2"
        return httpx.Response(200, json=[row], headers={"Link": f'<{to}>; rel="next"'})

    client = httpx.Client
    monkeypatch.setattr(httpx, "Client", lambda **words: client(transport=httpx.MockTransport(answer), **words))
    hub = fetch.Hub("https://hub.example", "hf_token")
    with pytest.raises(BundleError, match=r"goes on elsewhere: 'https://elsewhere\.example/more'"):
        hub.fetch(Checkpoint("acme/led", REVISION), tmp_path / "led", ["config.json"])
    assert all(url.startswith("https://hub.example/") for url in asked)
    with pytest.raises(BundleError, match="is not what the hub says it is"):
        hub.fetch(Checkpoint("acme/endless", REVISION), tmp_path / "endless", [])


def wheel(folder: Path) -> str:
    """Write a wheel of nothing; returns its line of a lock."""
    path = folder / "nothing_here-1.0-py3-none-any.whl"
    about = "nothing_here-1.0.dist-info"
    rows = {
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: nothing-here\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        record = []
        for name, text in rows.items():
            archive.writestr(name, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            record.append(f"{name},sha256={digest},{len(text)}")
        archive.writestr(f"{about}/RECORD", "\n".join([*record, f"{about}/RECORD,,"]) + "\n")
    return f"nothing-here==1.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


def test_wheels_come_by_their_hashes_and_for_the_hosts_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "index").mkdir()
    line = wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    lock = tmp_path / "lock.txt"
    lock.write_text(line)
    fetch.wheels(lock, tmp_path / "wheels", "3.10", ["manylinux2014_x86_64"])
    assert [path.name for path in (tmp_path / "wheels").iterdir()] == ["nothing_here-1.0-py3-none-any.whl"]
    lock.write_text(line[:-3] + "00\n")
    with pytest.raises(BundleError, match=r"wheels of lock\.txt"):
        fetch.wheels(lock, tmp_path / "others", "3.10")


def test_a_fleet_takes_from_the_registry_of_the_site_the_very_images_of_the_bundle(
    tmp_path: Path, inventory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By their digests, without a word of the registry's: what it has under a tag is somebody else's to say."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/skopeo"
    program.write_text(SKOPEO.format(log=tmp_path / "log"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    name, digest = "neuron/pytorch-inference-vllm-neuronx", f"sha256:{'b' * 64}"
    tagged = f"{name}:0.11.0-neuronx-py312-sdk2.27.0-ubuntu24.04"
    text = yaml.safe_load(inventory.read_text())
    container = {"sdk_release": "2.27.0", "generation": "nxdi_v1", "runtime": "container", "block_size": 32}
    of_host = text["all"]["children"]["neuron"]["hosts"]["h1"]
    of_host["trainyard_deployment_tiny"] |= container
    text["all"]["vars"] = {"trainyard_images": {tagged: f"public.ecr.aws/{name}@{digest}"}}
    inventory.write_text(yaml.safe_dump(text))
    folder = tmp_path / "bundle"
    assert call("create", folder, "-i", inventory, "--skip", "wheels", "--skip", "weights").exit_code == 0
    done = call("install", folder, "--to", tmp_path / "mnt", "--registry", "registry.example/mirror", "--unsigned")
    assert done.exit_code == 0, done.output
    text["all"]["vars"] = yaml.safe_load((tmp_path / "mnt/variables.yml").read_text())
    inventory.write_text(yaml.safe_dump(text))
    plan = json.loads(CliRunner().invoke(app, ["plan", "-i", str(inventory), "--json"]).stdout)
    (row,) = plan["hosts"]["h1"]["sdk"]
    assert row["image"] == f"registry.example/mirror/{name}@{digest}"


@pytest.mark.parametrize("named", [{"a/b:1": "public.ecr.aws/a/b@sha256:" + "c" * 64}, ["a/b:1"]])
def test_a_manifest_names_images_that_it_has(tmp_path: Path, named: Any) -> None:
    about: dict[str, Any] = {"version": 1, "models": {}, "deployments": {}, "images": [], "files": []}
    (tmp_path / "bundle.json").write_text(json.dumps({**about, "image_names": named}))
    with pytest.raises(BundleError, match="is no manifest"):
        contents.read(tmp_path)


SKOPEO = """#!/bin/sh
echo "$@" >> {log}
case "$5" in dir:*) mkdir -p "${{5#dir:}}" && echo layer > "${{5#dir:}}/manifest.json";; esac
"""


def test_an_image_is_copied_by_its_digest_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/skopeo"
    reference = f"public.ecr.aws/neuron/vllm@sha256:{'b' * 64}"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(BundleError, match="skopeo is not installed"):
        fetch.image(reference, tmp_path / "images")
    program.write_text(SKOPEO.format(log=tmp_path / "log"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    for _ in range(2):
        fetch.image(reference, tmp_path / "images")
    (said,) = (tmp_path / "log").read_text().splitlines()
    assert said.startswith(f"copy --all --preserve-digests docker://{reference} dir:")
    assert (tmp_path / "images/neuron/vllm" / ("b" * 64) / "manifest.json").read_text() == "layer\n"
    program.write_text("#!/bin/sh\necho no such image >&2\nexit 1\n")
    with pytest.raises(BundleError, match="no such image"):
        fetch.image(reference.replace("b", "c"), tmp_path / "images")
