# SPDX-License-Identifier: Apache-2.0
"""The program ``/usr/local/lib/trainyard/replica``, which the unit ``vllm@.service`` is made of.

``check`` (before the start), ``launch`` (becomes the server), ``gate`` (the start is over when it returns),
``settle`` and ``explain`` (after the stop), ``watch`` (the standing probe), ``status`` (for people).
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Callable, Dict, FrozenSet, List, Optional, Sequence

from . import (
    adapters,
    agreement,
    container,
    engines,
    fence,
    loads,
    phases,
    probe,
    settings,
    slices,
    trusted,
    turns,
    watch,
)
from .settings import SCRATCH_VARIABLES, Replica, ServingError

POLL_S = 0.5
PROBE_TIMEOUT_S = 5.0
#: Settings of the role that a start takes and a running server does not.
AT_START = ("gate", "settle_timeout_s", "loads_at_once", "container_engine", "container_cpus")
# The server must not report its own readiness in the gate's place.
KEPT_FROM_SERVER = ("NOTIFY_SOCKET",)


def check(replica: Replica) -> None:
    """Refuse a start that cannot go well, before it costs minutes.

    Raises:
        ServingError: the slice or the port is taken (by whom), or the release's program or environment is missing.
    """
    if os.environ.get("TRAINYARD_RELEASE", replica.release) != replica.release:
        raise ServingError("environment and configuration are of different releases; run the serve playbook again")
    if replica.runtime == "venv" and not os.access(replica.argv[0], os.X_OK):
        raise ServingError("{0} is not there; run the provision playbook".format(replica.argv[0]))
    if replica.runtime == "container":
        container.check(replica)
    if replica.artifact_path and not Path(replica.artifact_path).is_dir():
        raise ServingError(
            "the artifact {0} is not there, and the server would compile for a long time instead; "
            "run the compile playbook".format(replica.artifact_path)
        )
    differing = agreement.problems(
        replica.generation, replica.artifact_path, replica.argv, os.environ, replica.compiled
    )
    if differing:
        raise ServingError(
            "the artifact {0} does not fit: {1}; run the compile playbook".format(
                replica.artifact_path, "; ".join(differing)
            )
        )
    unfit = adapters.problems(replica)
    if unfit:
        raise ServingError("; ".join(unfit))
    missing = [path for path in replica.files if not Path(path).is_file()]
    if missing:
        raise ServingError("{0} is not there; run the serve playbook".format(", ".join(missing)))
    if "api-key" in agreement.flags(replica.argv):
        raise ServingError("a key in argv can be read by every user of the host: set vllm_endpoint_api_key instead")
    holders = slices.holders(slices.read_devices(replica.neuron_ls), slices.parse_cores(replica.cores))
    if holders:
        raise ServingError(
            "cores {0} are held by {1}; stop it, then `systemctl restart vllm@{2}`".format(
                replica.cores, "; ".join(str(holder) for holder in holders), replica.name
            )
        )
    _check_port(replica)
    if replica.scratch.is_dir():
        # What was started is settled by its own configuration, even when the next release is on disk by then.
        text = (settings.CONFIGURATION / (replica.name + ".json")).read_text(encoding="utf-8")
        trusted.write_text(replica.scratch / settings.STARTED, text)


def _check_port(replica: Replica) -> None:
    host, port = replica.listens_on
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as test:
        test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            test.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ServingError("cannot listen on {0}:{1}: {2}".format(host, port, error.strerror)) from error
            raise ServingError(
                "port {0} is taken by another program; `ss -ltnp sport = :{0}` names it".format(port)
            ) from error


def launch(replica: Replica, environment: Dict[str, str]) -> None:
    """Become the server. Does not return.

    Args:
        replica: what to start.
        environment: the unit's environment; the key is added here, so that it is in no file and in no argv.
    """
    for variable in SCRATCH_VARIABLES:
        if environment.get(variable):
            path = Path(environment[variable])
            # Counters of the last start would be added to those of this one.
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True, exist_ok=True)
    if replica.scratch.is_dir():
        # The server has this process id too: it takes this process's place.
        trusted.write_text(replica.scratch / "pid", "{0}\n".format(os.getpid()))
    key = settings.api_key(replica, environment)
    if key:
        environment["VLLM_API_KEY"] = key
    if replica.adapters:
        environment[adapters.ARTIFACT_VARIABLE] = str(adapters.make_view(replica))
    # vLLM renames its processes; without this the new title overwrites the environment that says whose cores they hold.
    environment["SPT_NOENV"] = "1"
    for variable in KEPT_FROM_SERVER:
        environment.pop(variable, None)
    argv = replica.argv
    if replica.runtime == "container":
        argv = container.command(replica, container.passed_variables(replica, environment))
    say("starting release {0} on cores {1}".format(replica.release, replica.cores))
    try:
        os.execvpe(argv[0], list(argv), environment)  # noqa: S606  (the plan's own argv, no shell)
    except OSError as error:
        raise ServingError("{0}: {1}".format(argv[0], error.strerror)) from error


def gate(replica: Replica, main_pid: int, notify: Callable[[str], None]) -> probe.Completion:
    """Wait until the server generates; then the start is over.

    Args:
        replica: what was started.
        main_pid: process id of the server; when it ends there is nothing to wait for. 0 if unknown.
        notify: gets a line of status for ``systemctl status``.

    Raises:
        ServingError: the server ended, serves another model, differs between greedy runs, is too slow or too late.
    """
    limit = replica.gate
    client = probe.Client(replica.url, timeout_s=PROBE_TIMEOUT_S)
    of_s = loads.expected_s(replica)
    began = time.monotonic()
    while client.status("/health") != 200:
        if main_pid and not _alive(main_pid):
            raise ServingError("the server ended while it was loading; its own last words are above")
        waited_s = time.monotonic() - began
        if waited_s > limit.timeout_s:
            raise ServingError("no answer from {0} after {1:.0f} s of loading".format(replica.url, waited_s))
        phase = str(watch.read_state(replica.name).get("progress", "loading"))
        notify(loads.progress(phase, waited_s, of_s))
        time.sleep(POLL_S)
    notify(loads.progress("loaded, asking for tokens", time.monotonic() - began, of_s))
    # The first answer of an engine may take long: the deadline is the larger of its budget and a minute.
    deadline_s = max(60.0, limit.ttft_s + limit.max_tokens * limit.per_token_s)
    client = probe.Client(replica.url, _key_of(replica, main_pid), deadline_s)
    before = engines.holding(replica)
    try:
        result = probe.check(client, replica.served_name, limit.prompt, limit.max_tokens, limit.completions, deadline_s)
    except probe.ProbeError as error:
        raise ServingError("{0} is up and does not serve: {1}".format(replica.url, error)) from error
    slow = probe.over_budget(result, limit.ttft_s, limit.per_token_s)
    if slow:
        raise ServingError("the gate's last completion was too slow: {0}".format(slow))
    took_s = time.monotonic() - began
    summary = "ready after {0:.0f} s: {1} tokens, first after {2:.0f} ms, then {3:.1f} ms each".format(
        took_s, result.tokens, result.ttft_s * 1000, result.per_token_s * 1000
    )
    notify(summary)
    say(summary)
    # Who held the slice before and after has generated these tokens; who came by for a moment has not.
    _record(replica, result, before & engines.holding(replica))
    loads.record(replica, took_s)
    turns.give_back(replica)
    return result


def _key_of(replica: Replica, main_pid: int) -> Optional[str]:
    """The key that a running server asks for."""
    if not replica.needs_key:
        return None
    # systemd 252 hides the credentials from every step but the main process, which is of the same user.
    return slices.environment_of(main_pid).get("VLLM_API_KEY") or settings.api_key(replica)


def _record(replica: Replica, result: probe.Completion, pids: FrozenSet[int]) -> None:
    if not replica.scratch.is_dir():
        return
    row = {
        "release": replica.release,
        "at": time.time(),
        "tokens": result.tokens,
        "ttft_ms": round(result.ttft_s * 1000, 3),
        "per_token_ms": round(result.per_token_s * 1000, 3),
        "text": result.text,
        "engines": sorted(pids),
    }
    trusted.write_text(replica.scratch / "gate.json", json.dumps(row) + "\n")


def _alive(pid: int) -> bool:
    """True while a process runs; one that ended and was not collected yet does not."""
    try:
        state = Path("/proc/{0}/stat".format(pid)).read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")


def settle(replica: Replica) -> None:
    """After a stop: return only when the slice is free, so that the next start finds it so.

    Raises:
        ServingError: somebody still holds it when the time is over.
    """
    if replica.runtime == "container":
        container.remove(replica)
    cores = slices.parse_cores(replica.cores)
    left = slices.wait_free(replica.neuron_ls, cores, replica.settle_timeout_s)
    if left:
        raise ServingError(
            "cores {0} are still held {1:.0f} s after the stop by {2}; it has to be ended before the next start".format(
                replica.cores, replica.settle_timeout_s, "; ".join(str(holder) for holder in left)
            )
        )


def explain(name: str) -> str:
    """What ended a server, in words: the probe, or an error that its log shows. Empty if nothing is known.

    It reads what the servers of the host may have written, and the journal: as their user, never as root.
    """
    reason = watch.ended_by_probe(name, os.environ.get("INVOCATION_ID", ""))
    found = ["ended by the standing probe: " + reason] if reason else []
    served = trusted.there(settings.RUNTIME / name / "gate.json")
    diagnosis = phases.diagnose(watch.last_words("vllm@{0}.service".format(name)), served)
    return "; ".join(found + ([str(diagnosis)] if diagnosis else []))


def notifier() -> Callable[[str], None]:
    """A function that sets the unit's status line; does nothing outside a unit."""
    send = _to_systemd()
    return lambda text: send("STATUS=" + text)


def heartbeat() -> Callable[[], None]:
    """A function that tells systemd's watchdog that the program lives; does nothing outside a unit."""
    send = _to_systemd()
    return lambda: send("WATCHDOG=1")


def _to_systemd() -> Callable[[str], None]:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return lambda _text: None
    target = "\0" + address[1:] if address.startswith("@") else address

    def send(text: str) -> None:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.sendto(text.encode("utf-8"), target)
        except OSError:
            # Status is for people; a start does not fail for want of it. A watchdog that hears nothing acts by itself.
            return

    return send


def status(names: Sequence[str]) -> List[str]:
    """One line for each replica: its address, whether it answers, and what the gate saw; or which file is broken."""
    lines = []
    for name in names:
        try:
            replica = settings.load(name)
        except ServingError as error:
            unseen = isinstance(error.__cause__, PermissionError)
            known = "is not known to this user" if unseen else "cannot be started again"
            lines.append("{0}  {1}: {2}".format(name, known, error))
            continue
        health = probe.Client(replica.url, timeout_s=2.0).status("/health")
        words = "answers {0}".format(health) if health else "no answer"
        words += _seen_by_probe(name) + _from_its_next_start(replica)
        row = "{0}  {1}  cores {2}  {3}  {4}"
        lines.append(row.format(name, replica.url, replica.cores, words, _seen_by_gate(replica)))
    return lines


def _seen_by_gate(replica: Replica) -> str:
    path = replica.scratch / "gate.json"
    try:
        row = json.loads(trusted.read_text(path))
        return "gated, first token after {0:g} ms".format(float(row["ttft_ms"]))
    except FileNotFoundError:
        return "not gated"
    except PermissionError as error:
        return "gate not known ({0}: {1}); ask as root".format(path, error.strerror)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        # The server goes on; what is lost is its engines' process ids.
        lost = "gated, but {0} is broken ({1}): an engine that dies is noticed late; `systemctl restart vllm@{2}`"
        return lost.format(path, settings.words(error), replica.name)


def _seen_by_probe(name: str) -> str:
    try:
        seen = watch.state(name)
    except ServingError as error:
        return " ({0})".format(error)
    if not seen or seen.get("up"):
        return ""
    return " (out of rotation: {0}; {1})".format(seen.get("reason", "no reason given"), seen.get("progress", ""))


def _from_its_next_start(replica: Replica) -> str:
    """Settings that its running process was started without; the probe takes its own at once.

    None of them is a release, so nobody restarts a server for them: a gate judges starts.
    """
    try:
        text = trusted.read_text(replica.scratch / settings.STARTED, trusted.CONFIGURATION_LIMIT)
        started = settings.parse(text)
    except (OSError, ValueError, ServingError):
        return ""
    if started.release != replica.release:
        return " (runs release {0}, {1} is next)".format(started.release, replica.release)
    words = [word for word in AT_START if getattr(started, word) != getattr(replica, word)]
    return " (from its next start: other {0})".format(", ".join(words)) if words else ""


def say(text: str) -> None:
    """A line for the journal or the terminal, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="replica", description="Start, gate and inspect the vLLM replicas of this host.")
    verbs = top.add_subparsers(dest="verb", required=True)
    for verb, text in (
        ("check", "refuse a start that cannot go well"),
        ("launch", "become the server"),
        ("gate", "wait until the server generates"),
        ("settle", "wait until the cores are free"),
        ("explain", "say what ended the server"),
    ):
        verbs.add_parser(verb, help=text).add_argument("name")
    verbs.add_parser("watch", help="the standing probe of this host")
    verbs.add_parser("status", help="one line for each replica").add_argument("name", nargs="*")
    return top


def run(arguments: argparse.Namespace) -> None:
    """Carry out one command."""
    if arguments.verb == "status":
        for line in status(arguments.name or settings.configured()):
            say(line)
        say(fence.summary())
    elif arguments.verb == "check":
        replica = settings.load(arguments.name)
        check(replica)
        turns.take(replica, notifier())
    elif arguments.verb == "launch":
        launch(settings.load(arguments.name), dict(os.environ))
    elif arguments.verb == "gate":
        gate(settings.load_started(arguments.name), int(os.environ.get("MAINPID") or 0), notifier())
    elif arguments.verb == "settle":
        settle(settings.load_started(arguments.name))
    elif arguments.verb == "explain":
        text = explain(arguments.name)
        if text:
            say("trainyard: " + text)
            notifier()(text)
    else:
        watch.watch(say, heartbeat())


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Entry point; 1 with the cause on stderr when a step refuses."""
    try:
        run(parser().parse_args(argv))
    except ServingError as error:
        sys.stderr.write("trainyard: {0}\n".format(error))
        # Stays in `systemctl status` when systemd has given up, below its own last lines.
        notifier()(str(error))
        return 1
    except OSError as error:
        # A full /run, a directory that is gone or not ours: what was to be done was not done.
        said = "{0}: {1}".format(error.filename or "the system", error.strerror or error)
        sys.stderr.write("trainyard: {0} stopped: {1}\n".format(" ".join(argv or sys.argv[1:]), said))
        notifier()(said)
        return 1
    return 0
