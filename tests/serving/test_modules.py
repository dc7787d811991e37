# SPDX-License-Identifier: Apache-2.0
"""The modules that ask servers and steer routers, against a stand-in server and a real HAProxy."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.trainyard.neuron.plugins.modules import generation_probe, router_server

from tests.roles.test_load_balancer import one_model, routed, stubs, wait_for
from tests.roles.test_load_balancer import pytestmark as needs_haproxy
from tests.serving.stub import Stub, free_port, post, running

__all__ = ["stubs"]


def run(module: Any, capsys: pytest.CaptureFixture[str], **params: Any) -> dict[str, Any]:
    with patch_module_args(params), pytest.raises(SystemExit):
        module.main()
    return dict(json.loads(capsys.readouterr().out))


def test_every_server_is_asked_and_timed(capsys: pytest.CaptureFixture[str]) -> None:
    with running(token_s=0.01) as stub:
        result = run(generation_probe, capsys, targets=[{"url": stub.url, "model": "tiny/llama", "name": "a-0"}])
    row = result["targets"][0]
    assert (row["name"], row["tokens"], row["text"]) == ("a-0", 8, " Paris, of course Paris, of course")
    assert 10 <= row["ttft_ms"] < 200
    assert 8 <= row["per_token_ms"] < 50
    assert len(stub.seen) == 2


def test_all_failures_are_reported_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with running(model="other") as wrong, running(token_s=0.2) as slow:
        targets = [
            {"url": wrong.url, "model": "tiny/llama", "name": "wrong"},
            {"url": slow.url, "model": "tiny/llama", "name": "slow"},
            {"url": f"http://127.0.0.1:{free_port()}", "model": "tiny/llama", "name": "gone"},
        ]
        result = run(generation_probe, capsys, targets=targets, per_token_s=0.05, ttft_s=2, max_tokens=4)
    assert result["failed"]
    assert "wrong: it serves other, wanted tiny/llama" in result["msg"]
    assert re.search(r"slow: 0\.\d+ s per token, limit 0\.050 s", result["msg"]), result["msg"]
    assert "s per token, limit 0.050 s" in result["msg"]
    assert "gone: /v1/models: Connection refused" in result["msg"]


def test_a_server_on_its_way_up_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    started = threading.Event()

    def later() -> None:
        with running(port=port):
            started.wait(60)

    timer = threading.Timer(0.7, later)
    timer.start()
    try:
        result = run(
            generation_probe, capsys, targets=[{"url": f"http://127.0.0.1:{port}", "model": "tiny/llama"}], wait_s=10
        )
        assert result["msg"] == "1 servers generate"
    finally:
        started.set()
        timer.join()


@needs_haproxy
def test_drain_ready_and_check_mode(
    tmp_path: Path, stubs: tuple[Stub, Stub], capsys: pytest.CaptureFixture[str]
) -> None:
    with routed(tmp_path, one_model(stubs)) as front:
        given = {"servers": [f"host:{stubs[0].port}"], "sockets": [str(front.socket)]}
        check = run(router_server, capsys, state="drain", _ansible_check_mode=True, _ansible_diff=True, **given)
        assert check["changed"]
        assert check["diff"][0]["before"] == "ready\n"
        assert check["diff"][0]["after"] == "drain\n"
        assert [row.state for row in front.router.servers()] == ["ready", "ready"]
        done = run(router_server, capsys, state="drain", **given)
        assert (done["changed"], done["servers"][0]["was"], done["servers"][0]["state"]) == (True, "ready", "drain")
        assert not run(router_server, capsys, state="drain", **given)["changed"]
        for state in ("maint", "drain", "ready"):
            assert run(router_server, capsys, state=state, **given)["servers"][0]["state"] == state
        assert not run(router_server, capsys, state="ready", **given)["changed"]


@needs_haproxy
def test_a_deadline_that_passes_says_what_is_left_and_in_what_state(
    tmp_path: Path, stubs: tuple[Stub, Stub], capsys: pytest.CaptureFixture[str]
) -> None:
    for stub in stubs:
        stub.token_s = 0.4
    with routed(tmp_path, one_model(stubs)) as front:
        thread = threading.Thread(target=post, args=(front.port, {"max_tokens": 4}))
        thread.start()
        wait_for(lambda: stubs[0].running + stubs[1].running == 1)
        name = f"host:{next(stub.port for stub in stubs if stub.running)}"
        given = {"servers": [name], "sockets": [str(front.socket)], "state": "drain"}
        late = run(router_server, capsys, timeout_s=0.2, **given)
        assert f"{name} still has 1 requests after 0 s; it stays in drain" in late["msg"]
        assert (late["arrived"], late["left"]) == (False, {name: 1})
        assert [row.state for row in front.router.find(name)] == ["drain"]
        assert not run(router_server, capsys, timeout_s=10, **given).get("failed")
        thread.join()


@needs_haproxy
def test_an_unknown_server_is_named_and_nothing_changes(
    tmp_path: Path, stubs: tuple[Stub, Stub], capsys: pytest.CaptureFixture[str]
) -> None:
    with routed(tmp_path, one_model(stubs)) as front:
        names = [f"host:{stubs[0].port}", "host:none"]
        result = run(router_server, capsys, servers=names, sockets=[str(front.socket)], state="maint")
        assert "has no server host:none" in result["msg"]
        assert "Nothing was changed" in result["msg"]
        assert [row.state for row in front.router.servers()] == ["ready", "ready"]


@needs_haproxy
def test_a_server_of_little_weight_gets_its_share_and_one_at_a_time_at_least(
    tmp_path: Path, stubs: tuple[Stub, Stub], capsys: pytest.CaptureFixture[str]
) -> None:
    for stub in stubs:
        stub.token_s = 2.0
    with routed(tmp_path, one_model(stubs, max_num_seqs=32)) as front:
        canary = f"host:{stubs[0].port}"
        given = {"servers": [canary], "sockets": [str(front.socket)], "state": "ready", "_ansible_diff": True}
        run(router_server, capsys, **{**given, "state": "drain"})
        back = run(router_server, capsys, weights={canary: 11}, **given)
        assert (back["diff"][0]["before"], back["diff"][0]["after"]) == ("drain\n", "ready at 11%\n")
        assert [row.weight for row in front.router.servers()] == [11, 100]
        assert not run(router_server, capsys, weights={canary: 11}, **given)["changed"]
        threads = [threading.Thread(target=post, args=(front.port, {"max_tokens": 2})) for _ in range(20)]
        for thread in threads:
            thread.start()
        wait_for(lambda: stubs[0].peak + stubs[1].peak == len(threads))
        # One tenth of what is in flight; a second one more or less is the router's rounding.
        assert 1 <= stubs[0].peak <= 3
        run(router_server, capsys, **{**given, "state": "drain", "timeout_s": 30})
        assert [row.weight for row in front.router.servers()] == [11, 100], "a drain leaves the weight"
        run(router_server, capsys, weights={canary: 100}, **given)
        assert [row.weight for row in front.router.servers()] == [100, 100]
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("weights", [{"a": 0}, {"a": 101}, {"a": "half"}, {"b": 50}])
def test_weights_that_make_no_sense_are_refused(weights: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    result = run(router_server, capsys, servers=["a"], sockets=["/nowhere.sock"], state="ready", weights=weights)
    assert result["failed"]
    assert result["msg"].startswith("weights: ")
