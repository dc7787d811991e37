# SPDX-License-Identifier: Apache-2.0
"""The compiler, as a user of its own in a unit of its own: what it loads may run code, so it gets nothing but its work.

The job (`artifact`, root) makes the directories, starts the unit `trainyard-compile@<id>` and looks at what it left.
That unit has no credential of the store, no network unless it is told to, and two directories that it may write. What
to do reaches it as the credential `spec`, since the specifications of jobs are root's.
"""

from __future__ import annotations

import http.client
import json
import os
import pwd
import signal
import subprocess
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any, Dict, List

from . import job, manifest

#: Who compiles. Made by the role model_compile.
USER = "trainyard-compile"

#: Stands in a command line for the numbers of that user: in an image it has no name.
USER_IDS = "{compile_user}"

#: Name of the credential that holds the job's specification.
CREDENTIAL = "spec"

#: Seconds between two looks at whether a server answers, and how long it may take to stop.
WARM_LOOK_S = 1.0
WARM_STOP_S = 60.0

#: Exit status for a command that cannot be started, as the shell has it.
NOT_STARTED = 127


def main() -> int:
    """Run the compiler of the specification that systemd handed to this unit; return its status."""
    spec = json.loads((Path(os.environ["CREDENTIALS_DIRECTORY"]) / CREDENTIAL).read_text(encoding="utf-8"))
    return run(spec)


def run(spec: Dict[str, Any]) -> int:
    """Run the compiler; its output is this process's, and so this job's log. Return its status.

    Raises:
        job.JobError: the plan's command would write somewhere else.
    """
    final, work_dir = Path(spec["path"]), Path(spec["work_dir"])
    argv, environment = command(spec, final, manifest.staging_of(final), work_dir)
    for name, content in (spec.get("files") or {}).items():
        Path(name).write_text(content, encoding="utf-8")
    inherited = {name: value for name, value in os.environ.items() if name != "CREDENTIALS_DIRECTORY"}
    try:
        return _follow(argv, {**inherited, **environment}, work_dir, spec.get("mode") or "run")
    except OSError as error:
        print(f"cannot run {argv[0]}: {error.strerror}", flush=True)  # noqa: T201 - the job's log
        return NOT_STARTED


def command(spec: Dict[str, Any], final: Path, staging: Path, work_dir: Path) -> tuple[List[str], Dict[str, str]]:
    """Return argv and environment of the compile: the plan's, with the artifact's path replaced by the staging one.

    Raises:
        JobError: the plan's command names the artifact's path nowhere, so it would write somewhere else, or one of its
            files is to lie elsewhere.
    """
    argv = [str(staging) if item == str(final) else item for item in spec["argv"]]
    environment = {key: str(staging) if value == str(final) else value for key, value in spec["environment"].items()}
    if argv == spec["argv"] and environment == spec["environment"]:
        raise job.JobError(
            f"the compile command does not name its artifact, {final}",
            "nothing was run",
            "report this plan: argv or environment of an artifact must hold its path",
        )
    for name in spec.get("files") or {}:
        if work_dir not in Path(os.path.normpath(name)).parents:
            cause = f"a file of the compile, {name}, is not below {work_dir}"
            raise job.JobError(cause, "nothing was run", "report this plan: its files belong into its own directory")
    # Two compiles that share this directory spoil each other's files.
    environment["BASE_COMPILE_WORK_DIR"] = str(work_dir)
    environment.setdefault("HOME", str(work_dir))
    # The framework starts neuronx-cc, which is installed beside it, and the runtime's tools by name.
    beside = [str(Path(argv[0]).parent)] if Path(argv[0]).is_absolute() else []
    search = [*beside, "/opt/aws/neuron/bin", os.environ.get("PATH", os.defpath)]
    environment.setdefault("PATH", os.pathsep.join(search))
    return [word.replace(USER_IDS, _user_ids()) if USER_IDS in word else word for word in argv], environment


def _user_ids() -> str:
    entry = pwd.getpwnam(USER)
    return f"{entry.pw_uid}:{entry.pw_gid}"


def _follow(argv: List[str], environment: Dict[str, str], folder: Path, mode: str) -> int:
    """Run a command to its end and return its status.

    With mode `warm_up` the command is a server whose work is done once it answers; it is stopped then, and that counts
    as status 0.
    """
    warm = threading.Event()
    with subprocess.Popen(
        argv, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        if mode == "warm_up":
            threading.Thread(target=_stop_when_warm, args=(process, health_url(argv), warm), daemon=True).start()
        process.wait()
    return 0 if warm.is_set() else process.returncode


def health_url(argv: List[str]) -> str:
    """Return where the server of a command line says that it is ready; vLLM listens on port 8000 when none is given."""
    host, port = (argv[argv.index(flag) + 1] if flag in argv else "" for flag in ("--host", "--port"))
    reached = "127.0.0.1" if host in ("", "0.0.0.0") else host  # noqa: S104 - compared, not bound
    return f"http://{reached}:{port or '8000'}/health"


def _stop_when_warm(process: "subprocess.Popen[bytes]", url: str, warm: threading.Event) -> None:
    while process.poll() is None:
        time.sleep(WARM_LOOK_S)
        try:
            # A server that this job started: asked by no proxy.
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
                if answer.status != 200:
                    continue
        except (OSError, http.client.HTTPException):
            continue
        warm.set()
        # The whole group: an engine that outlives its server would hold the cores.
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=WARM_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        return
