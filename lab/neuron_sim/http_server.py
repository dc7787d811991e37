# SPDX-License-Identifier: Apache-2.0
"""A small HTTP/1.1 server on asyncio: keep-alive, JSON, server-sent events, and it notices when a client is gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

_MAX_HEADER_BYTES = 65536
_MAX_BODY_BYTES = 256 * 2**20


@dataclass
class HttpRequest:
    """One request with its whole body."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    arrived: float = 0.0  # of the monotonic clock: when its first bytes came, whatever else was to be done then


# Linux's name of this option and of its ancillary message; Python has none.
_SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@ll")


class _Connection(socket.socket):
    """A connection that knows when the kernel got what was read last, however late it was read."""

    kernel_arrival = 0.0

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Read, and keep the time of the monotonic clock at which it had come."""
        data, notes, _, _ = self.recvmsg(size, socket.CMSG_SPACE(_TIMESPEC.size), flags)
        now = time.monotonic()
        self.kernel_arrival = now
        for level, kind, content in notes:
            if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS) and len(content) >= _TIMESPEC.size:
                seconds, nanoseconds = _TIMESPEC.unpack_from(content)
                self.kernel_arrival = min(now, now - (time.time() - seconds - nanoseconds / 1e9))
        return data


class _Listener(socket.socket):
    """A listening socket whose connections have the kernel's times."""

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection."""
        descriptor, address = self._accept()  # type: ignore[attr-defined]  # as the base class's own accept does it
        return _Connection(self.family, self.type, self.proto, fileno=descriptor), address


def _stamping(listener: socket.socket) -> socket.socket:
    """The same bound socket, as one whose connections have the kernel's times; connections inherit the option."""
    listener.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
    return _Listener(listener.family, listener.type, listener.proto, fileno=listener.detach())


class _Reader(asyncio.StreamReader):
    """A stream that notes when the first bytes of what is unread came."""

    arrived = 0.0
    connection: _Connection | None = None

    def feed_data(self, data: Any) -> None:
        """Take bytes from the connection."""
        if not self._buffer:  # type: ignore[attr-defined]  # the base class's own buffer
            self.arrived = self.connection.kernel_arrival if self.connection else time.monotonic()
        super().feed_data(data)


class _Protocol(asyncio.StreamReaderProtocol):
    """Tells the stream its socket before the first bytes come."""

    def __init__(self, reader: _Reader, connected: Any, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, connected, loop=loop)
        self._stamped = reader

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        connection = getattr(transport.get_extra_info("socket"), "_sock", None)
        self._stamped.connection = connection if isinstance(connection, _Connection) else None
        super().connection_made(transport)


class Reply:
    """What a handler answers with. One of ``send`` or ``start`` + ``event`` + ``end``."""

    def __init__(self, writer: asyncio.StreamWriter, *, keep_alive: bool) -> None:
        self._writer = writer
        self.keep_alive = keep_alive
        self.started = False
        self._pending = b""

    def _head(self, status: int, headers: dict[str, str]) -> bytes:
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "server: uvicorn"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines.append("connection: " + ("keep-alive" if self.keep_alive else "close"))
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def send(self, status: int, body: bytes = b"", content_type: str = "application/json") -> None:
        """A whole answer."""
        headers = {"content-type": content_type} if body else {}
        self.started = True
        self._writer.write(self._head(status, {**headers, "content-length": str(len(body))}) + body)
        await self._writer.drain()

    async def send_json(self, status: int, value: Any) -> None:
        """A whole answer in JSON."""
        await self.send(status, json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())

    def start_events(self) -> None:
        """Begin a stream of server-sent events."""
        headers = {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"}
        self._pending = self._head(200, headers)

    def event(self, text: str, *, more: bool = False) -> None:
        """One event, written at once; with ``more`` together with the next one."""
        data = b"data: " + text.encode() + b"\n\n"
        self._pending += f"{len(data):x}\r\n".encode() + data + b"\r\n"
        if not more:
            self.started = True
            self._writer.write(self._pending)
            self._pending = b""

    async def end(self) -> None:
        """Finish the stream."""
        self._writer.write(self._pending + b"0\r\n\r\n")
        await self._writer.drain()


Handler = Callable[[HttpRequest, Reply], Awaitable[None]]


class HttpServer:
    """Serves one handler on a bound socket.

    A handler whose client disconnects is cancelled, so it can give back what it holds.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.accepting = True

    async def start(self, listener: socket.socket) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.StreamReaderProtocol:
            return _Protocol(_Reader(limit=_MAX_HEADER_BYTES, loop=loop), self._connect, loop)

        self._server = await loop.create_server(protocol, sock=_stamping(listener), backlog=2048)

    async def close(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=2)

    def stop_listening(self) -> None:
        """Take no new connection; those that are open go on."""
        self.accepting = False
        if self._server is not None:
            self._server.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
        sock: socket.socket | None = writer.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            if task is not None:
                self._connections.discard(task)
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request = await _read_request(reader)
        if request is None:
            return False
        keep = self.accepting and request.headers.get("connection", "keep-alive").lower() != "close"
        reply = Reply(writer, keep_alive=keep)
        if request.method == "INVALID":
            reply.keep_alive = False
            await reply.send(400, b"Invalid HTTP request received.", "text/plain; charset=utf-8")
            return False
        work = asyncio.ensure_future(self._handler(request, reply))
        watch = asyncio.ensure_future(_disconnected(reader))
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return False
            work.result()
            return reply.keep_alive
        finally:
            for future in (work, watch):
                if not future.done():
                    future.cancel()
                    with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                        await future


async def _disconnected(reader: asyncio.StreamReader) -> None:
    """Return when the client closed its side. Bytes of a pipelined next request stay in the reader's buffer."""
    while not reader.at_eof():
        if reader._buffer:  # type: ignore[attr-defined]  # the only way to look at the stream without taking from it
            await asyncio.Event().wait()
        await reader._wait_for_data("disconnected")  # type: ignore[attr-defined]


async def _read_request(reader: asyncio.StreamReader) -> HttpRequest | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    arrived = reader.arrived if isinstance(reader, _Reader) else time.monotonic()
    lines = head.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    length = headers.get("content-length", "0")
    if len(parts) != 3 or not length.isdigit() or int(length) > _MAX_BODY_BYTES:
        return HttpRequest("INVALID", "", {}, b"")
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _read_chunks(reader)
    else:
        body = await reader.readexactly(int(length))
    return HttpRequest(parts[0], parts[1].partition("?")[0], headers, body, arrived)


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        chunk = await reader.readexactly(size + 2)
        body += chunk[:-2]
        if size == 0 or len(body) > _MAX_BODY_BYTES:
            return body
