# SPDX-License-Identifier: Apache-2.0
"""What every instance asks of itself at 169.254.169.254: the part of EC2's metadata (version 2) that clients read.

Who asks is known by the address, as the hosts were told to the EC2 stand-in, or as it launched them. Version 1, without
a token, is off, as it is on new instances.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lab.services import ec2

ROLE = "trainyard-lab"
_TOKEN = "lab-session-token"  # noqa: S105 - nobody outside of the lab takes it
_TTL = "X-aws-ec2-metadata-token-ttl-seconds"


class MetadataHandler(BaseHTTPRequestHandler):
    """Answers one connection."""

    # One question a connection: the front says of the first one alone who asks.
    protocol_version = "HTTP/1.0"
    server_version = "EC2ws"
    launched: Callable[[], dict[str, dict[str, str]]] = staticmethod(dict)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base class's
        """One line a request, without the time stamp of the base class: the container's log has one."""
        print(f"metadata: {format % args}", flush=True)

    def do_PUT(self) -> None:
        """Give a token."""
        if self.path == "/latest/api/token" and self.headers.get(_TTL, "").isdigit():
            self._send(HTTPStatus.OK, _TOKEN, {_TTL: self.headers[_TTL]})
        else:
            self._send(HTTPStatus.BAD_REQUEST, "")

    def do_GET(self) -> None:
        """Answer a question."""
        if self.headers.get("X-aws-ec2-metadata-token") != _TOKEN:
            self._send(HTTPStatus.UNAUTHORIZED, "")
            return
        peer = self.headers.get("X-Lab-Peer") or self.client_address[0]
        found = answer(self.path, {**self.launched(), **ec2.known()}.get(peer) or {})
        self._send(HTTPStatus.OK if found is not None else HTTPStatus.NOT_FOUND, found or "")

    def _send(self, status: int, body: str, headers: dict[str, str] | None = None) -> None:
        data = body.encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Type": "text/plain", "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def answer(path: str, host: dict[str, str]) -> str | None:
    """What an instance is told; None where there is no such thing.

    Args:
        path: what is asked.
        host: the instance, as the EC2 stand-in was told of it; empty for one that it does not know.
    """
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 6 * 3600))
    role = {"Code": "Success", "LastUpdated": now, "Type": "AWS-HMAC", "Expiration": later}
    keys = {"AccessKeyId": "LABROLE", "SecretAccessKey": "lab", "Token": "lab"}
    identity = {
        "instanceId": host.get("id", ""),
        "instanceType": host.get("instance_type", ""),
        "privateIp": host.get("address", ""),
        "region": ec2.REGION,
        "availabilityZone": f"{ec2.REGION}a",
    }
    known = {
        "meta-data/instance-id": identity["instanceId"],
        "meta-data/instance-type": identity["instanceType"],
        "meta-data/local-ipv4": identity["privateIp"],
        "meta-data/placement/region": identity["region"],
        "meta-data/placement/availability-zone": identity["availabilityZone"],
        "meta-data/iam/security-credentials": ROLE,
        f"meta-data/iam/security-credentials/{ROLE}": json.dumps({**role, **keys}),
        "dynamic/instance-identity/document": json.dumps(identity),
    }
    found = known.get(path.removeprefix("/latest/").rstrip("/"))
    return found or None


def serve(address: str, port: int, launched: Callable[[], dict[str, dict[str, str]]] = dict) -> ThreadingHTTPServer:
    """The metadata of all hosts, bound and ready for `serve_forever`.

    Args:
        address: to listen on.
        port: to listen on; 0 for any.
        launched: instances that somebody launched, by their addresses.
    """
    handler = type("Handler", (MetadataHandler,), {"launched": staticmethod(launched)})
    server = ThreadingHTTPServer((address, port), handler)
    server.daemon_threads = True
    return server
