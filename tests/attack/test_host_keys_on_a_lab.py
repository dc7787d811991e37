# SPDX-License-Identifier: Apache-2.0
"""A host that answers in a sender's place: with another host key it is asked nothing, by the real SSH of two hosts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

import pytest

from tests.stand_in import Lab, stand_in

pytestmark = [pytest.mark.lab, pytest.mark.xdist_group("attack-host-keys")]

# The receiver's program as it is on a host, asking for a result once; what it does not get is told in one line.
ASK = """
import json, pathlib, subprocess, sys
sys.path.insert(0, "/usr/local/lib/trainyard")
from trainyard_jobs import peer
address, host_key = sys.argv[1:]
folder = pathlib.Path("/run/attack-host-keys")
folder.mkdir(mode=0o700, exist_ok=True)
key = folder / peer.KEY
if not key.exists():
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
(folder / peer.SENDER).write_text(json.dumps({"user": "ubuntu", "port": 22, "host_keys": [host_key]}))
spec = {"kind": "weights", "id": "m", "sender": {"host": "lab-1", "address": address}, "inputs": {}}
done = peer.Peer(spec, None, folder)._run("status")
print(json.dumps({"code": done.returncode, "said": done.stderr, "got": done.stdout}))
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with stand_in("attack-host-keys", 2) as made:
        made.play("playbooks/provision.yml")
        yield made


def asked(lab: Lab, host_key: str) -> dict[str, object]:
    words = " ".join(shlex.quote(word) for word in (lab.address("lab-1"), host_key))
    return dict(json.loads(lab.on("lab-2", f"python3 -c {shlex.quote(ASK)} {words}")))


def test_a_sender_with_another_host_key_is_asked_nothing(lab: Lab) -> None:
    # Wherever sshd is told that its key is.
    public = "ssh-keygen -y -f $(/usr/sbin/sshd -T | sed -n 's/^hostkey //p' | head -1) | cut -d' ' -f1,2"
    own = {host: lab.on(host, public) for host in ("lab-1", "lab-2")}
    assert own["lab-1"] != own["lab-2"]
    wrong = asked(lab, own["lab-2"])
    assert (wrong["code"], wrong["got"]) == (255, "")
    assert "Host key verification failed" in str(wrong["said"])
    # With its own key it is believed to be the sender, and then refuses a stranger's key itself.
    right = asked(lab, own["lab-1"])
    assert "Permission denied" in str(right["said"])
    assert "Host key verification failed" not in str(right["said"])
