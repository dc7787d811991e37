# SPDX-License-Identifier: Apache-2.0
"""S3, EC2 and SSM interfaces: moto's server, with a switch for faults in front of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from lab.services import blocks, ec2, machines
from lab.services.faults import FAULT_PATH, Fault, Switch

if TYPE_CHECKING:
    from werkzeug.serving import BaseWSGIServer

Start = Callable[[str, list[tuple[str, str]]], Any]
Application = Callable[[dict[str, Any], Start], Iterable[bytes]]


def with_faults(
    application: Application, switch: Switch, market: blocks.Market, made: machines.Machines
) -> Application:
    """Put the switch in front of a WSGI application; its error is in the form that AWS clients know and retry."""

    def answer(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        if environ["PATH_INFO"] == FAULT_PATH:
            return _fault(environ, start, switch)
        if environ["PATH_INFO"] == ec2.HOSTS_PATH:
            return _hosts(environ, start)
        if environ["PATH_INFO"] == machines.MACHINES_PATH:
            return _machines(environ, start, market, made)
        if environ["PATH_INFO"] == blocks.MARKET_PATH:
            return _market(environ, start, market)
        refusal = switch.refusal()
        if refusal is None:
            return application(environ, start)
        status, retry_after_s = refusal
        code = "SlowDown" if status == HTTPStatus.SERVICE_UNAVAILABLE else "InternalError"
        body = f"<Error><Code>{code}</Code><Message>{HTTPStatus(status).phrase}</Message></Error>".encode()
        headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
        if retry_after_s:
            headers.append(("Retry-After", str(retry_after_s)))
        start(f"{status} {HTTPStatus(status).phrase}", headers)
        return [body]

    return answer


def _hosts(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    """Take the list of the lab's hosts."""
    status, body = "200 OK", b"{}"
    try:
        ec2.apply(ec2.read(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))))
    except ValueError as error:
        status, body = "400 Bad Request", json.dumps({"error": str(error)}).encode()
    start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def _machines(environ: dict[str, Any], start: Start, market: blocks.Market, made: machines.Machines) -> Iterable[bytes]:
    """See which instances want a machine, or be told which machines are up."""
    status = "200 OK"
    try:
        if environ["REQUEST_METHOD"] == "PUT":
            made.told(machines.read(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))))
        # Time takes machines away also where nobody asks EC2 for anything.
        blocks.let_time_pass(market)
        body = json.dumps(made.wanted()).encode()
    except ValueError as error:
        status, body = "400 Bad Request", json.dumps({"error": str(error)}).encode()
    start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def _market(environ: dict[str, Any], start: Start, market: blocks.Market) -> Iterable[bytes]:
    """See or set what is for sale, and what time it is."""
    status = "200 OK"
    try:
        if environ["REQUEST_METHOD"] == "PUT":
            market.set(json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))))
        body = json.dumps(market.state()).encode()
    except (ValueError, TypeError, AttributeError) as error:
        status, body = "400 Bad Request", json.dumps({"error": str(error)}).encode()
    start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def _fault(environ: dict[str, Any], start: Start, switch: Switch) -> Iterable[bytes]:
    """See, set or clear the fault."""
    status = "200 OK"
    try:
        if environ["REQUEST_METHOD"] == "PUT":
            switch.set(Fault.from_json(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))))
        elif environ["REQUEST_METHOD"] == "DELETE":
            switch.set(Fault())
        body = json.dumps(switch.fault.__dict__).encode()
    except ValueError as error:
        status, body = "400 Bad Request", json.dumps({"error": str(error)}).encode()
    start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def serve(address: str, port: int, made: machines.Machines | None = None) -> BaseWSGIServer:
    """The AWS interfaces, bound and ready for `serve_forever`.

    Args:
        address: to listen on.
        port: to listen on; 0 for any.
        made: the machines under instances; None where instances have none.
    """
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    market, made = blocks.Market(), made or machines.Machines()
    blocks.install(market, made.launched)
    application = DomainDispatcherApplication(create_backend_app)
    return make_server(address, port, with_faults(application, Switch(), market, made), threaded=True)
