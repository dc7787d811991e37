# SPDX-License-Identifier: Apache-2.0
"""One part on one node: `ansible-runner transmit | worker | process`, and what became of it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, cast

from trainyard.ansible_run import collect

from ansible_collections.trainyard.neuron.plugins.plugin_utils.screen import harmless  # isort: skip

#: Seconds between the signs of life that a worker is asked for, and how long a node may give none.
KEEPALIVE_S, SILENT_S = 10, 60.0
#: How long what speaks with a node may take to end, seconds.
PATIENCE_S = 10.0
#: What of a failed part is told.
TOLD = 5
_LINE_CHARACTERS, _READ_CHARACTERS = 300, 1 << 16


@dataclass(frozen=True)
class Outcome:
    """What became of a part on a node.

    Attributes:
        end: `done`; `failed`, where a host could not do a task; `lost`, where the node did not come to an end.
        why: a line each.
    """

    end: Literal["done", "failed", "lost"]
    why: Sequence[str] = ()


@dataclass
class Stream:
    """A part under way on a node; `stop` ends it from another thread.

    Attributes:
        runner: what starts ansible-runner there.
        parcel: the directory that is sent (`parcel.pack`).
        job: what ansible-runner is to run, in its own words.
        silent_s: how long the node may say nothing, seconds.
    """

    runner: Sequence[str]
    parcel: Path
    job: Mapping[str, Any]
    silent_s: float = SILENT_S
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    def run(self) -> Outcome:
        """Send, wait, and hear what became of it; nothing that came back is kept."""
        scratch = Path(tempfile.mkdtemp(prefix="trainyard-node-"))
        try:
            return self._run(scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def stop(self) -> None:
        """End the command that speaks with the node; a node of this machine ends with it."""
        self._stopped = True
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)

    def _run(self, scratch: Path) -> Outcome:
        words = [*self.runner, "worker", "--keepalive-seconds", str(KEEPALIVE_S)]
        with (scratch / "said").open("wb") as errors:
            try:
                process = self._process = subprocess.Popen(
                    words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
                )
            except OSError as error:
                return Outcome("lost", [f"{words[0]}: {error.strerror or error}"])
            target, source = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
            # Of its own: ansible-runner puts what only this job has into files there, which no list of processes shows.
            sent = shutil.copytree(self.parcel, scratch / "sent", symlinks=True)
            sender = threading.Thread(target=self._send, args=(target, sent), daemon=True)
            sender.start()
            outcome = Outcome("lost")
            try:
                outcome = self._hear(source, scratch)
            finally:
                self._end(process, sender, patience_s=0.0 if outcome.end == "lost" else PATIENCE_S)
        if outcome.end == "lost":
            with (scratch / "said").open(encoding="utf-8", errors="replace") as told:
                said = told.read(_READ_CHARACTERS).split("\n")
            outcome = Outcome("lost", [*outcome.why, *(line.strip() for line in said if line.strip())][:TOLD])
        # A node, and the hosts that it speaks of, wrote these lines.
        return Outcome(outcome.end, [harmless(line[:_LINE_CHARACTERS]) for line in outcome.why])

    def _send(self, target: IO[bytes], sent: Path) -> None:
        interface, _ = _libraries()
        with contextlib.suppress(OSError):  # a node that died reads no more; what it said last tells
            interface.run(
                streamer="transmit",
                _output=target,
                private_data_dir=str(sent),
                **self.job,
            )
            target.close()

    def _hear(self, source: IO[bytes], scratch: Path) -> Outcome:
        _, answer = _libraries()
        watched = answer.Watched(source, self.silent_s)
        heard = answer.Answer(watched, str(scratch))
        try:
            heard.run()
            results, unreachable = collect(heard.events)
            failed = [f"{one.host}: {one.name}: {one.result.get('msg', 'no message')}" for one in results if one.failed]
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            # A node that breaks off, or that says what no ansible-runner does.
            return Outcome("lost", ["stopped" if self._stopped else f"what it sent cannot be read: {error}"])
        if self._stopped:
            return Outcome("lost", ["stopped"])
        if watched.silent:
            return Outcome("lost", [f"no sign of life for {self.silent_s:.0f} s"])
        if heard.status == "successful":
            return Outcome("done")
        why = [*(f"{host}: unreachable" for host in unreachable), *failed]
        # Ansible that never began says nothing of a host: the node has no Ansible, or another one.
        if heard.status == "failed" and (why or any(one.get("event") == "playbook_on_stats" for one in heard.events)):
            return Outcome("failed", why[:TOLD])
        printed = _printed(heard.events) if heard.status == "failed" else []
        return Outcome("lost", [*heard.why, *printed][:TOLD] or [f"ansible-runner: {heard.status}"])

    def _end(self, process: subprocess.Popen[bytes], sender: threading.Thread, patience_s: float) -> None:
        """Wait for the end of the command that speaks with the node, and make one where there is none."""
        for number, within_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, PATIENCE_S)):
            try:
                process.wait(timeout=within_s)
                break
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
        process.wait()
        sender.join(timeout=PATIENCE_S)
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close() if pipe else None


_importing = threading.Lock()


def _libraries() -> tuple[Any, Any]:
    """Return what takes its time to import, and cannot be by two threads at once."""
    with _importing:
        from ansible_runner import interface

        from trainyard.nodes import answer

        return interface, answer


def _printed(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what Ansible printed for people, from a run in which no host came so far."""
    return [line.strip() for event in events for line in str(event.get("stdout") or "").splitlines() if line.strip()]
