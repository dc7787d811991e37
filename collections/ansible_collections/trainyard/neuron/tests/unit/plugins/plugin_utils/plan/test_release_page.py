# SPDX-License-Identifier: Apache-2.0
"""The page of the SDK releases says what the table says."""

from __future__ import annotations

import re
from pathlib import Path

from ansible_collections.trainyard.neuron.plugins.module_utils.plan.releases import RELEASES
from ansible_collections.trainyard.neuron.plugins.plugin_utils.plan.release_page import main, release_page

DOCUMENT = next(
    parent / "docs" / "sdk-releases.md" for parent in Path(__file__).parents if (parent / "pyproject.toml").is_file()
)


def test_the_committed_page_is_the_tables():
    assert DOCUMENT.read_text(encoding="utf-8") == release_page()


def test_every_row_stands_in_the_page_with_its_image_and_its_driver():
    page = release_page()
    for row in RELEASES:
        line = next(
            line
            for line in page.splitlines()
            if line.startswith(f"| {row.release} |") and re.search(rf"\| \*{{0,2}}{row.generation}\*{{0,2}} \|", line)
        )
        assert ("**" in line) is row.default
        assert (row.container_tag or ("not known" if "container_tag" in row.unknown else "none")) in line
        assert f"| {row.release} | {row.date} | {row.driver} | {row.runtime} |" in page


def test_every_table_has_as_many_cells_in_each_line():
    tables = re.findall(r"(?:^\|.*\n)+", release_page(), re.MULTILINE)
    assert len(tables) == 2
    for table in tables:
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_the_page_is_written_where_it_is_told_to(tmp_path):
    main([str(tmp_path / "page.md")])
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == release_page()
