# SPDX-License-Identifier: Apache-2.0
"""What is read of a directory that a server may write in, and what is not."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import trusted


def test_a_small_plain_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "pid").write_text("x" * 16)
    assert trusted.read_text(tmp_path / "pid", limit=16) == "x" * 16


def test_a_link_is_not_followed_even_to_a_file_of_the_same_owner(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("as good as any")
    (tmp_path / "pid").symlink_to(tmp_path / "own")
    with pytest.raises(trusted.UntrustedError, match="is a link"):
        trusted.read_text(tmp_path / "pid")


def test_a_link_in_place_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/pid").write_text("1")
    (tmp_path / "run").symlink_to(tmp_path / "real")
    with pytest.raises(trusted.UntrustedError, match="is a link"):
        trusted.read_text(tmp_path / "run/pid")


def test_a_pipe_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pid")
    said: list[str] = []

    def read() -> None:
        try:
            trusted.read_text(tmp_path / "pid")
        except trusted.UntrustedError as error:
            said.append(str(error))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(30)
    assert not reader.is_alive(), "it waits for a writer"
    assert len(said) == 1
    assert "is no plain file" in said[0]


def test_of_a_file_that_is_too_large_nothing_is_taken(tmp_path: Path) -> None:
    (tmp_path / "pid").write_text("x" * 17)
    with pytest.raises(trusted.UntrustedError, match="more than 16 bytes"):
        trusted.read_text(tmp_path / "pid", limit=16)


def test_a_link_is_replaced_and_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("as it was")
    (tmp_path / "state.json").symlink_to(tmp_path / "other")
    (tmp_path / "state.json.new").symlink_to(tmp_path / "other")
    trusted.write_text(tmp_path / "state.json", "{}")
    assert (tmp_path / "other").read_text() == "as it was"
    assert (tmp_path / "state.json").read_text() == "{}"
    assert not (tmp_path / "state.json").is_symlink()
