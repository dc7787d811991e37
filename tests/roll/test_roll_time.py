# SPDX-License-Identifier: Apache-2.0
"""What the bench reads from the output of a roll."""

from __future__ import annotations

import pytest

from bench.roll_time import Measured

OUTPUT = [
    (0.0, "TASK [rolling_redeploy : Read what the replicas and the routers do] ****"),
    (10.0, "TASK [rolling_redeploy : Take the lock] ****"),
    (12.0, "  drained: h1:m-0"),
    (45.0, "  h1:m-0: gated on 51d7 (idle 0.6 s, stop 2.0 s, start 30.0 s)"),
    (50.0, "  drained: h1:m-1, h2:m-0"),
    (84.0, "  h1:m-1: gated on 52aa (idle 0.6 s, stop 2.0 s, start 28.0 s)"),
    (84.0, "  h2:m-0: gated on 53bb (idle 0.6 s, stop 2.0 s, start 30.5 s)"),
    (90.0, "TASK [rolling_redeploy : Report, and name every replica that is out] ****"),
]


def test_the_floor_is_the_longest_load_of_each_wave() -> None:
    measured = Measured()
    for now, text in OUTPUT:
        measured.line(text, now)
    summary = measured.summary()
    assert (summary["waves"], summary["replicas"]) == (2, 3)
    assert (summary["total_s"], summary["floor_s"]) == (80.0, 60.5)
    assert summary["ratio"] == 1.322
    assert summary["above_load_per_wave_s"] == 9.75


def test_output_without_a_roll_gives_no_figure() -> None:
    measured = Measured()
    measured.line(OUTPUT[0][1], 0.0)
    with pytest.raises(ValueError, match="no roll was carried out"):
        measured.summary()
