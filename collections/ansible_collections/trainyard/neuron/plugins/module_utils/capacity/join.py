# SPDX-License-Identifier: Apache-2.0
"""Makes this instance a host of its fleet by itself: fetches a signed, pinned release, and runs its playbook here.

It is the user data of an instance, and runs before anything is installed: the standard library, OpenSSH's ssh-keygen,
and what the instance's role may read. Nothing is unpacked that has not the digest and the signature that the launch
asked for. A lease in the store sees to it that two hosts never do this at once.
"""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import hashlib
import hmac
import http.client
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

NAMESPACE, IDENTITY = "trainyard-release", "release"
MOST_BYTES = 1 << 28
LEASE_S = 120.0
AGAIN_S = 15.0
ROOT = "/opt/trainyard-join"
TRUSTED = "/etc/ssl/certs/ca-certificates.crt"

Answer = Tuple[int, Any, bytes]


class JoinError(Exception):
    """This instance does not join; with the reason. What serves already is left alone."""


def ask(
    url: str, method: str = "GET", data: Optional[bytes] = None, headers: Optional[Mapping[str, str]] = None
) -> Answer:
    """One request; status, headers and body, also of a refusal."""
    request = urllib.request.Request(url, data, dict(headers or {}), method=method)  # noqa: S310 - fetch has looked
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            body = answer.read(MOST_BYTES + 1)
            if len(body) > MOST_BYTES:
                raise JoinError("{0} is larger than {1} bytes".format(url, MOST_BYTES))
            return answer.status, answer.headers, body
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read(1 << 16)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise JoinError("{0}: {1}".format(url, error)) from error


class Metadata:
    """What EC2 knows of this instance, version 2."""

    def __init__(self, base: str = "http://169.254.169.254") -> None:
        self.base = base

    def get(self, path: str) -> str:
        """One answer.

        Raises:
            JoinError: there is none.
        """
        head = {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
        token = ask(self.base + "/latest/api/token", "PUT", b"", head)[2].decode()
        status, _, body = ask(self.base + "/latest/" + path, headers={"X-aws-ec2-metadata-token": token})
        if status != 200:
            raise JoinError("the instance's metadata has no {0} ({1})".format(path, status))
        return body.decode()

    def keys(self) -> Dict[str, str]:
        """Credentials of the instance's role."""
        roles = self.get("meta-data/iam/security-credentials/").split()
        if not roles:
            raise JoinError("the instance has no role (IamInstanceProfile of its launch)")
        found = json.loads(self.get("meta-data/iam/security-credentials/" + roles[0]))
        if not isinstance(found, dict) or not {"AccessKeyId", "SecretAccessKey"} <= set(found):
            raise JoinError("the instance's metadata has no credentials of its role {0}".format(roles[0]))
        return found


def signed(
    method: str,
    url: str,
    region: str,
    keys: Mapping[str, str],
    data: Optional[bytes],
    headers: Mapping[str, str],
    now: datetime.datetime,
) -> Dict[str, str]:
    """The headers of a request to S3, with AWS's signature of version 4."""
    parts = urllib.parse.urlsplit(url)
    digest = hashlib.sha256(data or b"").hexdigest()
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    known = {name.lower(): value for name, value in headers.items()}
    known.update({"host": parts.netloc, "x-amz-content-sha256": digest, "x-amz-date": stamp})
    if keys.get("Token"):
        known["x-amz-security-token"] = keys["Token"]
    names = ";".join(sorted(known))
    lines = "".join("{0}:{1}\n".format(name, known[name]) for name in sorted(known))
    asked = "\n".join((method, parts.path or "/", parts.query, lines, names, digest))
    scope = "/".join((stamp[:8], region, "s3", "aws4_request"))
    text = "\n".join(("AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(asked.encode()).hexdigest()))
    key = ("AWS4" + keys["SecretAccessKey"]).encode()
    for word in scope.split("/"):
        key = hmac.new(key, word.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    said = "AWS4-HMAC-SHA256 Credential={0}/{1}, SignedHeaders={2}, Signature={3}"
    del known["host"]
    return {**known, "authorization": said.format(keys["AccessKeyId"], scope, names, signature)}


class Bucket:
    """Objects of S3, by the instance's own role.

    Args:
        metadata: of the instance.
        endpoint: in place of AWS's own.
    """

    def __init__(self, metadata: Metadata, endpoint: str = "") -> None:
        self.metadata = metadata
        self.region = metadata.get("meta-data/placement/region")
        self.endpoint = endpoint

    def ask(
        self, method: str, uri: str, data: Optional[bytes] = None, headers: Optional[Mapping[str, str]] = None
    ) -> Answer:
        """One request about an object, by its ``s3://`` address."""
        bucket, _, key = uri[len("s3://") :].partition("/")
        base = self.endpoint + "/" + bucket
        if not self.endpoint:
            base = "https://{0}.s3.{1}.amazonaws.com".format(bucket, self.region)
        url = base + "/" + urllib.parse.quote(key)
        known = {**(headers or {}), **({"Content-Type": "application/json"} if data is not None else {})}
        now = datetime.datetime.now(datetime.timezone.utc)
        return ask(url, method, data, signed(method, url, self.region, self.metadata.keys(), data, known, now))


class Lease:
    """An object of the store that says who joins now; by S3's conditions one of several has it.

    Args:
        bucket: where it is.
        uri: of it.
        owner: this instance.
        clock: seconds of this instance, whatever anybody sets its wall clock to.
    """

    def __init__(self, bucket: Bucket, uri: str, owner: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.bucket, self.uri, self.owner, self.clock = bucket, uri, owner, clock
        self.tag = ""
        self.until = clock()
        self.lost = threading.Event()

    def take(self) -> bool:
        """Whether it is this instance's now; one whose time is over may be taken.

        Raises:
            JoinError: the store refuses to say.
        """
        status, headers, body = self.bucket.ask("GET", self.uri)
        if status == 404:
            return self._write({"If-None-Match": "*"}, self.owner)
        if status != 200:
            raise JoinError("{0}: S3 answers {1} {2}".format(self.uri, status, body[:200].decode(errors="replace")))
        # By the store's clock: those of hosts may differ.
        now, written = (
            email.utils.parsedate_to_datetime(headers[name]).timestamp() for name in ("Date", "Last-Modified")
        )
        if self._owner(body) not in ("", self.owner) and now - written < LEASE_S:
            return False
        return self._write({"If-Match": headers["ETag"]}, self.owner)

    def _owner(self, body: bytes) -> Any:
        """Who has it, by its text; every host of the fleet may write that."""
        try:
            return json.loads(body)["owner"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise JoinError("{0} is no lease ({1!r}): look at it and remove it".format(self.uri, error)) from error

    def _write(self, condition: Mapping[str, str], owner: str) -> bool:
        text = json.dumps({"owner": owner, "at": time.time()}).encode()
        asked_at = self.clock()
        status, headers, _ = self.bucket.ask("PUT", self.uri, text, condition)
        if status == 200:
            # A quarter before another may take it: what runs here has to end before that.
            self.tag, self.until = headers["ETag"], asked_at + LEASE_S * 3 / 4
        return status == 200

    def keep(self, over: threading.Event) -> None:
        """Renew it until ``over``, or until it is another's."""
        while not over.wait(LEASE_S / 8):
            with contextlib.suppress(JoinError):
                if not self._write({"If-Match": self.tag}, self.owner):
                    self.lost.set()
                    return

    def is_held(self) -> bool:
        """Whether it is this instance's for sure: not where the store was silent until another may have it."""
        return not self.lost.is_set() and self.clock() <= self.until

    def give_back(self) -> None:
        """Let the next one have it at once."""
        self._write({"If-Match": self.tag}, "")


def fetch(bucket: Bucket, uri: str) -> bytes:
    """What is at an address: ``s3://`` by the instance's role, ``https://`` by anybody.

    Raises:
        JoinError: it is not to be had.
    """
    if not uri.startswith(("s3://", "https://")):
        raise JoinError("{0}: a release comes by s3:// or https://".format(uri))
    status, _, body = bucket.ask("GET", uri) if uri.startswith("s3://") else ask(uri)
    if status != 200:
        raise JoinError("{0} answers {1}".format(uri, status))
    return body


def verify(data: bytes, signature: bytes, digest: str, signer: str, folder: Path) -> None:
    """Refuse what has not the digest, or is not signed by the key, that the launch asked for.

    Raises:
        JoinError: with what was found.
    """
    found = hashlib.sha256(data).hexdigest()
    if not hmac.compare_digest(found, digest):
        raise JoinError("the release has the digest {0}, and {1} was asked for".format(found, digest))
    (folder / "signers").write_text("{0} {1}\n".format(IDENTITY, signer))
    (folder / "signature").write_bytes(signature)
    argv = ["ssh-keygen", "-Y", "verify", "-f", str(folder / "signers"), "-I", IDENTITY, "-n", NAMESPACE]
    done = subprocess.run([*argv, "-s", str(folder / "signature")], input=data, capture_output=True, check=False)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).decode(errors="replace").split())
        raise JoinError("the release is not signed by the key that was asked for: {0}".format(said))


def unpack(data: bytes, target: Path) -> None:
    """Unpack a release whose every file lies inside of it; it is there whole or not at all.

    Raises:
        JoinError: it has something else.
    """
    if target.exists():
        return
    part = target.with_name(".{0}.part".format(target.name))
    shutil.rmtree(str(part), ignore_errors=True)
    part.mkdir(parents=True, mode=0o700)
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:gz") as archive:
                for member in archive.getmembers():
                    inside = Path(member.name)
                    if inside.is_absolute() or ".." in inside.parts or not (member.isfile() or member.isdir()):
                        raise JoinError("the release has {0!r}, which is no file inside of it".format(member.name))
                archive.extractall(str(part))  # noqa: S202 - each member was looked at
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise JoinError("the release is no archive that can be read: {0}".format(error)) from error
    part.rename(target)


def run(argv: List[str], lease: Lease, folder: Path, environment: Mapping[str, str]) -> None:
    """Run a command while the lease is this instance's.

    Raises:
        JoinError: it failed, or the lease is another's.
    """
    process = subprocess.Popen(argv, cwd=str(folder), env=dict(environment))
    while process.poll() is None:
        if not lease.is_held():
            process.terminate()
            process.wait()
            raise JoinError("another host has the lease now, or may have it")
        time.sleep(0.5)
    if process.returncode:
        raise JoinError("{0} ended with {1}".format(" ".join(argv[:3]), process.returncode))


def join(settings: Mapping[str, Any], metadata: Metadata, bucket: Bucket, root: Path) -> None:
    """Join once.

    Args:
        settings: ``release`` and its ``sha256``, ``signer``, ``lease``, and the words of the ``playbook``.
        metadata: of the instance.
        bucket: for what is in the store.
        root: where releases go.

    Raises:
        JoinError: it could not be; with the reason.
    """
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    me = metadata.get("meta-data/instance-id")
    release = root / settings["sha256"]
    if not release.exists():
        data = fetch(bucket, settings["release"])
        with tempfile.TemporaryDirectory(dir=str(root)) as scratch:
            signature = fetch(bucket, settings["release"] + ".sig")
            verify(data, signature, settings["sha256"], settings["signer"], Path(scratch))
        unpack(data, release)
    lease = Lease(bucket, settings["lease"], me)
    while not lease.take():
        time.sleep(AGAIN_S)
    over = threading.Event()
    keeper = threading.Thread(target=lease.keep, args=(over,), daemon=True)
    keeper.start()
    venv = release / ".venv"
    environment = {
        **os.environ,
        "HOME": "/root",
        "USER": "root",
        "PATH": "{0}:{1}".format(venv / "bin", os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")),
        "ANSIBLE_CONFIG": str(release / "ansible.cfg"),
        "AWS_DEFAULT_REGION": bucket.region,
        **({"AWS_CA_BUNDLE": TRUSTED} if Path(TRUSTED).exists() else {}),
    }
    pip = [str(venv / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    try:
        run([sys.executable, "-m", "venv", str(venv)], lease, release, environment)
        run([*pip, "-r", "join-requirements.txt"], lease, release, environment)
        play = [str(venv / "bin" / "ansible-playbook"), *settings["playbook"], "-c", "local", "--limit", me]
        run(play, lease, release, environment)
    finally:
        over.set()
        keeper.join()
        with contextlib.suppress(JoinError):
            lease.give_back()


def main(path: str) -> int:
    """Join, again and again until it is done; what is not signed is refused each time."""
    settings = json.loads(Path(path).read_text())
    while True:
        try:
            metadata = Metadata()
            join(settings, metadata, Bucket(metadata, settings.get("endpoint", "")), Path(ROOT))
            sys.stdout.write("joined\n")
            return 0
        except (JoinError, OSError, ValueError, KeyError) as error:
            sys.stderr.write("not joined yet: {0}\n".format(error))
            sys.stderr.flush()
        time.sleep(AGAIN_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
