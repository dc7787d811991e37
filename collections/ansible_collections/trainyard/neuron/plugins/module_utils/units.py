# SPDX-License-Identifier: Apache-2.0
"""Wanted state of a set of systemd units: what is, what is to be done, and doing it within a deadline.

The core of the module ``trainyard.neuron.units``. Everything that talks to systemd goes through a `Systemd`, so the
decisions are plain functions over what it reports. Standard library only (Python 3.9 and newer).
"""

from __future__ import annotations

import fnmatch
import subprocess
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "NeedDaemonReload",
    "MainPID",
    "Result",
    "ExecMainStatus",
    "NRestarts",
    "ActiveEnterTimestamp",
    "StatusText",
    "Job",
)
POLL_S = 0.25
BOOT_LINKS = Path("/etc/systemd/system")
COMMAND_TIMEOUT_S = 120
LINE = 200
"""Characters of what a unit says of itself that are passed on: its own program writes it."""
RUNNING = ("active", "reloading")
"""Active states in which a unit serves; `activating` is on the way there."""


class UnitError(Exception):
    """A systemctl call that failed, or units that did not reach their state in time."""


@dataclass(frozen=True)
class Wanted:
    """One unit as it is to be.

    Attributes:
        name: full unit name, ``vllm@a-0.service``.
        state: ``started`` or ``stopped``.
        enabled: start at boot; None leaves it.
        expected_environment: variables that the running main process must carry; another value means restart.
        restart_on: globs of changed paths that call for a restart.
        reload_on: globs of changed paths that call for a reload.
        reload_unless: command that ends with 0 while what the unit set up still holds; empty for none.
        timeout_s: how long it may take to become active, in seconds.
    """

    name: str
    state: str = "started"
    enabled: Optional[bool] = None
    expected_environment: Mapping[str, str] = field(default_factory=dict)
    restart_on: Tuple[str, ...] = ()
    reload_on: Tuple[str, ...] = ()
    reload_unless: Tuple[str, ...] = ()
    timeout_s: float = 300.0


@dataclass(frozen=True)
class Status:
    """One unit as systemd reports it, with the environment of its main process.

    ``busy`` is True while a job of systemd (start, stop, restart) is queued or running for the unit. ``drift`` is what
    a running unit set up and does not hold any more, which systemd does not know of.
    """

    name: str
    load: str
    active: str
    sub: str
    file_state: str
    needs_reload: bool
    main_pid: int
    result: str
    exit_status: str
    restarts: int
    since: str
    text: str
    busy: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    drift: str = ""


@dataclass(frozen=True)
class Step:
    """What is to be done to one unit, and why.

    Attributes:
        verb: ``start``, ``restart``, ``reload``, ``stop`` or an empty string.
        enable: True enables, False disables, None leaves it.
    """

    wanted: Wanted
    status: Status
    verb: str = ""
    enable: Optional[bool] = None
    reasons: Tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        """True if this unit is not as wanted."""
        return bool(self.verb) or self.enable is not None

    def did(self) -> List[str]:
        """The verbs of this step in the past tense, for reports."""
        words = {"start": "started", "restart": "restarted", "reload": "reloaded", "stop": "stopped"}
        done = [words[self.verb]] if self.verb else []
        if self.enable is not None:
            done.append("enabled" if self.enable else "disabled")
        return done


class Systemd:
    """The running systemd: every call out to it is here."""

    def call(self, *arguments: str) -> str:
        """Run ``systemctl`` and return its output.

        Raises:
            UnitError: it failed; the message is systemctl's own.
        """
        done = _run(["systemctl", *arguments])
        if done.returncode != 0:
            raise UnitError(
                "systemctl {0}: {1}".format(" ".join(arguments), done.stderr.strip() or done.stdout.strip())
            )
        return done.stdout

    def show(self, names: Sequence[str]) -> List[Status]:
        """The state of each unit, in the order of ``names``, in one call."""
        if not names:
            return []
        blocks = self.call("show", "--property=" + ",".join(PROPERTIES), "--", *names).strip("\n").split("\n\n")
        return [_status(name, blocks[index]) for index, name in enumerate(names)]

    def loaded(self, globs: Sequence[str]) -> List[str]:
        """Units that match one of the globs and are in memory or would be started at boot."""
        if not globs:
            return []
        lines = self.call("list-units", "--all", "--plain", "--no-legend", "--", *globs).splitlines()
        # The state of a unit that is not found on disk and does not run is of no interest.
        found = {line.split()[0] for line in lines if line.split() and line.split()[1:3] != ["not-found", "inactive"]}
        for glob in globs:
            found.update(link.name for link in BOOT_LINKS.glob("*.wants/" + glob))
        return sorted(found)

    def drift(self, command: Sequence[str]) -> str:
        """What a command finds wrong with what a unit set up, empty where it ends with 0.

        A command that is not there is found wrong itself.
        """
        try:
            done = _run(list(command))
        except UnitError as error:
            return str(error)
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        return "" if done.returncode == 0 else said[-1] if said else "{0} failed".format(" ".join(command))

    def journal(self, name: str, lines: int) -> List[str]:
        """The last lines that the unit logged in this start."""
        command = ["journalctl", "--no-pager", "--quiet", "--output=cat", "--lines={0}".format(lines)]
        invocation = self.call("show", "--property=InvocationID", "--value", "--", name).strip()
        if invocation:
            # Its own lines, and what systemd says about this start.
            match = ["_SYSTEMD_INVOCATION_ID=" + invocation, "+", "INVOCATION_ID=" + invocation]
        else:
            match = ["--unit=" + name]
        return _run(command + match).stdout.splitlines()


def _run(command: List[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            universal_newlines=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnitError("{0}: {1}".format(command[0], error)) from error


def _status(name: str, block: str) -> Status:
    values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
    pid = int(values.get("MainPID") or 0)
    return Status(
        name=name,
        load=values.get("LoadState", ""),
        active=values.get("ActiveState", ""),
        sub=values.get("SubState", ""),
        file_state=values.get("UnitFileState", ""),
        needs_reload=values.get("NeedDaemonReload") == "yes",
        main_pid=pid,
        result=values.get("Result", ""),
        exit_status=values.get("ExecMainStatus", ""),
        restarts=int(values.get("NRestarts") or 0),
        since=values.get("ActiveEnterTimestamp", ""),
        text=values.get("StatusText", ""),
        busy=values.get("Job", "0") not in ("", "0"),
        environment=_environment(pid),
    )


def _environment(pid: int) -> Dict[str, str]:
    """Environment of a running process; empty if it has none or is gone."""
    if not pid:
        return {}
    try:
        raw = Path("/proc/{0}/environ".format(pid)).read_bytes()
    except OSError:
        return {}
    return dict(row.split("=", 1) for row in raw.decode("utf-8", "replace").split("\0") if "=" in row)


def plan(wanted: Sequence[Wanted], statuses: Sequence[Status], changed_paths: Sequence[str]) -> List[Step]:
    """What each unit needs. Pure: equal inputs give equal steps.

    Args:
        wanted: the wanted units.
        statuses: their states, in the same order.
        changed_paths: files that changed before in this run, for ``restart_on`` and ``reload_on``.
    """
    return [_step(want, statuses[index], changed_paths) for index, want in enumerate(wanted)]


def _step(want: Wanted, status: Status, changed_paths: Sequence[str]) -> Step:
    enable = None
    enabled_now = status.file_state in ("enabled", "enabled-runtime")
    if want.enabled is not None and want.enabled != enabled_now and status.file_state not in ("static", "generated"):
        enable = want.enabled
    if want.state == "stopped":
        verb = "" if status.active in ("inactive", "failed") else "stop"
        return Step(want, status, verb, enable, (status.active,) if verb else ())
    if status.active not in RUNNING:
        # A unit that is on its way up may come from an older configuration, so it is judged by the same rules.
        verb = "start" if status.active != "activating" else _restart_or_reload(want, status, changed_paths)[0]
        return Step(want, status, verb or "start", enable, (status.active,))
    verb, reasons = _restart_or_reload(want, status, changed_paths)
    return Step(want, status, verb, enable, reasons)


def _restart_or_reload(want: Wanted, status: Status, changed_paths: Sequence[str]) -> Tuple[str, Tuple[str, ...]]:
    reasons = [
        "{0} {1} -> {2}".format(key, status.environment.get(key, "(unset)"), value)
        for key, value in sorted(want.expected_environment.items())
        if status.environment.get(key) != value
    ]
    reasons.extend(_matches(want.restart_on, changed_paths))
    if reasons:
        return "restart", tuple(reasons)
    reload_reasons = _matches(want.reload_on, changed_paths)
    if status.drift:
        reload_reasons.append(status.drift)
    return ("reload", tuple(reload_reasons)) if reload_reasons else ("", ())


def _matches(globs: Sequence[str], paths: Sequence[str]) -> List[str]:
    return ["{0} changed".format(path) for path in paths if any(fnmatch.fnmatchcase(path, glob) for glob in globs)]


def needs_daemon_reload(statuses: Sequence[Status], changed_paths: Sequence[str]) -> bool:
    """True if systemd's view of its unit files is older than the files."""
    roots = ("/etc/systemd/system/", "/run/systemd/system/", "/usr/lib/systemd/system/", "/lib/systemd/system/")
    return any(status.needs_reload for status in statuses) or any(path.startswith(roots) for path in changed_paths)


@dataclass
class Settings:
    """How units are brought up.

    Attributes:
        allowed_restarts: how often systemd may restart a unit on its own before the wait gives up on it.
        journal_lines: lines of the journal that an error shows.
        stop_before_start: globs of units of which none starts before those that stop or restart have stopped.
        wait_s: how long to wait before those that are still on their way are left to a later call; None for as long as
            each may take.
    """

    allowed_restarts: int = 0
    journal_lines: int = 20
    stop_before_start: Sequence[str] = ()
    wait_s: Optional[float] = None
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True)
class Wait:
    """One unit that was told to start or stop and has not arrived yet.

    Attributes:
        name: full unit name.
        verb: what it was told, as in `Step`.
        timeout_s: how long it may take since it was told, in seconds.
    """

    name: str
    verb: str
    timeout_s: float


@dataclass(frozen=True)
class Pending:
    """What is still to be waited for, by this call or by a later one of the same host.

    Attributes:
        waits: the units.
        began_s: when they were told, in seconds of the host's clock; all modules of a host have the same one.
        problems: what has gone wrong with others, a text for each.
    """

    waits: Tuple[Wait, ...] = ()
    began_s: float = 0.0
    problems: Tuple[str, ...] = ()

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Pending:
        """The form that `asdict` gives, read back."""
        waits = tuple(Wait(str(row["name"]), str(row["verb"]), float(row["timeout_s"])) for row in raw["waits"])
        return cls(waits, float(raw["began_s"]), tuple(str(text) for text in raw["problems"]))


def carry_out(systemd: Systemd, steps: Sequence[Step], daemon_reload: bool, settings: Settings) -> List[Status]:
    """Do every step, wait until the started units are active, and return the final states.

    Raises:
        UnitError: a unit failed or was not active in time: its result, its last journal lines, and what to do next.
    """
    wait(systemd, begin(systemd, steps, daemon_reload, settings), replace(settings, wait_s=None))
    return systemd.show([step.wanted.name for step in steps])


def begin(systemd: Systemd, steps: Sequence[Step], daemon_reload: bool, settings: Settings) -> Pending:
    """Do every step as far as it is to be told; what has to stop before others start is waited for here.

    Returns:
        What is still to be waited for.

    Raises:
        UnitError: systemd refused, or a unit did not reload.
    """
    if daemon_reload:
        systemd.call("daemon-reload")
    _enable(systemd, [step for step in steps if step.enable is not None])
    yielding = _yielding(steps, settings.stop_before_start)
    stopping = [step for step in steps if step.verb == "stop" or step in yielding]
    if stopping:
        systemd.call("stop", "--no-block", "--", *(step.wanted.name for step in stopping))
    # To the end, or an interruption would leave them stopped and nobody told to start.
    down = _wait(systemd, Pending(_waits(yielding, "stop"), settings.clock()), replace(settings, wait_s=None))
    started = [step for step in steps if step.verb in ("start", "restart", "reload")]
    # A unit that failed before has used up its start limit: the operator's new attempt begins afresh.
    failed = [step.wanted.name for step in started if step.status.active == "failed"]
    if failed:
        systemd.call("reset-failed", "--", *failed)
    for step in started:
        if step.verb == "reload":
            _reload(systemd, step, settings)
            continue
        systemd.call("start" if step in yielding else step.verb, "--no-block", "--", step.wanted.name)
    return Pending(_waits([step for step in steps if step.verb]), settings.clock(), down.problems)


def _waits(steps: Sequence[Step], verb: str = "") -> Tuple[Wait, ...]:
    return tuple(Wait(step.wanted.name, verb or step.verb, step.wanted.timeout_s) for step in steps)


def wait(systemd: Systemd, pending: Pending, settings: Settings) -> Pending:
    """Wait for units, as long as the settings allow; what is still to be waited for then, which may be none.

    Raises:
        UnitError: none is on its way any more, and not all of them arrived.
    """
    left = _wait(systemd, pending, settings)
    if left.problems and not left.waits:
        raise UnitError("\n\n".join(dict.fromkeys(left.problems)))
    return left


def _yielding(steps: Sequence[Step], globs: Sequence[str]) -> List[Step]:
    """Units that match and have to be down before another that matches starts: it may take what they hold."""
    among = [step for step in steps if any(fnmatch.fnmatchcase(step.wanted.name, glob) for glob in globs)]
    down = [step for step in among if step.verb in ("stop", "restart")]
    up = [step for step in among if step.verb in ("start", "restart")]
    return down if any(one is not other for one in down for other in up) else []


def _reload(systemd: Systemd, step: Step, settings: Settings) -> None:
    # Not in the background: a reload that fails leaves the unit active, and only its own exit status tells.
    try:
        systemd.call("reload", "--", step.wanted.name)
    except UnitError as error:
        status = systemd.show([step.wanted.name])[0]
        verdict = "did not reload and goes on with its old configuration ({0})".format(error)
        raise UnitError(describe_failure(systemd, status, verdict, settings.journal_lines)) from error


def _enable(systemd: Systemd, steps: Sequence[Step]) -> None:
    for verb, flag in (("enable", True), ("disable", False)):
        names = [step.wanted.name for step in steps if step.enable is flag]
        if names:
            systemd.call(verb, "--", *names)


def _wait(systemd: Systemd, pending: Pending, settings: Settings) -> Pending:
    """Wait until every unit has come to its end, or for as long as is allowed."""
    called = settings.clock()
    # After a boot the host's clock begins anew, and so does the start.
    began = min(pending.began_s, called)
    waiting = list(pending.waits)
    problems = list(pending.problems)
    poll_s = POLL_S
    while waiting:
        now = settings.clock()
        statuses = systemd.show([row.name for row in waiting])
        left = []
        for index, row in enumerate(waiting):
            verdict = judge(row, statuses[index], now - began, settings.allowed_restarts)
            if verdict is None:
                left.append(row)
            elif verdict:
                problems.append(describe_failure(systemd, statuses[index], verdict, settings.journal_lines))
        waiting = left
        if waiting:
            if settings.wait_s is not None and now - called >= settings.wait_s:
                break
            settings.sleep(poll_s)
            # Loading takes minutes: a slower poll costs nothing then, and a quick unit is not kept waiting.
            poll_s = min(poll_s * 1.25, 3.0)
    return Pending(tuple(waiting), began, tuple(problems))


def on_the_way(systemd: Systemd, pending: Pending, now_s: float) -> List[Dict[str, str]]:
    """How far each unit is that is waited for: ``name``, and ``progress`` in one line.

    Args:
        systemd: where the units are.
        pending: what is waited for.
        now_s: now, in seconds of the host's clock.
    """
    statuses = systemd.show([row.name for row in pending.waits])
    waited_s = max(0.0, now_s - pending.began_s)
    return [{"name": status.name, "progress": progress(status, waited_s)} for status in statuses]


def progress(status: Status, waited_s: float) -> str:
    """How far a unit is, in one line: what it says itself while it starts, else what systemd says."""
    said = "".join(letter if letter.isprintable() else "?" for letter in status.text[:LINE])
    if status.active == "activating" and status.sub == "auto-restart":
        return "died ({0}), and systemd starts it again".format(said or _cause(status))
    if status.active == "activating" and said:
        return said
    return "{0} ({1}), {2:.0f} s".format(status.active, status.sub, waited_s)


def converge(systemd: Systemd, params: Mapping[str, Any], check_mode: bool, diff: bool) -> Dict[str, Any]:
    """Compare, carry out unless in check mode, and return a module's result.

    Args:
        systemd: where the units are.
        params: what `options.UNITS_SPEC` describes.
        check_mode: compare alone.
        diff: whether the result has a difference for each unit that is not as wanted.

    Raises:
        UnitError: a unit failed or was not there in time.
    """
    wanted = wanted_of(params, systemd)
    before = _look(systemd, wanted)
    changed_paths = params["changed_paths"]
    steps = plan(wanted, before, changed_paths)
    stale = needs_daemon_reload(before, changed_paths)
    reloads = stale or bool(_matches(params["daemon_reload_on"], changed_paths))
    after, left, settings = before, Pending(), _settings(params)
    if not check_mode and (reloads or any(step.changes for step in steps)):
        left = wait(systemd, begin(systemd, steps, reloads, settings), settings)
        after = systemd.show([step.wanted.name for step in steps])
    result: Dict[str, Any] = {
        "changed": stale or any(step.changes for step in steps),
        "msg": summary(steps, check_mode),
        "daemon_reload": reloads,
        "units": [report(step, after[index]) for index, step in enumerate(steps)],
    }
    result.update(_still(systemd, left, settings.clock()) if left.waits else {})
    if diff:
        result["diff"] = [
            {
                "before_header": step.wanted.name,
                "after_header": step.wanted.name,
                "before": as_text(step.status, step.wanted),
                "after": as_wanted_text(step),
            }
            for step in steps
            if step.changes
        ]
    return result


def go_on(systemd: Systemd, params: Mapping[str, Any]) -> Dict[str, Any]:
    """Go on waiting for what an earlier run of the module left on its way, and return a module's result.

    Args:
        systemd: where the units are.
        params: what `options.UNITS_SPEC` describes, with ``pending``.

    Raises:
        UnitError: a unit failed or was not there in time.
    """
    pending, settings = Pending.of(params["pending"]), _settings(params)
    left = wait(systemd, pending, settings)
    found = systemd.show([row.name for row in pending.waits])
    rows = [_state(status) for status in found]
    return {"changed": False, "units": rows, **(_still(systemd, left, settings.clock()) if left.waits else {})}


def _settings(params: Mapping[str, Any]) -> Settings:
    given = ("allowed_restarts", "journal_lines", "stop_before_start", "wait_s")
    return Settings(**{key: params[key] for key in given})


def _still(systemd: Systemd, left: Pending, now_s: float) -> Dict[str, Any]:
    """What a result says of units that are on their way: how far they are, and what a later run needs to go on."""
    return {"pending": asdict(left), "running": on_the_way(systemd, left, now_s)}


def _look(systemd: Systemd, wanted: Sequence[Wanted]) -> List[Status]:
    """The state of each unit; one that runs is asked whether what it set up still holds, where a command can tell."""
    found = systemd.show([want.name for want in wanted])
    return [
        replace(status, drift=systemd.drift(wanted[index].reload_unless))
        if wanted[index].reload_unless and status.active in RUNNING
        else status
        for index, status in enumerate(found)
    ]


def wanted_of(params: Mapping[str, Any], systemd: Systemd) -> List[Wanted]:
    """The wanted units: those that are listed, then those that `prune` finds beside them."""
    wanted = [
        Wanted(
            name=row["name"],
            state=row["state"],
            enabled=row["enabled"],
            expected_environment={key: str(value) for key, value in row["expected_environment"].items()},
            restart_on=tuple(row["restart_on"]),
            reload_on=tuple(row["reload_on"]),
            reload_unless=tuple(row["reload_unless"]),
            timeout_s=row["timeout_s"] or params["timeout_s"],
        )
        for row in params["units"]
    ]
    listed = {want.name for want in wanted}
    strangers = [name for name in systemd.loaded(params["prune"]) if name not in listed]
    return wanted + [Wanted(name, "stopped", False, timeout_s=params["timeout_s"]) for name in strangers]


def report(step: Step, status: Status) -> Dict[str, Any]:
    """One unit for the result."""
    return {
        "name": step.wanted.name,
        "did": step.did(),
        "reasons": list(step.reasons) if step.changes else [],
        **_state(status),
    }


def _state(status: Status) -> Dict[str, Any]:
    return {"name": status.name, "active": status.active, "since": status.since, "main_pid": status.main_pid}


def summary(steps: Sequence[Step], check_mode: bool) -> str:
    """One line that a person can read."""
    changed = [step for step in steps if step.changes]
    if not changed:
        return "all {0} units are as wanted".format(len(steps))
    parts = []
    for step in changed:
        why = " because " + ", ".join(step.reasons) if step.verb in ("restart", "reload") else ""
        parts.append("{0} {1}{2}".format(step.wanted.name, " and ".join(step.did()), why))
    return "{0}{1}".format("would be: " if check_mode else "", "; ".join(parts))


def judge(row: Wait, status: Status, waited_s: float, allowed_restarts: int) -> Optional[str]:
    """Whether a unit has arrived: an empty string if so, None while on the way, else why it never will."""
    late = waited_s > row.timeout_s
    here = "{0}/{1}".format(status.active, status.sub)
    if row.verb == "stop":
        if status.active in ("inactive", "failed") and not status.busy:
            return ""
        return "is still {0} after {1:.0f} s".format(here, waited_s) if late else None
    if status.active == "active" and not status.busy:
        return ""
    if status.sub == "auto-restart" and status.restarts >= allowed_restarts:
        return "died while starting ({0}); systemd tries again within its start limit".format(_cause(status))
    if status.active in ("failed", "inactive") and not status.busy:
        return "is {0} ({1})".format(status.active, _cause(status))
    return "is still {0} after {1:.0f} s".format(here, waited_s) if late else None


def _cause(status: Status) -> str:
    if status.result == "exit-code" and status.exit_status not in ("", "0"):
        return "exit code {0}".format(status.exit_status)
    return status.result


def describe_failure(systemd: Systemd, status: Status, verdict: str, lines: int) -> str:
    """A failure as an operator needs it: unit, cause, last words, next command."""
    said = systemd.journal(status.name, lines)
    last = "\n".join("    " + line for line in said) if said else "    (nothing)"
    text = "Status: {0}\n".format(status.text) if status.text else ""
    return "{0} {1}.\n{2}Its last {3} journal lines:\n{4}\nNext: journalctl -u {0} -b --no-pager | less".format(
        status.name, verdict, text, len(said), last
    )


def as_text(status: Status, wanted: Wanted) -> str:
    """A unit's state as a diff shows it."""
    environment = "".join(
        "{0}={1}\n".format(key, status.environment.get(key, "")) for key in wanted.expected_environment
    )
    return "active: {0}\nboot: {1}\n{2}".format(status.active, status.file_state or "absent", environment)


def as_wanted_text(step: Step) -> str:
    """The state that a step leads to, in the form of `as_text`."""
    want, status = step.wanted, step.status
    active = status.active
    if step.verb:
        active = "inactive" if step.verb == "stop" else "active"
    boot = status.file_state or "absent"
    if step.enable is not None:
        boot = "enabled" if step.enable else "disabled"
    environment = "".join("{0}={1}\n".format(key, value) for key, value in want.expected_environment.items())
    note = "".join("# {0}: {1}\n".format(step.verb, reason) for reason in step.reasons)
    note = note if step.verb in ("restart", "reload") else ""
    return "active: {0}\nboot: {1}\n{2}{3}".format(active, boot, environment, note)
