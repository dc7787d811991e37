# SPDX-License-Identifier: Apache-2.0
"""The router's unit: its own commands, as rendered, run in their order against a real HAProxy."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.routing import states
from ansible_collections.trainyard.neuron.plugins.module_utils.routing.haproxy import Router
from ansible_collections.trainyard.neuron.plugins.module_utils.routing.steering import move

from tests.roles.render import ROOT, render
from tests.roles.router_program import HAPROXY, needs_haproxy
from tests.roles.test_load_balancer import Front, one_model, routed, server, wait_for
from tests.serving.stub import Stub, get, post, running

pytestmark = needs_haproxy

ROUTING = ROOT / "collections/ansible_collections/trainyard/neuron/plugins/module_utils/routing"
#: Those of its first line.
FLAGS = ("-B", "-E", "-s")


@pytest.fixture
def stubs() -> Iterator[tuple[Stub, Stub]]:
    with running() as first, running() as second:
        yield first, second


def installed(directory: Path) -> Path:
    """The program with what the role lays beside it, as on a router's host."""
    (directory / "routing").mkdir(exist_ok=True)
    for path in ROUTING.glob("*.py"):
        shutil.copy(path, directory / "routing")
    return Path(shutil.copy(ROOT / "roles/load_balancer/files/router", directory))


class Unit(Front):
    """The router under a stand-in for systemd, which runs the unit's commands and knows its main process."""

    def __init__(self, directory: Path, models: list[dict[str, Any]], **given: Any) -> None:
        super().__init__(directory, models, **given)
        self.environment = {"CONFIG": str(self.config), "EXTRAOPTS": ""}
        self.text = render("load_balancer", "trainyard.conf.j2", __load_balancer_state_file=str(self.states))
        self.installed = installed(directory)
        # What the package's unit has of each, before the role's part of it.
        self.package = {"ExecReload": ["/usr/sbin/haproxy -Ws -f $CONFIG -c -q $EXTRAOPTS", "/bin/kill -USR2 $MAINPID"]}

    def commands(self, name: str) -> list[str]:
        found = list(self.package.get(name, []))
        for value in re.findall(rf"^{name}=(.*)$", self.text, re.MULTILINE):
            found = [*found, value] if value else []
        return found

    def run(self, name: str) -> list[tuple[str, int, str]]:
        """Run the commands of one kind as systemd does; status and words of each, up to one that failed."""
        done = []
        for command in self.commands(name):
            words = [self.expanded(word) for word in shlex.split(command.lstrip("-"))]
            words = [word for word in words if word]
            ended = subprocess.run(self.program(words), capture_output=True, text=True, check=False, cwd=ROOT)
            done.append((command, ended.returncode, ended.stderr))
            if ended.returncode and not command.startswith("-"):
                break
        return done

    def expanded(self, word: str) -> str:
        main = str(self.process.pid) if self.process else ""
        return re.sub(r"\$(\w+)", lambda name: {**self.environment, "MAINPID": main}[name[1]], word)

    def program(self, words: list[str]) -> list[str]:
        """The command with the programs of this machine in place of those of a host."""
        if words[0] == "/usr/sbin/haproxy":
            return [HAPROXY, *(word.replace("-Ws", "-W") for word in words[1:])]
        if words[0] == "/usr/local/lib/trainyard/router":
            return [sys.executable, *FLAGS, str(self.installed), "--socket", str(self.socket), *words[1:]]
        return words

    def start(self) -> None:
        self.before = self.run("ExecStartPre")
        with self.log.open("ab") as out:
            self.process = subprocess.Popen([HAPROXY, "-W", "-f", str(self.config)], stdout=out, stderr=out)
        wait_for(lambda: get(self.port, "/health")[0] != 0)

    def worker(self) -> str:
        """The process that has the socket now."""
        found = re.search(r"^Pid: (\d+)", self.router.command("show info"), re.MULTILINE)
        return found[1] if found else ""

    def reload(self) -> None:
        """As `systemctl reload`; the new worker has the socket afterwards."""
        before = self.worker()
        done = self.run("ExecReload")
        assert [status for _, status, _ in done if status] == [], done
        wait_for(lambda: self.worker() not in ("", before))

    def stop(self) -> None:
        assert self.process
        self.run("ExecStop")
        self.process.terminate()
        self.process.wait(60)

    def crash(self) -> None:
        """Its processes are gone, and no command of the unit was run."""
        assert self.process
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in (self.process.pid, *map(int, children)):
            os.kill(pid, signal.SIGKILL)
        self.process.wait(60)


@contextmanager
def unit(directory: Path, models: list[dict[str, Any]], **given: Any) -> Iterator[Unit]:
    made = Unit(directory, models, **given)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def told(front: Front, command: str) -> None:
    """Say something at HAProxy's socket, as an operator without our program would."""
    assert front.router.command(command).strip() == ""


def test_a_drained_server_gets_nothing_after_the_unit_s_own_reload(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    first, second = stubs
    with unit(tmp_path, one_model(stubs)) as front:
        wait_for(lambda: len(front.up()) == 2)
        told(front, f"set server model-tiny-llama/host:{first.port} state drain")
        told(front, f"set server model-tiny-llama/host:{second.port} weight 10%")
        for _ in range(2):
            front.reload()
            found = {row.name: (row.state, row.weight) for row in front.router.servers()}
            assert found == {f"host:{first.port}": ("drain", 100), f"host:{second.port}": ("ready", 10)}
            wait_for(lambda: f"host:{second.port}" in front.up())
            assert [post(front.port, {"max_tokens": 1})[0] for _ in range(4)] == [200] * 4
        assert first.seen == []
        assert len(second.seen) == 8


def test_a_configuration_that_is_wrong_stops_the_reload_before_anything_else(
    tmp_path: Path, stubs: tuple[Stub, Stub]
) -> None:
    with unit(tmp_path, one_model(stubs)) as front:
        wait_for(lambda: len(front.up()) == 2)
        whole, worker = front.config.read_text(), front.worker()
        front.config.write_text(whole + "    no such keyword\n")
        done = front.run("ExecReload")
        # `systemctl reload` fails with it, and no signal was sent.
        assert [(status != 0) for _, status, _ in done] == [True]
        assert done[0][0].startswith("/usr/sbin/haproxy")
        assert front.worker() == worker
        assert post(front.port, {"max_tokens": 1})[0] == 200
        front.config.write_text(whole)
        front.reload()


def test_a_replica_that_moved_is_found_after_the_unit_s_own_reload(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    first, second = stubs
    with unit(tmp_path, [{"name": "tiny/llama", "servers": [server(first, "host:m-0")]}]) as front:
        wait_for(lambda: front.up() == ["host:m-0"])
        front.config.write_text(front.config.read_text().replace(f":{first.port} ", f":{second.port} "))
        front.reload()
        wait_for(lambda: front.up() == ["host:m-0"])
        assert post(front.port, {"max_tokens": 1})[0] == 200
    assert (len(first.seen), len(second.seen)) == (0, 1)


def test_what_was_set_outlives_a_restart_and_a_crash(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    first, _ = stubs
    name = f"host:{first.port}"
    front = Unit(tmp_path, one_model(stubs))
    front.start()
    told(front, f"set server model-tiny-llama/{name} state drain")
    front.stop()
    front.start()
    assert [row.state for row in front.router.find(name)] == ["drain"]
    # A crash saves nothing: what our programs set was written when it was set.
    router = Router(str(front.socket), front.states)
    assert not move([router], [name], "ready", 10.0).problems()
    move([router], [name], "maint", 10.0)
    front.crash()
    front.start()
    try:
        assert [row.state for row in front.router.find(name)] == ["maint"]
        assert post(front.port, {"max_tokens": 1})[0] == 200
        assert first.seen == []
    finally:
        front.stop()


@pytest.mark.parametrize("garbage", [b"\x00\xff" * 500, b"1\n# be_id\n4 model", b"{'a': 1}\n", b""])
def test_garbage_in_the_file_of_states_brings_no_drained_server_back(
    tmp_path: Path, stubs: tuple[Stub, Stub], garbage: bytes
) -> None:
    first, _ = stubs
    name = f"host:{first.port}"
    front = Unit(tmp_path, one_model(stubs))
    front.start()
    told(front, f"set server model-tiny-llama/{name} state drain")
    front.stop()
    front.states.write_bytes(garbage)
    front.start()
    try:
        assert [status for _, status, _ in front.before] == [0]
        ((_, _, said),) = front.before
        assert str(front.states) in said
        assert "nothing is lost" in said
        assert [row.state for row in front.router.find(name)] == ["drain"]
        assert post(front.port, {"max_tokens": 1})[0] == 200
        assert first.seen == []
    finally:
        front.stop()


def test_with_the_copy_broken_too_the_router_starts_and_says_what_is_lost(
    tmp_path: Path, stubs: tuple[Stub, Stub], capfd: pytest.CaptureFixture[str]
) -> None:
    front = Unit(tmp_path, one_model(stubs))
    for path in (front.states, states.sibling(front.states, "copy")):
        path.write_bytes(b"1\n2 model-tiny-llama \xff")
    front.start()
    try:
        assert [status for _, status, _ in front.before] == [0]
        ((_, _, said),) = front.before
        assert "which servers were drained" in said
        assert "Traceback" not in said
        wait_for(lambda: len(front.up()) == 2)
        assert post(front.port, {"max_tokens": 1})[0] == 200
        asked = front.program(["/usr/local/lib/trainyard/router", "--states", str(front.states), "status"])
        shown = subprocess.run(asked, capture_output=True, text=True, check=True)
        assert "which servers were drained" in shown.stderr
        assert f"host:{stubs[0].port}" in shown.stdout
    finally:
        front.stop()


class Agent(socketserver.ThreadingTCPServer):
    """The probe of a replica, as HAProxy asks it."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.word, self.asked = "up", 0
        self.port: int = self.server_address[1]


class Answer(socketserver.BaseRequestHandler):
    server: Agent

    def handle(self) -> None:
        self.server.asked += 1
        self.request.sendall(f"{self.server.word}\n".encode())


def test_a_replica_leaves_rotation_by_its_agent_s_word_while_its_health_is_fine(
    tmp_path: Path, stubs: tuple[Stub, Stub]
) -> None:
    first, second = stubs
    with Agent() as agent:
        thread = threading.Thread(target=agent.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        models = [{"name": "tiny/llama", "servers": [server(first, agent_port=agent.port), server(second)]}]
        try:
            with routed(tmp_path, models) as front:
                wait_for(lambda: agent.asked > 0 and len(front.up()) == 2)
                agent.word = "down"
                wait_for(lambda: front.up() == [f"host:{second.port}"])
                assert first.health == 200
                assert [post(front.port, {"max_tokens": 1})[0] for _ in range(3)] == [200] * 3
                assert first.seen == []
                agent.word = "up"
                wait_for(lambda: len(front.up()) == 2)
        finally:
            agent.shutdown()
            thread.join()
