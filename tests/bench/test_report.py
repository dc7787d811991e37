# SPDX-License-Identifier: Apache-2.0
"""The pages and tables made of runs: complete in themselves, true, and never without the provenance."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.report.schema import Objective
from ansible_collections.trainyard.neuron.tests.unit.plugins.plugin_utils.report.runs import (
    REPLICAS,
    built,
    record,
    summary_of,
)
from typer.testing import CliRunner

from trainyard.cli import app
from trainyard.report import analysis, charts, render

OBJECTIVE = Objective(time_to_first_token_ms=250)


def saved(directory: Path, name: str, rows: list[dict[str, Any]] | None = None, **more: Any) -> Path:
    """A run's directory as the benchmark role leaves it."""
    rows = rows or [record(index) for index in range(20)]
    summary = summary_of(len(rows)) | {"run_id": name}
    run = directory / name
    (run / "repeat-0").mkdir(parents=True)
    (run / "repeat-0/requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "report.json").write_text(built(summary, rows, **more).model_dump_json())
    return run


def pages(tmp_path: Path, **more: Any) -> dict[str, str]:
    """The same two runs in every form, and one alone."""
    slow = [record(index, ttft_s=0.4, e2e_s=0.58) for index in range(20)]
    runs = analysis.read([saved(tmp_path, "one", **more), saved(tmp_path, "two", slow, **more)])
    return {
        "one": render.html(runs[:1], OBJECTIVE),
        "both": render.html(runs, OBJECTIVE),
        "markdown": render.markdown(runs, OBJECTIVE),
        "csv": render.as_csv(runs),
    }


class Reader(HTMLParser):
    """Looks for what would need another file, and for tags that are not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.figures = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in {"meta", "br", "line", "circle", "polyline", "polygon"}:
            self.open.append(tag)
        self.figures += tag == "figure"
        self.outside += [f"{tag} {value}" for name, value in attrs if name in {"src", "href", "srcset"}]
        if tag in {"script", "link", "iframe"}:
            self.outside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()


def test_a_page_needs_no_other_file_and_is_well_formed(tmp_path: Path) -> None:
    for name in ("one", "both"):
        page = pages(tmp_path / name)[name]
        reader = Reader()
        reader.feed(page)
        assert not reader.outside
        assert not reader.open
        assert reader.figures >= 3
        assert "http" not in re.sub(r"http://10\.0\.0\.1:\d+", "", page)


@pytest.mark.parametrize("provenance", ["cpu", "simulated", "measured on trn2.48xlarge"])
def test_every_form_and_every_chart_says_where_the_figures_come_from(tmp_path: Path, provenance: str) -> None:
    made = pages(tmp_path, provenance=provenance)
    for name in ("one", "both"):
        captions = re.findall(r"<figcaption>(.*?)</figcaption>", made[name])
        assert captions
        assert all(caption.endswith(provenance) for caption in captions)
        assert f'<span class="tag">{provenance}</span>' in made[name]
    assert provenance in made["markdown"].splitlines()[0]
    assert {row["provenance"] for row in csv.DictReader(io.StringIO(made["csv"]))} == {provenance}


def test_what_is_wrong_with_a_run_stands_at_the_top(tmp_path: Path) -> None:
    rows = [record(index) for index in range(20)]
    rows[3] = record(3, outcome="failed", http_status=500, error="<b>injected</b>", ttft_s=None, e2e_s=None)
    page = render.html(analysis.read([saved(tmp_path, "bad", rows)]))
    assert "not sound" in page
    assert "&lt;b&gt;injected" in page  # what a server said is text, not markup
    assert page.index("What to know") < page.index("<svg")


def test_the_recommendation_is_the_fastest_that_kept_the_objective(tmp_path: Path) -> None:
    wide = [{**row, "max_num_seqs": 4} for row in REPLICAS]
    fast = saved(tmp_path, "late", [record(index, ttft_s=0.3, e2e_s=0.35) for index in range(20)], replicas=wide)
    runs = analysis.read([saved(tmp_path, "good", replicas=wide), fast])
    assert analysis.recommend(runs, OBJECTIVE).report.run.id == "good"
    assert analysis.recommend(runs, Objective(time_to_first_token_ms=1000)).report.run.id == "late"
    assert analysis.recommend(runs, Objective(time_to_first_token_ms=10)) is None


def test_an_unsound_run_is_never_recommended(tmp_path: Path) -> None:
    lost = saved(tmp_path, "lost")
    (lost / "repeat-0/requests.jsonl").write_text("")
    report = built(rows=[record(index) for index in range(19)])
    (lost / "report.json").write_text(report.model_dump_json())
    assert analysis.recommend(analysis.read([lost]), OBJECTIVE) is None


def test_two_runs_that_differ_are_told_from_two_that_do_not(tmp_path: Path) -> None:
    def noisy(shift: float, phase: int) -> list[dict[str, Any]]:
        return [record(i, ttft_s=0.2 + shift + 0.001 * ((i * 7 + phase) % 20)) for i in range(60)]

    same = analysis.read([saved(tmp_path, "a", noisy(0, 0)), saved(tmp_path, "b", noisy(0, 3))])
    other = analysis.read([saved(tmp_path, "c", noisy(0, 0)), saved(tmp_path, "d", noisy(0.02, 3))])
    first = {one.name: one for one in analysis.compare(*same)}
    second = {one.name: one for one in analysis.compare(*other)}
    assert first["TTFT p50 ms"].significant is False
    assert second["TTFT p50 ms"].significant is True
    assert second["TTFT p50 ms"].change == pytest.approx(0.02 / 0.2095, rel=0.1)
    assert second["output tokens/s"].significant is None  # one repeat each: nothing is known of its spread


def test_two_runs_lie_upon_each_other(tmp_path: Path) -> None:
    page = pages(tmp_path)["both"]
    for title in ("Time to first token", "Time per output token", "Time of a request"):
        assert f"<h3>{title}</h3>" in page
    assert page.count("</i>one</li>") == page.count("</i>two</li>") == 3


def configured(directory: Path, degree: int, batch: int, first_s: float) -> Path:
    """A run of two replicas of `degree` cores at this batch."""
    replicas = [{**row, "core_count": degree, "max_num_seqs": batch} for row in REPLICAS]
    rows = [record(index, ttft_s=first_s, e2e_s=first_s + 0.18) for index in range(20)]
    return saved(directory, f"tp{degree}-b{batch}", rows, replicas=replicas)


def test_a_configuration_looks_alike_in_every_chart(tmp_path: Path) -> None:
    runs = analysis.read([configured(tmp_path, degree, batch, 0.1) for degree in (32, 16) for batch in (1, 4)])
    style = render.Style.of(runs)
    looks = {(run.parallelism, run.batch): style.series("", run, ()) for run in runs}
    assert looks["TP 32 x DP 2", 1].colour == looks["TP 32 x DP 2", 4].colour != looks["TP 16 x DP 2", 1].colour
    assert looks["TP 32 x DP 2", 4].dash == looks["TP 16 x DP 2", 4].dash != looks["TP 16 x DP 2", 1].dash
    page = render.html(runs)
    for name in ("TP 32 x DP 2", "TP 16 x DP 2", "batch 1", "batch 4"):
        assert page.count(f"</i>{name}</li>") == 1  # one key for all charts


def test_the_recommended_deployment_stands_before_the_charts_and_is_marked_in_all(tmp_path: Path) -> None:
    paths = [configured(tmp_path, 32, 1, 0.2), configured(tmp_path, 16, 4, 0.1), configured(tmp_path, 16, 1, 0.3)]
    runs = analysis.read(paths)
    page = render.html(runs, OBJECTIVE)
    assert page.index("Recommended for TTFT at most 250 ms") < page.index("<svg")
    assert re.search(r'class="label"[^>]*>recommended: TP 16, batch 4<', page)
    assert re.search(r'<tr class="picked"><td>TP 16 x DP 2, batch 4</td>', page)
    assert page.count('class="picked"') == 1


def test_the_same_warning_of_many_runs_is_one_line(tmp_path: Path) -> None:
    rows = [record(index) for index in range(20)]
    rows[3] = record(3, outcome="failed", error="injected", ttft_s=None, e2e_s=None)
    runs = analysis.read([saved(tmp_path, name, rows) for name in ("a", "b", "c")])
    page = render.html(runs)
    assert page.count("most often: injected") == 1
    assert "and 2 further runs alike" in page


def test_only_a_run_without_any_flag_looks_good(tmp_path: Path) -> None:
    assert '<span class="tag good">sound</span>' in render.html(analysis.read([saved(tmp_path, "good")]))
    short = [record(index, output_tokens=5) for index in range(20)]
    page = render.html(analysis.read([saved(tmp_path, "short", short)]))
    assert '<span class="tag warn">with reservations</span>' in page
    assert 'tag good"' not in page


def test_only_runs_that_no_other_beats_are_on_the_frontier(tmp_path: Path) -> None:
    quick = [record(index, e2e_s=0.29) for index in range(20)]
    runs = analysis.read([saved(tmp_path, "slow"), saved(tmp_path, "quick", quick)])
    assert {point.run.report.run.id: point.best for point in analysis.pareto(runs)} == {"slow": False, "quick": True}


@pytest.mark.parametrize(
    ("values", "low", "high"), [([0, 97], 0, 100), ([3.2, 4.9], 0, 5), ([0.012], 0, 0.015), ([0], 0, 1)]
)
def test_axes_begin_at_zero_and_end_at_a_round_number(values: list[float], low: float, high: float) -> None:
    axis = charts.Axis.of(values, from_zero=True)
    assert axis.low == low
    assert axis.high == pytest.approx(high)
    assert all(0 <= axis.place(value) <= 1 for value in values)


def test_the_command_writes_each_form_and_refuses_what_is_no_run(tmp_path: Path) -> None:
    run = saved(tmp_path, "one")
    cli = CliRunner()
    for name in ("page.html", "table.md", "values.csv"):
        result = cli.invoke(app, ["report", str(run), "-o", str(tmp_path / name)])
        assert result.exit_code == 0, result.output
        assert (tmp_path / name).read_text()
    assert cli.invoke(app, ["report", str(run)]).exit_code == 0
    assert (run / "report.html").exists()
    missing = cli.invoke(app, ["report", str(tmp_path / "none")])
    assert missing.exit_code == 2
    assert "none/report.json" in missing.output or "none is no benchmark report" in missing.output


def test_tokens_over_the_run_are_all_of_them_and_come_when_their_pieces_did() -> None:
    rows = [{**record(index), "repeat": 0} for index in range(20)]
    start = rows[0]["started_at"]
    width_s, marks = render._tokens_over_time(rows, start)
    assert sum(mark.y * width_s for mark in marks) == pytest.approx(200)
    # Pairs of requests, one after the other each 0.38 s, of which 0.2 s bring nothing: at 50 a second each in the rest.
    assert marks[0].y == pytest.approx(2 * (10 + 10 + 3), abs=2)
    assert marks[-1].y == 0
    # Of a client that keeps no gaps the answers count as even, and of other repeats none does.
    even = render._tokens_over_time([{**row, "gaps_ms": []} for row in rows], start)[1]
    assert [mark.y for mark in even] == pytest.approx([mark.y for mark in marks])
    assert render._tokens_over_time([{**row, "repeat": 1} for row in rows], start) == (1.0, [])
    failed = [{**rows[0], "ttft_s": None}, {**rows[1], "output_tokens": 0}]
    assert render._tokens_over_time(failed, start) == (1.0, [])
    long = [{**record(0, gaps_ms=[1000.0] * 599, e2e_s=599.2, output_tokens=600), "repeat": 0}]
    width_s, marks = render._tokens_over_time(long, long[0]["started_at"])
    assert (width_s, len(marks)) == (10.0, 61)
    assert {round(mark.y, 6) for mark in marks[:-2]} == {1.0}


def test_a_page_shows_the_gaps_of_its_streams(tmp_path: Path) -> None:
    page = pages(tmp_path)["one"]
    assert "Time between pieces of a stream: share of 180 gaps at or below" in page
    assert "Output tokens over the run" in page


def test_a_page_is_for_paper_keyboards_and_screen_readers_too(tmp_path: Path) -> None:
    page = pages(tmp_path)["one"]
    assert "Time per output token over the run" in page
    assert "ansible-playbook playbooks/benchmark.yml -i INVENTORY" in page
    said = re.findall(r'<svg [^>]*aria-label="([^"]*)"', page)
    assert len(said) >= 4
    for sentence in said:
        assert re.search(r": .+; [\d.]+ to [\d.]+ .+, \d+ points", sentence), sentence
    scrolls = re.findall(r'<div class="scroll"([^>]*)>', page)
    assert scrolls and all('tabindex="0"' in one and "aria-label" in one for one in scrolls)
    assert "<th>" not in page
    assert "@page{size:A4 landscape" in page
    assert "white-space:normal" in page.split("@media print")[1]
