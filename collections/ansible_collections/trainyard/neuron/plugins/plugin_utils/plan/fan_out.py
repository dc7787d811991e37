# SPDX-License-Identifier: Apache-2.0
"""Who gives a directory to whom from host to host: a tree in which the holders double each round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Sequence


@dataclass(frozen=True)
class Leg:
    """One host's part of the way."""

    sender: str
    #: 1 is the first round; the sender has the directory before it.
    round: int
    #: How many others the sender serves first; it serves one at a time, since its network is what is scarce.
    turn: int


def fan_out(holders: Sequence[str], lacking: Sequence[str]) -> Dict[str, Leg]:
    """Return for each host that lacks a directory whom it gets it from.

    Each holder sends to one host a round, and who has received sends as well: H holders serve N hosts in
    ceil(log2((H + N) / H)) rounds.

    Args:
        holders: hosts that have the directory, or will have it first; at least one.
        lacking: the others, in the order in which they are served; no host is in both.

    Raises:
        ValueError: no holder, or a host twice.
    """
    order = list(holders) + list(lacking)
    if not holders:
        raise ValueError("nobody has it")
    if len(set(order)) < len(order):
        raise ValueError("a host is named twice")
    rounds = [0] * len(order)
    legs = {}
    for index in range(len(holders), len(order)):
        # len(holders) * 2 ** done is how many have it once `done` rounds are over.
        done = (index // len(holders)).bit_length() - 1
        sender = index - (len(holders) << done)
        rounds[index] = done + 1
        legs[order[index]] = Leg(order[sender], rounds[index], rounds[index] - rounds[sender] - 1)
    return legs
