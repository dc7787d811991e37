# SPDX-License-Identifier: Apache-2.0
"""The page of the SDK releases says what the table says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.releases import sdk_table

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def page_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sdk_page", ROOT / "docs" / "sdk_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(page_module: ModuleType) -> None:
    assert page_module.main(["--check"]) == 0


def test_a_page_that_is_not_current_is_found_and_written(
    page_module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(page_module, "PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text("# Another page\n", encoding="utf-8")
    assert page_module.main(["--check"]) == 1
    assert "-# Another page" in capsys.readouterr().out
    assert page_module.main([]) == 0
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == page_module.release_page()


def test_every_row_stands_in_the_page_with_its_image_and_its_driver(page_module: ModuleType) -> None:
    page = page_module.release_page()
    for row in sdk_table():
        line = next(
            line
            for line in page.splitlines()
            if line.startswith(f"| {row.release} |") and re.search(rf"\| \*{{0,2}}{row.generation}\*{{0,2}} \|", line)
        )
        assert ("**" in line) is row.default
        assert (row.container_tag or ("not known" if "container_tag" in row.unknown else "none")) in line
        assert f"| {row.release} | {row.date} | {row.driver} | {row.runtime} |" in page


def test_every_table_has_as_many_cells_in_each_line(page_module: ModuleType) -> None:
    tables = re.findall(r"(?:^\|.*\n)+", page_module.release_page(), re.MULTILINE)
    assert len(tables) == 2
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1
