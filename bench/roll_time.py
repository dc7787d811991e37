# SPDX-License-Identifier: Apache-2.0
"""How long a roll takes against its floor: the load times of its waves, one after the other.

Stages a new release in the lab that TRAINYARD_LAB names, then rolls it with nothing watched and no traffic, so that
what is measured above the floor is the roll's own: drains of idle replicas, stops, module runs, decisions. Whatever
comes out is simulated; give the lab a `time_scale` that makes loads long enough to mean something.

    python -m bench.roll_time --at-once 1 --out results/roll_time.json
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainyard.paths import ROOT

BEGIN, END = (
    "TASK [rolling_redeploy : Take the lock]",
    "TASK [rolling_redeploy : Report, and name every replica that is out]",
)
_GATED = re.compile(r"^  (\S+): gated on (\S+) \((.*)\)")
_STEP = re.compile(r"(idle|stop|switch|start) ([\d.]+) s")


@dataclass
class Measured:
    """What the output of a roll says; times in seconds.

    Attributes:
        waves: for each wave, the steps of every replica in it.
        began: when the lock was taken, by the caller's clock.
        ended: when the report began.
    """

    waves: list[list[dict[str, float]]] = field(default_factory=list)
    began: float = 0.0
    ended: float = 0.0

    def line(self, text: str, now: float) -> None:
        """Take in one line of output that arrived at ``now``."""
        if text.startswith(BEGIN):
            self.began = now
        elif text.startswith(END):
            self.ended = now
        elif text.startswith("  drained: "):
            self.waves.append([])
        found = _GATED.match(text)
        if found and self.waves:
            self.waves[-1].append({name: float(value) for name, value in _STEP.findall(found.group(3))})

    def summary(self) -> dict[str, Any]:
        """Total, floor, and what each wave costs above its load.

        Raises:
            ValueError: the output is not that of a roll that was carried out.
        """
        loads = [max((steps.get("start", 0.0) for steps in wave), default=0.0) for wave in self.waves]
        floor, total = sum(loads), self.ended - self.began
        if not floor or total <= 0:
            raise ValueError("no roll was carried out")
        return {
            "provenance": "simulated",
            "waves": len(self.waves),
            "replicas": sum(map(len, self.waves)),
            "total_s": round(total, 1),
            "floor_s": round(floor, 1),
            "ratio": round(total / floor, 3),
            "above_load_per_wave_s": round((total - floor) / len(self.waves), 2),
        }


def play(variables: dict[str, Any], *more: str) -> Measured:
    """Run the redeploy playbook and follow its output."""
    measured = Measured()
    process = subprocess.Popen(
        [
            "ansible-playbook",
            str(ROOT / "playbooks" / "redeploy.yml"),
            f"--inventory={ROOT / 'inventory' / 'lab'}",
            f"--extra-vars={json.dumps(variables)}",
            *more,
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "PYTHONUNBUFFERED": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    tail: list[str] = []
    for text in process.stdout:
        measured.line(text, time.monotonic())
        tail = [*tail[-40:], text]
    if process.wait():
        raise SystemExit("".join(tail))
    return measured


def main(argv: list[str] | None = None) -> int:
    """Entry point."""
    top = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--at-once", type=int, default=1)
    top.add_argument("--floor", default="auto")
    top.add_argument("--shape", default="{}", help="overrides of the deployment tiny-llama, as JSON")
    top.add_argument("--out", type=Path)
    arguments = top.parse_args(argv)
    shape = {**json.loads(arguments.shape), "environment": {"ROLL_TEST": str(int(time.time()))}}
    variables = {
        "trainyard_overrides": {"tiny-llama": shape},
        "trainyard_redeploy": {
            "at_once": arguments.at_once,
            "floor": arguments.floor,
            "canary_s": 0,
            "soak_s": 0,
        },
    }
    summary = play(variables, "--skip-tags=provision,compile").summary()
    summary["at_once"] = arguments.at_once
    text = json.dumps(summary, indent=2) + "\n"
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
