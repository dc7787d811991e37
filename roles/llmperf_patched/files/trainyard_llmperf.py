# SPDX-License-Identifier: Apache-2.0
"""What our patches call inside LLMPerf, as llmperf/trainyard.py. Each function belongs to the patch that it names."""

from __future__ import annotations

import itertools
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: How long the other load hosts may take to join.
JOIN_TIMEOUT_S = 180

#: What actors on other hosts are told of the environment: where to send, and how. Ray logs it, so no secret is in it.
SHARED = (
    "OPENAI_API_BASE",
    "PYTHONPATH",
    "HF_HUB_OFFLINE",
    "NO_PROXY",
    "no_proxy",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
    "TRAINYARD_BENCHMARK_RUN",
)

#: The command line's additions, set once by `remember`; the defaults are LLMPerf's own behaviour.
OPTIONS: Any = None

_DEFAULTS = {
    "tokenizer": "hf-internal-testing/llama-tokenizer",
    "seed": 11111,
    "request_timeout": 180.0,
    "warm_up": 0,
    "wait_for_start": False,
    "load_hosts": 1,
    "models": [],
}


def add_arguments(parser: Any) -> None:
    """Patch base: our options, beside LLMPerf's own."""
    parser.add_argument(
        "--tokenizer", default=_DEFAULTS["tokenizer"], help="Name or directory of the model's tokenizer."
    )
    parser.add_argument("--seed", type=int, default=_DEFAULTS["seed"], help="Another seed makes other prompts.")
    parser.add_argument(
        "--request-timeout",
        type=float,
        default=_DEFAULTS["request_timeout"],
        help="Seconds without a byte.",
    )
    parser.add_argument("--warm-up", type=int, default=0, help="Requests before the clock starts; not counted.")
    parser.add_argument(
        "--wait-for-start",
        action="store_true",
        help="Print `ready`, then read the time to begin at.",
    )
    parser.add_argument(
        "--load-hosts",
        type=int,
        default=1,
        help="Hosts of the Ray cluster that send; waited for.",
    )
    parser.add_argument(
        "--models",
        type=json.loads,
        default=[],
        help="JSON list of names that the requests ask for in turn, in place of --model.",
    )


def remember(options: Any) -> None:
    """Patch base: keep the parsed command line."""
    global OPTIONS
    OPTIONS = options


def option(name: str) -> Any:
    """The value of one of our options."""
    return getattr(OPTIONS, name, _DEFAULTS[name])


def model_of(model: str, index: int) -> str:
    """Patch models: the name that a request asks for, of `--models` in turn."""
    names = option("models") or [model]
    return str(names[index % len(names)])


def metadata(stream: int) -> dict[str, Any]:
    """Patch base: what a client actor, in a process of its own and maybe on another host, must know of a request."""
    return {
        "stream": stream,
        "request_timeout_s": option("request_timeout"),
        "key": os.environ.get("OPENAI_API_KEY"),
        "clocks": CLOCKS,
    }


def long_enough(least: int, draw: Callable[[], int]) -> int:
    """Patch short-prompts: a drawn length of at least `least` tokens; the program ends where there is none."""
    for _ in range(1000):
        if (drawn := draw()) >= least:
            return drawn
    sys.exit(f"a prompt of LLMPerf's has at least {least} tokens: ask for more input tokens; nothing was sent")


def shared_environment() -> dict[str, str]:
    """Patch environment: what actors are given through Ray, besides what those of this host inherit."""
    return {name: os.environ[name] for name in SHARED if name in os.environ}


#: How far each load host's clock is ahead of this one's, seconds by host name; empty where there is one host.
CLOCKS: dict[str, float] = {}
_NODES: list[str] = []
_TURNS = itertools.count()


def placed(client: Any) -> Any:
    """Patch spread: the client, to be made on the load host whose turn it is."""
    if option("load_hosts") < 2:
        return client
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not _NODES:
        _NODES.extend(joined_hosts(option("load_hosts")))
        CLOCKS.update(clocks_of(_NODES))
    node = _NODES[next(_TURNS) % len(_NODES)]
    return client.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))


def joined_hosts(wanted: int) -> list[str]:
    """Patch spread: the cluster's hosts, sorted, once `wanted` have joined; the program ends when they do not."""
    import ray

    deadline = time.monotonic() + JOIN_TIMEOUT_S
    while True:
        alive = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
        if len(alive) >= wanted:
            return sorted(alive, key=lambda name: (alive[name], name))[:wanted]
        if time.monotonic() > deadline:
            there = f"{len(alive)} of {wanted} load hosts joined within {JOIN_TIMEOUT_S} s"
            sys.exit(f"{there} ({', '.join(sorted(alive.values()))}): nothing was sent")
        time.sleep(0.5)


def clocks_of(nodes: list[str]) -> dict[str, float]:
    """Patch spread: seconds that each host's clock is ahead of this one's, of five looks the one that took least."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    @ray.remote
    class Clock:
        def read(self) -> tuple[str, float]:
            return platform.node(), time.time()

    found = {}
    for node in nodes:
        clock = Clock.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote()
        looks = []
        for _ in range(6):
            began = time.time()
            name, there = ray.get(clock.read.remote())
            ended = time.time()
            looks.append((ended - began, there - (began + ended) / 2))
        found[name] = min(looks[1:])[1]  # the first one waited for the process
        ray.kill(clock)
    return found


class Usage:
    """Patch accounts: when a request was sent, by which process, and how busy that and its host were meanwhile."""

    def __init__(self, client: Any, request: Any) -> None:
        ahead_s = (getattr(request, "metadata", None) or {}).get("clocks", {}).get(platform.node(), 0.0)
        self._client = client
        self._began = time.monotonic()
        self._began_at = time.time() - ahead_s
        self._cpu_s = time.process_time()
        self._host = host_ticks()

    def until_now(self) -> dict[str, Any]:
        """The record's fields: wall clock of the first load host, processor seconds, the host's free share (0 to 1)."""
        now = host_ticks()
        total = sum(now) - sum(self._host)
        return {
            "started_at": self._began_at + sent_at(self._client, self._began) - self._began,
            "client": {
                "host": platform.node(),
                "process": os.getpid(),
                "cpu_s": round(time.process_time() - self._cpu_s, 6),
                "host_idle_ratio": round((now[3] - self._host[3]) / total, 4) if total > 0 else None,
            },
        }


def host_ticks() -> list[float]:
    """Patch accounts: the host's processor time by kind (user, nice, system, idle, ...), ticks since it started."""
    with Path("/proc/stat").open(encoding="ascii") as stat:
        return [float(part) for part in stat.readline().split()[1:9]]


def endpoint(client: Any, request: Any) -> str | None:
    """Patch endpoints: the next of OPENAI_API_BASE's, split on `;`.

    Each stream has a client of its own that takes the endpoints in turn. Stream i begins at endpoint i, so that at any
    time as many streams are at one as at another; without that offset all march from one endpoint to the next together.
    """
    base = os.environ.get("OPENAI_API_BASE")
    if not base:
        return base
    endpoints = [part.strip() for part in base.split(";") if part.strip()]
    turn = getattr(client, "_trainyard_turn", itertools.count())
    client._trainyard_turn = turn
    return endpoints[((request.metadata or {}).get("stream", 0) + next(turn)) % len(endpoints)]


def session(client: Any) -> Any:
    """Patch session: the stream's own connections, which stay open between requests and note when one is sent."""
    import requests

    if not hasattr(client, "_trainyard_session"):
        client._trainyard_session = requests.Session()
        for scheme in ("http://", "https://"):
            note_sending(client, client._trainyard_session.get_adapter(scheme).poolmanager)
    return client._trainyard_session


def note_sending(client: Any, connections: Any) -> None:
    """Patch session: have a pool's connections note on `client` when they give something to the socket.

    What a request costs before that, and its wait for a processor that many streams share, is no time of the server's.
    """

    def noting(pool: Any) -> Any:
        class Connection(pool.ConnectionCls):  # type: ignore[misc]
            def send(self, data: Any) -> None:
                client._trainyard_sent = time.monotonic()
                super().send(data)

        return type("Pool", (pool,), {"ConnectionCls": Connection})

    kinds = connections.pool_classes_by_scheme
    connections.pool_classes_by_scheme = {scheme: noting(pool) for scheme, pool in kinds.items()}


def sent_at(client: Any, began: float) -> float:
    """Patch session: when the request that was begun at `began` was sent, both on the monotonic clock, seconds."""
    return max(began, getattr(client, "_trainyard_sent", began))


def text_of(delta: dict[str, Any]) -> str | None:
    """Patch reasoning: the text of a piece, whether the model thinks or answers."""
    return delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")


def error_code(error: Exception, code: Any) -> Any:
    """Patch failures: never None, which would mean success; a time-out has a code of its own."""
    if "timeout" in type(error).__name__.lower() or "timed out" in str(error).lower():
        return "timeout"
    return -1 if code is None else code


def run_request(launcher: Any, request: Any, renew: Callable[[], Any]) -> tuple[list[Any], Any]:
    """Patch failures: one request's results and the launcher for the next one.

    A client actor that dies would take its stream with it: the request is recorded as failed and a new client is made.
    """
    try:
        launcher.launch_requests(request)
        return launcher.get_next_ready(), launcher
    except Exception as error:  # noqa: BLE001 - whatever killed the actor, the stream goes on
        lost = {
            "error_code": error_code(error, -1),
            "error_msg": f"{type(error).__name__}: {error}"[:500],
            "inter_token_latency_s": 0,
            "ttft_s": 0,
            "end_to_end_latency_s": 0,
            "request_output_throughput_token_per_s": 0,
            "number_total_tokens": 0,
            "number_output_tokens": 0,
            "number_input_tokens": request.prompt[1],
        }
        return [(lost, "", request)], renew()


class Jobs:
    """Patch exact: every request's number once, none after the deadline."""

    def __init__(self, count: int) -> None:
        self._numbers = iter(range(count))
        self._lock = threading.Lock()

    def take(self, deadline: float) -> int | None:
        """The next number, or None when there is no more or `deadline` (monotonic seconds) is over."""
        with self._lock:
            return None if time.monotonic() >= deadline else next(self._numbers, None)


def ready_clients(construct: Callable[..., list[Any]], llm_api: str, streams: int) -> list[list[Any]]:
    """Patch clock: a client actor for each stream, every one of them up."""
    import ray

    pool = [construct(llm_api=llm_api, num_clients=1) for _ in range(streams)]
    ray.get([actor.__ray_ready__.remote() for clients in pool for actor in clients])
    return pool


def warm_up(pool: list[list[Any]], requests: list[Any]) -> None:
    """Patch clock: send each stream's requests side by side, and forget what came back."""
    import ray

    actors = itertools.cycle([actor for clients in pool for actor in clients])
    ray.get([next(actors).llm_request.remote(request) for request in requests])


def wait_for_start() -> None:
    """Patch clock: say that all is ready, and wait for the time to begin, where that was asked for."""
    if not option("wait_for_start"):
        return
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    line = sys.stdin.readline()
    if not line:
        sys.exit("whoever was to say when to start is gone: nothing was sent")
    time.sleep(max(0.0, float(line) - time.time()) if line.strip() else 0.0)


def unique_name(name: str, streams: int) -> str:
    """Patch names: streams and time, so that no run of a sweep replaces another's results."""
    return f"{name}_{streams}_{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}_{os.getpid()}"


def settle_accounts(asked: int, answers: list[dict[str, Any]]) -> None:
    """Patch accounts: exit with 3 when not every request that was asked for has a record."""
    failed = sum(1 for answer in answers if answer.get("error_code") is not None)
    print(f"Requests: {asked} asked for, {len(answers)} recorded, {failed} of them failed")  # noqa: T201
    if len(answers) != asked:
        sys.exit(3)
