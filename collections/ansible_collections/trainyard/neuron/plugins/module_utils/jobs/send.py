# SPDX-License-Identifier: Apache-2.0
"""The sender's side of a transfer from host to host: what a key of `trust` may run, as the user that the key logs in.

Requests come as the words of `SSH_ORIGINAL_COMMAND`: `status`; `get INDEX OFFSET`, a file of the manifest by its
number; `done`. A request can name no path, so it can read nothing but the files of this one result.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import IO, Any, Dict, List

from . import job, manifest, names, progress, trust


def main(arguments: List[str]) -> int:
    """Answer one request."""
    name, path, receiver = arguments
    words = os.environ.get("SSH_ORIGINAL_COMMAND", "").split()
    keys = trust.of_this_user()
    try:
        if words == ["status"]:
            print(json.dumps(status(name, Path(path), keys.ahead_of(name, receiver))))  # noqa: T201
        elif len(words) == 3 and words[0] == "get" and words[1].isdecimal() and words[2].isdecimal():
            send(Path(path), int(words[1]), int(words[2]), sys.stdout.buffer)
        elif words == ["done"]:
            keys.revoke(name, receiver, time.time())
        else:
            print("this key answers to: status, get INDEX OFFSET, done", file=sys.stderr)  # noqa: T201
            return 2
    except (OSError, IndexError, names.BadNameError, manifest.ManifestError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - for the receiver's log
        return 1
    return 0


def status(name: str, path: Path, ahead: int) -> Dict[str, Any]:
    """Return how the result stands here: complete with its manifest, on its way, or absent."""
    described = manifest.read(path)
    if described is not None and not manifest.quick_problems(path, described):
        return {"state": "complete", "manifest": described, "ahead": ahead}
    if job.unit_runs(*name.split("-", 1)):
        return {"state": "running", "doing": progress.describe(progress.read(progress.RUN_DIR / f"{name}.json"))}
    return {"state": "absent"}


def send(path: Path, index: int, offset: int, target: IO[bytes]) -> None:
    """Write one file of a complete result from an offset on."""
    described = manifest.read(path)
    if described is None:
        raise FileNotFoundError(f"{path} is not complete")
    with names.inside(path, described["files"][index]["path"], str(path)).open("rb") as stream:
        stream.seek(offset)
        shutil.copyfileobj(stream, target, 1 << 20)
        target.flush()
