# SPDX-License-Identifier: Apache-2.0
"""What CONTRIBUTING.md says of the suites is so: each target runs it, and each test belongs to one that is run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import settings

from tests import measured, nightly, sources

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- suites: written from tests/suites.yml -->", "<!-- end -->"
SUITES = nightly.suites()
#: Tests of a scenario's own directory are run by it, with the marker `lab`.
MARKED = re.compile(r"pytest\.mark\.(lab|vm)\b")


def recipe(target: str) -> str:
    """What `make target` would run, without running it."""
    command = ["make", "--dry-run", "--always-make", "--no-print-directory", target]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def prerequisites(target: str) -> list[str]:
    found = re.search(
        rf"^{target}:(?! export)(.*?)(##|$)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert found is not None
    return found[1].split()


def row(suite: dict[str, Any]) -> str:
    return f"| `make {suite['target']}` | {suite['what']} | {suite['minutes']} min | {suite['needs']} |"


def test_the_page_has_the_table() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    assert table == ["| target | what | on a quiet machine | needs |", "| --- | --- | --- | --- |", *map(row, SUITES)]


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite["target"])
def test_a_target_runs_what_its_suite_says(suite: dict[str, Any]) -> None:
    said = recipe(suite["target"])
    for path in suite.get("paths", []):
        assert (ROOT / path).exists()
        assert re.search(rf"pytest .*{re.escape(path)}\b", said), f"make {suite['target']} does not run {path}"
    for scenario in suite.get("scenarios", []):
        assert re.search(rf"\b{scenario}\b", said), f"make {suite['target']} does not run the scenario {scenario}"
    if "part_of" in suite:
        assert suite["target"] in prerequisites(suite["part_of"])
    else:
        assert suite["nightly"]


def covered() -> list[Path]:
    """Directories and files that a suite collects, by name or as a scenario's verifier."""
    found = [ROOT / path for suite in SUITES for path in suite.get("paths", [])]
    shared = yaml.safe_load((ROOT / ".config/molecule/config.yml").read_text(encoding="utf-8"))["verifier"]
    for scenario in (name for suite in SUITES for name in suite.get("scenarios", [])):
        file = ROOT / "molecule" / scenario / "molecule.yml"
        own = yaml.safe_load(file.read_text(encoding="utf-8")).get("verifier", {})
        found.append((file.parent / {**shared, **own}["directory"]).resolve())
    return found


def test_every_test_that_needs_a_lab_or_a_machine_is_run_by_some_target() -> None:
    places = covered()
    lost = [
        str(file.relative_to(ROOT))
        for file in (ROOT / "tests").rglob("test_*.py")
        if file != Path(__file__) and MARKED.search(file.read_text(encoding="utf-8"))
        if not any(place == file or place in file.parents for place in places)
    ]
    assert lost == []


def test_every_scenario_is_run_by_some_target() -> None:
    scenarios = {file.parent.name for file in (ROOT / "molecule").glob("*/molecule.yml")}
    assert scenarios == {name for suite in SUITES for name in suite.get("scenarios", [])}


def test_the_markers_are_those_of_the_suites() -> None:
    markers = re.findall(r'^  "(\w+):', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(markers) == ["lab", "vm"]
    for marker in markers:
        assert f"not {marker}" in recipe("unit")


def test_a_busy_machine_fails_no_property() -> None:
    assert settings().deadline is None


def test_a_night_tells_what_was_skipped_and_why() -> None:
    output = """
SKIPPED [2] tests/bench/test_a.py:12: no source at hand
SKIPPED [1] tests/bench/test_a.py:40: no source at hand
==== 5 passed, 3 skipped in 2.10s ====
==== 1 failed, 2 passed, 1 error in 9.00s ====
"""
    ran = nightly.read("sources", 1, 3.0, output.splitlines())
    assert (ran.passed, ran.failed) == (7, 2)
    assert ran.skipped == {"tests/bench/test_a.py: no source at hand": 3}
    said = nightly.table([ran, nightly.Ran("mutants", 0, 1.0)])
    assert said[2].split() == ["sources", "FAILED", "3.0", "7", "2", "3"]
    assert "  sources: tests/bench/test_a.py: no source at hand (3)" in said
    assert nightly.table([nightly.Ran("mutants", 0, 1.0)])[-1] == "Nothing was skipped."


def test_coverage_is_told_by_package_the_least_covered_first_and_all_of_it_last() -> None:
    plugins = "collections/ansible_collections/trainyard/neuron/plugins"
    files = {
        f"{plugins}/module_utils/roll/a.py": {"summary": {"covered_lines": 30, "num_statements": 40}},
        f"{plugins}/module_utils/roll/b.py": {"summary": {"covered_lines": 0, "num_statements": 20}},
        "src/trainyard/cli.py": {"summary": {"covered_lines": 9, "num_statements": 10}},
        "src/trainyard/report/__init__.py": {"summary": {"covered_lines": 0, "num_statements": 0}},
    }
    found = measured.packages(files)
    assert found["module_utils/roll"] == (30, 60)
    rows = [line.split() for line in measured.table(found)]
    assert [(row[0], row[-1]) for row in rows] == [
        ("0.0", "src/trainyard/report"),
        ("50.0", "module_utils/roll"),
        ("90.0", "src/trainyard"),
        ("55.7", "all"),
    ]


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A place that has one of two repositories."""
    repository = tmp_path / "hub" / "ray-project" / "llmperf"
    repository.mkdir(parents=True)
    for words in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "-m", "one"]):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@example", *words], cwd=repository, check=True)
    return tmp_path / "hub"


def test_a_source_is_fetched_once_or_said_to_be_missing(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for source in sources.SOURCES:
        monkeypatch.delenv(source.variable, raising=False)
    llmperf, vllm, *_others = sources.SOURCES
    first = sources.at_hand(llmperf, hub.as_uri())
    assert first is not None
    assert (first / ".git").is_dir()
    assert sources.at_hand(llmperf, "file:///nowhere") == first
    assert sources.at_hand(vllm, hub.as_uri()) is None
    monkeypatch.setenv(vllm.variable, "/given")
    assert sources.at_hand(vllm, "file:///nowhere") == Path("/given")
