# SPDX-License-Identifier: Apache-2.0
"""Guards behind a first one: what holds when an answer looks right, a process looks alive or a turn looks free."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import (
    cli,
    engines,
    layout,
    probe,
    settings,
    slices,
    turns,
    watch,
)
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.judge import Judge, Limits, Sample
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.settings import Gate, ServingError

from tests.roles.render import ROOT
from tests.serving.stub import running
from tests.serving.test_replica_program import host as host
from tests.serving.test_replica_program import neuron as neuron
from tests.serving.test_replica_program import process, replica

HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


@contextmanager
def answering(*lines: str) -> Iterator[probe.Client]:
    """A client of a server that answers each request with these lines and closes the connection."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                self.request.recv(65536)
                self.request.sendall(HEAD + "".join(f"{line}\n\n" for line in lines).encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield probe.Client(f"http://127.0.0.1:{server.server_address[1]}", timeout_s=20)
        server.shutdown()


TOKEN = 'data: {"choices": [{"text": " Paris"}]}'
USAGE = 'data: {"choices": [], "usage": {"completion_tokens": 1}}'
DONE = "data: [DONE]"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([TOKEN, 'data: {"error": {"message": "EngineDeadError"}}', DONE], "failed in its stream: .*EngineDeadError"),
        ([TOKEN, 'data: ["choices"]', DONE], "failed in its stream"),
        ([TOKEN, "data: {", DONE], "holds no JSON"),
        ([USAGE, DONE], "without a token"),  # it counts one, and sent none
        ([DONE], "without a token"),
        ([TOKEN, USAGE], "broke off after 1 chunks"),
    ],
)
def test_a_stream_that_only_looks_like_an_answer_is_none(lines: list[str], said: str) -> None:
    with answering(*lines) as client, pytest.raises(probe.ProbeError, match=said):
        client.complete("m", "x", 4, 20)


def test_a_stream_with_a_token_is_an_answer() -> None:
    with answering(TOKEN, USAGE, DONE) as client:
        assert client.complete("m", "x", 4, 20).text == " Paris"


class Wandering(list[str]):
    """Words of a server that says something else each time."""

    def __init__(self) -> None:
        super().__init__([" Paris"])
        self.times = 0

    def __mul__(self, times: Any) -> list[str]:
        self.times += 1
        return [f" {self.times}"] * times


def test_greedy_completions_that_differ_open_no_gate(host: Path) -> None:
    with running(words=Wandering()) as stub, pytest.raises(ServingError, match="completions of one prompt differ"):
        cli.gate(replica(host, stub.port, gate=Gate(timeout_s=20, max_tokens=1)), 0, lambda _line: None)
    assert not (host / "run/tiny-llama-0/gate.json").exists()


def test_a_server_that_ended_and_that_nobody_collected_is_no_server(host: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as ended:
        assert ended.stdout is not None
        assert ended.stdout.read() == b""  # it closed it, so it is at its end
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        with running(health=503) as stub, pytest.raises(ServingError, match="ended while it was loading"):
            cli.gate(replica(host, stub.port, gate=Gate(timeout_s=5)), ended.pid, lambda _line: None)


def test_the_gate_notes_as_engines_those_alone_who_held_the_slice_before_and_after(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = iter([frozenset({1, 2}), frozenset({2, 3})])
    monkeypatch.setattr(engines, "holding", lambda _replica: next(held))
    with running(token_s=0.001) as stub:
        cli.gate(replica(host, stub.port), 0, lambda _line: None)
    assert json.loads((host / "run/tiny-llama-0/gate.json").read_text())["engines"] == [2]


def test_a_load_that_is_over_gives_its_turn_to_the_next(host: Path) -> None:
    with running(token_s=0.001) as stub:
        wanted = replica(host, stub.port, loads_at_once=1)
        turns.take(wanted, lambda _line: None)
        assert turns.loading("") == ["tiny-llama-0"]
        cli.gate(wanted, 0, lambda _line: None)
    assert turns.loading("") == []


def test_two_starts_look_for_a_turn_one_after_the_other(host: Path) -> None:
    wanted = replica(host, 1, loads_at_once=1)
    lock = os.open(layout.STATE, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    looking = threading.Thread(target=turns.take, args=(wanted, lambda _line: None))
    looking.start()
    looking.join(1.0)
    assert looking.is_alive()
    assert turns.loading("") == []
    os.close(lock)
    looking.join(60)
    assert turns.loading("") == ["tiny-llama-0"]


def test_a_start_begins_with_empty_directories_of_its_own(host: Path) -> None:
    """Counters of the last start would be added to those of this one."""
    folder = host / "metrics"
    folder.mkdir()
    (folder / "counter_1.db").write_text("left")
    script = (
        "import sys, os; sys.path[:0] = sys.argv[1:2]\n"
        "from ansible_collections.trainyard.neuron.plugins.module_utils.serving import cli, settings\n"
        "cli.launch(settings.parse(sys.stdin.read()), dict(os.environ))"
    )
    show = "import os; print(os.listdir(os.environ['PROMETHEUS_MULTIPROC_DIR']))"
    row = {"name": "x", "argv": [sys.executable, "-c", show], "url": "http://127.0.0.1:1", "cores": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT / "collections")],
        input=json.dumps({**row, "served_name": "m"}),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
    )
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


def watcher_of(host: Path) -> watch.Watcher:
    made = watch.Watcher(replica(host, 1), Limits(), lambda _line: None)
    made.verdict = watch.Verdict(True)
    return made


@pytest.mark.parametrize(("text", "said"), [("interruption\n", b"down #interruption\n"), ("", b"down #leaving\n")])
def test_a_host_that_leaves_tells_routers_so_whatever_its_replicas_do(
    host: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: bytes
) -> None:
    monkeypatch.setattr(settings, "LEAVING", host / "leaving")
    watcher = watcher_of(host)
    assert watcher.agent_line() == b"up\n"
    (host / "leaving").write_text(text)
    assert watcher.agent_line() == said
    (host / "leaving").unlink()
    assert watcher.agent_line() == b"up\n"


def test_a_word_of_leaving_that_cannot_be_read_counts(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "LEAVING", host / "leaving")
    (host / "leaving").write_bytes(b"\xff\xfe")
    assert watcher_of(host).agent_line() == b"down #leaving\n"
    (host / "leaving").unlink()
    (host / "leaving").mkdir()
    assert watcher_of(host).agent_line() == b"down #leaving\n"


def test_what_ended_another_start_explains_nothing_of_this_one(host: Path) -> None:
    row = {"invocation": "a" * 32, "reason": "stalled"}
    (host / "state" / f"tiny-llama-0{watch.ENDED}").write_text(json.dumps(row))
    assert watch.ended_by_probe("tiny-llama-0", "a" * 32) == "stalled"
    assert watch.ended_by_probe("tiny-llama-0", "b" * 32) == ""


def test_the_number_of_another_s_process_is_not_the_server_s(host: Path) -> None:
    with process(TRAINYARD_REPLICA="tiny-llama-1") as other:
        (host / "run/tiny-llama-0/pid").write_text(f"{other.pid}\n")
        assert watcher_of(host)._pid() == 0
    with process(TRAINYARD_REPLICA="tiny-llama-0") as own:
        (host / "run/tiny-llama-0/pid").write_text(f"{own.pid}\n")
        assert watcher_of(host)._pid() == own.pid


def test_restarts_of_long_ago_do_not_count() -> None:
    judge = Judge(Limits(restarts=1, window_s=100.0, stall_s=10.0))
    for began in (0.0, 1000.0):
        judge.look(began, Sample(True, wanted=1, tokens=began))
        judge.look(began + 11.0, Sample(True, wanted=1, tokens=began))
        assert judge.asked(began + 12.0, "nothing").restart
        judge.look(began + 13.0, Sample(False))
    judge.look(1020.0, Sample(True, wanted=1, tokens=1.0))
    judge.look(1031.0, Sample(True, wanted=1, tokens=1.0))
    verdict = judge.asked(1032.0, "nothing")
    assert (verdict.restart, verdict.up) == (False, False)
    assert "left alone" in verdict.reason


def test_one_that_stalled_is_asked_even_when_its_requests_have_gone() -> None:
    judge = Judge(Limits(stall_s=10.0, idle_s=1000.0))
    judge.look(0.0, Sample(True, wanted=1, tokens=1.0))
    assert judge.look(11.0, Sample(True, wanted=1, tokens=1.0)).ask
    gone = judge.look(12.0, Sample(True, wanted=0, tokens=1.0))
    assert (gone.up, gone.ask) == (False, True)
    assert judge.asked(13.0, "").up


def test_one_that_stalled_with_requests_gets_no_second_chance_and_an_idle_one_does() -> None:
    stalled = Judge(Limits(stall_s=10.0))
    stalled.look(0.0, Sample(True, wanted=1, tokens=1.0))
    stalled.look(11.0, Sample(True, wanted=1, tokens=1.0))
    assert stalled.asked(12.0, "nothing").restart
    idle = Judge(Limits(idle_s=10.0))
    idle.look(0.0, Sample(True, tokens=1.0))
    assert idle.look(11.0, Sample(True, tokens=1.0)).ask
    first = idle.asked(12.0, "nothing")
    assert (first.restart, first.ask, first.up) == (False, True, False)
    assert idle.asked(13.0, "nothing").restart


def test_cores_are_known_by_their_numbers_and_not_by_the_order_of_their_devices() -> None:
    def device(number: int, pid: int, cores: list[int]) -> dict[str, Any]:
        process = {"pid": pid, "command": "vllm"}
        return {"neuron_device": number, "nc_count": 2, "neuroncore_ids": cores, "neuron_processes": [process]}

    devices = [device(0, 11, [2, 3]), device(1, 22, [0, 1])]
    held = slices.holders(devices, frozenset({0, 1}), lambda _pid: {})
    assert [(holder.pid, holder.devices) for holder in held] == [(22, frozenset({1}))]
