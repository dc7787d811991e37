# SPDX-License-Identifier: Apache-2.0
"""A folder over HTTP: the package repository, which is nothing but files."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def serve(folder: Path, address: str, port: int) -> ThreadingHTTPServer:
    """The folder's files, bound and ready for `serve_forever`."""
    server = ThreadingHTTPServer((address, port), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    server.daemon_threads = True
    return server
