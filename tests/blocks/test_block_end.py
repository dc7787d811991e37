# SPDX-License-Identifier: Apache-2.0
"""The last hour of a block, and EC2's refusals in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.trainyard.neuron.plugins.module_utils.capacity import block_end, refusals  # isort: skip

END = datetime(2026, 12, 3, 11, 30, tzinfo=UTC)
START = END - timedelta(days=2)


@pytest.mark.parametrize(
    ("minutes_before", "name"),
    [
        *((61, "serving"), (60, "extend_or_leave"), (46, "extend_or_leave"), (45, "leaving"), (31, "leaving")),
        *((30, "vanishing"), (1, "vanishing"), (0, "over"), (-5, "over")),
        *((48 * 60 + 1, "scheduled"), (48 * 60, "serving")),
    ],
)
def test_each_moment_of_a_block_has_its_phase(minutes_before: int, name: str) -> None:
    assert block_end.phase(END - timedelta(minutes=minutes_before), START, END).name == name


@given(st.integers(-3600, 3 * 86400))
def test_the_next_phase_begins_when_it_is_said_to(seconds_before: int) -> None:
    now = END - timedelta(seconds=seconds_before)
    phase = block_end.phase(now, START, END)
    if phase.next_in_s is not None:
        assert phase.next_in_s > 0
        later = block_end.phase(now + timedelta(seconds=phase.next_in_s), START, END)
        assert later.name != phase.name
        assert block_end.phase(now + timedelta(seconds=phase.next_in_s - 0.5), START, END).name == phase.name


def test_work_that_cannot_end_before_replicas_leave_is_refused_with_the_moment() -> None:
    now = END - timedelta(hours=2)
    assert block_end.too_late("the compile of llama", 75 * 60, now, END) is None
    said = block_end.too_late("the compile of llama", 75 * 60 + 1, now, END)
    assert said and "1 h 15 min" in said and "2026-12-03 10:45 UTC" in said and "playbooks/extend.yml" in said


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "over"),
        (-1, "over"),
        (59, "0 min"),
        (3599, "59 min"),
        (3900, "1 h 05 min"),
        (2 * 86400 + 3 * 3600, "2 d 3 h"),
    ],
)
def test_a_time_that_is_left_is_read_at_a_glance(seconds: float, text: str) -> None:
    assert block_end.countdown(seconds) == text


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("UnauthorizedOperation", "may not do that"),
        ("RequestExpired", "clock"),
        ("VcpuLimitExceeded", "quota"),
        ("ReservationCapacityExceeded", "fewer free slots"),
        ("InsufficientInstanceCapacity", "no instance is free"),
        ("ThrottlingException", "Run again"),
    ],
)
def test_a_refusal_is_told_with_its_cause_its_words_and_what_helps(code: str, says: str) -> None:
    told = refusals.explain(code, "words of EC2", "buying cb-1")
    assert says in told and code in told and "words of EC2" in told and told.startswith("buying cb-1: ")


def test_a_refusal_that_is_not_known_is_shown_as_ec2_says_it() -> None:
    assert refusals.explain("Novel", "something new", "buying") == "buying: EC2 refused with Novel: something new"
