# SPDX-License-Identifier: Apache-2.0
"""What preflight of a healthy fleet takes, over stand-in hosts on which nothing has been installed yet.

Hosts and controller share this machine's processors, which a real fleet does not: beside the wall time stands what the
controller alone needed. A host is asked once before the first round, so that connections are those of a second run.

    python bench/preflight.py --hosts 16 [--rounds 3] [--within 20]

Exits 1 where the quickest round took longer than `--within` seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "collections"))

from bench.control_plane import Fleet, run
from tests.stand_in import stand_in

PREFLIGHT = ("ansible-playbook", "playbooks/preflight.yml", "-i", "inventory/lab")


def measure(count: int, rounds: int) -> list[dict[str, float]]:
    """Bring up hosts and ask them; seconds of each round, with the load of this machine before it."""
    with stand_in("bench-preflight", count) as lab, tempfile.TemporaryDirectory() as folder:
        fleet, found = Fleet(lab, Path(folder)), []
        for _ in range(rounds):
            load = os.getloadavg()[0]
            found.append({"load": load, **run(fleet, list(PREFLIGHT), count)})
        return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--within", type=float, default=20.0, help="seconds")
    options = parser.parse_args()
    found = measure(options.hosts, options.rounds)
    print("simulated hosts | wall s | controller's processor s | hosts' processor s | load before")
    for row in found:
        words = (options.hosts, row["wall_s"], row["controller_cpu_s"], row["hosts_cpu_s"], row["load"])
        print("{:15d} | {:6.1f} | {:24.1f} | {:18.1f} | {:11.1f}".format(*words))
    return int(min(row["wall_s"] for row in found) > options.within)


if __name__ == "__main__":
    sys.exit(main())
