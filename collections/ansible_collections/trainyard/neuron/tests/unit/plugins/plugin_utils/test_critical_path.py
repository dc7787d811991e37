# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

from ansible_collections.trainyard.neuron.plugins.plugin_utils.critical_path import (
    Step,
    critical_path,
    overlap,
    render,
)
from hypothesis import given
from hypothesis import strategies as st

SDK = Step("a", "neuron_venv", 10, 40)
WEIGHTS = Step("a", "weights m", 10, 60)
COMPILE = Step("a", "artifact x", 60, 100, (("a", "weights m"),))
FETCH = Step("b", "artifact x", 101, 110, (("b", "weights m"), ("a", "artifact x")))
RUN = [Step("a", "nvme_raid", 0, 10), SDK, WEIGHTS, COMPILE, Step("b", "weights m", 60, 70), FETCH]

STEPS = st.lists(
    st.builds(
        lambda host, name, began, length, needs: Step(host, name, began, began + length, tuple(needs)),
        st.sampled_from("ab"),
        st.sampled_from("uvwxyz"),
        st.floats(0, 100),
        st.floats(0, 100),
        st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("uvwxyz")), max_size=2),
    ),
    unique_by=lambda step: (step.host, step.name),
)


def names(steps: list[Step]) -> list[str]:
    return [f"{step.host} {step.name}" for step in steps]


def test_path_goes_through_what_each_step_waited_for_and_over_hosts() -> None:
    assert names(critical_path(RUN)) == ["a nvme_raid", "a weights m", "a artifact x", "b artifact x"]


def test_what_ran_beside_and_ended_earlier_is_not_on_the_path() -> None:
    assert "a neuron_venv" not in names(critical_path(RUN))
    slower = [Step("a", "neuron_venv", 10, 60.5) if step is SDK else step for step in RUN]
    later = [Step("a", "artifact x", 60.5, 100, COMPILE.needs) if step is COMPILE else step for step in slower]
    assert names(critical_path(later)) == ["a nvme_raid", "a neuron_venv", "a artifact x", "b artifact x"]


@given(STEPS)
def test_path_ends_last_goes_forward_and_can_be_no_step_longer(steps: list[Step]) -> None:
    path = critical_path(steps)
    assert bool(path) == bool(steps)
    if not path:
        return
    assert path[-1].ended == max(step.ended for step in steps)
    for earlier, later in itertools.pairwise(path):
        assert earlier.began < later.began
        assert earlier.ended <= later.ended
    assert not [step for step in steps if step.host == path[0].host and step.ended <= path[0].began < step.ended]


@given(STEPS)
def test_work_at_a_time_is_between_one_and_the_number_of_steps(steps: list[Step]) -> None:
    apart_s, busy_s = overlap(steps)
    assert busy_s <= apart_s + 1e-6
    assert apart_s <= len(steps) * busy_s + 1e-6
    assert busy_s <= max((step.ended for step in steps), default=0) + 1e-6


def test_output_has_one_line_a_step_and_says_how_much_went_on_at_a_time() -> None:
    lines = render([Step("a", "neuron_venv", 100, 130), Step("a", "weights m", 100, 150)])
    assert lines[0].startswith("critical path: 50 s")
    assert lines[1].split() == ["a", "0.0", "s", "50.0", "s", "weights", "m"]
    assert lines[2] == "  a: 80.0 s of work in 50.0 s, 1.60 at a time"
    assert render([]) == []


def test_steps_that_decided_nothing_are_counted_only() -> None:
    lines = render([Step("a", "nvme_raid", 0, 1), Step("a", "neuron_venv", 1, 60), Step("a", "weights m", 60, 100)])
    assert [line.split()[-1] for line in lines[1:3]] == ["neuron_venv", "m"]
    assert lines[3] == "  and 1 of less than 2.0 s each"
    even = render([Step("a", f"s{n}", n, n + 1) for n in range(100)])
    assert len(even) == 102, "where all are short, none is left out"
