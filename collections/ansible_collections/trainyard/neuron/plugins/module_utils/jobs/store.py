# SPDX-License-Identifier: Apache-2.0
"""Where a fleet keeps its artifacts: a prefix of an S3 bucket, or a directory that all hosts mount.

Layout in both: `<digest>/<file>` and, written last, `<digest>/manifest.json`. What has no manifest is not there. While
a host compiles a digest, `<digest>.lock` beside it says so, in a directory `<digest>.lock.<number>`.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from . import manifest, names

OnBytes = Callable[[int], None]

#: How long a lock holds without being renewed, seconds: what a compile host that died costs the one that waits for it.
LOCK_S = 120.0

DIGEST = re.compile(r"[0-9a-f]{64}")
#: A change of a lock in a directory: the digest, and the change's number.
CHANGE = re.compile(r"([0-9a-f]{64})\.lock\.([1-9][0-9]{0,17})")
GIVEN_BACK = '{"owner": "", "expires": 0}\n'


class StoreError(Exception):
    """The store cannot be reached or refuses; says which store and what it answered."""


class PathStore:
    """A directory that every host and the controller mount, for example on FSx or NFS."""

    def __init__(self, root: str) -> None:
        self.uri = root
        self._root = Path(root)
        if not self._root.is_dir():
            raise StoreError(f"artifact store {root} is not a directory here; mount it, or correct the path")

    def manifest(self, digest: str) -> Optional[Dict[str, Any]]:
        """Return the manifest of an artifact in the store, or None."""
        return manifest.read(self._root / digest)

    def get(self, digest: str, name: str, target: Path, on_bytes: OnBytes) -> None:
        """Copy one file of an artifact to `target`."""
        shutil.copyfile(names.inside(self._root / digest, name, self.uri), target)
        on_bytes(target.stat().st_size)

    def put(self, digest: str, root: Path, described: Dict[str, Any], on_bytes: OnBytes) -> None:
        """Copy an artifact into the store; it appears there whole or not at all."""
        final = self._root / digest
        staging = self._root / f".{digest}.{secrets.token_hex(8)}.partial"
        try:
            for entry in described["files"]:
                target = names.inside(staging, entry["path"], str(root))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(names.inside(root, entry["path"], str(root)), target)
                on_bytes(entry["size"])
            manifest.publish(staging, final, described)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def lock(self, digest: str, owner: str) -> Optional[str]:
        """Take or renew the lock of a digest; return None when `owner` holds it now, else who does.

        Each change of the lock is a file of the next number, made by a link, which no two can make. The one with the
        highest number counts, and stays: a host that slept and comes with a lower number finds it.
        """
        while True:
            number, text = self._last(digest)
            holder = lock_holder(text)
            if holder not in (None, owner):
                return holder
            if self._change(digest, number + 1, lock_text(owner)):
                return None

    def _last(self, digest: str) -> tuple[int, str]:
        """Return number and content of the lock as it is now; 0 and an empty text where there never was one."""
        while True:
            number = max((number for number, _ in self._changes(digest)), default=0)
            path = self._change_file(digest, number)
            text = _read(path)
            # Gone between the two: there is a newer one.
            if text or not number or path.exists():
                return number, text

    def _changes(self, digest: str) -> List[tuple[int, Path]]:
        found = ((path, CHANGE.fullmatch(path.name)) for path in self._root.glob(f"{digest}.lock.*"))
        return [(int(match[2]), path) for path, match in found if match]

    def _change_file(self, digest: str, number: int) -> Path:
        return self._root / f"{digest}.lock.{number}"

    def _change(self, digest: str, number: int, text: str) -> bool:
        """Make the lock's change of this number, which must be the next; return whether this caller made it."""
        # Hosts share the directory, so a process id tells nobody from others.
        mine, path = self._root / f".{digest}.{secrets.token_hex(8)}.lock", self._change_file(digest, number)
        try:
            manifest.write_atomically(mine, text)
            try:
                os.link(mine, path)
            except FileExistsError:
                # An answer that was lost on the network and asked for again says so too.
                if mine.stat().st_nlink < 2:
                    return False
        finally:
            mine.unlink(missing_ok=True)
        changes = self._changes(digest)
        if any(other > number for other, _ in changes):
            path.unlink(missing_ok=True)  # it was the next no longer
            return False
        for other, old in changes:
            if other < number:
                old.unlink(missing_ok=True)
        return True

    def holder(self, digest: str) -> Optional[str]:
        """Return who compiles a digest now, None for nobody."""
        return lock_holder(self._last(digest)[1])

    def unlock(self, digest: str, owner: str) -> None:
        """Give the lock back, if it is still this owner's. Its number stays."""
        number, text = self._last(digest)
        if lock_holder(text) == owner:
            self._change(digest, number + 1, GIVEN_BACK)

    def digests(self) -> List[str]:
        """Return the digests of all complete artifacts, sorted."""
        found = (path for path in self._root.iterdir() if DIGEST.fullmatch(path.name))
        return sorted(path.name for path in found if (path / manifest.NAME).is_file())

    def remove(self, digest: str) -> None:
        """Remove an artifact; its manifest goes first, so that no reader takes a half-removed one."""
        (self._root / digest / manifest.NAME).unlink(missing_ok=True)
        shutil.rmtree(self._root / digest, ignore_errors=True)


class S3Store:
    """A prefix of an S3 bucket; credentials and region come from the environment, as boto3 reads them."""

    def __init__(self, uri: str, endpoint: str = "") -> None:
        self.uri = uri
        self._bucket, _, prefix = uri[len("s3://") :].partition("/")
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._client = s3_client(endpoint)

    def _key(self, digest: str, name: str) -> str:
        return f"{self._prefix}{digest}/{name}"

    def manifest(self, digest: str) -> Optional[Dict[str, Any]]:
        """Return the manifest of an artifact in the store, or None.

        Raises:
            StoreError: the bucket is not there or refuses to be read.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        key = self._key(digest, manifest.NAME)
        try:
            body = self._client.get_object(Bucket=self._bucket, Key=key)["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] in ("NoSuchKey", "404"):
                return None
            raise StoreError(f"{self.uri}: {error}") from error
        except BotoCoreError as error:
            raise StoreError(f"{self.uri}: {error}") from error
        return manifest.parse(body, f"s3://{self._bucket}/{key}")

    def get(self, digest: str, name: str, target: Path, on_bytes: OnBytes) -> None:
        """Download one file of an artifact to `target`, in parallel parts."""
        try:
            self._client.download_file(self._bucket, self._key(digest, name), str(target), Callback=on_bytes)
        except s3_errors() as error:
            raise StoreError(f"{self.uri}: {digest}/{name}: {error}") from error

    def put(self, digest: str, root: Path, described: Dict[str, Any], on_bytes: OnBytes) -> None:
        """Upload an artifact, its manifest last."""
        try:
            for entry in described["files"]:
                key = self._key(digest, entry["path"])
                source = names.inside(root, entry["path"], str(root))
                self._client.upload_file(str(source), self._bucket, key, Callback=on_bytes)
            self._client.put_object(
                Bucket=self._bucket, Key=self._key(digest, manifest.NAME), Body=manifest.dump(described).encode()
            )
        except s3_errors() as error:
            raise StoreError(f"{self.uri}: cannot store {digest}: {error}") from error

    def lock(self, digest: str, owner: str) -> Optional[str]:
        """Take or renew the lock of a digest; return None when `owner` holds it now, else who does."""
        holder, condition = self._locked_by(digest)
        if holder not in (None, owner):
            return holder
        try:
            # Of several that come this far, the condition lets one succeed.
            return None if self._put_lock(digest, lock_text(owner), condition) else "another host"
        except s3_errors() as error:
            raise StoreError(f"{self.uri}: cannot lock {digest}: {error}") from error

    def holder(self, digest: str) -> Optional[str]:
        """Return who compiles a digest now, None for nobody."""
        return self._locked_by(digest)[0]

    def _locked_by(self, digest: str) -> tuple[Optional[str], Dict[str, str]]:
        """Return who holds a lock, and the condition under which it may be written."""
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=f"{self._prefix}{digest}.lock")
            return lock_holder(answer["Body"].read().decode(errors="replace")), {"IfMatch": answer["ETag"]}
        except s3_errors() as error:
            if _is(error, "NoSuchKey"):
                return None, {"IfNoneMatch": "*"}
            raise StoreError(f"{self.uri}: {error}") from error

    def unlock(self, digest: str, owner: str) -> None:
        """Give the lock back, if it is still this owner's.

        It is written and not deleted: a write has the condition that nobody else wrote since it was read, and a delete
        that comes late would take the next owner's lock away.
        """
        holder, condition = self._locked_by(digest)
        if holder != owner:
            return
        try:
            self._put_lock(digest, GIVEN_BACK, condition)
        except s3_errors() as error:
            raise StoreError(f"{self.uri}: cannot give the lock of {digest} back: {error}") from error

    def _put_lock(self, digest: str, text: str, condition: Dict[str, str]) -> bool:
        """Write a lock; return whether it was still as the condition says."""
        key = f"{self._prefix}{digest}.lock"
        try:
            self._client.put_object(Bucket=self._bucket, Key=key, Body=text.encode(), **condition)
        except s3_errors() as error:
            if _is(error, "PreconditionFailed", "ConditionalRequestConflict"):
                return False
            raise
        return True

    def digests(self) -> List[str]:
        """Return the digests of all complete artifacts, sorted."""
        found = set()
        for key in self._keys(self._prefix):
            digest, _, name = key[len(self._prefix) :].partition("/")
            if name == manifest.NAME and DIGEST.fullmatch(digest):
                found.add(digest)
        return sorted(found)

    def remove(self, digest: str) -> None:
        """Remove an artifact; its manifest goes first, so that no reader takes a half-removed one."""
        self._client.delete_object(Bucket=self._bucket, Key=self._key(digest, manifest.NAME))
        for key in list(self._keys(f"{self._prefix}{digest}/")):
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def _keys(self, prefix: str) -> List[str]:
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
            return [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        except s3_errors() as error:
            raise StoreError(f"{self.uri}: {error}") from error


def lock_text(owner: str) -> str:
    """Return the content of a lock that `owner` takes now."""
    return json.dumps({"owner": owner, "expires": time.time() + LOCK_S}) + "\n"


def lock_holder(text: str) -> Optional[str]:
    """Return who holds a lock of this content, None for nobody: no lock, or one that has expired."""
    try:
        lock = json.loads(text)
        return str(lock["owner"]) if float(lock["expires"]) > time.time() else None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _is(error: Exception, *codes: str) -> bool:
    """Return whether an error of boto3 is the service's answer with one of these codes."""
    response: Dict[str, Any] = getattr(error, "response", {})
    return response.get("Error", {}).get("Code") in codes


def s3_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions by which boto3 says that a request failed."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    return (Boto3Error, BotoCoreError, ClientError)


def s3_client(endpoint: str = "") -> Any:
    """Return an S3 client that retries throttling and server errors; `endpoint` overrides the environment's."""
    import boto3
    from botocore.config import Config

    endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3", "") or os.environ.get("AWS_ENDPOINT_URL", "")
    options: Dict[str, Any] = {"retries": {"mode": "standard", "max_attempts": 10}, "max_pool_connections": 32}
    if endpoint:
        # A service that is not AWS's seldom answers on `<bucket>.<host>`.
        options["s3"] = {"addressing_style": "path"}
    return boto3.client("s3", endpoint_url=endpoint or None, config=Config(**options))


def open_store(uri: str, endpoint: str = "") -> Any:
    """Return the store that an URI names: `s3://bucket/prefix`, or an absolute path.

    Raises:
        StoreError: neither, or a path that is not a directory.
    """
    if uri.startswith("s3://") and len(uri) > len("s3://"):
        return S3Store(uri, endpoint)
    if uri.startswith("/"):
        return PathStore(uri)
    raise StoreError(f"artifact store {uri!r} is neither s3://bucket/prefix nor an absolute path")
