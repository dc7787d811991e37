# SPDX-License-Identifier: Apache-2.0
"""What a load makes of a replica's times: slots, a queue, and a device that does one thing after the other.

It is the scheduler of the stand-in's engine with the steps between two events taken at once: a prompt goes before the
next decode step as soon as a slot is free, and everybody in a slot gets a token of each step.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ansible_collections.trainyard.neuron.plugins.plugin_utils.forecast.latency import Speed


@dataclass
class Job:
    """One request; times are seconds since the load's beginning."""

    prompt_tokens: int
    output_tokens: int
    arrived_s: float = 0.0
    first_s: float = math.nan
    ended_s: float = math.nan

    @property
    def ttft_s(self) -> float:
        """Until the first token, the queue included."""
        return self.first_s - self.arrived_s

    @property
    def tpot_s(self) -> float | None:
        """Of each further token; None where there is none."""
        return (self.ended_s - self.first_s) / (self.output_tokens - 1) if self.output_tokens > 1 else None

    @property
    def latency_s(self) -> float:
        """Of the whole request."""
        return self.ended_s - self.arrived_s


@dataclass
class Replica:
    """A replica under load; its clock stands at the end of what its device did last."""

    speed: Speed
    slots: int
    ended: Callable[[Job], None] = lambda _job: None
    clock_s: float = 0.0
    waiting: deque[Job] = field(default_factory=deque)
    #: Each with the tokens that it has.
    running: list[tuple[Job, int]] = field(default_factory=list)

    @property
    def in_flight(self) -> int:
        """Requests that it has."""
        return len(self.waiting) + len(self.running)

    def add(self, job: Job) -> None:
        """Queue a request that arrives now or later than all before."""
        self.waiting.append(job)

    def advance(self, until_s: float) -> None:
        """Work until the clock is there, or there is nothing to do; what began before then is finished."""
        while self.clock_s < until_s and (self.running or self.waiting):
            free = len(self.running) < self.slots
            if not self.running and self.waiting:
                self.clock_s = max(self.clock_s, self.waiting[0].arrived_s)
                if self.clock_s >= until_s:
                    return
            if free and self.waiting and self.waiting[0].arrived_s <= self.clock_s:
                self._prefill(self.waiting.popleft())
            else:
                self._decode(min(until_s, self.waiting[0].arrived_s) if free and self.waiting else until_s)

    def _prefill(self, job: Job) -> None:
        self.clock_s += self.speed.prefill_seconds(job.prompt_tokens)
        job.first_s = self.clock_s
        self.running.append((job, 1))
        self._leave()

    def _decode(self, until_s: float) -> None:
        """Take the steps until somebody ends, a longer graph is needed, or the time is there."""
        longest = max(job.prompt_tokens + produced for job, produced in self.running)
        step_s = self.speed.step_seconds(longest)
        steps = min(job.output_tokens - produced for job, produced in self.running)
        room = next((one - longest for one in self.speed.decode_buckets if one >= longest), None)
        if room is not None:
            steps = min(steps, room + 1)
        if until_s < math.inf:
            steps = min(steps, max(1, math.ceil((until_s - self.clock_s) / step_s - 1e-9)))
        self.clock_s += steps * step_s
        self.running = [(job, produced + steps) for job, produced in self.running]
        self._leave()

    def _leave(self) -> None:
        done = [job for job, produced in self.running if produced >= job.output_tokens]
        if not done:
            return
        self.running = [(job, produced) for job, produced in self.running if produced < job.output_tokens]
        for job in done:
            job.ended_s = self.clock_s
            self.ended(job)


def lengths(mean: float, deviation: float, count: int, chance: random.Random) -> list[int]:
    """Return so many lengths in tokens, at least one each."""
    return [max(1, round(chance.gauss(mean, deviation))) for _ in range(count)]


def closed_loop(speed: Speed, slots: int, jobs: Sequence[Job], streams: int) -> list[Job]:
    """Return the requests of one replica that keeps so many streams in flight, each sending when its last one ended."""
    coming = deque(jobs)
    replica = Replica(speed, slots)

    def follow(job: Job) -> None:
        if coming:
            following = coming.popleft()
            following.arrived_s = job.ended_s
            replica.add(following)

    replica.ended = follow
    for _ in range(min(streams, len(coming))):
        replica.add(coming.popleft())
    replica.advance(math.inf)
    return list(jobs)


def open_loop(
    speed: Speed, slots: int, replicas: int, jobs: Sequence[Job], rate_per_s: float, chance: random.Random
) -> list[Job]:
    """Return the requests that come at a mean rate, by chance, each to the replica with the least in flight."""
    fleet = [Replica(speed, slots) for _ in range(replicas)]
    now_s = 0.0
    for job in jobs:
        now_s += chance.expovariate(rate_per_s)
        job.arrived_s = now_s
        for replica in fleet:
            replica.advance(now_s)
        min(fleet, key=lambda one: one.in_flight).add(job)
    for replica in fleet:
        replica.advance(math.inf)
    return list(jobs)
