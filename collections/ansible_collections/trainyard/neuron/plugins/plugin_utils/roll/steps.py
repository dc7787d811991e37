# SPDX-License-Identifier: Apache-2.0
"""Between the steps of a wave: may everybody go on, given what every host and router said?

The steps themselves run on many hosts and never fail on their own, so that no host runs ahead of another that failed.
Whether a wave goes on is decided here, from all answers, and the same for all. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence

from ansible_collections.trainyard.neuron.plugins.module_utils.roll.metrics import Reading
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.canary import Thresholds, Verdict, Watched, compare
from ansible_collections.trainyard.neuron.plugins.plugin_utils.roll.orders import MoveOrder, PeerOrder, WaveOrder

Answer = Optional[Mapping[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """What a step came to: ``problems`` stop the wave, ``ready`` may be readmitted, ``seen`` is progress for people."""

    problems: List[str]
    ready: List[str]
    seen: List[str]


def silent(name: str, answer: Answer) -> str:
    """Why an answer cannot be used; empty if it can."""
    if answer is None:
        return "{0} gave no answer".format(name)
    if answer.get("unreachable"):
        return "{0} cannot be reached: {1}".format(name, _first_line(answer.get("msg")))
    if answer.get("skipped"):
        return "{0} was skipped".format(name)
    return ""


def _first_line(text: Any) -> str:
    lines = str(text or "no reason given").strip().splitlines()
    return lines[0] if lines else "no reason given"


def locked(answers: Mapping[str, Answer]) -> Outcome:
    """After taking the lock: every host gave it."""
    problems = []
    for host, answer in sorted(answers.items()):
        why = silent(host, answer)
        if not why and answer and answer.get("msg"):
            why = "{0}: {1}".format(host, str(answer["msg"]).strip())
        problems += [why] if why else []
    return Outcome(problems, [], [])


def drained(wave: WaveOrder, answers: Mapping[str, Answer], policy: str) -> Outcome:
    """After the drain: every router sends nothing new, and what was under way has ended (or may be cut off).

    Args:
        wave: the wave.
        answers: by router that serves a replica of this wave, the result of its drain.
        policy: what is done about requests that did not end.
    """
    problems = []
    for router, answer in sorted(answers.items()):
        why = silent(router, answer)
        if why:
            problems.append(why)
        elif answer and not answer.get("arrived"):
            if answer.get("left") and policy == "abort":
                continue
            problems.append("{0}: {1}".format(router, str(answer.get("msg", "no reason given")).strip()))
    left = ", ".join(move.id for move in wave.moves if move.drain)
    return Outcome(problems, [], ["drained: " + left] if left and not problems else [])


def replaced(wave: WaveOrder, answers: Mapping[str, Answer]) -> Outcome:
    """After the replacement: every replica of the wave runs its release behind a passed gate."""
    problems, ready, seen = [], [], []
    for move in wave.moves:
        row, why = _row(move, answers.get(move.host))
        if row is None:
            problems.append("{0}: {1}".format(move.id, why))
        elif not move.release and not row.get("error"):
            seen.append("{0}: stopped, its cores are free{1}".format(move.id, _times(row)))
        elif row.get("error") or not row.get("gated") or row.get("release") != move.release:
            problems.append("{0}: {1}".format(move.id, row.get("error") or "it did not pass its gate"))
        else:
            seen.append("{0}: gated on {1}{2}".format(move.id, row["release"], _times(row)))
            if move.admit:
                ready.append(move.id)
    return Outcome(problems, ready, seen)


def restored(wave: WaveOrder, answers: Mapping[str, Answer]) -> Outcome:
    """After the way back: only what is gated on its former release may be readmitted; the rest is named."""
    problems, ready, seen = [], [], []
    for move in wave.moves:
        row, why = _row(move, answers.get(move.host))
        if row is None:
            problems.append("{0}: {1}".format(move.id, why))
        elif row.get("gated") and row.get("release") == move.was and move.was:
            seen.append("{0}: back on {1}{2}".format(move.id, move.was, _times(row)))
            if move.admit:
                ready.append(move.id)
        elif not move.was and not row.get("error"):
            seen.append("{0}: stopped; it had no release before".format(move.id))
        else:
            problems.append("{0}: {1}".format(move.id, row.get("error") or "it did not pass its gate"))
    return Outcome(problems, ready, seen)


def readmitted(wave: WaveOrder, answers: Mapping[str, Answer]) -> Outcome:
    """After readmission: every router has taken them."""
    problems = []
    for router, answer in sorted(answers.items()):
        why = silent(router, answer)
        if why:
            problems.append(why)
        elif answer and not answer.get("arrived"):
            problems.append("{0}: {1}".format(router, str(answer.get("msg", "no reason given")).strip()))
    back = ", ".join(move.id for move in wave.moves if move.admit)
    return Outcome(problems, [], ["in rotation: " + back] if back and not problems else [])


def watched(wave: WaveOrder, answers: Mapping[str, Answer], routers: Sequence[str], thresholds: Thresholds) -> Outcome:
    """After the soak: each replica of the wave against its peers over the same time.

    Args:
        wave: the wave.
        answers: by host and router, the result of ``roll_watch``.
        routers: which of these are routers.
        thresholds: how much worse is too much.
    """
    problems, seen = [], []
    for move in wave.moves:
        if not move.admit:
            continue
        mine = watched_of(move.id, move.host, answers, routers)
        if mine is None:
            problems.append("{0}: it does not answer any more".format(move.id))
            continue
        verdict = judge(move, mine, wave.peers, answers, routers, thresholds)
        problems += ["{0} is worse than its peers: {1}".format(move.id, text) for text in verdict.worse]
        # What could not be compared is worth a line for the canary; later ones are watched too shortly to say more.
        lines = verdict.seen + (verdict.notes if wave.canary else ())
        seen += ["{0}: {1}".format(move.id, text) for text in lines]
    return Outcome(problems, [], seen)


def judge(
    move: MoveOrder,
    mine: Watched,
    peers: Sequence[PeerOrder],
    answers: Mapping[str, Answer],
    routers: Sequence[str],
    thresholds: Thresholds,
) -> Verdict:
    """One replica against those peers of its model that answered; golden completions only for equal weights."""
    others = []
    for peer in peers:
        if peer.served_name != move.served_name:
            continue
        theirs = watched_of(peer.id, peer.host, answers, routers)
        if theirs is None:
            continue
        same = peer.weights == move.weights
        others.append(theirs if same else Watched(theirs.reading, theirs.requests, theirs.errors, {}))
    same_weights = not others or any(other.golden for other in others)
    return compare(mine, others, thresholds, same_weights)


def watched_of(name: str, host: str, answers: Mapping[str, Answer], routers: Sequence[str]) -> Optional[Watched]:
    """What a replica and the routers counted while they were watched; None if it does not answer any more."""
    answer = answers.get(host)
    row = ((answer or {}).get("replicas") or {}).get(name)
    if not row or not row.get("answers"):
        return None
    counts = [((answers.get(router) or {}).get("routed") or {}).get(name, {}) for router in routers]
    return Watched(
        Reading.from_dict(row["reading"]),
        sum(int(count.get("requests", 0)) for count in counts),
        sum(int(count.get("errors", 0)) for count in counts),
        row.get("golden") or {},
    )


def _row(move: MoveOrder, answer: Answer) -> "tuple[Optional[Mapping[str, Any]], str]":
    why = silent(move.host, answer)
    if why or answer is None:
        return None, why
    for row in answer.get("replicas") or ():
        if row.get("id") == move.id:
            return row, ""
    return None, _first_line(answer.get("msg"))


def _times(row: Mapping[str, Any]) -> str:
    seconds: Dict[str, float] = row.get("seconds") or {}
    words = ", ".join("{0} {1:.1f} s".format(step, value) for step, value in seconds.items() if value >= 0.05)
    cut = ", {0:g} requests cut off".format(row["cut_off"]) if row.get("cut_off") else ""
    return " ({0}{1})".format(words, cut) if words or cut else ""
