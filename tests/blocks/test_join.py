# SPDX-License-Identifier: Apache-2.0
"""Joining a fleet with no controller: what is signed is run, what is not is refused, and one host at a time does it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import socket
import subprocess
import sys
import tarfile
import threading
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore.auth
import pytest
import typer
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.trainyard.neuron.plugins.filter.join_script import MOST_BYTES, join_script, without_prose
from ansible_collections.trainyard.neuron.plugins.module_utils.capacity import join
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from lab.services import aws
from trainyard import join_release_command as release
from trainyard.paths import ROOT

KEYS = {"AccessKeyId": "AKID", "SecretAccessKey": "secret", "Token": "token"}
STORE = "s3://fleet/join"


def key(folder: Path, name: str) -> Path:
    path = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)], check=True)
    return path


@pytest.fixture
def signed(tmp_path: Path) -> tuple[bytes, bytes, str]:
    """A release, its signature, and who signed it."""
    data = release.pack({"site.yml": b"---\n", "bin/run": b"#!/bin/sh\n"})
    signature, signer = release.sign(data, key(tmp_path, "own"))
    return data, signature, signer


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_release_is_verified_and_unpacked_whole(signed: tuple[bytes, bytes, str], tmp_path: Path) -> None:
    data, signature, signer = signed
    join.verify(data, signature, digest(data), signer, tmp_path)
    join.unpack(data, tmp_path / "there")
    assert (tmp_path / "there/site.yml").read_text() == "---\n"
    assert (tmp_path / "there/bin/run").stat().st_mode & 0o111
    assert not (tmp_path / ".there.part").exists()
    assert release.pack({"bin/run": b"#!/bin/sh\n", "site.yml": b"---\n"}) == data


def test_what_is_not_signed_by_the_key_that_was_asked_for_is_refused(
    signed: tuple[bytes, bytes, str], tmp_path: Path
) -> None:
    data, signature, signer = signed
    theirs, stranger = release.sign(data, key(tmp_path, "stranger"))
    changed = data + b"\0"
    for given, theirs_or_own, wanted, by, said in (
        (changed, signature, digest(data), signer, "the release has the digest"),
        (changed, signature, digest(changed), signer, "not signed by the key"),
        (data, theirs, digest(data), signer, "not signed by the key"),
        (data, signature, digest(data), stranger, "not signed by the key"),
        (data, b"", digest(data), signer, "not signed by the key"),
        (data, b"no signature", digest(data), signer, "not signed by the key"),
    ):
        with pytest.raises(join.JoinError, match=said):
            join.verify(given, theirs_or_own, wanted, by, tmp_path)


class Here(join.Metadata):
    """An instance's metadata without an instance."""

    def __init__(self, name: str = "i-1") -> None:
        self.name = name

    def get(self, path: str) -> str:
        return {"meta-data/placement/region": "us-east-1", "meta-data/instance-id": self.name}[path]

    def keys(self) -> dict[str, str]:
        return KEYS


def test_a_release_that_is_refused_is_neither_unpacked_nor_run(
    signed: tuple[bytes, bytes, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, signature, _ = signed
    stranger = " ".join(key(tmp_path, "asked").with_suffix(".pub").read_text().split()[:2])
    monkeypatch.setattr(join, "fetch", lambda _bucket, uri: signature if uri.endswith(".sig") else data)
    monkeypatch.setattr(join, "run", lambda *_given: pytest.fail("something was run"))
    settings = {"release": f"{STORE}/x", "sha256": digest(data), "signer": stranger, "lease": f"{STORE}/lease"}
    with pytest.raises(join.JoinError, match="not signed"):
        join.join(
            {**settings, "playbook": ["site.yml"]}, Here(), join.Bucket(Here(), "http://nowhere"), tmp_path / "to"
        )
    assert list((tmp_path / "to").iterdir()) == []


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "link"])
def test_a_release_holds_nothing_but_files_inside_of_it(name: str, tmp_path: Path) -> None:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        row = tarfile.TarInfo(name)
        if name == "link":
            row.type, row.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(row, io.BytesIO())
    with pytest.raises(join.JoinError, match="no file inside of it"):
        join.unpack(gzip.compress(tar.getvalue()), tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_requests_are_signed_as_botocore_signs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    url, now = "https://fleet.s3.us-east-1.amazonaws.com/join/a%20b.tar.gz", datetime(2026, 12, 1, 9, 30, tzinfo=UTC)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda **_more: now)
    wanted = AWSRequest("PUT", url, {"if-match": '"tag"'}, data=b"{}")
    wanted.context["payload_signing_enabled"] = True
    auth = botocore.auth.S3SigV4Auth(Credentials("AKID", "secret", "token"), "s3", "us-east-1")
    auth.add_auth(wanted)
    found = join.signed("PUT", url, "us-east-1", KEYS, b"{}", {"If-Match": '"tag"'}, now)
    assert found["authorization"] == wanted.headers["Authorization"]


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = aws.serve("127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.port}"
    urllib.request.urlopen(urllib.request.Request(f"{url}/fleet", method="PUT")).close()  # noqa: S310 - this process
    yield url
    server.shutdown()
    server.server_close()
    thread.join()


def lease(endpoint: str, owner: str) -> join.Lease:
    return join.Lease(join.Bucket(Here(owner), endpoint), f"{STORE}/{owner[:0]}lease", owner)


def test_one_host_at_a_time_has_the_lease(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = lease(endpoint, "i-1"), lease(endpoint, "i-2")
    assert one.take() and not other.take()
    assert lease(endpoint, "i-1").take(), "whoever has it goes on with it after a restart"
    one.take()
    one.give_back()
    assert other.take() and not one.take()
    # A host that died has it no longer than its time; one that only slept finds that it is another's.
    monkeypatch.setattr(join, "LEASE_S", -1.0)
    assert one.take()
    monkeypatch.setattr(join, "LEASE_S", 0.01)
    other.keep(threading.Event())
    assert other.lost.is_set()


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{}", b'{"owner"', b"[" * 100_000])
def test_a_lease_that_is_none_is_refused_with_what_to_do(text: bytes, endpoint: str) -> None:
    asked = join.Lease(join.Bucket(Here("i-1"), endpoint), f"{STORE}/strange", "i-1")
    assert asked.bucket.ask("PUT", asked.uri, text)[0] == 200
    with pytest.raises(join.JoinError, match=r"is no lease .* remove it"):
        asked.take()


@pytest.mark.parametrize("cut", [0, 1, 20, 60])
def test_a_release_that_was_cut_is_refused_and_nothing_of_it_is_there(cut: int, tmp_path: Path) -> None:
    data = release.pack({"site.yml": b"---\n", "bin/run": bytes(range(256)) * 64})
    with pytest.raises(join.JoinError, match="no archive that can be read"):
        join.unpack(data[:cut], tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_an_answer_that_is_no_http_is_told_as_such() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"220 a mail server\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(join.JoinError, match="220 a mail server"):
            join.ask(f"http://127.0.0.1:{server.getsockname()[1]}/release")
        thread.join()


@pytest.mark.parametrize(
    ("role", "keys", "said"),
    [("", "", "has no role"), ("fleet", "[]", "has no credentials"), ("fleet", '{"Code": "Failed"}', "no credentials")],
)
def test_an_instance_without_a_role_says_so(role: str, keys: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = join.Metadata()
    monkeypatch.setattr(there, "get", lambda path: keys if path.endswith("/fleet") else role)
    with pytest.raises(join.JoinError, match=said):
        there.keys()


def test_a_run_ends_when_its_lease_is_another_hosts(endpoint: str, tmp_path: Path) -> None:
    held = lease(endpoint, "i-1")
    held.lost.set()
    with pytest.raises(join.JoinError, match="another host has the lease"):
        join.run([sys.executable, "-c", "import time; time.sleep(60)"], held, tmp_path, {})
    held = lease(endpoint, "i-1")
    assert held.take()
    with pytest.raises(join.JoinError, match="ended with 3"):
        join.run([sys.executable, "-c", "raise SystemExit(3)"], held, tmp_path, {})


def test_a_run_ends_before_another_host_may_take_the_lease_of_one_that_the_store_does_not_hear(
    endpoint: str, tmp_path: Path
) -> None:
    passed_s = 0.0
    bucket = join.Bucket(Here("i-1"), endpoint)
    held = join.Lease(bucket, f"{STORE}/silent", "i-1", clock=lambda: passed_s)
    assert held.take() and held.is_held()
    bucket.endpoint = "http://127.0.0.1:9"
    passed_s = join.LEASE_S - 1
    other = join.Lease(join.Bucket(Here("i-2"), endpoint), f"{STORE}/silent", "i-2")
    assert not other.take() and not held.is_held()
    with pytest.raises(join.JoinError, match="or may have it"):
        join.run([sys.executable, "-c", "import time; time.sleep(60)"], held, tmp_path, {})


GIVEN = {
    "release": f"{STORE}/{'0' * 64}.tar.gz",
    "sha256": "0" * 64,
    "signer": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8f",
    "lease": f"{STORE}/joining",
    "playbook": ["site.yml", "-i", "inventory"],
}


def test_the_user_data_is_a_script_that_ec2_takes(tmp_path: Path) -> None:
    script = join_script(GIVEN)
    assert len(script.encode()) <= MOST_BYTES - 3000, "names of buckets and playbooks need room too"
    here = str(tmp_path / "to")
    (tmp_path / "script").write_text(script.replace("/opt/trainyard-join", here).replace("exec ", ": "))
    subprocess.run(["sh", str(tmp_path / "script")], check=True)
    assert json.loads((tmp_path / "to/settings.json").read_text()) == GIVEN
    program = tmp_path / "to/join.py"
    assert program.read_text() == without_prose(Path(join.__file__).read_text()).replace(join.ROOT, here)
    assert '"""' not in program.read_text()
    asked = [sys.executable, "-c", "import join; print(join.Lease.__name__, join.MOST_BYTES)"]
    told = subprocess.run(asked, cwd=program.parent, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["Lease", str(join.MOST_BYTES)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sha256": "abc"}, "sha256 is 'abc', and has to be 64 hexadecimal digits"),
        ({"release": "http://host/x"}, "release is 'http://host/x'"),
        ({"signer": "ssh-rsa AAAA"}, "signer is 'ssh-rsa AAAA', and has to be an ED25519 public key"),
        ({"lease": "s3://b/k\nSETTINGS_OF_THE_LAUNCH"}, "lease is"),
        ({"playbook": "site.yml"}, "playbook is 'site.yml', and has to be a list of words"),
        ({"relase": "x"}, "relase is no setting"),
    ],
)
def test_settings_that_nobody_could_join_by_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(AnsibleFilterError, match=said):
        join_script({**GIVEN, **change})


def test_a_host_installs_what_a_playbook_needs_by_the_lock_and_no_more() -> None:
    lock = (ROOT / "requirements.txt").read_text()
    found = release.locked_for(lock, release.ROOTS)
    names = {line.split("==")[0] for line in found.splitlines() if "==" in line and not line.startswith(" ")}
    assert {"ansible", "ansible-core", "boto3", "botocore", "jinja2", "markupsafe", "pydantic-core"} <= names
    assert not {"molecule", "moto", "pytest", "ruff"} & names
    assert found.count("--hash=sha256:") >= len(names)


def test_a_release_has_what_a_run_needs_and_no_test(tmp_path: Path) -> None:
    (tmp_path / "inventory").mkdir()
    (tmp_path / "inventory/hosts.yml").write_text("all: {}\n")
    files = release.files_of(ROOT, tmp_path / "inventory")
    assert {"site.yml", "ansible.cfg", "playbooks/preflight.yml", "inventory/hosts.yml", release.NEEDED} <= set(files)
    assert "collections/ansible_collections/trainyard/neuron/plugins/action/fleet_plan.py" in files
    assert not [name for name in files if "/tests/" in name or name.endswith(".pyc")]
    with pytest.raises(release.ReleaseError, match="is no directory"):
        release.files_of(ROOT, tmp_path / "nothing")


def test_the_command_makes_a_release_that_hosts_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "inventory").mkdir()
    (tmp_path / "inventory/hosts.yml").write_text("all: {}\n")
    archive = tmp_path / "made.tar.gz"
    release.join_release(tmp_path / "inventory", key(tmp_path, "own"), f"{STORE}/", archive)
    found = yaml.safe_load(capsys.readouterr().out)["trainium_launch_join"]
    assert found["release"] == f"{STORE}/{found['sha256']}.tar.gz"
    signature = archive.with_name("made.tar.gz.sig").read_bytes()
    join.verify(archive.read_bytes(), signature, found["sha256"], found["signer"], tmp_path)
    assert "site.yml" in join_script(found)
    with pytest.raises(typer.Exit):
        release.join_release(tmp_path / "inventory", tmp_path / "no-key", STORE, archive)
