# SPDX-License-Identifier: Apache-2.0
"""Packed modules that runs hand on: the same bytes for the same files, and nothing that another user could write."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.trainyard.neuron.plugins.plugin_utils import kept_modules

MODULE = f"{kept_modules.OURS}units-ZIP_DEFLATED-none"
NAME = "0" * 64


def packed(folder: Path, *names: str, content: bytes = b"packed") -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in names or (MODULE,):
        (folder / name).write_bytes(content)
    return folder


def brought(base: Path, run: Path, name: str = NAME) -> dict[str, bytes]:
    """What a run finds that had packed nothing."""
    shutil.rmtree(run, ignore_errors=True)
    kept_modules.bring(base, name, run)
    return {path.name: path.read_bytes() for path in run.iterdir()} if run.is_dir() else {}


def test_a_later_run_gets_what_an_earlier_one_packed(tmp_path: Path) -> None:
    base, jobs = tmp_path / "cache" / "modules", MODULE.replace("units", "jobs")
    kept_modules.keep(base, NAME, packed(tmp_path / "first"))
    kept_modules.keep(base, NAME, packed(tmp_path / "second", MODULE, jobs, content=b"other"))
    assert brought(base, tmp_path / "third") == {MODULE: b"packed", jobs: b"other"}
    assert brought(base, tmp_path / "third", "1" * 64) == {}


def test_others_modules_locks_and_half_written_files_are_not_handed_on(tmp_path: Path) -> None:
    names = ["ansible.modules.command-ZIP_DEFLATED", f"{MODULE}.lock", f"{MODULE}-part", f"{MODULE}.12-part"]
    base = tmp_path / "modules"
    kept_modules.keep(base, NAME, packed(tmp_path / "run", *names))
    assert not base.exists()
    kept_modules.keep(base, NAME, packed(tmp_path / "run", MODULE))
    assert [path.name for path in (base / NAME).iterdir()] == [MODULE]
    packed(base / NAME, *names, content=kept_modules.sealed(b"packed"))
    assert set(brought(base, tmp_path / "later")) == {MODULE}


def test_nothing_is_readable_by_others(tmp_path: Path) -> None:
    base = tmp_path / "modules"
    kept_modules.keep(base, NAME, packed(tmp_path / "run"))
    brought(base, tmp_path / "later")
    modes = {
        path: path.stat().st_mode & 0o777
        for path in (base, base / NAME, base / NAME / MODULE, tmp_path / "later", tmp_path / "later" / MODULE)
    }
    assert set(modes.values()) == {0o700, 0o600}, modes


def group_may_write(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o020)


def all_may_write(path: Path) -> None:
    path.chmod(path.stat().st_mode | 0o002)


def a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize("spoil", [group_may_write, all_may_write, a_link])
@pytest.mark.parametrize("part", ["", NAME, f"{NAME}/{MODULE}"])
def test_what_another_could_have_written_is_not_brought(
    tmp_path: Path, spoil: Callable[[Path], None], part: str
) -> None:
    base = tmp_path / "modules"
    kept_modules.keep(base, NAME, packed(tmp_path / "run"))
    assert brought(base, tmp_path / "later")
    spoil(base / part)
    assert brought(base, tmp_path / "later") == {}


@pytest.mark.parametrize("spoil", [group_may_write, all_may_write, a_link])
@pytest.mark.parametrize("part", ["", NAME])
def test_nothing_is_written_where_another_could_replace_it(
    tmp_path: Path, spoil: Callable[[Path], None], part: str
) -> None:
    base, jobs = tmp_path / "modules", MODULE.replace("units", "jobs")
    kept_modules.keep(base, NAME, packed(tmp_path / "run"))
    spoil(base / part)
    kept_modules.keep(base, NAME, packed(tmp_path / "run", jobs))
    assert not list(tmp_path.glob(f"*/**/{jobs}"))[1:], "only the run's own"


def test_what_belongs_to_somebody_else_is_neither_brought_nor_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, jobs = tmp_path / "modules", MODULE.replace("units", "jobs")
    kept_modules.keep(base, NAME, packed(tmp_path / "run"))
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert brought(base, tmp_path / "later") == {}
    kept_modules.keep(base, NAME, packed(tmp_path / "run", jobs))
    assert [path.name for path in (base / NAME).iterdir()] == [MODULE]


@pytest.mark.parametrize("length", [0, 10, 32, -1])
def test_a_file_that_was_cut_off_is_not_brought(tmp_path: Path, length: int) -> None:
    base = tmp_path / "modules"
    kept_modules.keep(base, NAME, packed(tmp_path / "run"))
    kept = base / NAME / MODULE
    kept.write_bytes(kept.read_bytes()[:length])
    assert brought(base, tmp_path / "later") == {}


def test_a_pipe_in_place_of_a_file_holds_nobody_up(tmp_path: Path) -> None:
    base = tmp_path / "modules"
    kept_modules.keep(base, NAME, packed(tmp_path / "run"))
    (base / NAME / MODULE).unlink()
    os.mkfifo(base / NAME / MODULE, 0o600)
    assert brought(base, tmp_path / "later") == {}


def test_a_directory_of_the_digest_s_name_where_the_run_begins_is_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    packed(tmp_path / NAME, content=kept_modules.sealed(b"packed"))
    assert brought(tmp_path / "absent", tmp_path / "later") == {}


def test_the_digests_that_were_used_last_are_kept(tmp_path: Path) -> None:
    base, run = tmp_path / "modules", packed(tmp_path / "run")
    names = [f"{number:064x}" for number in range(kept_modules.DIGESTS + 2)]
    for age, name in enumerate(names[:-1]):
        kept_modules.keep(base, name, run)
        os.utime(base / name, (1000 + age, 1000 + age))
    assert brought(base, tmp_path / "later", names[1])
    kept_modules.keep(base, names[-1], run)
    assert {path.name for path in base.iterdir()} == {names[1], *names[3:]}


def test_every_byte_name_and_place_is_in_the_digest(tmp_path: Path) -> None:
    root = tmp_path / "module_utils"
    (root / "plan").mkdir(parents=True)
    (root / "plan" / "a.py").write_text("1")
    (root / "b.py").write_text("2")
    found = [kept_modules.digest(["2.19"], [root])]
    found.append(kept_modules.digest(["2.20"], [root]))
    (root / "b.py").write_text("3")
    found.append(kept_modules.digest(["2.19"], [root]))
    (root / "plan" / "a.py").rename(root / "plan" / "c.py")
    found.append(kept_modules.digest(["2.19"], [root]))
    (root / "d.py").touch()
    found.append(kept_modules.digest(["2.19"], [root]))
    root.rename(tmp_path / "moved")
    found.append(kept_modules.digest(["2.19"], [tmp_path / "moved"]))
    assert len(set(found)) == len(found)
    assert found[-1] == kept_modules.digest(["2.19"], [tmp_path / "moved"])


def test_the_place_is_the_user_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert kept_modules.place() == tmp_path / "cache" / "trainyard" / "modules"
    for told in ("", "beside/the/run"):
        monkeypatch.setenv("XDG_CACHE_HOME", told)
        assert kept_modules.place() == tmp_path / ".cache" / "trainyard" / "modules"
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert kept_modules.place() is None
