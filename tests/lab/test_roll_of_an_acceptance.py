# SPDX-License-Identifier: Apache-2.0
"""What an acceptance's roll, its containers and its resets are judged by, and how its load accounts for requests."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.acceptance_container import container_trial
from ansible_collections.trainyard.neuron.plugins.module_utils.acceptance_load import Load
from ansible_collections.trainyard.neuron.plugins.plugin_utils import acceptance

SOUND = {"sent": 60, "answered": 60, "left": [[True, [0, 0]], [True, [0, 0]]], "steady": True, "texts": 1}
KILLED = {"status": 0, "again": True, "resets": [3, 3]}
CONTAINER = {"status": 0, "devices": {"/dev/neuron0": ""}, "capabilities": "0000000000000002", "no_new_privileges": "1"}
PASSED, DIFFERS, SKIPPED = acceptance.PASSED, acceptance.DIFFERS, acceptance.SKIPPED


def outcome(name: str, **trials: Any) -> str:
    """Verdict of one check on some trials."""
    (check,) = [one for one in acceptance.CHECKS if one.name == name]
    known = {"generation": "nxdi_v1", "roll": SOUND, "killed_engine": KILLED, "container": CONTAINER}
    return check.result({"trials": {**known, **trials}})["outcome"]


@pytest.mark.parametrize(
    ("name", "trial", "changed", "expected"),
    [
        ("neighbour-streams", "roll", {}, PASSED),
        ("neighbour-streams", "roll", {"answered": 59}, DIFFERS),
        ("neighbour-streams", "roll", {"sent": 0, "answered": 0}, SKIPPED),
        ("drain-ends", "roll", {}, PASSED),
        ("drain-ends", "roll", {"left": [[True, [0, 0]], [True, [0, 1]]]}, DIFFERS),
        ("drain-ends", "roll", {"left": [[True, [1, 0]]]}, DIFFERS),
        ("drain-ends", "roll", {"left": [[False, [1, 0]]]}, SKIPPED),
        ("same-after-restart", "roll", {}, PASSED),
        ("same-after-restart", "roll", {"texts": 2}, DIFFERS),
        ("same-after-restart", "roll", {"texts": 2, "steady": False}, SKIPPED),
        ("reset-failures", "killed_engine", {}, PASSED),
        ("reset-failures", "killed_engine", {"resets": [3, 4]}, DIFFERS),
        ("reset-failures", "killed_engine", {"again": False}, DIFFERS),
        ("reset-failures", "killed_engine", {"resets": [None, None]}, SKIPPED),
        ("container-devices", "container", {}, PASSED),
        ("container-devices", "container", {"devices": {"/dev/neuron0": "EPERM"}}, DIFFERS),
        ("container-devices", "container", {"devices": {}}, DIFFERS),
        ("container-rights", "container", {}, PASSED),
        ("container-rights", "container", {"capabilities": "0000000000000000"}, PASSED),
        ("container-rights", "container", {"capabilities": "00000000000000a2"}, DIFFERS),
        ("container-rights", "container", {"no_new_privileges": "0"}, DIFFERS),
    ],
)
def test_a_verdict_follows_from_what_was_seen(name: str, trial: str, changed: dict[str, Any], expected: str) -> None:
    sound = {"roll": SOUND, "killed_engine": KILLED, "container": CONTAINER}[trial]
    assert outcome(name, **{trial: {**sound, **changed}}) == expected


def test_a_container_that_says_nothing_differs_once() -> None:
    assert outcome("container-devices", container={"status": 125}) == DIFFERS
    assert outcome("container-rights", container={"status": 125}) == SKIPPED


@pytest.mark.parametrize("said", ["", "no JSON", "[1]", '{"devices": 1}'])
def test_whatever_a_container_says_is_read_or_is_nothing(tmp_path: Path, said: str) -> None:
    engine = tmp_path / "podman"
    engine.write_text(f"#!/bin/sh\n[ $1 = image ] || printf '%s' '{said}'\n")
    engine.chmod(0o755)
    found = container_trial(str(engine), "image", tmp_path, unit=())
    assert outcome("container-devices", container=found) == DIFFERS
    assert outcome("container-rights", container=found) in (DIFFERS, SKIPPED)


def test_without_engine_or_image_nothing_is_judged(tmp_path: Path) -> None:
    engine = tmp_path / "podman"
    assert "is not on the host" in container_trial(str(engine), "image", tmp_path, unit=())["skipped"]
    engine.write_text("#!/bin/sh\nexit 1\n")
    engine.chmod(0o755)
    found = container_trial(str(engine), "image", tmp_path, unit=())
    assert "the image is not on the host" in found["skipped"]
    assert outcome("container-devices", container=found) == SKIPPED


class Answers(BaseHTTPRequestHandler):
    """A stream that is whole, or is cut, as the server says."""

    def do_POST(self) -> None:
        self.server.asked.append(time.monotonic())  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        time.sleep(0.05)
        self.wfile.write(b"data: x\n\n" + (b"data: [DONE]\n\n" if self.server.whole else b""))  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@contextlib.contextmanager
def servers(*whole: bool) -> Iterator[list[Any]]:
    made = []
    for one in whole:
        server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        server.whole, server.asked = one, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made.append(server)
    yield made
    for server in made:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def asked(server: Any, body: Mapping[str, Any]) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.request("POST", "/", str(dict(body)))
    with connection.getresponse() as answer:
        yield answer
    connection.close()


def test_a_server_that_is_taken_out_is_asked_nothing_more_and_all_are_answered() -> None:
    with servers(True, True) as (one, two):
        load = Load([one, two], asked, 5, 4)
        load.start()
        time.sleep(0.3)
        assert load.take_out(one, 10.0)
        since = time.monotonic()
        time.sleep(0.3)
        assert not [when for when in one.asked if when > since]
        load.put_in(one)
        time.sleep(0.3)
        load.end(10.0)
        assert [when for when in one.asked if when > since]
        assert load.sent == load.answered == len(one.asked) + len(two.asked) > 20


def test_a_stream_that_was_cut_is_not_answered_and_neither_is_one_that_was_refused() -> None:
    with servers(True, False) as (one, two):
        load = Load([one, two], asked, 5, 2)
        load.start()
        time.sleep(0.5)
        load.end(10.0)
        assert load.answered == len(one.asked) and load.sent == len(one.asked) + len(two.asked)
        assert len(two.asked) > 0
    load = Load([one], asked, 5, 1)
    load.start()
    time.sleep(0.3)
    load.end(10.0)
    assert load.sent > 0 and load.answered == 0
