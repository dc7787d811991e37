# SPDX-License-Identifier: Apache-2.0
"""Which results an evacuation brings to the controller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.trainyard.neuron.plugins.filter.unfetched_results import unfetched_results

FOUND: dict[str, Any] = {
    "files": [{"path": f"/var/lib/trainyard/benchmark/{name}.tar.gz", "size": 7} for name in ("c", "a", "b", "d")]
}


def test_what_the_controller_has_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b.tar.gz").write_bytes(b"seven..")
    (tmp_path / "d.tar.gz").write_bytes(b"half")
    found = unfetched_results(FOUND, str(tmp_path))
    assert [row["name"] for row in found] == ["c.tar.gz", "d.tar.gz"]
    assert found[0] == {
        "src": "/var/lib/trainyard/benchmark/c.tar.gz",
        "dest": str(tmp_path / "c.tar.gz"),
        "name": "c.tar.gz",
    }


def test_a_host_that_could_not_be_looked_at_gives_nothing(tmp_path: Path) -> None:
    assert unfetched_results({"unreachable": True}, str(tmp_path)) == []
    assert unfetched_results({"files": [{"path": "/x/readme.txt", "size": 1}]}, str(tmp_path)) == []
