# SPDX-License-Identifier: Apache-2.0
"""Ask a server for tokens and time them: the only proof that an engine works.

``/health`` answers 200 on a dead device, an open port belongs to a server that is still loading; a completion that
came back is neither. Standard library only (Python 3.9 and newer).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional
from urllib.parse import urlsplit

MAX_BODY = 16 * 1024 * 1024
"""Bytes of an answer that are read; what a server sends is not to fill the memory of who asks."""


class ProbeError(Exception):
    """The server did not answer as it should.

    Attributes:
        answered: True if it did answer, with something that more waiting will not mend.
    """

    def __init__(self, message: str, answered: bool = False) -> None:
        super().__init__(message)
        self.answered = answered


@dataclass(frozen=True)
class Completion:
    """One timed completion; times in seconds.

    Attributes:
        text: what was generated.
        tokens: how many tokens it has, by the server's own count.
        ttft_s: from sending the request to the first token.
        per_token_s: mean time of each further token, 0 if there was only one.
    """

    text: str
    tokens: int
    ttft_s: float
    per_token_s: float


class Client:
    """A small HTTP client for one server; every call has its own connection and one deadline.

    Args:
        url: ``http://host:port``; a path in it is put before every request path.
        key: API key, sent as a bearer token.
        timeout_s: limit of each wait for bytes, in seconds, and of the whole call where it has no deadline of its own.
    """

    def __init__(self, url: str, key: Optional[str] = None, timeout_s: float = 10.0) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = parts.scheme == "https"
        self._prefix = parts.path.rstrip("/")
        self._headers = {"Authorization": "Bearer " + key} if key else {}
        self._timeout_s = timeout_s

    @contextmanager
    def _open(
        self, method: str, path: str, body: Optional[Dict[str, Any]] = None, limit_s: Optional[float] = None
    ) -> Iterator[http.client.HTTPResponse]:
        kind = http.client.HTTPSConnection if self._tls else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=self._timeout_s)
        headers = dict(self._headers, Connection="close")
        data = None
        if body is not None:
            data = json.dumps(body).encode("utf-8")
            headers["Content-Type"] = "application/json"
        # A server that sends a byte now and then would keep each wait short and the call for ever.
        late = threading.Event()
        links: List[socket.socket] = []
        over = threading.Timer(self._timeout_s if limit_s is None else limit_s, _cut_off, (connection, links, late))
        over.daemon = True
        over.start()
        try:
            connection.connect()
            # Of an answer that ends with its connection, http.client forgets the socket and reads on.
            links.append(connection.sock)
            connection.request(method, self._prefix + path, data, headers)
            with connection.getresponse() as response:
                yield response
            if late.is_set():
                # Half an answer can look like a whole one.
                raise socket.timeout
        finally:
            over.cancel()
            connection.close()

    def status(self, path: str) -> int:
        """HTTP status of a GET; 0 if there is no answer at all."""
        try:
            with self._open("GET", path) as response:
                _body(response)
                return response.status
        except (OSError, ValueError, http.client.HTTPException):
            return 0

    def text(self, path: str) -> Optional[str]:
        """Body of a GET that answered 200; None for anything else, and for more than `MAX_BODY` bytes."""
        try:
            return self.page(path)
        except ProbeError:
            return None

    def page(self, path: str) -> str:
        """Body of a GET.

        Raises:
            ProbeError: no answer in time, another than 200, or one of more than `MAX_BODY` bytes.
        """
        try:
            with self._open("GET", path) as response:
                body = _body(response)
                if response.status != 200:
                    raise ProbeError("answered {0} {1}".format(response.status, shorten(response.reason)), True)
                return body
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ProbeError("does not answer: {0}".format(reason(error))) from error

    def models(self) -> List[str]:
        """Ids of the models that the server offers.

        Raises:
            ProbeError: no answer, or none that is a list of models.
        """
        try:
            with self._open("GET", "/v1/models") as response:
                text = _body(response)
                if response.status != 200:
                    raise ProbeError("/v1/models answered {0}: {1}".format(response.status, shorten(text)), True)
                return [str(row["id"]) for row in json.loads(text)["data"]]
        except (OSError, http.client.HTTPException) as error:
            raise ProbeError("/v1/models: {0}".format(reason(error))) from error
        except (ValueError, KeyError, TypeError) as error:
            raise ProbeError("/v1/models did not answer a list of models", True) from error

    def complete(self, model: str, prompt: str, max_tokens: int, deadline_s: float) -> Completion:
        """One greedy completion, streamed and timed.

        Args:
            model: model id.
            prompt: text to complete.
            max_tokens: tokens to ask for.
            deadline_s: limit of the whole call, in seconds.

        Raises:
            ProbeError: an error status, a stream that broke off, a deadline that passed, or no token at all.
        """
        body = {
            "model": model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
            # A model that ends its text at once would look like one that generates nothing.
            "ignore_eos": True,
        }
        began = time.monotonic()
        try:
            with self._open("POST", "/v1/completions", body, deadline_s) as response:
                if response.status != 200:
                    text = _body(response)
                    raise ProbeError("the completion answered {0}: {1}".format(response.status, shorten(text)), True)
                return _read_stream(response, began, deadline_s)
        except (OSError, http.client.HTTPException) as error:
            if time.monotonic() - began > deadline_s:
                raise ProbeError("the completion took more than {0:.1f} s".format(deadline_s)) from error
            raise ProbeError("the completion got no answer: {0}".format(reason(error))) from error


def _cut_off(connection: http.client.HTTPConnection, links: List[socket.socket], late: threading.Event) -> None:
    """End a connection whose time is over, whatever its reader waits for."""
    late.set()
    for link in links or [connection.sock]:
        if link is not None:
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)


def _body(response: http.client.HTTPResponse) -> str:
    """A whole answer.

    Raises:
        ValueError: it has more than `MAX_BODY` bytes.
    """
    data = response.read(MAX_BODY + 1)
    if len(data) > MAX_BODY:
        raise ValueError("more than {0} bytes".format(MAX_BODY))
    return data.decode("utf-8", "replace")


def _read_stream(response: http.client.HTTPResponse, began: float, deadline_s: float) -> Completion:
    text, tokens, chunks, finished = "", 0, 0, False
    first = last = 0.0
    left = MAX_BODY
    while raw := response.readline(left + 1):
        now = time.monotonic()
        left -= len(raw)
        if left < 0:
            raise ProbeError("the completion's stream has more than {0} bytes".format(MAX_BODY), True)
        if now - began > deadline_s:
            raise ProbeError("the completion took more than {0:.1f} s ({1} tokens came)".format(deadline_s, chunks))
        line = raw.decode("utf-8", "replace").strip()
        if not line.startswith("data:"):
            continue
        payload = line[5:].strip()
        if payload == "[DONE]":
            finished = True
            break
        event = _event(payload)
        tokens = (event.get("usage") or {}).get("completion_tokens") or tokens
        # A chunk may be empty text: a token that is half a character, or the usage at the end (no choices).
        if event.get("choices"):
            text += event["choices"][0].get("text") or ""
            chunks += 1
            last = now
            first = first or now
    if not finished and time.monotonic() - began > deadline_s:
        raise ProbeError("the completion took more than {0:.1f} s ({1} tokens came)".format(deadline_s, chunks))
    if not finished:
        raise ProbeError("the completion's stream broke off after {0} chunks".format(chunks))
    tokens = tokens or chunks
    if not first or not tokens:
        raise ProbeError("the completion came back without a token", True)
    # The last chunk may carry only the reason for the end; the mean over tokens is off by less than one of them.
    per_token_s = (last - first) / (tokens - 1) if tokens > 1 else 0.0
    return Completion(text, tokens, first - began, per_token_s)


def _event(payload: str) -> Dict[str, Any]:
    try:
        event = json.loads(payload)
    except ValueError as error:
        raise ProbeError("the completion's stream holds no JSON: {0}".format(shorten(payload)), True) from error
    if not isinstance(event, dict) or "error" in event:
        raise ProbeError("the completion failed in its stream: {0}".format(shorten(payload)), True)
    return event


def check(client: Client, model: str, prompt: str, max_tokens: int, completions: int, deadline_s: float) -> Completion:
    """Model id, then greedy completions that must agree; returns the last one.

    Raises:
        ProbeError: another model, an error, or two greedy completions with different texts.
    """
    offered = client.models()
    if model not in offered:
        raise ProbeError("it serves {0}, wanted {1}".format(", ".join(offered) or "no model", model), True)
    results = [client.complete(model, prompt, max_tokens, deadline_s) for _ in range(max(1, completions))]
    texts = sorted({result.text for result in results})
    if len(texts) > 1:
        raise ProbeError("greedy completions of one prompt differ: {0!r} and {1!r}".format(texts[0], texts[1]), True)
    return results[-1]


def over_budget(completion: Completion, ttft_s: float, per_token_s: float) -> str:
    """Why a completion is too slow; empty if it is not. Limits in seconds."""
    if completion.ttft_s > ttft_s:
        return "time to first token {0:.2f} s, limit {1:.2f} s".format(completion.ttft_s, ttft_s)
    if completion.per_token_s > per_token_s:
        return "{0:.3f} s per token, limit {1:.3f} s".format(completion.per_token_s, per_token_s)
    return ""


def shorten(text: str, limit: int = 300) -> str:
    """Text as one line of at most `limit` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


def reason(error: Exception) -> str:
    """An exception of the network in words."""
    if isinstance(error, socket.timeout):
        return "no byte within the time limit"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
