# SPDX-License-Identifier: Apache-2.0
"""A run ends with its page, or with why there is none; without the program nobody misses it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.trainyard.neuron.plugins.action import benchmark_report

from tests.bench.test_report import saved


def test_a_run_s_page_is_beside_its_report(tmp_path: Path) -> None:
    run = saved(tmp_path, "one")
    assert benchmark_report.page_of(run) == (str(run / "report.html"), "")
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_what_keeps_a_page_from_being_written_is_said_with_the_command(tmp_path: Path) -> None:
    page, why = benchmark_report.page_of(tmp_path)
    assert page == ""
    assert why.startswith("no page of the run was written: error: ")
    assert f"`trainyard report {tmp_path}` writes it" in why


def test_a_controller_with_the_collection_alone_has_no_page_and_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark_report.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(benchmark_report.shutil, "which", lambda _name: None)
    assert benchmark_report.page_of(tmp_path) == ("", "")


def test_a_program_that_hangs_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "trainyard"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(benchmark_report.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(benchmark_report, "PAGE_S", 0.2)
    page, why = benchmark_report.page_of(tmp_path)
    assert page == ""
    assert "timed out" in why
