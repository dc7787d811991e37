# SPDX-License-Identifier: Apache-2.0
"""A deployment over its releases: what became worse beyond the noise is flagged, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import BenchmarkReport, Objective
from typer.testing import CliRunner

from lab.neuron_sim import latency
from tests.simulated_runs import Configuration, Sent, records, report_of, write_run
from trainyard.cli import app
from trainyard.report import analysis, history

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
GIVEN, SENT = Configuration(16, 1, 2048), Sent(1000, 50, 0, 160)


def run(
    directory: Path, day: int, slower: float = 1.0, noise: float = 0.03, sent: Sent = SENT, **changed: object
) -> Path:
    """A run of the day; tokens take `slower` times as long."""
    base = latency.Constants()
    constants = replace(
        base,
        step_s=base.step_s * slower,
        decode_collective_s=base.decode_collective_s * slower,
        hbm_efficiency=base.hbm_efficiency / slower,
        kv_penalty=base.kv_penalty * slower,
    )
    rows = records(MODEL, GIVEN, sent, constants, noise, day)
    report = report_of(MODEL, GIVEN, sent, rows, f"run-{day}")
    begun = report.run.started_at + timedelta(days=day)
    report = report.model_copy(update={"run": report.run.model_copy(update={"started_at": begun}), **changed})
    return write_run(directory / f"run-{day}", report, rows)


def said(*paths: Path) -> list[history.Entry]:
    return history.entries(analysis.read(list(paths)))


def test_a_release_that_is_slower_is_flagged_and_noise_is_not(tmp_path: Path) -> None:
    paths = [run(tmp_path, day, slower) for day, slower in enumerate((1.0, 1.0, 1.15, 1.15, 1.0))]
    first, same, slow, still, back = said(*paths)
    assert first.verdict == "the first of its load"
    assert same.verdict == "as before"
    assert [one.name for one in slow.regressions] == ["per token p50 ms"]
    assert slow.verdict.startswith("REGRESSION: per token p50 ms +")
    assert slow.regressions[0].change == pytest.approx(0.14, abs=0.03)
    assert still.verdict == "as before"
    assert back.verdict.startswith("better: per token p50 ms -")


def test_runs_of_another_load_or_kind_are_not_compared(tmp_path: Path) -> None:
    one = run(tmp_path, 0)
    other = run(tmp_path, 1, 2.0, sent=Sent(1000, 60, 0, 160))
    kind = run(tmp_path, 2, 2.0, provenance="cpu")
    assert [entry.verdict for entry in said(one, other, kind)] == ["the first of its load"] * 3


def test_a_run_that_is_not_sound_says_so_and_is_no_yardstick(tmp_path: Path) -> None:
    paths = [run(tmp_path, 0), run(tmp_path, 1, 2.0, sound=False), run(tmp_path, 2)]
    entries = said(*paths)
    assert entries[1].verdict.startswith("not sound")
    assert (entries[1].before, entries[1].regressions) == (None, [])
    assert entries[2].before is not None and entries[2].before.report.run.id == "run-0"
    assert entries[2].verdict == "as before"


def test_the_command_searches_a_directory_and_ends_with_1_at_a_regression(tmp_path: Path) -> None:
    for day, slower in enumerate((1.0, 1.15)):
        run(tmp_path / "results", day, slower)
    done = CliRunner().invoke(app, ["report", "--history", str(tmp_path / "results")])
    assert done.exit_code == 1, done.output
    assert "REGRESSION: per token p50 ms" in done.output and "simulated" in done.output
    file = tmp_path / "history.md"
    run(tmp_path / "results", 2, 1.15)
    done = CliRunner().invoke(app, ["report", "--history", str(tmp_path / "results"), "-o", str(file)])
    assert done.exit_code == 0, done.output
    assert file.read_text().count("run-") == 0 and file.read_text().count("REGRESSION") == 1


@pytest.mark.parametrize(("words", "text"), [(("-o", "a.html"), "is written as .md"), ((), "no run in")])
def test_a_history_that_cannot_be_is_refused_in_words(tmp_path: Path, words: tuple[str, ...], text: str) -> None:
    done = CliRunner().invoke(app, ["report", "--history", str(tmp_path), *words])
    assert (done.exit_code, text in done.output) == (2, True), done.output


def test_a_report_says_what_tokens_within_the_objective_cost_and_how_even_the_replicas_were() -> None:
    rows = records(MODEL, GIVEN, SENT, latency.Constants(), 0.2, 1)
    limit = sorted(row["ttft_s"] for row in rows)[len(rows) // 2] * 1000
    report: BenchmarkReport = report_of(
        MODEL, GIVEN, SENT, rows, "run", scenario={"price_per_host_hour_usd": 36.0},
        objective=Objective(time_to_first_token_ms=limit),
    )  # fmt: skip
    cost, goodput = report.results.cost, report.results.goodput
    assert cost is not None and goodput is not None
    assert cost.usd_per_million_output_tokens_within_objective == pytest.approx(
        0.01 * 1e6 / goodput.output_tokens_per_s
    )
    assert cost.usd_per_million_output_tokens_within_objective > 1.9 * cost.usd_per_million_output_tokens
    assert report.servers.requests_max_over_mean == 1.0
