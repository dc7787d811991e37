# SPDX-License-Identifier: Apache-2.0
"""A load whose every request is accounted for, on servers that are replaced one by one meanwhile: acceptance's roll."""

from __future__ import annotations

import http.client
import threading
import time
from typing import Any, Callable, ContextManager, Dict, List, Mapping, Sequence

#: How a whole stream ends; one that was cut has neither.
_ENDS = (b"[DONE]", b'"finish_reason":"length"')
_MOST_BYTES = 8 << 20

Open = Callable[[Any, Mapping[str, Any]], ContextManager[http.client.HTTPResponse]]


class Load:
    """Clients that ask whichever server is in rotation and has the least in flight, one request after the other.

    Args:
        servers: those that take requests.
        open_stream: begins a stream of a server.
        tokens: of each stream.
        clients: how many there are.
    """

    def __init__(self, servers: Sequence[Any], open_stream: Open, tokens: int, clients: int) -> None:
        self._open, self._tokens = open_stream, tokens
        self._lock = threading.Lock()
        self._flight: Dict[int, int] = {id(server): 0 for server in servers}
        self._rotation: List[Any] = list(servers)
        self._over = threading.Event()
        self.sent = self.answered = 0
        self._threads = [threading.Thread(target=self._client, daemon=True) for number in range(clients)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def take_out(self, server: Any, seconds: float) -> bool:
        """Send a server nothing more, and wait for its last client; whether none is left within the time."""
        with self._lock:
            self._rotation.remove(server)
        until = time.monotonic() + seconds
        while self._flight[id(server)] and time.monotonic() < until:
            time.sleep(0.02)
        return not self._flight[id(server)]

    def put_in(self, server: Any) -> None:
        """Send a server requests."""
        with self._lock:
            self._flight.setdefault(id(server), 0)
            self._rotation.append(server)

    def end(self, seconds: float) -> None:
        """Ask nothing more, and wait for every answer."""
        self._over.set()
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _client(self) -> None:
        while not self._over.is_set():
            with self._lock:
                server = min(self._rotation, key=lambda one: self._flight[id(one)])
                self._flight[id(server)] += 1
                self.sent += 1
            whole = self._whole(server)
            with self._lock:
                self._flight[id(server)] -= 1
                self.answered += whole
            if not whole:
                time.sleep(0.1)  # a server that refuses at once is not asked in a loop

    def _whole(self, server: Any) -> bool:
        """Whether a stream came to its end."""
        try:
            with self._open(server, {"max_tokens": self._tokens, "stream": True}) as answer:
                text = answer.read(_MOST_BYTES)
                return answer.status == 200 and any(end in text for end in _ENDS)
        except (OSError, http.client.HTTPException):
            return False
