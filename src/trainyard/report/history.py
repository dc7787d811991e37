# SPDX-License-Identifier: Apache-2.0
"""A deployment over its releases: every run beside the one before it under the same load, and what became worse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainyard.report import analysis
from trainyard.report.analysis import Difference, Measured

#: What became worse by less is not called a regression, however surely it did.
LEAST_CHANGE = 0.03
#: The figures that a history has, and whether more of them is better.
BETTER_MORE = {"output tokens/s": True, "TTFT p50 ms": False, "TTFT p99 ms": False, "per token p50 ms": False}


@dataclass(frozen=True)
class Entry:
    """One run in a history.

    Attributes:
        run: the run.
        before: the sound run before it of the same deployment, under the same load and of the same provenance.
        changes: how it differs from that one.
    """

    run: Measured
    before: Measured | None
    changes: tuple[Difference, ...] = ()

    @property
    def regressions(self) -> list[Difference]:
        """What became worse beyond the noise of both runs."""
        return [one for one in self.changes if one.significant and _worse_by(one) >= LEAST_CHANGE]

    @property
    def unclear(self) -> list[Difference]:
        """What looks worse in runs that do not say how noisy they are."""
        return [one for one in self.changes if one.significant is None and _worse_by(one) >= LEAST_CHANGE]

    @property
    def release(self) -> str:
        """The replicas' releases, shortened."""
        return " ".join(sorted({(one.release or "?")[:12] for one in self.run.report.scenario.replicas}))

    @property
    def verdict(self) -> str:
        """What is to be said of it."""
        if not self.run.report.sound:
            return "not sound: " + " ".join(flag.code for flag in self.run.report.flags if flag.severity == "error")
        if self.before is None:
            return "the first of its load"
        if self.regressions:
            return "REGRESSION: " + ", ".join(map(_text, self.regressions))
        if self.unclear:
            return "worse, but one run has no repeats to tell noise by: " + ", ".join(map(_text, self.unclear))
        better = [one for one in self.changes if one.significant and _worse_by(one) <= -LEAST_CHANGE]
        return "better: " + ", ".join(map(_text, better)) if better else "as before"


def _worse_by(one: Difference) -> float:
    return -one.change if BETTER_MORE.get(one.name, False) else one.change


def _text(one: Difference) -> str:
    if one.low is None or one.high is None:
        return f"{one.name} {one.change:+.1%}"
    return f"{one.name} {one.change:+.1%} ({one.low:+.1%} to {one.high:+.1%})"


def runs_below(paths: Sequence[Path]) -> list[Path]:
    """The runs at some paths: each itself where it is one, else every run in the directory."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir() and not (path / "report.json").exists():
            found += sorted(file.parent for file in path.glob("**/report.json"))
        else:
            found.append(path)
    return found


def signature(run: Measured) -> tuple[object, ...]:
    """What two runs have in common that can be compared: deployment, load, provenance and instance type."""
    report = run.report
    load, scenario = report.load, report.scenario
    lengths = (load.input_tokens, load.output_tokens)
    talk = (load.turns, load.turn_tokens, load.think_s)
    sent = (*talk, load.loop, load.concurrency, load.rate_per_s, load.source, load.target, load.tool)
    sizes = tuple((one.mean, one.stddev) for one in lengths)
    names = (scenario.deployment or scenario.model, tuple(load.models))
    return (*names, report.provenance, scenario.instance_type, *sent, *sizes)


def entries(runs: Sequence[Measured]) -> list[Entry]:
    """Every run by time, with how it differs from the sound one before it that can be compared."""
    last: dict[tuple[object, ...], Measured] = {}
    found = []
    for run in sorted(runs, key=lambda one: one.report.run.started_at):
        key = signature(run)
        before = last.get(key) if run.report.sound else None
        changes = analysis.compare(before, run) if before is not None else []
        found.append(Entry(run, before, tuple(one for one in changes if one.name in BETTER_MORE)))
        if run.report.sound:
            last[key] = run
    return found


COLUMNS = ("began", "deployment", "release", "load", "provenance", "tokens/s", "TTFT p50 ms", "token p50 ms", "verdict")


def markdown(found: Sequence[Entry]) -> str:
    """A history as a table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    lines += ["| " + " | ".join(_cells(entry)) + " |" for entry in found]
    return "\n".join(lines) + "\n"


def made(begins: bytes) -> bool:
    """Return whether a file that begins so is such a table."""
    return begins.startswith(("| " + " | ".join(COLUMNS) + " |").encode("utf-8"))


def _cells(entry: Entry) -> Iterator[str]:
    report = entry.run.report
    latency = report.results.latency
    yield report.run.started_at.strftime("%Y-%m-%d %H:%M")
    yield report.scenario.deployment or report.scenario.model
    yield entry.release
    yield f"{report.load.input_tokens.mean:g} in, {report.load.output_tokens.mean:g} out, {entry.run.offered}"
    yield report.provenance
    yield f"{report.results.throughput.output_tokens_per_s:.1f}"
    for values in (latency.time_to_first_token_ms, latency.time_per_output_token_ms):
        yield "-" if values is None else f"{values.p50:.1f}"
    yield entry.verdict
