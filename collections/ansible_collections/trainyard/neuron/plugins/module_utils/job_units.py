# SPDX-License-Identifier: Apache-2.0
"""The waiting side of long jobs: what of a wanted list is there, what runs, what to start. Used by module `jobs`."""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import job, manifest, peer, progress

#: What `systemctl` lets an instance name hold without escaping.
SAFE_ID = re.compile(r"[A-Za-z0-9_.:-]+")

#: Seconds between two looks at the units while waiting on the host.
LOOK_S = 0.25

#: Lines of a job's log that come with its failure.
TAIL_LINES = 15

Run = Callable[[List[str]], Tuple[int, str, str]]


@dataclass(frozen=True)
class Paths:
    """Where jobs keep their files; tests point it elsewhere."""

    spec_dir: Path = job.SPEC_DIR
    log_dir: Path = job.LOG_DIR
    run_dir: Path = progress.RUN_DIR


@dataclass
class State:
    """One job as it is on the host."""

    job: Dict[str, Any]
    problems: List[str]
    running: bool = False
    report: Dict[str, Any] = field(default_factory=dict)

    @property
    def identifier(self) -> str:
        """The job's id."""
        return str(self.job["id"])

    @property
    def complete(self) -> bool:
        """Whether the result can be taken as it is, and stored where it is wanted."""
        return not self.problems


def unit_of(wanted: Dict[str, Any]) -> str:
    """Return the name of the systemd unit that does a job."""
    return job.unit_of(wanted["kind"], wanted["id"])


def check(jobs: List[Dict[str, Any]]) -> None:
    """Refuse job lists that cannot be carried out.

    Raises:
        ValueError: an id that a unit name cannot hold, or two jobs with one id or one path.
    """
    for key in ("id", "path"):
        values = [entry[key] for entry in jobs]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"two jobs share the {key} {twice[0]}")
    for entry in jobs:
        if not SAFE_ID.fullmatch(entry["id"]):
            raise ValueError(f"job id {entry['id']!r} cannot be part of a unit name: letters, digits and _ . : - only")
        if not entry["path"].startswith("/"):
            raise ValueError(f"job {entry['id']}: path {entry['path']!r} is not absolute")


class JobUnits:
    """Looks at, starts and removes the jobs of one host."""

    def __init__(self, run: Run, paths: Paths = Paths()) -> None:
        self._run = run
        self._paths = paths

    def describe(self, wanted: Dict[str, Any]) -> State:
        """Return how a job stands: its result by names and sizes, its unit, its last report."""
        state = State(wanted, self._problems(wanted))
        if state.problems:
            state.running = self._active(wanted)
            state.report = progress.read(self._report_path(wanted)) if state.running else {}
        if state.problems and not state.running:
            # The unit may have ended well between the two looks above.
            state.problems = self._problems(wanted)
        return state

    def start(self, wanted: Dict[str, Any]) -> None:
        """Write a job's specification and start its unit; returns at once.

        Where another host is to be asked for the result, a key pair of this job alone is made.

        Raises:
            RuntimeError: systemd or ssh-keygen refuses; its answer is in the message.
        """
        self._paths.spec_dir.mkdir(parents=True, exist_ok=True)
        self._paths.log_dir.mkdir(parents=True, exist_ok=True)
        spec = {**wanted["spec"], **{key: wanted[key] for key in ("kind", "id", "path", "inputs")}}
        manifest.write_atomically(self._spec_path(wanted), manifest.dump(spec))
        self._report_path(wanted).unlink(missing_ok=True)
        # The unit may write below these directories and nowhere else, so they must be there before the unit is.
        for path in filter(None, (wanted["path"], wanted["spec"].get("work_dir"))):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._make_key(wanted)
        self._do(["systemctl", "daemon-reload"])
        self._do(["systemctl", "start", "--no-block", unit_of(wanted)])

    def _do(self, argv: List[str]) -> None:
        status, _output, errors = self._run(argv)
        if status != 0:
            raise RuntimeError(f"{' '.join(argv)}: {errors.strip()}")

    def _make_key(self, wanted: Dict[str, Any]) -> None:
        folder = self._peer_dir(wanted)
        shutil.rmtree(folder, ignore_errors=True)
        if not wanted["spec"].get("sender"):
            return
        folder.parent.parent.mkdir(parents=True, exist_ok=True)
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        folder.mkdir(mode=0o700)
        self._do(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(folder / peer.KEY)])

    def introduction(self, state: State) -> Dict[str, Any]:
        """Return what the sender of a job must know of this host, empty where it has none or knows it already.

        A unit that runs asks the sender that it was started with. In check mode the key is not made yet; its place is
        held by an empty string.
        """
        wanted = state.job
        spec = wanted["spec"]
        if state.running and self._spec_path(wanted).exists():
            spec = job.load_spec(wanted["kind"], wanted["id"], self._paths.spec_dir)
        sender = spec.get("sender")
        folder = self._peer_dir(wanted)
        if not sender or (folder / peer.SENDER).exists():
            return {}
        try:
            public_key = (folder / f"{peer.KEY}.pub").read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            public_key = ""
        return {
            "job": job.name_of(wanted["kind"], wanted["id"]),
            "sender": sender,
            "public_key": public_key,
            "note": str(folder / peer.SENDER),
        }

    def wait(self, states: List[State], seconds: float, clock: Callable[[], float] = time.monotonic) -> List[State]:
        """Look at running jobs until all have ended or `seconds` have passed; return how they stand then."""
        deadline_s = clock() + seconds
        while True:
            states = [self.describe(state.job) if state.running else state for state in states]
            if clock() >= deadline_s or not any(state.running for state in states):
                return states
            time.sleep(LOOK_S)

    def failure(self, wanted: Dict[str, Any]) -> Dict[str, str]:
        """Return why a job that has ended left no result: cause, state left, next step, and the end of its log."""
        report = progress.read(self._report_path(wanted))
        if not self._spec_path(wanted).exists():
            return {
                "id": wanted["id"],
                "cause": f"{wanted['path']} is not here, and nothing was started that makes it",
                "left": "nothing was changed",
                "next": "run playbooks/provision.yml for weights, playbooks/compile.yml for artifacts",
                "log": "none",
                "log_tail": [],
            }
        _status, output, _errors = self._run(["systemctl", "show", "--property=Result,ExecMainStatus", unit_of(wanted)])
        log = self._log_path(wanted)
        return {
            "id": wanted["id"],
            "cause": report.get("cause") or f"{unit_of(wanted)} ended without a result ({' '.join(output.split())})",
            "left": report.get("left") or "nothing half made has the final name",
            "next": report.get("next") or f"read {log} and `journalctl -u {unit_of(wanted)}` on the host",
            "log": str(log),
            "log_tail": tail(log),
        }

    def remove(self, wanted: Dict[str, Any]) -> None:
        """Stop a job and remove its result, its half-made result and its records."""
        if self._active(wanted):
            self._run(["systemctl", "stop", unit_of(wanted)])
        final = Path(wanted["path"])
        (final / manifest.NAME).unlink(missing_ok=True)
        for path in (final, manifest.staging_of(final), self._peer_dir(wanted)):
            shutil.rmtree(path, ignore_errors=True)
        for path in self.records(wanted):
            path.unlink(missing_ok=True)

    def traces(self, wanted: Dict[str, Any]) -> List[str]:
        """Return what exists of a job on this host: directories and records."""
        final = Path(wanted["path"])
        return [str(path) for path in (final, manifest.staging_of(final), *self.records(wanted)) if path.exists()]

    def records(self, wanted: Dict[str, Any]) -> List[Path]:
        """Return the files that a job keeps beside its result."""
        return [
            self._spec_path(wanted),
            self._log_path(wanted),
            self._report_path(wanted),
            job.stored_note(Path(wanted["path"])),
        ]

    def _problems(self, wanted: Dict[str, Any]) -> List[str]:
        final = Path(wanted["path"])
        problems = job.complete_problems(final, wanted["inputs"])
        store = wanted["spec"].get("store") or ""
        if not problems and store and job.stored_in(final) != store:
            return [f"not known to be in {store}"]
        return problems

    def _active(self, wanted: Dict[str, Any]) -> bool:
        _status, output, _errors = self._run(["systemctl", "is-active", unit_of(wanted)])
        return output.strip() in job.ACTIVE_STATES

    def _spec_path(self, wanted: Dict[str, Any]) -> Path:
        return self._paths.spec_dir / f"{job.name_of(wanted['kind'], wanted['id'])}.json"

    def _report_path(self, wanted: Dict[str, Any]) -> Path:
        return self._paths.run_dir / f"{job.name_of(wanted['kind'], wanted['id'])}.json"

    def _peer_dir(self, wanted: Dict[str, Any]) -> Path:
        return peer.folder_of(job.name_of(wanted["kind"], wanted["id"]), self._paths.run_dir)

    def span(self, wanted: Dict[str, Any]) -> Dict[str, Any]:
        """Return when a job that is done worked, in seconds of this host's clock; empty where it does not say."""
        report = progress.read(self._report_path(wanted))
        if "began" not in report:
            return {}
        spec = job.load_spec(wanted["kind"], wanted["id"], self._paths.spec_dir)
        sender = (spec.get("sender") or {}).get("host") or ""
        return {
            "kind": wanted["kind"],
            "id": wanted["id"],
            "began": report["began"],
            "ended": report["ended"],
            "weights": spec.get("weights") or "",
            "sender": sender or (spec["compile_host"] if spec.get("does") == "fetch" else ""),
        }

    def _log_path(self, wanted: Dict[str, Any]) -> Path:
        return self._paths.log_dir / f"{job.name_of(wanted['kind'], wanted['id'])}.log"


def tail(path: Path, lines: int = TAIL_LINES) -> List[str]:
    """Return the last lines of a log, empty where there is none."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - 64 * 1024))
            return stream.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []
