# SPDX-License-Identifier: Apache-2.0
"""In ansible-runner's place on a node: `worker.py FILE HOW worker ...` keeps what it was sent, and ends so or so."""

from __future__ import annotations

import io
import json
import stat
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from ansible_runner.utils.base64io import Base64IO
from ansible_runner.utils.streaming import unstream_dir


def say(**row: object) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def plant(there: Path, how: str) -> None:
    """Send an archive by which ansible-runner would write beside it: through a link, or by a name that climbs."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        if how == "links":
            link = zipfile.ZipInfo("out")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(link, str(there))
            file.writestr("out/planted", "by the node")
        else:
            name = zipfile.ZipInfo("../" * 30 + str(there / "precious").lstrip("/"))
            name.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(name, "/dev/null")
    say(zipfile=len(archive.getvalue()))
    with Base64IO(sys.stdout.buffer) as target:
        target.write(archive.getvalue())
    sys.stdout.buffer.flush()


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
    raise SystemExit(ENDS[how](file))


def raves(_: Path) -> int:
    sys.stdout.write("{{{\n")
    return 0


def hangs(_: Path) -> int:
    time.sleep(60)
    return 0


def endless(_: Path) -> int:
    while True:
        sys.stdout.write("x" * 65536)


def nested(_: Path) -> int:
    sys.stdout.write("[" * 100_000 + "\n")
    return 0


def words(_: Path) -> int:
    say(event="runner_on_failed", counter=1, uuid="a", event_data="words")
    return 0


def over(status: str) -> int:
    say(status=status)
    say(eof=True)
    return 0


def failed(message: str) -> int:
    data = {"host": "h1", "task": "Make it", "res": {"msg": message}}
    say(event="runner_on_failed", counter=1, uuid="a", event_data=data)
    say(event="playbook_on_stats", counter=2, uuid="b", event_data={})
    return over("failed")


def refuses(_: Path) -> int:
    say(event="verbose", counter=1, uuid="a", stdout="ERROR! no such playbook")
    return over("failed")


def plants(how: str, file: Path) -> int:
    plant(file.parent, how)
    return over("successful")


ENDS: dict[str, Callable[[Path], int]] = {
    "dies": lambda _: 9,
    "hangs": hangs,
    "raves": raves,
    "endless": endless,
    "nested": nested,
    "words": words,
    "works": lambda _: over("successful"),
    "fails": lambda _: failed("no disk"),
    "colours": lambda _: failed("\x1b[2Jall is well"),
    "refuses": refuses,
    "links": lambda file: plants("links", file),
    "climbs": lambda file: plants("climbs", file),
}


if __name__ == "__main__":
    main()
