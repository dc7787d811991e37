# SPDX-License-Identifier: Apache-2.0
"""The real names of the outside world, in front of the services that stand in for them.

A lab host finds these names at the services' address (/etc/hosts), speaks TLS with them as it would with the real ones,
and trusts the lab's own authority. By the name that it asked for, a connection is passed on to one of the services.
Whoever is no host of the lab (the controller) reaches the same names through the proxy here, and no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path

APT, PIP, IMAGES, HUB, SOURCES, CLOUD, METADATA = "apt", "pip", "images", "hub", "sources", "cloud", "metadata"

_WRITTEN = json.loads(Path(__file__).with_name("names.json").read_text(encoding="utf-8"))

#: Where every instance finds what EC2 knows of it.
METADATA_ADDRESS = str(_WRITTEN["metadata"])

#: Names of the world, and which service stands in for each.
NAMES: Mapping[str, str] = {**_WRITTEN["names"], METADATA_ADDRESS: METADATA}

#: AWS's own interfaces, by region and without, and buckets before them.
_CLOUD = re.compile(rf"(?:[a-z0-9.-]+\.)?(?:{'|'.join(_WRITTEN['interfaces'])})(?:[.-][a-z0-9-]+)?\.amazonaws\.com")
_CHUNK = 1 << 16


def service_of(name: str) -> str | None:
    """The service that stands in for a name; None for a name that is not of this world."""
    host = name.rpartition(":")[0] if re.search(r":\d+$", name) else name
    host = host.lower().rstrip(".")
    return NAMES.get(host) or (CLOUD if _CLOUD.fullmatch(host) else None)


class World:
    """The front: one port with TLS, one without, and a proxy.

    Args:
        ports: of each service, on this machine.
        certificate: file with the certificate and its key.
    """

    def __init__(self, ports: Mapping[str, int], certificate: Path) -> None:
        self._ports = ports
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate)
        self.bound: dict[str, int] = {}

    async def serve(self, address: str, *, tls_port: int, plain_port: int, proxy_port: int) -> None:
        """Serve until the task is cancelled; `bound` then has the ports."""
        servers = {
            "tls": await asyncio.start_server(self._front, address, tls_port, ssl=self._tls),
            "plain": await asyncio.start_server(self._front, address, plain_port),
            "proxy": await asyncio.start_server(self._proxy, address, proxy_port),
        }
        self.bound = {name: server.sockets[0].getsockname()[1] for name, server in servers.items()}
        await asyncio.gather(*(server.serve_forever() for server in servers.values()))

    async def _front(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass a connection on to the service that its first request names."""
        with _closing(writer):
            head = await _head(reader)
            match = re.search(rb"^host:[ \t]*([^\r\n]+?)[ \t]*\r$", head, re.MULTILINE | re.IGNORECASE)
            service = service_of(match.group(1).decode("ascii", "replace")) if match else None
            port = self._ports.get(service or "")
            if port is None:
                writer.write(b"HTTP/1.1 421 Misdirected Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
                return
            behind, onwards = await asyncio.open_connection("127.0.0.1", port)
            with _closing(onwards):
                # Who asks decides what the answer is there.
                peer = f"X-Lab-Peer: {writer.get_extra_info('peername')[0]}\r\n" if service == METADATA else ""
                onwards.write(head.replace(b"\r\n", b"\r\n" + peer.encode(), 1))
                await _both(reader, writer, behind, onwards)

    async def _proxy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect whoever is outside to a name of this world; other names are refused."""
        with _closing(writer):
            head = await _head(reader)
            match = re.match(rb"CONNECT ([^ :]+):443 HTTP/1\.[01]\r\n", head)
            if match is None or service_of(match.group(1).decode("ascii", "replace")) is None:
                writer.write(b"HTTP/1.1 502 Not of this world\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                await writer.drain()
                return
            behind, onwards = await asyncio.open_connection("127.0.0.1", self.bound["tls"])
            with _closing(onwards):
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await _both(reader, writer, behind, onwards)


@contextlib.contextmanager
def _closing(writer: asyncio.StreamWriter) -> Iterator[None]:
    """Close a connection whatever happens; a peer that is gone is nobody's error."""
    try:
        yield
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ssl.SSLError):
        pass
    finally:
        with contextlib.suppress(OSError, RuntimeError):
            writer.close()


async def _head(reader: asyncio.StreamReader) -> bytes:
    """The first request's line and headers."""
    return await reader.readuntil(b"\r\n\r\n")


async def _both(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    behind: asyncio.StreamReader,
    onwards: asyncio.StreamWriter,
) -> None:
    """Pass bytes on in both directions until one side ends."""
    ways = [asyncio.ensure_future(_pass(reader, onwards)), asyncio.ensure_future(_pass(behind, writer))]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        # What the service has still to say goes out before the end.
        await asyncio.wait([ways[1]], timeout=60)
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError, NotImplementedError):
        writer.write_eof()
