# SPDX-License-Identifier: Apache-2.0
"""Has the real ansible-rulebook take the collection's rulebook, and Alertmanager's messages ring it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

TOKEN = "only-for-this-check"  # noqa: S105 - of a program that this check starts and ends
WAIT_S = 180.0
#: In the place of heal.yml: says what it was given.
STUB = """\
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - ansible.builtin.copy:
        dest: "{folder}/ran-{{{{ 999999999 | random }}}}.json"
        content: "{{{{ {{'finding': trainyard_finding | default({{}}), 'dry': trainyard_dry}} | to_json }}}}"
"""
FIRING = {"status": "firing", "commonLabels": {"alertname": "ReplicaFailed", "finding": "restart_replica", "host": "a"}}
OVER = {
    "status": "resolved",
    "commonLabels": {"alertname": "DeviceUnhealthy", "finding": "quarantine_device", "host": "a", "device": "5"},
}
#: Those that call for nothing: an alert that healing has nothing to do with, and one that is over.
QUIET = (
    {"status": "firing", "commonLabels": {"alertname": "KVFull"}},
    {"status": "resolved", "commonLabels": {"alertname": "ReplicaFailed", "finding": "restart_replica", "host": "a"}},
)
WANTED = (
    {"finding": {}, "dry": False},
    {
        "finding": {
            "finding": "quarantine_device",
            "host": "a",
            "device": 5,
            "alert": "DeviceUnhealthy",
            "over": True,
        },
        "dry": False,
    },
)


def rung(port: int, message: Any, token: str = TOKEN) -> int:
    """Send a message as Alertmanager does; the status of the answer, 0 where nobody listens."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/alerts",
        data=json.dumps(message).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - the same
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def answers(rulebook: Path, program: Path, folder: Path) -> bool:
    """Whether the rulebook runs the playbook when it has to, with what it has to, and else not.

    Args:
        rulebook: the collection's.
        program: `ansible-rulebook`.
        folder: for what is written.
    """
    folder.mkdir(parents=True)
    (folder / "playbooks").mkdir()
    (folder / "playbooks/heal.yml").write_text(STUB.format(folder=folder), encoding="utf-8")
    python = f"ansible_python_interpreter={sys.executable}"
    (folder / "hosts").write_text(f"localhost ansible_connection=local {python}\n", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    given = {"heal_playbook": str(folder / "playbooks/heal.yml"), "heal_token": TOKEN, "heal_dry": False}
    given |= {"heal_address": "127.0.0.1", "heal_port": port}
    (folder / "vars.yml").write_text(json.dumps(given), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    environment["PATH"] = f"{program.parent}:{Path(sys.executable).parent}:{environment['PATH']}"
    words = [str(program), "--rulebook", str(rulebook), "-i", str(folder / "hosts"), "--vars", str(folder / "vars.yml")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(words, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        return _heard(process, port, folder)
    finally:
        process.terminate()
        process.wait(60)


def _heard(process: subprocess.Popen[bytes], port: int, folder: Path) -> bool:
    end = time.monotonic() + WAIT_S
    while rung(port, QUIET[0]) == 0:
        if process.poll() is not None or time.monotonic() > end:
            sys.stdout.write((folder / "log").read_text(encoding="utf-8")[-4000:])
            return False
        time.sleep(0.5)
    strangers = rung(port, FIRING, "a guess")
    # What calls for nothing comes first: had it called for something, that would have run before the rest.
    for message in (*QUIET, FIRING, OVER):
        rung(port, message)
    while len(found := said(folder)) < len(WANTED) and time.monotonic() < end:
        time.sleep(0.5)
    well = strangers in (401, 403) and all(row in found for row in WANTED) and len(found) == len(WANTED)
    if not well:
        sys.stdout.write(f"a stranger got {strangers}; the playbook was given {found}\n")
        sys.stdout.write((folder / "log").read_text(encoding="utf-8")[-4000:])
    return well


def said(folder: Path) -> list[Any]:
    """What the playbook was given, each time that it ran."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("ran-*.json"))]
