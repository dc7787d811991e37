# SPDX-License-Identifier: Apache-2.0
"""GitHub, as far as `git fetch` and `git clone` know it: bare repositories below a folder, for reading."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_PATH = re.compile(
    r"/(?P<owner>[A-Za-z0-9-]+)/(?P<name>[A-Za-z0-9._-]+?)(?:\.git)?/(?P<what>info/refs|git-upload-pack)"
)
_TYPE = "application/x-git-upload-pack-"


class SourcesHandler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    server_version = "trainyard-lab-sources"

    def __init__(self, *args: Any, folder: Path) -> None:
        self._folder = folder
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """One line a request, without the time stamp of the base class: the container's log has one."""
        print(f"sources: {format % args}", flush=True)

    def do_GET(self) -> None:
        """Answer what a repository has."""
        path, _, query = self.path.partition("?")
        repository = self._repository(path, "info/refs")
        if repository is None or query != "service=git-upload-pack":
            self._send(HTTPStatus.NOT_FOUND, b"", "text/plain")
            return
        refs = self._upload_pack(repository, b"", "--http-backend-info-refs")
        self._send(HTTPStatus.OK, b"001e# service=git-upload-pack\n0000" + refs, _TYPE + "advertisement")

    def do_POST(self) -> None:
        """Answer with objects."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            body = self._chunks()
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        repository = self._repository(self.path, "git-upload-pack")
        if repository is None:
            self._send(HTTPStatus.NOT_FOUND, b"", "text/plain")
            return
        self._send(HTTPStatus.OK, self._upload_pack(repository, body), _TYPE + "result")

    def _chunks(self) -> bytes:
        found = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _repository(self, path: str, what: str) -> Path | None:
        match = _PATH.fullmatch(path)
        if match is None or match["what"] != what or match["name"] in (".", ".."):
            return None
        folder = self._folder / match["owner"] / match["name"]
        return folder if (folder / "HEAD").is_file() else None

    def _upload_pack(self, repository: Path, body: bytes, *more: str) -> bytes:
        """What git itself answers; any commit may be asked for by its name, as GitHub allows."""
        git = shutil.which("git") or "git"
        settings = ("-c", "safe.directory=*", "-c", "uploadpack.allowAnySHA1InWant=true")
        protocol = {
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "HOME": "/nonexistent",
            "PATH": "/usr/bin:/bin",
        }
        done = subprocess.run(
            [git, *settings, "upload-pack", "--stateless-rpc", *more, str(repository)],
            input=body, capture_output=True, check=False, env=protocol,
        )  # fmt: skip
        return done.stdout

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        self.wfile.write(body)


def serve(folder: Path, address: str, port: int) -> ThreadingHTTPServer:
    """The repositories below `folder`, bound and ready for `serve_forever`."""
    server = ThreadingHTTPServer((address, port), partial(SourcesHandler, folder=folder))
    server.daemon_threads = True
    return server
