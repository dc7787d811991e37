# SPDX-License-Identifier: Apache-2.0
"""The file of a router's states: whole or noticed, kept twice, and what is lost is said."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.routing import cli, states
from hypothesis import HealthCheck, given, settings

ROW = "4 model-a 1 host:a-0 127.0.0.1 2 {bits} 100 100 1 6 3 7 6 0 0 0 - 8000 - 0 0 - - 0"
HEADER = "# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight"
TEXT = "1\n" + HEADER + "\n" + ROW.format(bits=8) + "\n" + ROW.format(bits=0).replace("a-0", "a-1") + "\n\n"
CONFIG = "backend model-a\n    server host:a-0 127.0.0.1:8100\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "servers"
    states.keep(found, TEXT)
    return found


def test_what_was_kept_is_read_and_haproxy_s_own_file_too(path: Path) -> None:
    assert states.recover(path) == (TEXT, [])
    path.write_text(TEXT)
    assert states.read(path) == TEXT


@pytest.mark.parametrize("text", ["", "1", "2\n", "no states", "1\na b c\n", "1\n" + ROW.format(bits="x") + "\n"])
def test_what_is_no_state_is_not_written_over_one_that_is(path: Path, text: str) -> None:
    with pytest.raises(states.BrokenStatesError):
        states.keep(path, text)
    assert states.read(path) == TEXT


@given(at=st.integers(0, 10_000), byte=st.binary(min_size=0, max_size=3), cut=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_happened_to_the_file_nobody_who_was_drained_is_forgotten(
    path: Path, at: int, byte: bytes, cut: bool
) -> None:
    states.keep(path, TEXT)
    whole = path.read_bytes()
    at %= len(whole)
    path.write_bytes(whole[:at] + byte + (b"" if cut else whole[at + 1 :]))
    changed = path.read_bytes() != whole
    found, said = states.recover(path)
    assert found == TEXT
    if changed and said:
        assert str(path) in said[0]
        assert "nothing is lost" in said[-1]


@pytest.mark.parametrize("garbage", [b"", b"\x00" * 100, b"\xff\xfe", b"{}", TEXT[:-30].encode(), b"1\n" * 9_000_000])
def test_where_both_are_broken_it_is_said_what_is_lost_and_what_to_do(
    path: Path, garbage: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_bytes(garbage)
    states.sibling(path, "copy").write_bytes(garbage)
    config = path.with_name("haproxy.cfg")
    config.write_text(CONFIG)
    # The unit's own step before a start: it succeeds, and HAProxy finds nothing that it would read wrongly.
    assert cli.main(["ports", str(path), str(config)]) == 0
    said = capsys.readouterr().err
    assert not path.exists()
    for words in (str(path), "which servers were drained", "router status", f"remove {path}.lost"):
        assert words in said
    # It goes on being said until somebody has looked.
    assert cli.main(["ports", str(path), str(config)]) == 0
    assert str(path) in states.lost(path)
    states.sibling(path, "lost").unlink()
    assert states.lost(path) == ""


def test_without_any_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert states.recover(tmp_path / "servers") == ("", [])
    assert states.lost(tmp_path / "servers") == ""


def test_moved_ports_are_written_as_what_was_kept(path: Path) -> None:
    config = path.with_name("haproxy.cfg")
    config.write_text(CONFIG)
    assert cli.main(["ports", str(path), str(config)]) == 0
    rows = [line.split(" ") for line in states.read(path).splitlines()[2:] if line]
    assert [(row[3], row[6], row[18]) for row in rows] == [("host:a-0", "8", "8100"), ("host:a-1", "0", "8000")]
