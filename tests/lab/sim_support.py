# SPDX-License-Identifier: Apache-2.0
"""A stand-in host below a temporary directory, driven through its commands as an operator would."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Self

from lab.neuron_sim import config, install, sdk

TINY_MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 4,
    "vocab_size": 512,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(check: Any, seconds: float = 60.0) -> Any:
    """Poll until the check gives something true, and return that."""
    end = time.monotonic() + seconds
    while True:
        value = check()
        if value or time.monotonic() > end:
            assert value, f"still {value!r} after {seconds} s"
            return value
        time.sleep(0.02)


class Server:
    """A server process of the host under test, with its log."""

    def __init__(self, process: subprocess.Popen[str], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    @property
    def log(self) -> str:
        """What it printed so far."""
        return self._log.read_text()

    def request(self, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None) -> Any:
        """One request; the status and the text of the answer. Status 0: nothing listens."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=data,
            headers={"Content-Type": "application/json", **(headers or {})},
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - http on this machine
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except (urllib.error.URLError, ConnectionError):
            return 0, ""

    def json(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer of a request that must succeed."""
        status, text = self.request(path, body)
        assert status == 200, (status, text, self.log)
        return json.loads(text)

    def wait_ready(self, seconds: float = 60.0) -> Self:
        """Until /health answers 200."""
        eventually(lambda: self.process.poll() is not None or self.request("/health")[0] == 200, seconds)
        assert self.process.poll() is None, self.log
        return self

    def wait_exit(self, seconds: float = 60.0) -> int:
        """The exit status of what is to end by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(seconds)
        raise AssertionError(f"it runs on after {seconds:g} s: {self.log[-2000:]}")

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        lines = [line for line in self.request("/metrics")[1].splitlines() if line.startswith(f"vllm:{name}{{")]
        assert lines, f"no metric {name}"
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


class SimHost:
    """One host; ``stop`` ends whatever it still runs."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        self.settings = {"sdk_releases": ["2.23.0"], "time_scale": 0.0, "engine": "simulated", **settings}
        (root / "etc").mkdir(parents=True, exist_ok=True)
        (root / "etc/trainyard-lab.json").write_text(json.dumps(self.settings))
        self.config = config.load(root)
        install.install(self.config)
        self._servers: list[Server] = []
        self.model = self.make_model("model", TINY_MODEL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def make_model(self, name: str, settings: dict[str, Any]) -> Path:
        """A checkpoint directory with a configuration."""
        path = self.root / "data" / name
        path.mkdir(parents=True, exist_ok=True)
        (path / "config.json").write_text(json.dumps(settings))
        return path

    def venv(self, release: str | None = None) -> Path:
        """Where the release's commands are."""
        return self.config.path(sdk.release(release or self.settings["sdk_releases"][0]).venv) / "bin"

    def environment(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        """The environment of a command: nothing of the machine's Neuron or vLLM settings."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("NEURON", "VLLM", "BASE_COMP"))
        }
        return {**kept, "BASE_COMPILE_WORK_DIR": str(self.root / "tmp/nxd"), **(extra or {})}

    def run(self, *argv: str | Path, env: dict[str, str] | None = None, timeout: float = 30) -> Any:
        """Run a command to its end."""
        process = subprocess.Popen(
            [str(item) for item in argv],
            env=self.environment(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def neuron_ls(self, *argv: str) -> Any:
        """``neuron-ls`` as the host has it."""
        return self.run(self.config.path("/opt/aws/neuron/bin/neuron-ls"), *argv)

    def devices(self) -> list[dict[str, Any]]:
        """``neuron-ls -j``, parsed."""
        result: list[dict[str, Any]] = json.loads(self.neuron_ls("-j").stdout)
        return result

    def busy_devices(self) -> list[int]:
        """Devices that some process uses."""
        return [entry["neuron_device"] for entry in self.devices() if entry["neuron_processes"]]

    def owner_pids(self) -> set[int]:
        """Processes that use any device."""
        return {process["pid"] for entry in self.devices() for process in entry["neuron_processes"]}

    def start(self, *argv: str | Path, port: int, env: dict[str, str] | None = None) -> Server:
        """Start a server and return at once."""
        log = self.root / f"server-{port}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [str(item) for item in argv],
                env=self.environment(env),
                cwd=self.root,  # an empty artifact path of V0 means the working directory
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        server = Server(process, port, log)
        self._servers.append(server)
        return server

    def serve_v0(self, *extra: str, cores: str = "0-31", tp: int = 32, env: dict[str, str] | None = None) -> Server:
        """A replica of the first recipe: V0 fork, ``--device neuron``."""
        port = free_port()
        argv = [self.venv() / "python", "-m", "vllm.entrypoints.openai.api_server", "--model", self.model]
        argv += ["--max-num-seqs", "4", "--max-model-len", "8192", "--tensor-parallel-size", str(tp)]
        argv += ["--device", "neuron", "--use-v2-block-manager", "--port", str(port), "--host", "127.0.0.1", *extra]
        return self.start(*argv, port=port, env={"NEURON_RT_VISIBLE_CORES": cores, **(env or {})})

    def serve_v1(
        self, *extra: str, release: str = "2.27.0", cores: str = "0-15", tp: int = 16, env: dict[str, str] | None = None
    ) -> Server:
        """A replica of the second recipe: ``vllm serve`` with the plugin."""
        port = free_port()
        argv = [self.venv(release) / "vllm", "serve", self.model, "--max-num-seqs", "4", "--max-model-len", "4096"]
        argv += ["--tensor-parallel-size", str(tp), "--port", str(port), "--host", "127.0.0.1", *extra]
        variable = (
            "NEURON_VISIBLE_DEVICES" if sdk.release(release).generation == sdk.NATIVE else "NEURON_RT_VISIBLE_CORES"
        )
        return self.start(*argv, port=port, env={variable: cores, **(env or {})})

    def stop(self) -> None:
        """End every server of this host and what it left behind."""
        for server in self._servers:
            try:
                os.killpg(server.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            server.process.wait()
        eventually(lambda: not self.busy_devices())
        self._servers.clear()
