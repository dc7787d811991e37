# SPDX-License-Identifier: Apache-2.0
"""A registry of container images, for reading: folders of manifests and blobs in the order of the registry's paths.

Serves what `podman pull` and `docker pull` ask for (the pull half of the OCI distribution specification); the client
checks every digest itself.
"""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_PATH = re.compile(r"/v2/(?P<name>[a-z0-9._/-]+)/(?P<kind>manifests|blobs)/(?P<reference>[A-Za-z0-9._:-]+)")


#: The name under which it wants a token, and the token.
PUBLIC = "public.ecr.aws"
_TOKEN = "bGFi"  # noqa: S105 - given to anybody


class RegistryHandler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    server_version = "trainyard-lab-registry"

    def __init__(self, *args: Any, folder: Path) -> None:
        self._folder = folder
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """One line a request, without the time stamp of the base class: the container's log has one."""
        print(f"registry: {format % args}", flush=True)

    def do_GET(self) -> None:
        """Answer GET."""
        self._answer()

    def do_HEAD(self) -> None:
        """Answer HEAD."""
        self._answer()

    def _answer(self) -> None:
        if not self._may():
            return
        if self.path in ("/v2", "/v2/"):
            self._send(HTTPStatus.OK, b"{}", "application/json")
            return
        match = _PATH.fullmatch(self.path)
        path = self._folder / match["name"] / match["kind"] / match["reference"] if match else None
        if match is None or path is None or ".." in self.path or not path.is_file():
            error = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "not in this registry"}]}
            self._send(HTTPStatus.NOT_FOUND, json.dumps(error).encode(), "application/json")
        elif match["kind"] == "manifests":
            text = path.read_bytes()
            self._send(HTTPStatus.OK, text, str(json.loads(text)["mediaType"]))
        else:
            self._start(path.stat().st_size, "application/octet-stream")
            if self.command != "HEAD":
                with path.open("rb") as file:
                    shutil.copyfileobj(file, self.wfile)

    def _may(self) -> bool:
        """Answer as AWS's public registry where it is asked by that name: nothing without a token, a token to all."""
        host = self.headers.get("Host", "")
        if host != PUBLIC:
            return True
        if self.path.startswith("/token/"):
            self._send(HTTPStatus.OK, json.dumps({"token": _TOKEN}).encode(), "application/json")
            return False
        if self.headers.get("Authorization") == f"Bearer {_TOKEN}":
            return True
        error = {"errors": [{"code": "UNAUTHORIZED", "message": "Not Authorized"}]}
        body = json.dumps(error).encode()
        self.send_response(HTTPStatus.UNAUTHORIZED)
        self.send_header("WWW-Authenticate", f'Bearer realm="https://{host}/token/",service="{host}",scope="aws"')
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        return False

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self._start(len(body), kind, status)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _start(self, length: int, kind: str, status: int = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()


def serve(folder: Path, address: str, port: int) -> ThreadingHTTPServer:
    """A registry of the images below `folder`, bound and ready for `serve_forever`."""
    server = ThreadingHTTPServer((address, port), partial(RegistryHandler, folder=folder))
    server.daemon_threads = True
    return server
