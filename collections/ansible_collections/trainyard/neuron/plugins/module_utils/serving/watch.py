# SPDX-License-Identifier: Apache-2.0
"""The standing probe of a host: watches every replica, answers the router's agent checks, ends what is stuck.

One process for all replicas (``trainyard-probe.service``), as the user that they run as: ending a stuck server is a
signal to a process of that user, and systemd starts it again. It follows releases by itself.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple

from . import adapters, exposition, fence, phases, probe, settings, slices, trusted
from .engines import Engines
from .judge import Judge, Limits, Sample, Verdict
from .settings import Replica, ServingError

TICK_S = 1.0
METRICS_TIMEOUT_S = 5.0
#: More requests than this are not told apart; the number is the server's own word, infinity too.
MOST_REQUESTS = 1e9
STATE = Path("/run/trainyard-probe")
ENDED = ".ended"

Say = Callable[[str], None]


def counters(text: str) -> Tuple[int, float]:
    """Requests in the engine, and tokens read and generated so far, from vLLM's metrics page."""
    found = exposition.totals(text)
    wanted = found.get(exposition.RUNNING, 0.0) + found.get(exposition.WAITING, 0.0)
    tokens = found.get(exposition.PROMPT_TOKENS, 0.0) + found.get(exposition.GENERATION_TOKENS, 0.0)
    return int(min(max(wanted, 0.0), MOST_REQUESTS)), tokens


def key_of(pid: int) -> Optional[str]:
    """The key that a running server asks for; in a roll its neighbour may ask for another, or for none."""
    return slices.environment_of(pid).get("VLLM_API_KEY") if pid else None


class Watcher(threading.Thread):
    """Watches one replica until it is told to end.

    Args:
        replica: what to watch.
        limits: when to act.
        say: takes a line for the journal.
    """

    def __init__(self, replica: Replica, limits: Limits, say: Say) -> None:
        super().__init__(daemon=True, name=replica.name)
        self.replica = replica
        self.say = say
        self.judge = Judge(limits)
        self.verdict = Verdict(False, "not looked at yet")
        self.progress = phases.Progress()
        self.over = threading.Event()
        self.listener = _listen(replica)
        self._engines = Engines()

    def run(self) -> None:
        """Look once a second, and at once when an engine ends; answers of the agent run beside it."""
        if self.listener:
            threading.Thread(target=self._answer, daemon=True).start()
        due = time.monotonic() + TICK_S
        while not self.over.is_set():
            dead = self._engines.wait(max(0.0, due - time.monotonic()), self.over)
            if self.over.is_set():
                break
            now = time.monotonic()
            if not dead:
                # What a look takes is no part of the time to the next one: on a busy host that would add up.
                due = max(due + TICK_S, now)
            try:
                if dead:
                    self._engine_ended(dead)
                else:
                    self.tick(now)
            except Exception as error:  # noqa: BLE001 (a watch that ended would leave its last word standing, "up")
                self._take(Verdict(False, "the probe cannot judge it: {0!r}".format(error)))
        self._engines.close()

    def stop(self) -> None:
        """End the watch and give the agent's port free."""
        self.over.set()
        if self.listener:
            # Closing alone would leave the port with a thread that waits in accept().
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
        self.join(2 * TICK_S + METRICS_TIMEOUT_S)

    def tick(self, now: float) -> None:
        """One look, and what follows from it."""
        self._engines.follow(self.replica)
        verdict = self.judge.look(now, self._sample())
        # A stalled one leaves rotation before it is asked, not when the time for its answer is over.
        self._take(verdict)
        if verdict.ask:
            verdict = self.judge.asked(time.monotonic(), self._ask())
            self._take(verdict)
        if verdict.restart:
            self.end(verdict.reason)

    def _engine_ended(self, pid: int) -> None:
        # Such a server answers on for seconds, each time with an error; without its port the router sends elsewhere.
        reason = "its engine, process {0}, ended".format(pid)
        if not self._stopping():
            self.end(reason)
        self._take(Verdict(False, reason))

    def _take(self, verdict: Verdict) -> None:
        if (verdict.up, verdict.reason) != (self.verdict.up, self.verdict.reason):
            self.say("{0}: {1}".format(self.replica.name, "serving" if verdict.up else verdict.reason))
        self.verdict = verdict
        self._publish()

    def agent_line(self) -> bytes:
        """What HAProxy's agent check gets. Never ``ready``: that would undo a drain that an operator asked for."""
        reason = leaving() or ("" if self.verdict.up else self.verdict.reason)
        return "down #{0}\n".format(reason).encode("ascii", "replace") if reason else b"up\n"

    def log_line(self, line: str, invocation: str = "") -> None:
        """Take one line of the replica's log: the progress of a start, and the sign of a compile that nobody asked for.

        A server that has answered logs what its clients send, so nothing that it says counts from then on: a start
        ends with its gate, and a line decides only while the port is still closed to everybody.

        Args:
            line: the line.
            invocation: systemd's id of the start that it belongs to.
        """
        if self._gated():
            return
        self.progress = phases.follow(self.progress, line)
        artifact = self.replica.artifact_path
        shown = [artifact, str(adapters.view_of(self.replica))] if artifact else []
        compiles = any(phases.compiles(line, path) for path in shown)
        if compiles and self._is_of_this_start(invocation) and self._is_shut():
            self.end("it began to compile instead of loading {0}".format(artifact))

    def _gated(self) -> bool:
        """Whether this start has passed its gate."""
        return trusted.there(self.replica.scratch / "gate.json")

    def _is_of_this_start(self, invocation: str) -> bool:
        pid = self._pid()
        return bool(invocation) and bool(pid) and slices.environment_of(pid).get("INVOCATION_ID") == invocation

    def _is_shut(self) -> bool:
        """Whether nobody can have sent the server anything: vLLM listens only when its engine is up."""
        try:
            with socket.create_connection(self.replica.listens_on, timeout=TICK_S):
                return False
        except ConnectionRefusedError:
            return True
        except OSError:
            return False

    def end(self, reason: str) -> None:
        """End the server, for systemd to start it again; `explain` takes the reason from a file of the probe's."""
        pid = self._pid()
        if not pid:
            return
        self.say("{0}: ending process {1}: {2}".format(self.replica.name, pid, reason))
        invocation = slices.environment_of(pid).get("INVOCATION_ID", "")
        _write(STATE / (self.replica.name + ENDED), json.dumps({"invocation": invocation, "reason": reason}))
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError as error:
            self.say("{0}: process {1} could not be ended: {2}".format(self.replica.name, pid, error.strerror))

    def _sample(self) -> Sample:
        pid = self._pid()
        if not self._gated() or not pid or self._stopping():
            return Sample(gated=False)
        text = probe.Client(self.replica.url, key_of(pid), METRICS_TIMEOUT_S).text("/metrics")
        if text is None:
            return Sample(gated=True, answers=False)
        wanted, tokens = counters(text)
        return Sample(True, True, wanted, tokens)

    def _stopping(self) -> bool:
        """Whether somebody asked systemd to stop it: its server may then finish what it began, engine or not."""
        return trusted.there(self.replica.scratch / "stopping")

    def _ask(self) -> str:
        limit_s = self.judge.limits.deadline_s
        client = probe.Client(self.replica.url, key_of(self._pid()), limit_s)
        try:
            client.complete(self.replica.served_name, self.replica.gate.prompt, 1, limit_s)
        except probe.ProbeError as error:
            return str(error)
        return ""

    def _pid(self) -> int:
        """Process id of the server, 0 if it does not run; a number that another process got since does not count."""
        try:
            pid = int(trusted.read_text(self.replica.scratch / "pid"))
        except (OSError, ValueError):
            return 0
        return pid if slices.environment_of(pid).get("TRAINYARD_REPLICA") == self.replica.name else 0

    def _publish(self) -> None:
        row = {
            "up": self.verdict.up,
            "reason": self.verdict.reason,
            "progress": str(self.progress),
            "restarts": len(self.judge.restarts_at),
        }
        if STATE.is_dir():
            _write(STATE / (self.replica.name + ".json"), json.dumps(row))

    def _answer(self) -> None:
        if self.listener is None:
            raise AssertionError("run() starts this with a listener only")
        while not self.over.is_set():
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            with link:
                try:
                    link.settimeout(1.0)
                    link.sendall(self.agent_line())
                except OSError:
                    continue


def _listen(replica: Replica) -> Optional[socket.socket]:
    if not replica.agent_port:
        return None
    host = replica.listens_on[0]
    if not fence.holds("agents", replica.agent_port):
        # A release is there before the fence is loaded for it, and what answers everybody waits.
        raise ServingError(
            "the agent of {0} does not listen on {1}: the fence was not loaded for it. It does so by itself; or: "
            "systemctl restart {2}".format(replica.name, replica.agent_port, fence.UNIT)
        )
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, replica.agent_port))
    except OSError as error:
        listener.close()
        said = "the agent of {0} cannot listen on {1}:{2}: {3}"
        raise ServingError(said.format(replica.name, host, replica.agent_port, error.strerror)) from error
    listener.listen(32)
    return listener


def _write(path: Path, text: str) -> None:
    try:
        # Gates and people read it, whoever the probe runs as.
        trusted.write_text(path, text + "\n", 0o644)
    except OSError:
        # The directory goes with the probe, which may be stopped at any moment.
        return


def read_state(name: str) -> Dict[str, object]:
    """What the standing probe last said of a replica; empty if it does not run, or its file is broken."""
    try:
        return state(name)
    except ServingError:
        return {}


def state(name: str) -> Dict[str, object]:
    """What the standing probe last said of a replica; empty if it said nothing.

    Raises:
        ServingError: what it wrote is broken.
    """
    return _said(STATE / (name + ".json"))


def ended_by_probe(name: str, invocation: str) -> str:
    """Why the standing probe ended a replica in this start; empty if it did not.

    Args:
        name: the replica.
        invocation: systemd's id of the start.
    """
    try:
        row = _said(STATE / (name + ENDED))
    except ServingError:
        return ""
    return str(row.get("reason", "")) if row.get("invocation") == invocation else ""


def _said(path: Path) -> Dict[str, object]:
    try:
        row = json.loads(trusted.read_text(path))
        if not isinstance(row, dict):
            raise ValueError("no record of the probe's")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        said = "what the probe saw is not known, {0} is broken ({1}); `systemctl restart trainyard-probe`"
        raise ServingError(said.format(path, settings.words(error))) from error
    return row


def leaving() -> str:
    """Why this host is on its way out of service; empty if it is not."""
    try:
        return trusted.read_text(settings.LEAVING).strip() or "leaving"
    except (OSError, ValueError):
        return "leaving" if settings.LEAVING.exists() else ""


class Host:
    """All watchers of a host, renewed when the release changes."""

    def __init__(self, say: Say, alive: Callable[[], None] = lambda: None) -> None:
        self.say = say
        self._alive = alive
        self.watchers: Dict[str, Watcher] = {}
        self._links: Dict[str, str] = {}
        self._problems: Dict[str, str] = {}

    def refresh(self) -> None:
        """Watch what the current release has, with its settings; leaves alone what did not change.

        One replica that cannot be watched is told of once and tried again; the others are watched all the same.
        """
        # Each replica has a link of its own, and a roll moves one at a time.
        links = {name: os.path.realpath(settings.CONFIGURATION / (name + ".json")) for name in settings.configured()}
        if links == self._links:
            return
        problems: Dict[str, str] = {}
        wanted = self._readable(links, problems)
        for name in list(self.watchers):
            if wanted.get(name) != self.watchers[name].replica:
                self.watchers.pop(name).stop()
                self._alive()
        for name, replica in wanted.items():
            if name not in self.watchers:
                self._begin(name, replica, problems)
        for name, problem in problems.items():
            if self._problems.get(name) != problem:
                self.say("{0} is not watched as it should be: {1}".format(name, problem))
        self._problems = problems
        self._links = {} if problems else links

    def _readable(self, names: Iterable[str], problems: Dict[str, str]) -> Dict[str, Replica]:
        wanted: Dict[str, Replica] = {}
        for name in names:
            try:
                wanted[name] = settings.load(name)
            except ServingError as error:
                problems[name] = str(error)
                if name in self.watchers:
                    # It serves as it was started; its file is what the next start needs.
                    wanted[name] = self.watchers[name].replica
        return wanted

    def _begin(self, name: str, replica: Replica, problems: Dict[str, str]) -> None:
        try:
            self.watchers[name] = Watcher(replica, replica.probe, self.say)
        except ServingError as error:
            problems[name] = str(error)
        else:
            self.watchers[name].start()

    def follow_journal(self) -> None:
        """Hand every new line of a replica's journal to its watcher, until journalctl ends."""
        fields = "MESSAGE,_SYSTEMD_UNIT,_SYSTEMD_INVOCATION_ID"
        command = ["journalctl", "--follow", "--lines=0", "--output=json", "--output-fields=" + fields]
        command.append("--unit=vllm@*.service")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as reader:
            for raw in reader.stdout or []:
                entry = _journal_line(raw)
                watcher = self.watchers.get(entry.unit[len("vllm@") : -len(".service")])
                if watcher:
                    watcher.log_line(entry.line, entry.invocation)


class _Entry(NamedTuple):
    """A line of the journal, cut to what is looked at; all empty where journalctl printed something else."""

    unit: str = ""
    line: str = ""
    invocation: str = ""


def _journal_line(raw: bytes) -> _Entry:
    try:
        row = json.loads(raw.decode("utf-8", "replace"))
        message = row.get("MESSAGE") or ""
        if isinstance(message, list):
            # journalctl prints text that is not plain as a list of bytes.
            message = bytes(message[: 4 * phases.MAX_LINE]).decode("utf-8", "replace")
        unit, invocation = row.get("_SYSTEMD_UNIT", ""), row.get("_SYSTEMD_INVOCATION_ID", "")
        return _Entry(str(unit), phases.bounded(str(message)), str(invocation))
    except (ValueError, TypeError, AttributeError):
        return _Entry()


def watch(say: Say, alive: Callable[[], None]) -> None:
    """Watch for ever; `alive` is called once a second, and by nothing that could go on when the watch is over."""
    host = Host(say, alive)
    threading.Thread(target=_keep_following, args=(host,), daemon=True).start()
    while True:
        host.refresh()
        if all(watcher.is_alive() for watcher in host.watchers.values()):
            alive()
        time.sleep(TICK_S)


def _keep_following(host: Host) -> None:
    while True:
        try:
            host.follow_journal()
        except OSError as error:
            host.say("the journal cannot be followed: {0}".format(error))
        time.sleep(10.0)


def last_words(unit: str, lines: int = 400) -> List[str]:
    """What a unit logged in this start."""
    command = ["journalctl", "--no-pager", "--quiet", "--output=cat", "--lines={0}".format(lines)]
    invocation = os.environ.get("INVOCATION_ID")
    command.append("_SYSTEMD_INVOCATION_ID=" + invocation if invocation else "--unit=" + unit)
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [phases.bounded(line) for line in done.stdout.decode("utf-8", "replace").splitlines()]
