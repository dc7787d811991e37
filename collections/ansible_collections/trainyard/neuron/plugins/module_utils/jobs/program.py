# SPDX-License-Identifier: Apache-2.0
"""Run one job: `python -m trainyard_jobs.program weights ID`. What a systemd unit calls; status 0 means complete."""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from typing import List

from . import artifact, build, compiler, job, manifest, names, progress, send, store, weights

KINDS = {"weights": weights.run, "artifact": artifact.run, "build": build.run}


def main(arguments: List[str]) -> int:
    """Run the job that the arguments name; report its end where the waiting module looks."""
    if arguments[:1] == ["send"]:
        return send.main(arguments[1:])
    if arguments[:1] == ["compile"]:
        return compiler.main()
    kind, identifier = arguments
    report = progress.Progress(progress.RUN_DIR / f"{job.name_of(kind, identifier)}.json")
    began_s, began_at = time.monotonic(), time.time()
    try:
        spec = job.load_spec(kind, identifier)
        os.environ.update(job.load_credentials())
        described = KINDS[kind](spec, report)
    except job.JobError as error:
        report.fail(error.cause, error.left, error.next_step)
    except (store.StoreError, manifest.ManifestError, names.BadNameError) as error:
        report.fail(
            str(error), "nothing half made has the final name", "correct what the message names, then run again"
        )
    except OSError as error:
        print(traceback.format_exc(), flush=True)  # noqa: T201 - the job's log
        full = error.errno == errno.ENOSPC
        cause = f"the disk is full ({error.filename or 'while writing'})" if full else str(error)
        report.fail(
            cause,
            "nothing half made has the final name",
            "free space, then run again to resume" if full else "run again",
        )
    else:
        total = sum(entry["size"] for entry in described["files"])
        report.done(
            bytes=total,
            seconds=round(time.monotonic() - began_s, 1),
            began=began_at + report.waited_s,  # what it waited for is somebody else's work
            ended=time.time(),
        )
        return 0
    failure = progress.read(progress.RUN_DIR / f"{job.name_of(kind, identifier)}.json")
    print(f"FAILED: {failure.get('cause')}", flush=True)  # noqa: T201 - the job's log
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
