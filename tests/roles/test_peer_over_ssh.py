# SPDX-License-Identifier: Apache-2.0
"""A host that receives and a real sshd: it asks the one that it was introduced to, and tells another one nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import peer, progress

from tests.programs import program

SSHD = program("sshd", "openssh-server")

pytestmark = [
    pytest.mark.skipif(not SSHD or not shutil.which("ssh-keygen"), reason="sshd is not installed and cannot be had"),
]


def key(path: Path) -> str:
    """A new key pair; its public key."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return " ".join(path.with_suffix(".pub").read_text().split()[:2])


class Sender:
    """A host that anybody may connect to and nobody log in at."""

    def __init__(self, root: Path) -> None:
        self.key = key(root / "host_key")
        self.log = root / "log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        lines = (f"HostKey {root / 'host_key'}", "ListenAddress 127.0.0.1", "PasswordAuthentication no", "UsePAM no")
        lines += ("LogLevel DEBUG1", f"PidFile {root / 'pid'}", f"AuthorizedKeysFile {root / 'nobody'}")
        (root / "sshd_config").write_text("\n".join([*lines, "KbdInteractiveAuthentication no", ""]))
        command = [SSHD, "-D", "-e", "-f", str(root / "sshd_config"), "-p", str(self.port)]
        if os.geteuid() == 0:  # root's sshd wants a user of the machine's for its children
            for path in (root, *root.iterdir()):
                os.chown(path, 65534, 65534)
            read = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]  # what it reads is root's
            command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *read, *command]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stderr=log)

    def ready(self) -> None:
        deadline = time.monotonic() + 60
        while "Server listening" not in self.log.read_text(errors="replace"):
            assert self.process.poll() is None, self.log.read_text(errors="replace")
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture
def sender(tmp_path: Path) -> Iterator[Sender]:
    root = tmp_path / "sshd"
    root.mkdir()
    made = Sender(root)
    try:
        made.ready()
        yield made
    finally:
        made.process.terminate()
        made.process.wait()


@pytest.fixture
def receiver(sender: Sender, tmp_path: Path) -> peer.Peer:
    """A host that was introduced to the sender."""
    folder = tmp_path / "peers"
    folder.mkdir()
    key(folder / peer.KEY)
    introduce(folder, sender, sender.key)
    spec: dict[str, Any] = {"kind": "weights", "id": "m-1", "inputs": {}}
    spec["sender"] = {"host": "h1", "address": "127.0.0.1", "path": "/data/m-1", "turn": 0}
    return peer.Peer(spec, progress.Progress(tmp_path / "report.json"), folder)


def introduce(folder: Path, sender: Sender, host_key: str) -> None:
    login = {"user": "nobody", "port": sender.port, "host_keys": [host_key]}
    (folder / peer.SENDER).write_text(json.dumps(login))


def test_a_host_with_the_key_of_the_introduction_is_asked(sender: Sender, receiver: peer.Peer) -> None:
    done = receiver._run("status")
    assert "Permission denied (publickey)" in done.stderr
    assert "userauth-request for user nobody" in sender.log.read_text(errors="replace")


def test_a_host_with_another_key_learns_nothing(sender: Sender, receiver: peer.Peer, tmp_path: Path) -> None:
    introduce(tmp_path / "peers", sender, key(tmp_path / "another"))
    done = receiver._run("status")
    assert "Host key verification failed" in done.stderr
    seen = sender.log.read_text(errors="replace")
    assert "Connection from 127.0.0.1" in seen
    assert "userauth" not in seen


def test_a_host_that_nobody_vouched_for_learns_nothing(sender: Sender, receiver: peer.Peer, tmp_path: Path) -> None:
    """As where the controller got no key of it; and nothing of it is kept for the next time."""
    for _ in range(2):
        introduce(tmp_path / "peers", sender, "")
        done = receiver._run("status")
        assert "Host key verification failed" in done.stderr
    assert "userauth" not in sender.log.read_text(errors="replace")
