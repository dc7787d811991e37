# SPDX-License-Identifier: Apache-2.0
"""The program that a replica's unit consists of: its checks, its gate, its end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import (
    cli,
    container,
    fence,
    layout,
    phases,
    settings,
    slices,
    turns,
    watch,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.judge import Limits
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.settings import Gate, Replica, ServingError

from lab.neuron_sim import ownership
from tests.lab.sim_support import SimHost
from tests.roles import render
from tests.serving.stub import Stub, free_port, running


@pytest.fixture(scope="module")
def neuron(tmp_path_factory: pytest.TempPathFactory) -> SimHost:
    """The lab's stand-in of SDK 2.23, whose neuron-ls prints no core ids."""
    return SimHost(tmp_path_factory.mktemp("neuron"))


@pytest.fixture
def host(tmp_path: Path, neuron: SimHost, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host's directories, and the stand-in's neuron-ls."""
    monkeypatch.setattr(settings, "CONFIGURATION", tmp_path / "etc")
    monkeypatch.setattr(settings, "RUNTIME", tmp_path / "run")
    monkeypatch.setattr(layout, "STATE", tmp_path / "var")
    monkeypatch.setattr(watch, "STATE", tmp_path / "state")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    for name in ("etc", "run/tiny-llama-0", "state", "var", "artifact"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "artifact/model.pt").write_text("")
    (tmp_path / "artifact/neuron_config.json").write_text('{"neuron_config": {"tp_degree": 32}}')
    (tmp_path / "neuron-ls").symlink_to(neuron.config.path("/opt/aws/neuron/bin/neuron-ls"))
    return tmp_path


def replica(host: Path, port: int, **given: Any) -> Replica:
    """The replica as the role writes it, read back as the program reads it."""
    row = render.replica(0, url=f"http://127.0.0.1:{port}", argv=[sys.executable, "-c", "pass"], agent_port=0)
    row["artifact_path"] = str(host / "artifact")
    text = render.render("vllm_endpoint", "replica.json.j2", item=row, vllm_endpoint_neuron_ls=str(host / "neuron-ls"))
    (host / "etc/tiny-llama-0.json").write_text(text)
    return dataclasses.replace(settings.load("tiny-llama-0"), **given)


def claim(neuron: SimHost, cores: str) -> dict[str, str]:
    """The environment of a process that holds these cores of the stand-in."""
    return {ownership.CLAIM_VARIABLE: ownership.marker(neuron.config, "test", ownership.parse_cores(cores))}


@contextmanager
def process(**environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that sleeps, with an environment of its own."""
    program = "import time; print(flush=True); time.sleep(60)"
    argv = [sys.executable, "-c", program]
    with subprocess.Popen(argv, env={**os.environ, **environment}, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()  # until then /proc may show this process's own environment
        try:
            yield child
        finally:
            child.kill()


def was_left_alone(server: subprocess.Popen[bytes]) -> bool:
    """Whether nobody has killed a process: what it dies of now is what comes first."""
    server.terminate()
    return server.wait() == -signal.SIGTERM


def test_what_the_role_writes_is_what_the_program_reads(host: Path) -> None:
    seen = replica(host, 8000)
    assert (seen.name, seen.cores, seen.served_name, seen.release) == (
        "tiny-llama-0",
        "0-31",
        "tiny/llama",
        "0123456789ab",
    )
    assert seen.gate.timeout_s == 3600
    assert seen.probe == Limits()


def test_a_free_slice_and_port_pass(host: Path) -> None:
    cli.check(replica(host, free_port()))
    assert json.loads((host / "run/tiny-llama-0/replica.json").read_text())["name"] == "tiny-llama-0"


def test_a_held_slice_is_refused_and_its_holder_named(host: Path, neuron: SimHost) -> None:
    with process(**claim(neuron, "28-31")) as other:
        expected = rf"cores 0-31 are held by process {other.pid} \(.*python.*\) on device 7"
        with pytest.raises(ServingError, match=expected):
            cli.check(replica(host, free_port()))


def test_a_holder_of_other_cores_of_the_same_device_is_no_conflict(host: Path, neuron: SimHost) -> None:
    with process(NEURON_RT_VISIBLE_CORES="2-3", **claim(neuron, "2-3")):
        cli.check(replica(host, free_port(), cores="0-1"))
        with pytest.raises(ServingError, match="are held by"):
            cli.check(replica(host, free_port(), cores="1-2"))


def test_no_more_replicas_load_than_may_and_the_next_has_its_turn_when_one_is_done(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "STATE", host)
    fleet = []
    for index in range(3):
        (host / f"run/tiny-llama-{index}").mkdir(exist_ok=True)
        fleet.append(replica(host, 8000, name=f"tiny-llama-{index}", loads_at_once=2))
    first, second, third = fleet
    said: list[str] = []

    def one_is_done(_seconds: float) -> None:
        turns.give_back(first)

    for one in (first, second, first):  # a start that is repeated has its place already
        turns.take(one, said.append, one_is_done)
    assert said == []
    turns.take(third, said.append, one_is_done)
    assert len(said) == 1
    assert said[0].startswith("waits for its turn to load: tiny-llama-0, tiny-llama-1 first")
    assert turns.loading("") == ["tiny-llama-1", "tiny-llama-2"]


def test_a_taken_port_is_refused(host: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = squatter.getsockname()[1]
        with pytest.raises(ServingError, match=f"port {port} is taken"):
            cli.check(replica(host, port))


def test_a_missing_artifact_is_refused_before_the_server_compiles(host: Path) -> None:
    with pytest.raises(ServingError, match="would compile for a long time"):
        cli.check(replica(host, free_port(), artifact_path=str(host / "none")))


def test_an_artifact_for_other_settings_is_refused(host: Path) -> None:
    argv = (sys.executable, "--tensor-parallel-size", "16")
    with pytest.raises(
        ServingError, match="does not fit: --tensor-parallel-size 16, but the artifact's tp_degree is 32"
    ):
        cli.check(replica(host, free_port(), argv=argv))


def test_a_key_in_argv_is_refused(host: Path) -> None:
    with pytest.raises(ServingError, match="set vllm_endpoint_api_key instead"):
        cli.check(replica(host, free_port(), argv=(sys.executable, "--api-key", "s3cret")))


def test_a_broken_neuron_ls_is_reported_with_its_own_words(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "ATTEMPTS", 1)
    broken = SimHost(host / "broken")
    (host / "broken/etc/trainyard-lab.json").write_text("{")
    (host / "neuron-ls").unlink()
    (host / "neuron-ls").symlink_to(broken.config.path("/opt/aws/neuron/bin/neuron-ls"))
    with pytest.raises(ServingError, match=r"(?s)neuron-ls does not work: .*trainyard-lab\.json: not JSON"):
        cli.check(replica(host, free_port()))


def gate_of(stub: Stub, host: Path, main_pid: int = 0, **gate: Any) -> list[str]:
    told: list[str] = []
    wanted = dataclasses.replace(Gate(timeout_s=1.0), **gate)
    cli.gate(replica(host, stub.port, gate=wanted), main_pid, told.append)
    return told


def test_the_gate_opens_on_tokens_and_records_them(host: Path, neuron: SimHost) -> None:
    mine, other = claim(neuron, "0-31"), claim(neuron, "32-35")
    with running(token_s=0.001) as stub, process(**mine) as engine, process(**other):
        told = gate_of(stub, host)
    assert re.match(r"ready after \d+ s: 8 tokens, first after", told[-1])
    # A model that ends its text at once generates nothing otherwise, and a sampled text would differ from itself.
    assert [(body.get("ignore_eos"), body["temperature"], body["max_tokens"]) for body in stub.bodies] == [
        (True, 0.0, 8)
    ] * 2
    row = json.loads((host / "run/tiny-llama-0/gate.json").read_text())
    assert (row["release"], row["tokens"], row["engines"]) == ("0123456789ab", 8, [engine.pid])


def test_a_load_says_how_far_it_is_against_the_last_one_of_its_weights(host: Path) -> None:
    with running(token_s=0.001) as stub:
        told = gate_of(stub, host)
        assert told[0] == "loaded, asking for tokens, 0 s"
        path = host / "var/tiny-llama-0.load.json"
        took = json.loads(path.read_text())
        assert 0 < took["seconds"] < 60
        path.write_text(json.dumps({**took, "seconds": 600.0}))
        assert gate_of(stub, host)[0] == "loaded, asking for tokens, 0 s of about 10 min (0 %)"
    (host / "state/tiny-llama-0.json").write_text('{"progress": "loading weights 45 %"}')
    path.write_text(json.dumps({**took, "seconds": 600.0}))
    said: list[str] = []
    with running(health=503) as stub, pytest.raises(ServingError, match="no answer"):
        cli.gate(replica(host, stub.port, gate=Gate(timeout_s=0.1)), 0, said.append)
    assert said[0] == "loading weights 45 %, 0 s of about 10 min (0 %)"
    assert json.loads(path.read_text())["seconds"] == 600.0, "a start that failed is no load"


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ({"model": "other"}, "it serves other, wanted tiny/llama"),
        ({"errors": [500]}, "the completion answered 500"),
        ({"cut_after": 2}, "broke off"),
        ({"key": "secret"}, "answered 401"),
        ({"words": []}, "without a token"),
        ({"health": 503}, "no answer from .* of loading"),
    ],
)
def test_the_gate_stays_shut_and_says_why(host: Path, behaviour: dict[str, Any], said: str) -> None:
    with running(**behaviour) as stub, pytest.raises(ServingError, match=said):
        gate_of(stub, host)
    assert not (host / "run/tiny-llama-0/gate.json").exists()


def test_the_gate_stays_shut_for_a_slow_server(host: Path) -> None:
    with running(token_s=0.05) as stub, pytest.raises(ServingError, match=r"too slow: 0\.0\d+ s per token"):
        gate_of(stub, host, per_token_s=0.01)


def test_the_gate_does_not_wait_for_a_server_that_has_ended(host: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    began = time.monotonic()
    with running(health=503) as stub, pytest.raises(ServingError, match="ended while it was loading"):
        gate_of(stub, host, main_pid=ended.pid, timeout_s=60)
    assert time.monotonic() - began < 50, "it waited as long as loading may take"


SHOW = "import json, os; print(json.dumps([os.environ.get(n) for n in ('VLLM_API_KEY', 'NOTIFY_SOCKET', 'SPT_NOENV')]))"


def test_the_key_reaches_the_gate_and_the_server_by_credential_only(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (host / "api-key").write_text("s3cret\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(host))
    with running(key="s3cret") as stub:
        wanted = replica(host, stub.port, needs_key=True, gate=Gate(timeout_s=1.0))
        cli.gate(wanted, 0, lambda _line: None)
        monkeypatch.delenv("CREDENTIALS_DIRECTORY")
        with process(VLLM_API_KEY="s3cret") as server:
            cli.gate(wanted, server.pid, lambda _line: None)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(host))
    row = replica(host, 1, argv=(sys.executable, "-c", SHOW))
    script = (
        "import sys; sys.path[:0] = sys.argv[1:2]\n"
        "from ansible_collections.trainyard.neuron.plugins.module_utils.serving import cli, settings\n"
        "import os; cli.launch(settings.parse(sys.stdin.read()), dict(os.environ))"
    )
    text = json.dumps(
        {"name": "x", "argv": row.argv, "url": row.url, "cores": "0", "served_name": "m", "needs_key": True}
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(render.ROOT / "collections")],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NOTIFY_SOCKET": "/nowhere"},
    )
    # A server that could tell systemd of its own readiness would be active before its gate.
    assert json.loads(done.stdout.splitlines()[-1]) == ["s3cret", None, "1"], done.stderr
    assert "s3cret" not in "".join(path.read_text() for path in (host / "etc").iterdir())


def test_a_server_is_not_started_without_the_key_that_it_is_to_ask_for(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = replica(host, 1, needs_key=True)
    # Else it would take the place of this very process.
    monkeypatch.setattr(cli.os, "execvpe", lambda *_: pytest.fail("it was started"))
    for directory in ("", str(host / "none")):
        with pytest.raises(ServingError, match=r"cannot be read .* not served without"):
            cli.launch(seen, {"CREDENTIALS_DIRECTORY": directory})
    (host / "api-key").write_text("\n")
    with pytest.raises(ServingError, match="is empty"):
        cli.launch(seen, {"CREDENTIALS_DIRECTORY": str(host)})


def test_settle_returns_when_the_slice_is_free_and_names_who_keeps_it(host: Path, neuron: SimHost) -> None:
    cli.settle(replica(host, 1))
    held = claim(neuron, "12-15")
    with process(**held) as other, pytest.raises(ServingError, match=rf"still held .* process {other.pid}"):
        cli.settle(replica(host, 1, settle_timeout_s=0.2))


START = "5d1f0c8f2b0e4b6c9d7a3e1f8c2b4a60"


def recompiling(wanted: Replica) -> str:
    """What the fork's loader says when the artifact does not load."""
    said = f"Failed to load the model from {wanted.artifact_path}, Recompiling..."
    return f"WARNING 09-14 02:23:18 [neuronx_distributed.py:244] {said}"


@contextmanager
def starting(host: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server on its way up: nobody listens yet."""
    with process(TRAINYARD_REPLICA="tiny-llama-0", INVOCATION_ID=START, **environment) as server:
        (host / "run/tiny-llama-0/pid").write_text(f"{server.pid}\n")
        yield server


def test_the_server_ended_by_the_probe_is_explained(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with starting(host) as server:
        wanted = replica(host, free_port())
        watch.Watcher(wanted, Limits(), lambda _line: None).log_line(recompiling(wanted), START)
        assert server.wait(60) == -9
    monkeypatch.setenv("INVOCATION_ID", START)
    text = cli.explain("tiny-llama-0")
    assert text.startswith("ended by the standing probe: it began to compile instead of loading")
    monkeypatch.setenv("INVOCATION_ID", "the next start")
    assert cli.explain("tiny-llama-0") == ""


def test_a_server_that_answers_is_not_ended_by_anything_that_it_logs(host: Path) -> None:
    """Its clients write in its log: before the gate, while it listens already, and after."""
    with running() as stub, starting(host) as server:
        wanted = replica(host, stub.port)
        watcher = watch.Watcher(wanted, Limits(), lambda _line: None)
        watcher.log_line(recompiling(wanted), START)
        gated(host, server)
        stub.server_close()
        watcher.log_line(recompiling(wanted), START)
        assert watcher.progress.phase == "compiling", "only the line before the gate was looked at"
        watcher.log_line("Warming up", START)
        assert watcher.progress.phase == "compiling"
        assert was_left_alone(server)


@pytest.mark.parametrize("invocation", ["", "another start"])
def test_a_line_of_another_start_ends_nothing(host: Path, invocation: str) -> None:
    with starting(host) as server:
        wanted = replica(host, free_port())
        watch.Watcher(wanted, Limits(), lambda _line: None).log_line(recompiling(wanted), invocation)
        assert was_left_alone(server)


def test_a_line_of_the_journal_is_cut_before_anything_looks_at_it(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"_SYSTEMD_UNIT": "vllm@tiny-llama-0.service", "_SYSTEMD_INVOCATION_ID": START}
    rows = [
        row | {"MESSAGE": "x" * 39_000},
        row | {"MESSAGE": list(b"y\xff" * 20_000)},
        row | {"MESSAGE": None},
        row | {"MESSAGE": {"a": 1}},
        row | {"MESSAGE": [1, "a"]},
        ["no row"],
    ]
    text = "\n".join(json.dumps(entry) for entry in rows) + "\nno JSON\n"
    (host / "bin").mkdir()
    (host / "bin/journal").write_text(text)
    (host / "bin/journalctl").write_text(f"#!/bin/sh\ncat {host}/bin/journal\n")
    (host / "bin/journalctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(host / "bin"), prepend=os.pathsep)
    seen: list[tuple[int, str, str]] = []

    class Listener:
        def log_line(self, line: str, invocation: str) -> None:
            seen.append((len(line), line[:1], invocation))

    follower = watch.Host(lambda _line: None)
    follower.watchers["tiny-llama-0"] = Listener()  # type: ignore[assignment]
    follower.follow_journal()
    assert [entry[1] for entry in seen] == ["x", "y", "", "{"]
    assert {entry[2] for entry in seen} == {START}
    assert max(entry[0] for entry in seen) == phases.MAX_LINE


def test_a_process_that_only_got_the_number_is_not_ended(host: Path) -> None:
    with process() as stranger:
        (host / "run/tiny-llama-0/pid").write_text(f"{stranger.pid}\n")
        watcher = watch.Watcher(replica(host, 1), Limits(), lambda _line: None)
        watcher.end("a test")
        assert stranger.poll() is None


def test_the_agent_answers_what_the_probe_thinks(host: Path) -> None:
    port = free_port()
    with running() as stub, process(TRAINYARD_REPLICA="tiny-llama-0") as server:
        watcher = watch.Watcher(replica(host, stub.port, agent_port=port), Limits(), lambda _line: None)
        watcher.start()
        assert ask_agent(port).startswith("down #")
        (host / "run/tiny-llama-0/pid").write_text(f"{server.pid}\n")
        (host / "run/tiny-llama-0/gate.json").write_text("{}")
        deadline = time.monotonic() + 60
        # The stand-in has no metrics, so it stays "up" on its grace; what matters is who is asked.
        while ask_agent(port) != "up\n" and time.monotonic() < deadline:
            time.sleep(0.1)
        assert ask_agent(port) == "up\n"
        (host / "run/tiny-llama-0/gate.json").unlink()
        while ask_agent(port) == "up\n" and time.monotonic() < deadline:
            time.sleep(0.1)
        assert ask_agent(port) == "down #not ready yet\n"
        watcher.stop()
    with socket.create_server(("127.0.0.1", port)):
        pass  # the port is free again for the next release's watcher


def test_an_agent_listens_only_where_the_fence_was_loaded_for_its_port(
    host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setattr(fence, "RULES", tmp_path / "fence.nft")
    monkeypatch.setattr(fence, "LOADED", tmp_path / "loaded")
    (tmp_path / "fence.nft").touch()

    def refused() -> str:
        with pytest.raises(ServingError) as said:
            watch.Watcher(replica(host, 1, agent_port=port), Limits(), lambda _line: None)
        return str(said.value)

    assert "the fence was not loaded for it" in refused(), "nobody knows what was loaded"
    note = {"digest": "", "replicas": [port], "agents": [port + 1]}
    (tmp_path / "loaded").write_text(json.dumps(note) + "\n")
    assert f"does not listen on {port}" in refused(), "a release came, and the rules are of before"
    (tmp_path / "loaded").write_text(json.dumps({**note, "agents": [port]}) + "\n")
    watcher = watch.Watcher(replica(host, 1, agent_port=port), Limits(), lambda _line: None)
    watcher.start()
    assert ask_agent(port).startswith("down #")
    watcher.stop()


@contextmanager
def watched(host: Path, port: int, lines: list[str], **given: Any) -> Iterator[watch.Watcher]:
    """A watcher that goes on looking while the block runs."""
    watcher = watch.Watcher(replica(host, port, **given), Limits(), lines.append)
    watcher.start()
    try:
        yield watcher
    finally:
        watcher.stop()


def gated(host: Path, server: subprocess.Popen[bytes], *engines: subprocess.Popen[bytes]) -> None:
    """What launch and gate leave behind of a start that went well."""
    (host / "run/tiny-llama-0/pid").write_text(f"{server.pid}\n")
    (host / "run/tiny-llama-0/gate.json").write_text(json.dumps({"engines": [engine.pid for engine in engines]}))


def until(question: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not question():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.02)


def test_the_watchdog_hears_that_the_watch_lives_and_nothing_when_a_part_of_it_died(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped, it answered nobody for as long as it took, and nobody was told."""
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(host / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(host / "notify"))
        monkeypatch.setattr(watch, "_keep_following", lambda _host: None)
        dead, ticks = threading.Thread(), []

        def tick(_seconds: float) -> None:
            with contextlib.suppress(BlockingIOError):
                heard.append(systemd.recv(100))
            ticks.append(len(heard))
            if len(ticks) == 2:
                monkeypatch.setattr(watch.Host, "refresh", lambda self: self.watchers.update(a=dead))
            if len(ticks) == 4:
                raise InterruptedError

        monkeypatch.setattr(watch.time, "sleep", tick)
        with pytest.raises(InterruptedError):
            watch.watch(lambda _line: None, cli.heartbeat())
    assert heard == [b"WATCHDOG=1"] * 2
    assert ticks == [1, 2, 2, 2]


def test_a_server_without_its_engine_is_ended_at_once_and_not_after_its_own_watch(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    own = {"TRAINYARD_REPLICA": "tiny-llama-0"}
    with running() as stub, process(**own) as server, process(**own) as engine:
        gated(host, server, engine)
        with watched(host, stub.port, lines) as watcher:
            until(lambda: watcher.verdict.up)
            assert server.poll() is None
            # No look from now on: the kernel tells of it.
            monkeypatch.setattr(watcher, "tick", lambda _now: None)
            engine.kill()
            assert server.wait(60) == -9
            until(lambda: not watcher.verdict.up)
    assert any(f"its engine, process {engine.pid}, ended" in line for line in lines), lines
    assert cli.explain("tiny-llama-0").startswith("ended by the standing probe: its engine, process")


def test_a_server_that_was_asked_to_stop_may_outlive_its_engine(host: Path) -> None:
    own = {"TRAINYARD_REPLICA": "tiny-llama-0"}
    with running() as stub, process(**own) as server, process(**own) as engine:
        gated(host, server, engine)
        lines: list[str] = []
        with watched(host, stub.port, lines) as watcher:
            until(lambda: watcher.verdict.up)
            (host / "run/tiny-llama-0/stopping").touch()
            engine.kill()
            until(lambda: any("its engine, process" in line for line in lines))
            assert was_left_alone(server)


def test_a_server_that_was_asked_to_stop_leaves_rotation_at_once_though_it_answers_on(host: Path) -> None:
    with running() as stub, process(TRAINYARD_REPLICA="tiny-llama-0") as server:
        gated(host, server)
        with watched(host, stub.port, []) as watcher:
            until(lambda: watcher.agent_line() == b"up\n")
            (host / "run/tiny-llama-0/stopping").touch()
            until(lambda: watcher.agent_line() == b"down #not ready yet\n")


def test_a_process_that_only_got_an_engines_number_is_not_followed(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        running() as stub,
        process(TRAINYARD_REPLICA="tiny-llama-0") as server,
        process(TRAINYARD_REPLICA="another-0") as stranger,
    ):
        gated(host, server, stranger)
        with watched(host, stub.port, []) as watcher:
            until(lambda: watcher.verdict.up)
            looks: list[float] = []
            look = watcher.tick
            monkeypatch.setattr(watcher, "tick", lambda now: (looks.append(now), look(now)))
            stranger.kill()
            # One may have begun before; an engine's end is taken up before the next.
            until(lambda: len(looks) >= 3)
            assert was_left_alone(server)


def ask_agent(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as link:
        return link.makefile().read()


def test_counters_are_summed_over_engines_and_other_metrics_left_out() -> None:
    page = """
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_running{engine="1",model_name="m"} 1.0
vllm:num_requests_waiting{model_name="m"} 4.0
vllm:generation_tokens_total{model_name="m"} 1.5e3
vllm:prompt_tokens_total{model_name="m"} 20
vllm:e2e_request_latency_seconds_bucket{le="1"} 99
"""
    assert watch.counters(page) == (7, 1520.0)


def test_the_probe_follows_each_replica_to_its_new_release(host: Path) -> None:
    lines: list[str] = []
    row = render.replica(0, agent_port=0)

    def release(name: str, **given: Any) -> None:
        (host / name).mkdir()
        text = render.render("vllm_endpoint", "replica.json.j2", item=row | given)
        (host / name / "tiny-llama-0.json").write_text(text)
        link = host / "etc/tiny-llama-0.json"
        link.unlink(missing_ok=True)
        link.symlink_to(host / name / "tiny-llama-0.json")

    watched = watch.Host(lines.append)
    release("r1")
    watched.refresh()
    first = watched.watchers["tiny-llama-0"]
    watched.refresh()
    assert watched.watchers["tiny-llama-0"] is first
    release("r2", served_name="new/name")
    watched.refresh()
    second = watched.watchers["tiny-llama-0"]
    assert (second.replica.served_name, first.is_alive()) == ("new/name", False)
    (host / "etc/tiny-llama-0.json").unlink()
    watched.refresh()
    assert watched.watchers == {}
    assert not second.is_alive()


@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_a_container_gets_its_slice_and_no_secret_in_its_command_line(
    host: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (host / "dev").mkdir()
    for number in range(12):
        (host / f"dev/neuron{number}").touch()
    monkeypatch.setattr(container, "DEVICES", host / "dev")
    seen = replica(
        host,
        free_port(),
        runtime="container",
        image="neuron/vllm@sha256:abc",
        container_engine=engine,
        container_cpus="0-3",
        argv=("vllm", "serve", "/w"),
        environment={
            "NEURON_RT_VISIBLE_CORES": "16-23",
            "UNSET": "x",
            "PROMETHEUS_MULTIPROC_DIR": f"{host}/run/tiny-llama-0/metrics",
            "BASE_COMPILE_WORK_DIR": f"{host}/run/tiny-llama-0/../../etc",
        },
    )
    command = container.command(
        seen, container.passed_variables(seen, {"NEURON_RT_VISIBLE_CORES": "16-23", "VLLM_API_KEY": "s3cret"})
    )
    assert command[:4] == (engine, "run", "--rm", "--name")
    assert command[-4:] == ("neuron/vllm@sha256:abc", "vllm", "serve", "/w")
    text = " ".join(command)
    assert text.count("--device") == 12
    assert f"--device {host}/dev/neuron2 --device {host}/dev/neuron3" in text
    assert f"--device {host}/dev/neuron10 --device {host}/dev/neuron11" in text
    assert "--env NEURON_RT_VISIBLE_CORES --env VLLM_API_KEY" in text
    assert "s3cret" not in text
    assert "UNSET" not in text
    assert f"{host}/artifact:{host}/artifact:ro" in text
    # Its own directories and no other: what root acts upon lies beside them.
    assert f"{host}/run/tiny-llama-0/metrics:{host}/run/tiny-llama-0/metrics:rw" in text
    assert f"{host}/run/tiny-llama-0:" not in text
    assert text.count(":rw") == 1
    assert (text.count("--cap-drop ALL"), text.count("--cap-add")) == (1, 1)
    assert "--cap-add DAC_OVERRIDE" in text
    assert ("--cpuset-cpus 0-3" in text) is (engine == "docker")
    assert ("--cgroups split" in text) is (engine == "podman")


def test_status_says_what_a_running_replica_takes_only_at_its_next_start(host: Path) -> None:
    """A gate judges starts: nobody restarts a server for its settings, so it is said which do not hold yet."""
    port = free_port()
    now = replica(host, port)
    configured = host / "etc/tiny-llama-0.json"
    (now.scratch / settings.STARTED).write_text(configured.read_text())
    assert "next" not in cli.status(["tiny-llama-0"])[0]
    row = json.loads(configured.read_text())
    configured.write_text(json.dumps({**row, "probe": {**row["probe"], "stall_s": 99}}))
    assert "next" not in cli.status(["tiny-llama-0"])[0], "the probe takes its own at once"
    configured.write_text(json.dumps({**row, "gate": {**row["gate"], "ttft_s": 7}, "container_cpus": "0-3"}))
    assert "(from its next start: other gate, container_cpus)" in cli.status(["tiny-llama-0"])[0]
    configured.write_text(json.dumps({**row, "release": "fedcba987654"}))
    assert "(runs release 0123456789ab, fedcba987654 is next)" in cli.status(["tiny-llama-0"])[0]


SECRET = "root-only-pl4nted"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that a server has no business with."""
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    return path


def plant(path: Path, kind: str, secret: Path) -> None:
    """Put something else in the place of a file of state, as a server can in its directory."""
    path.unlink(missing_ok=True)
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "large":
        path.write_text(SECRET * 100_000)
    elif kind == "cut":
        path.write_text('{"release": "0123')
    elif kind == "NUL":
        path.write_bytes(b"\x00\xff" * 10)
    elif kind == "a list":
        path.write_text("[[1]]")
    else:
        path.write_text(json.dumps({"version": 9, "engines": {"a": 1}, "ttft_ms": "x", "reason": ["x"], "pid": 1}))


PLANTED = ["link", "pipe", "directory", "large", "cut", "NUL", "a list", "another version"]


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("name", ["pid", "gate.json", "replica.json", "ended", "stopping", "loading"])
def test_what_a_server_leaves_in_its_directory_is_neither_followed_nor_believed(
    host: Path, secret: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "STATE", host)
    monkeypatch.setattr(cli, "POLL_S", 0.01)
    wanted = replica(host, free_port(), loads_at_once=1)
    (host / "run/tiny-llama-0/gate.json").write_text('{"engines": [], "ttft_ms": 5.0, "release": "0123456789ab"}')
    plant(host / "run/tiny-llama-0" / name, kind, secret)
    watcher = watch.Watcher(wanted, Limits(), lambda _line: None)
    watcher.tick(time.monotonic())
    watcher.end("a test")
    said = [cli.explain("tiny-llama-0"), *cli.status(["tiny-llama-0"]), (host / "state/tiny-llama-0.json").read_text()]
    assert not any(SECRET in line for line in said), said
    assert settings.load_started("tiny-llama-0").neuron_ls == str(host / "neuron-ls")
    if kind != "directory":
        cli.check(wanted)
        turns.take(wanted, lambda _line: None)
        with pytest.raises(ServingError, match="No such file"):
            cli.launch(dataclasses.replace(wanted, argv=("/nowhere",)), {})
        assert json.loads((host / "run/tiny-llama-0/replica.json").read_text())["name"] == "tiny-llama-0"
    assert secret.read_text() == SECRET + "\n", "it was written through"


@pytest.mark.parametrize("name", ["tiny-llama-0.ended", "tiny-llama-0.json"])
def test_what_somebody_leaves_in_the_probes_directory_is_not_told(host: Path, secret: Path, name: str) -> None:
    (host / "state" / name).symlink_to(secret)
    assert cli.explain("tiny-llama-0") == ""
    assert watch.read_state("tiny-llama-0") == {}
    watch.Watcher(replica(host, 1), Limits(), lambda _line: None).tick(1.0)
    assert secret.read_text() == SECRET + "\n"


def test_a_broken_file_is_named_with_what_is_lost_and_the_way_out(host: Path) -> None:
    replica(host, free_port())
    (host / "etc/other-0.json").write_bytes(b"\x00{")
    (host / "run/tiny-llama-0/gate.json").write_text("{")
    (host / "state/tiny-llama-0.json").write_text("[]")
    other, mine = cli.status(["other-0", "tiny-llama-0"])
    assert f"{host}/etc/other-0.json is not usable" in other and "run the serve playbook" in other
    assert f"what the probe saw is not known, {host}/state/tiny-llama-0.json is broken" in mine
    assert f"{host}/run/tiny-llama-0/gate.json is broken" in mine and "systemctl restart vllm@tiny-llama-0" in mine


def test_one_broken_file_costs_no_other_replica_its_watch(host: Path) -> None:
    lines: list[str] = []
    replica(host, free_port())
    (host / "etc/other-0.json").write_text("{")
    follower = watch.Host(lines.append)
    for _ in range(3):
        follower.refresh()
    first = follower.watchers["tiny-llama-0"]
    assert first.is_alive() and "other-0" not in follower.watchers
    assert [line for line in lines if "other-0 is not watched" in line] == lines[:1] == lines
    (host / "etc/tiny-llama-0.json").write_text("{")
    follower.refresh()
    assert follower.watchers["tiny-llama-0"] is first, "it serves on, with what it was started with"
    first.stop()


def test_a_watch_outlives_what_a_server_can_answer(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert watch.counters("vllm:num_requests_running +Inf\nvllm:num_requests_waiting -3\n")[0] == int(
        watch.MOST_REQUESTS
    )
    lines: list[str] = []
    own = {"TRAINYARD_REPLICA": "tiny-llama-0"}
    with running() as stub, process(**own) as server, watched(host, stub.port, lines) as watcher:
        gated(host, server)
        until(lambda: watcher.verdict.up)
        monkeypatch.setattr(watch, "counters", lambda _text: 1 / 0)
        monkeypatch.setattr(watch.probe.Client, "text", lambda _self, _path: "")
        until(lambda: "cannot judge it" in watcher.verdict.reason)
        assert watcher.agent_line().startswith(b"down #the probe cannot judge it")
        assert watcher.is_alive()


def test_a_stop_runs_the_programs_of_the_release_and_not_those_of_the_record(host: Path) -> None:
    replica(host, 1)
    row = json.loads((host / "etc/tiny-llama-0.json").read_text())
    program = host / "planted"
    program.write_text(f"#!/bin/sh\ntouch {host}/ran\n")
    program.chmod(0o755)
    record = row | {"container_engine": str(program), "neuron_ls": str(program), "cores": "32-35"}
    (host / "run/tiny-llama-0/replica.json").write_text(json.dumps(record))
    started = settings.load_started("tiny-llama-0")
    assert (started.cores, started.container_engine, started.neuron_ls) == ("32-35", "podman", str(host / "neuron-ls"))
    cli.settle(started)
    assert not (host / "ran").exists()


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be two users")
SOMEBODY = 65534


@as_root
@pytest.mark.parametrize("owner", ["the directory's", "the file's"])
def test_root_takes_no_record_that_another_user_could_write(host: Path, owner: str) -> None:
    replica(host, 1)
    folder = host / "run/tiny-llama-0"
    record = json.loads((host / "etc/tiny-llama-0.json").read_text()) | {"cores": "32-35"}
    (folder / "replica.json").write_text(json.dumps(record))
    assert settings.load_started("tiny-llama-0").cores == "32-35"
    os.chown(folder if owner == "the directory's" else folder / "replica.json", SOMEBODY, SOMEBODY)
    assert settings.load_started("tiny-llama-0").cores == "0-31"


@as_root
def test_root_writes_nothing_in_a_directory_of_another_user(host: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replica(host, free_port())
    folder = host / "run/tiny-llama-0"
    os.chown(folder, SOMEBODY, SOMEBODY)
    assert cli.main(["check", "tiny-llama-0"]) == 1
    said = capsys.readouterr().err
    assert "belongs to user 65534" in said and str(folder) in said
    assert list(folder.iterdir()) == []
