# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import (
    artifact,
    compiler,
    job,
    manifest,
    progress,
    store,
)

DIGEST = "ab" * 32

#: Stands in for the compiler: writes what NxDI writes, in its order, and counts its runs.
COMPILER = """
import json, os, pathlib, sys
target, count, shards, status = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
count.write_text(count.read_text() + os.environ["BASE_COMPILE_WORK_DIR"] + "\\n" if count.exists() else "run\\n")
config = {"neuron_config": {"tp_degree": 4, "save_sharded_checkpoint": bool(shards)}}
(target / "neuron_config.json").write_text(json.dumps(config))
print("compiling and tracing")
if status:
    sys.exit(status)
if shards >= 0:
    (target / "model.pt").write_bytes(b"graph")
(target / "weights").mkdir()
for rank in range(shards):
    (target / "weights" / f"tp{rank}_sharded_checkpoint.safetensors").write_bytes(b"shard")
"""


class Fleet:
    """Hosts that share a store; each has its own data directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = root / "store"
        self.store.mkdir()
        self.count = root / "count"

    def spec(self, host: str, shards: int = 0, status: int = 0, **more: Any) -> dict[str, Any]:
        final = self.root / host / "artifacts" / DIGEST
        argv = [sys.executable, "-c", COMPILER, str(final), str(self.count), str(shards), str(status)]
        return {
            "id": DIGEST,
            "path": str(final),
            "inputs": {"tp": 4},
            "does": "compile" if host == "h1" else "fetch",
            "generation": "nxdi_v0",
            "compile_host": "h1",
            "argv": argv,
            "environment": {},
            "work_dir": str(self.root / host / "compile" / DIGEST),
            "store": str(self.store),
            **more,
        }

    def run(self, spec: dict[str, Any]) -> dict[str, Any]:
        return artifact.run(spec, progress.Progress(self.root / "report.json"))

    @property
    def compiles(self) -> int:
        return len(self.count.read_text().splitlines()) if self.count.exists() else 0


#: The compiler's side, as its unit runs it.
RUNNER = """
import json, os, sys
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import compiler
compiler.WARM_LOOK_S = 0.05
sys.exit(compiler.main())
"""


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """Hosts whose systemd runs the compiler's unit; the real one is asked on a lab (tests/attack)."""
    monkeypatch.setattr(job, "LOG_DIR", tmp_path)

    def in_its_unit(spec: dict[str, Any], writable: list[Path]) -> int:
        assert [path.is_dir() for path in writable] == [True, True]
        credentials = tmp_path / "credentials"
        credentials.mkdir(exist_ok=True)
        (credentials / compiler.CREDENTIAL).write_text(json.dumps(spec))
        environment = {**os.environ, "CREDENTIALS_DIRECTORY": str(credentials), "PYTHONPATH": os.pathsep.join(sys.path)}
        with (tmp_path / f"artifact-{spec['id']}.log").open("ab") as log:
            argv = [sys.executable, "-c", RUNNER]
            return subprocess.run(argv, stdout=log, stderr=log, env=environment, check=False).returncode

    monkeypatch.setattr(artifact, "in_its_unit", in_its_unit)
    return Fleet(tmp_path)


def test_one_host_compiles_and_the_others_fetch_the_same_bytes(fleet: Fleet) -> None:
    made = fleet.run(fleet.spec("h1"))
    for host in ("h2", "h3"):
        assert fleet.run(fleet.spec(host)) == made
        final = Path(fleet.spec(host)["path"])
        assert manifest.full_problems(final, made) == []
        assert job.stored_in(final) == str(fleet.store)
    assert fleet.compiles == 1
    assert made["inputs"] == {"tp": 4}
    assert made["made"]["host"] == "h1"


def test_second_run_and_a_newly_elected_host_compile_nothing(fleet: Fleet) -> None:
    fleet.run(fleet.spec("h1"))
    fleet.run(fleet.spec("h1"))
    fleet.run(fleet.spec("h2", does="compile", compile_host="h2"))
    assert fleet.compiles == 1


def test_artifact_made_before_the_fleet_had_a_store_is_put_there(fleet: Fleet) -> None:
    fleet.run(fleet.spec("h1", store=""))
    assert store.open_store(str(fleet.store)).digests() == []
    fleet.run(fleet.spec("h1"))
    assert store.open_store(str(fleet.store)).digests() == [DIGEST]
    assert fleet.compiles == 1


def test_failed_compile_keeps_nothing_and_says_what_the_compiler_said(fleet: Fleet) -> None:
    spec = fleet.spec("h1", status=70)
    with pytest.raises(job.JobError, match=r"(?s)status 70: compiling and tracing"):
        fleet.run(spec)
    assert list(Path(spec["path"]).parent.iterdir()) == []
    assert not Path(spec["work_dir"]).exists()


def test_compiler_that_ends_well_without_its_result_is_not_believed(fleet: Fleet) -> None:
    spec = fleet.spec("h1", shards=-1)
    with pytest.raises(job.JobError, match=r"model\.pt is missing"):
        fleet.run(spec)
    assert not Path(spec["path"]).exists()


def test_missing_shards_are_counted(fleet: Fleet) -> None:
    with pytest.raises(job.JobError, match=r"1 of 4 weight shards are missing, first weights/tp3_sharded"):
        fleet.run(fleet.spec("h1", shards=3))
    assert fleet.run(fleet.spec("h1", shards=4))["files"]


def test_damaged_copy_in_the_store_is_not_taken(fleet: Fleet) -> None:
    fleet.run(fleet.spec("h1"))
    (fleet.store / DIGEST / "model.pt").write_bytes(b"GRAPH")
    spec = fleet.spec("h2")
    with pytest.raises(job.JobError, match=r"do not match their sums, for example model\.pt: SHA-256"):
        fleet.run(spec)
    assert not Path(spec["path"]).exists()
    assert [path.name for path in manifest.staging_of(Path(spec["path"])).iterdir()] == ["neuron_config.json"]


def test_artifact_of_other_inputs_under_the_digest_is_not_taken(fleet: Fleet) -> None:
    fleet.run(fleet.spec("h1"))
    with pytest.raises(job.JobError, match=r"other inputs \(tp\)"):
        fleet.run(fleet.spec("h2", inputs={"tp": 8}))


def test_fetching_what_nobody_made_names_the_host_that_should_have(fleet: Fleet) -> None:
    with pytest.raises(job.JobError, match="is not in") as caught:
        fleet.run(fleet.spec("h2"))
    assert "h1 did not deliver" in caught.value.next_step


def test_command_that_does_not_name_its_artifact_is_not_run(fleet: Fleet) -> None:
    spec = fleet.spec("h1")
    spec["argv"] = ["/bin/true"]
    with pytest.raises(job.JobError, match="does not name its artifact"):
        fleet.run(spec)


def test_files_of_a_compile_are_there_when_it_begins_and_nowhere_else(fleet: Fleet) -> None:
    spec = fleet.spec("h1")
    named = f"{spec['work_dir']}/modules_to_not_convert.json"
    first = "import pathlib, sys\nif pathlib.Path(sys.argv.pop(1)).read_text() != 'list': sys.exit(9)\n"
    argv = [sys.executable, "-c", first + COMPILER, named, *spec["argv"][3:]]
    assert fleet.run({**spec, "argv": argv, "files": {named: "list"}})["files"]
    elsewhere = {**fleet.spec("h1"), "files": {f"{spec['work_dir']}/../evil": "list"}}
    with pytest.raises(job.JobError, match="is not below"):
        compiler.command(elsewhere, Path(spec["path"]), Path("/s"), Path(spec["work_dir"]))


def test_staging_path_reaches_the_command_by_argument_or_environment() -> None:
    final, staging, work = Path("/d/artifacts/x"), Path("/d/artifacts/.x.partial"), Path("/d/compile/x")
    spec = {
        "argv": ["vllm", "--out", str(final)],
        "environment": {"CACHE": "/d/artifacts/x", "OTHER": "/d/artifacts/xy"},
    }
    argv, environment = compiler.command(spec, final, staging, work)
    assert argv == ["vllm", "--out", str(staging)]
    assert environment["CACHE"] == str(staging)
    assert environment["OTHER"] == "/d/artifacts/xy"
    assert environment["BASE_COMPILE_WORK_DIR"] == str(work)


def test_native_graphs_count_only_when_marked(tmp_path: Path) -> None:
    spec = {"generation": "native"}
    assert artifact.incomplete(spec, tmp_path) == ["no compiled graph"]
    graph = tmp_path / "neuron" / "compile_cache" / "0123"
    graph.mkdir(parents=True)
    (graph / "graph.neff").write_bytes(b"n")
    assert artifact.incomplete(spec, tmp_path) == ["neuron/compile_cache/0123: not marked complete"]
    (graph / ".compilation_complete").touch()
    assert artifact.incomplete(spec, tmp_path) == []


def test_configuration_alone_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "neuron_config.json").write_text(json.dumps({"neuron_config": {"tp_degree": 2}}))
    assert artifact.incomplete({"generation": "nxdi_v1"}, tmp_path) == ["model.pt is missing"]


@pytest.mark.parametrize("uri", ["", "bucket/prefix", "s3://", "relative/path"])
def test_what_is_no_store_is_refused(uri: str) -> None:
    with pytest.raises(store.StoreError, match="neither s3://"):
        store.open_store(uri)


def test_store_path_that_is_not_mounted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(store.StoreError, match="is not a directory here; mount it"):
        store.open_store(str(tmp_path / "absent"))


def test_second_controller_waits_for_the_host_that_compiles(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = store.open_store(str(fleet.store))
    assert shared.lock(DIGEST, "h1") is None
    waits: list[float] = []

    def first_finishes(seconds: float) -> None:
        waits.append(seconds)
        spec = fleet.spec("h1", store="")
        described = fleet.run(spec)
        shared.put(DIGEST, Path(spec["path"]), described, lambda _count: None)

    monkeypatch.setattr(artifact.time, "sleep", first_finishes)
    for host, does in (("h2", "compile"), ("h3", "fetch")):
        fleet.run(fleet.spec(host, does=does, compile_host="h2"))
    assert len(waits) == 1
    assert fleet.compiles == 1


def test_lock_is_given_back_when_a_compile_fails(fleet: Fleet) -> None:
    with pytest.raises(job.JobError):
        fleet.run(fleet.spec("h1", status=70))
    assert store.open_store(str(fleet.store)).holder(DIGEST) is None


def test_the_lock_of_a_long_compile_never_ends_under_it(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = store.open_store(str(fleet.store))
    long_s, clock, compiled = 3 * store.LOCK_S, [1000.0], threading.Event()
    others: list[str | None] = []
    begun = clock[0]
    monkeypatch.setattr(store, "time", SimpleNamespace(time=lambda: clock[0]))

    class Ended:
        """Passes the time between two renewals at once; another host comes for the lock at the end of each."""

        def wait(self, seconds: float) -> bool:
            clock[0] += seconds
            others.append(shared.lock(DIGEST, "h2"))
            if clock[0] - begun >= long_s or others[-1] is None:
                compiled.set()
            return compiled.is_set()

        def set(self) -> None:
            compiled.set()

    compile_it = artifact.compile_artifact

    def takes_long(*given: Any) -> dict[str, Any]:
        assert compiled.wait(60)
        return compile_it(*given)

    monkeypatch.setattr(artifact, "threading", SimpleNamespace(Event=Ended, Thread=threading.Thread))
    monkeypatch.setattr(artifact, "compile_artifact", takes_long)
    fleet.run(fleet.spec("h1"))
    assert clock[0] - begun >= long_s
    assert None not in others, "another host got the lock of one that compiles"
    assert shared.holder(DIGEST) is None


#: Stands in for a native server: marks a graph complete, then answers, and would never end by itself.
SERVER = """
import http.server, os, pathlib, sys
graph = pathlib.Path(os.environ["VLLM_CACHE_ROOT"]) / "neuron" / "compile_cache" / "0123"
graph.mkdir(parents=True)
(graph / "graph.neff").write_bytes(b"neff")
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
if sys.argv[3] == "marks":
    (graph / ".compilation_complete").touch()
http.server.HTTPServer(("127.0.0.1", int(sys.argv[2])), Health).serve_forever()
"""


@pytest.fixture
def native(fleet: Fleet) -> Any:

    def spec(marks: str, host: str = "h1", **more: Any) -> dict[str, Any]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        wanted = fleet.spec(host, generation="native", mode="warm_up", **more)
        wanted["argv"] = [sys.executable, "-c", SERVER, "--port", port, marks]
        wanted["environment"] = {"VLLM_CACHE_ROOT": wanted["path"]}
        return wanted

    return spec


def test_native_cache_is_what_a_server_leaves_that_was_warm_once(fleet: Fleet, native: Any) -> None:
    described = fleet.run(native("marks"))
    names = [entry["path"] for entry in described["files"]]
    assert names == [f"neuron/compile_cache/0123/{name}" for name in (".compilation_complete", "graph.neff")]
    # Others get those very entries, in the layout in which their servers look for them.
    fleet.run(native("marks", host="h2", argv=["/bin/false"]))
    assert manifest.full_problems(Path(fleet.spec("h2")["path"]), described) == []


def test_native_graph_that_is_not_marked_is_not_promoted(fleet: Fleet, native: Any) -> None:
    with pytest.raises(job.JobError, match=r"0123: not marked complete"):
        fleet.run(native("does not"))
    assert store.open_store(str(fleet.store)).digests() == []


def test_compile_begins_when_its_own_weights_are_there(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arriving = tmp_path / "weights"
    looks: list[str] = []

    def arrives(_seconds: float) -> None:
        looks.append(progress.read(fleet.root / "report.json")["phase"])
        assert fleet.compiles == 0
        arriving.mkdir()
        (arriving / "config.json").write_text("{}")
        described = manifest.build(arriving, "weights", "m", {}, {})
        manifest.write_atomically(arriving / manifest.NAME, manifest.dump(described))

    monkeypatch.setattr(artifact.time, "sleep", arrives)
    monkeypatch.setattr(job, "unit_runs", lambda *_: True)
    fleet.run(fleet.spec("h1", weights="m", weights_path=str(arriving)))
    assert looks == ["waiting for its weights"]
    assert fleet.compiles == 1


def test_compile_without_weights_that_nobody_brings_says_so(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "unit_runs", lambda *_: False)
    with pytest.raises(job.JobError, match="nothing brings them"):
        fleet.run(fleet.spec("h1", weights="m", weights_path=str(tmp_path / "weights")))
    assert fleet.compiles == 0


def test_what_the_compiler_left_is_root_s_and_readable_by_all(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir(mode=0o700)
    (tmp_path / "weights" / "tp0").write_text("x")
    (tmp_path / "weights" / "tp0").chmod(0o4777)
    artifact.take_over(tmp_path)
    assert oct((tmp_path / "weights").stat().st_mode & 0o7777) == "0o755"
    assert oct((tmp_path / "weights" / "tp0").stat().st_mode & 0o7777) == "0o644"
    assert (tmp_path / "weights" / "tp0").stat().st_uid == os.getuid()


@pytest.mark.parametrize("kind", ["link", "link to a folder", "pipe", "socket"])
def test_nothing_that_leads_elsewhere_is_taken_from_a_compiler(tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir(mode=0o700)
    left = tmp_path / "left"
    left.mkdir()
    make = {
        "link": lambda: (left / "model.pt").symlink_to("/etc/shadow"),
        "link to a folder": lambda: (left / "model.pt").symlink_to(victim),
        "pipe": lambda: os.mkfifo(left / "model.pt"),
        "socket": lambda: os.mknod(left / "model.pt", 0o140600),
    }
    make[kind]()
    with pytest.raises(job.JobError, match=r"left 'model\.pt', which is neither a file nor a directory"):
        artifact.take_over(left)
    assert oct(victim.stat().st_mode & 0o7777) == "0o700"


def test_a_program_that_is_not_there_is_said_to_be_missing(fleet: Fleet) -> None:
    spec = fleet.spec("h1")
    spec["argv"] = ["/nowhere/inference_demo", spec["path"]]
    with pytest.raises(job.JobError, match="cannot run /nowhere/inference_demo: No such file") as caught:
        fleet.run(spec)
    assert "neuron_venv" in caught.value.next_step


def test_the_compiler_s_numbers_are_put_into_a_container_s_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.pwd, "getpwnam", lambda name: {compiler.USER: type("Entry", (), USER_ENTRY)}[name])
    final, staging = Path("/d/artifacts/x"), Path("/d/artifacts/.x.partial")
    spec = {"argv": ["podman", "run", "--user", compiler.USER_IDS, "image", str(final)], "environment": {}}
    argv, _environment = compiler.command(spec, final, staging, Path("/d/compile/x"))
    assert argv == ["podman", "run", "--user", "990:989", "image", str(staging)]


USER_ENTRY = {"pw_uid": 990, "pw_gid": 989}


@pytest.mark.parametrize(
    "text", ["[]", "1", '{"neuron_config": 7}', "[" * 100_000, '{"save_sharded_checkpoint": true}']
)
def test_a_configuration_that_a_compiler_s_user_wrote_is_read_with_care(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.pt").write_bytes(b"x")
    (tmp_path / "neuron_config.json").write_text(text)
    (problem,) = artifact.incomplete({"generation": "nxdi_v1"}, tmp_path)
    assert problem.startswith("neuron_config.json")


def test_the_compiler_s_process_has_no_word_of_its_credentials(fleet: Fleet) -> None:
    spec = fleet.spec("h1")
    show = "import os, pathlib, sys; pathlib.Path(sys.argv[2]).write_text(str('CREDENTIALS_DIRECTORY' in os.environ))"
    told = fleet.root / "told"
    spec["argv"] = [sys.executable, "-c", show, spec["path"], str(told)]
    with pytest.raises(job.JobError, match="incomplete"):
        fleet.run(spec)
    assert told.read_text() == "False"


def test_what_a_compiler_may_write_is_its_user_s_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user of the host could else put a program where the compiler looks for its own."""
    folder = tmp_path / "staging"
    folder.mkdir(mode=0o755)
    entry = type("Entry", (), {"pw_uid": os.getuid(), "pw_gid": os.getgid()})
    monkeypatch.setattr(artifact.pwd, "getpwnam", lambda _name: entry)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "systemctl").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "systemctl").chmod(0o755)
    assert artifact.in_its_unit({"id": DIGEST}, [folder]) == 0
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
