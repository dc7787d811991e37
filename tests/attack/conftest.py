# SPDX-License-Identifier: Apache-2.0
"""A served stand-in fleet to attack: one host, two replicas behind a router, brought up once for all files here.

An attack may stop what it likes, if it leaves the fleet serving: `steady` sees to it before and after each test.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.stand_in import Lab, stand_in

HOST = "lab-1"
MODEL = "trainyard/tiny-llama"
REPLICAS = ("tiny-llama-0", "tiny-llama-1")
TOKEN_S = 0.05
#: A file that root alone reads, and what is in it; whatever is attacked, it must not come out.
SECRET_FILE = "/root/attack-secret"
SECRET = "root-only-pl4nted-3f9c"


@dataclass
class Fleet:
    """The lab, and what the attacks ask of it."""

    lab: Lab

    @property
    def url(self) -> str:
        return f"http://{self.lab.router_address}:8080"

    def on(self, command: str) -> str:
        """A line of shell as root on the host; its output."""
        return self.lab.on(HOST, command)

    def entry(self, name: str) -> dict[str, Any]:
        """What the plan says of a replica."""
        return dict(json.loads(self.on(f"cat /etc/vllm/current/{name}.json")))

    def show(self, name: str, *properties: str) -> list[str]:
        """Properties of a replica's unit."""
        wanted = " ".join(f"-P {word}" for word in properties)
        return self.on(f"systemctl show {wanted} vllm@{name}.service").splitlines()

    def starts(self) -> dict[str, list[str]]:
        """For each replica its start, and how often systemd has started it anew."""
        return {name: self.show(name, "InvocationID", "NRestarts", "ActiveState") for name in REPLICAS}

    def journal(self, name: str) -> str:
        """All that the unit of a replica ever logged, with who logged it."""
        return self.on(f"journalctl --all --output=export --no-pager --unit=vllm@{name}.service")

    def completion(self, **given: Any) -> dict[str, Any]:
        return {"model": MODEL, "prompt": "Say", "max_tokens": 4, "ignore_eos": True} | given

    def ask(self, **given: Any) -> httpx.Response:
        """One request through the router."""
        return httpx.post(f"{self.url}/v1/completions", json=self.completion(**given), timeout=40)

    def ask_replica(self, name: str, bodies: list[dict[str, Any]]) -> list[int]:
        """Requests straight to a replica, from its own host; their statuses."""
        script = (
            "import json, sys, urllib.request, urllib.error\n"
            "url, bodies = json.loads(sys.stdin.read())\n"
            "for body in bodies:\n"
            "    data = json.dumps(body).encode()\n"
            "    try:\n"
            "        head = {'Content-Type': 'application/json'}\n"
            "        print(urllib.request.urlopen(urllib.request.Request(url, data, head), timeout=30).status)\n"
            "    except urllib.error.HTTPError as error:\n"
            "        print(error.code)\n"
        )
        given = json.dumps([self.entry(name)["url"] + "/v1/completions", bodies]).encode().hex()
        program = script.encode().hex()
        read = f"python3 -c 'print(bytes.fromhex(\"{given}\").decode())'"
        run = f"python3 -c 'exec(bytes.fromhex(\"{program}\"))'"
        return [int(word) for word in self.on(f"{read} | {run}").split()]

    def settled(self, timeout_s: float = 120.0) -> None:
        """Return when every replica is active and the router serves."""
        end = time.monotonic() + timeout_s
        while True:
            states = [self.show(name, "ActiveState")[0] for name in REPLICAS]
            if set(states) == {"active"} and self.ask().status_code == 200:
                return
            assert time.monotonic() < end, states
            time.sleep(1)


class Streams:
    """Streams that run one after another while something is attacked, two a replica."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.began = 0
        self.cut: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(2 * len(REPLICAS))]

    def __enter__(self) -> Streams:
        for thread in self._threads:
            thread.start()
        end = time.monotonic() + 60
        while self.began < len(self._threads):
            assert time.monotonic() < end, "the streams did not begin"
            time.sleep(0.05)
        return self

    def _run(self) -> None:
        body = self.fleet.completion(max_tokens=200, stream=True)
        while not self._over.is_set():
            lines: list[str] = []
            try:
                with httpx.stream("POST", f"{self.fleet.url}/v1/completions", json=body, timeout=600) as answer:
                    for line in answer.iter_lines():
                        self.began += not lines
                        lines += [line] if line else []
            except httpx.HTTPError as error:
                lines.append(repr(error))
            if not lines or lines[-1] != "data: [DONE]":
                self.cut.append(lines[-1] if lines else "nothing")
                return

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    with stand_in("attack", 1) as lab:
        lab.pace(ttft_ms=20, itl_ms=TOKEN_S * 1000)
        lab.play("site.yml", "--skip-tags=benchmark")
        lab.on(HOST, f"umask 077; echo {SECRET} > {SECRET_FILE}")
        yield Fleet(lab)


@pytest.fixture
def steady(fleet: Fleet) -> Iterator[Fleet]:
    """The fleet, serving before the test and after it."""
    fleet.settled()
    yield fleet
    fleet.settled()
