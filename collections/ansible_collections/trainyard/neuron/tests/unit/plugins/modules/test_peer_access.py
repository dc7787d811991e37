# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from ansible_collections.trainyard.neuron.plugins.modules import peer_access

SCANNED = """# 10.0.0.1:2222 SSH-2.0-OpenSSH_9.2
10.0.0.1 ssh-ed25519 AAAAB
10.0.0.1 ecdsa-sha2-nistp256 AAAAA
"""


def test_service_that_the_controller_came_through_is_asked_for_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.9 50000 10.0.0.1 2222")
    asked: list[list[str]] = []

    def run(argv: list[str]) -> tuple[int, str, str]:
        asked.append(argv)
        return 0, SCANNED, ""

    found = peer_access.login(run)
    assert asked[0][-3:] == ["-p", "2222", "10.0.0.1"]
    assert (found["port"], found["host_keys"]) == (2222, ["ecdsa-sha2-nistp256 AAAAA", "ssh-ed25519 AAAAB"])


def test_host_without_an_ssh_service_is_no_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    assert peer_access.login(lambda _argv: (1, "", "refused")) == {}
