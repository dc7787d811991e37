# SPDX-License-Identifier: Apache-2.0
"""How long a load takes, and how far one is against the last."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from ansible_collections.trainyard.neuron.plugins.module_utils.serving import layout, loads, settings
from ansible_collections.trainyard.neuron.plugins.module_utils.serving.settings import Replica


@pytest.fixture(autouse=True)
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host that serves three replicas."""
    for name in ("etc", "var"):
        (tmp_path / name).mkdir()
    for name in ("a-0", "a-1", "b-0"):
        (tmp_path / "etc" / f"{name}.json").write_text("{}")
    monkeypatch.setattr(settings, "CONFIGURATION", tmp_path / "etc")
    monkeypatch.setattr(layout, "STATE", tmp_path / "var")
    return tmp_path


def replica(name: str, weights: str = "/data/weights/a") -> Replica:
    return Replica(name, ("x",), "http://h:8000", "0-3", "m", weights_path=weights)


def test_a_replicas_own_last_load_counts_and_else_the_last_of_the_same_weights() -> None:
    assert loads.expected_s(replica("a-0")) is None
    loads.record(replica("a-1"), 500.0, lambda: 200.0)
    loads.record(replica("b-0"), 400.0, lambda: 300.0)
    assert loads.expected_s(replica("a-0")) == 400.0
    loads.record(replica("a-0"), 600.0, lambda: 100.0)
    assert loads.expected_s(replica("a-0")) == 600.0
    assert loads.expected_s(replica("a-1")) == 500.0


def test_a_load_of_other_weights_says_nothing() -> None:
    loads.record(replica("a-0", "/data/weights/before"), 600.0)
    assert loads.expected_s(replica("a-0")) is None


@pytest.mark.parametrize(
    "row",
    [
        '{"seconds": true, "weights": "/data/weights/a", "at": 1}',
        '{"seconds": "9", "weights": "/data/weights/a", "at": 1}',
        '{"seconds": Infinity, "weights": "/data/weights/a", "at": 1}',
        '{"seconds": NaN, "weights": "/data/weights/a", "at": 1}',
        '{"seconds": 0, "weights": "/data/weights/a", "at": 1}',
        '{"seconds": 9, "weights": "/data/weights/a", "at": 1' + "0" * 400 + "}",
        '{"seconds": 9, "weights": "/data/weights/a"}',
        "[" * 100_000,
        "[]",
        "",
    ],
)
def test_a_record_that_a_server_could_have_written_is_no_more_than_unknown(host: Path, row: str) -> None:
    (host / "var/a-0.load.json").write_text(row)
    assert loads.expected_s(replica("a-0")) is None
    (host / "var/a-0.load.json").write_text('{"seconds": 9, "weights": "/data/weights/a", "at": 1}')
    assert loads.expected_s(replica("a-0")) == 9


def test_a_link_is_neither_read_nor_written_through(host: Path) -> None:
    secret = host / "secret"
    text = json.dumps({"seconds": 9, "weights": "/data/weights/a", "at": 1})
    secret.write_text(text)
    (host / "var/a-0.load.json").symlink_to(secret)
    assert loads.expected_s(replica("a-0")) is None
    loads.record(replica("a-0"), 5.0)
    assert secret.read_text() == text


def test_a_gate_does_not_fail_for_want_of_a_record(host: Path) -> None:
    (host / "var").rmdir()
    loads.record(replica("a-0"), 5.0)
    assert loads.expected_s(replica("a-0")) is None


@pytest.mark.parametrize(
    ("elapsed_s", "of_s", "line"),
    [
        (12.4, None, "loading weights 45 %, 12 s"),
        (12.4, 600.0, "loading weights 45 %, 12 s of about 10 min (2 %)"),
        (300.0, 605.0, "loading weights 45 %, 5 min of about 10 min 5 s (49 %)"),
        (600.0, 600.0, "loading weights 45 %, 10 min of about 10 min (99 %)"),
        (601.0, 600.0, "loading weights 45 %, 10 min 1 s, longer than the last load (10 min)"),
        (4000.0, 7260.0, "loading weights 45 %, 1 h 6 min of about 2 h 1 min (55 %)"),
    ],
)
def test_the_line_of_a_load(elapsed_s: float, of_s: float | None, line: str) -> None:
    assert loads.progress("loading weights 45 %", elapsed_s, of_s) == line


def test_the_part_of_a_load_grows_with_time_and_is_never_all_of_it() -> None:
    chance = random.Random(7)  # noqa: S311 (no secret)
    for _ in range(2000):
        of_s = chance.choice([0.0, 0.1, chance.uniform(0, 100), chance.uniform(0, loads.LONGEST_S)])
        earlier, later = sorted(chance.uniform(-5, 2 * of_s + 5) for _ in range(2))
        assert 0 <= loads.percent(earlier, of_s) <= loads.percent(later, of_s) <= 99
        line = loads.progress("x", later, of_s)
        assert ("longer than" in line) == (later > of_s)


def test_a_duration_is_read_back_within_its_last_unit() -> None:
    chance = random.Random(7)  # noqa: S311 (no secret)
    for _ in range(2000):
        seconds = chance.uniform(0, chance.choice([90, 4000, 90_000]))
        units = {"h": 3600, "min": 60, "s": 1}
        words = loads.duration(seconds)
        back = sum(int(count) * units[unit] for count, unit in re.findall(r"(\d+) (h|min|s)", words))
        assert 0 <= seconds - back < (60 if "h" in words else 1)
