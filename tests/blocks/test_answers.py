# SPDX-License-Identifier: Apache-2.0
"""Hosts that run are waited for until they answer by SSH; of one that does not it is said why, and what helps."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from tests.blocks.conftest import Account
from tests.blocks.test_instances import ERRORS, words
from tests.blocks.test_instances import block as block

from ansible_collections.trainyard.neuron.plugins.module_utils.capacity import answers, blocks, instances  # isort: skip
from ansible_collections.trainyard.neuron.plugins.modules import trainium_instances  # isort: skip


@contextmanager
def server(says: bytes | None) -> Iterator[int]:
    """A server that says something to whoever connects; one that says None keeps silent."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        open_ones = []

        def serve() -> None:
            connection, _ = listening.accept()
            open_ones.append(connection)
            if says is not None:
                connection.sendall(says)
                connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(5)
        for connection in open_ones:
            connection.close()


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", ""),
        (b"", answers.NO_SERVER),
        (b"HTTP/1.1 400 Bad Request\r\n", answers.NO_SSH),
        (None, answers.SILENT),
    ],
)
def test_what_a_server_says_first_decides(says: bytes | None, why: str) -> None:
    with server(says) as port:
        assert answers.why_silent("127.0.0.1", port, 0.5) == why


def test_a_port_where_nobody_listens_is_a_host_that_still_starts() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    assert answers.why_silent("127.0.0.1", port) == answers.NO_SERVER


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.ENETUNREACH, "no"), answers.NO_WAY),
        (OSError(errno.EHOSTUNREACH, "no"), answers.NO_WAY),
        (TimeoutError("timed out"), answers.SILENT),
        (ConnectionResetError(errno.ECONNRESET, "no"), answers.NO_SERVER),
    ],
)
def test_what_the_network_says_is_told_apart(monkeypatch: pytest.MonkeyPatch, error: OSError, why: str) -> None:
    def refuse(*_given: Any, **_named: Any) -> None:
        raise error

    monkeypatch.setattr(socket, "create_connection", refuse)
    assert answers.why_silent("192.0.2.1") == why


def test_one_address_that_answers_is_enough_and_a_host_without_any_is_named() -> None:
    said = {"10.0.0.1": answers.SILENT, "203.0.113.1": ""}
    rows = [("a", ("10.0.0.1", "203.0.113.1")), ("b", ("10.0.0.1", "")), ("c", ("", ""))]
    assert answers.reasons(rows, said.__getitem__) == {"b": answers.SILENT, "c": answers.NO_ADDRESS}


def launched(account: Account, given: dict[str, Any], ask: answers.Ask, check_mode: bool = False) -> dict[str, Any]:
    def sleep(seconds: float) -> None:
        account.market.set({"forward_s": seconds})

    clock: Callable[[], float] = lambda: account.market.now.timestamp()  # noqa: E731
    fleet = trainium_instances.Fleet(account.client, given["fleet"], ERRORS, check_mode, sleep, clock, ask)
    return trainium_instances.ensure(fleet, given)


def test_hosts_are_waited_for_until_each_answers(account: Account, block: blocks.Block) -> None:
    asked: list[str] = []

    def ask(address: str) -> str:
        asked.append(address)
        return answers.NO_SERVER if len(asked) < 6 else ""

    began = account.market.now
    result = launched(account, words(account, block, answer_s=300), ask)
    assert {row["address"] for row in result["instances"]} <= set(asked) and "warnings" not in result
    assert (account.market.now - began).total_seconds() >= 10
    # In check mode there is nobody to wait for, and 0 asks nobody.
    never: answers.Ask = lambda address: pytest.fail(f"it asked {address}")  # noqa: E731
    launched(account, words(account, block, answer_s=300), never, check_mode=True)
    launched(account, words(account, block), never)


def test_of_a_host_that_does_not_answer_it_is_said_why_and_a_later_run_goes_on(
    account: Account, block: blocks.Block
) -> None:
    given = words(account, block, answer_s=60)
    said = r"no SSH server answers on 2 of 2: trn2-1 \(i-\w+, [\d.]+\): nothing comes back.*trainium_launch_ssh_from"
    with pytest.raises(instances.LaunchError, match=said) as refused:
        launched(account, given, lambda _address: answers.SILENT)
    assert "system ok, instance ok" in str(refused.value) and "launches nothing twice" in str(refused.value)
    again = launched(account, given, lambda _address: "")
    assert not again["changed"] and len(again["instances"]) == 2


def test_a_host_that_answers_at_its_public_address_alone_is_named(account: Account, block: blocks.Block) -> None:
    given = words(account, block, answer_s=60, public_address=True)
    result = launched(account, given, lambda address: answers.SILENT if address.startswith("172.") else "")
    publics = {row["public_address"] for row in result["instances"]}
    assert len(publics) == 2 and not any(address.startswith("172.") for address in publics)
    assert [text.partition(" answers")[0] for text in result["warnings"]] == ["host trn2-1", "host trn2-2"]


def test_ec2s_checks_and_events_are_said_in_words() -> None:
    row = {
        "InstanceId": "i-1",
        "SystemStatus": {"Status": "impaired"},
        "InstanceStatus": {"Status": "initializing"},
        "Events": [{"Code": "instance-retirement"}],
    }
    assert answers.checks([row]) == {"i-1": "system impaired, instance initializing, event instance-retirement"}
