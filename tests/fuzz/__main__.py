# SPDX-License-Identifier: Apache-2.0
"""`make fuzz`: every target, many inputs, all processors; the last line says what was found, and so does the exit."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import queue
import sys
import time
from typing import Any

from tests.fuzz.engine import Tally, Target, fuzz
from tests.fuzz.targets import TARGETS

#: So many inputs are one process's work: small enough that both processors end together.
CHUNK = 500


def chunks(count: int, number: int) -> list[tuple[int, int, int]]:
    """Return what is to be done: index of a target, inputs, and where they begin."""
    weights = sum(target.weight for target in TARGETS)
    found = []
    for index, target in enumerate(TARGETS):
        left, at = -(-count * target.weight // weights), 0
        while left > 0:
            found.append((index, min(CHUNK, left), number + 1000 * index + at))
            left, at = left - CHUNK, at + 1
    return found


def work(target: Target, inputs: int, number: int, answers: Any, counted: Any) -> None:
    """Do one chunk; the process's whole life."""

    def told(so_far: int) -> None:
        counted.value = so_far

    answers.put(fuzz(target, inputs, number, told))


def run(count: int, jobs: int, number: int, only: str) -> Tally:
    """Do all chunks, so many at a time; a process that the kernel ended had an input that nothing could interrupt."""
    context = multiprocessing.get_context("fork")
    waiting = [one for one in chunks(count, number) if only in TARGETS[one[0]].name]
    running: list[tuple[Any, Any, Any, tuple[int, int, int]]] = []
    total, began, said = Tally(), time.monotonic(), time.monotonic()
    while waiting or running:
        while waiting and len(running) < jobs:
            chunk = waiting.pop(0)
            answers, counted = context.Queue(), context.Value("i", 0)
            process = context.Process(target=work, args=(TARGETS[chunk[0]], *chunk[1:], answers, counted))
            process.start()
            running.append((process, answers, counted, chunk))
        for entry in list(running):
            process, answers, counted, chunk = entry
            try:
                total.add(answers.get(timeout=0.2))
                process.join()
            except queue.Empty:
                if process.is_alive() or not answers.empty():
                    continue
                told = (
                    f"{TARGETS[chunk[0]].name}: the process ended with {process.exitcode} after {counted.value} inputs"
                )
                total.add(Tally(inputs=counted.value + 1, hangs=1, shown=[f"{told} (seed {chunk[2]})"]))
            running.remove(entry)
        if time.monotonic() - said > 30:
            said = time.monotonic()
            print(f"{total.inputs} inputs after {said - began:.0f} s", flush=True)
    return total


def main(argv: list[str] | None = None) -> int:
    """Entry point; 0 only where nothing was found."""
    parser = argparse.ArgumentParser(description="Give every parser and every schema of settings many inputs.")
    parser.add_argument("--inputs", type=int, default=56000, help="how many, over all targets")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="where the inputs begin")
    parser.add_argument("--only", default="", help="targets with this in their names")
    given = parser.parse_args(argv)
    if not any(given.only in target.name for target in TARGETS):
        parser.error(f"--only {given.only}: none of {', '.join(target.name for target in TARGETS)}")
    print(f"seed {given.seed}, {len(TARGETS)} targets, {given.jobs} processes", flush=True)
    total = run(given.inputs, given.jobs, given.seed, given.only)
    for told in total.shown:
        print(told)
    print(f"{total.accepted} of {total.inputs} inputs were accepted")
    print(
        f"fuzz: inputs={total.inputs} tracebacks={total.tracebacks} hangs={total.hangs} wrongly_accepted={total.wrong}"
    )
    return 0 if total.clean else 1


if __name__ == "__main__":
    sys.exit(main())
