# SPDX-License-Identifier: Apache-2.0
"""The OpenAI-compatible interface of the simulated engine: what a client of vLLM sees."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import sys
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from . import rules
from .config import HostConfig
from .engine_client import EngineClient, EngineDeadError
from .http_server import Handler, HttpRequest, Reply
from .metrics import Metrics
from .settings import ServeSettings
from .tokenizer import Tokenizer

_DEFAULT_COMPLETION_TOKENS = 16
_NATURAL_TOKENS = (32, 256)


class RequestError(Exception):
    """A request that is answered with an error of the API."""

    def __init__(self, message: str, status: int = 400, kind: str = "BadRequestError") -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind

    def body(self) -> dict[str, Any]:
        """The error in the API's form."""
        return {
            "object": "error",
            "message": str(self),
            "type": self.kind,
            "param": None,
            "code": self.status,
        }


@dataclass
class Generation:
    """One sequence to generate. ``limit`` is in tokens; ``text_seed`` decides the words."""

    prompt_tokens: int
    limit: int
    natural: bool
    text_seed: str
    stop: list[str]
    arrived: float
    prompt: str = ""
    templated: str = ""
    produced: int = 0
    reason: str = "abort"


class Api:
    """Routes requests to the engine and counts what happens."""

    def __init__(self, host: HostConfig, settings: ServeSettings, engine: EngineClient, metrics: Metrics) -> None:
        self._host = host
        self._settings = settings
        self._engine = engine
        self._metrics = metrics
        self._tokenizer = Tokenizer.load(settings.model)
        self._created = int(time.time())
        self.draining = False
        self._get: dict[str, Handler] = {
            "/health": self._health,
            "/ping": self._health,
            "/version": self._version,
            "/v1/models": self._models,
            "/metrics": self._metrics_page,
            "/load": self._load,
        }
        self._post: dict[str, Handler] = {
            "/v1/completions": self._completions,
            "/v1/chat/completions": self._chat,
            "/tokenize": self._tokenize,
            "/ping": self._health,
        }

    @property
    def in_flight(self) -> int:
        """Requests that were taken and are not answered."""
        return self._engine.in_flight

    async def handle(self, request: HttpRequest, reply: Reply) -> None:
        """Answer one request."""
        routes = {"GET": self._get, "POST": self._post}.get(request.method, {})
        route = routes.get(request.path)
        if route is None:
            known = request.path in self._get or request.path in self._post
            await reply.send_json(405 if known else 404, {"detail": "Method Not Allowed" if known else "Not Found"})
            return
        key = self._settings.api_key
        asked = key and request.path.startswith("/v1") and rules.holds(self._host, "api-key")
        if asked and request.headers.get("authorization") != f"Bearer {key}":
            await reply.send_json(401, {"error": "Unauthorized"})
            return
        try:
            await route(request, reply)
        except RequestError as error:
            self._log_refusal(error)
            await reply.send_json(error.status, error.body())
        except EngineDeadError:
            self._notice()
            if not reply.started:
                await reply.send(500)
            else:
                reply.keep_alive = False
                raise ConnectionError("the engine is dead") from None

    def _log_refusal(self, error: RequestError) -> None:
        """As vLLM's handlers log what they refuse: with the client's own words (``Error with model %s``)."""
        if error.status == 404:
            body = error.body()
            words = f"object='error' message={body['message']!r} type={error.kind!r} param=None code={error.status}"
            self._log(f"Error with model {words}", "ERROR", "serving_engine.py:197")

    def _log(self, text: str, level: str, source: str) -> None:
        place = f"{source}]" if self._settings.vllm_version < (0, 8) else f"[{source}]"
        print(f"{level} {time.strftime('%m-%d %H:%M:%S')} {place} {text}", file=sys.stderr, flush=True)

    def _notice(self) -> None:
        """A request met the dead engine."""
        if rules.holds(self._host, "engine-death"):
            self._engine.noticed_dead.set()

    async def _health(self, _: HttpRequest, reply: Reply) -> None:
        if self._engine.dead:
            self._notice()
            await reply.send(503 if self._settings.vllm_version >= (0, 11) else 500)
        elif self._engine.stopped:
            await reply.send(200 if rules.holds(self._host, "hanging-engine") else 503)
        else:
            await reply.send(200 if rules.holds(self._host, "health") else 204)

    async def _version(self, _: HttpRequest, reply: Reply) -> None:
        await reply.send_json(200, {"version": self._settings.vllm})

    async def _load(self, _: HttpRequest, reply: Reply) -> None:
        await reply.send_json(200, {"server_load": self.in_flight})

    async def _models(self, _: HttpRequest, reply: Reply) -> None:
        cards: list[dict[str, Any]] = [
            {
                "id": name if rules.holds(self._host, "served-name") else self._settings.model,
                "object": "model",
                "created": self._created,
                "owned_by": "vllm",
                "root": self._settings.adapters.get(name, self._settings.model),
                "parent": self._settings.served_names[0] if name in self._settings.adapters else None,
                "max_model_len": self._settings.max_model_len,
                "permission": [],
            }
            for name in self._settings.names
        ]
        await reply.send_json(200, {"object": "list", "data": cards})

    async def _metrics_page(self, _: HttpRequest, reply: Reply) -> None:
        text = self._metrics.render()
        if not rules.holds(self._host, "metric-names"):
            text = text.replace("num_requests_running", "requests_running_now")
        await reply.send(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")

    async def _tokenize(self, request: HttpRequest, reply: Reply) -> None:
        body = _body(request)
        if "messages" in body:
            count = self._tokenizer.count_chat(_turns(body["messages"]))
        else:
            count = self._tokenizer.count(str(body.get("prompt", "")), leading=True)
        await reply.send_json(
            200, {"count": count, "max_model_len": self._settings.max_model_len, "tokens": list(range(count))}
        )

    async def _completions(self, request: HttpRequest, reply: Reply) -> None:
        body = self._checked(request)
        prompt = body.get("prompt")
        if prompt is None:
            raise RequestError("[{'type': 'missing', 'loc': ('body', 'prompt'), 'msg': 'Field required'}]")
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
            if len(prompt) != 1:
                raise RequestError("the lab's engine takes one prompt a request")
            prompt = prompt[0]
        count = len(prompt) if isinstance(prompt, list) else self._tokenizer.count(prompt, leading=True)
        limit = body.get("max_tokens", _DEFAULT_COMPLETION_TOKENS)
        generation = self._generation(request, body, json.dumps(prompt), count, limit)
        generation.templated = prompt if isinstance(prompt, str) else json.dumps(prompt)
        await self._answer(body, generation, reply, chat=False)

    async def _chat(self, request: HttpRequest, reply: Reply) -> None:
        body = self._checked(request)
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise RequestError("[{'type': 'missing', 'loc': ('body', 'messages'), 'msg': 'Field required'}]")
        turns = _turns(messages)
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        generation = self._generation(request, body, json.dumps(turns), self._tokenizer.count_chat(turns), limit)
        generation.templated = self._tokenizer.chat_text(turns)
        await self._answer(body, generation, reply, chat=True)

    def _checked(self, request: HttpRequest) -> dict[str, Any]:
        body = _body(request)
        if self.draining:
            raise RequestError("Server is shutting down", 503, "ServiceUnavailableError")
        model = body.get("model", self._settings.served_names[0])
        if model not in self._settings.names:
            raise RequestError(f"The model `{model}` does not exist.", 404, "NotFoundError")
        if int(body.get("n") or 1) != 1:
            raise RequestError("the lab's engine generates one sequence a request")
        return body

    def _generation(
        self, request: HttpRequest, body: dict[str, Any], text: str, prompt_tokens: int, limit: int | None
    ) -> Generation:
        longest = self._settings.max_model_len
        if limit is not None and int(limit) < 1:
            raise RequestError(f"max_tokens must be at least 1, got {limit}.")
        if prompt_tokens + (int(limit) if limit is not None else 1) > longest:
            wanted = int(limit) if limit is not None else 0
            raise RequestError(
                f"This model's maximum context length is {longest} tokens. However, you requested "
                f"{prompt_tokens + wanted} tokens ({prompt_tokens} in the messages, {wanted} in the completion). "
                "Please reduce the length of the messages or completion."
            )
        seed = str(body.get("seed")) if body.get("seed") is not None else ""
        sampled = float(body.get("temperature") or 0.0) > 0 or not rules.holds(self._host, "greedy")
        if sampled and not seed:
            seed = uuid.uuid4().hex
        if self._engine.confused:
            seed += "confused"
        if not rules.holds(self._host, "same-after-restart"):
            seed += str(os.getpid())
        # What an adapter answers is its own, and the same whatever the adapter is called.
        adapter = self._settings.adapters.get(str(body.get("model")), "")
        told = f"{text}|{seed}|{adapter}" if adapter else f"{text}|{seed}"
        text_seed = hashlib.sha256(told.encode()).hexdigest()
        natural = False
        if limit is None:
            chooser = random.Random(text_seed)  # noqa: S311 - a reproducible length, no secret
            natural = not body.get("ignore_eos", False)
            limit = min(longest - prompt_tokens, chooser.randint(*_NATURAL_TOKENS))
            if not natural:
                limit = longest - prompt_tokens
        stop = body.get("stop") or []
        stops = [stop] if isinstance(stop, str) else list(stop)
        return Generation(prompt_tokens, int(limit), natural, text_seed, stops, request.arrived, text)

    async def _tokens(self, generation: Generation) -> AsyncIterator[tuple[str, str | None]]:
        """The texts of a generation as the engine produces them; the last one carries the finish reason.

        The first thing that it yields has no text: then the request is in the engine.
        """
        metrics = self._metrics
        words = self._tokenizer.generate(generation.text_seed)
        if self._settings.log_requests:
            self._log(f"Received request {uuid.uuid4().hex}: prompt: {generation.prompt!r}", "INFO", "logger.py:39")
        size = self._settings.block_size if self._settings.caches_prefixes else 0
        blocks = self._tokenizer.blocks(generation.templated, size) if size else None
        metrics.prefix_queries += generation.prompt_tokens if size else 0
        request = self._engine.submit(generation.prompt_tokens, generation.limit, generation.arrived, blocks)
        text = ""
        last = first = generation.arrived
        stops = [stop for stop in generation.stop if stop]
        try:
            yield "", None
            while True:
                produced = await request.next()
                now = time.monotonic()
                self._engine.check_neighbours(now - generation.arrived)
                fresh = produced - generation.produced
                if generation.produced == 0:
                    first = now
                    # As vLLM does: a prompt counts when it has been read, so one that waits at a stuck engine does not.
                    metrics.prompt_tokens += generation.prompt_tokens
                    metrics.ttft.observe(now - generation.arrived)
                else:
                    metrics.itl.observe((now - last) / fresh, fresh)
                last = now
                piece = "".join(next(words)[1] for _ in range(fresh))
                generation.produced = produced
                metrics.generation_tokens += fresh
                reason: str | None = None
                if stops or size:
                    text += piece
                if produced >= generation.limit:
                    reason = "stop" if generation.natural else "length"
                elif stops and any(stop in text for stop in stops):
                    reason = "stop"
                if reason is not None:
                    generation.reason = reason
                    if size:
                        self._engine.keep(self._tokenizer.blocks(generation.templated + text.lstrip(), size))
                    metrics.e2e.observe(now - generation.arrived)
                    metrics.prefill.observe(first - generation.arrived)
                    metrics.decode.observe(now - first)
                    metrics.inference.observe(now - generation.arrived)
                    metrics.queue.observe(request.queue_seconds)
                    if produced > 1:
                        metrics.tpot.observe((now - first) / (produced - 1))
                yield piece, reason
                if reason is not None:
                    return
        finally:
            request.close()
            if rules.holds(self._host, "metric-counts"):
                metrics.finish(generation.reason, generation.prompt_tokens, generation.produced, generation.limit)

    async def _answer(self, body: dict[str, Any], generation: Generation, reply: Reply, *, chat: bool) -> None:
        shape = _Shape(body.get("model") or self._settings.served_names[0], chat, generation, self._settings)
        if body.get("stream"):
            await self._stream(body, generation, reply, shape)
            return
        text = ""
        tokens = self._tokens(generation)
        await anext(tokens)
        async for piece, _ in tokens:
            text += piece
        answer = shape.whole(text)
        if not rules.holds(self._host, "token-count"):
            answer["usage"]["completion_tokens"] += 1
        await reply.send_json(200, answer)

    async def _stream(self, body: dict[str, Any], generation: Generation, reply: Reply, shape: _Shape) -> None:
        options = body.get("stream_options") or {}
        usage, continuous = bool(options.get("include_usage")), bool(options.get("continuous_usage_stats"))
        tokens = self._tokens(generation)
        await anext(tokens)
        # Whatever can be made before the first token is there is made now: then only its text has to be filled in.
        reply.start_events()
        if shape.chat:
            role = {"role": "assistant", "content": ""}
            reply.event(shape.chunk(role, None, usage, continuous), more=True)
        before, after = shape.frame(usage)
        async for piece, reason in tokens:
            if reason is None and not continuous:
                reply.event(before + json.dumps(piece) + after)
                continue
            delta: Any = {"content": piece} if shape.chat else piece
            reply.event(shape.chunk(delta, reason, usage, continuous))
        if usage:
            reply.event(shape.usage_chunk(), more=True)
        if rules.holds(self._host, "stream-end"):
            reply.event("[DONE]", more=True)
        await reply.end()


@dataclass
class _Shape:
    """The JSON of one answer."""

    model: str
    chat: bool
    generation: Generation
    settings: ServeSettings
    created: int = field(default_factory=lambda: int(time.time()))
    key: str = field(default_factory=lambda: uuid.uuid4().hex)

    def _base(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {"id": f"{prefix}-{self.key}", "object": kind, "created": self.created, "model": self.model}

    def usage(self) -> dict[str, int]:
        """Tokens so far."""
        prompt, produced = self.generation.prompt_tokens, self.generation.produced
        return {"prompt_tokens": prompt, "total_tokens": prompt + produced, "completion_tokens": produced}

    def whole(self, text: str) -> dict[str, Any]:
        """An answer in one piece."""
        choice: dict[str, Any] = {"index": 0, "finish_reason": self.generation.reason, "stop_reason": None}
        choice["logprobs"] = None
        if self.chat:
            choice["message"] = {"role": "assistant", "content": text, "tool_calls": []}
        else:
            choice["text"] = text
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._base(kind), "choices": [choice], "usage": self.usage()}

    def chunk(self, delta: Any, reason: str | None, usage: bool, continuous: bool) -> str:
        """One piece of a stream."""
        choice: dict[str, Any] = {"index": 0, "delta" if self.chat else "text": delta, "logprobs": None}
        choice["finish_reason"] = reason
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        value = {**self._base(kind), "choices": [choice]}
        if usage:
            value["usage"] = self.usage() if continuous else None
        return json.dumps(value, separators=(",", ":"))

    def frame(self, usage: bool) -> tuple[str, str]:
        """What stands before and after the text in every piece of a stream that is not its last."""
        mark = "\0"
        text = self.chunk({"content": mark} if self.chat else mark, None, usage, continuous=False)
        before, _, after = text.partition(json.dumps(mark))
        return before, after

    def usage_chunk(self) -> str:
        """The last piece of a stream that asked for usage: no choices."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return json.dumps({**self._base(kind), "choices": [], "usage": self.usage()}, separators=(",", ":"))


def _body(request: HttpRequest) -> dict[str, Any]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestError("Unsupported Media Type: Only 'application/json' is allowed")
    try:
        value = json.loads(request.body)
    except ValueError:
        raise RequestError("[{'type': 'json_invalid', 'loc': ('body',), 'msg': 'JSON decode error'}]") from None
    if not isinstance(value, dict):
        raise RequestError("[{'type': 'model_attributes_type', 'loc': ('body',), 'msg': 'Input should be an object'}]")
    return value


def _turns(messages: list[Any]) -> list[tuple[str, str]]:
    """Role and text of each message; parts that are not text count for nothing."""
    turns = []
    for message in messages:
        if not isinstance(message, dict):
            raise RequestError(
                "[{'type': 'dict_type', 'loc': ('body', 'messages'), 'msg': 'Input should be an object'}]"
            )
        content = message.get("content")
        if isinstance(content, list):
            content = "".join(part.get("text", "") for part in content if isinstance(part, dict))
        turns.append((str(message.get("role", "user")), str(content or "")))
    return turns


async def wait_idle(api: Api, seconds: float) -> bool:
    """Wait until nothing is in flight; False when the time is over first."""
    end = time.monotonic() + seconds
    while api.in_flight:
        if time.monotonic() >= end:
            return False
        await asyncio.sleep(0.02)
    return True
