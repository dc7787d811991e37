# SPDX-License-Identifier: Apache-2.0
"""A model hub: the part of the Hugging Face Hub's HTTP interface that its own clients need to download a model.

A folder with `<organisation>/<model>/` sub-folders is served; `<model>@<branch>` beside one is another branch of it. A
revision is a digest of the files, so the same files have the same revision everywhere. Files of 1 MiB and more, and
every weight file, are served as the hub serves large files: metadata from the repository, content by redirect, the
SHA-256 as ETag. A folder with a file named `.gated` needs a token (any that begins with `hf_`) as a gated repository
does; one with a file `.revision` says that it is that revision, whatever its files are: a stand-in of a real model.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import urllib.parse
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from lab.services.faults import FAULT_PATH, Fault, Switch

_LARGE = 1 << 20
_WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")
_CHUNK = 1 << 16
_RANGE = re.compile(r"^bytes=(\d+)-(\d*)$")


@dataclass(frozen=True)
class Entry:
    """One file of a model."""

    name: str
    path: Path
    size: int
    sha256: str
    blob_id: str
    """The SHA-1 that git gives the content."""

    @property
    def large(self) -> bool:
        """Whether the hub keeps it outside git (LFS)."""
        return self.size >= _LARGE or self.name.endswith(_WEIGHTS)

    @property
    def etag(self) -> str:
        """What the hub says identifies the content."""
        return self.sha256 if self.large else self.blob_id


@dataclass(frozen=True)
class Repository:
    """One model at one revision."""

    name: str
    revision: str
    entries: tuple[Entry, ...]
    gated: bool

    def find(self, name: str) -> Entry | None:
        """The file of that name."""
        return next((entry for entry in self.entries if entry.name == name), None)


def read_repository(root: Path, name: str) -> Repository:
    """Read a model's folder; the revision covers names and contents, nothing else, unless `.revision` gives another."""
    folder = root / name
    entries = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")):
        data = path.read_bytes()
        entries.append(
            Entry(
                name=path.relative_to(folder).as_posix(),
                path=path,
                size=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                blob_id=hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest(),
            )
        )
    total = hashlib.sha1(usedforsecurity=False)
    for entry in entries:
        total.update(f"{entry.sha256}  {entry.name}\n".encode())
    given = folder / ".revision"
    revision = given.read_text(encoding="ascii").strip() if given.exists() else total.hexdigest()
    return Repository(name.partition("@")[0], revision, tuple(entries), gated=(folder / ".gated").exists())


class RefusedError(Exception):
    """A request that the hub answers with an error."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class HubHandler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    server_version = "trainyard-lab-hub"
    root: ClassVar[Path]
    switch: ClassVar[Switch]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """One line a request, without the time stamp of the base class: the container's log has one."""
        print(f"hub: {format % args}", flush=True)

    # One method a verb, as the base class wants them.
    def do_GET(self) -> None:
        """Answer GET."""
        self._answer()

    def do_HEAD(self) -> None:
        """Answer HEAD."""
        self._answer()

    def do_POST(self) -> None:
        """Answer POST."""
        self._answer()

    def do_PUT(self) -> None:
        """Answer PUT."""
        self._answer()

    def do_DELETE(self) -> None:
        """Answer DELETE."""
        self._answer()

    def _answer(self) -> None:
        """Route a request; every refusal becomes the hub's form of error."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(parts.path)
        try:
            if path == FAULT_PATH:
                self._fault(body)
                return
            refusal = self.switch.refusal()
            if refusal:
                raise RefusedError(refusal[0], "", HTTPStatus(refusal[0]).phrase)
            self._route(path, urllib.parse.parse_qs(parts.query), body)
        except RefusedError as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message} if refused.code else {}
            retry_after_s = self.switch.fault.retry_after_s
            if refused.status == HTTPStatus.TOO_MANY_REQUESTS and retry_after_s:
                headers |= {"Retry-After": str(retry_after_s), "RateLimit": f'"resolvers";r=0;t={retry_after_s}'}
            self._send(refused.status, json.dumps({"error": refused.message}).encode(), headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _route(self, path: str, query: dict[str, list[str]], body: bytes) -> None:
        """Find what a path means."""
        if path == "/healthz":
            return self._send(HTTPStatus.OK, b"{}")
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            repository = self._repository(match[1], match[2] or "main", open_to_all=True)
            return self._send(HTTPStatus.OK, json.dumps(_info(repository)).encode())
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", path):
            repository = self._repository(match[1], match[2], open_to_all=True)
            recursive = query.get("recursive", ["false"])[0].lower() in ("1", "true")
            return self._send(
                HTTPStatus.OK, json.dumps(_tree(repository, match[3] or "", recursive=recursive)).encode()
            )
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/paths-info/([^/]+)", path):
            repository = self._repository(match[1], match[2], open_to_all=True)
            wanted = _wanted_paths(body, self.headers.get("Content-Type", ""))
            rows = [_row(entry) for entry in repository.entries if entry.name in wanted]
            return self._send(HTTPStatus.OK, json.dumps(rows).encode())
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(match[1], match[2], match[3])
        if match := re.fullmatch(r"/_objects/([^/]+/[^/]+)/([0-9a-f]{40})/([0-9a-f]{64})", path):
            repository = self._repository(match[1], match[2])
            entry = next((entry for entry in repository.entries if entry.sha256 == match[3]), None)
            if entry:
                # Clients that follow the redirect take the metadata from its end, others from its beginning.
                return self._content(entry, _large_headers(repository, entry))
        raise RefusedError(HTTPStatus.NOT_FOUND, "", "Not Found")

    def _repository(self, name: str, revision: str, *, open_to_all: bool = False) -> Repository:
        """The repository at a revision, or the hub's own refusal."""
        if not (self.root / name).is_dir() or ".." in name or "@" in name:
            # As the hub does: what does not exist and what is private look the same to a stranger.
            raise RefusedError(HTTPStatus.UNAUTHORIZED, "RepoNotFound", "Repository not found")
        repository = self._at(name, revision)
        if repository is None:
            raise RefusedError(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"Invalid rev id: {revision}")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if repository.gated and not open_to_all and not token.startswith("hf_"):
            raise RefusedError(
                HTTPStatus.UNAUTHORIZED,
                "GatedRepo",
                f"Access to model {name} is restricted. You must have access to it and be authenticated to access it.",
            )
        return repository

    def _at(self, name: str, revision: str) -> Repository | None:
        """A model at a branch, or at a revision (its first seven digits are enough); None if it has none such."""
        for folder in (self.root / name, *sorted((self.root / name).parent.glob(f"{Path(name).name}@*"))):
            _, _, branch = folder.name.partition("@")
            found = _cached(self.root, folder.relative_to(self.root).as_posix(), _stamp(folder))
            if revision == (branch or "main") or (len(revision) >= 7 and found.revision.startswith(revision)):
                return found
        return None

    def _resolve(self, repository_name: str, revision: str, name: str) -> None:
        """A file of a repository: its metadata, then its content here or where large files are."""
        repository = self._repository(repository_name, revision)
        entry = repository.find(name)
        headers = {"X-Repo-Commit": repository.revision}
        if entry is None:
            raise RefusedError(HTTPStatus.NOT_FOUND, "EntryNotFound", "Entry not found")
        if not entry.large:
            return self._content(entry, headers)
        # A name without a port is the world's, which speaks TLS.
        scheme = "http" if ":" in self.headers["Host"] else "https"
        location = f"{scheme}://{self.headers['Host']}/_objects/{repository.name}/{repository.revision}/{entry.sha256}"
        return self._send(HTTPStatus.FOUND, b"", _large_headers(repository, entry) | {"Location": location})

    def _content(self, entry: Entry, headers: dict[str, str]) -> None:
        """Send a file, or the part of it that a Range header asks for."""
        first, last, status = 0, entry.size - 1, HTTPStatus.OK
        if match := _RANGE.match(self.headers.get("Range", "")):
            first, last, status = int(match[1]), min(int(match[2] or last), last), HTTPStatus.PARTIAL_CONTENT
            if first > last:
                self._send(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", {"Content-Range": f"bytes */{entry.size}"})
                return
            headers = {**headers, "Content-Range": f"bytes {first}-{last}/{entry.size}"}
        headers = {
            **headers,
            "ETag": f'"{entry.etag}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        self._start(status, last - first + 1, headers)
        if self.command != "HEAD":
            self._stream(entry.path, first, last - first + 1)

    def _stream(self, path: Path, first: int, length: int) -> None:
        """Send `length` bytes of a file, as slowly or as incompletely as the fault says."""
        fault, cut_bytes, sent = self.switch.fault, self.switch.cut_bytes(length), 0
        with path.open("rb") as file:
            file.seek(first)
            while sent < length:
                size = min(_CHUNK, length - sent)
                if cut_bytes:
                    size = min(size, cut_bytes - sent)
                    if size <= 0:
                        self.close_connection = True
                        return
                self.wfile.write(file.read(size))
                sent += size
                if fault.bytes_per_s:
                    time.sleep(size / fault.bytes_per_s)

    def _fault(self, body: bytes) -> None:
        """See, set or clear the fault."""
        if self.command == "PUT":
            try:
                self.switch.set(Fault.from_json(body))
            except ValueError as error:
                raise RefusedError(HTTPStatus.BAD_REQUEST, "", str(error)) from error
        elif self.command == "DELETE":
            self.switch.set(Fault())
        self._send(HTTPStatus.OK, json.dumps(self.switch.fault.__dict__).encode())

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Send a whole answer."""
        self._start(status, len(body), {"Content-Type": "application/json", **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _start(self, status: int, length: int, headers: dict[str, str]) -> None:
        """Send status and headers."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()


def _large_headers(repository: Repository, entry: Entry) -> dict[str, str]:
    """What the hub says of a large file beside its content."""
    return {
        "X-Repo-Commit": repository.revision,
        "X-Linked-Size": str(entry.size),
        "X-Linked-Etag": f'"{entry.sha256}"',
    }


def _stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes when a model's folder does."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)


@cache
def _cached(root: Path, name: str, stamp: tuple[tuple[str, int, int], ...]) -> Repository:  # noqa: ARG001 - the stamp is the key
    """`read_repository`, once for each state of the folder."""
    return read_repository(root, name)


def _info(repository: Repository) -> dict[str, Any]:
    """What the hub says of a model."""
    return {
        "_id": repository.revision[:24],
        "id": repository.name,
        "modelId": repository.name,
        "author": repository.name.split("/")[0],
        "sha": repository.revision,
        "lastModified": "2026-01-01T00:00:00.000Z",
        "private": False,
        "gated": "auto" if repository.gated else False,
        "disabled": False,
        "tags": ["safetensors", "llama", "text-generation"],
        "pipeline_tag": "text-generation",
        "library_name": "transformers",
        "downloads": 0,
        "likes": 0,
        "siblings": [{"rfilename": entry.name} for entry in repository.entries],
    }


def _row(entry: Entry) -> dict[str, Any]:
    """A file as the tree lists it."""
    row: dict[str, Any] = {"type": "file", "path": entry.name, "size": entry.size, "oid": entry.blob_id}
    if entry.large:
        row["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": 134}
    return row


def _tree(repository: Repository, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    """The files below a folder of a repository, and the folders where it is not recursive."""
    prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
    rows: list[dict[str, Any]] = []
    for entry in repository.entries:
        if not entry.name.startswith(prefix):
            continue
        head, _, tail = entry.name.removeprefix(prefix).partition("/")
        if tail and not recursive:
            row: dict[str, Any] = {"type": "directory", "path": prefix + head, "size": 0, "oid": "0" * 40}
            if row not in rows:
                rows.append(row)
        else:
            rows.append(_row(entry))
    return rows


def _wanted_paths(body: bytes, content_type: str) -> set[str]:
    """The paths that a paths-info request names, in either of the forms that clients send."""
    if "json" in content_type:
        return set(json.loads(body).get("paths", []))
    return set(urllib.parse.parse_qs(body.decode()).get("paths", []))


def serve(root: Path, address: str, port: int) -> ThreadingHTTPServer:
    """A hub for the models below `root`, bound and ready for `serve_forever`."""
    handler = type("Handler", (HubHandler,), {"root": root, "switch": Switch()})
    server = ThreadingHTTPServer((address, port), handler)
    server.daemon_threads = True
    return server
