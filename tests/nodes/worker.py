# SPDX-License-Identifier: Apache-2.0
"""In ansible-runner's place on a node: `worker.py FILE HOW worker ...` keeps what it was sent, and ends so or so."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from ansible_runner.utils.streaming import unstream_dir


def say(**row: object) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def main() -> None:
    file, how = Path(sys.argv[1]), sys.argv[2]
    sent: dict[str, object] = {"words": sys.argv[3:]}
    if how == "deaf":
        sys.exit("no Python here")
    with tempfile.TemporaryDirectory() as folder:
        while True:
            row = json.loads(sys.stdin.buffer.readline())
            sent |= row.get("kwargs", {})
            if "zipfile" in row:
                unstream_dir(sys.stdin.buffer, row["zipfile"], folder)
            if "eof" in row:
                break
        for name in ("envvars", "extravars"):
            path = Path(folder, "env", name)
            sent[name] = json.loads(path.read_text()) if path.exists() else {}
        sent["files"] = sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())
    with file.open("a") as out:
        out.write(json.dumps(sent) + "\n")
    say(status="starting")
    if how == "dies":
        sys.exit(9)
    if how == "hangs":
        time.sleep(60)
    if how == "raves":
        sys.stdout.write("{{{\n")
        return
    if how == "fails":
        data = {"host": "h1", "task": "Make it", "res": {"msg": "no disk"}}
        say(event="runner_on_failed", counter=1, uuid="a", event_data=data)
        say(event="playbook_on_stats", counter=2, uuid="b", event_data={})
    if how == "refuses":
        say(event="verbose", counter=1, uuid="a", stdout="ERROR! no such playbook")
    say(status="successful" if how == "works" else "failed")
    say(eof=True)


if __name__ == "__main__":
    main()
