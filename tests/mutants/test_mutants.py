# SPDX-License-Identifier: Apache-2.0
"""The list of mistakes is usable, and a run of pytest is judged as `make mutants` says."""

from __future__ import annotations

import pytest

from tests.mutants import forks
from tests.mutants.run import AREAS, Mutant, fault, load, noticed_by, state, verdict


def test_each_mistake_can_be_made_and_names_tests_that_exist():
    assert [text for text in map(fault, load()) if text] == []


def test_every_area_has_some_and_there_are_enough():
    assert {mutant.area for mutant in load()} == set(AREAS)
    assert len(load()) >= 100


def test_no_mistake_is_listed_twice():
    keys = [(mutant.file, mutant.old, mutant.new) for mutant in load()]
    assert len(keys) == len(set(keys))


def test_a_text_that_is_gone_is_told(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n", encoding="utf-8")
    (tmp_path / "test_a.py").write_text("", encoding="utf-8")
    row = {"area": "plan", "file": "a.py", "new": "x = 2", "tests": ("test_a.py",)}
    assert fault(Mutant(old="x = 1", **row), tmp_path) == ""
    assert "stands 0 times" in fault(Mutant(old="y = 1", **row), tmp_path)
    assert "no such test" in fault(Mutant(old="x = 1", **{**row, "tests": ("test_b.py::t",)}), tmp_path)


def test_a_verdict_holds_until_the_file_or_a_test_of_it_changes(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n", encoding="utf-8")
    (tmp_path / "tests").mkdir()
    test = tmp_path / "tests" / "test_a.py"
    test.write_text("", encoding="utf-8")
    mutant = Mutant("plan", "a.py", "x = 1", "x = 2", ("tests",))
    seen = [state(mutant, tmp_path)]
    assert state(mutant, tmp_path) == seen[0]
    test.write_text("# more\n", encoding="utf-8")
    seen.append(state(mutant, tmp_path))
    (tmp_path / "a.py").write_text("x = 1\ny = 1\n", encoding="utf-8")
    seen.append(state(mutant, tmp_path))
    seen.append(state(Mutant("plan", "a.py", "x = 1", "x = 3", ("tests",)), tmp_path))
    assert len(set(seen)) == 4


def report(message: str) -> str:
    return f'<testsuites><testsuite><testcase><failure message="{message}"/></testcase></testsuite></testsuites>'


@pytest.mark.parametrize(
    ("returned", "text", "expected"),
    [
        (0, "", "lives"),
        (-1, "", "no answer"),
        (
            2,
            "<testsuites><testsuite><testcase><error message='ImportError'/></testcase></testsuite></testsuites>",
            "an error",
        ),
        (1, report("AssertionError: assert 3 == 4"), ""),
        (1, report("assert 3 == 4"), ""),
        (1, report("Failed: DID NOT RAISE ValueError"), ""),
        (1, report("AssertionError: assert '0123456789ab' == 'ba9876543210'"), "checksum"),
        (1, report("KeyError: 'x'"), "accident"),
    ],
)
def test_only_an_assertion_counts(returned, text, expected):
    said = verdict(returned, text)
    assert expected in said if expected else said == ""


def test_the_test_that_noticed_it_is_named():
    text = report("assert 3 == 4").replace("<testcase>", '<testcase name="test_a"/><testcase name="test_b[1-2]">')
    assert noticed_by(text) == "test_b"
    assert noticed_by("") == ""


def test_a_run_in_a_fork_sees_the_files_as_they_are_and_ends_in_time(tmp_path):
    test = tmp_path / "test_a.py"
    sound, wrong, slow = (
        f"def test_a():\n    {line}\n" for line in ("assert 1", "assert 0", "import time; time.sleep(60)")
    )
    codes = []
    for text, limit_s in ((sound, 60), (wrong, 60), (sound, 60), (slow, 0.5)):
        test.write_text(text)
        codes.append(forks.run(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(test)], limit_s))
    assert codes == [0, 1, 0, -1]
