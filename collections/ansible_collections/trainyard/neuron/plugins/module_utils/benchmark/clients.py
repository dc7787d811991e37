# SPDX-License-Identifier: Apache-2.0
"""The load generators: how each is started, and how its own output becomes one record for each request.

A record holds `index`, `model` (the name that was asked for), `outcome` (succeeded | failed | timed_out), `error`,
`http_status`, `started_at` (wall clock, seconds), `ttft_s`, `e2e_s`, `input_tokens`, `output_tokens`,
`requested_output_tokens`, `gaps_ms` (times between the pieces of a stream, where the client keeps them) and `late_s`
(open loop: how long after its time it started). Where the client says so, `client` has the process that sent it:
`host`, `process`, its `cpu_s` and the host's `host_idle_ratio`.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional

Record = Dict[str, Any]

_FIELDS = "index outcome http_status error started_at late_s requested_output_tokens input_tokens output_tokens"

#: Connections that one llmeter process drives with its own processor time still out of the latencies (measured on two
#: cores: at 32 streams of 50 tokens/s it uses half a core and TTFT is 3 % high, at 64 it is 34 % high).
LLMETER_STREAMS_PER_PROCESS = 32


@dataclass(frozen=True)
class Command:
    """One process of a client: its command line, its environment's additions, and how it is begun."""

    argv: List[str]
    environment: Dict[str, str] = field(default_factory=dict)
    waits_for_word: bool = False  # prints `ready`, then starts when told the time


class ClientError(Exception):
    """The client cannot do what was asked, or wrote something that is not its format."""


class Client:
    """A load generator. `home` is the directory of its environment, `work` the run's own directory."""

    name = ""
    distribution = ""
    #: Whether it can send from several hosts that make up one Ray cluster.
    spreads = False
    #: Whether its requests can ask for several names of a model in turn.
    mixes = True
    #: Whether its requests can go on from answers.
    converses = False

    def __init__(self, home: str, script: str = "") -> None:
        self.home = home
        self.script = script
        self.python = os.path.join(home, "bin", "python")  # noqa: PTH118 - Python 3.9 module code

    def version(self) -> str:
        """The version of the client's distribution in its own environment; an empty text where that cannot be had."""
        code = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"
        argv = [self.python, "-c", code, self.distribution]
        try:
            return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False).stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            return ""

    def check(self, load: Dict[str, Any]) -> None:
        """Raise `ClientError` for a load that this client cannot make."""
        if load.get("cluster") and not self.spreads:
            able = " or ".join(sorted(name for name, kind in CLIENTS.items() if kind.spreads))
            raise ClientError(f"{self.name} sends from one host: leave load_hosts at 1, or use {able}")
        if len(set(load.get("models") or ())) > 1 and not self.mixes:
            able = " or ".join(sorted(name for name, kind in CLIENTS.items() if kind.mixes))
            raise ClientError(f"{self.name} asks for one name: give models one, or use {able}")
        if load.get("turns", 1) > 1 and not self.converses:
            able = " or ".join(sorted(name for name, kind in CLIENTS.items() if kind.converses))
            raise ClientError(f"{self.name} sends requests that stand alone: leave turns at 1, or use {able}")

    def warm_up(self, load: Dict[str, Any], work: Path) -> List[Command]:
        """What to run before the servers' counters are read, where the client cannot warm up and then wait."""
        del load, work
        return []

    def commands(self, load: Dict[str, Any], work: Path) -> List[Command]:
        """The processes to run side by side."""
        raise NotImplementedError

    def records(self, work: Path) -> List[Record]:
        """One record for each request, read from what the client wrote in `work`."""
        raise NotImplementedError


class Llmeter(Client):
    """llmeter from PyPI, scheduled by our own small driver."""

    name = "llmeter"
    distribution = "llmeter"
    converses = True

    def commands(self, load: Dict[str, Any], work: Path) -> List[Command]:
        """One process for each 32 streams, but no more than there are processors."""
        (work / "load.json").write_text(json.dumps(load), encoding="utf-8")
        shards = max(1, min(os.cpu_count() or 1, math.ceil((load["concurrency"] or 1) / LLMETER_STREAMS_PER_PROCESS)))
        return [
            Command(
                [self.python, self.script, str(work / "load.json"), str(self._out(work, i)), f"--shard={i}/{shards}"],
                {"NO_PROXY": "*", "no_proxy": "*", "PYTHONDONTWRITEBYTECODE": "1"},
                waits_for_word=True,
            )
            for i in range(shards)
        ]

    @staticmethod
    def _out(work: Path, shard: int) -> Path:
        return work / f"llmeter-{shard}.jsonl"

    def records(self, work: Path) -> List[Record]:
        """Answers by index; a request that was sent and has no answer was cut short by the end of the run."""
        rows: Dict[int, Record] = {}
        for path in sorted(work.glob("llmeter-*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                if row.get("sent"):
                    rows.setdefault(row["index"], unanswered(row["index"]))
                else:
                    rows[row["index"]] = row
        return [rows[index] for index in sorted(rows)]


class Llmperf(Client):
    """LLMPerf with our patches; its own command line and its own files."""

    name = "llmperf"
    distribution = "ray"
    spreads = True

    def __init__(self, home: str, script: str = "") -> None:
        del script  # it has its own
        super().__init__(os.path.join(home, "venv"), os.path.join(home, "src", "token_benchmark_ray.py"))  # noqa: PTH118

    def check(self, load: Dict[str, Any]) -> None:
        """Closed loop only, and prompts of its own making."""
        super().check(load)
        if load["request_rate_per_s"]:
            raise ClientError("LLMPerf knows no open loop: leave request_rate_per_s at 0, or use another client")
        if load.get("dataset"):
            raise ClientError("LLMPerf makes its own prompts: leave dataset empty, or use another client")

    def commands(self, load: Dict[str, Any], work: Path) -> List[Command]:
        """token_benchmark_ray.py as its authors document it, with our --tokenizer, --warm-up and --request-timeout."""
        sampling = dict(load["sampling"])
        if load["ignore_eos"]:
            sampling["ignore_eos"] = True
        options = {
            "--model": load["model"],
            "--tokenizer": load["tokenizer"],
            "--mean-input-tokens": load["mean_input_tokens"],
            "--stddev-input-tokens": load["stddev_input_tokens"],
            "--mean-output-tokens": load["mean_output_tokens"],
            "--stddev-output-tokens": load["stddev_output_tokens"],
            "--max-num-completed-requests": load["requests"],
            "--num-concurrent-requests": load["concurrency"],
            "--timeout": int(load["run_timeout_s"]),
            "--request-timeout": load["timeout_s"],
            "--warm-up": load["warmup_requests"],
            "--seed": load["seed"],
            "--additional-sampling-params": json.dumps(sampling, sort_keys=True),
            "--llm-api": "openai",
            "--results-dir": str(work / "llmperf"),
        }
        argv = [self.python, self.script, "--wait-for-start"]
        argv += ["--models", json.dumps(list(load["models"]))] if load.get("models") else []
        argv += [str(part) for pair in options.items() for part in pair]
        environment = {
            "OPENAI_API_BASE": ";".join(url.rstrip("/") + "/v1" for url in load["urls"]),
            "OPENAI_API_KEY": load.get("api_key") or "EMPTY",
            "HF_HUB_OFFLINE": "1",
            "RAY_DISABLE_IMPORT_WARNING": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "NO_PROXY": "*",
            "no_proxy": "*",
        }
        cluster = load.get("cluster")
        if cluster:
            argv += ["--load-hosts", str(cluster["hosts"])]
            environment.update(RAY_ADDRESS=cluster["address"], RAY_AUTH_TOKEN_PATH=cluster["token_file"])
        else:  # a Ray of its own, which nobody else may join: its ports are open to the network
            environment["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        return [Command(argv, environment, waits_for_word=True)]

    def version(self) -> str:
        """The commit that the patches are for, and how it is run."""
        return "f1d6bed with trainyard's patches, ray " + super().version()

    def records(self, work: Path) -> List[Record]:
        """From its individual responses, which our patches make complete and time-stamped."""
        found = sorted((work / "llmperf").glob("*_individual_responses.json"))
        if len(found) != 1:
            raise ClientError(f"LLMPerf wrote {len(found)} files of individual responses in {work}, not one")
        rows = json.loads(found[0].read_text(encoding="utf-8"))
        return [self._record(index, row) for index, row in enumerate(rows)]

    @staticmethod
    def _record(index: int, row: Dict[str, Any]) -> Record:
        code = row.get("error_code")
        outcome = "succeeded" if code is None else "timed_out" if code == "timeout" else "failed"
        return {
            "index": row.get("request_index", index),
            "outcome": outcome,
            "http_status": code if isinstance(code, int) and code > 0 else (200 if code is None else None),
            "error": (row.get("error_msg") or str(code))[:500] if code is not None else None,
            "started_at": row.get("started_at"),
            "late_s": None,
            "requested_output_tokens": row.get("requested_output_tokens"),
            "input_tokens": row.get("server_input_tokens") or row.get("number_input_tokens"),
            "output_tokens": row.get("number_output_tokens"),
            "ttft_s": row.get("ttft_s") or None,
            "e2e_s": row.get("end_to_end_latency_s") or None,
            "gaps_ms": row.get("gaps_ms") or [],
            "client": row.get("client"),
        }


class VllmBench(Client):
    """`vllm bench serve`, which every vLLM environment has."""

    name = "vllm_bench"
    distribution = "vllm"
    mixes = False  # its own adapters are drawn at random, and no result says which

    def check(self, load: Dict[str, Any]) -> None:
        """It needs a target that is one URL."""
        super().check(load)
        if len(load["urls"]) > 1:
            raise ClientError("vllm bench serve takes one URL: give it the router's")
        if (
            load["stddev_input_tokens"] > load["mean_input_tokens"]
            or load["stddev_output_tokens"] > load["mean_output_tokens"]
        ):
            raise ClientError("vllm bench serve takes a range ratio below 1: the deviation must be below the mean")

    def warm_up(self, load: Dict[str, Any], work: Path) -> List[Command]:
        """A run of its own: its own --num-warmups sends requests that the servers count and it does not."""
        if not load["warmup_requests"]:
            return []
        aside = work / "warm-up"
        aside.mkdir(exist_ok=True)
        return self.commands({**load, "requests": load["warmup_requests"], "seed": load["seed"] - 1}, aside)

    def commands(self, load: Dict[str, Any], work: Path) -> List[Command]:
        """Random prompts; a normal deviation becomes a uniform range of the same deviation (half-width s * sqrt 3)."""
        ratio = max(
            load[f"stddev_{kind}_tokens"] * math.sqrt(3) / load[f"mean_{kind}_tokens"] for kind in ("input", "output")
        )
        options: Dict[str, Any] = {
            "--backend": "openai-chat",
            "--base-url": load["urls"][0].rstrip("/"),
            "--endpoint": "/v1/chat/completions",
            "--model": load["model"],
            "--tokenizer": load["tokenizer"],
            "--num-prompts": load["requests"],
            "--ready-check-timeout-sec": 0,
            "--seed": load["seed"],
            "--result-dir": str(work),
            "--result-filename": "vllm-bench.json",
            "--request-rate": load["request_rate_per_s"] or "inf",
        }
        if load.get("dataset"):
            options.update({"--dataset-name": "custom", "--dataset-path": load["dataset"]})
            options["--custom-output-len"] = load["mean_output_tokens"]
        else:
            options.update({"--dataset-name": "random", "--random-input-len": load["mean_input_tokens"]})
            options.update({"--random-output-len": load["mean_output_tokens"], "--random-range-ratio": round(ratio, 4)})
        if load["concurrency"]:
            options["--max-concurrency"] = load["concurrency"]
        if load["request_rate_per_s"] and load["arrival"] != "poisson":
            options["--burstiness"] = 1e6  # its evenly spaced arrivals: the limit of its gamma distribution
        for name in ("temperature", "top_p", "top_k"):
            if name in load["sampling"]:
                options["--" + name.replace("_", "-")] = load["sampling"][name]
        other = {k: v for k, v in load["sampling"].items() if k not in ("temperature", "top_p", "top_k")}
        if other:
            options["--extra-body"] = json.dumps(other, sort_keys=True)
        # As a module: the script `vllm` names the interpreter by the path that it was installed at.
        argv = [self.python, "-m", "vllm.entrypoints.cli.main", "bench", "serve", "--save-result", "--save-detailed"]
        argv += ["--disable-tqdm"] + (["--ignore-eos"] if load["ignore_eos"] else [])
        argv += [str(part) for pair in options.items() for part in pair]
        environment = {"OPENAI_API_KEY": load.get("api_key") or "none", "HF_HUB_OFFLINE": "1"}
        environment.update({"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "NO_PROXY": "*", "no_proxy": "*"})
        return [Command(argv, environment)]

    def records(self, work: Path) -> List[Record]:
        """From its detailed lists, one entry a request."""
        path = work / "vllm-bench.json"
        if not path.exists():
            raise ClientError("vllm bench serve wrote no result")
        data = json.loads(path.read_text(encoding="utf-8"))
        return [self._record(data, index) for index in range(len(data["ttfts"]))]

    @staticmethod
    def _record(data: Dict[str, Any], index: int) -> Record:
        def of(name: str) -> Any:
            values: Optional[List[Any]] = data.get(name)
            return values[index] if values and index < len(values) else None

        error, gaps, ttft = of("errors") or None, of("itls") or [], of("ttfts")
        tokens = of("output_lens") or 0
        failed = bool(error) or not tokens
        timed_out = bool(error) and "timeout" in str(error).lower()
        return {
            "index": index,
            "outcome": ("timed_out" if timed_out else "failed") if failed else "succeeded",
            "http_status": None if failed else 200,
            "error": str(error or "no output")[-500:] if failed else None,
            "started_at": of("start_times"),
            "late_s": None,
            "requested_output_tokens": None,
            "input_tokens": of("input_lens"),
            "output_tokens": tokens,
            "ttft_s": ttft or None,
            "e2e_s": None if failed else (ttft or 0.0) + sum(gaps),
            "gaps_ms": [round(gap * 1000, 2) for gap in gaps],
        }


def model_of(load: Record, index: int) -> str:
    """The name that a request asks for: the load's in turn, the model's own where there are none."""
    names = load.get("models") or [load["model"]]
    return str(names[index % len(names)])


CLIENTS = {kind.name: kind for kind in (Llmeter, Llmperf, VllmBench)}


def unanswered(index: int) -> Record:
    """The record of a request that was sent and never answered before the run's end."""
    row: Record = dict.fromkeys((_FIELDS + " ttft_s e2e_s gaps_ms").split())
    row.update(index=index, outcome="timed_out", error="no answer before the end of the run", gaps_ms=[])
    return row
