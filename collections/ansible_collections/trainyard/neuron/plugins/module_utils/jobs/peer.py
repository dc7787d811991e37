# SPDX-License-Identifier: Apache-2.0
"""The receiver's side of a transfer from host to host: a source of `transfer` that is another host, over SSH.

The module that starts the unit makes a key pair of this job alone and the controller introduces the two hosts: it has
the sender let the key in (`trust`), and leaves here who the sender is, with its host keys. From there on the unit needs
no controller: it waits for its sender, which may still be receiving, and for its turn.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from . import job, manifest, names, progress

#: Seconds between two questions to a sender that is not ready.
LOOK_S = 2.0

#: How long to wait for the controller to introduce the sender, seconds.
INTRODUCTION_S = 600.0

#: How long a sender may be silent, or have neither the result nor a unit that makes it, seconds.
SILENCE_S = 60.0

#: A sender's earlier receivers may have died: how long to wait for each, seconds, and bytes a second that it gets.
TURN_S, TURN_BYTES_PER_S = 30.0, 50e6

#: Files at a time: one SSH connection is one processor's worth of cipher.
STREAMS = 4

CHUNK_BYTES = 1 << 20


class PeerError(Exception):
    """The sender cannot give it; whoever asked may have another source."""


class Peer:
    """Another host of the fleet that has the result, or will have it."""

    def __init__(self, spec: Dict[str, Any], report: progress.Progress, folder: Optional[Path] = None) -> None:
        self.name = str(spec["sender"]["host"])
        self._address = str(spec["sender"]["address"])
        self._inputs = spec["inputs"]
        self._report = report
        self._folder = folder or folder_of(job.name_of(spec["kind"], spec["id"]))
        self._manifest: Dict[str, Any] = {}

    def wait(self, sleep: Callable[[float], None] = time.sleep) -> Dict[str, Any]:
        """Wait until the sender has the result and it is this host's turn; return its manifest.

        Raises:
            PeerError: it has none and makes none, does not answer, or has one of other inputs.
        """
        self._introduced(sleep)
        absent_s = waited_s = 0.0
        while True:
            answer = self._ask_status(sleep)
            state = answer.get("state")
            if state == "complete":
                described, ahead = self._complete(answer)
                total = sum(entry["size"] for entry in described["files"])
                if ahead == 0 or waited_s > ahead * (TURN_S + total / TURN_BYTES_PER_S):
                    self._manifest = described
                    return described
                self._report.wait(f"waiting for {self.name}, which gives it to {ahead} other(s) first")
                waited_s += LOOK_S
            elif state == "running":
                self._report.wait(f"waiting for {self.name}, which is not done itself")
                absent_s = 0.0
            else:
                absent_s += LOOK_S
                if absent_s > SILENCE_S:
                    raise PeerError(f"{self.name} neither has it nor makes it")
                self._report.wait(f"waiting for {self.name}, which has not begun")
            sleep(LOOK_S)

    def _complete(self, answer: Dict[str, Any]) -> Tuple[Dict[str, Any], int]:
        """Return the manifest of a complete result, and how many receivers are before this host.

        Raises:
            PeerError: the answer is not one, or the result is of other inputs.
        """
        try:
            described = manifest.parse(json.dumps(answer.get("manifest")), self.name)
        except manifest.ManifestError as error:
            raise PeerError(str(error)) from error
        ahead = answer.get("ahead")
        if isinstance(ahead, bool) or not isinstance(ahead, int) or ahead < 0:
            raise PeerError(f"{self.name} answers what is no status: {names.shown(ahead)} receivers are before this")
        if described["inputs"] != self._inputs:
            raise PeerError(f"{self.name} has one that was made from other inputs")
        return described, ahead

    def expected(self) -> List[Dict[str, Any]]:
        """Return the sender's files, all with their SHA-256."""
        return list((self._manifest or self.wait())["files"])

    def fetch(self, staging: Path, expected: List[Dict[str, Any]]) -> None:
        """Fetch what is not there yet, several files at a time; a file that was cut off goes on where it was."""
        order = {entry["path"]: index for index, entry in enumerate(self._manifest["files"])}
        with ThreadPoolExecutor(max_workers=STREAMS) as pool:
            for done in [
                pool.submit(
                    self._get, order[entry["path"]], names.inside(staging, entry["path"], self.name), entry["size"]
                )
                for entry in expected
            ]:
                done.result()

    def forget(self, staging: Path, name: str) -> None:
        """Remove a wrong file, so that it is fetched anew and alone."""
        names.inside(staging, name, self.name).unlink(missing_ok=True)

    def close(self) -> None:
        """Have the sender forget the key, and forget it here. A sender that is gone forgets it when it expires."""
        if self._sender():
            self._run("done")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _introduced(self, sleep: Callable[[float], None]) -> None:
        """Wait until the controller has said who the sender is."""
        waited_s = 0.0
        while not (self._folder / SENDER).exists():
            if waited_s > INTRODUCTION_S or not (self._folder / KEY).exists():
                raise PeerError(f"nobody introduced {self.name}")
            self._report.wait(f"waiting to be introduced to {self.name}")
            sleep(LOOK_S)
            waited_s += LOOK_S
        if not self._sender():
            raise PeerError(f"the controller does not reach {self.name}")

    def _sender(self) -> Dict[str, Any]:
        """Return who the sender is; empty when nobody could ask it to let this host in."""
        try:
            return dict(json.loads((self._folder / SENDER).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return {}

    def _ask_status(self, sleep: Callable[[float], None]) -> Dict[str, Any]:
        """Ask how the result stands there; what does not answer is asked again for a while."""
        silent_s = 0.0
        while True:
            done = self._run("status")
            if done.returncode == 0:
                try:
                    answer = json.loads(done.stdout)
                except (ValueError, RecursionError):
                    answer = None
                if not isinstance(answer, dict):
                    raise PeerError(f"{self.name} answers what is no status: {done.stdout[:80]!r}")
                return answer
            if silent_s > SILENCE_S:
                raise PeerError(f"{self.name} at {self._address}: {_last_line(done.stderr) or 'no answer'}")
            self._report.wait(f"waiting for {self.name}, which does not answer ({_last_line(done.stderr)})")
            sleep(LOOK_S)
            silent_s += LOOK_S

    def _argv(self, *request: str) -> List[str]:
        """Return the command that sends one request."""
        sender = self._sender()
        known = self._folder / "known_hosts"
        known.write_text("".join(f"sender {key}\n" for key in sender["host_keys"]), encoding="utf-8")
        options = {
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": str(known),
            "GlobalKnownHostsFile": "/dev/null",
            "HostKeyAlias": "sender",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "4",
            "LogLevel": "ERROR",
            "Port": str(sender["port"]),
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        key = ["-i", str(self._folder / KEY)]
        return ["ssh", "-F", "/dev/null", *key, *words, f"{sender['user']}@{self._address}", *request]

    def _run(self, *request: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self._argv(*request),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    def _get(self, index: int, target: Path, size: int) -> None:
        """Fetch one file from where it was left; gives up when an attempt brings nothing.

        Raises:
            PeerError: the sender stopped sending.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        while True:
            have = target.stat().st_size if target.exists() else 0
            if have > size:
                target.unlink()
                have = 0
            if have == size and target.exists():
                return
            said = self._stream(index, have, target)
            if not target.exists() or target.stat().st_size == have < size:
                raise PeerError(f"{self.name} stopped sending {target.name} at {have} of {size} bytes: {said}")

    def _stream(self, index: int, offset: int, target: Path) -> str:
        """Append what the sender has from an offset on; return what it said beside it."""
        with (
            target.open("ab") as stream,
            subprocess.Popen(
                self._argv("get", str(index), str(offset)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            ) as process,
        ):
            try:
                for chunk in iter(lambda: process.stdout.read(CHUNK_BYTES) if process.stdout else b"", b""):
                    stream.write(chunk)
            except OSError:  # a full disk must not leave the sender waiting for a reader
                process.kill()
                raise
            return _last_line(process.stderr.read().decode(errors="replace") if process.stderr else "")


#: In the folder of a job's sender: the private key, and what the controller left.
KEY, SENDER = "key", "sender.json"


def folder_of(name: str, run_dir: Path = progress.RUN_DIR) -> Path:
    """Return where a job keeps its key and its sender; in memory, gone with a reboot."""
    return run_dir / "peers" / name


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
