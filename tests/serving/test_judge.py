# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from ansible_collections.trainyard.neuron.plugins.module_utils.serving.judge import Judge, Limits, Sample

LIMITS = Limits(stall_s=100, idle_s=30, silent_s=10, deadline_s=5, restarts=2, window_s=1000)


def busy(tokens: float) -> Sample:
    return Sample(gated=True, wanted=3, tokens=tokens)


def test_a_replica_that_was_not_gated_is_out_of_rotation_whatever_it_answers() -> None:
    assert not Judge(LIMITS).look(0, Sample(gated=False, wanted=5, tokens=9)).up


def test_tokens_keep_it_in_rotation_and_cost_no_probe() -> None:
    judge = Judge(LIMITS)
    for second in range(0, 500, 50):
        verdict = judge.look(second, busy(tokens=second))
        assert verdict.up
        assert not verdict.ask


def test_a_long_prefill_is_not_a_stall() -> None:
    judge = Judge(LIMITS)
    judge.look(0, busy(1))
    assert judge.look(99, busy(1)).up


def test_requests_without_tokens_take_it_out_and_a_failed_completion_restarts_it() -> None:
    judge = Judge(LIMITS)
    judge.look(0, busy(1))
    verdict = judge.look(101, busy(1))
    assert (verdict.up, verdict.ask) == (False, True)
    assert verdict.reason == "stalled: 3 requests and no token for 101 s"
    assert judge.asked(106, "no byte within the time limit").restart


def test_a_completion_that_comes_back_readmits_it() -> None:
    judge = Judge(LIMITS)
    judge.look(0, busy(1))
    judge.look(101, busy(1))
    assert judge.asked(102, "").up
    assert judge.look(103, busy(1)).up


def test_an_idle_replica_is_asked_and_gets_a_second_chance() -> None:
    judge = Judge(LIMITS)
    idle = Sample(gated=True, tokens=7)
    judge.look(0, idle)
    assert not judge.look(29, idle).ask
    assert judge.look(31, idle).ask
    first = judge.asked(36, "status 500")
    assert (first.up, first.restart) == (False, False)
    assert not judge.look(37, idle).up
    assert judge.asked(38, "status 500").restart


def test_silence_takes_it_out_soon_and_restarts_it_only_after_a_stall_time() -> None:
    judge = Judge(LIMITS)
    judge.look(0, busy(1))
    silent = Sample(gated=True, answers=False)
    assert judge.look(1, silent).up
    out = judge.look(12, silent)
    assert (out.up, out.restart, out.reason) == (False, False, "no answer for 11 s")
    assert judge.look(102, silent).restart
    assert judge.look(103, busy(2)).up


def test_restarts_are_bounded_and_it_then_says_so() -> None:
    judge = Judge(LIMITS)
    verdicts = []
    for round_ in range(3):
        start = 200.0 * round_
        judge.look(start, Sample(gated=False))
        judge.look(start + 1, busy(1))
        judge.look(start + 102, busy(1))
        verdicts.append(judge.asked(start + 103, "nothing"))
    assert [verdict.restart for verdict in verdicts] == [True, True, False]
    assert "restarted 2 times already, left alone" in verdicts[2].reason
    judge.look(2000, Sample(gated=False))
    judge.look(2001, busy(1))
    judge.look(2102, busy(1))
    assert judge.asked(2103, "nothing").restart  # the window has passed
