# SPDX-License-Identifier: Apache-2.0
"""A transfer from host to host: the real programs of both sides, with a wire that runs the key's command at once.

Over SSH it runs between eight stand-in hosts (tests/roles/test_fan_out_lab.py).
"""

from __future__ import annotations

import json
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.jobs import (
    artifact,
    job,
    manifest,
    peer,
    progress,
    trust,
    weights,
)
from ansible_collections.trainyard.neuron.tests.unit.plugins.module_utils.jobs.tensor_files import file_of

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKey"
OTHERS_LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOther somebody@example"
NOW_S = 1_800_000_000.0
INPUTS = {"repo": "a/b", "revision": "r", "source": "huggingface", "uri": None, "exclude": []}

#: Stands where `ssh` stands and does what sshd does with a key that has a command: runs that, whatever was asked for.
#: The sender's own program does the rest; only whether its unit is at work is told by a file, since none runs here.
WIRE = """
import os, pathlib, re, subprocess, sys
home = pathlib.Path({home!r})
request = " ".join(sys.argv[sys.argv.index("ubuntu@10.0.0.1") + 1:])
(home / "asked").open("a").write(request + "\\n")
lines = (home / ".ssh" / "authorized_keys").read_text().splitlines()
found = [re.search('command="([^"]*)"', line) for line in lines if "receiver=h2" in line]
if not found:
    sys.exit("ubuntu@10.0.0.1: Permission denied (publickey).")
words = found[0][1].split()
program = (
    "import pathlib, sys; from trainyard_jobs import job, program; "
    "job.unit_runs = lambda *_: pathlib.Path(" + repr(str(home / "unit_runs")) + ").exists(); "
    "sys.exit(program.main(sys.argv[1:]))"
)
argv = [{python!r}, "-c", program, *words[words.index("trainyard_jobs.program") + 1:]]
os.environ.update(HOME=str(home), PYTHONPATH={library!r}, SSH_ORIGINAL_COMMAND=request)
cut = home / "cut"
if cut.exists() and "get" in sys.argv:
    sent = subprocess.run(argv, stdout=subprocess.PIPE).stdout
    limit = int((home / "limit").read_text())
    try:
        if len(sent) <= limit:
            raise FileNotFoundError
        cut.unlink()  # by one of those who come at once
    except FileNotFoundError:
        sys.stdout.buffer.write(sent)
        sys.exit(0)
    sys.stdout.buffer.write(sent[:limit])
    sys.exit(255)
os.execv({python!r}, argv)
"""


class Pair:
    """A sender h1 and a receiver h2."""

    def __init__(self, root: Path) -> None:
        self.home = root / "home"
        (self.home / ".ssh").mkdir(parents=True)
        self.keys = trust.AuthorizedKeys(self.home / ".ssh" / "authorized_keys")
        (self.home / ".ssh" / "authorized_keys").write_text(f"{OTHERS_LINE}\n")
        self.sent = root / "h1" / "m"
        self.final = root / "h2" / "m"
        self.folder = root / "peers"
        self.report = progress.Progress(root / "report.json")

    def make(self, **inputs: Any) -> dict[str, Any]:
        staging = manifest.staging_of(self.sent)
        staging.mkdir(parents=True)
        (staging / "config.json").write_text("{}")
        (staging / "model-1.safetensors").write_bytes(file_of(300_000, b"1"))
        (staging / "model-2.safetensors").write_bytes(file_of(200_000, b"2"))
        (staging / "empty").touch()
        described = manifest.build(staging, "weights", "m-1", {**INPUTS, **inputs}, {"on": "h1"})
        manifest.publish(staging, self.sent, described)
        return described

    def introduce(self, turn: int = 0) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / peer.KEY).touch()
        grant = trust.Grant("weights-m-1", str(self.sent), "h2", turn, KEY)
        self.keys.grant(grant, NOW_S)
        login = {"user": "ubuntu", "port": 22, "host_keys": [KEY]}
        (self.folder / peer.SENDER).write_text(json.dumps(login))

    @property
    def spec(self) -> dict[str, Any]:
        sender = {"host": "h1", "address": "10.0.0.1", "path": str(self.sent), "turn": 0}
        return {"kind": "weights", "id": "m-1", "path": str(self.final), "inputs": INPUTS, "sender": sender}

    def receive(self) -> dict[str, Any]:
        return weights.run(self.spec, self.report)

    @property
    def asked(self) -> list[str]:
        return (self.home / "asked").read_text().splitlines()


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pair:
    made = Pair(tmp_path)
    library = tmp_path / "library"
    library.mkdir()
    (library / "trainyard_jobs").symlink_to(Path(peer.__file__).parent)
    wire = tmp_path / "wire.py"
    wire.write_text(WIRE.format(python=sys.executable, home=str(made.home), library=str(library)))
    really = peer.Peer._argv
    monkeypatch.setattr(peer.Peer, "_argv", lambda self, *request: [sys.executable, str(wire), *really(self, *request)])
    monkeypatch.setattr(peer, "folder_of", lambda *_: made.folder)
    return made


def test_result_arrives_verified_and_no_trust_is_left(pair: Pair) -> None:
    sent = pair.make()
    pair.introduce()
    received = pair.receive()
    assert received["files"] == sent["files"]
    assert manifest.full_problems(pair.final, received) == []
    assert received["made"]["from"] == "h1"
    assert pair.keys.lines() == [OTHERS_LINE]
    assert not pair.folder.exists()


def test_file_that_was_cut_off_goes_on_where_it_was(pair: Pair) -> None:
    pair.make()
    pair.introduce()
    (pair.home / "limit").write_text("100000")
    (pair.home / "cut").touch()
    received = pair.receive()
    assert not (pair.home / "cut").exists()
    offsets = [int(request.split()[2]) for request in pair.asked if request.startswith("get")]
    # One of the four was cut; it alone was asked for again, from where it had come to.
    assert sorted(offsets) == [0, 0, 0, 0, 100_000]
    assert manifest.full_problems(pair.final, received) == []


def test_second_run_asks_only_for_what_is_missing(pair: Pair) -> None:
    pair.make()
    staging = manifest.staging_of(pair.final)
    staging.mkdir(parents=True)
    (staging / "model-1.safetensors").write_bytes(file_of(300_000, b"1")[:120_000])
    (staging / "model-2.safetensors").write_bytes(file_of(200_000, b"2"))
    pair.introduce()
    pair.receive()
    asked = {request for request in pair.asked if request.startswith("get")}
    assert asked == {"get 0 0", "get 1 0", "get 2 120000"}


def test_file_that_arrived_wrong_is_fetched_again_alone(pair: Pair) -> None:
    pair.make()
    staging = manifest.staging_of(pair.final)
    staging.mkdir(parents=True)
    (staging / "model-2.safetensors").write_bytes(b"X" * 200_000)
    pair.introduce()
    pair.receive()
    assert (pair.final / "model-2.safetensors").read_bytes() == file_of(200_000, b"2")
    assert pair.asked.count("get 3 0") == 1
    assert pair.asked.count("get 2 0") == 1


def test_receiver_waits_for_a_sender_that_is_not_done_and_for_its_turn(pair: Pair) -> None:
    (pair.home / "unit_runs").touch()
    pair.introduce(turn=1)
    pair.keys.grant(trust.Grant("weights-m-1", str(pair.sent), "h3", 0, KEY), NOW_S)
    waits = []

    def then(_seconds: float) -> None:
        waits.append(pair.report.current)
        if len(waits) == 1:
            pair.make()
        else:
            pair.keys.revoke("weights-m-1", "h3", NOW_S)

    peer.Peer(pair.spec, pair.report, pair.folder).wait(sleep=then)
    assert waits == [
        "waiting for h1, which is not done itself",
        "waiting for h1, which gives it to 1 other(s) first",
    ]


def test_receiver_that_died_before_its_turn_does_not_hold_up_the_next(pair: Pair) -> None:
    pair.make()
    pair.introduce(turn=1)
    pair.keys.grant(trust.Grant("weights-m-1", str(pair.sent), "h3", 0, KEY), NOW_S)
    waited: list[float] = []
    peer.Peer(pair.spec, pair.report, pair.folder).wait(sleep=waited.append)
    assert peer.TURN_S <= sum(waited) <= peer.TURN_S + 2 * peer.LOOK_S


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda _pair: None, "h1 neither has it nor makes it"),
        (lambda pair: pair.make(revision="other"), "made from other inputs"),
        (lambda pair: pair.keys.revoke("weights-m-1", "h2", NOW_S), "Permission denied"),
        (lambda pair: (pair.folder / peer.SENDER).write_text("{}"), "the controller does not reach h1"),
        (lambda pair: (pair.folder / peer.SENDER).unlink(), "nobody introduced h1"),
    ],
)
def test_sender_that_cannot_give_it_is_said_to_be_one(pair: Pair, spoil: Any, why: str) -> None:
    pair.introduce()
    spoil(pair)
    with pytest.raises(peer.PeerError, match=why):
        peer.Peer(pair.spec, pair.report, pair.folder).wait(sleep=lambda _seconds: None)


def test_checkpoint_comes_from_its_source_when_no_host_gives_it(pair: Pair, tmp_path: Path) -> None:
    source = tmp_path / "shared"
    source.mkdir()
    (source / "config.json").write_text("{}")
    (source / "model.safetensors").write_bytes(file_of(1000))
    spec = {**pair.spec, "inputs": {**INPUTS, "source": "path", "uri": str(source)}}
    described = weights.run(spec, pair.report)
    assert described["made"]["from"] == str(source)


def test_artifact_that_no_host_gives_is_an_error_and_not_a_second_compile(pair: Pair) -> None:
    spec = {**pair.spec, "kind": "artifact", "does": "fetch", "store": "", "compile_host": "h1"}
    with pytest.raises(job.JobError, match="did not come: nobody introduced h1"):
        artifact.run(spec, pair.report)
    assert not pair.final.exists()


def test_key_lets_its_holder_do_nothing_else(pair: Pair) -> None:
    pair.make()
    pair.introduce()
    asked = peer.Peer(pair.spec, pair.report, pair.folder)
    for request in (("cat", "/etc/passwd"), ("get", "99", "0"), ("get", "../x", "0"), ()):
        refused = asked._run(*request)
        assert (refused.returncode != 0, refused.stdout) == (True, "")
        assert "Traceback" not in refused.stderr
    (line,) = (line for line in pair.keys.lines() if line != OTHERS_LINE)
    assert line.startswith('restrict,expiry-time="')
    expires = re.search(r'expiry-time="(\d{12})"', line)
    assert expires


def test_lines_of_others_stay_and_expired_ones_go(pair: Pair) -> None:
    pair.keys.grant(trust.Grant("weights-old", "/data/old", "h9", 0, KEY), NOW_S - 2 * trust.HOLDS_S)
    pair.introduce()
    assert [line.partition(" ")[0] == "ssh-ed25519" for line in pair.keys.lines()] == [True, False]
    pair.introduce()
    assert len(pair.keys.lines()) == 2


@pytest.mark.parametrize(
    "change",
    [{"receiver": 'h2" '}, {"path": "/data/$(x)"}, {"public_key": "command=x ssh-ed25519 AAAA"}, {"public_key": ""}],
)
def test_what_would_break_out_of_the_line_is_refused(pair: Pair, change: dict[str, Any]) -> None:
    grant = {"job": "weights-m-1", "path": "/data/m", "receiver": "h2", "turn": 0, "public_key": KEY}
    with pytest.raises(ValueError, match=r"is not a public key|cannot be part of"):
        pair.keys.grant(trust.Grant(**{**grant, **change}), NOW_S)
    assert pair.keys.lines() == [OTHERS_LINE]


def test_a_receiver_believes_no_host_but_the_one_that_it_was_introduced_to(pair: Pair) -> None:
    pair.introduce()
    words = peer.Peer(pair.spec, pair.report, pair.folder)._argv("status")
    options = dict(word.split("=", 1) for flag, word in pairwise(words) if flag == "-o")
    assert options["StrictHostKeyChecking"] == "yes"
    assert options["UserKnownHostsFile"] == str(pair.folder / "known_hosts")
    assert options["GlobalKnownHostsFile"] == "/dev/null"
    assert options["HostKeyAlias"] == "sender"
    wanted = {"IdentitiesOnly": "yes", "IdentityAgent": "none", "BatchMode": "yes"}
    assert {name: options.get(name) for name in wanted} == wanted
    assert words[words.index("-F") + 1] == "/dev/null"
    assert (pair.folder / "known_hosts").read_text() == f"sender {KEY}\n"


def test_what_is_longer_than_its_file_begins_anew(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another revision, say: nothing of it can be gone on from."""
    asked: list[int] = []
    really = peer.Peer._stream

    def stream(self: peer.Peer, index: int, offset: int, target: Path) -> str:
        asked.append(index)
        assert len(asked) < 20, "it asks on and on"
        return really(self, index, offset, target)

    monkeypatch.setattr(peer.Peer, "_stream", stream)
    pair.make()
    staging = manifest.staging_of(pair.final)
    staging.mkdir(parents=True)
    (staging / "model-2.safetensors").write_bytes(b"X" * 200_001)
    pair.introduce()
    received = pair.receive()
    assert (pair.final / "model-2.safetensors").read_bytes() == file_of(200_000, b"2")
    assert manifest.full_problems(pair.final, received) == []


def test_the_file_of_keys_is_its_user_s_alone(pair: Pair) -> None:
    pair.introduce()
    assert oct((pair.home / ".ssh" / "authorized_keys").stat().st_mode & 0o777) == "0o600"
    made = trust.AuthorizedKeys(pair.home / "new" / "authorized_keys")
    made.grant(trust.Grant("weights-m-1", "/data/m", "h2", 0, KEY), NOW_S)
    assert oct((pair.home / "new").stat().st_mode & 0o777) == "0o700"
