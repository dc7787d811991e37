# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from docs import role_tables
from trainyard.paths import ROOT


def test_every_role_s_readme_has_its_variables(capsys: pytest.CaptureFixture[str]) -> None:
    assert role_tables.main(["--check"]) == 0, capsys.readouterr().out + "\nrun: python docs/role_tables.py"
    roles = {path.name for path in (ROOT / "roles").iterdir() if path.is_dir()}
    assert roles == {path.parent.parent.name for path in (ROOT / "roles").glob("*/meta/argument_specs.yml")}


def test_variable_that_changed_is_found_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "roles" / "host_tools", tmp_path / "host_tools")
    monkeypatch.setattr(role_tables, "ROLES", tmp_path)
    spec = tmp_path / "host_tools" / "meta" / "argument_specs.yml"
    spec.write_text(spec.read_text().replace("host_tools_python:", "host_tools_interpreter:"))
    assert role_tables.main(["--check"]) == 1
    assert "+| `host_tools_interpreter` | str | `/usr/bin/python3` |" in capsys.readouterr().out
    assert role_tables.main([]) == 0
    assert role_tables.main(["--check"]) == 0


def test_markup_of_ansible_becomes_markdown() -> None:
    assert role_tables.plain(["V(absent) removes C(/etc/x).", "See O(state) | more"]) == (
        "`absent` removes `/etc/x`. See `state` \\| more"
    )
