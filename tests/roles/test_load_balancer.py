# SPDX-License-Identifier: Apache-2.0
"""The router's configuration under a real HAProxy, in front of stand-in servers."""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import socket
import ssl
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.filter.router_access import router_access
from ansible_collections.trainyard.neuron.plugins.module_utils.routing import cli
from ansible_collections.trainyard.neuron.plugins.module_utils.routing.haproxy import Router
from ansible_collections.trainyard.neuron.plugins.module_utils.routing.steering import move

from tests.roles.render import ROOT, render
from tests.roles.router_program import HAPROXY, needs_haproxy
from tests.roles.test_vllm_endpoint import analyze, needs_systemd
from tests.serving.stub import Stub, free_port, get, post, post_in_step, running

pytestmark = needs_haproxy

CHUNKED = {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}


def wait_for(what: Callable[[], bool], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def server(stub: Stub, name: str = "", **given: Any) -> dict[str, Any]:
    row = {"id": name or f"host:{stub.port}", "address": "127.0.0.1", "port": stub.port, "max_num_seqs": 8}
    return row | given


class Front:
    """A running router: its port, its socket, its log."""

    def __init__(self, directory: Path, models: list[dict[str, Any]], **variables: Any) -> None:
        self.port, self.metrics = free_port(), free_port()
        self.socket = directory / "admin.sock"
        self.states = directory / "servers"
        self.config = directory / "haproxy.cfg"
        self.log = directory / "log"
        text = render(
            "load_balancer",
            "haproxy.cfg.j2",
            load_balancer_models=models,
            load_balancer_address="127.0.0.1",
            load_balancer_port=self.port,
            load_balancer_metrics_address="127.0.0.1",
            load_balancer_metrics_port=self.metrics,
            __load_balancer_files_dir=str(directory),
            __load_balancer_socket=str(self.socket),
            __load_balancer_state_file=str(self.states),
            **{"load_balancer_max_connections": 400} | variables,
        )
        shutil.copy(ROOT / "roles/load_balancer/files/request.lua", directory)
        for name in ("keys.map", "limits.map"):
            (directory / name).write_text(render("load_balancer", f"{name}.j2", **variables))
        # What needs root and an installed package's users stays out of a test on the loopback.
        drop = ("chroot ", "user ", "group ")
        kept = [line for line in text.splitlines() if not line.strip().startswith(drop)]
        self.config.write_text("\n".join(kept).replace(" user haproxy group haproxy", "") + "\n")
        self.process: subprocess.Popen[bytes] | None = None
        self.replaced: list[subprocess.Popen[bytes]] = []
        self.router = Router(str(self.socket))

    def start(self) -> None:
        self._ports()
        with self.log.open("ab") as out:
            self.process = subprocess.Popen([HAPROXY, "-db", "-f", str(self.config)], stdout=out, stderr=out)
        wait_for(lambda: get(self.port, "/health")[0] != 0)

    def reload(self) -> None:
        """As the unit's reload does it: a new process takes the sockets over, the old one ends with its last stream."""
        assert self.process
        self._ports()
        self.replaced.append(self.process)
        take_over = ["-x", str(self.socket), "-sf", str(self.process.pid)]
        with self.log.open("ab") as out:
            self.process = subprocess.Popen([HAPROXY, "-db", "-f", self.config, *take_over], stdout=out, stderr=out)
        wait_for(lambda: f"Pid: {self.process.pid}" in self.router.command("show info") if self.process else False)

    def _ports(self) -> None:
        """As the unit does it before a start and a reload."""
        assert cli.main(["--socket", str(self.socket), "ports", str(self.states), str(self.config)]) == 0

    def stop(self) -> None:
        assert self.process
        for process in [*self.replaced, self.process]:
            process.terminate()
            process.wait(60)

    def up(self) -> list[str]:
        return [row.name for row in self.router.servers() if row.up]


def logged(front: Front, field: str, *values: str) -> dict[str, dict[str, Any]]:
    """The log's row with each of the field's values, once all are there (each comes after its answer)."""
    rows: dict[str, dict[str, Any]] = {}

    def all_there() -> bool:
        whole = [line for line in front.log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
        rows.update({row[field]: row for row in map(json.loads, (line for line in whole if line.startswith("{")))})
        return set(values) <= rows.keys()

    wait_for(all_there)
    return rows


def settle(front: Front, *stubs: Stub) -> None:
    """Until the router counts no request at these servers, or at any.

    A client has its answer a moment earlier, and load moves what comes then.
    """
    names = {f"host:{stub.port}" for stub in stubs}
    wait_for(lambda: not any(row.busy for row in front.router.servers() if not names or row.name in names))


@contextmanager
def routed(directory: Path, models: list[dict[str, Any]], **variables: Any) -> Iterator[Front]:
    front = Front(directory, models, **variables)
    try:
        front.start()
        yield front
    finally:
        front.stop()


@pytest.fixture
def stubs() -> Iterator[tuple[Stub, Stub]]:
    with ExitStack() as stack:
        yield stack.enter_context(running()), stack.enter_context(running())


def one_model(stubs: tuple[Stub, ...], **given: Any) -> list[dict[str, Any]]:
    return [{"name": "tiny/llama", "servers": [server(stub, **given) for stub in stubs]}]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_haproxy_accepts_every_number_of_models(tmp_path: Path, count: int) -> None:
    servers = [{"id": "lab-1:a-0", "address": "10.0.0.1", "port": 8000, "agent_port": 9000, "max_num_seqs": 4}]
    models = [{"name": f"org/Model-{index}", "servers": servers} for index in range(count)]
    front = Front(tmp_path, models, load_balancer_agent=True, load_balancer_slow_start_s=10)
    front.states.write_text("1\n")
    done = subprocess.run([HAPROXY, "-c", "-f", front.config], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[WARNING]" not in done.stderr
    assert "[ALERT]" not in done.stderr


#: A token that HAProxy holds back to send more at once comes 200 ms after the one before; else in a millisecond or two.
HELD_BACK_S = 0.2


def passed_on(port: int, stubs: tuple[Stub, ...]) -> None:
    """Each token reaches the client before its server sends the next, and none waits for company."""
    status, body, gaps = post_in_step(port, stubs, 25)
    assert (status, body.count("data:"), len(gaps)) == (200, 27, 24)
    # On a busy machine some come late, and never every one of them.
    assert statistics.quantiles(gaps, n=4)[0] < HELD_BACK_S / 2


def test_tokens_are_passed_on_one_by_one(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    with routed(tmp_path, one_model(stubs)) as front:
        passed_on(front.port, stubs)


def test_no_request_fails_when_a_replica_dies_and_it_comes_back(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    alive, _ = stubs
    with ExitStack() as stack:
        dying = running()
        doomed = dying.__enter__()
        front = stack.enter_context(routed(tmp_path, one_model((alive, doomed)), load_balancer_check_interval_ms=60000))
        assert len(front.up()) == 2
        dying.__exit__(None, None, None)
        results = [post(front.port, {"model": "tiny/llama"})[0] for _ in range(20)]
        assert results == [200] * 20
        # One refused connection was enough, long before any check was due.
        assert front.up() == [f"host:{alive.port}"]
        back = stack.enter_context(running(port=doomed.port))
        wait_for(lambda: len(front.up()) == 2)
        assert back.port == doomed.port


def test_a_request_that_was_sent_is_never_repeated(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    for stub in stubs:
        stub.cut_after = 2
    with routed(tmp_path, one_model(stubs)) as front:
        status, _, body, _ = post_until_cut(front.port)
        assert status == 200
        assert "[DONE]" not in body
    assert len(stubs[0].seen) + len(stubs[1].seen) == 1


def post_until_cut(port: int) -> tuple[int, dict[str, str], str, list[float]]:
    """A completion whose stream may break off; what came until then counts."""
    try:
        return post(port, {"model": "tiny/llama", "max_tokens": 5})
    except http.client.IncompleteRead as error:
        return 200, {}, error.partial.decode(), []


def test_a_replica_holds_no_more_than_its_slots_and_the_rest_waits(tmp_path: Path) -> None:
    with running(token_s=0.02) as stub, routed(tmp_path, one_model((stub,), max_num_seqs=2)) as front:
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.append(post(front.port, {"max_tokens": 4})[0])) for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses == [200] * 12
    assert stub.peak == 3  # max_num_seqs and one that waits in the engine, so that a free slot is filled at once


def test_least_in_flight_takes_the_free_replica(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    slow, fast = stubs
    slow.token_s = 1.0
    with routed(tmp_path, one_model(stubs)) as front:
        busy = [threading.Thread(target=post, args=(front.port, {"max_tokens": 4})) for _ in range(2)]
        for begun, thread in enumerate(busy, 1):
            thread.start()
            wait_for(lambda count=begun: len(slow.seen) + len(fast.seen) == count)
        settle(front, fast)
        for _ in range(6):
            post(front.port, {"max_tokens": 1})
            settle(front, fast)
        for thread in busy:
            thread.join()
    # One long request sits on the slow one; what is short goes where nothing is in flight.
    assert len(slow.seen) <= 2
    assert len(fast.seen) >= 6


def test_models_are_routed_by_the_body_and_listed_together(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    llama, qwen = stubs
    models = [
        {"name": "meta/Llama", "servers": [server(llama)]},
        {"name": "Qwen/Qwen3", "servers": [server(qwen)]},
    ]
    with routed(tmp_path, models) as front:
        long_prompt = "x" * 300_000  # the openai client writes the prompt before the model
        assert post(front.port, {"prompt": long_prompt, "model": "Qwen/Qwen3"})[0] == 200
        assert post(front.port, {"model": "meta/Llama"})[0] == 200
        assert (len(llama.seen), len(qwen.seen)) == (1, 1)
        status, _, body, _ = post(front.port, {"model": "none/such"})
        assert (status, json.loads(body)["error"]["code"]) == (404, "model_not_found")
        status, _, body, _ = post(front.port, {"prompt": "y" * 3_000_000, "model": "meta/Llama"})
        assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")
        listed = json.loads(get(front.port, "/v1/models")[1])
        assert [row["id"] for row in listed["data"]] == ["meta/Llama", "Qwen/Qwen3"]


def test_aliases_and_adapters_reach_the_servers_that_have_them(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    llama, qwen = stubs
    models = [
        {"name": "meta/Llama", "aliases": ["llama", "sql"], "servers": [server(llama)]},
        {"name": "Qwen/Qwen3", "servers": [server(qwen)]},
    ]
    with routed(tmp_path, models) as front:
        for name in ("llama", "sql"):
            assert post(front.port, {"model": name})[0] == 200
        assert (len(llama.seen), len(qwen.seen)) == (2, 0)
        assert post(front.port, {"model": "sq"})[0] == 404
        listed = json.loads(get(front.port, "/v1/models")[1])
        assert {row["id"] for row in listed["data"]} == {"meta/Llama", "Qwen/Qwen3", "llama", "sql"}
    with routed(tmp_path, models[:1]) as front:
        assert post(front.port, {"model": "sql"})[0] == 200
        assert post(front.port, {"model": "none"})[0] == 404


def test_a_model_may_be_named_in_the_path(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    llama, qwen = stubs
    qwen.model = "Qwen/Qwen3"
    models = [
        {"name": "meta/Llama", "servers": [server(llama)]},
        {"name": "Qwen/Qwen3", "servers": [server(qwen)]},
    ]
    with routed(tmp_path, models) as front:
        for path, status in (
            ("/models/Qwen/Qwen3/v1/completions", 200),
            ("/models/none/such/v1/completions", 404),
            ("/models/Qwen/Qwen3/metrics", 404),
            ("/models/Qwen/Qwen3/sleep", 404),
        ):
            link = http.client.HTTPConnection("127.0.0.1", front.port, timeout=60)
            link.request("POST", path, json.dumps({"max_tokens": 1}), {"Content-Type": "application/json"})
            answer = link.getresponse()
            assert (answer.status, bool(answer.read())) == (status, True), path
            link.close()
        assert [path for path, _ in qwen.seen] == ["/v1/completions"]
        assert llama.seen == []
        (row,) = json.loads(get(front.port, "/models/Qwen/Qwen3/v1/models")[1])["data"]
        assert row["id"] == "Qwen/Qwen3"


def test_what_is_not_for_clients_is_not_reachable(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    with routed(tmp_path, one_model(stubs)) as front:
        for path in ("/metrics", "/", "/docs", "/sleep"):
            status, body = get(front.port, path)
            assert (status, json.loads(body)["error"]["code"]) == (404, "unknown_url")
        assert get(front.port, "/v1/models")[0] == 200
        assert "haproxy_server_status" in get(front.metrics, "/metrics")[1]


def test_with_every_replica_down_clients_get_a_json_503(tmp_path: Path) -> None:
    with running() as stub:
        models = one_model((stub,))
        stub.health = 500
        with routed(tmp_path, models) as front:
            wait_for(lambda: front.up() == [])
            assert get(front.port, "/health")[0] == 503
            status, headers, body, _ = post(front.port, {})
            assert (status, json.loads(body)["error"]["type"]) == (503, "service_unavailable")
            assert headers["retry-after"] == "5"
            stub.health = 200
            wait_for(lambda: get(front.port, "/health")[0] == 200)


def test_while_every_replica_is_drained_clients_are_told_to_come_back_and_streams_end(
    tmp_path: Path, stubs: tuple[Stub, Stub]
) -> None:
    names = [f"host:{stub.port}" for stub in stubs]
    stubs[0].token_s = stubs[1].token_s = 0.1
    with routed(tmp_path, one_model(stubs)) as front:
        ended: list[int] = []
        thread = threading.Thread(target=lambda: ended.append(post(front.port, {"max_tokens": 30})[0]))
        thread.start()
        wait_for(lambda: sum(stub.running for stub in stubs) == 1)
        move([front.router], names, "drain", 0.0, wait=False)
        # As where a capacity block ends and the next has not begun: an answer at once, and no place in a queue.
        status, headers, body, _ = post(front.port, {"max_tokens": 1})
        assert (status, json.loads(body)["error"]["type"]) == (503, "service_unavailable")
        assert headers["retry-after"] == "5"
        assert sum(stub.running for stub in stubs) == 1, "it answered while the stream went on"
        thread.join()
        assert ended == [200]
        move([front.router], names, "ready", 10.0)
        assert post(front.port, {"max_tokens": 1})[0] == 200


def test_request_ids_go_end_to_end_and_the_log_is_json(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    with routed(tmp_path, one_model(stubs)) as front:
        _, headers, _, _ = post(front.port, {}, x_request_id="mine-1")
        assert headers["x-request-id"] == "mine-1"
        _, headers, _, _ = post(front.port, {}, x_request_id='bad"} id')
        made = headers["x-request-id"]
        assert made != 'bad"} id'
        rows = logged(front, "id", "mine-1", made)
    given = [row["x-request-id"] for stub in stubs for _, row in stub.seen]
    assert sorted(given) == sorted(["mine-1", made])
    assert [rows[name]["status"] for name in ("mine-1", made)] == [200, 200]


def test_a_drained_replica_finishes_and_stays_out_over_a_restart(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    first, second = stubs
    first.token_s = second.token_s = 0.1
    with routed(tmp_path, one_model(stubs)) as front:
        thread = threading.Thread(target=post, args=(front.port, {"max_tokens": 8}))
        thread.start()
        wait_for(lambda: first.running + second.running == 1)
        busy = first if first.running else second
        name = f"host:{busy.port}"
        assert cli.main(["--socket", str(front.socket), "drain", name, "--timeout-s", "0.1"]) == 1
        wait_for(lambda: not any(row.busy for row in front.router.find(name)))
        thread.join()
        assert busy.seen  # it was let finish
        count = len(busy.seen)
        assert [post(front.port, {"max_tokens": 1})[0] for _ in range(4)] == [200] * 4
        assert len(busy.seen) == count
        cli.save(front.router, front.states)
    again = Front(tmp_path, one_model(stubs))
    again.start()
    try:
        assert [row.state for row in again.router.find(name)] == ["drain"]
        assert cli.main(["--socket", str(again.socket), "ready", name]) == 0
        assert [row.state for row in again.router.find(name)] == ["ready"]
    finally:
        again.stop()


def test_a_replica_that_moved_is_found_where_the_configuration_says(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    """Its state outlives a start of the router, its former port does not."""
    first, second = stubs
    models = [[{"name": "tiny/llama", "servers": [server(stub, "host:m-0")]}] for stub in stubs]
    with routed(tmp_path, models[0]) as front:
        assert post(front.port, {"max_tokens": 1})[0] == 200
        cli.main(["--socket", str(front.socket), "drain", "host:m-0"])
        cli.save(front.router, front.states)
    assert len(first.seen) == 1
    with routed(tmp_path, models[1]) as again:
        assert [row.state for row in again.router.find("host:m-0")] == ["drain"]
        assert cli.main(["--socket", str(again.socket), "ready", "host:m-0"]) == 0
        wait_for(lambda: again.up() == ["host:m-0"])
        assert post(again.port, {"max_tokens": 1})[0] == 200
    assert (len(first.seen), len(second.seen)) == (1, 1)


def test_a_spare_gets_nothing_until_it_is_made_ready_and_its_state_outlives_a_reload(
    tmp_path: Path, stubs: tuple[Stub, Stub]
) -> None:
    first, second = stubs
    models = [{"name": "tiny/llama", "servers": [server(first), server(second, spare=True)]}]
    spare = f"host:{second.port}"

    def state() -> list[str]:
        return [row.state for row in front.router.find(spare)]

    def reload() -> None:
        cli.save(front.router, front.states)
        front.reload()

    with routed(tmp_path, models) as front:
        wait_for(lambda: front.up() == [f"host:{first.port}"])
        assert state() == ["maint"]
        assert post(front.port, {"max_tokens": 1})[0] == 200
        assert not second.seen
        # As a roll does it: out of rotation while it starts, ready when it is gated, in maintenance when it is stopped.
        move([front.router], [spare], "drain", 5.0)
        assert state() == ["drain"]
        assert not move([front.router], [spare], "ready", 5.0).problems()
        reload()
        wait_for(lambda: len(front.up()) == 2)
        assert state() == ["ready"]
        assert [post(front.port, {"max_tokens": 1})[0] for _ in range(8)] == [200] * 8
        assert second.seen
        move([front.router], [spare], "drain", 5.0)
        move([front.router], [spare], "maint", 5.0)
        reload()
        assert state() == ["maint"]


def test_the_router_program_lists_and_names_what_it_does_not_know(
    tmp_path: Path, stubs: tuple[Stub, Stub], capsys: pytest.CaptureFixture[str]
) -> None:
    with routed(tmp_path, one_model(stubs)) as front:
        assert cli.main(["--socket", str(front.socket), "status"]) == 0
        assert f"host:{stubs[0].port}  model-tiny-llama  ready" in capsys.readouterr().out
        assert cli.main(["--socket", str(front.socket), "drain", "host:1"]) == 1
        assert f"has no server host:1; it has host:{min(s.port for s in stubs)}" in capsys.readouterr().err
    assert cli.main(["--socket", str(front.socket), "status"]) == 1
    assert "systemctl status haproxy" in capsys.readouterr().err


def key_row(name: str, key: str, **given: Any) -> dict[str, Any]:
    return {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), **given}


def test_keys_are_asked_for_and_do_not_reach_the_replicas(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    for stub in stubs:
        stub.key = "inner-s3cret"
    (tmp_path / "upstream.map").write_text("replicas inner-s3cret\n")
    keys = [key_row("team-a", "sk-a"), key_row("team-b", "sk-b")]
    models = one_model(stubs)
    with routed(tmp_path, models, load_balancer_keys=keys, load_balancer_upstream_key="inner-s3cret") as front:
        for headers in ({}, {"Authorization": "Bearer sk-c"}, {"Authorization": "Basic c2stYQ=="}):
            status, _, body, _ = post(front.port, {}, **headers)
            assert (status, json.loads(body)["error"]["code"]) == (401, "invalid_api_key")
        assert post(front.port, {}, Authorization="Bearer sk-a")[0] == 200
        assert get(front.port, "/health")[0] == 200  # a load balancer before this one has no key
        logged(front, "key", "team-a")
        for secret in ("sk-a", "inner-s3cret"):
            assert secret not in front.log.read_text() + front.config.read_text() + (tmp_path / "keys.map").read_text()
    assert [row["authorization"] for stub in stubs for _, row in stub.seen] == ["Bearer inner-s3cret"]


def test_a_key_has_its_requests_per_minute_and_others_theirs(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    keys = [key_row("small", "sk-s", requests_per_minute=3), key_row("large", "sk-l")]
    with routed(tmp_path, one_model(stubs), load_balancer_keys=keys) as front:
        statuses = [post(front.port, {"max_tokens": 1}, Authorization="Bearer sk-s")[0] for _ in range(5)]
        assert statuses == [200, 200, 200, 429, 429]
        _, headers, body, _ = post(front.port, {}, Authorization="Bearer sk-s")
        assert json.loads(body)["error"]["type"] == "rate_limit_error"
        assert headers["retry-after"] == "30"
        assert {post(front.port, {"max_tokens": 1}, Authorization="Bearer sk-l")[0] for _ in range(5)} == {200}


def first_answer(port: int, source: str) -> str:
    """The beginning of what a client with that address is told of the models; empty where it is told nothing."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(source, 0)) as link:
            link.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return link.recv(65536).decode()
    except ConnectionError:
        return ""


def test_a_router_without_keys_and_tls_answers_private_networks_alone(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    # The machine's own addresses play the networks: of the loopback's, one is private.
    closed = {"load_balancer_address": "127.0.0.1", "load_balancer_metrics_address": "127.0.0.1"}
    shut = router_access(closed) | {"private_networks": ["127.0.0.1/32"]}
    keyed = router_access(closed | {"load_balancer_keys": [key_row("a", "sk-a")]})
    assert keyed["private_only"], "keys in clear text"
    for name, given, answers in (
        ("shut", shut, (False, False)),
        ("open", shut | {"private_only": False, "metrics_private_only": False}, (True, True)),
    ):
        folder = tmp_path / name
        folder.mkdir()
        with routed(folder, one_model(stubs), __load_balancer_access=given) as front:
            for port, answered in zip((front.port, front.metrics), answers, strict=True):
                assert first_answer(port, "127.0.0.1").startswith("HTTP/1.1 ")
                assert first_answer(port, "127.0.0.2").startswith("HTTP/1.1 ") == answered, (name, port)


def test_a_session_stays_with_its_replica_until_that_is_overloaded(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    with routed(tmp_path, one_model(stubs), load_balancer_affinity_header="x-session-id") as front:
        for _ in range(6):
            post(front.port, {"max_tokens": 1}, x_session_id="s-1")
            settle(front)
        assert sorted(len(stub.seen) for stub in stubs) == [0, 6]
        for stub in stubs:
            stub.token_s = 0.2
        threads = [
            threading.Thread(target=post, args=(front.port, {"max_tokens": 4}), kwargs={"x_session_id": "s-1"})
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert min(stub.peak for stub in stubs) >= 2


def test_requests_that_begin_alike_go_to_one_replica_until_that_is_overloaded(
    tmp_path: Path, stubs: tuple[Stub, Stub]
) -> None:
    def chat(system: str, user: str) -> dict[str, Any]:
        turns = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        return {"messages": turns, "max_tokens": 1}

    systems = [f"You are assistant number {number}. " + "Be brief. " * 20 for number in range(12)]
    with routed(tmp_path, one_model(stubs), load_balancer_affinity_prefix_bytes=256) as front:
        by_system = []
        for system in systems:
            before = [len(stub.seen) for stub in stubs]
            for turn in range(4):
                assert post(front.port, chat(system, f"question {turn}"))[0] == 200
                settle(front)
            by_system.append([len(stub.seen) - count for stub, count in zip(stubs, before, strict=True)])
        assert all(sorted(pair) == [0, 4] for pair in by_system), by_system
        assert len({tuple(pair) for pair in by_system}) == 2, "every prefix went to one replica"
        assert post(front.port, {"prompt": "x", "max_tokens": 1})[0] == 200
        for stub in stubs:
            stub.token_s = 0.2
        threads = [
            threading.Thread(target=post, args=(front.port, chat(systems[0], "x") | {"max_tokens": 4}))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert min(stub.peak for stub in stubs) >= 2


def test_tls_is_spoken_with_the_given_certificate(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    pem = tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subprocess.run([*make, *subject, "-keyout", pem, "-out", pem], check=True, capture_output=True)
    front = Front(tmp_path, one_model(stubs), load_balancer_tls="given")
    with front.log.open("ab") as out:
        front.process = subprocess.Popen([HAPROXY, "-db", "-f", str(front.config)], stdout=out, stderr=out)
    try:
        wait_for(front.socket.exists)
        context = ssl.create_default_context(cafile=str(pem))
        connection = http.client.HTTPSConnection("localhost", front.port, context=context, timeout=60)
        connection.request("GET", "/v1/models")
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        front.stop()


def test_bodies_that_are_no_requests_get_a_json_400(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    models = [{"name": f"m-{index}", "servers": [server(stub)]} for index, stub in enumerate(stubs)]
    with routed(tmp_path, models) as front:
        for text in ("{not json", "", '{"prompt": "x"}'):
            connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=60)
            connection.request("POST", "/v1/completions", text, {"Content-Type": "application/json"})
            response = connection.getresponse()
            assert (response.status, json.loads(response.read())["error"]["code"]) == (400, "bad_request")
            connection.close()
    assert not any(stub.seen for stub in stubs)


def test_a_body_that_does_not_come_takes_no_slot_and_gets_a_408(tmp_path: Path) -> None:
    with (
        running() as stub,
        routed(tmp_path, one_model((stub,), max_num_seqs=1), load_balancer_body_timeout_s=1) as front,
        ExitStack() as stack,
    ):
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", front.port))) for _ in range(4)]
        for link in slow:
            link.sendall(b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"max_tok')
        assert post(front.port, {"max_tokens": 2})[0] == 200  # two slots, four slow clients
        for link in slow:
            link.settimeout(5.0)
            answer = link.recv(65536).decode()
            assert answer.startswith("HTTP/1.1 408")
            assert '"code":"request_timeout"' in answer
        assert len(stub.seen) == 1


def test_a_large_body_of_unknown_length_gets_a_413(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    with routed(tmp_path, one_model(stubs)) as front:
        connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=60)
        pieces = (b"x" * 65536 for _ in range(64))
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", "/v1/completions", pieces, encode_chunked=True, headers=CHUNKED)
        response = connection.getresponse()
        assert (response.status, json.loads(response.read())["error"]["code"]) == (413, "request_too_large")
        connection.close()
        assert post(front.port, {"max_tokens": 1})[0] == 200


def test_a_key_that_was_revoked_is_refused_on_a_connection_that_it_had_opened(
    tmp_path: Path, stubs: tuple[Stub, Stub]
) -> None:
    keys = [key_row("team-a", "sk-a"), key_row("team-b", "sk-b")]
    header = {"Authorization": "Bearer sk-a", "Content-Type": "application/json"}
    with routed(tmp_path, one_model(stubs), load_balancer_keys=keys) as front:
        connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=60)
        connection.request("POST", "/v1/completions", '{"max_tokens": 1}', header)
        response = connection.getresponse()
        assert (response.status, response.read() != b"") == (200, True)
        (tmp_path / "keys.map").write_text(render("load_balancer", "keys.map.j2", load_balancer_keys=keys[1:]))
        front.reload()
        try:
            connection.request("POST", "/v1/completions", '{"max_tokens": 1}', header)
            status = connection.getresponse().status
        except (http.client.HTTPException, OSError):
            status = post(front.port, {"max_tokens": 1}, Authorization="Bearer sk-a")[0]
        connection.close()
        assert status == 401
        assert post(front.port, {"max_tokens": 1}, Authorization="Bearer sk-b")[0] == 200


def test_the_log_has_the_time_to_the_first_token(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    for stub in stubs:
        stub.token_s = 0.2
    with routed(tmp_path, one_model(stubs)) as front:
        post_in_step(front.port, stubs, 3, x_request_id="timed")
        get(front.port, "/nothing")
        rows = logged(front, "path", "/v1/completions", "/nothing")
    row = rows["/v1/completions"]
    assert row["id"] == "timed"
    # 200 ms before each of three tokens: the first one's time has its own in it, and not those of the other two.
    assert row["ttft_ms"] >= 199
    assert row["total_ms"] - row["ttft_ms"] >= 2 * 199
    assert rows["/nothing"]["ttft_ms"] == -1


def test_the_log_takes_no_line_that_keeps_a_stream_alive_for_a_token(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    for stub in stubs:
        stub.token_s, stub.comments = 0.2, 2
    with routed(tmp_path, one_model(stubs)) as front:
        connection = http.client.HTTPConnection("127.0.0.1", front.port, timeout=60)
        connection.request("POST", "/v1/completions", '{"max_tokens": 2}', {"Content-Type": "application/json"})
        response = connection.getresponse()
        came = []
        while line := response.readline():
            came += [(line, time.monotonic())] if line.strip() else []
        connection.close()
        row = logged(front, "path", "/v1/completions")["/v1/completions"]
    assert [line[:6] for line, _ in came] == [b": ping"] * 2 + [b"data: "] * 4
    assert came[2][1] - came[0][1] >= 0.3, "it keeps the stream alive, so it does not wait for the token"
    assert row["ttft_ms"] == -1
    assert row["total_ms"] >= 4 * 199


def test_slow_and_idle_clients_do_not_disturb_a_stream(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    with routed(tmp_path, one_model(stubs)) as front, ExitStack() as stack:
        for _ in range(200):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", front.port)))
            idle.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-")
        passed_on(front.port, stubs)


BUDGET = 30


def package_unit(root: Path) -> str:
    """A root directory with HAProxy's unit and the role's settings for it; the name to ask about."""
    units = root / "etc/systemd/system"
    (units / "haproxy.service.d").mkdir(parents=True)
    # As Debian and Ubuntu have it, which alone is at 96.
    package = "[Unit]\nDescription=x\n[Service]\nType=notify\nExecStart=/usr/sbin/haproxy -Ws\nRestart=always\n"
    (units / "haproxy.service").write_text(package)
    (units / "haproxy.service.d/trainyard.conf").write_text(render("load_balancer", "trainyard.conf.j2"))
    for name in ("usr/sbin/haproxy", "usr/local/lib/trainyard/router", "bin/kill"):
        program = root / name
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    for name in ("sysinit", "basic", "shutdown"):
        (units / f"{name}.target").write_text("[Unit]\nDescription=x\n")
    return "haproxy.service"


@needs_systemd
def test_the_package_unit_keeps_to_an_exposure_budget_with_the_roles_settings(tmp_path: Path) -> None:
    unit = package_unit(tmp_path)
    assert analyze("verify", tmp_path, unit, "--man=no").stderr == ""
    done = analyze("security", tmp_path, unit, "--offline=true", f"--threshold={BUDGET}", "--no-pager")
    assert done.returncode == 0, done.stdout[-400:]


@pytest.mark.parametrize("template", ["trainyard.conf.j2", "trainyard-vllm-router@.service.j2"])
def test_more_replicas_are_no_reason_to_restart_a_router(template: str) -> None:
    def unit(count: int) -> str:
        models = [{"name": "a", "servers": [{"id": str(index)} for index in range(count)]}]
        return render("load_balancer", template, load_balancer_models=models)

    assert unit(2) == unit(100)


def test_a_router_of_routers_is_the_same_role_with_routers_as_its_servers(
    tmp_path: Path, stubs: tuple[Stub, Stub]
) -> None:
    for stub in stubs:
        stub.token_s = 0.02
    with ExitStack() as stack:
        hosts = []
        for index, stub in enumerate(stubs):
            folder = tmp_path / f"host-{index}"
            folder.mkdir()
            hosts.append(stack.enter_context(routed(folder, one_model((stub,)))))
        rows = [
            {"id": f"host-{index}", "address": "127.0.0.1", "port": host.port, "max_num_seqs": 8, "router": True}
            for index, host in enumerate(hosts)
        ]
        fleet = stack.enter_context(routed(tmp_path, [{"name": "tiny/llama", "servers": rows}]))
        wait_for(lambda: len(fleet.up()) == 2)
        _, headers, body, times = post(fleet.port, {"max_tokens": 25}, x_request_id="through-both")
        assert headers["x-request-id"] == "through-both"
        assert body.count("data:") == 27
        assert len(times) >= 20, "the tokens came in bunches"
        # A host all of whose replicas are drained takes nothing, and says so to the router before it. What comes until
        # that has asked is sent to another host.
        assert cli.main(["--socket", str(hosts[0].socket), "drain", f"host:{stubs[0].port}"]) == 0
        before = len(stubs[1].seen)
        assert [post(fleet.port, {"max_tokens": 1})[0] for _ in range(8)] == [200] * 8
        wait_for(lambda: fleet.up() == ["host-1"])
        assert [post(fleet.port, {"max_tokens": 1})[0] for _ in range(4)] == [200] * 4
        assert len(stubs[1].seen) == before + 12


def test_a_router_says_of_each_model_whether_it_has_a_replica(tmp_path: Path, stubs: tuple[Stub, Stub]) -> None:
    models = [{"name": f"org/{name}", "servers": [server(stub)]} for name, stub in zip("ab", stubs, strict=True)]
    with routed(tmp_path, models) as front:
        assert [get(front.port, f"/models/org/{name}/health")[0] for name in "ab"] == [200, 200]
        assert cli.main(["--socket", str(front.socket), "drain", f"host:{stubs[0].port}"]) == 0
        assert [get(front.port, f"/models/org/{name}/health")[0] for name in "ab"] == [503, 200]
        assert get(front.port, "/health")[0] == 200
        assert get(front.port, "/models/org/c/health")[0] == 404
