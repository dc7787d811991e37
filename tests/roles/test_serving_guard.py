# SPDX-License-Identifier: Apache-2.0
"""What the router refuses, what clients cannot disturb, two models on one host, and where no secret may be.

One stand-in host goes through its life in the order of the tests; the last one searches all that the others left.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import socket
import ssl
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import planted
from tests.stand_in import Lab, stand_in

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("serving-guard")]

TOKEN_S = 0.02
#: One value for each place where a user puts a secret; nobody else would write it.
PLANTED = {
    name: f"{prefix}pl4nted{index}{hashlib.sha256(name.encode()).hexdigest()[:24]}"
    for index, (name, prefix) in enumerate(
        {
            "replica key": "sk-",
            "client key": "sk-",
            "revoked client key": "sk-",
            "hub token": "hf_",
            "S3 secret": "",
            "S3 session": "",
        }.items()
    )
}
QWEN = {
    "name": "a-tiny-qwen",  # before the other one by name, and yet it must not take its place
    "model": {"repo": "{{ lab_model_repo }}", "source": "huggingface", "revision": "{{ lab_model_revision }}"},
    "served_name": "Qwen/tiny",
    "sdk_release": "2.23.0",
    "generation": "nxdi_v0",
    "tensor_parallel_size": 16,
    "data_parallel_size": 2,
    "max_num_seqs": 4,
    "max_model_len": 512,
    "dtype": "bfloat16",
    "port": 8100,
    "neuron_config": {"model_type": "llama"},
}


def key_row(name: str, key: str) -> dict[str, str]:
    return {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest()}


@dataclass
class Guarded:
    """The lab, and everything that its runs printed."""

    lab: Lab
    printed: list[str] = field(default_factory=list)
    authority: str = ""

    def play(self, *arguments: str) -> None:
        self.printed.append(self.lab.output(*arguments, "-vvv", "--diff"))

    @property
    def url(self) -> str:
        return f"https://{self.lab.router_address}:8080"

    def client(self, key: str = PLANTED["client key"], timeout_s: float = 40.0) -> httpx.Client:
        """A client that trusts the router's own certificate alone, for the name that it was made for."""
        trust = ssl.create_default_context(cadata=self.authority)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, verify=trust, headers=headers, timeout=timeout_s)

    def ask(self, path: str, key: str = PLANTED["client key"], **given: Any) -> httpx.Response:
        with self.client(key) as client:
            method = "POST" if given else "GET"
            return client.request(method, path, extensions={"sni_hostname": "lab-1"}, **given)

    def started(self) -> dict[str, str]:
        """When each replica became active, by the clock of its host."""
        show = "systemctl show -P Id -P ActiveEnterTimestampMonotonic 'vllm@*.service'"
        words = self.lab.on("lab-1", show).split()
        return dict(zip(words[::2], words[1::2], strict=True))

    def haproxy(self) -> tuple[int, int]:
        """Open connections of the router, and open files of its process."""
        socket_line = "echo show info | python3 -c 'import socket, sys; s = socket.socket(1); "
        socket_line += 's.connect("/run/haproxy/admin.sock"); s.send(sys.stdin.buffer.read()); '
        socket_line += "print(s.makefile().read())'"
        info = dict(line.split(": ", 1) for line in self.lab.on("lab-1", socket_line).splitlines() if ": " in line)
        return int(info["CurrConns"]), int(self.lab.on("lab-1", f"ls /proc/{info['Pid']}/fd | wc -l"))


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    variables = {
        "trainyard_overrides": {"tiny-llama": {"data_parallel_size": 1}},
        "vllm_endpoint_api_key": PLANTED["replica key"],
        "load_balancer_upstream_key": PLANTED["replica key"],
        "load_balancer_keys": [
            key_row("team-a", PLANTED["client key"]),
            key_row("gone", PLANTED["revoked client key"]),
        ],
        "load_balancer_tls": "self_signed",
        "model_weights_hub_token": PLANTED["hub token"],
        "trainyard_aws_environment": {
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "lab",
            "AWS_SECRET_ACCESS_KEY": PLANTED["S3 secret"],
            "AWS_SESSION_TOKEN": PLANTED["S3 session"],
        },
    }
    with stand_in("guard", 1, **variables) as lab:
        lab.pace(ttft_ms=40, itl_ms=TOKEN_S * 1000)
        lab.variables["trainyard_aws_environment"]["AWS_ENDPOINT_URL"] = lab.inventory["all"]["vars"]["lab_s3_url"]
        made = Guarded(lab)
        made.play("site.yml", "--skip-tags=benchmark")
        made.authority = lab.on("lab-1", "openssl x509 -in /etc/ssl/private/trainyard-router.pem")
        yield made


def completion(tokens: int = 4, **given: Any) -> dict[str, Any]:
    body = {"model": "trainyard/tiny-llama", "prompt": "Say", "max_tokens": tokens, "ignore_eos": True}
    return body | given


def refused(answer: httpx.Response, status: int, code: str | None = None) -> None:
    """It is refused as the `openai` client expects it, and says nothing of what is behind the router."""
    assert answer.status_code == status, answer.text
    # vLLM before 0.10 has the error's fields at the top; what the router refuses is always as OpenAI has it.
    error = answer.json()["error"] if code else answer.json().get("error", answer.json())
    assert isinstance(error["message"], str)
    assert isinstance(error["type"], str)
    if code:
        assert error["code"] == code
    said = answer.text + str(answer.headers)
    for word in (*PLANTED.values(), ":8000", ":9000", "lab-1", "haproxy"):
        assert word.lower() not in said.lower()


def test_keys_that_are_not_valid_are_refused_until_one_is(guarded: Guarded) -> None:
    assert guarded.ask("/v1/completions", json=completion()).status_code == 200
    for key in ("", "sk-wrong", PLANTED["replica key"]):
        refused(guarded.ask("/v1/completions", key=key, json=completion()), 401, "invalid_api_key")
        refused(guarded.ask("/v1/models", key=key), 401, "invalid_api_key")


def test_requests_that_are_none_get_their_status_as_json(guarded: Guarded) -> None:
    refused(guarded.ask("/v1/completions", json=completion(prompt="x" * 3_000_000)), 413, "request_too_large")
    refused(guarded.ask("/v1/completions", content="{not json"), 400)
    refused(guarded.ask("/v1/completions", content=""), 400)
    refused(guarded.ask("/v1/completions", json=completion(model="none/such")), 404)
    refused(guarded.ask("/v1/completions", json=completion(tokens=100_000)), 400)
    refused(guarded.ask("/metrics"), 404, "unknown_url")
    refused(guarded.ask("/../etc/passwd"), 404, "unknown_url")


def test_a_revoked_key_is_refused_at_once_and_a_stream_that_runs_goes_on(guarded: Guarded) -> None:
    keys = guarded.lab.variables["load_balancer_keys"]
    kept = keys[:1]
    done: list[str] = []

    def stream() -> None:
        done.append(guarded.ask("/v1/completions", json=completion(600, stream=True)).text)

    running = threading.Thread(target=stream)
    running.start()
    assert guarded.ask("/v1/models", key=PLANTED["revoked client key"]).status_code == 200
    guarded.lab.variables["load_balancer_keys"] = kept
    guarded.play("playbooks/serve.yml", "--tags=always,load_balancer")
    assert running.is_alive(), "the stream was over before the key was revoked"
    refused(guarded.ask("/v1/models", key=PLANTED["revoked client key"]), 401, "invalid_api_key")
    running.join()
    assert done[0].rstrip().endswith("data: [DONE]")


class Streams(threading.Thread):
    """Healthy streams, one after another, and the gaps between their chunks."""

    def __init__(self, guarded: Guarded) -> None:
        super().__init__()
        self.guarded = guarded
        self.over = threading.Event()
        self.gaps: list[float] = []
        self.statuses: list[int] = []

    def run(self) -> None:
        with self.guarded.client() as client:
            while not self.over.is_set():
                body, sni = completion(100, stream=True), {"sni_hostname": "lab-1"}
                with client.stream("POST", "/v1/completions", json=body, extensions=sni) as answer:
                    self.statuses.append(answer.status_code)
                    times = [time.monotonic() for line in answer.iter_lines() if line.startswith("data: {")]
                self.gaps += [later - earlier for earlier, later in itertools.pairwise(times)]


def test_2000_idle_and_20_slow_clients_do_not_disturb_a_stream_and_leave_nothing(guarded: Guarded) -> None:
    before = guarded.haproxy()
    healthy = Streams(guarded)
    healthy.start()
    trust = ssl.create_default_context(cadata=guarded.authority)
    address = (guarded.lab.router_address, 8080)
    head = (
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n"
        f"Authorization: Bearer {PLANTED['client key']}\r\nContent-Type: application/json\r\n\r\n"
    )
    with ExitStack() as stack:
        for _ in range(1800):
            stack.enter_context(socket.create_connection(address, timeout=10))
        for _ in range(200):
            link = stack.enter_context(socket.create_connection(address, timeout=10))
            stack.enter_context(trust.wrap_socket(link, server_hostname="lab-1"))
        slow = []
        for _ in range(20):
            link = stack.enter_context(socket.create_connection(address, timeout=60))
            slow.append(stack.enter_context(trust.wrap_socket(link, server_hostname="lab-1")))
            slow[-1].sendall(head.encode())
        began = time.monotonic()
        while time.monotonic() - began < 15:
            for link in slow:
                link.sendall(b" ")
            time.sleep(1.0)
        held, _ = guarded.haproxy()
        for link in slow:
            answer = link.recv(65536).decode()
            assert answer.startswith("HTTP/1.1 408"), answer
            assert json.loads(answer.partition("\r\n\r\n")[2])["error"]["code"] == "request_timeout"
    healthy.over.set()
    healthy.join()
    assert held >= 2000, "they were not held at the same time"
    assert set(healthy.statuses) == {200}
    assert statistics.median(healthy.gaps) == pytest.approx(TOKEN_S, abs=0.01)
    # A bunched or stalled stream has gaps of 200 ms and more.
    assert sorted(healthy.gaps)[int(len(healthy.gaps) * 0.99)] < 0.1
    deadline = time.monotonic() + 90
    while (after := guarded.haproxy()) > (before[0] + 5, before[1] + 20):
        assert time.monotonic() < deadline, f"before {before}, after {after}"
        time.sleep(2)
    assert after[1] <= before[1] + 20


def test_a_second_model_is_added_and_removed_and_the_first_one_does_not_notice(guarded: Guarded) -> None:
    before = guarded.started()
    assert len(before) == 1
    lab = guarded.lab
    routes_since = "systemctl show -P ActiveEnterTimestampMonotonic haproxy.service"
    router = lab.on("lab-1", routes_since)
    lab.variables["trainyard_deployment_a_tiny_qwen"] = QWEN
    guarded.play("site.yml", "--skip-tags=benchmark")
    both = guarded.started()
    assert sorted(both) == ["vllm@a-tiny-qwen-0.service", "vllm@a-tiny-qwen-1.service", "vllm@tiny-llama-0.service"]
    assert {name: both[name] for name in before} == before
    read = 'import glob, json; print(json.dumps([json.load(open(p)) for p in glob.glob("/etc/vllm/current/*.json")]))'
    cores = json.loads(lab.on("lab-1", f"python3 -c '{read}'"))
    assert sorted((row["name"], row["cores"]) for row in cores) == [
        ("a-tiny-qwen-0", "32-47"),
        ("a-tiny-qwen-1", "48-63"),
        ("tiny-llama-0", "0-31"),
    ]
    listed = guarded.ask("/v1/models").json()["data"]
    assert sorted(row["id"] for row in listed) == ["Qwen/tiny", "trainyard/tiny-llama"]
    for model in ("Qwen/tiny", "trainyard/tiny-llama"):
        answer = guarded.ask("/v1/completions", json=completion(model=model))
        assert (answer.status_code, answer.json()["model"]) == (200, model)
    refused(guarded.ask("/v1/completions", json=completion(model="none/such")), 404, "model_not_found")
    refused(guarded.ask("/v1/completions", content="{not json"), 400, "bad_request")
    refused(guarded.ask("/v1/completions", content=""), 400, "bad_request")
    del lab.variables["trainyard_deployment_a_tiny_qwen"]
    guarded.play("site.yml", "--skip-tags=benchmark")
    assert guarded.started() == before
    assert [row["id"] for row in guarded.ask("/v1/models").json()["data"]] == ["trainyard/tiny-llama"]
    assert lab.on("lab-1", "ls /etc/systemd/system | grep -c a-tiny-qwen || true") == "0"
    assert lab.on("lab-1", routes_since) == router, "the router was restarted, which ends every stream"


def test_a_given_certificate_is_spoken_with(guarded: Guarded, tmp_path: Path) -> None:
    pem = tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subject = ["-subj", "/CN=lab-1", "-addext", "subjectAltName=DNS:lab-1"]
    subprocess.run([*make, *subject, "-keyout", pem, "-out", pem], check=True, capture_output=True)
    text = pem.read_text()
    key = text.partition("-----BEGIN PRIVATE KEY-----\n")[2].partition("\n-----END")[0]
    PLANTED["TLS key"] = key.splitlines()[1]
    guarded.lab.variables |= {"load_balancer_tls": "given", "load_balancer_certificate": text}
    guarded.play("playbooks/serve.yml", "--tags=always,load_balancer")
    guarded.authority = text[text.index("-----BEGIN CERTIFICATE") :]
    assert guarded.ask("/v1/completions", json=completion()).status_code == 200


#: Where a secret has to be, for what needs it to have it.
ALLOWED = {
    "replica key": {"/etc/vllm/releases/ID/api-key", "/etc/haproxy/trainyard/upstream.map"},
    "hub token": {"/etc/trainyard/credentials/weights.json"},
    "S3 secret": {"/etc/trainyard/credentials/weights.json", "/etc/trainyard/credentials/artifact.json"},
    "S3 session": {"/etc/trainyard/credentials/weights.json", "/etc/trainyard/credentials/artifact.json"},
    "TLS key": {"/etc/haproxy/trainyard/certificate.pem"},
}


@pytest.mark.parametrize("name", [*PLANTED, "TLS key"])
def test_a_secret_is_nowhere_but_where_it_is_needed(guarded: Guarded, name: str) -> None:
    secret = PLANTED[name]
    guarded.ask("/v1/completions", key=secret, json=completion())
    assert planted.printed(guarded.printed, secret) == [], "a run printed it"
    found = planted.places(guarded.lab, "lab-1", secret)
    files = dict(reversed(line.split(" ", 1)) for line in found.pop("file", []))
    assert set(files) == ALLOWED.get(name, set())
    assert set(files.values()) <= {"400", "600"}, files
    # vLLM takes its key from its environment, which its own user and root can read.
    assert found.pop("environment", []) in ([["vllm"], []] if name == "replica key" else [[]])
    assert found == {}


def test_the_search_would_find_a_secret(guarded: Guarded) -> None:
    word = "sk-pl4nted-control"
    output = planted.plant(guarded.lab, "lab-1", word)
    try:
        found = planted.places(guarded.lab, "lab-1", word)
    finally:
        planted.take_away(guarded.lab, "lab-1")
    assert set(found) == {"file", "journal", "unit", "command line", "environment"}
    assert planted.printed([output], word) == [""]
