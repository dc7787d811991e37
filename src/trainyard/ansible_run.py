# SPDX-License-Identifier: Apache-2.0
"""The one place that talks to ansible-runner: a playbook in, what became of it out."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainyard.paths import ROOT


@dataclass(frozen=True)
class TaskResult:
    """What one task returned on one host."""

    host: str
    name: str
    action: str
    failed: bool
    result: Mapping[str, Any]


@dataclass(frozen=True)
class PlaybookRun:
    """A finished playbook: `status` is ansible-runner's (successful, failed, canceled, timeout), results in order.

    `errors` are those that Ansible itself told, of no task: an inventory that it cannot read.
    """

    status: str
    return_code: int
    results: Sequence[TaskResult] = field(default_factory=tuple)
    unreachable: Sequence[str] = field(default_factory=tuple)
    errors: Sequence[str] = field(default_factory=tuple)

    @property
    def succeeded(self) -> bool:
        """Whether every host did every task."""
        return self.status == "successful" and self.return_code == 0

    def why_not(self) -> str:
        """The first failures in one line; empty when it succeeded."""
        failed = [
            f"{one.host}: {one.name}: {one.result.get('msg', 'no message')}" for one in self.results if one.failed
        ]
        gone = [f"{host}: unreachable" for host in self.unreachable]
        return "" if self.succeeded else "; ".join([*gone, *failed, *self.errors][:3]) or f"the playbook {self.status}"


_OWNER = "TRAINYARD_RUN_OWNER"

_ENDS = {"runner_on_ok": False, "runner_on_failed": True, "runner_item_on_failed": True}


_ERROR = re.compile(r"\[ERROR\]: (.+)")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def errors_of(event: Mapping[str, Any]) -> list[str]:
    """The lines of an event in which Ansible itself tells an error."""
    if event.get("event") not in ("error", "verbose"):
        return []
    return [line.strip() for line in _ERROR.findall(_COLOURS.sub("", str(event.get("stdout") or "")))]


def collect(events: Sequence[Mapping[str, Any]]) -> tuple[list[TaskResult], list[str]]:
    """The results and the unreachable hosts of recorded events. A failure that the task ignored is none."""
    results, unreachable = [], []
    for event in events:
        data, kind = event.get("event_data") or {}, event.get("event")
        if kind == "runner_on_unreachable":
            unreachable.append(str(data.get("host")))
        elif kind in _ENDS:
            failed = _ENDS[kind] and not data.get("ignore_errors")
            host, name, action = (str(data.get(key) or "") for key in ("host", "task", "resolved_action"))
            result = data.get("res") or {}
            results.append(TaskResult(host, name, action or str(data.get("task_action") or ""), failed, result))
    return results, unreachable


def run_playbook(
    playbook: Path,
    inventory: Sequence[str],
    extra_vars: Mapping[str, Any],
    *,
    tags: str = "",
    on_task: Callable[[str], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    owner: str = "",
    environment: Mapping[str, str] | None = None,
) -> PlaybookRun:
    """Run a playbook of the checkout and wait for its end; `on_task` hears each task's name, `stop` ends it early.

    `owner` marks its processes: whoever is killed finds with `end_left_over` what goes on without it. `environment` is
    added to its own.
    """
    import ansible_runner

    scratch = Path(tempfile.mkdtemp(prefix="trainyard-run-"))
    events: list[Mapping[str, Any]] = []
    errors: list[str] = []

    def heard(event: Mapping[str, Any]) -> bool:
        if event.get("event") in {*_ENDS, "runner_on_unreachable"}:
            events.append(event)
        elif event.get("event") == "playbook_on_task_start":
            on_task(str((event.get("event_data") or {}).get("task") or ""))
        errors.extend(errors_of(event))
        return False  # nothing is kept on disk: a result may hold what should not stay

    try:
        runner = ansible_runner.run(
            private_data_dir=str(scratch),
            project_dir=str(ROOT),
            playbook=str(playbook),
            inventory=[str(Path(one).resolve()) if Path(one).exists() else one for one in inventory],
            extravars=dict(extra_vars),
            tags=tags or None,
            event_handler=heard,
            cancel_callback=stop,
            envvars={
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "PATH": os.environ["PATH"],
                _OWNER: owner,
                **(environment or {}),
            },
            suppress_env_files=True,
            quiet=True,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    results, unreachable = collect(events)
    return PlaybookRun(str(runner.status), int(runner.rc or 0), results, unreachable, errors)


def left_over(owner: str) -> list[int]:
    """Processes of playbooks that `owner` started and that live on; none where there is no /proc to ask."""
    mark = f"{_OWNER}={owner}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue  # it ended, or it is somebody else's
    return sorted(found)


def end_left_over(owner: str, patience_s: float = 20.0) -> int:
    """End what a killed attempt left, politely first, so that two playbooks never work on a host at once; how many."""
    first = left_over(owner)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in left_over(owner):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + patience_s
        while left_over(owner) and time.monotonic() < deadline:
            time.sleep(0.2)
    return len(first)
