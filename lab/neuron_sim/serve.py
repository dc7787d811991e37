# SPDX-License-Identifier: Apache-2.0
"""vLLM's server commands on Neuron: parse as that generation does, own the cores, then serve.

With the ``simulated`` engine this process becomes the API server and starts the engine process; with ``vllm-cpu`` it
becomes the real vLLM.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys

from . import compiler, ownership, rules, sdk, settings, vllm_cpu, vllm_options
from .api import Api, wait_idle
from .bringup import BringUpError, bring_up, check_arguments
from .config import HostConfig, logical_nc_config
from .engine_client import EngineClient, EngineDeadError
from .hardware import instance_type
from .http_server import HttpServer
from .metrics import Metrics
from .settings import ServeSettings

_PATIENCE_OFF = 60.0  # of a server that drains although nobody told it to
_WATCHDOG_SECONDS = 5.0  # VLLM_WATCHDOG_TIME_S of vLLM's launcher


class StartError(Exception):
    """The server cannot start; the message is what it prints."""


def log(text: str) -> None:
    """A line of the server's log."""
    print(f"INFO {text}", file=sys.stderr, flush=True)


def _parse(host: HostConfig, command: str, argv: list[str], row: sdk.Release) -> tuple[argparse.Namespace, str]:
    """Options and model, or the refusals that come before anything else."""
    v0 = command == "api_server"
    parser = vllm_options.api_server_parser(row.vllm_version) if v0 else vllm_options.serve_parser(row.vllm_version)
    options = parser.parse_args(argv) if rules.holds(host, "serve-options") else parser.parse_known_args(argv)[0]
    if v0:
        return options, options.model
    if options.model != parser.get_default("model") and rules.holds(host, "model-is-positional"):
        raise StartError(
            "ValueError: With `vllm serve`, you should provide the model as a positional argument or in a config file "
            "instead of via the `--model` option."
        )
    return options, options.model_tag or options.model


def _listener(host: HostConfig, options: ServeSettings) -> socket.socket:
    """Bound, not yet listening: vLLM takes its port first and answers only when the engine is up."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if not rules.holds(host, "port-taken"):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((options.host, options.port))
    except OSError as error:
        raise StartError(f"OSError: {error}") from error
    return listener


def _claim(host: HostConfig, options: ServeSettings, row: sdk.Release) -> ownership.Claim:
    kind = instance_type(host.instance_type)
    variable = "NEURON_VISIBLE_DEVICES" if row.generation == sdk.NATIVE else "NEURON_RT_VISIBLE_CORES"
    return ownership.claim(
        host,
        kind.core_count(logical_nc_config(host)),
        default_count=options.tensor_parallel_size * options.data_parallel_size,
        variable=variable,
    )


async def _watch_engine(host: HostConfig, engine: EngineClient) -> None:
    """V1 looks after its engine every five seconds; V0 notices only when a request meets the dead engine."""
    while not engine.dead or not rules.holds(host, "engine-death"):
        await asyncio.sleep(_WATCHDOG_SECONDS)
    engine.noticed_dead.set()


async def _start_engine(engine: EngineClient, claim: ownership.Claim, stop: asyncio.Event) -> bool:
    """Start the engine; False when the server was told to stop meanwhile."""
    starting = asyncio.ensure_future(engine.start(claim))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        starting.cancel()
        await engine.stop()
        return False
    try:
        starting.result()
    except EngineDeadError:
        raise StartError(
            "RuntimeError: Engine process failed to start. See stack trace for the root cause."
            if engine.settings.vllm_version < (0, 10)
            else "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}"
        ) from None
    return True


async def _serve(host: HostConfig, options: ServeSettings, claim: ownership.Claim, listener: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    metrics = Metrics(options.served_names[0], options.vllm_version, options.max_model_len)
    engine = EngineClient(host, options, metrics)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    early = None if rules.holds(host, "silent-start") else await asyncio.start_server(_early, sock=listener.dup())
    if not await _start_engine(engine, claim, stop):
        return 0
    if early is not None:
        early.close()
    api = Api(host, options, engine, metrics)
    server = HttpServer(api.handle)
    log(f"Started server process [{os.getpid()}]")
    log("Waiting for application startup.")
    await server.start(listener)
    log("Application startup complete.")
    log(f"Uvicorn running on http://{options.host or '0.0.0.0'}:{options.port} (Press CTRL+C to quit)")  # noqa: S104
    waits = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(engine.noticed_dead.wait())]
    watchdog = asyncio.ensure_future(_watch_engine(host, engine)) if options.vllm_version >= (0, 10) else None
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for task in [*waits, *([watchdog] if watchdog else [])]:
        task.cancel()
    log("Shutting down")
    patience = options.shutdown_timeout_seconds
    if not rules.holds(host, "sigterm-streams"):
        patience = 0.0 if patience else _PATIENCE_OFF
    if stop.is_set() and patience > 0:
        # Drain: what runs goes on, what is new is refused.
        api.draining = True
        await wait_idle(api, patience)
        await asyncio.sleep(0)
    await server.close()
    if stop.is_set() and not rules.holds(host, "stop-frees"):
        os._exit(0)
    await engine.stop()
    log(f"Finished server process [{os.getpid()}]")
    # vLLM leaves its server this way after the engine's death as well: the status does not tell.
    rule = "stop-status" if stop.is_set() else "death-status"
    return 0 if rules.holds(host, rule) else 1


async def _early(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What a server would say that answers before its engine is up."""
    writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    await writer.drain()
    writer.close()


def _start(host: HostConfig, row: sdk.Release, command: str, argv: list[str]) -> int:
    options, model = _parse(host, command, argv, row)
    log(f"vLLM API server version {row.vllm}")
    config = compiler.load_model_config(model)
    serve = settings.from_options(options, row, model, config, host.latency)
    check_arguments(host, row, serve, config)
    listener = _listener(host, serve)
    claim = _claim(host, serve, row)
    if host.engine == "vllm-cpu":
        loaded = bring_up(host, row, serve, claim.cores)
        if loaded.broken:
            # The real vLLM behind this would answer the first request, which the hardware's could not.
            raise BringUpError(loaded.broken)
        listener.close()
        vllm_cpu.become(host, options, serve, claim)
    return asyncio.run(_serve(host, serve, claim, listener))


def main(host: HostConfig, argv: list[str], *, command: str, release: str) -> int:
    """Run the command; 0 after a clean stop, 1 when it cannot start, 2 for options that do not exist."""
    row = sdk.release(release)
    if command == "vllm":
        if argv[:1] in (["--version"], ["-v"]):
            print(row.vllm)
            return 0
        parser = argparse.ArgumentParser(prog="vllm", description="vLLM CLI", add_help=not argv[1:])
        parser.add_argument("subcommand", choices=("serve",))
        parser.parse_args(argv[:1])
        argv = argv[1:]
    try:
        return _start(host, row, command, argv)
    except compiler.ModelError as error:
        print(f"Traceback (most recent call last):\n{error}", file=sys.stderr)
    except (
        StartError,
        BringUpError,
        compiler.CompileError,
        ownership.CoresBusyError,
        ownership.CoreSelectionError,
        OSError,
    ) as error:
        print(error, file=sys.stderr)
    return 1
