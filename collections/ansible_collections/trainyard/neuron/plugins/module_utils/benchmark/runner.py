# SPDX-License-Identifier: Apache-2.0
"""One benchmark run on a load host: check, warm up, load, count, and leave a directory of evidence.

The order is what makes the figures comparable: the fleet must be idle; the client warms up; the servers' counters are
read when they stand still; the load runs while a sampler watches every replica; the counters are read again. So what
the servers counted in between is the load and nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import platform
import re
import resource
import selectors
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, TextIO, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.fields import sentence
from ansible_collections.trainyard.neuron.plugins.module_utils.plan.settings import LOAD

from . import clients, counters
from .presets import PRESETS

Options = Dict[str, Any]

_READY_TIMEOUT_S = 900.0
_STARTS_IN_S = 1.0
#: A load of less says nothing of a fleet.
SHORTEST_S = 60.0


class RunError(Exception):
    """The run cannot be done or trusted; the text says the cause, what was left, and what to do next."""


@dataclass(frozen=True)
class Fleet:
    """What the load goes to: the router's URL, the model, and every replica behind it by id."""

    url: str
    model: str
    replicas: Dict[str, str]
    api_key: str = ""


def within(load: Dict[str, Any], longest_s: float, idle_timeout_s: float) -> Dict[str, Any]:
    """The load, each of its repeats and its warm-up ended in time for all of it to fit.

    Args:
        load: with every field filled in.
        longest_s: what all of it may take; 0 is no limit.
        idle_timeout_s: what the fleet may take to become idle, before and after each repeat.

    Raises:
        RunError: there is no time for a load that says anything.
    """
    if not longest_s:
        return load
    parts = int(load["repeats"]) + (1 if load["warmup_requests"] else 0)
    each_s = longest_s / parts - 2 * idle_timeout_s
    if each_s < SHORTEST_S:
        least_s = parts * (SHORTEST_S + 2 * idle_timeout_s)
        raise RunError(
            f"{longest_s:.0f} s are left before the hosts leave, and {parts} parts of a load (repeats and warm-up) "
            f"need {least_s:.0f} s at least: extend the capacity block, or send fewer repeats"
        )
    return {**load, "run_timeout_s": min(float(load["run_timeout_s"]), each_s)}


def told_of_time(asked_s: float, given_s: float) -> List[str]:
    """Say that a load may take less than was asked for; nothing where it may not."""
    if given_s >= asked_s:
        return []
    return [f"ended after {given_s:.0f} s in place of {asked_s:.0f} s: the hosts leave with their capacity block"]


def resolve_load(given: Dict[str, Any], slots: int) -> Dict[str, Any]:
    """The load with every field filled in; `RunError` lists everything that is wrong with it.

    `preset` names a recipe's load, which the other fields change. `concurrency` 0 in closed loop becomes `slots`, the
    requests that all replicas together can run at once (batch x data parallelism); `rounds` makes `requests` that many
    for each stream; `warmup_requests` -1 becomes one for each stream.
    """
    values, wrong = LOAD.read(given, "load")
    given = given if isinstance(given, dict) else {}
    problems = [sentence(problem).partition(".")[2] or str(problem) for problem in wrong]
    load = {name: value for name, value in LOAD.defaults.items() if name != "preset"}
    load.update(PRESETS.get(values.get("preset") or "", {}))
    load.update({name: values[name] for name in given if name in load and name in values and given[name] is not None})
    if not load["request_rate_per_s"] and not load["concurrency"]:
        load["concurrency"] = slots
        if slots < 1:
            problems.append("concurrency: 0 means a stream for each sequence of the replicas; none says max_num_seqs")
    if load["rounds"]:
        load["requests"] = int(load["rounds"]) * int(load["concurrency"])
    if load["warmup_requests"] < 0:
        load["warmup_requests"] = min(load["requests"], load["concurrency"] or math.ceil(load["request_rate_per_s"]))
    if problems:
        raise RunError("benchmark_load: " + "; ".join(problems))
    return load


def check_fleet(fleet: Fleet, idle_timeout_s: float, models: Sequence[str] = ()) -> None:
    """The router serves the model, all replicas are healthy, nobody else sends traffic; `RunError` names all causes.

    `models` are the names that requests will ask for; empty is the model's own.
    """
    problems = []
    asked = list(dict.fromkeys(models)) or [fleet.model]
    try:
        served = counters.models(fleet.url, api_key=fleet.api_key)
        missing = [name for name in asked if name not in served]
        if missing:
            problems.append(f"{fleet.url} serves {', '.join(served) or 'no model'}, not {', '.join(missing)}")
    except counters.UnreachableError as error:
        problems.append(str(error))
    for name, url in sorted(fleet.replicas.items()):
        try:
            counters.get(url.rstrip("/") + "/health")
            counters.read(url)
        except counters.UnreachableError as error:
            problems.append(f"{name}: {error}")
    if not problems:
        try:
            counters.settled(fleet.replicas, idle_timeout_s)
        except counters.UnreachableError as error:
            problems.append(f"somebody else uses the fleet, {error}")
    if problems:
        raise RunError("the fleet is not ready for a benchmark, nothing was sent: " + "; ".join(problems))


class Process:
    """A client's process, its output in a file, able to wait for `ready` and to be told the time."""

    def __init__(self, command: clients.Command, log: Path, environment: Dict[str, str]) -> None:
        self.command = command
        self.log_path = log
        self.log = log.open("wb")
        waits = command.waits_for_word
        self.process = subprocess.Popen(  # the argv is ours
            command.argv,
            stdin=subprocess.PIPE if waits else subprocess.DEVNULL,
            stdout=subprocess.PIPE if waits else self.log,
            stderr=self.log,
            env={**os.environ, **environment, **command.environment},
            cwd=str(log.parent),
            start_new_session=True,  # so that the end of the run ends what the client started, too
        )

    def wait_ready(self, deadline: float) -> None:
        """Read its output until the line `ready`."""
        if not self.command.waits_for_word or self.process.stdout is None:
            return
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            text = b""
            while b"ready\n" not in text:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise RunError(f"the client was not ready in time; its output: {self.tail()}")
                piece = os.read(self.process.stdout.fileno(), 65536)
                self.log.write(piece)
                if not piece:
                    raise RunError(f"the client ended before it was ready; its output: {self.tail()}")
                text += piece

    def begin(self, at: float) -> None:
        """Tell it the wall-clock time at which all begin."""
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(f"{at:.6f}\n".encode())
                self.process.stdin.close()

    def finish(self, deadline: float) -> int:
        """Wait for its end, or end it and its children at the deadline; the exit status."""
        try:
            while self.process.stdout is not None and self.process.poll() is None:
                with selectors.DefaultSelector() as selector:
                    selector.register(self.process.stdout, selectors.EVENT_READ)
                    left = deadline - time.monotonic()
                    piece = os.read(self.process.stdout.fileno(), 65536) if selector.select(max(0.0, left)) else b""
                    self.log.write(piece)
                    if not piece:
                        break
            return self.process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return -1
        finally:
            self.end()

    def end(self) -> None:
        """Leave nothing of it behind."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self.log.close()

    def tail(self, size: int = 1500) -> str:
        """The end of its output, for a message."""
        if not self.log.closed:
            self.log.flush()
        text = self.log_path.read_bytes()[-size:].decode("utf-8", "replace").strip()
        return text or "(none)"


class Run:
    """A run in its own directory `root`; `execute` fills it and returns the summary that `run.json` holds."""

    def __init__(self, root: Path, fleet: Fleet, client: clients.Client, load: Options, options: Options) -> None:
        self.root = root
        self.fleet = fleet
        self.client = client
        self.load = load
        self.environment: Dict[str, str] = options.get("environment") or {}
        self.sample_period_s = float(options.get("sample_period_s") or 1.0)
        self.idle_timeout_s = float(options.get("idle_timeout_s") or 60.0)
        self.tokenizer = str(options.get("tokenizer") or "")
        self.cluster: Options = options.get("cluster") or {}

    def attach(self, named: bool) -> Tuple[Dict[str, Any], bool]:
        """The summary, and whether this call made the run.

        One load at a time leaves this host. A run of the same name that is under way (whoever began it may be gone) is
        waited for; one that was cut off is put aside, so that its evidence stays and nothing of it is counted. `named`
        says that the caller gave the name; a made-up one never waits.
        """
        self.root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.root.parent / ".load").open("a+", encoding="utf-8") as lock:
            self._take(lock, named)
            done = finished(self.root)
            if done is not None:
                return done[0], False
            put_aside(self.root)
            return self.execute(), True

    def _take(self, lock: TextIO, named: bool) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            other = lock.read().strip()
            if not named or other != self.root.name:
                raise RunError(f"run {other or 'of another'} is under way on this host, nothing was sent") from None
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(self.root.name)
        lock.flush()

    def execute(self) -> Dict[str, Any]:
        """Check, then every repeat; the directory is complete when `run.json` exists."""
        check_fleet(self.fleet, self.idle_timeout_s, self.load["models"])
        self.root.mkdir(mode=0o700, parents=True, exist_ok=False)  # the client's input holds the key
        began = time.time()
        repeats = [self._repeat(index) for index in range(int(self.load["repeats"]))]
        summary = {
            "version": 1,
            "run_id": self.root.name,
            "started_at": began,
            "ended_at": time.time(),
            "client": {
                "name": self.client.name,
                "version": self.client.version(),
                "python": platform.python_version(),
            },
            "load_host": {"name": platform.node(), "processors": os.cpu_count()},
            "fleet": {"url": self.fleet.url, "model": self.fleet.model, "replicas": self.fleet.replicas},
            "load": self.load,
            "repeats": repeats,
        }
        write_json(self.root / "run.json", summary)
        return summary

    def _repeat(self, index: int) -> Dict[str, Any]:
        work = self.root / f"repeat-{index}"
        work.mkdir()
        load = self._client_load(index)
        self.client.check(load)
        self._warm_up(self.client.warm_up(load, work), work)
        commands = self.client.commands(load, work)
        mark = f"{self.root}/{index}"
        with running(commands, work, {**self.environment, counters.RUN_VARIABLE: mark}) as processes:
            before = counters.settled(self.fleet.replicas, self.idle_timeout_s)
            mine = counters.Processes(mark)
            sampler = counters.Sampler(self.fleet.replicas, self.sample_period_s, mine)
            cpu_ready = sum(mine.seconds().values())
            cpu_before = children_cpu_s()
            sampler.start()
            at = time.time() + _STARTS_IN_S
            for process in processes:
                process.begin(at)
            deadline = time.monotonic() + _STARTS_IN_S + float(self.load["run_timeout_s"])
            status = [process.finish(deadline) for process in processes]
            ended = time.time()
        samples = sampler.stop()
        cpu_s = max(0.0, children_cpu_s() - cpu_before - cpu_ready)
        after = self._after()
        records = place_in_time(self.client.records(work), at)
        records = [{**row, "model": clients.model_of(load, row["index"])} for row in records]
        write_lines(work / "requests.jsonl", records)
        return {
            "index": index,
            "started_at": at,
            "ended_at": ended,
            "exit_status": status,
            "client_processes": len(commands),
            "client_cpu_cores": round(cpu_s / max(0.001, ended - at), 3),
            "client_argv": [self._hide(command.argv) for command in commands],
            "log_tail": "" if not any(status) else processes[0].tail(),
            "counters": {
                name: {"before": before[name].as_dict(), "after": after[name].as_dict() if name in after else None}
                for name in self.fleet.replicas
            },
            "samples": samples,
        }

    def _warm_up(self, commands: List[clients.Command], work: Path) -> None:
        if not commands:
            return
        with running(commands, work, self.environment) as processes:
            deadline = time.monotonic() + float(self.load["run_timeout_s"])
            if any(process.finish(deadline) for process in processes):
                raise RunError(f"the warm-up failed; the client's output: {processes[0].tail()}")

    def _after(self) -> Dict[str, counters.Snapshot]:
        try:
            return counters.settled(self.fleet.replicas, self.idle_timeout_s)
        except counters.UnreachableError:
            # A replica that died under the load is a finding, not a reason to lose the rest.
            found = {}
            for name, url in self.fleet.replicas.items():
                with contextlib.suppress(counters.UnreachableError):
                    found[name] = counters.read(url)
            return found

    def _client_load(self, index: int) -> Dict[str, Any]:
        urls = [self.fleet.url] if self.load["target"] == "router" else sorted(self.fleet.replicas.values())
        return {
            **self.load,
            "seed": int(self.load["seed"]) + index,
            "url": urls[0],
            "urls": urls,
            "model": clients.model_of({"models": self.load["models"], "model": self.fleet.model}, 0),
            "tokenizer": self.tokenizer,
            "cluster": self.cluster,
            "api_key": self.fleet.api_key,
        }

    def _hide(self, argv: List[str]) -> List[str]:
        return [part.replace(self.fleet.api_key, "***") if self.fleet.api_key else part for part in argv]


@contextlib.contextmanager
def running(commands: List[clients.Command], work: Path, environment: Dict[str, str]) -> Iterator[List[Process]]:
    """The client's processes, all of them ready; none of them, and nothing that they wrote aside, is left afterwards.

    What they write aside is nobody else's to read, and has a short path: Ray has sockets in it.
    """
    processes: List[Process] = []
    aside = tempfile.mkdtemp(prefix="trainyard-")
    try:
        for number, command in enumerate(commands):
            processes.append(Process(command, work / f"client-{number}.log", {**environment, "TMPDIR": aside}))
        deadline = time.monotonic() + _READY_TIMEOUT_S
        for process in processes:
            process.wait_ready(deadline)
        yield processes
    finally:
        for process in processes:
            process.end()
        shutil.rmtree(aside, ignore_errors=True)  # a process that still ends may write meanwhile


def place_in_time(records: List[clients.Record], at: float) -> List[clients.Record]:
    """Clients that stamp with a clock of their own are moved so that their first request starts with the load."""
    stamps = [r["started_at"] for r in records if r["started_at"] is not None]
    if not stamps or min(stamps) > 1e9:  # already wall-clock time
        return records
    shift = at - min(stamps)
    return [dict(r, started_at=r["started_at"] + shift) if r["started_at"] is not None else r for r in records]


def children_cpu_s() -> float:
    """Processor seconds of all ended child processes and theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def account(records: List[clients.Record]) -> Dict[str, int]:
    """How many were sent and what became of them."""
    counts = {"sent": len(records), "succeeded": 0, "failed": 0, "timed_out": 0}
    for row in records:
        counts[row["outcome"]] += 1
    return counts


def read_records(root: Path) -> List[clients.Record]:
    """Every record of a finished run, with its repeat."""
    rows = []
    for path in sorted(root.glob("repeat-*/requests.jsonl")):
        repeat = int(path.parent.name.split("-")[1])
        rows += [dict(json.loads(line), repeat=repeat) for line in path.read_text(encoding="utf-8").splitlines()]
    return rows


def pack(root: Path) -> Path:
    """The run's directory as one archive beside it, for the way to the controller."""
    archive = root.with_name(root.name + ".tar.gz")
    partial = archive.with_name(f"{archive.name}.{os.getpid()}")  # two callers may wait for the same run
    with tarfile.open(partial, "w:gz") as tar:
        tar.add(root, arcname=root.name, filter=without_secrets)
    partial.replace(archive)
    return archive


def without_secrets(entry: tarfile.TarInfo) -> Optional[tarfile.TarInfo]:
    """The client's input names the key: it stays on the host."""
    return None if entry.name.endswith("/load.json") else entry


def write_json(path: Path, data: Any) -> None:
    """Write whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(path)


def write_lines(path: Path, rows: List[clients.Record]) -> None:
    """One JSON document a line."""
    path.write_text("".join(json.dumps(row, sort_keys=True) + "\n" for row in rows), encoding="utf-8")


def new_id(label: str) -> str:
    """A name that no other run has: UTC time, what was measured, four random hex digits."""
    plain = re.sub(r"[^a-z0-9-]+", "-", label.lower()).strip("-") or "run"
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + plain + "-" + os.urandom(2).hex()


def slots_of(replicas: List[Dict[str, Any]]) -> int:
    """Sequences that all replicas together can run at once."""
    return sum(int(replica.get("max_num_seqs") or 0) for replica in replicas)


def by_id(replicas: List[Dict[str, Any]]) -> Dict[str, str]:
    """Each replica's URL by its id; `RunError` when two share an id or one has no URL."""
    found: Dict[str, str] = {}
    for replica in replicas:
        name, url = str(replica.get("id") or ""), str(replica.get("url") or "")
        if not name or not url or name in found:
            raise RunError(f"benchmark_replicas: {name or replica} needs an id of its own and a url")
        found[name] = url
    if not found:
        raise RunError("benchmark_replicas is empty: without the servers' own counters no result can be checked")
    return found


def put_aside(root: Path) -> None:
    """Move what a run of this name left when it was cut off; nothing where there is none."""
    if root.exists():
        number = len(list(root.parent.glob(f"{root.name}.cut-off-*"))) + 1
        root.rename(root.with_name(f"{root.name}.cut-off-{number}"))


def finished(root: Path) -> Optional[Tuple[Dict[str, Any], List[clients.Record]]]:
    """The summary and records of a run that an earlier call completed, or None."""
    if not (root / "run.json").exists():
        return None
    return json.loads((root / "run.json").read_text(encoding="utf-8")), read_records(root)
