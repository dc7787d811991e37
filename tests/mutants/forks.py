# SPDX-License-Identifier: Apache-2.0
"""Runs pytest again and again in forks of one process that has the libraries already: a start costs more than a test.

Nothing of the tree is imported before a fork, so each run reads it as it is. Started by `run.py` with the tree as its
working directory: reads a line of JSON for each run, answers with a line, pytest's exit code or -1 out of time.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import time

#: What most tests import of others; a machine that lacks one of them is slower, and that is all.
LIBRARIES = (
    *("pytest", "_pytest.junitxml", "_pytest.assertion.rewrite", "xdist.plugin", "hypothesis", "hypothesis.extra"),
    *("yaml", "jinja2", "httpx", "ansible.template", "ansible.parsing.dataloader", "ansible.plugins.loader"),
)

DIES_WITH_ITS_PARENT = 1  # PR_SET_PDEATHSIG


def _child(arguments: list[str]) -> None:
    import pytest

    ctypes.CDLL(None).prctl(DIES_WITH_ITS_PARENT, signal.SIGKILL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    # Plugins that are here already keep their own assertions as they are.
    quiet = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
    code = 1
    with contextlib.suppress(BaseException):
        code = int(pytest.main([*quiet, *arguments]))
    os._exit(code)


def run(arguments: list[str], limit_s: float) -> int:
    """Exit code of pytest in a fork, -1 if it ran out of time; whatever it started is ended with it."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        _child(arguments)
    until = time.monotonic() + limit_s
    code = None
    while code is None and time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
        else:
            time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if code is None:
        os.waitpid(pid, 0)
        return -1
    return code if code >= 0 else 1


def main() -> None:
    """Answer runs until there are no more."""
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        asked = json.loads(line)
        sys.stdout.write(f"{run(asked['arguments'], asked['limit_s'])}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
