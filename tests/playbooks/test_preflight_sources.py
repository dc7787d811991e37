# SPDX-License-Identifier: Apache-2.0
"""What a host asks of repositories, hub, registry and store, over HTTP; signatures are compared with botocore's."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import boto3
import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.preflight import signing, sources
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.server import ThreadedMotoServer

PACKAGES = """Package: aws-neuronx-dkms
Version: 2.25.4.0
Architecture: amd64

Package: aws-neuronx-tools
Version: 2.27.0.0-abc
"""
TOKEN = "hf_reads-all"
YUM = {
    "/yum/repodata/repomd.xml": b'<data type="primary"><location href="repodata/primary.xml.gz"/></data>',
    "/yum/repodata/primary.xml.gz": gzip.compress(
        b'<name>aws-neuronx-dkms</name><arch>x</arch><version epoch="0" ver="2.25.4.0" rel="1"/>'
    ),
}


class Site(BaseHTTPRequestHandler):
    """A hub, a package repository and a registry in one; what was asked is kept."""

    asked: ClassVar[list[tuple[str, str, str]]] = []

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        """Answer as the real ones do."""
        token = self.headers.get("Authorization", "")
        Site.asked.append((self.command, self.path, token))
        if self.path.startswith("/elsewhere"):
            target = self.server.elsewhere  # type: ignore[attr-defined]
            self.answer(302, Location=f"{target}/landed")
        elif self.path.startswith("/v2/"):
            known = "sha256:" + "1" * 64
            self.answer(200 if self.path.endswith(known) else 404)
        elif self.path.startswith("/apt/"):
            self.answer(200, gzip.compress(PACKAGES.encode())) if self.path.endswith(".gz") else self.answer(404)
        elif self.path.startswith("/plain/"):
            self.answer(404) if self.path.endswith(".gz") else self.answer(200, PACKAGES.encode())
        elif self.path in YUM:
            self.answer(200, YUM[self.path])
        elif self.path.startswith("/private/"):
            self.answer(200 if token == "Basic bWU6cEBzcw==" else 401)
        elif self.path.startswith("/simple/"):
            self.answer(200, b'<a href="neuronx_cc-2.21.1.0+abc-cp310.whl">')
        elif self.path.startswith("/open/"):
            self.answer(404, X_Error_Code="RevisionNotFound") if "/bad/" in self.path else self.answer(200, b"{}")
        elif self.path.startswith("/gated/"):
            if not token:
                self.answer(401, X_Error_Code="GatedRepo")
            else:
                self.answer(200, b"{}") if token == f"Bearer {TOKEN}" else self.answer(403, X_Error_Code="GatedRepo")
        elif self.path.startswith("/hidden/"):
            self.answer(401, X_Error_Code="RepoNotFound")
        else:
            self.answer(200, b"here")

    do_HEAD = do_GET  # noqa: N815 - the name that the library calls


def serve(elsewhere: str = "") -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.elsewhere = elsewhere  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture
def site() -> Iterator[str]:
    other = serve()
    server = serve(f"http://localhost:{other.server_port}")
    Site.asked.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    for one in (server, other):
        one.shutdown()
        one.server_close()


def ask(kind: str, url: str, **more: Any) -> tuple[str, str]:
    found = sources.ask({"what": "it", "kind": kind, "url": url, **more})
    assert set(found) == {"what", "kind", "url", "problem", "detail"}
    return found["problem"], found["detail"]


@pytest.mark.parametrize("place", ["apt", "plain"])
def test_a_repository_has_the_very_versions_or_says_which_it_has_not(site: str, place: str) -> None:
    wanted = {"aws-neuronx-dkms": "2.25.4.0", "aws-neuronx-tools": "2.27.0.0"}
    assert ask("packages", f"{site}/{place}", packages=wanted) == ("", "")
    wanted |= {"aws-neuronx-dkms": "2.25.4", "aws-neuronx-collectives": "2.27"}
    problem, detail = ask("packages", f"{site}/{place}", packages=wanted)
    assert problem == "version"
    assert detail == "aws-neuronx-collectives=2.27"
    assert ask("packages", f"{site}/v2/none", packages=wanted)[0] == "missing"


def test_a_yum_repository_has_the_very_versions_or_says_which_it_has_not(site: str) -> None:
    assert ask("rpms", f"{site}/yum", packages={"aws-neuronx-dkms": "2.25.4.0"}) == ("", "")
    wanted = {"aws-neuronx-dkms": "2.26", "aws-neuronx-tools": "2.27"}
    assert ask("rpms", f"{site}/yum", packages=wanted) == ("version", "aws-neuronx-dkms=2.26, aws-neuronx-tools=2.27")
    assert ask("rpms", f"{site}/v2/none", packages=wanted)[0] == "missing"


def test_a_login_in_an_address_is_used_and_not_told(site: str) -> None:
    url = site.replace("http://", "http://me:p%40ss@") + "/private/pip/"
    found = sources.ask({"what": "it", "kind": "index", "url": url})
    assert found["problem"] == ""
    assert found["url"] == f"{site}/private/pip/"
    assert ask("index", f"{site}/private/pip/")[0] == "refused"


def test_a_program_with_authorities_of_its_own_is_not_judged_by_the_system_s(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> tuple[int, bytes, dict[str, str]]:
        raise sources.Answer("certificate", "self-signed")

    monkeypatch.setattr(sources, "fetch", unknown)
    assert ask("index", "https://x/simple/pip/", own_trust=False)[0] == "certificate"
    assert ask("index", "https://x/simple/pip/", own_trust=True) == ("", "")


def test_an_index_names_the_version(site: str) -> None:
    assert ask("page", f"{site}/simple/neuronx-cc/", texts=["neuronx_cc-2.21.1.0"]) == ("", "")
    assert ask("page", f"{site}/simple/neuronx-cc/", texts=["neuronx_cc-2.22"]) == ("version", "neuronx_cc-2.22")


@pytest.mark.parametrize(
    ("repo", "token", "wanted"),
    [
        ("open/good", "", ""),
        ("open/bad", "", "missing"),
        ("gated/x", "", "gated"),
        ("gated/x", "hf_other", "gated"),
        ("gated/x", TOKEN, ""),
        ("hidden/x", "", "refused"),
    ],
)
def test_a_hub_gives_a_checkpoint_or_says_why_not(site: str, repo: str, token: str, wanted: str) -> None:
    assert ask("checkpoint", f"{site}/{repo}/resolve/0/config.json", token=token)[0] == wanted


def test_a_token_goes_to_the_host_that_it_is_for_and_no_further(site: str) -> None:
    assert ask("checkpoint", f"{site}/elsewhere", token=TOKEN) == ("", "")
    assert [token for _method, _path, token in Site.asked] == [f"Bearer {TOKEN}", ""]


def test_a_registry_without_tls_has_an_image_or_not(site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = site.removeprefix("http://")
    conf = tmp_path / "50.conf"
    conf.write_text(f'[[registry]]\nlocation = "other"\ninsecure = true\n[[registry]]\nlocation = "{registry}"\n')
    assert not sources.speaks_http(registry, (str(tmp_path),))
    conf.write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n')
    assert sources.speaks_http(registry, (str(tmp_path),))
    assert not sources.speaks_http("other:1", (str(tmp_path), str(tmp_path / "none")))
    monkeypatch.setattr(sources, "speaks_http", lambda _registry: True)
    assert ask("image", f"{registry}/neuron/image@sha256:{'1' * 64}") == ("", "")
    assert ask("image", f"{registry}/neuron/image@sha256:{'2' * 64}") == ("missing", "HTTP 404")


def test_what_does_not_answer_is_told_apart() -> None:
    assert ask("page", "http://no-such-host.invalid/")[0] == "name"
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert ask("page", f"http://127.0.0.1:{port}/")[0] == "unreachable"
    assert ask("page", "file:///etc/passwd")[0] == "unreachable"
    # A port that nobody listens on yet is reached; one that nothing leads to is not.
    assert ask("port", f"127.0.0.1:{port}") == ("", "")
    assert ask("port", "no-such-host.invalid:8000")[0] == "unreachable"


# The store

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-2"}


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    client(url).create_bucket(Bucket="fleet", CreateBucketConfiguration={"LocationConstraint": "us-east-2"})
    yield url
    server.stop()


def client(url: str) -> Any:
    return boto3.client(
        "s3", region_name="us-east-2", endpoint_url=url, aws_access_key_id="x", aws_secret_access_key="x"
    )


def test_a_store_takes_an_upload_of_which_nothing_stays(s3: str) -> None:
    given = {"endpoint": s3, "environment": KEYS, "reads": "0/manifest.json"}
    assert ask("store", "s3://fleet/prefix", writes=True, **given) == ("", "")
    assert client(s3).list_objects_v2(Bucket="fleet")["KeyCount"] == 0
    assert "Uploads" not in client(s3).list_multipart_uploads(Bucket="fleet")
    for writes in (True, False):
        assert ask("store", "s3://none/prefix", writes=writes, **given) == ("missing", "NoSuchBucket")


def test_an_upload_is_begun_by_the_host_alone_that_will_write(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    monkeypatch.setattr(sources, "_begin_upload", lambda _bucket, name: begun.append(name))
    given = {"endpoint": s3, "environment": KEYS, "reads": "0/manifest.json"}
    for writes, count in ((False, 0), (True, 1)):
        assert ask("store", "s3://fleet/prefix", writes=writes, **given) == ("", "")
        assert len(begun) == count
    assert begun[0].startswith("prefix/.preflight-")


def test_a_checkpoint_of_a_bucket_is_there_with_something_in_it(s3: str) -> None:
    """Asked as the job lists it: a prefix of which another name begins is no place."""
    client(s3).put_object(Bucket="fleet", Key="models/llama +1/v1/config.json", Body=b"{}")
    given = {"environment": {**KEYS, "AWS_ENDPOINT_URL": s3}}
    for place in ("s3://fleet/models/llama +1/v1", "s3://fleet/models/llama +1/v1/", "s3://fleet"):
        assert ask("bucket", place, **given) == ("", ""), place
    for place in ("s3://fleet/models/llama +1/v", "s3://fleet/none"):
        assert ask("bucket", place, **given) == ("missing", "nothing below it")
    assert ask("bucket", "s3://none/models", **given) == ("missing", "NoSuchBucket")
    client(s3).delete_object(Bucket="fleet", Key="models/llama +1/v1/config.json")


def test_a_checkpoint_of_a_directory_is_there_on_the_host(tmp_path: Path) -> None:
    assert ask("bucket", str(tmp_path)) == ("", "")
    assert ask("bucket", str(tmp_path / "none")) == ("missing", "no directory here")


def test_a_store_wants_credentials(monkeypatch: pytest.MonkeyPatch, site: str) -> None:
    nowhere = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1"}
    given = {"environment": nowhere, "reads": "0/manifest.json", "writes": False}
    assert ask("store", "s3://fleet/prefix", **given)[0] == "credentials"


def test_a_directory_is_a_store_where_it_can_be_written(tmp_path: Path) -> None:
    assert ask("store", str(tmp_path), writes=True) == ("", "")
    assert ask("store", str(tmp_path / "none"), writes=False)[0] == "missing"


def test_a_store_that_refuses_to_be_read_is_told_as_a_job_would_meet_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuses(
        url: str, headers: Any = None, method: str = "GET", data: Any = None
    ) -> tuple[int, bytes, dict[str, str]]:
        asked.append((method, url))
        return 403, b"<Error><Code>AccessDenied</Code></Error>", {}

    monkeypatch.setattr(sources, "fetch", refuses)
    given = {"environment": KEYS, "reads": "0/manifest.json", "writes": True}
    assert ask("store", "s3://fleet/prefix", **given) == ("refused", "AccessDenied")
    assert [method for method, _url in asked] == ["GET"]
    assert asked[0][1].rstrip("?").endswith("/fleet/prefix/0/manifest.json")


def test_credentials_come_from_the_environment_or_from_the_instance() -> None:
    given = signing.credentials({**KEYS, "AWS_SESSION_TOKEN": "t"}, lambda *_: pytest.fail("nobody is asked"))
    assert given == signing.Keys("AKIAEXAMPLE", "secret", "t")
    role = {"AccessKeyId": "A", "SecretAccessKey": "S", "Token": "T"}
    pages = {
        "/api/token": b"session",
        "/security-credentials/": b"fleet\n",
        "/security-credentials/fleet": json.dumps(role).encode(),
        "/region": b"us-west-2",
    }

    def fetch(url: str, headers: Any = None, method: str = "GET") -> tuple[int, bytes, dict[str, str]]:
        if method != "PUT":
            assert headers == {"X-aws-ec2-metadata-token": "session"}
        return 200, next(page for end, page in pages.items() if url.endswith(end)), {}

    assert signing.credentials({}, fetch) == signing.Keys("A", "S", "T", "us-west-2")


@pytest.mark.parametrize("token", ["", "session"])
def test_a_request_is_signed_as_botocore_signs_it(token: str) -> None:
    request = AWSRequest("POST", "https://s3.us-east-2.amazonaws.com/fleet/prefix/.preflight-1?uploads=", data=b"")
    S3SigV4Auth(Credentials("A", "S", token or None), "s3", "us-east-2").add_auth(request)
    stamp = request.context["timestamp"]
    now = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    path, host = "/fleet/prefix/.preflight-1", "s3.us-east-2.amazonaws.com"
    mine = signing.signed("POST", host, path, "uploads=", "us-east-2", signing.Keys("A", "S", token), now)
    theirs = {name.lower(): value for name, value in request.headers.items()}
    assert mine["Authorization"].split("Signature=")[1] == theirs["authorization"].split("Signature=")[1]
    assert mine["x-amz-date"] == theirs["x-amz-date"]
