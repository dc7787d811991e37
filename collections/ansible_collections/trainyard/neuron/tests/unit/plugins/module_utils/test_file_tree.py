# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import stat
from pathlib import Path

import hypothesis.strategies as st
import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils import file_tree
from ansible_collections.trainyard.neuron.plugins.module_utils.entries import Entry, pack, unpack
from ansible_collections.trainyard.neuron.plugins.module_utils.file_tree import TreeError
from hypothesis import given


@given(content=st.one_of(st.binary(), st.text().map(lambda text: text.encode("utf-8"))))
def test_any_content_travels_as_it_is(content: bytes) -> None:
    entries = [Entry("/x", content=content, mode=0o640, prune=("*",)), Entry("/y", state="link", target="x")]
    assert unpack(pack(entries)) == entries


def converge(*entries: Entry) -> file_tree.Outcome:
    outcome = file_tree.compare(unpack(pack(entries)))
    file_tree.apply(outcome)
    return outcome


def listing(root: Path) -> dict[str, str]:
    """Every path under root with its kind, mode and content or target: the whole visible state."""
    seen = {}
    for path in sorted(root.rglob("*")):
        mode = stat.S_IMODE(path.lstat().st_mode)
        if path.is_symlink():
            seen[str(path.relative_to(root))] = f"-> {path.readlink()}"
        elif path.is_dir():
            seen[str(path.relative_to(root))] = f"directory {mode:04o}"
        else:
            seen[str(path.relative_to(root))] = f"{mode:04o} {path.read_text()}"
    return seen


def test_a_tree_is_created_and_a_second_run_changes_nothing(tmp_path: Path) -> None:
    entries = (
        Entry(str(tmp_path / "conf"), "directory", mode=0o750),
        Entry(str(tmp_path / "conf/a.env"), content=b"A=1\n", mode=0o640),
        Entry(str(tmp_path / "current"), "link", target="conf"),
    )
    first = converge(*entries)
    assert [change.what for change in first.changes] == [("created",)] * 3
    assert listing(tmp_path) == {"conf": "directory 0750", "conf/a.env": "0640 A=1\n", "current": "-> conf"}
    inode = (tmp_path / "conf/a.env").stat().st_ino
    second = converge(*entries)
    assert second.changes == []
    assert second.summary() == "all 3 paths are as wanted"
    assert (tmp_path / "conf/a.env").stat().st_ino == inode


def test_content_and_mode_are_reported_apart(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one\n")
    path.chmod(0o600)
    outcome = converge(Entry(str(path), content=b"two\n"))
    assert [change.what for change in outcome.changes] == [("content",), ("mode 0600 -> 0644",)]
    assert outcome.changes[0].as_diff()["before"] == "one\n"
    assert outcome.changes[0].as_diff()["after"] == "two\n"
    assert listing(tmp_path) == {"a": "0644 two\n"}


def test_a_rejected_file_puts_back_what_had_landed(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old\n")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "stray").write_text("kept\n")
    before = listing(tmp_path)
    with pytest.raises(TreeError, match=r"b: rejected by `grep -q good %s` \(exit 1\).*put back"):
        converge(
            Entry(str(tmp_path / "a"), content=b"new\n", mode=0o600),
            Entry(str(tmp_path / "made"), "directory"),
            Entry(str(tmp_path / "link"), "link", target="made"),
            Entry(str(tmp_path / "stray"), "absent"),
            Entry(str(tmp_path / "b"), content=b"bad\n", validate="grep -q good %s"),
        )
    assert listing(tmp_path) == before


def test_a_validator_sees_the_file_under_its_own_name(tmp_path: Path) -> None:
    converge(
        Entry(str(tmp_path / "x@.service"), content=b"ok\n", validate="sh -c 'test $(basename $0) = x@.service' %s")
    )
    assert listing(tmp_path) == {"x@.service": "0644 ok\n"}


def test_a_missing_validator_is_named(tmp_path: Path) -> None:
    with pytest.raises(TreeError, match=r"no-such-checker' is not installed. Nothing was changed"):
        converge(Entry(str(tmp_path / "a"), content=b"", validate="no-such-checker %s"))
    assert listing(tmp_path) == {}


def test_prune_removes_strangers_and_keeps_what_links_point_to(tmp_path: Path) -> None:
    def deploy(release: str) -> file_tree.Outcome:
        return converge(
            Entry(str(tmp_path / "releases"), "directory", prune=("*",)),
            Entry(str(tmp_path / "releases" / release), "directory"),
            Entry(str(tmp_path / "releases" / release / "env"), content=release.encode()),
            Entry(str(tmp_path / "current"), "link", target=f"releases/{release}", previous=str(tmp_path / "previous")),
        )

    deploy("r1")
    assert not (tmp_path / "previous").exists()
    deploy("r2")
    assert str((tmp_path / "previous").readlink()) == "releases/r1"
    third = deploy("r3")
    assert sorted(path.name for path in (tmp_path / "releases").iterdir()) == ["r2", "r3"]
    assert third.changes[-1].entry.path == str(tmp_path / "releases/r1")
    assert deploy("r3").changes == []
    assert str((tmp_path / "previous").readlink()) == "releases/r2"


def test_prune_takes_only_names_that_match(tmp_path: Path) -> None:
    for name in ("vllm@a.service.d", "vllm@b.service.d", "ssh.service.d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.conf").write_text("")
    converge(
        Entry(str(tmp_path), "directory", prune=("vllm@*.service.d",)),
        Entry(str(tmp_path / "vllm@a.service.d" / "x.conf"), content=b""),
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ssh.service.d", "vllm@a.service.d"]


def test_every_contradiction_is_reported_at_once_and_nothing_is_touched(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    with pytest.raises(TreeError) as caught:
        converge(
            Entry(str(tmp_path / "ok"), content=b""),
            Entry(str(tmp_path / "ok"), content=b""),
            Entry(str(tmp_path / "no/where/x"), content=b""),
            Entry(str(tmp_path / "dir"), content=b""),
            Entry("relative", content=b""),
        )
    message = str(caught.value)
    for part in ("nothing was changed", "listed twice", "no/where does not exist", "is a directory", "'relative'"):
        assert part in message
    assert listing(tmp_path) == {"dir": "directory 0755"}


def test_sensitive_content_is_in_no_diff_and_no_message(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("old-secret")
    outcome = converge(Entry(str(tmp_path / "key"), content=b"new-secret", sensitive=True))
    assert "secret" not in repr([change.as_diff() for change in outcome.changes]) + outcome.summary()
    with pytest.raises(TreeError) as caught:
        converge(Entry(str(tmp_path / "key"), content=b"s3cret", sensitive=True, validate="grep -q x %s /dev/null"))
    assert "s3cret" not in str(caught.value)


def test_an_unknown_owner_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(TreeError, match="owner or group does not exist"):
        converge(Entry(str(tmp_path / "a"), content=b"", owner="no-such-user-here"))
    assert listing(tmp_path) == {}


def test_check_mode_validates_but_says_when_it_cannot_know(tmp_path: Path) -> None:
    bad = Entry(str(tmp_path / "a"), content=b"bad", validate="grep -q good %s")
    with pytest.raises(TreeError, match=r"rejected by .*check mode"):
        file_tree.rehearse(file_tree.compare([bad]))
    later = file_tree.compare([Entry(str(tmp_path / "map"), content=b""), bad])
    file_tree.rehearse(later)
    assert later.notes == [f"{tmp_path}/a: not validated, it may read files that change as well"]
    absent = file_tree.compare([Entry(str(tmp_path / "a"), content=b"", validate="no-such-checker %s")])
    file_tree.rehearse(absent)
    assert "not installed yet" in absent.notes[0]
    assert listing(tmp_path) == {}


def test_a_link_to_a_directory_serves_as_the_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o755)
    (tmp_path / "data").symlink_to("real")
    assert converge(Entry(str(tmp_path / "data"), "directory")).changes == []


@pytest.mark.parametrize(("mode", "shown"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_removal_shows_no_content_that_not_everybody_may_read(tmp_path: Path, mode: int, shown: bool) -> None:
    path = tmp_path / "credential.json"
    path.write_text("s3cret\n")
    path.chmod(mode)
    (change,) = file_tree.compare([Entry(str(path), state="absent")]).changes
    assert ("s3cret" in str(change.as_diff())) is shown
