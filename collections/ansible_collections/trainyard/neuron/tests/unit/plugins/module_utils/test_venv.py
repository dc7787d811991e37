# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils import venv

HASH = "--hash=sha256:" + "0" * 64
ONE, TWO, THREE = (f"example=={number}.0 \\\n    {HASH}\n" for number in (1, 2, 3))


class Host:
    """Stands in for Python and pip: `-m venv` makes a directory, pip succeeds unless told otherwise."""

    def __init__(self) -> None:
        self.pip_fails = False
        self.installs = 0

    def __call__(self, argv: list[str], _environment: dict[str, str]) -> tuple[int, str, str]:
        if argv[1:2] == ["-c"]:
            return 0, "3.12\n", ""
        if argv[1:3] == ["-m", "venv"]:
            (Path(argv[3]) / "bin").mkdir(parents=True)
            (Path(argv[3]) / "bin" / "python").touch(0o755)
            return 0, "", ""
        self.installs += 1
        return (1, "", "ERROR: hash mismatch") if self.pip_fails else (0, "", "")


def wanted(tmp_path: Path, host: Host, requirements: str) -> venv.Venv:
    return venv.Venv(tmp_path / "tools", requirements, "/usr/bin/python3", host)


def test_environment_is_reached_by_a_link_and_made_once(tmp_path: Path) -> None:
    host = Host()
    first = wanted(tmp_path, host, ONE)
    assert first.current() is None
    first.make()
    assert (tmp_path / "tools").resolve() == first.home()
    assert wanted(tmp_path, host, ONE).current() == first.home().name


def test_failed_install_leaves_the_old_one_in_use_and_nothing_half_made(tmp_path: Path) -> None:
    host = Host()
    old = wanted(tmp_path, host, ONE)
    old.make()
    host.pip_fails = True
    with pytest.raises(venv.VenvError, match="hash mismatch"):
        wanted(tmp_path, host, TWO).make()
    assert (tmp_path / "tools").resolve() == old.home()
    assert old.homes() == [old.home()]


def test_one_before_the_last_is_removed_and_going_back_installs_nothing(tmp_path: Path) -> None:
    host = Host()
    for requirements in (ONE, TWO, THREE):
        wanted(tmp_path, host, requirements).make()
    two, three = wanted(tmp_path, host, TWO), wanted(tmp_path, host, THREE)
    assert set(three.homes()) == {two.home(), three.home()}
    two.make()
    assert host.installs == 3
    assert (tmp_path / "tools").resolve() == two.home()


def test_half_made_environment_is_not_current(tmp_path: Path) -> None:
    made = wanted(tmp_path, Host(), ONE)
    made.make()
    (made.home() / venv.MARKER).unlink()
    assert made.current() is None


def test_foreign_directory_in_the_way_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    with pytest.raises(venv.VenvError, match="is in the way"):
        wanted(tmp_path, Host(), ONE).make()


def test_removal_takes_all_of_it_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "tools-of-others").mkdir()
    made = wanted(tmp_path, Host(), ONE)
    made.make()
    made.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["tools-of-others"]


def test_digest_ignores_comments_and_heeds_python_and_hashes() -> None:
    assert venv.digest_of("# made by\n" + ONE, "3.12") == venv.digest_of(ONE + "\n", "3.12")
    assert venv.digest_of(ONE, "3.12") != venv.digest_of(ONE, "3.11")
    assert venv.digest_of(ONE, "3.12") != venv.digest_of(ONE.replace("0000", "0001"), "3.12")


def test_requirements_without_a_hash_are_found() -> None:
    assert venv.unhashed(ONE + "loose==1.0 ; python_version < '3.12'\n# comment\n-r other\n") == ["loose==1.0"]
    assert venv.unhashed(ONE) == []
