# SPDX-License-Identifier: Apache-2.0
"""Python environments of the load generators on this machine, from the same locked lists that the roles install.

They are kept under $XDG_CACHE_HOME/trainyard/clients, named by the digest of their list, and made once.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from trainyard.paths import ROOT  # makes the next import possible

from ansible_collections.trainyard.neuron.plugins.module_utils import venv  # isort: skip

REQUIREMENTS = {
    "llmeter": ROOT / "roles/benchmark/files/llmeter-requirements.txt",
    "llmperf": ROOT / "roles/llmperf_patched/files/requirements.txt",
}


def home(name: str) -> Path:
    """Directory of the environment of client `name`, made if it is not there. `VenvError` when pip cannot make it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "trainyard" / "clients"
    cache.mkdir(parents=True, exist_ok=True)

    def run(argv: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
        done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
        return done.returncode, done.stdout, done.stderr

    # The interpreter below this environment: one made from another environment's link would follow that one's removal.
    python = str(Path(sys._base_executable))  # type: ignore[attr-defined]
    wanted = venv.Venv(cache / name, REQUIREMENTS[name].read_text(encoding="utf-8"), python, run)
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if wanted.current() != wanted.home().name:
            wanted.make()
    return wanted.home()


if __name__ == "__main__":
    print(home(sys.argv[1]))
