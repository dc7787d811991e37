# SPDX-License-Identifier: Apache-2.0
"""Compile an artifact once, keep it where the fleet can fetch it, and fetch it where others compiled it."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import stat
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

from . import compiler, job, manifest, names, peer, progress, store, transfer

#: Seconds between two looks at whether another host has finished.
WAIT_S = 5.0

#: Seconds between two looks at whether the weights have arrived.
WEIGHTS_LOOK_S = 1.0

#: Most ranks that a configuration is believed to have.
MOST_RANKS = 4096

#: How a directory of a result is: servers read it, root alone writes it.
READABLE_FOLDER = 0o755

#: What the last lines of a failed compile are cut to, characters.
TAIL_CHARS = 2000


def run(spec: Dict[str, Any], report: progress.Progress) -> Dict[str, Any]:
    """Make `spec['path']` hold the artifact; return its manifest.

    `spec`: id (the digest), path, inputs, does (compile or fetch), generation, argv, environment, work_dir, weights,
    weights_path, store, store_endpoint, and the sender where another host of the fleet is to be asked first.
    """
    final = Path(spec["path"])
    final.parent.mkdir(parents=True, exist_ok=True)
    job.refuse_unreadable(
        final,
        f"`rm -r {final}` on this host when nothing serves from it, then run again: it is fetched or compiled anew",
    )
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
    compiler.command(spec, final, staging, work_dir)  # refuses a plan that would write elsewhere
    staging.mkdir()
    work_dir.mkdir(parents=True)
    began_s = time.monotonic()
    report.phase("compiling")
    try:
        _compile(spec, staging, work_dir)
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
    """Wait for the checkpoints, whose units may still work: a compile begins when its own weights are there.

    Raises:
        JobError: they are not here and nothing brings them.
    """
    if spec.get("weights"):
        _await(Path(spec.get("weights_path") or "/"), spec["weights"], report)
    for more in spec.get("more_weights") or ():
        _await(Path(more["path"]), more["id"], report)


def _await(path: Path, identifier: str, report: progress.Progress) -> None:
    while manifest.read(path) is None:
        if not job.unit_runs("weights", identifier) and manifest.read(path) is None:
            raise job.JobError(
                f"its weights are not in {path}, and nothing brings them",
                "nothing was run",
                f"see {job.LOG_DIR}/weights-{identifier}.log, then provision again (role model_weights)",
            )
        report.wait("waiting for its weights")
        time.sleep(WEIGHTS_LOOK_S)


def _compile(spec: Dict[str, Any], staging: Path, work_dir: Path) -> None:
    """Have the compiler's unit fill the staging directory, and take over what it left."""
    started_at = _log_end(spec)
    status = in_its_unit(spec, [staging, work_dir])
    said = _said_since(spec, started_at)
    if status == compiler.NOT_STARTED:
        raise job.JobError(
            said or f"cannot run {spec['argv'][0]}",
            "nothing was kept",
            "provision the SDK release on this host (roles neuron_venv and container_engine)",
        )
    if status != 0:
        raise job.JobError(
            f"the compiler ended with status {status}: {said}",
            "nothing was kept",
            f"read {job.LOG_DIR}/artifact-{spec['id']}.log. It runs as {compiler.USER} without network: where it needs "
            "one, set model_compile_network",
        )
    take_over(staging)


def in_its_unit(spec: Dict[str, Any], writable: List[Path]) -> int:
    """Run the compiler's unit to its end, `writable` being what it may write; return the status of its main process.

    Raises:
        job.JobError: systemd cannot start it.
    """
    entry = pwd.getpwnam(compiler.USER)
    for path in writable:
        os.chown(path, entry.pw_uid, entry.pw_gid)
        path.chmod(0o700)
    unit = job.unit_of("compile", spec["id"])
    done = subprocess.run(["systemctl", "start", "--wait", unit], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        return 0
    # A unit that failed stays loaded until it is started again; one that ended well is forgotten at once.
    argv = ["systemctl", "show", "--property=Result,ExecMainCode,ExecMainStatus", unit]
    shown = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False)
    found = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
    if found.get("ExecMainCode") in (None, "0"):
        raise job.JobError(
            f"{unit} was not started: {done.stderr.strip() or found.get('Result', 'no reason given')}",
            "nothing was kept",
            f"read `journalctl -u {unit}` on the host",
        )
    return int(found["ExecMainStatus"]) or 1


def take_over(root: Path) -> None:
    """Make root the owner of what another user's processes, all ended, left in a directory; everybody may read it.

    Raises:
        job.JobError: it holds what is neither a directory nor a regular file, which nobody may follow or wait for.
    """
    for _folder, folders, files, descriptor in os.fwalk(root, follow_symlinks=False):
        for name in [*folders, *files]:
            kind = os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_mode
            if not (stat.S_ISDIR(kind) or stat.S_ISREG(kind)):
                raise job.JobError(
                    f"the compiler left {names.shown(name)}, which is neither a file nor a directory",
                    "nothing was kept",
                    "do not trust that checkpoint; read what it holds before it is compiled again",
                )
            os.chown(name, os.getuid(), os.getgid(), dir_fd=descriptor, follow_symlinks=False)
        for name in files:
            os.chmod(name, 0o644, dir_fd=descriptor)
        for name in folders:
            os.chmod(name, READABLE_FOLDER, dir_fd=descriptor)
    os.chown(root, os.getuid(), os.getgid())
    root.chmod(READABLE_FOLDER)


def _log_end(spec: Dict[str, Any]) -> int:
    log = job.LOG_DIR / f"artifact-{spec['id']}.log"
    return log.stat().st_size if log.exists() else 0


def _said_since(spec: Dict[str, Any], begin: int) -> str:
    """Return the end of what the job's log got since it had `begin` bytes."""
    try:
        with (job.LOG_DIR / f"artifact-{spec['id']}.log").open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(begin, end - TAIL_CHARS))
            return stream.read().decode(errors="replace").strip()
    except FileNotFoundError:
        return ""


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
    except (OSError, ValueError, RecursionError) as error:
        return [*problems, f"neuron_config.json cannot be read ({error})"]
    config = document.get("neuron_config", document) if isinstance(document, dict) else None
    if not isinstance(config, dict):
        return [*problems, "neuron_config.json is no configuration of the engine"]
    if config.get("save_sharded_checkpoint"):
        ranks = config.get("tp_degree")
        if isinstance(ranks, bool) or not isinstance(ranks, int) or not 0 < ranks <= MOST_RANKS:
            return [*problems, f"neuron_config.json: its tp_degree is {names.shown(ranks)}"]
        shards = [f"weights/tp{rank}_sharded_checkpoint.safetensors" for rank in range(ranks)]
        missing = [name for name in shards if not (staging / name).is_file()]
        if missing:
            problems.append(f"{len(missing)} of {ranks} weight shards are missing, first {missing[0]}")
    return problems
