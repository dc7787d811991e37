# SPDX-License-Identifier: Apache-2.0
"""What a replica says of itself: vLLM's own counters, read over HTTP, and how busy it is now."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.serving import exposition, probe

#: Our field -> vLLM's metric. The V0 and V1 engines use the same names for these.
COUNTERS = {
    "requests": "vllm:request_success_total",
    "prompt_tokens": exposition.PROMPT_TOKENS,
    "generation_tokens": exposition.GENERATION_TOKENS,
}
GAUGES = {
    "running": exposition.RUNNING,
    "waiting": exposition.WAITING,
    "process_started_at": "process_start_time_seconds",
}


class UnreachableError(Exception):
    """A server did not answer, or not as its API says; the text names the URL and the cause."""


@dataclass(frozen=True)
class Snapshot:
    """A replica's counters at one moment. Counts since its process started; tokens and requests, no unit else."""

    requests: float = 0.0
    prompt_tokens: float = 0.0
    generation_tokens: float = 0.0
    running: float = 0.0
    waiting: float = 0.0
    process_started_at: Optional[float] = None

    def as_dict(self) -> Dict[str, Optional[float]]:
        """The fields by name, ready for JSON."""
        return asdict(self)


def get(url: str, timeout_s: float = 10.0) -> str:
    """Body of a GET request; `UnreachableError` for anything but a 200 of bounded length in time."""
    base, path = url.rsplit("/", 1)
    try:
        return probe.Client(base, timeout_s=timeout_s).page("/" + path)
    except probe.ProbeError as error:
        raise UnreachableError(f"{url} {error}") from error


def snapshot_of(text: str) -> Snapshot:
    """The counters of one /metrics page; `UnreachableError` when it is not a vLLM server's."""
    totals = exposition.totals(text)
    missing = [name for name in COUNTERS.values() if name not in totals]
    # vLLM creates a labelled counter on its first use, so a fresh server may lack the requests' one.
    if COUNTERS["generation_tokens"] in missing and GAUGES["running"] not in totals:
        raise UnreachableError("the metrics page has none of vLLM's counters")
    fields = {field: totals.get(name, 0.0) for field, name in {**COUNTERS, **GAUGES}.items()}
    started = totals.get(GAUGES["process_started_at"])
    fields.pop("process_started_at")
    return Snapshot(process_started_at=started, **fields)


def read(url: str, timeout_s: float = 10.0) -> Snapshot:
    """The counters of the replica at `url` now."""
    try:
        return snapshot_of(get(url.rstrip("/") + "/metrics", timeout_s))
    except UnreachableError as error:
        raise UnreachableError(f"{url}: {error}" if url not in str(error) else str(error)) from error


def models(url: str, timeout_s: float = 10.0, api_key: str = "") -> List[str]:
    """The model ids that an OpenAI-compatible server names."""
    try:
        return probe.Client(url, api_key or None, timeout_s).models()
    except probe.ProbeError as error:
        raise UnreachableError(f"{url} is no OpenAI server that answers: {error}") from error


def settled(urls: Dict[str, str], timeout_s: float, pause_s: float = 0.5) -> Dict[str, Snapshot]:
    """Wait until no replica runs or holds a request and its counters stand still; then the counters by replica id.

    Raises `UnreachableError` with the busy replicas' names when `timeout_s` runs out: somebody else sends them work.
    """
    deadline = time.monotonic() + timeout_s
    before: Dict[str, Snapshot] = {}
    while True:
        now = {name: read(url) for name, url in urls.items()}
        busy = sorted(name for name, snap in now.items() if snap.running or snap.waiting)
        if not busy and now == before:
            return now
        if time.monotonic() > deadline:
            detail = ", ".join(f"{n} runs {now[n].running:.0f}, {now[n].waiting:.0f} wait" for n in busy)
            raise UnreachableError(f"not idle after {timeout_s:.0f} s: {detail or 'the counters still move'}")
        before = now
        time.sleep(pause_s)


#: Marks a client's processes with the run that they belong to.
RUN_VARIABLE = "TRAINYARD_BENCHMARK_RUN"


class Sampler(threading.Thread):
    """Reads, once a period, every replica's requests, and the processor use of the load host and of the client."""

    def __init__(self, urls: Dict[str, str], period_s: float, processes: Processes) -> None:
        super().__init__(daemon=True)
        self.urls = urls
        self.period_s = period_s
        self.processes = processes
        self.rows: List[Dict[str, Any]] = []
        self._halt = threading.Event()
        self._cpu = cpu_times()
        self._clients = (time.monotonic(), processes.seconds(), processes.waited())

    def run(self) -> None:
        """Sample until told to stop."""
        while not self._halt.wait(self.period_s):
            self.rows.append(self.sample())

    def sample(self) -> Dict[str, Any]:
        """One row: wall-clock time, [running, waiting] by replica (None where it did not answer), processor use."""
        row: Dict[str, Any] = {"at": round(time.time(), 3), "replicas": {}}
        for name, url in self.urls.items():
            try:
                snap = read(url, timeout_s=5.0)
                row["replicas"][name] = [snap.running, snap.waiting]
            except UnreachableError:
                row["replicas"][name] = None
        before, self._cpu = self._cpu, cpu_times()
        total = sum(self._cpu) - sum(before)
        row["host_idle_ratio"] = round((self._cpu[3] - before[3]) / total, 3) if total > 0 else None
        row["client_cores"], row["client_busiest"], row["client_wanted"] = self._client_use()
        return row

    def _client_use(self) -> Tuple[float, float, float]:
        """Processors since the last look: all processes' use, the busiest one's, what one used or waited for.

        An interpreter can want one at most.
        """
        then, old, old_waited = self._clients
        now = self._clients = (time.monotonic(), self.processes.seconds(), self.processes.waited())
        passed_s = max(1e-3, now[0] - then)
        used = {pid: (seconds - old.get(pid, 0.0)) / passed_s for pid, seconds in now[1].items()}
        waited = {pid: (now[2].get(pid, 0.0) - old_waited.get(pid, 0.0)) / passed_s for pid in used}
        wanted = max((max(used[pid], min(1.0, used[pid] + waited[pid])) for pid in used), default=0.0)
        return round(sum(used.values()), 3), round(max(used.values(), default=0.0), 3), round(wanted, 3)

    def stop(self) -> List[Dict[str, Any]]:
        """End the thread and hand over what it saw."""
        self._halt.set()
        self.join(timeout=10)
        return self.rows


def cpu_times() -> List[float]:
    """The machine's processor time by kind, in ticks (the first line of /proc/stat: user, nice, system, idle, ...)."""
    try:
        with open("/proc/stat", encoding="ascii") as stat:  # noqa: PTH123 - Python 3.9 module code
            return [float(part) for part in stat.readline().split()[1:9]]
    except (OSError, ValueError):
        return [0.0] * 8


class Processes:
    """All processes of a client, found by a mark in their environment: Ray's, for one, leave their parents behind."""

    def __init__(self, run: str) -> None:
        self._mark = f"{RUN_VARIABLE}={run}".encode()
        self._ours: Set[int] = set()

    def seconds(self) -> Dict[int, float]:
        """Processor seconds that each of them has used so far, as /proc shows them."""
        found = {}
        tick = os.sysconf("SC_CLK_TCK")
        alive = {int(entry.name) for entry in Path("/proc").glob("[0-9]*")}
        self._ours &= alive
        for pid in alive:
            try:
                if not self._is_ours(pid):
                    continue
                stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
                fields = stat.rpartition(")")[2].split()
                found[pid] = (float(fields[11]) + float(fields[12])) / tick
            except (OSError, IndexError, ValueError):
                continue  # it ended meanwhile, or it is somebody else's
        return found

    def waited(self) -> Dict[int, float]:
        """Seconds that each of those last found was ready and had no processor, all its threads together.

        Of a kernel that does not count it (proc_pid_schedstat) nothing is known, and 0 is said.
        """
        found = {}
        for pid in self._ours:
            found[pid] = 0.0
            for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                try:
                    found[pid] += int(path.read_text(encoding="ascii").split()[1]) / 1e9
                except (OSError, IndexError, ValueError):
                    continue  # it ended meanwhile
        return found

    def _is_ours(self, pid: int) -> bool:
        """Whether it has the mark; one without it is looked at again, since until its exec is over it shows none."""
        if pid not in self._ours and self._mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            self._ours.add(pid)
        return pid in self._ours
