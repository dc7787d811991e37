# SPDX-License-Identifier: Apache-2.0
"""What a client can send that a router must not believe, hold or pass on, tried on a real HAProxy."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.routing.haproxy import RouterError
from hypothesis import HealthCheck, given, settings

from tests.roles.render import ROOT
from tests.roles.router_program import HAPROXY, needs_haproxy
from tests.roles.test_load_balancer import Front, key_row, one_model, routed, server, settle, wait_for
from tests.serving.stub import Stub, free_port, get, post, running

pytestmark = needs_haproxy

MODEL = "tiny/llama"
#: Every path that vLLM has and that is for those who run it, or changes what others get.
ADMINISTRATION = (
    ("POST", "/v1/load_lora_adapter"), ("POST", "/v1/unload_lora_adapter"), ("POST", "/sleep"), ("POST", "/wake_up"),
    ("GET", "/is_sleeping"), ("POST", "/reset_prefix_cache"), ("POST", "/reset_mm_cache"),
    ("POST", "/reset_encoder_cache"), ("POST", "/collective_rpc"), ("GET", "/server_info"), ("POST", "/start_profile"),
    ("POST", "/stop_profile"), ("POST", "/pause"), ("POST", "/resume"), ("GET", "/is_paused"),
    ("POST", "/scale_elastic_ep"), ("POST", "/is_scaling_elastic_ep"), ("POST", "/init_weight_transfer_engine"),
    ("POST", "/update_weights"), ("POST", "/abort_requests"), ("GET", "/get_world_size"), ("GET", "/metrics"),
    ("GET", "/load"), ("GET", "/ping"), ("POST", "/ping"), ("GET", "/docs"), ("GET", "/redoc"),
    ("GET", "/openapi.json"), ("GET", "/tokenizer_info"), ("POST", "/invocations"), ("POST", "/inference/v1/generate"),
    ("GET", "/v1/responses/resp_1"), ("POST", "/v1/responses/resp_1/cancel"), ("GET", "/v1/"), ("POST", "/v1/new"),
)  # fmt: skip
#: The same path, written so that a list of what is forbidden would not know it.
DISGUISED = (
    "/v1/completions/../load_lora_adapter", "/v1//load_lora_adapter", "/v1/%6coad_lora_adapter", "//v1/completions",
    "/v1/load_lora_adapter?x=/v1/completions", "/V1/completions", "/models/tiny/llama/v1/load_lora_adapter",
    "/models/tiny/llama/models/tiny/llama/v1/completions", "/models/tiny/llama/v1/x/../../metrics",
    "http://x/v1/load_lora_adapter",
)  # fmt: skip


def raw(port: int, data: bytes, timeout_s: float = 60.0, source: str = "127.0.0.1") -> bytes:
    """All that is answered to these bytes until the other side closes."""
    parts = []
    link = socket.create_connection(("127.0.0.1", port), timeout=timeout_s, source_address=(source, 0))
    with link, suppress(ConnectionError):
        link.sendall(data)
        while part := link.recv(65536):
            parts.append(part)
    return b"".join(parts)


def asked(
    port: int, body: str | bytes, path: str = "/v1/completions", method: str = "POST", **headers: str
) -> tuple[int, str]:
    """Status and code of the error, or the body where it is no error of the API."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    named = {"Content-Type": "application/json"} | {key.replace("_", "-"): value for key, value in headers.items()}
    link.request(method, path, body, named)
    answer = link.getresponse()
    text = answer.read().decode()
    link.close()
    with suppress(ValueError, KeyError, TypeError):
        return answer.status, json.loads(text)["error"]["code"]
    return answer.status, text


@pytest.fixture
def stub() -> Iterator[Stub]:
    with running() as one:
        yield one


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Front, Stub]]:
    """One model behind a router that asks for no key, shared by what leaves nothing behind."""
    with running() as one, routed(tmp_path_factory.mktemp("single"), one_model((one,))) as front:
        wait_for(lambda: len(front.up()) == 1)
        yield front, one


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Front, Stub, Stub]]:
    with running() as first, running() as second:
        models = [{"name": "acme/m", "servers": [server(first)]}, {"name": "acme/m/v1", "servers": [server(second)]}]
        with routed(tmp_path_factory.mktemp("double"), models) as front:
            wait_for(lambda: len(front.up()) == 2)
            yield front, first, second


# What is asked for


def test_nothing_of_the_administration_passes(single: tuple[Front, Stub]) -> None:
    front, stub = single
    before = len(stub.seen)
    for method, path in ADMINISTRATION:
        for prefix in ("", f"/models/{MODEL}"):
            status, code = asked(front.port, "{}" if method == "POST" else "", prefix + path, method)
            assert (status, code) == (404, "unknown_url"), prefix + path
    for path in DISGUISED:
        assert asked(front.port, "{}", path) == (404, "unknown_url"), path
    assert len(stub.seen) == before


def test_a_path_takes_the_methods_that_it_has(single: tuple[Front, Stub]) -> None:
    front, stub = single
    before = len(stub.seen)
    for method, path in (
        ("GET", "/v1/completions"), ("DELETE", "/v1/models"), ("PUT", "/v1/chat/completions"), ("POST", "/version"),
        ("OPTIONS", "/v1/completions"), ("TRACE", "/v1/models"), ("CONNECTED", "/v1/completions"),
    ):  # fmt: skip
        assert asked(front.port, "", path, method) == (405, "method_not_allowed"), (method, path)
    assert len(stub.seen) == before


@pytest.mark.parametrize(
    "body",
    [
        '{"model": "none/such"}',
        '{"model": "Unable to find precompiled artifacts"}',
        '{"model": ""}',
        '{"model": "tiny/llama\\u0000"}',
        '{"model": "tiny/llama ", "prompt": "x"}',
        '{"model": "tiny/llama", "model": "none"}',
        '{"model": "tiny/llama", "\\u006dodel": "none"}',
        '{"model": "%s"}' % ("x" * 100_000),
        '{"prompt": %s, "model": "none"}' % ("[" * 300 + "]" * 300),
    ],
)
def test_a_single_model_is_asked_for_by_its_name_or_by_none(single: tuple[Front, Stub], body: str) -> None:
    front, stub = single
    before = len(stub.seen)
    assert asked(front.port, body) == (404, "model_not_found")
    assert len(stub.seen) == before
    for named in ('{"max_tokens": 1}', '{"model": null, "max_tokens": 1}', '{"model": "tiny/llama", "max_tokens": 1}'):
        assert asked(front.port, named)[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b'"model"', b"{", b'{"model": "tiny/llama"', b'{"model": "tiny/llama"} x', b'{"model": 5}',
        b'{"model": ["tiny/llama"]}', b"\xef\xbb\xbf{}", '{"model": "none"}'.encode("utf-16"),
        '{"model": "none"}'.encode("utf-16-le"), '{"model": "none"}'.encode("utf-32"), b"model=tiny/llama", b'{"a"}',
        b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b', "model": "none"}',
    ],
)  # fmt: skip
def test_what_is_no_object_of_json_reaches_no_replica(single: tuple[Front, Stub], body: bytes) -> None:
    front, stub = single
    before = len(stub.seen)
    assert asked(front.port, body) == (400, "bad_request")
    assert len(stub.seen) == before


@pytest.mark.parametrize(
    "body",
    [
        '{"model":"acme\\/m"}',
        '{"model":"\\u0061cme\\u002fm"}',
        '{"\\u006d\\u006f\\u0064\\u0065\\u006c" : "acme/m"}',
        '{"response_format": %s, "model": "acme/m"}' % ('{"a": [' * 60 + "1" + "]}" * 60),
        '{"prompt": "a \\\\\\" \\"model\\": \\"acme/m/v1\\" ", "model": "acme/m"}',
        '{"metadata": {"model": "acme/m/v1"}, "model": "acme/m"}',
        '{"model": "acme/m/v1", "model": "acme/m"}',
        ' \n{ "n" : -1.5e3 , "stream" : false,"model":"acme/m" } \r\n',
    ],
)
def test_the_model_is_the_one_that_a_reader_of_json_finds(double: tuple[Front, Stub, Stub], body: str) -> None:
    front, first, second = double
    before = len(first.seen), len(second.seen)
    assert json.loads(body)["model"] == "acme/m"
    assert asked(front.port, body)[0] == 200
    assert (len(first.seen), len(second.seen)) == (before[0] + 1, before[1])


def test_a_name_that_begins_with_another_is_found_in_the_path(double: tuple[Front, Stub, Stub]) -> None:
    front, first, second = double
    before = len(first.seen), len(second.seen)
    assert asked(front.port, '{"max_tokens": 1}', "/models/acme/m/v1/completions")[0] == 404
    assert asked(front.port, '{"max_tokens": 1}', "/models/acme/m/v1/v1/completions")[0] == 200
    assert (len(first.seen), len(second.seen)) == (before[0], before[1] + 1)
    # Body and path say one thing, or nothing is done.
    assert asked(front.port, '{"model": "acme/m"}', "/models/acme/m/v1/v1/completions") == (404, "model_not_found")
    assert len(second.seen) == before[1] + 1


FOUND = "%[var(txn.is_json,no)] %[var(txn.named),hex]"


class Reader:
    """`request.lua` in a HAProxy that answers what it found."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        shutil.copy(ROOT / "roles/load_balancer/files/request.lua", directory)
        (directory / "reader.cfg").write_text(
            f"""
            global
                lua-load-per-thread {directory}/request.lua
                tune.bufsize 2162688
            defaults
                mode http
                timeout client 30s
                timeout server 30s
                timeout connect 3s
            frontend reader
                bind 127.0.0.1:{self.port}
                http-request wait-for-body time 30s
                http-request lua.read_model
                http-request return status 200 content-type text/plain lf-string "{FOUND}"
            """.rstrip()
            + "\n"
        )
        self.process = subprocess.Popen([HAPROXY, "-db", "-q", "-f", str(directory / "reader.cfg")])
        wait_for(lambda: get(self.port, "/")[0] == 200)
        self.link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def read(self, body: bytes) -> tuple[bool, str | None]:
        """Whether it is an object, and the model's name."""
        self.link.request("POST", "/", body)
        word, _, name = self.link.getresponse().read().decode().partition(" ")
        return word != "no", bytes.fromhex(name).decode() if name != "-" and name else None


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    made = Reader(tmp_path_factory.mktemp("reader"))
    yield made
    made.link.close()
    made.process.terminate()
    made.process.wait(60)


TEXTS = st.text(max_size=12) | st.sampled_from(["model", "mo\\del", '"model"', "\\", '\\"', "{", "]"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def spelled(text: str, escape: bool) -> str:
    """A JSON string, with every character escaped or as few as can be."""
    if not escape:
        return json.dumps(text, ensure_ascii=False)
    units = text.encode("utf-16-be", "surrogatepass")
    return '"' + "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)) + '"'


@given(
    members=st.lists(st.tuples(st.just("model") | TEXTS, VALUES, st.booleans(), st.booleans()), max_size=6),
    space=st.sampled_from(["", " ", "\n\t"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
def test_it_reads_what_python_reads(reader: Reader, members: list[tuple[str, Any, bool, bool]], space: str) -> None:
    text = (
        "{"
        + ",".join(
            f"{space}{spelled(key, escaped)}{space}:{space}"
            + (spelled(value, too) if isinstance(value, str) else json.dumps(value))
            for key, value, escaped, too in members
        )
        + "}"
    )
    try:
        body = text.encode()
    except UnicodeEncodeError:
        return
    wanted = json.loads(body).get("model")
    is_object, name = reader.read(body)
    # Members before the last of that name count as well where they cannot be a name at all.
    if all(value is None or isinstance(value, str) for key, value, *_ in members if key == "model"):
        assert is_object
        if wanted is None:
            assert name is None
        elif name:
            assert name == wanted
        else:
            assert not wanted or any(ord(letter) < 32 or letter == "\x7f" for letter in wanted) or len(wanted) > 64
    else:
        assert not is_object


@given(st.binary(max_size=60) | st.text('{}[]":,\\umodel 0', max_size=40).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
def test_what_python_reads_as_an_object_it_never_reads_as_another_model(reader: Reader, body: bytes) -> None:
    is_object, name = reader.read(body)
    try:
        known = json.loads(body)
    except (ValueError, RecursionError):
        return
    if isinstance(known, dict) and is_object:
        assert known.get("model") == name or name == ""


def processor_s(pid: int) -> float:
    """Seconds of a processor that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_reading_a_body_costs_little_however_it_is_made(reader: Reader) -> None:
    """The worst that two MiB can hold does not keep other streams waiting for long: it is given up or read in time."""
    size = 2 * 1024 * 1024 - 64
    for filling in (b"x", b"\\n", b"\\\\", b"[", b'""', b'"",', b"{", b"1,", b"\\u00e4"):
        body = b'{"prompt": ["' + filling * (size // len(filling)) + b'"], "model": "m"}'
        began_s = processor_s(reader.process.pid)
        reader.read(body)
        # Of its processor, whoever else wants that: a wait is this machine's doing and not the body's.
        assert processor_s(reader.process.pid) - began_s < 5.0, filling


# What is written down


FORGED = '{"time":"2026","id":"x","key":"team-b","status":200}'
HOSTILE = [
    b"GET /v1/a]b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b'GET /v1/"\\]%5d%00%0a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n',
    b"GET /v1/" + b'"' * 3000 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /v1/" + b"]" * 30_000 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"G" * 3000 + b" /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /v1/\xff\xfe\xc3\x28 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: ok\r\nX-Request-Id: " + FORGED.encode()
    + b"\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: " + FORGED.encode()
    + b"\r\nX-Request-Id: ok\r\n\r\n",
    b'GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: a","key":"team-b\r\n\r\n',
    b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Request-Id: a,b\r\n\r\n",
    b'GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer ","key":"team-b\r\n\r\n',
    b"GARBAGE\r\n\r\n",
    b'GE"T / HTTP/1.1\r\nHost: x\r\n\r\n',
    b"GET / HTTP/1.1\r\nHost: x\r\nA\x00: b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"x" * 40,
    b"\x16\x03\x01\x02\x00\x01\x00" + b"\x00" * 60,
    b"\x00" * 60,
    FORGED.encode() + b"\n\n",
]  # fmt: skip
FIELDS = {
    "time", "id", "key", "client", "method", "path", "status", "backend", "replica", "queue_ms", "connect_ms",
    "header_ms", "ttft_ms", "total_ms", "bytes_out", "end", "retries", "in_flight", "queued",
}  # fmt: skip


def one_object(line: str) -> dict[str, Any]:
    """What a line of the log says; the test fails where it is no object, or says something twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(pairs) == len(dict(pairs)), f"said twice: {line}"
        return dict(pairs)

    try:
        row = json.loads(line, object_pairs_hook=once)
    except ValueError as error:
        pytest.fail(f"{error}: {line}")
    assert isinstance(row, dict), line
    return row


def test_every_line_of_the_log_is_one_object_whatever_a_client_sends(tmp_path: Path, stub: Stub) -> None:
    # A line is longer than HAProxy's own limit for one.
    name = 'team "a"]' * 120
    keys = [key_row(name, "sk-a"), key_row("team-b", "sk-b")]
    with routed(tmp_path, one_model((stub,)), load_balancer_keys=keys) as front:
        answers = [raw(front.port, data) for data in HOSTILE]
        assert post(front.port, {"max_tokens": 1}, Authorization="Bearer sk-a", x_request_id="the-last")[0] == 200
        wait_for(lambda: '"the-last"' in front.log.read_text())
        lines = [line for line in front.log.read_text(errors="surrogateescape").splitlines() if "NOTICE" not in line]
    rows = []
    for line in lines:
        if line.startswith("["):
            continue  # what HAProxy says of its own start
        rows.append(one_object(line))
        assert set(rows[-1]) == FIELDS, line
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", rows[-1]["id"]), line
        assert len(line) < 4096
    # As many as there were requests and refusals: none was split into two, and none left out.
    assert len(rows) >= len(HOSTILE)
    assert [row["key"] for row in rows if row["key"] != "-"] == [name]
    for data, answer in zip(HOSTILE, answers, strict=True):
        assert b"<html" not in answer.lower(), data
        if answer.startswith(b"HTTP/1.1 4"):
            assert b'{"error":{' in answer, data


def test_the_log_of_a_request_says_what_it_said_before(tmp_path: Path, stub: Stub) -> None:
    with routed(tmp_path, one_model((stub,))) as front:
        assert asked(front.port, '{"max_tokens": 1}', "/v1/completions?a=b", x_request_id="mine")[0] == 200
        wait_for(lambda: '"mine"' in front.log.read_text())
        (row,) = [json.loads(line) for line in front.log.read_text().splitlines() if '"mine"' in line]
    assert (row["method"], row["path"], row["status"]) == ("POST", "/v1/completions", 200)
    assert (row["backend"], row["replica"]) == ("model-tiny-llama", f"host:{stub.port}")
    assert row["ttft_ms"] >= 0


# What is held


@pytest.mark.parametrize("more", [0, 80_000, 15_000])
def test_a_body_is_bounded_exactly_whatever_its_headers(tmp_path: Path, stub: Stub, more: int) -> None:
    """Of unknown length, beside headers of some size: what is too large is told so, and its replica hears nothing."""
    most = 300_000
    padding = {f"X-Padding-{index}": "p" * 1000 for index in range(more // 1000)}
    with routed(tmp_path, one_model((stub,)), load_balancer_max_body_bytes=most) as front:
        for size in (most, most + 1, 40 * most):
            text = b'{"max_tokens": 1, "prompt": "' + b"x" * (size - 31) + b'"}'
            assert len(text) == size
            link = http.client.HTTPConnection("127.0.0.1", front.port, timeout=60)
            pieces = (text[at : at + 1000] for at in range(0, size, 1000))
            headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked", **padding}
            with suppress(BrokenPipeError, ConnectionResetError):
                link.request("POST", "/v1/completions", pieces, encode_chunked=True, headers=headers)
            answer = link.getresponse()
            code = 431 if more > 16_384 else 200 if size <= most else 413
            assert (size, answer.status) == (size, code)
            link.close()
    assert len(stub.seen) == (0 if more > 16_384 else 1)


def test_large_headers_and_addresses_are_refused_before_a_key_is_looked_at(tmp_path: Path, stub: Stub) -> None:
    with routed(tmp_path, one_model((stub,)), load_balancer_keys=[key_row("a", "sk-a")]) as front:
        padding = {f"X-Padding-{index}": "p" * 1000 for index in range(20)}
        assert asked(front.port, "", "/v1/models", "GET", **padding) == (431, "headers_too_large")
        assert asked(front.port, "", "/v1/models?" + "q" * 5000, "GET") == (414, "uri_too_long")
        assert asked(front.port, "", "/v1/models", "GET") == (401, "invalid_api_key")
        most = {"X-Padding": "p" * 15_000, "Authorization": "Bearer sk-a"}
        assert asked(front.port, "", "/v1/models", "GET", **most)[0] == 200


def test_a_request_that_takes_no_body_holds_no_place_with_one(tmp_path: Path, stub: Stub) -> None:
    given_ = {"load_balancer_body_timeout_s": 1, "load_balancer_client_timeout_s": 2}
    with routed(tmp_path, one_model((stub,)), **given_) as front:
        assert asked(front.port, "x", "/v1/models", "GET") == (400, "bad_request")
        head = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"
        assert raw(front.port, head).startswith(b"HTTP/1.1 408")
        settle(front, stub)


@contextmanager
def held(port: int, count: int, data: bytes = b"", source: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    """Connections that send so much and then nothing."""
    with ExitStack() as stack:
        links = []
        for _ in range(count):
            # One that is too many may be closed before it is told that it is open.
            with suppress(ConnectionError):
                link = socket.create_connection(("127.0.0.1", port), source_address=(source, 0))
                links.append(stack.enter_context(link))
                link.sendall(data)
        yield links


def still_open(links: list[socket.socket]) -> int:
    """How many of them the other side has not closed."""
    count = 0
    for link in links:
        link.setblocking(False)
        try:
            while link.recv(65536):
                pass
        except BlockingIOError:
            count += 1
        except ConnectionError:
            pass
    return count


@pytest.mark.parametrize("data", [b"", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-"], ids=["idle", "half"])
def test_one_address_cannot_take_the_router_from_the_others(tmp_path: Path, stub: Stub, data: bytes) -> None:
    with routed(tmp_path, one_model((stub,)), load_balancer_max_connections=80) as front:
        wait_for(lambda: len(front.up()) == 1)
        with held(front.port, 200, data) as links, held(front.metrics, 100, data):
            wait_for(lambda: still_open(links) <= 60)
            assert still_open(links) == 60
            other = raw(
                front.port, b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", source="127.0.0.2"
            )
            assert other.startswith(b"HTTP/1.1 200")
            for path in ("/metrics", "/health"):
                head = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
                assert raw(front.metrics, head, source="127.0.0.2").startswith(b"HTTP/1.1 200"), path
        # Newer ones than 2.6 notice that a half-sent request is gone when its time is over.
        wait_for(lambda: get(front.port, "/v1/models")[0] == 200, timeout_s=60)


def connections(front: Front) -> int:
    """How many there are; more than any number where it takes no further one to say so."""
    try:
        found = re.search(r"^CurrConns: (\d+)$", front.router.command("show info"), re.MULTILINE)
    except RouterError:
        return sys.maxsize
    assert found
    return int(found[1])


def test_with_every_place_taken_metrics_and_health_still_answer(tmp_path: Path, stub: Stub) -> None:
    with routed(tmp_path, one_model((stub,)), load_balancer_max_connections=40) as front, ExitStack() as stack:
        wait_for(lambda: len(front.up()) == 1)
        for source in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
            stack.enter_context(held(front.port, 30, source=source))
        wait_for(lambda: connections(front) >= 40)
        for path in ("/metrics", "/health", f"/models/{MODEL}/health"):
            assert get(front.metrics, path)[0] == 200, path


def test_trusted_addresses_have_no_limit_of_their_own(tmp_path: Path, stub: Stub) -> None:
    given_: dict[str, Any] = {"load_balancer_max_connections": 80, "load_balancer_trusted_clients": ["127.0.0.1"]}
    with routed(tmp_path, one_model((stub,)), **given_) as front, held(front.port, 70) as links:
        assert post(front.port, {"max_tokens": 1})[0] == 200
        assert still_open(links) == 70


def resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def test_half_sent_requests_cost_little_memory_and_are_ended(tmp_path: Path, stub: Stub) -> None:
    with routed(tmp_path, one_model((stub,)), load_balancer_max_connections=600) as front:
        assert front.process
        before = resident_kib(front.process.pid)
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Padding: " + b"p" * 4000
        with held(front.port, 300, head) as links:
            settle(front)
            assert (resident_kib(front.process.pid) - before) / 300 < 100, "KiB each"
            wait_for(lambda: still_open(links) == 0, timeout_s=60)


# Who leaves


@pytest.mark.parametrize("how", ["tokens", "before the first token", "whole answer"])
def test_a_client_that_leaves_frees_its_replica_at_once(tmp_path: Path, how: str) -> None:
    with (
        running(token_s=2.0 if how == "tokens" else 30.0) as stub,
        routed(tmp_path, one_model((stub,), max_num_seqs=1)) as front,
    ):
        wait_for(lambda: len(front.up()) == 1)
        body = json.dumps({"max_tokens": 4, "stream": how != "whole answer"}).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        with socket.create_connection(("127.0.0.1", front.port)) as link:
            link.sendall(head + body)
            wait_for(lambda: stub.running == 1)
            if how == "tokens":
                link.recv(65536)
        wait_for(lambda: not any(row.busy for row in front.router.servers()))
        assert stub.running == 1, "the replica had ended by itself"


def test_a_client_that_waits_is_not_taken_for_one_that_is_silent(tmp_path: Path) -> None:
    """Neither in the queue nor before its first token, however short a silence is let pass."""
    given_: dict[str, Any] = {"load_balancer_client_timeout_s": 1}
    with running(token_s=3.0) as stub, routed(tmp_path, one_model((stub,), max_num_seqs=1), **given_) as front:
        wait_for(lambda: len(front.up()) == 1)
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.append(post(front.port, {"max_tokens": 1})[0])) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses == [200] * 4


def test_what_waits_for_a_replica_and_leaves_is_never_sent(tmp_path: Path) -> None:
    with running(token_s=1.0) as stub, routed(tmp_path, one_model((stub,), max_num_seqs=1)) as front:
        wait_for(lambda: len(front.up()) == 1)
        busy = [threading.Thread(target=post, args=(front.port, {"max_tokens": 4})) for _ in range(2)]
        for thread in busy:
            thread.start()
        wait_for(lambda: stub.running == 2)
        body = b'{"max_tokens": 1}'
        head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        with held(front.port, 5, head + body):
            wait_for(lambda: sum(row.queued for row in front.router.servers()) + queued(front) >= 5)
        wait_for(lambda: queued(front) == 0)
        for thread in busy:
            thread.join()
        settle(front, stub)
    assert len(stub.seen) == 2


def queued(front: Front) -> int:
    """Requests that wait for any replica of a model."""
    rows = [line.split(",") for line in front.router.command("show stat -1 2 -1").splitlines()]
    return sum(int(row[2] or 0) for row in rows if row[0].startswith("model-"))


# Keys, and pages of other sites


def test_a_clients_key_stops_at_the_router(tmp_path: Path, stub: Stub) -> None:
    with routed(tmp_path, one_model((stub,)), load_balancer_keys=[key_row("a", "sk-a")]) as front:
        headers = {"Authorization": "Bearer sk-a", "x_api_key": "sk-a"}
        assert post(front.port, {"max_tokens": 1}, **headers)[0] == 200
    ((_, seen),) = stub.seen
    assert not {"authorization", "x-api-key"} & set(seen)
    assert "sk-a" not in str(seen)


def preflight(port: int, origin: str) -> http.client.HTTPResponse:
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    link.request("OPTIONS", "/v1/chat/completions", headers={"Origin": origin, **asks})
    answer = link.getresponse()
    answer.read()
    link.close()
    return answer


def test_a_page_of_a_named_site_may_ask_and_no_other(tmp_path: Path, stub: Stub) -> None:
    site, other = "https://chat.example.com", "https://chat.example.com.evil.example"
    models = [*one_model((stub,)), {"name": "second", "servers": [server(stub)]}]
    keys = [key_row("a", "sk-a")]
    with routed(tmp_path, models, load_balancer_keys=keys, load_balancer_cors_origins=[site]) as front:
        answer = preflight(front.port, site)
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == site
        assert "authorization" in answer.headers["access-control-allow-headers"]
        assert "POST" in answer.headers["access-control-allow-methods"]
        refused = preflight(front.port, other)
        assert refused.status == 405
        assert "access-control-allow-origin" not in refused.headers
        # A page can read what it is refused with, and what it is given.
        for key, status in (("sk-x", 401), ("sk-a", 200)):
            body = {"model": MODEL, "max_tokens": 1}
            got, headers, *_ = post(front.port, body, Authorization=f"Bearer {key}", Origin=site)
            assert (got, headers["access-control-allow-origin"], headers["vary"]) == (status, site, "origin")


def test_no_page_of_another_site_may_ask_unless_somebody_says_so(tmp_path: Path, stub: Stub) -> None:
    stub.more_headers = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Credentials": "true"}
    with routed(tmp_path, one_model((stub,))) as front:
        assert preflight(front.port, "https://a.example").status == 405
        _, headers, *_ = post(front.port, {"max_tokens": 1}, Origin="https://a.example")
        # vLLM itself lets everybody.
        assert not [name for name in headers if name.lower().startswith("access-control-")]
