# SPDX-License-Identifier: Apache-2.0
"""Compile an artifact once, keep it where the fleet can fetch it, and fetch it where others compiled it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any, Dict, List, Optional

from . import job, manifest, names, peer, progress, store, transfer

#: Seconds between two looks at whether another host has finished.
WAIT_S = 5.0

#: Seconds between two looks at whether the weights have arrived.
WEIGHTS_LOOK_S = 1.0

#: Seconds between two looks at whether a server answers, and how long it may take to stop.
WARM_LOOK_S = 1.0
WARM_STOP_S = 60.0

#: What the last lines of a failed compile are cut to, characters.
TAIL_CHARS = 2000


def run(spec: Dict[str, Any], report: progress.Progress) -> Dict[str, Any]:
    """Make `spec['path']` hold the artifact; return its manifest.

    `spec`: id (the digest), path, inputs, does (compile or fetch), generation, argv, environment, work_dir, weights,
    weights_path, store, store_endpoint, and the sender where another host of the fleet is to be asked first.
    """
    final = Path(spec["path"])
    final.parent.mkdir(parents=True, exist_ok=True)
    shared = store.open_store(spec["store"], spec.get("store_endpoint", "")) if spec.get("store") else None
    described = None if job.complete_problems(final, spec["inputs"]) else manifest.read(final)
    if described is None and shared is not None:
        stored = shared.manifest(spec["id"])
        if stored is not None:
            described = fetch(spec, stored, StoreSource(shared, spec["id"], stored), final, report)
    if described is None and spec.get("sender"):
        described = _from_peer(spec, final, report)
    if described is None:
        described = _compile_once(spec, final, shared, report)
    if shared is not None:
        if shared.manifest(spec["id"]) is None:
            report.phase(f"storing in {shared.uri}", sum(entry["size"] for entry in described["files"]))
            shared.put(spec["id"], final, described, report.add)
        # So that the next run knows without asking the store.
        manifest.write_atomically(job.stored_note(final), shared.uri + "\n")
    return described


def _from_peer(spec: Dict[str, Any], final: Path, report: progress.Progress) -> Optional[Dict[str, Any]]:
    """Fetch from another host of the fleet; None when it has none and this host may compile instead.

    Raises:
        JobError: it has none, and this host was not chosen to compile.
    """
    sender = peer.Peer(spec, report)
    try:
        return fetch(spec, sender.wait(), sender, final, report)
    except peer.PeerError as error:
        if spec["does"] == "fetch":
            raise job.JobError(
                f"artifact {spec['id'][:12]} did not come: {error}",
                "what arrived is kept",
                f"see what {sender.name} says in {job.LOG_DIR}/artifact-{spec['id']}.log, then run again to resume",
            ) from error
        print(f"{error}; compiling here", flush=True)  # noqa: T201 - the job's log
        return None
    finally:
        sender.close()


def _compile_once(spec: Dict[str, Any], final: Path, shared: Any, report: progress.Progress) -> Dict[str, Any]:
    """Compile, or wait for the host of the fleet that is at it, whichever controller started it there, and fetch."""
    if shared is None and spec["does"] == "compile":
        return compile_artifact(spec, final, report)
    owner = f"{spec['compile_host']} ({os.uname().nodename}, process {os.getpid()})"
    while True:
        stored = shared.manifest(spec["id"]) if shared is not None else None
        if stored is not None:
            return fetch(spec, stored, StoreSource(shared, spec["id"], stored), final, report)
        holder = _holder(spec, shared, owner)
        if holder is None:
            return _compile_locked(spec, final, shared, owner, report)
        report.wait(f"waiting for {holder} to compile")
        time.sleep(WAIT_S)


def _holder(spec: Dict[str, Any], shared: Any, owner: str) -> Optional[str]:
    """Return who compiles this artifact now; None when it is this host, which holds the lock then.

    Raises:
        JobError: nobody does, and this host was not chosen to.
    """
    if spec["does"] == "compile":
        taken_by: Optional[str] = shared.lock(spec["id"], owner)
        return taken_by
    holder: Optional[str] = shared.holder(spec["id"]) if shared is not None else None
    if holder is None:
        raise job.JobError(
            f"artifact {spec['id'][:12]} is not in {spec.get('store') or 'any store (none is set)'}",
            "nothing was written",
            f"see why {spec['compile_host']} did not deliver it: its log is {job.LOG_DIR}/artifact-{spec['id']}.log",
        )
    return holder


def _compile_locked(
    spec: Dict[str, Any], final: Path, shared: Any, owner: str, report: progress.Progress
) -> Dict[str, Any]:
    """Compile and store while holding the lock, renewing it as long as the work goes on."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(store.LOCK_S / 4):
            with contextlib.suppress(store.StoreError):  # a store that is away for a moment must not end a compile
                shared.lock(spec["id"], owner)

    renewal = threading.Thread(target=renew, daemon=True)
    renewal.start()
    try:
        described = compile_artifact(spec, final, report)
        report.phase(f"storing in {shared.uri}", sum(entry["size"] for entry in described["files"]))
        shared.put(spec["id"], final, described, report.add)
    finally:
        ended.set()
        renewal.join()
        shared.unlock(spec["id"], owner)
    return described


class StoreSource:
    """An artifact in the fleet's store, as a source of files."""

    def __init__(self, shared: Any, digest: str, stored: Dict[str, Any]) -> None:
        self.name = str(shared.uri)
        self._shared, self._digest, self._stored = shared, digest, stored

    def expected(self) -> List[Dict[str, Any]]:
        """Return the files of the stored manifest."""
        return list(self._stored["files"])

    def fetch(self, staging: Path, expected: List[Dict[str, Any]]) -> None:
        """Fetch what is not there yet."""
        for entry in expected:
            if transfer.lacks(staging, entry):
                target = names.inside(staging, entry["path"], self.name)
                self._shared.get(self._digest, entry["path"], target, lambda _count: None)

    def forget(self, staging: Path, name: str) -> None:
        """Remove a wrong file, so that it is fetched anew and alone."""
        names.inside(staging, name, self.name).unlink(missing_ok=True)


def fetch(
    spec: Dict[str, Any], stored: Dict[str, Any], source: transfer.Source, final: Path, report: progress.Progress
) -> Dict[str, Any]:
    """Bring an artifact that others made, and take it only when every file has the sum in its manifest."""
    if stored["inputs"] != spec["inputs"]:
        differing = ", ".join(job.different_keys(stored["inputs"], spec["inputs"]))
        raise job.JobError(
            f"{source.name} holds under {spec['id'][:12]} an artifact of other inputs ({differing})",
            "nothing was written",
            f"remove it: trainyard artifact rm {spec['id']}",
        )
    staging = manifest.staging_of(final)
    transfer.bring(source, staging, f"artifact {spec['id'][:12]}", report)
    manifest.publish(staging, final, stored)
    return stored


def compile_artifact(spec: Dict[str, Any], final: Path, report: progress.Progress) -> Dict[str, Any]:
    """Run the compiler into a staging directory and publish what it made, when it is whole."""
    _await_weights(spec, report)
    staging = manifest.staging_of(final)
    work_dir = Path(spec["work_dir"])
    shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(work_dir, ignore_errors=True)
    staging.mkdir()
    work_dir.mkdir(parents=True)
    began_s = time.monotonic()
    report.phase("compiling")
    try:
        _compile(spec, final, staging, work_dir)
        problems = incomplete(spec, staging)
        if problems:
            raise job.JobError(
                f"the compiler ended well but its artifact is incomplete: {'; '.join(problems)}",
                "nothing was kept",
                f"read {job.LOG_DIR}/artifact-{spec['id']}.log",
            )
    except (job.JobError, OSError):  # what is missing of it would be missed only when it serves
        shutil.rmtree(staging, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(work_dir, ignore_errors=True)
    report.phase("hashing", job.tree_bytes(staging))
    made = {
        "on": os.uname().nodename,
        "host": spec["compile_host"],
        "argv": spec["argv"],
        "versions": spec.get("versions", {}),
        "compile_s": round(time.monotonic() - began_s, 1),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    described = manifest.build(staging, "artifact", spec["id"], spec["inputs"], made, report.add)
    manifest.publish(staging, final, described)
    return described


def _await_weights(spec: Dict[str, Any], report: progress.Progress) -> None:
    """Wait for the checkpoint, whose unit may still work: a compile begins when its own weights are there.

    Raises:
        JobError: they are not here and nothing brings them.
    """
    path, identifier = Path(spec.get("weights_path") or "/"), spec.get("weights")
    if not identifier:
        return
    while manifest.read(path) is None:
        if not job.unit_runs("weights", identifier) and manifest.read(path) is None:
            raise job.JobError(
                f"its weights are not in {path}, and nothing brings them",
                "nothing was run",
                f"see {job.LOG_DIR}/weights-{identifier}.log, then provision again (role model_weights)",
            )
        report.wait("waiting for its weights")
        time.sleep(WEIGHTS_LOOK_S)


def command(spec: Dict[str, Any], final: Path, staging: Path, work_dir: Path) -> tuple[List[str], Dict[str, str]]:
    """Return argv and environment of the compile: the plan's, with the artifact's path replaced by the staging one.

    Raises:
        JobError: the plan's command names the artifact's path nowhere, so it would write somewhere else.
    """
    argv = [str(staging) if item == str(final) else item for item in spec["argv"]]
    environment = {key: str(staging) if value == str(final) else value for key, value in spec["environment"].items()}
    if argv == spec["argv"] and environment == spec["environment"]:
        raise job.JobError(
            f"the compile command does not name its artifact, {final}",
            "nothing was run",
            "report this plan: argv or environment of an artifact must hold its path",
        )
    # Two compiles that share this directory spoil each other's files.
    environment["BASE_COMPILE_WORK_DIR"] = str(work_dir)
    environment.setdefault("HOME", str(work_dir))
    # The framework starts neuronx-cc, which is installed beside it, and the runtime's tools by name.
    beside = [str(Path(argv[0]).parent)] if Path(argv[0]).is_absolute() else []
    search = [*beside, "/opt/aws/neuron/bin", os.environ.get("PATH", os.defpath)]
    environment.setdefault("PATH", os.pathsep.join(search))
    return argv, environment


def _compile(spec: Dict[str, Any], final: Path, staging: Path, work_dir: Path) -> None:
    argv, environment = command(spec, final, staging, work_dir)
    try:
        status, said = _follow(argv, {**os.environ, **environment}, work_dir, spec.get("mode", "run"))
    except OSError as error:
        raise job.JobError(
            f"cannot run {argv[0]}: {error.strerror}",
            "nothing was kept",
            "provision the SDK release on this host (roles neuron_venv and container_engine)",
        ) from error
    if status != 0:
        raise job.JobError(
            f"the compiler ended with status {status}: {said}",
            "nothing was kept",
            f"read {job.LOG_DIR}/artifact-{spec['id']}.log",
        )


def _follow(argv: List[str], environment: Dict[str, str], folder: Path, mode: str) -> tuple[int, str]:
    """Run a command with its output going to this job's log; return its status and the end of what it said.

    With mode `warm_up` the command is a server whose work is done once it answers; it is stopped then, and that counts
    as status 0.
    """
    tail = ""
    warm = threading.Event()
    with subprocess.Popen(
        argv,
        env=environment,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        if mode == "warm_up":
            threading.Thread(target=_stop_when_warm, args=(process, health_url(argv), warm), daemon=True).start()
        for line in process.stdout or ():
            print(line, end="", flush=True)  # noqa: T201 - the job's log
            tail = (tail + line)[-TAIL_CHARS:]
    return 0 if warm.is_set() else process.returncode, tail.strip()


def health_url(argv: List[str]) -> str:
    """Return where the server of a command line says that it is ready; vLLM listens on port 8000 when none is given."""
    host, port = (argv[argv.index(flag) + 1] if flag in argv else "" for flag in ("--host", "--port"))
    reached = "127.0.0.1" if host in ("", "0.0.0.0") else host  # noqa: S104 - compared, not bound
    return f"http://{reached}:{port or '8000'}/health"


def _stop_when_warm(process: subprocess.Popen[str], url: str, warm: threading.Event) -> None:
    while process.poll() is None:
        time.sleep(WARM_LOOK_S)
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - a server that this job started
                if answer.status != 200:
                    continue
        except OSError:
            continue
        warm.set()
        # The whole group: an engine that outlives its server would hold the cores.
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=WARM_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        return


def incomplete(spec: Dict[str, Any], staging: Path) -> List[str]:
    """Return what is missing from a compiled artifact.

    NxDI writes neuron_config.json first, so that file alone proves nothing: model.pt must be there, and one shard a
    rank where the configuration says that weights are sharded ahead. The native plugin marks each finished graph.
    Source: application_base.py of neuronx-distributed-inference; vllm-neuron issue 1368.
    """
    if spec["generation"] == "native":
        graphs = [path.parent for path in staging.rglob("*.neff")]
        unfinished = [
            str(path.relative_to(staging)) for path in graphs if not (path / ".compilation_complete").exists()
        ]
        if not graphs:
            return ["no compiled graph"]
        return [f"{name}: not marked complete" for name in unfinished]
    problems = [] if (staging / "model.pt").is_file() else ["model.pt is missing"]
    try:
        document = json.loads((staging / "neuron_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return [*problems, f"neuron_config.json cannot be read ({error})"]
    config = document.get("neuron_config", document)
    if config.get("save_sharded_checkpoint"):
        ranks = int(config["tp_degree"])
        shards = [f"weights/tp{rank}_sharded_checkpoint.safetensors" for rank in range(ranks)]
        missing = [name for name in shards if not (staging / name).is_file()]
        if missing:
            problems.append(f"{len(missing)} of {ranks} weight shards are missing, first {missing[0]}")
    return problems
